"""The cases that scene_scores.py puts to a model: one function a task, each from a generator, a split and a size."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from cm3.document import Box, Document, Gap, Image, Text
from cm3.scenes.drawing import CENTRES, JITTER, RADIUS, draw
from cm3.scenes.scene import COLOURS, PLACES, SHAPES, SIZES, Object, Scene, Split, random_scene, split_of
from cm3.scenes.sentences import describe, styles_of

PIECES = ("size", "colour", "shape", "place", "object", "words")
"""Pieces to hide of a caption, uniformly among those it has: one word, a place ("top left"), an object ("a small red
circle"), or one to five words in a row, wherever they are."""

_PIECE = {
    "size": re.compile("|".join(SIZES)),
    "colour": re.compile("|".join(COLOURS)),
    "shape": re.compile("|".join(SHAPES)),
    "place": re.compile("|".join(PLACES)),
    "object": re.compile(rf"an? (({'|'.join(SIZES)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"),
}
_REACH = 1.1
"""Half the extent of the widest shape (a star's tips, and its soft edge) over its half-width."""


@dataclass(frozen=True, eq=False)
class Case:
    """A prompt, the seed for its generation, and the truth: the scene, a caption that says it, and its style."""

    prompt: Document
    seed: int
    scene: Scene
    caption: str
    style: str


def said(rng: np.random.Generator, split: Split, size: int) -> Case:
    """Return a caption of any style, and a gap for its picture."""
    scene, caption, style, seed = _said(rng, split)
    return Case(Document.of(caption, Gap("image")), seed, scene, caption, style)


def drawn(rng: np.random.Generator, split: Split, size: int) -> Case:
    """Return a true drawing, and a gap for its caption; `caption` is one that would be right."""
    scene, caption, style, seed = _said(rng, split)
    return Case(Document.of(Gap("text"), draw(scene, size, rng)), seed, scene, caption, style)


def hidden_piece(rng: np.random.Generator, split: Split, size: int) -> Case:
    """Return a caption with a piece hidden (see `PIECES`), and its true drawing; `style` is the kind of piece."""
    scene, caption, _, seed = _said(rng, split)
    spans = {kind: [m.span() for m in pattern.finditer(caption)] for kind, pattern in _PIECE.items()}
    words = [m.span() for m in re.finditer("[a-z]+", caption)]
    start = int(rng.integers(len(words)))
    stop = min(start + int(rng.integers(1, 6)), len(words))
    spans["words"] = [(words[start][0], words[stop - 1][1])]
    kinds = [kind for kind in PIECES if spans[kind]]
    kind = kinds[int(rng.integers(len(kinds)))]
    a, b = spans[kind][int(rng.integers(len(spans[kind])))]
    around: list[Text | Gap] = [Text(caption[:a]), Gap("text"), Text(caption[b:])]
    parts = [part for part in around if part != Text("")]
    return Case(Document.of(*parts, draw(scene, size, rng)), seed, scene, caption, kind)


def redrawn(rng: np.random.Generator, split: Split, size: int) -> Case:
    """Return a true drawing with a box to redraw, and a caption of what it shall show then: one object other, new or
    gone.

    The box is a whole quarter, or any box within it that holds both the old object and the new one; it need not be
    aligned to anything. `scene` is the one to be shown, of `train` or `test`, never a held-out combination.
    """
    while True:
        before = random_scene(rng, split)
        place = PLACES[int(rng.integers(len(PLACES)))]
        after = _changed(rng, before, place)
        if after is not None and split_of(after) in ("train", "test"):
            break
    caption, style = _say(rng, after)
    box = _box(rng, place, [o for o in (before.at(place), after.at(place)) if o], size)
    picture = Image(draw(before, size, rng)).with_gap(box)
    return Case(Document.of(caption, picture), int(rng.integers(2**31)), after, caption, style)


def _said(rng: np.random.Generator, split: Split) -> tuple[Scene, str, str, int]:
    scene = random_scene(rng, split)
    caption, style = _say(rng, scene)
    return scene, caption, style, int(rng.integers(2**31))


def _say(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    styles = styles_of(scene)
    style = styles[int(rng.integers(len(styles)))]
    return describe(scene, rng, style), style


def _changed(rng: np.random.Generator, scene: Scene, place: str) -> Scene | None:
    """Return the scene with another object in a quarter, or (1 in 4, where one stands and is not the last) with
    none."""
    old = scene.at(place)
    others = tuple(o for o in scene.objects if o is not old)
    if old is not None and others and rng.random() < 0.25:
        return Scene(scene.background, others)
    shape, colour, scale = (names[int(rng.integers(len(names)))] for names in (SHAPES, tuple(COLOURS), SIZES))
    new = Object(place, shape, colour, scale)
    return None if new == old else Scene(scene.background, (*others, new))


def _box(rng: np.random.Generator, place: str, things: list[Object], size: int) -> Box:
    """Return a box in pixels: half of the time the quarter, else a random one in it around every place these objects
    take."""
    whole, reach = 0.25, min(0.25, max(_REACH * RADIUS[o.size] + JITTER for o in things))
    ends = [whole] * 4 if rng.random() < 0.5 else list(rng.uniform(reach, whole, size=4))
    x, y = CENTRES[place]
    x0, y0 = (int(np.floor(v * size)) for v in (x - ends[0], y - ends[1]))
    x1, y1 = (int(np.ceil(v * size)) for v in (x + ends[2], y + ends[3]))
    return x0, y0, x1, y1
