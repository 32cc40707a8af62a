"""The procedural world: what a scene is, how one is drawn at random, and which scenes training never sees.

A scene is a background and one to four objects, one in each quarter of the picture at most. Its content is what can be
said of it (shape, colour, size, place); the small shifts that a drawing adds are not content. Splits are disjoint by
content: a scene belongs to one split whatever the seed that found it, and some combinations of shape and colour, and
some relations, belong to `held_out` and occur in no other split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cm3.errors import ConfigError, did_you_mean

Rgb = tuple[int, int, int]
Split = Literal["train", "val", "test", "held_out"]

SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
PLACES = ("top left", "top right", "bottom left", "bottom right")
COLOURS: dict[str, Rgb] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 30),
    "yellow": (250, 215, 50),
    "green": (40, 150, 70),
    "blue": (40, 80, 200),
    "purple": (130, 50, 160),
    "black": (25, 25, 30),
    "white": (250, 250, 250),
}
BACKGROUNDS: dict[str, Rgb] = {
    "grey": (150, 150, 155),
    "sand": (214, 190, 150),
    "sky": (140, 190, 230),
    "mint": (160, 220, 185),
    "pink": (240, 175, 195),
}
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

HELD_OUT_PAIRS = frozenset({("circle", "orange"), ("square", "purple"), ("triangle", "white"), ("star", "green")})
"""(shape, colour) never trained on."""
HELD_OUT_RELATIONS = frozenset({("triangle", "left of", "circle"), ("star", "above", "square")})
"""(shape, relation, shape) never trained on; the inverse relation is the same fact and is held out with it."""


@dataclass(frozen=True, order=True)
class Object:
    """One object: the quarter of the picture where it stands, and what it looks like."""

    place: str
    shape: str
    colour: str
    size: str

    def __post_init__(self) -> None:
        for name, known in (("place", PLACES), ("shape", SHAPES), ("colour", tuple(COLOURS)), ("size", SIZES)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(
                    f"object.{name}={value!r}: must be one of {', '.join(known)}.{did_you_mean(value, known)}"
                )


@dataclass(frozen=True)
class Scene:
    """A background and its objects, kept in the order of `PLACES`."""

    background: str
    objects: tuple[Object, ...]

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            hint = did_you_mean(self.background, BACKGROUNDS)
            raise ConfigError(f"scene.background={self.background!r}: must be one of {', '.join(BACKGROUNDS)}.{hint}")
        places = [o.place for o in self.objects]
        if not 1 <= len(places) <= len(PLACES) or len(set(places)) != len(places):
            raise ConfigError(f"scene.objects at {places}: must be 1 to {len(PLACES)}, each in a quarter of its own")
        object.__setattr__(self, "objects", tuple(sorted(self.objects, key=lambda o: PLACES.index(o.place))))

    def at(self, place: str) -> Object | None:
        """Return the object in a quarter, if there is one."""
        return next((o for o in self.objects if o.place == place), None)

    @property
    def key(self) -> str:
        """Return the content as one string: equal for equal scenes, different for different ones."""
        return ";".join([self.background, *(f"{o.place},{o.size},{o.colour},{o.shape}" for o in self.objects)])

    def relations(self) -> list[tuple[Object, str, Object]]:
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


def split_of(scene: Scene) -> Split:
    """Return the split that a scene belongs to, by its content alone: 90% train, 2% val, 8% test of what is not held
    out."""
    if any((o.shape, o.colour) in HELD_OUT_PAIRS for o in scene.objects):
        return "held_out"
    if any((a.shape, relation, b.shape) in HELD_OUT_RELATIONS for a, relation, b in scene.relations()):
        return "held_out"
    bucket = int.from_bytes(hashlib.blake2b(scene.key.encode(), digest_size=4).digest(), "big") % 100
    return "train" if bucket < 90 else "val" if bucket < 92 else "test"


def random_scene(rng: np.random.Generator, split: Split = "train", objects: int | None = None) -> Scene:
    """Draw a scene of a split, with 1 to 4 objects (uniform) or as many as asked.

    Raises `ConfigError` for an unknown split or a number of objects out of range.
    """
    if split not in ("train", "val", "test", "held_out"):
        raise ConfigError(f"split={split!r}: must be train, val, test or held_out")
    if objects is not None and not 1 <= objects <= len(PLACES):
        raise ConfigError(f"objects={objects}: must be 1 to {len(PLACES)}")
    number = int(rng.integers(1, len(PLACES) + 1)) if objects is None else objects
    while True:
        scene = Scene(
            background=_pick(rng, tuple(BACKGROUNDS)),
            objects=tuple(
                Object(PLACES[i], _pick(rng, SHAPES), _pick(rng, tuple(COLOURS)), _pick(rng, SIZES))
                for i in rng.permutation(len(PLACES))[:number]
            ),
        )
        if split_of(scene) == split:
            return scene


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
