"""The world: a sheet is a plain ground with one to four stickers, and some sheets no training ever sees.

A sticker is a kind of thing (cm3/stickers/artwork.py), small or large, in a quarter of the sheet; one that is alone
may stand in the middle. Splits are disjoint by content: a sheet belongs to one split whatever the seed that found it.
Fifteen kinds are in no sheet of training at all, and of every sixth kind one place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cm3.errors import ConfigError, did_you_mean
from cm3.stickers.artwork import KINDS, Kind

Rgb = tuple[int, int, int]
Split = Literal["train", "val", "test", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "held_out")

SIZES = ("small", "large")
PLACES = ("top left", "top right", "middle", "bottom left", "bottom right")
"""In reading order; the middle is for one that is alone."""
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
GROUNDS: dict[str, Rgb] = {
    "sky": (116, 180, 232),
    "mint": (132, 208, 168),
    "pink": (244, 158, 186),
    "sand": (228, 196, 140),
    "lilac": (178, 160, 226),
    "navy": (38, 50, 94),
}
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

HELD_OUT = tuple(
    """
    butterfly crab flamingo hedgehog panda avocado cupcake pretzel watermelon sailboat ufo tulip magnet robot violin
    """.split()
)
"""Kinds that are in no sheet of any split: only a document can show them."""
TRAINED = tuple(name for name in KINDS if name not in HELD_OUT)
HELD_OUT_PLACES = frozenset((name, QUARTERS[i // 6 % 4]) for i, name in enumerate(TRAINED) if i % 6 == 0)
"""(kind, place) never trained on."""


@dataclass(frozen=True, order=True)
class Sticker:
    """One sticker: where it is, its kind's name, and its size."""

    place: str
    kind: str
    size: str

    def __post_init__(self) -> None:
        for name, known in (("place", PLACES), ("kind", tuple(KINDS)), ("size", SIZES)):
            value = getattr(self, name)
            if value not in known:
                some = ", ".join(known) if len(known) < 10 else f"one of {len(known)}"
                raise ConfigError(f"sticker.{name}={value!r:.60}: must be {some}.{did_you_mean(str(value), known)}")

    @property
    def about(self) -> Kind:
        """Return what is known of its kind."""
        return KINDS[self.kind]


@dataclass(frozen=True)
class Sheet:
    """A ground and its stickers, kept in the order of `PLACES`."""

    ground: str
    stickers: tuple[Sticker, ...]

    def __post_init__(self) -> None:
        if self.ground not in GROUNDS:
            hint = did_you_mean(self.ground, GROUNDS)
            raise ConfigError(f"sheet.ground={self.ground!r:.60}: must be one of {', '.join(GROUNDS)}.{hint}")
        places = [s.place for s in self.stickers]
        alone = "middle" not in places or len(places) == 1
        if not 1 <= len(places) <= len(QUARTERS) or len(set(places)) != len(places) or not alone:
            raise ConfigError(
                f"sheet.stickers at {places}: must be 1 to 4, each in its own quarter, or one in the middle"
            )
        object.__setattr__(self, "stickers", tuple(sorted(self.stickers, key=lambda s: PLACES.index(s.place))))

    def at(self, place: str) -> Sticker | None:
        """Return the sticker at a place, if there is one."""
        return next((s for s in self.stickers if s.place == place), None)

    @property
    def key(self) -> str:
        """Return the content as one string: equal for equal sheets, different for different ones."""
        return ";".join([self.ground, *(f"{s.place},{s.size},{s.kind}" for s in self.stickers)])

    def relations(self) -> list[tuple[Sticker, str, Sticker]]:
        """Return every relation that holds, both ways: left and right of within a row, above and below within a
        column."""
        found = []
        for a, relation, b in (
            ("top left", "left of", "top right"),
            ("bottom left", "left of", "bottom right"),
            ("top left", "above", "bottom left"),
            ("top right", "above", "bottom right"),
        ):
            first, second = self.at(a), self.at(b)
            if first and second:
                found += [(first, relation, second), (second, INVERSE[relation], first)]
        return found


def split_of(sheet: Sheet) -> Split | None:
    """Return the split that a sheet belongs to, by its content alone: 90% train, 2% val, 8% test of what is not held
    out; None where a kind is in no split."""
    if any(s.kind in HELD_OUT for s in sheet.stickers):
        return None
    if any((s.kind, s.place) in HELD_OUT_PLACES for s in sheet.stickers):
        return "held_out"
    bucket = int.from_bytes(hashlib.blake2b(sheet.key.encode(), digest_size=4).digest(), "big") % 100
    return "train" if bucket < 90 else "val" if bucket < 92 else "test"


def random_sheet(
    rng: np.random.Generator,
    split: Split = "train",
    number: int | None = None,
    *,
    shapes: float = 0.15,
    twice: float = 0.1,
) -> Sheet:
    """Draw a sheet of a split, with 1 to 4 stickers (uniform) or as many as asked.

    `shapes` is the share of stickers that are plain shapes, `twice` that of sheets where a kind is shown once more.
    Raises `ConfigError` for an unknown split or a number out of range.
    """
    if split not in SPLITS:
        raise ConfigError(f"split={split!r:.60}: must be one of {', '.join(SPLITS)}")
    if number is not None and not 1 <= number <= len(QUARTERS):
        raise ConfigError(f"number={number}: must be 1 to {len(QUARTERS)} stickers")
    count = int(rng.integers(1, len(QUARTERS) + 1)) if number is None else number
    while True:
        sheet = any_sheet(rng, [random_kind(rng, shapes) for _ in range(count)], twice=twice)
        if split_of(sheet) == split:
            return sheet


def any_sheet(rng: np.random.Generator, kinds: Sequence[str], *, twice: float = 0.0) -> Sheet:
    """Draw a sheet of these kinds, of any split or none: sizes, places and ground are by chance."""
    kinds = list(kinds)
    if len(kinds) > 1 and rng.random() < twice:
        kinds[1] = kinds[0]
    places = PLACES if len(kinds) == 1 else QUARTERS
    chosen = rng.permutation(len(places))[: len(kinds)]
    ground = pick(rng, tuple(GROUNDS))
    return Sheet(ground, tuple(Sticker(places[i], k, pick(rng, SIZES)) for i, k in zip(chosen, kinds, strict=True)))


def random_kind(rng: np.random.Generator, shapes: float = 0.15) -> str:
    """Draw the name of a trained kind; with probability `shapes` a plain shape."""
    return pick(rng, _SHAPES if rng.random() < shapes else _DRAWN)


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Draw one of these."""
    return options[int(rng.integers(len(options)))]


def by_share(rng: np.random.Generator, shares: Sequence[float]) -> int:
    """Draw a place among shares of 0 or more, as often as each says."""
    # The last share takes what rounding leaves.
    return int(np.searchsorted(np.cumsum(np.asarray(shares) / sum(shares))[:-1], rng.random(), side="right"))


_SHAPES = tuple(name for name in TRAINED if KINDS[name].shape)
_DRAWN = tuple(name for name in TRAINED if not KINDS[name].shape)
