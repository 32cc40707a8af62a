"""Kinds of data of the stickers, as a recipe names them (cm3/data/kind.py): drawn on the fly, without end.

StickerData       captioned sheets
StickerPictures   sheets and maps, for an image tokenizer
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cm3.data.kind import Batches, Context, Data
from cm3.data.load import Source
from cm3.document import Document
from cm3.stickers.data.sheet_source import SheetLaw, SheetSource, sheet_document
from cm3.stickers.data.sticker_lessons import LessonWeights, StickerLessons, TaskShares
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


@dataclass(frozen=True)
class StickerLessonData(Data):
    """Stickers for every instruction task (cm3/stickers/data/sticker_lessons.py), drawn on the fly; stream `seed` of
    the training split, and documents of `plain` among them, so that nothing is forgotten."""

    plain: Data
    """The documents of pretraining."""
    seed: int = 1
    """Stream of the training split."""
    mix: TaskShares = field(default_factory=TaskShares)
    """Shares of the tasks; may be changed when a run is resumed."""
    law: LessonWeights = field(default_factory=LessonWeights)

    def source(self, run: Context) -> StickerLessons:
        """Return lessons, and plain documents among them."""
        return StickerLessons(run.codec, self.seed, self.mix, self.law, plain=self.plain.source(run))

    def held_out(self, run: Context) -> StickerLessons:
        """Return lessons and plain documents of the validation split."""
        plain = self.plain.held_out(run)
        return StickerLessons(run.codec, self.seed, self.mix, self.law, plain=plain, split="val")

    def prompts(self, run: Context, number: int = 8) -> list[Document]:
        """Return those of the plain documents."""
        return self.plain.prompts(run, number)

    def given(self, source: Source) -> dict[str, Any]:
        """Return those of the plain documents."""
        assert isinstance(source, StickerLessons) and source.plain is not None
        return self.plain.given(source.plain)

    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that have a share."""
        return tuple(name for name, share in self.mix.shares.items() if share > 0 and name != "plain")

    def world(self) -> Mapping[str, Any]:
        """Return that of the plain documents."""
        return self.plain.world()

    def begin(self, run: Context) -> None:
        """Make what the plain documents need."""
        self.plain.begin(run)
