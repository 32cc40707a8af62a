"""Sheet -> picture of 256 x 256 pixels: a drawing cut out with a white rim, on a plain ground.

Every place begins at a multiple of 16 pixels, so a sticker has the same cells of 16 x 16 pixels wherever it is. The rim
keeps the ground away from the drawing: only the cells that the rim's outer edge crosses differ from ground to ground.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import PIL.Image

from cm3.document import Box
from cm3.errors import ConfigError
from cm3.stickers.artwork import SIDE, sprite
from cm3.stickers.world import GROUNDS, Rgb, Sheet

WIDTH = 256
"""Side of a sheet, in pixels."""
BLOCK = 128
"""Side of the square that a sticker has to itself."""
RIM = 8
"""Width of the white rim around a drawing."""
WHITE: Rgb = (252, 252, 252)
DRAWN = {"small": 64, "large": SIDE}
"""Side of a drawing in a sticker, in pixels; the rim is around it. Drawings begin where a cell of 16 pixels does."""
CORNER: dict[str, tuple[int, int]] = {
    "top left": (0, 0),
    "top right": (BLOCK, 0),
    "middle": (BLOCK // 2, BLOCK // 2),
    "bottom left": (0, BLOCK),
    "bottom right": (BLOCK, BLOCK),
}
"""Left and top of each place's block."""


def draw(sheet: Sheet, size: int = WIDTH) -> PIL.Image.Image:
    """Return the picture of a sheet, `size` x `size` RGB. Raises `ConfigError` for a size below 1."""
    placed = ((s.place, sprite(s.kind), s.size) for s in sheet.stickers)
    return paste(GROUNDS[sheet.ground], placed, size)


def paste(ground: Rgb, stickers: Iterable[tuple[str, np.ndarray, str]], size: int = WIDTH) -> PIL.Image.Image:
    """Return a picture of stickers given as place, drawing (96, 96, 4) uint8 and size, on a ground.

    Raises `ConfigError` for a size below 1.
    """
    if size < 1:
        raise ConfigError(f"size={size}: a picture needs at least 1 pixel")
    pixels = np.empty((WIDTH, WIDTH, 3), np.uint8)
    pixels[:] = ground
    for place, drawing, how_large in stickers:
        left, top = CORNER[place]
        cut = _cut(drawing.tobytes(), how_large)
        start = (BLOCK - len(cut)) // 2
        part = pixels[top + start : top + start + len(cut), left + start : left + start + len(cut)]
        part[:] = np.rint(cut[..., :3] + part * (1 - cut[..., 3:] / np.float32(255)))
    image = PIL.Image.fromarray(pixels)
    return image if size == WIDTH else image.resize((size, size), PIL.Image.Resampling.LANCZOS)


def covered(size: str, factor: int) -> tuple[int, int]:
    """Return the first cell of a block that a sticker of this size may reach, and the one behind the last, rows and
    columns alike; cells are of `factor` x `factor` pixels."""
    start = (BLOCK - DRAWN[size]) // 2 - RIM
    return start // factor, -(-(BLOCK - start) // factor)


def block(drawing: np.ndarray, size: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a sticker in its block: colours times opacity (128, 128, 3), and opacity (128, 128) in 0..1, float32."""
    cut = _cut(drawing.tobytes(), size)
    start = (BLOCK - len(cut)) // 2
    whole = np.zeros((BLOCK, BLOCK, 4), np.float32)
    whole[start : start + len(cut), start : start + len(cut)] = cut
    return whole[..., :3], whole[..., 3] / 255


@functools.lru_cache(maxsize=4096)
def _cut(drawing: bytes, size: str) -> np.ndarray:
    """Return a sticker, rim and all: colours times opacity, and opacity, uint8 (side, side, 4)."""
    pixels = np.frombuffer(drawing, np.uint8).reshape(SIDE, SIDE, 4).astype(np.float32)
    side = DRAWN[size]
    pixels[..., :3] *= pixels[..., 3:] / 255
    # means over equal parts of pixels: the same on every machine
    parts = math.lcm(SIDE, side)
    split = pixels.repeat(parts // SIDE, 0).repeat(parts // SIDE, 1)
    small = split.reshape(side, parts // side, side, parts // side, 4).mean((1, 3))
    whole = np.pad(small, ((RIM, RIM), (RIM, RIM), (0, 0)))
    over = whole[..., 3] / 255
    rim = _rim(over)
    # the drawing lies on the white sticker
    white = (rim * (1 - over))[..., None] * np.asarray(WHITE, np.float32)
    made = np.concatenate([whole[..., :3] + white, 255 * (rim + over - rim * over)[..., None]], axis=-1)
    cut = np.rint(np.minimum(made, 255)).astype(np.uint8)
    cut.flags.writeable = False
    return cut


def _rim(alpha: np.ndarray) -> np.ndarray:
    """Return the opacity of the white sticker under a drawing: all that is within `RIM` pixels of it, edge softened."""
    reach = range(-RIM, RIM + 1)
    near = {(y, x): min(1.0, max(0.0, RIM + 0.5 - float(np.hypot(y, x)))) for y in reach for x in reach}
    wide = np.pad(alpha, RIM)
    side = len(alpha)

    def moved(of: np.ndarray, y: int, x: int) -> np.ndarray:
        return of[RIM + y : RIM + y + side, RIM + x : RIM + x + side]

    # rows[k]: the most within k pixels to the left and right, so that a whole row of the disc is one maximum
    rows = [wide]
    for k in range(1, RIM + 1):
        left, right = np.zeros_like(wide), np.zeros_like(wide)
        left[:, k:], right[:, :-k] = wide[:, :-k], wide[:, k:]
        rows.append(np.maximum(rows[-1], np.maximum(left, right)))
    rim = np.zeros_like(alpha)
    for y in reach:
        whole = max((x for x in reach if near[y, x] == 1), default=None)
        if whole is not None:
            np.maximum(rim, moved(rows[whole], y, 0), out=rim)
        for x in reach:
            if 0 < near[y, x] < 1:
                np.maximum(rim, near[y, x] * moved(wide, y, x), out=rim)
    return rim


def random_box(rng: np.random.Generator, place: str, sizes: Sequence[str], size: int) -> Box:
    """Return a box in pixels of a picture of `size`: half of the time the whole block at a place, else a random one
    around all that stickers of these sizes take of it."""
    half = BLOCK // 2
    reach = max(DRAWN[one] // 2 + RIM for one in sizes)
    ends = [half] * 4 if rng.random() < 0.5 else [int(v) for v in rng.integers(reach, half + 1, 4)]
    x, y = (corner + half for corner in CORNER[place])
    scale = size / WIDTH
    x0, y0 = (int(np.floor(v * scale)) for v in (x - ends[0], y - ends[1]))
    x1, y1 = (int(np.ceil(v * scale)) for v in (x + ends[2], y + ends[3]))
    return x0, y0, x1, y1
