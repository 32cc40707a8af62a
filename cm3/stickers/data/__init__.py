"""Stickers as data of runs."""
