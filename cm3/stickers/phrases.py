"""Words of the stickers' language: how kinds, places and numbers are said, and wordings that are said and read from one
definition.

    Which("panda", "small")                      "the small panda"   "a small panda"   "small pandas"
    Phrase("what is {relation} {the}?")          say({"relation": ..., "the": ...}) <-> read("what is above the panda?")

A slot is named after what stands there (see `SLOTS`), with a digit after it where a wording has two of a kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cm3.errors import DataError
from cm3.stickers.artwork import GROUPS, KINDS, SHAPES
from cm3.stickers.world import GROUNDS, PLACES, SIZES, Sheet, Sticker

NUMBERS = ("zero", "one", "two", "three", "four")
"""Number words; the answer to a count is one of them."""
RELATION_WORDS = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
"""Relation -> how it is said."""
SPELLINGS = {
    "aeroplane": "airplane",
    "aeroplanes": "airplanes",
    "aubergine": "eggplant",
    "aubergines": "eggplants",
    "automobile": "car",
    "automobiles": "cars",
    "background": "ground",
    "beige": "sand",
    "big": "large",
    "bigger": "larger",
    "bike": "bicycle",
    "bikes": "bicycles",
    "biscuit": "cookie",
    "biscuits": "cookies",
    "bunnies": "rabbits",
    "bunny": "rabbit",
    "burger": "hamburger",
    "burgers": "hamburgers",
    "cab": "taxi",
    "cabs": "taxis",
    "cacti": "cactuses",
    "center": "middle",
    "centre": "middle",
    "color": "colour",
    "copter": "helicopter",
    "copters": "helicopters",
    "diamond": "gem",
    "diamonds": "gems",
    "doughnut": "donut",
    "doughnuts": "donuts",
    "flame": "fire",
    "flames": "fires",
    "hare": "rabbit",
    "hares": "rabbits",
    "home": "house",
    "homes": "houses",
    "huge": "large",
    "jewel": "gem",
    "jewels": "gems",
    "kitten": "cat",
    "kittens": "cats",
    "kitties": "cats",
    "kitty": "cat",
    "ladybird": "ladybug",
    "ladybirds": "ladybugs",
    "little": "small",
    "lorries": "trucks",
    "lorry": "truck",
    "motorbike": "motorcycle",
    "motorbikes": "motorcycles",
    "phone": "telephone",
    "phones": "telephones",
    "pigeon": "dove",
    "pigeons": "doves",
    "plane": "airplane",
    "planes": "airplanes",
    "ponies": "horses",
    "pony": "horse",
    "prawn": "shrimp",
    "prawns": "shrimps",
    "present": "gift",
    "presents": "gifts",
    "puppies": "dogs",
    "puppy": "dog",
    "rucksack": "backpack",
    "rucksacks": "backpacks",
    "serpent": "snake",
    "serpents": "snakes",
    "spaceship": "rocket",
    "spaceships": "rockets",
    "sprout": "seedling",
    "sprouts": "seedlings",
    "tiny": "small",
    "tortoise": "turtle",
    "tortoises": "turtles",
    "upper": "top",
}
"""Other words for these, one for one."""
GROUP_WORDS = {g: ("piece of food", "pieces of food") if g == "food" else (g, f"{g}s") for g in GROUPS}
"""Group -> how one and many of it are said."""
ANY = "sticker"
"""Name of a sticker of any kind."""
PLURALS = (
    {ANY: "stickers"}
    | dict(GROUP_WORDS.values())
    | {shape: f"{shape}s" for shape in SHAPES}
    | {name: kind.plural for name, kind in KINDS.items()}
)
"""Every name that stickers can have (any, a group, a shape in any colour, a kind) -> that of many."""


def a(words: str) -> str:
    """Return words with their article: "a taxi", "an owl"."""
    return f"{'an' if words[0] in 'aeio' or words.startswith(('hour', 'um')) else 'a'} {words}"


def at(place: str) -> str:
    """Return where a place is: "at the top left", "in the middle"."""
    return "in the middle" if place == "middle" else f"at the {place}"


def listed(items: Sequence[str]) -> str:
    """Return items as a list: "x, y and z"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def tidy(text: str) -> str:
    """Return a text in the words that are said here: small letters, one space between words, `SPELLINGS`."""
    plain = re.sub(r"\w+", lambda found: SPELLINGS.get(found[0], found[0]), text.lower())
    plain = re.sub(r"(?<!to the )\b(left|right) of\b", r"to the \1 of", " ".join(plain.split()))
    return re.sub(r"(?<=\w)-(?=\w)", " ", re.sub(r" (?=[,.?:;])", "", plain))


@dataclass(frozen=True)
class Which:
    """A description of stickers: a name of `PLURALS`, and a size or None. `IT` stands for the one before."""

    name: str = ANY
    size: str | None = None

    def among(self, sheet: Sheet) -> tuple[Sticker, ...]:
        """Return the stickers of a sheet that it fits."""
        return tuple(s for s in sheet.stickers if self.size in (None, s.size) and self.name in _names(s))

    def clear(self, sheet: Sheet) -> bool:
        """Tell whether nobody can take another sticker for one of these, as a palm tree for a tree."""
        return not any(s.kind.endswith(f" {self.name}") and self.name not in _names(s) for s in sheet.stickers)

    def plain(self) -> str:
        """Say "small panda"."""
        return f"{self.size} {self.name}" if self.size else self.name

    def the(self) -> str:
        """Say "the small panda", or "it"."""
        return "it" if self == IT else f"the {self.plain()}"

    def a(self) -> str:
        """Say "a small panda"."""
        return a(self.plain())

    def many(self) -> str:
        """Say "small pandas"."""
        return f"{self.size} {PLURALS[self.name]}" if self.size else PLURALS[self.name]


