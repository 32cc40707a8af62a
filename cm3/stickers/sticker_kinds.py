"""Kinds of data of the stickers, as a recipe names them (cm3/data/kind.py): drawn on the fly, without end."""

from __future__ import annotations

from dataclasses import dataclass

from cm3.data.kind import Batches, Data
from cm3.stickers.data.training_pictures import training_pictures


@dataclass(frozen=True)
class StickerPictures(Data):
    """Sheets and maps for an image tokenizer; stream `seed` of the training split."""

    seed: int = 1
    """Stream of the training split."""
    maps: float = 0.15
    """Share of maps (edges, strokes, segments, depth)."""
    others: float = 0.4
    """Share of drawings without a name among the stickers."""
    grounds: float = 0.1
    """Share of grounds in any colour."""

    def pictures(self, size: int, batch: int, keep: int = 0) -> Batches:
        """Return sheets and maps."""
        return training_pictures(self.seed, size, batch, self.maps, self.others, self.grounds)
