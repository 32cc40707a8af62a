"""Boxes to image: a caption that says which objects, boxes that say where and how large, and a check of the picture.

    "a red circle and a blue star on a mint ground"
    [("red circle", (35, 35, 92, 92)), ("blue star", (142, 139, 241, 234))]

A box is (x1, y1, x2, y2), the first and last column and row that an object touches in a picture of 256 x 256, whatever
the real size: 0..255. As text it is "(x1, y1) -> (x2, y2)".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image

from cm3.errors import DataError
from cm3.scenes.drawing import RADIUS, Middles, contour, draw, middles
from cm3.scenes.scene import COLOURS, SHAPES, Scene, Split, random_scene
from cm3.scenes.sentences import brief, parse
from cm3.scenes.verify import Verdict, read, verify

Corners = tuple[int, int, int, int]
LAST = 255
"""The coordinate of the last row and column."""
ENOUGH = 0.5
"""An object is right when its box overlaps the one asked for by more than this."""


@dataclass(frozen=True, eq=False)
class Boxed:
    """A caption, a box for each object by name ("red circle"), and a picture that is right."""

    caption: str
    boxes: tuple[tuple[str, Corners], ...]
    scene: Scene
    picture: PIL.Image.Image


def random_boxed(
    rng: np.random.Generator, split: Split = "train", size: int = 128, objects: int | None = None
) -> Boxed:
    """Return a scene of a split as caption, boxes (in the order of the caption) and picture of `size` pixels; of so
    many objects, else of any number."""
    scene, at = random_scene(rng, split, objects), middles(rng)
    caption = brief(scene, rng)
    left = list(boxes_of(scene, at))
    boxes = []
    for mention in parse(caption).mentions:
        boxes.append(next(box for box in left if box[0] == f"{mention.colour} {mention.shape}"))
        left.remove(boxes[-1])
    return Boxed(caption, tuple(boxes), scene, draw(scene, size, at=at))


def boxes_of(scene: Scene, at: Middles) -> tuple[tuple[str, Corners], ...]:
    """Return name and box of each object of a scene that is drawn in these middles."""
    return tuple((f"{o.colour} {o.shape}", _box(o.shape, *at[o.place], RADIUS[o.size])) for o in scene.objects)


def overlap(a: Corners, b: Corners) -> float:
    """Return the intersection over union of two boxes, 0..1; their last row and column count."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    both = max(width, 0) * max(height, 0)
    return both / (_area(a) + _area(b) - both)


def matched(picture: PIL.Image.Image, boxes: Sequence[tuple[str, Corners]]) -> float:
    """Return the share of the boxes in which an object of that name stands with an overlap over `ENOUGH`, 0..1.

    Boxes and measured objects are matched one to one, in the best way; a picture that is no scene is measured too.
    Raises `DataError` for a name that is no colour and shape.
    """
    for name, _ in boxes:
        colour, _, shape = name.partition(" ")
        if colour not in COLOURS or shape not in SHAPES:
            raise DataError(f"box of {name!r}: must be a colour and a shape, as in 'red circle'")
    seen = [(f"{s.colour} {s.shape}", _box(s.shape, s.x, s.y, s.radius)) for s in read(picture).seen if not s.reason]
    padded = seen + [("", (0, 0, 1, 1))] * max(len(boxes) - len(seen), 0)
    hits = (
        sum(
            name == other and overlap(box, found) > ENOUGH
            for (name, box), (other, found) in zip(boxes, order, strict=False)
        )
        for order in itertools.permutations(padded, len(boxes))
    )
    return max(hits) / len(boxes)


def verify_boxed(picture: PIL.Image.Image, boxed: Boxed) -> Verdict:
    """Tell whether a picture is true to the caption and every box holds its object."""
    verdict = verify(picture, parse(boxed.caption))
    if not verdict.ok:
        return Verdict(False, f"not true to the caption: {verdict.reason}", verdict.reading)
    share = matched(picture, boxed.boxes)
    if share < 1:
        return Verdict(False, f"only {share:.0%} of the boxes hold their object", verdict.reading)
    return verdict


def _box(shape: str, x: float, y: float, r: float) -> Corners:
    points = np.array(contour(shape, x, y, r)) * (LAST + 1)
    first, last = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0)) - 1
    x1, y1, x2, y2 = (int(v) for v in np.clip([*first, *last], 0, LAST))
    return x1, y1, x2, y2


def _area(box: Corners) -> int:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
