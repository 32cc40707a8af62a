"""Kinds of data of the stickers, as a recipe names them (cm3/data/kind.py): drawn on the fly, without end.

StickerData       captioned sheets
StickerPictures   sheets and maps, for an image tokenizer
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cm3.data.kind import Batches, Context, Data
from cm3.data.load import Source
from cm3.document import Document
from cm3.stickers.data.sheet_source import SheetLaw, SheetSource, sheet_document
from cm3.stickers.data.training_pictures import training_pictures


class _Stickers(Data):
    """A language model of stickers: its words, sheets held out, and prompts."""

    seed: int

    def texts(self) -> Iterable[str]:
        """Return captions alone: pictures of 16 pixels cost nothing."""
        law = SheetLaw(captions_only=1.0)
        return [sheet_document(self.seed + 1, i, 16, law=law).text for i in range(20_000)]

    def held_out(self, run: Context) -> Source:
        """Return sheets of the validation split."""
        return SheetSource(run.codec, self.seed, "val")

    def prompts(self, run: Context, number: int = 8) -> list[Document]:
        """Return sheets of the validation split."""
        return [sheet_document(self.seed + 2, i, run.size, "val") for i in range(number)]


@dataclass(frozen=True)
class StickerData(_Stickers):
    """Captioned sheets without end, drawn on the fly; stream `seed` of the training split."""

    seed: int = 1
    """Stream of the training split."""
    law: SheetLaw = field(default_factory=SheetLaw)

    def source(self, run: Context) -> SheetSource:
        """Return captioned sheets."""
        return SheetSource(run.codec, self.seed, law=self.law)

    def held_out(self, run: Context) -> SheetSource:
        """Return sheets of the validation split, drawn by the same law."""
        return SheetSource(run.codec, self.seed, "val", replace(self.law, captions_only=0.0))


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
