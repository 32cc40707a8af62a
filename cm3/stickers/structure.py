"""Maps of a sheet: what a structure-guided task is given, and what segmentation asks for.

    canny         white edges on black: outlines of the drawings and of their parts
    scribble      two unsteady white strokes around each sticker
    segmentation  each sticker filled in the colour of its group (`PALETTE`) on black
    depth         near is light: a large sticker is near, a small one further, the ground furthest

Maps are drawn in the stickers' own blocks, so each is of whole cells like the sheet itself.
"""

from __future__ import annotations

import functools

import numpy as np
import PIL.Image

from cm3.errors import ConfigError, did_you_mean
from cm3.stickers.artwork import sprite
from cm3.stickers.drawing import BLOCK, CORNER, WHITE, WIDTH, block
from cm3.stickers.world import Rgb, Sheet

STRUCTURES = ("canny", "scribble", "segmentation", "depth")
PALETTE: dict[str, Rgb] = {
    "animal": (220, 44, 48),
    "food": (246, 140, 40),
    "vehicle": (44, 92, 212),
    "plant": (48, 160, 76),
    "object": (250, 214, 60),
    "shape": (150, 70, 184),
}
"""Colour of each group in a segmentation map."""
NOTHING: Rgb = (16, 16, 20)
LINE: Rgb = (248, 248, 248)
DEPTH = {"small": 136, "large": 248}
"""Grey level of a sticker in a depth map, by its size."""
EDGE = 48.0
"""Least difference of neighbouring pixels, in levels of any channel, that is an edge."""
WAVER = 3.5
"""Standard deviation of a stroke from the outline that it follows, in pixels."""


def structure(sheet: Sheet, kind: str, rng: np.random.Generator) -> PIL.Image.Image:
    """Return a map of a sheet, 256 x 256 RGB; only scribbles draw from `rng`.

    Raises `ConfigError` for an unknown kind.
    """
    if kind not in STRUCTURES:
        raise ConfigError(
            f"structure={kind!r:.60}: must be one of {', '.join(STRUCTURES)}.{did_you_mean(kind, STRUCTURES)}"
        )
    pixels = np.empty((WIDTH, WIDTH, 3), np.uint8)
    pixels[:] = NOTHING
    for one in sheet.stickers:
        left, top = CORNER[one.place]
        part = pixels[top : top + BLOCK, left : left + BLOCK]
        if kind == "canny":
            part[_edges(one.kind, one.size)] = LINE
        elif kind == "scribble":
            part[_strokes(outline(one.kind, one.size), rng)] = LINE
        elif kind == "segmentation":
            part[outline(one.kind, one.size)] = PALETTE[one.about.group]
        else:
            part[outline(one.kind, one.size)] = DEPTH[one.size]
    return PIL.Image.fromarray(pixels)


def outline(kind: str, size: str) -> np.ndarray:
    """Return which pixels of its block a sticker takes, rim and all, bool (128, 128)."""
    return block(sprite(kind), size)[1] > 0.5


def groups(sheet: Sheet) -> dict[str, np.ndarray]:
    """Return the pixels of each group that a sheet shows, bool (256, 256)."""
    found: dict[str, np.ndarray] = {}
    for one in sheet.stickers:
        left, top = CORNER[one.place]
        mask = found.setdefault(one.about.group, np.zeros((WIDTH, WIDTH), bool))
        mask[top : top + BLOCK, left : left + BLOCK] |= outline(one.kind, one.size)
    return found


@functools.cache
def _edges(kind: str, size: str) -> np.ndarray:
    colour, opaque = block(sprite(kind), size)
    # on white, so that the rim's own edge, which every sticker has, is none
    pixels = colour + (1 - opaque[..., None]) * np.asarray(WHITE, np.float32)
    found = np.zeros((BLOCK, BLOCK), bool)
    found[:, 1:] |= np.abs(np.diff(pixels, axis=1)).max(-1) > EDGE
    found[1:] |= np.abs(np.diff(pixels, axis=0)).max(-1) > EDGE
    return _thick(found)


def _strokes(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    found = np.zeros_like(mask)
    rows, columns = np.mgrid[0:BLOCK, 0:BLOCK]
    for _ in range(2):
        shift = [_noise(rng, BLOCK) for _ in range(2)]
        at = [np.clip(np.rint(x + s), 0, BLOCK - 1).astype(int) for x, s in zip((rows, columns), shift, strict=True)]
        moved = mask[at[0], at[1]]
        inner = moved.copy()
        inner[1:] &= moved[:-1]
        inner[:-1] &= moved[1:]
        inner[:, 1:] &= moved[:, :-1]
        inner[:, :-1] &= moved[:, 1:]
        found |= moved & ~inner
    return _thick(found)


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
    coarse = PIL.Image.fromarray(rng.normal(0, WAVER, (6, 6)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), PIL.Image.Resampling.BICUBIC))


def _thick(mask: np.ndarray) -> np.ndarray:
    thick = mask.copy()
    thick[1:] |= mask[:-1]
    thick[:, 1:] |= thick[:, :-1].copy()
    return thick
