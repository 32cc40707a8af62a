"""Boxes of stickers: the place that each takes, rim and all, and how many of the boxes asked for hold their sticker.

    Sticker("top left", "panda", "small")  ->  ("panda", (25, 29, 102, 99))

A box is x1, y1, x2, y2, the first and last column and row that a sticker touches in a picture of 256 x 256
(cm3/tasks/boxes.py has them in words).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from cm3.errors import DataError, did_you_mean
from cm3.stickers.artwork import KINDS
from cm3.stickers.drawing import CORNER
from cm3.stickers.structure import outline
from cm3.stickers.world import Sheet, Sticker
from cm3.tasks.boxes import Objects, Place

ENOUGH = 0.6
"""A sticker is right when its box and the one asked for have more than this in common (intersection over union). The
usual 0.5 would take a small one for a large one: they have up to 0.53."""


def box_of(sticker: Sticker) -> Place:
    """Return the tight box of a sticker."""
    left, top = CORNER[sticker.place]
    x1, y1, x2, y2 = _within(sticker.kind, sticker.size)
    return left + x1, top + y1, left + x2, top + y2


def boxes_of(sheet: Sheet) -> tuple[tuple[str, Place], ...]:
    """Return name and box of each sticker of a sheet, in its order."""
    return tuple((s.kind, box_of(s)) for s in sheet.stickers)


def overlap(a: Place, b: Place) -> float:
    """Return the intersection over union of two boxes, 0..1; their last row and column count."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    both = max(width, 0) * max(height, 0)
    return both / (_area(a) + _area(b) - both)


def matched(measured: Iterable[Sticker], boxes: Objects) -> float:
    """Return the share of the boxes in which a measured sticker of that name stands with an `overlap` over `ENOUGH`.

    A sticker fills one box. Raises `DataError` for no boxes, and for a name that is no kind.
    """
    if not boxes:
        raise DataError("boxes: there are none; give at least one name and its box")
    for name, _ in boxes:
        if name not in KINDS:
            raise DataError(f"box of {name!r:.60}: is no kind of sticker.{did_you_mean(name, KINDS)}")
    # stickers lie apart, so no box has more than half of itself in common with two of them
    hits = sum(any(s.kind == name and overlap(box_of(s), box) > ENOUGH for name, box in boxes) for s in measured)
    return hits / len(boxes)


@functools.cache
def _within(kind: str, size: str) -> Place:
    """Return the box of a kind in its block."""
    mask = outline(kind, size)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _area(box: Place) -> int:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
