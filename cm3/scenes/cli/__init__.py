"""Verbs of the command that show and measure the scenes."""
