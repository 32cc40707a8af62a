"""Verbs on stickers."""
