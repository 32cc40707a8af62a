"""Measurements on scenes: what a model drew or said is read back and compared."""
