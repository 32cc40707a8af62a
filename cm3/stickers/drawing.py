"""Sheet -> picture of 256 x 256 pixels: a drawing cut out with a white rim, on a plain ground.

Every place begins at a multiple of 16 pixels, so a sticker has the same cells of 16 x 16 pixels wherever it is. The rim
keeps the ground away from the drawing: only the cells that the rim's outer edge crosses differ from ground to ground.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import PIL.Image

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
SCALE = {"small": 2, "large": 1}
"""How many times smaller than its artwork a sticker is."""
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
    pixels = np.empty((WIDTH, WIDTH, 3), np.float32)
    pixels[:] = ground
    for place, drawing, how_large in stickers:
        left, top = CORNER[place]
        colour, alpha = block(drawing, how_large)
        part = pixels[top : top + BLOCK, left : left + BLOCK]
        part *= 1 - alpha[..., None]
        part += colour
    image = PIL.Image.fromarray(np.rint(pixels).astype(np.uint8))
    return image if size == WIDTH else image.resize((size, size), PIL.Image.Resampling.LANCZOS)


def block(drawing: np.ndarray, size: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a sticker in its block: colours times opacity (128, 128, 3), and opacity (128, 128) in 0..1, float32."""
    return _block(drawing.tobytes(), size)


@functools.lru_cache(maxsize=1024)
def _block(drawing: bytes, size: str) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.frombuffer(drawing, np.uint8).reshape(SIDE, SIDE, 4).astype(np.float32)
    colour, alpha = pixels[..., :3] * (pixels[..., 3:] / 255), pixels[..., 3] / 255
    scale = SCALE[size]
    side = SIDE // scale
    # means of squares: exact, and the same on every machine
    colour = colour.reshape(side, scale, side, scale, 3).mean((1, 3))
    alpha = alpha.reshape(side, scale, side, scale).mean((1, 3))
    start = (BLOCK - side) // 2
    inside = slice(start, start + side)
    whole, over = np.zeros((BLOCK, BLOCK, 3), np.float32), np.zeros((BLOCK, BLOCK), np.float32)
    whole[inside, inside], over[inside, inside] = colour, alpha
    rim = _rim(over)
    # the drawing lies on the white sticker
    white = rim[..., None] * np.asarray(WHITE, np.float32)
    shown = whole + white * (1 - over[..., None])
    opaque = rim + over - rim * over
    shown.flags.writeable = opaque.flags.writeable = False
    return shown, opaque


def _rim(alpha: np.ndarray) -> np.ndarray:
    """Return the opacity of the white sticker under a drawing: all that is within `RIM` pixels of it, edge softened."""
    rim = np.zeros_like(alpha)
    for dy in range(-RIM, RIM + 1):
        for dx in range(-RIM, RIM + 1):
            near = min(1.0, max(0.0, RIM + 0.5 - float(np.hypot(dx, dy))))
            if near:
                moved = np.zeros_like(alpha)
                rows, columns = (slice(max(0, d), BLOCK + min(0, d)) for d in (dy, dx))
                back_rows, back_columns = (slice(max(0, -d), BLOCK + min(0, -d)) for d in (dy, dx))
                moved[rows, columns] = alpha[back_rows, back_columns]
                np.maximum(rim, moved * near, out=rim)
    return rim
