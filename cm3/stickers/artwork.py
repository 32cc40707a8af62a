"""The kinds of stickers: 165 drawings that come with the package, and plain shapes in colours.

The drawings are Fluent Emoji Flat (MIT, cm3/stickers/artwork/LICENSE). `others` are 1,000 more of the same hand, which
have no name here: an image tokenizer learns from them how anything is drawn.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from cm3.picture import open_picture

SIDE = 96
"""Side of a drawing, in pixels."""
OTHERS = 1000
"""Drawings without a name."""
FOLDER = Path(__file__).parent / "artwork"

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 48),
    "orange": (246, 136, 30),
    "yellow": (252, 212, 44),
    "green": (44, 156, 72),
    "blue": (36, 88, 208),
    "purple": (132, 56, 168),
}
SHAPES = ("circle", "square", "triangle", "star", "heart")
GROUPS = ("animal", "food", "vehicle", "plant", "object", "shape")
_SUPERSAMPLE = 8


@dataclass(frozen=True)
class Kind:
    """A kind of sticker. Of a shape, `name` is "red circle", `colour` "red" and `shape` "circle"; a drawing has
    neither."""

    name: str
    plural: str
    group: str
    colour: str = ""
    shape: str = ""


def _kinds() -> dict[str, Kind]:
    rows = json.loads((FOLDER / "things.json").read_text("utf-8"))
    kinds = [Kind(row["name"], row["plural"], row["group"]) for row in rows]
    kinds += [
        Kind(f"{colour} {shape}", f"{colour} {shape}s", "shape", colour, shape)
        for shape in SHAPES
        for colour in COLOURS
    ]
    return {kind.name: kind for kind in kinds}


KINDS: dict[str, Kind] = _kinds()
"""All kinds by name: drawings in the order of their sheet, then shapes."""
DRAWINGS = tuple(name for name, kind in KINDS.items() if not kind.shape)


def sprite(name: str) -> np.ndarray:
    """Return the drawing of a kind, (96, 96, 4) uint8 RGBA, read-only. Raises `KeyError` for an unknown name."""
    kind = KINDS[name]
    return _shape(kind.shape, kind.colour) if kind.shape else _sheet("things")[DRAWINGS.index(name)]


def other(number: int) -> np.ndarray:
    """Return a drawing without a name, (96, 96, 4) uint8 RGBA, read-only. Raises `IndexError` beyond `OTHERS`."""
    return _sheet("others")[number]


@functools.cache
def _sheet(name: str) -> np.ndarray:
    pixels = np.asarray(open_picture((FOLDER / f"{name}.webp").read_bytes(), f"{name}.webp").convert("RGBA"))
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    cut = pixels.reshape(rows, SIDE, columns, SIDE, 4).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 4)
    cut.flags.writeable = False
    return cut


@functools.cache
def _shape(shape: str, colour: str) -> np.ndarray:
    side = SIDE * _SUPERSAMPLE
    mask = PIL.Image.new("L", (side, side))
    points = [((x + 1) / 2 * (side - 1), (y + 1) / 2 * (side - 1)) for x, y in _outline(shape)]
    PIL.ImageDraw.Draw(mask).polygon(points, fill=255)
    pixels = np.empty((SIDE, SIDE, 4), np.uint8)
    pixels[..., :3] = COLOURS[colour]
    pixels[..., 3] = np.asarray(mask.resize((SIDE, SIDE), PIL.Image.Resampling.BOX))
    pixels.flags.writeable = False
    return pixels


def _outline(shape: str) -> list[tuple[float, float]]:
    """Return the corners of a shape in the square from -1 to 1, y downwards."""
    turn = 2 * math.pi
    if shape == "circle":
        return [(math.cos(turn * i / 180), math.sin(turn * i / 180)) for i in range(180)]
    if shape == "square":
        return [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
    if shape == "triangle":
        return [(0, -0.9), (1, 0.86), (-1, 0.86)]
    if shape == "star":
        corners = [(1.04 * (1 if i % 2 == 0 else 0.48), turn * i / 10) for i in range(10)]
        return [(r * math.sin(a), 0.08 - r * math.cos(a)) for r, a in corners]
    # a heart: the curve of Weisstein's sixth, scaled to the square
    steps = [turn * i / 180 for i in range(180)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.1,
        )
        for t in steps
    ]
