"""Words that pick objects out of a scene, and wordings that are said and read from one definition.

    Which(shape="circle", size="small")          "the small circle"   "a small circle"   "small circles"
    Phrase("move {the} to the {place}")          say({"the": ..., "place": "top left"}) <-> read("move the star to ...")

A slot is named after what stands there (see `SLOTS`), with a digit after it where a wording has two of a kind.
Edits, questions, long descriptions and reasons are all written with these, so each text has one meaning.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cm3.errors import DataError
from cm3.scenes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Object, Scene

NUMBERS = ("zero", "one", "two", "three", "four")
"""Number words; the answer to a count is one of them."""
RELATION_WORDS = {"to the left of": "left of", "to the right of": "right of", "above": "above", "below": "below"}
"""How a relation is said -> its name in `Scene.relations`."""
ATTRIBUTES = ("shape", "colour", "size", "place")


@dataclass(frozen=True)
class Which:
    """A description of objects; each attribute restricts it, and None says nothing. `IT` stands for the one before."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None

    def among(self, scene: Scene) -> tuple[Object, ...]:
        """Return the objects of a scene that it fits."""
        return tuple(o for o in scene.objects if all(getattr(self, a) in (None, getattr(o, a)) for a in ATTRIBUTES))

    def the(self) -> str:
        """Say "the small red circle at the top left" """
        return "it" if self == IT else f"the {self._noun}{self._where}"

    def a(self) -> str:
        """Say "an orange star", and the place where it has one."""
        return f"{'an' if self._noun[0] in 'aeiou' else 'a'} {self._noun}{self._where}"

    def many(self) -> str:
        """Say "small red circles" """
        return f"{self._noun}s"

    @property
    def _noun(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)

    @property
    def _where(self) -> str:
        return f" at the {self.place}" if self.place else ""


IT = Which(place="it")
"""The object that the talk is about: said "it"."""


def whole(thing: Object) -> Which:
    """Return the shape, colour and size of an object, without its place."""
    return Which(thing.shape, thing.colour, thing.size)


def in_words(scene: Scene) -> str:
    """Return a scene in one plain sentence: "a small red circle at the top left and ... on a mint ground"."""
    said = [Which(o.shape, o.colour, o.size, o.place).a() for o in scene.objects]
    listed = " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
    return f"{listed} on a {scene.background} ground"


def pointing(scene: Scene, thing: Object, rng: np.random.Generator, hide: Sequence[str] = ()) -> Which | None:
    """Return a description that fits one object of a scene alone and tells none of the attributes in `hide`.

    Half of the time one of the shortest, else any; None where there is none (twins, with their place hidden).
    """
    known = [a for a in ATTRIBUTES if a not in hide]
    found = [
        which
        for n in range(1, len(known) + 1)
        for names in itertools.combinations(known, n)
        if (which := Which(**{name: getattr(thing, name) for name in names})).among(scene) == (thing,)
    ]
    if not found:
        return None
    length = [len(w.the()) - len(w.place or "") for w in found]  # the words of a place count as none
    shortest = [w for w, n in zip(found, length, strict=True) if n == min(length)]
    return pick(rng, shortest if rng.random() < 0.5 else found)


def the_one(which: Which, scene: Scene, it: Object | None = None) -> Object:
    """Return the one object that a description fits. Raises `DataError` where none or several do."""
    if which == IT:
        if it is None:
            raise DataError("'it': nothing before says what it is; name the object")
        return it
    found = which.among(scene)
    if len(found) != 1:
        what = "no object is that" if not found else f"{len(found)} objects are that"
        raise DataError(f"{which.the()!r}: {what}; say colour, size or place so that one is meant")
    return found[0]


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """Return one of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def _noun(plural: bool = False, placed: bool = False) -> str:
    end = "s" if plural else ""
    where = rf"(?: at the (?P<@place>{'|'.join(PLACES)}))?" if placed else ""
    return (
        rf"(?:(?P<@size>{'|'.join(SIZES)}) )?(?:(?P<@colour>{'|'.join(COLOURS)}) )?"
        rf"(?P<@shape>{'|'.join(SHAPES)}|object){end}{where}"
    )


SLOTS: dict[str, str] = {
    "the": rf"(?P<@it>it)|the {_noun(placed=True)}",
    "a": rf"an? {_noun()}",
    "any": rf"an? {_noun(placed=True)}",
    "many": _noun(plural=True),
    "colour": "|".join(COLOURS),
    "size": "|".join(SIZES),
    "shape": "|".join(SHAPES),
    "place": "|".join(PLACES),
    "background": "|".join(BACKGROUNDS),
    "number": "|".join(NUMBERS),
    "relation": "|".join(RELATION_WORDS),
    "attribute": "shape|colour|size",
    "objects": "one object|two objects|three objects|four objects",
    "side": "to its left|to its right|above it|below it",
    "order": "more than|less than|equal to",
    "measure": "larger than|smaller than|equal to",
    "likeness": "the same as|different from",
}
"""Contents of a slot, as a regular expression; "@" is where the slot's own name goes.

`the`, `a`, `any` (with a place) and `many` hold a `Which`, all others their words.
"""
_WHICH = {"the": Which.the, "a": Which.a, "any": Which.a, "many": Which.many}


class Phrase:
    """One wording with slots, which it fills (`say`) and finds again (`read`)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.slots = tuple(re.findall(r"{(\w+)}", text))
        pieces = re.split(r"{(\w+)}", text)
        self._pattern = re.compile(
            "".join(
                f"(?P<{piece}>{SLOTS[piece.rstrip('12')].replace('@', f'{piece}_')})" if i % 2 else re.escape(piece)
                for i, piece in enumerate(pieces)
            )
        )

    def say(self, values: Mapping[str, Any]) -> str:
        """Return the wording with its slots filled."""
        kinds = {slot: slot.rstrip("12") for slot in self.slots}
        return self.text.format(
            **{slot: _WHICH[kind](values[slot]) if kind in _WHICH else values[slot] for slot, kind in kinds.items()}
        )

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
                told = {a: groups.get(f"{slot}_{a}") for a in ATTRIBUTES}
                values[slot] = Which(**{a: None if value == "object" else value for a, value in told.items()})
        # Saying it again settles what the pattern leaves open: "a orange star" is not in the wording.
        return values if self.say(values) == text else None


Wordings = Mapping[str, tuple[Phrase, ...]]
"""The wordings of each form that a text can have."""


def wordings(**forms: Sequence[str]) -> dict[str, tuple[Phrase, ...]]:
    """Return a table of wordings, each form with its texts."""
    return {form: tuple(Phrase(text) for text in texts) for form, texts in forms.items()}


def read(text: str, table: Wordings, what: str) -> tuple[str, dict[str, Any]]:
    """Return the form and the values of a text; runs of spaces do not matter.

    Raises `DataError`, naming the text as `what`, where it is in no wording of the table.
    """
    plain = " ".join(text.split())
    for form, phrases in table.items():
        for phrase in phrases:
            values = phrase.read(plain)
            if values is not None:
                return form, values
    known = ", ".join(repr(phrases[0].text) for phrases in table.values())
    raise DataError(f"{what} {plain!r}: is in none of the wordings; write it as one of {known}")
