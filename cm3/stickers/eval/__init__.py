"""Measures on stickers."""
