"""Words of the stickers' language: how kinds, places, relations and numbers are said, and other spellings of them."""

from __future__ import annotations

from collections.abc import Sequence

NUMBERS = ("zero", "one", "two", "three", "four")
"""Number words; the answer to a count is one of them."""
RELATION_WORDS = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
"""Relation -> how it is said."""
SPELLINGS = {
    "aeroplane": "airplane",
    "automobile": "car",
    "background": "ground",
    "big": "large",
    "bike": "bicycle",
    "bunny": "rabbit",
    "burger": "hamburger",
    "cab": "taxi",
    "center": "middle",
    "centre": "middle",
    "doughnut": "donut",
    "kitten": "cat",
    "kitty": "cat",
    "ladybird": "ladybug",
    "little": "small",
    "lorry": "truck",
    "lower": "bottom",
    "motorbike": "motorcycle",
    "plane": "airplane",
    "puppy": "dog",
    "tiny": "small",
    "upper": "top",
}
"""Other words for these, one for one."""


def a(words: str) -> str:
    """Return words with their article: "a taxi", "an owl"."""
    return f"{'an' if words[0] in 'aeio' or words.startswith(('hour', 'um')) else 'a'} {words}"


def at(place: str) -> str:
    """Return where a place is: "at the top left", "in the middle"."""
    return "in the middle" if place == "middle" else f"at the {place}"


def listed(items: Sequence[str]) -> str:
    """Return items as a list: "x, y and z"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