IT = Which("it")
"""The sticker that the talk is about: said "it"."""


def pointing(sheet: Sheet, sticker: Sticker, rng: np.random.Generator, hide: str = "") -> Which | None:
    """Return a description that fits one sticker of a sheet alone: its kind, of twins with the size.

    A shape is in half of the cases named without its colour, where that will do. `hide` is "size" or "colour", which is
    not told. None where no description will do.
    """
    names, shape = [sticker.kind], sticker.about.shape
    if shape and (hide == "colour" or rng.random() < 0.5):
        names = [shape] if hide == "colour" else [shape, sticker.kind]
    for size in (None, sticker.size)[: 1 if hide == "size" else 2]:
        for name in names:
            which = Which(name, size)
            if which.among(sheet) == (sticker,) and which.clear(sheet):
                return which
    return None


def the_one(which: Which, sheet: Sheet, it: Sticker | None = None) -> Sticker:
    """Return the one sticker that a description fits. Raises `DataError` where none or several do."""
    if which == IT:
        if it is None:
            raise DataError("'it': nothing before says what it is; name the sticker")
        return it
    found = which.among(sheet)
    if len(found) != 1:
        number = "no sticker is that" if not found else f"{len(found)} stickers are that"
        raise DataError(f"{which.the()!r}: {number}; name one that is there once")
    return found[0]


def _names(sticker: Sticker) -> tuple[str, ...]:
    return ANY, GROUP_WORDS[sticker.about.group][0], sticker.about.shape, sticker.kind


def _either(words: Sequence[str]) -> str:
    return "|".join(map(re.escape, words))


_SIZED = f"(?:(?P<@size>{_either(SIZES)}) )?"
_ONE = f"{_SIZED}(?P<@name>{_either(tuple(PLURALS))})"
SLOTS: dict[str, str] = {
    "the": f"(?P<@it>it)|the {_ONE}",
    "a": f"an? {_ONE}",
    "many": f"{_SIZED}(?P<@names>{_either(tuple(PLURALS.values()))})",
    "group": _either([one for one, _ in GROUP_WORDS.values()]),
    "where": _either([at(place) for place in PLACES]),
    "relation": _either(tuple(RELATION_WORDS.values())),
    "number": _either(NUMBERS),
    "order": "larger|smaller|higher|lower|further left|further right",
    "ground": _either(tuple(GROUNDS)),
    "stickers": "one sticker|two stickers|three stickers|four stickers",
}
"""Contents of a slot, as a regular expression; "@" is where the slot's own name goes.

`the`, `a` and `many` hold a `Which`, all others their words.
"""
_WHICH = {"the": Which.the, "a": Which.a, "many": Which.many}
_SINGULAR = {many: one for one, many in PLURALS.items()}


class Phrase:
    """One wording with slots, which it fills (`say`) and finds again (`read`)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.slots = tuple(re.findall(r"{(\w+)}", text))
        self._pattern = re.compile(
            "".join(
                f"(?P<{piece}>{SLOTS[piece.rstrip('12')].replace('@', f'{piece}_')})" if i % 2 else re.escape(piece)
                for i, piece in enumerate(re.split(r"{(\w+)}", text))
            )
        )

    def say(self, values: Mapping[str, Any]) -> str:
        """Return the wording with its slots filled."""
        said = {slot: _WHICH.get(slot.rstrip("12"), str)(values[slot]) for slot in self.slots}
        return self.text.format(**said)

    def read(self, text: str) -> dict[str, Any] | None:
        """Return the values of the slots, or None where the text is not in this wording."""
        found = self._pattern.fullmatch(text)
        if found is None:
            return None
        groups = found.groupdict()
        values: dict[str, Any] = {}
        for slot in self.slots:
            if slot.rstrip("12") not in _WHICH:
                values[slot] = groups[slot]
            elif groups.get(f"{slot}_it"):
                values[slot] = IT
            else:
                name = groups.get(f"{slot}_name") or _SINGULAR[groups[f"{slot}_names"]]
                values[slot] = Which(name, groups[f"{slot}_size"])
        # saying it again settles what the pattern leaves open: "a orange star" is not in the wording
        return values if self.say(values) == text else None


Wordings = Mapping[str, tuple[Phrase, ...]]
"""The wordings of each form that a text can have."""


def wordings(**forms: Sequence[str]) -> dict[str, tuple[Phrase, ...]]:
    """Return a table of wordings, each form with its texts."""
    return {form: tuple(Phrase(text) for text in texts) for form, texts in forms.items()}


def say(table: Wordings, form: str, rng: np.random.Generator, **values: Any) -> str:
    """Return one of the wordings of a form, by chance, with its slots filled."""
    return table[form][int(rng.integers(len(table[form])))].say(values)


def read(text: str, table: Wordings, what: str) -> tuple[str, dict[str, Any]]:
    """Return the form and the values of a text that is `tidy` or not.

    Raises `DataError`, naming the text as `what`, where it is in no wording of the table.
    """
    plain = tidy(text)
    for form, phrases in table.items():
        for phrase in phrases:
            values = phrase.read(plain)
            if values is not None:
                return form, values
    known = ", ".join(repr(phrases[0].text) for phrases in table.values())
    raise DataError(f"{what} {plain!r:.100}: is in none of the wordings; write it as one of {known}")
