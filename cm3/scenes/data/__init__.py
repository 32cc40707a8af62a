"""Scenes and named emblems as what a run learns from."""
