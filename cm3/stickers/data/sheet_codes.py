"""Codes of sheets from those of their blocks: a sticker has the same ones in every place, and is encoded once.

So a sheet costs next to nothing, where its tokenizer's codes see their own pixels alone.
"""

from __future__ import annotations

import numpy as np

from cm3.stickers.artwork import sprite
from cm3.stickers.drawing import BLOCK, CORNER, WIDTH, paste
from cm3.stickers.world import GROUNDS, Sheet
from cm3.tokens.image import ImageTokenizer


def fits(image: ImageTokenizer) -> bool:
    """Tell whether blocks are whole cells for a tokenizer, and no code sees another cell."""
    return whole_cells(image) and image.vqgan.config.reach == "cell"


def whole_cells(image: ImageTokenizer) -> bool:
    """Tell whether blocks are whole cells for a tokenizer."""
    return image.size == WIDTH and BLOCK // 2 % image.factor == 0


def cells_of_place(place: str, factor: int) -> tuple[slice, slice]:
    """Return rows and columns of the cells of a place's block, of `factor` x `factor` pixels each."""
    left, top = (edge // factor for edge in CORNER[place])
    side = BLOCK // factor
    return slice(top, top + side), slice(left, left + side)


class SheetCodes:
    """Codes of sheets by a tokenizer that `fits`."""

    def __init__(self, image: ImageTokenizer) -> None:
        self._image = image
        self._known: dict[tuple[str, str, str], np.ndarray] = {}

    def of(self, sheet: Sheet) -> np.ndarray:
        """Return the codes of a sheet, int32 (rows, columns)."""
        ground = self._block(sheet.ground)
        grid = np.tile(ground, (WIDTH // BLOCK, WIDTH // BLOCK))
        for one in sheet.stickers:
            grid[cells_of_place(one.place, self._image.factor)] = self._block(sheet.ground, one.kind, one.size)
        return grid

    def _block(self, ground: str, kind: str = "", size: str = "") -> np.ndarray:
        """Return the codes of a block with a sticker, or with nothing, int32 (n, n)."""
        key = ground, kind, size
        if key not in self._known:
            # Always of one picture alone, so that nothing depends on what came before.
            shown = [("top left", sprite(kind), size)] if kind else []
            grid = self._image.encode([paste(GROUNDS[ground], shown)])[0]
            self._known[key] = grid[cells_of_place("top left", self._image.factor)].copy()
        return self._known[key]
