"""Kinds of data of the stickers, as a recipe names them (cm3/data/kind.py): drawn on the fly, without end.

StickerData       captioned sheets
StickerWordData   the same, told in words alone
StickerPictures   sheets and maps, for an image tokenizer
StickerBankData   captioned sheets, and sheets after documents of things that they show
StickerLessonData every instruction task on sheets
StickerPairs      documents and sheets said twice, for a small CLIP
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cm3.data.kind import Batches, Context, Data
from cm3.data.load import Source
from cm3.document import Document
from cm3.retrieval.embed import load_encoder
from cm3.stickers.data.bank_source import BankLaw, BankSource
from cm3.stickers.data.sheet_source import SheetLaw, SheetSource, sheet_document
from cm3.stickers.data.sticker_bank import build_sticker_bank
from cm3.stickers.data.sticker_examples import TASKS
from cm3.stickers.data.sticker_lessons import LessonWeights, StickerLessons, lesson_texts
from cm3.stickers.data.sticker_pairs import sticker_pairs
from cm3.stickers.data.task_shares import TaskShares
from cm3.stickers.data.training_pictures import training_pictures
from cm3.stickers.data.word_source import WordSource
from cm3.stickers.eval.bank_scores import measure_bank
from cm3.stickers.knows import WORLD


class _Stickers(Data):
    """A language model of stickers: its words, sheets held out, and prompts."""

    seed: int

    def texts(self) -> Iterable[str]:
        """Return captions, and the words of every instruction task, so that tuning needs no other entries."""
        law = SheetLaw(captions_only=1.0)
        yield from (sheet_document(self.seed + 1, i, 16, law=law).text for i in range(20_000))
        yield from lesson_texts(self.seed + 1, 4_000)

    def held_out(self, run: Context) -> Source:
        """Return sheets of the validation split."""
        return SheetSource(run.codec, self.seed, "val")

    def prompts(self, run: Context, number: int = 8) -> list[Document]:
        """Return sheets of the validation split that have words and a picture."""
        every = (sheet_document(self.seed + 2, i, run.size, "val") for i in itertools.count())
        return list(itertools.islice((d for d in every if d.images and d.text.strip()), number))

    def world(self) -> Mapping[str, Any]:
        """Return what a model of stickers knows."""
        return WORLD


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
class StickerWordData(_Stickers):
    """Captioned sheets told in words alone (cm3/stickers/data/word_source.py); stream `seed` of the training split.

    Their words are hidden and left out by `thin`, whatever the run's mask says.
    """

    seed: int = 1
    """Stream of the training split."""
    law: SheetLaw = field(default_factory=SheetLaw)
    thin: float = 0.9
    """Share of the cells between two of the same word that is left out."""
    told: float = 0.0
    """Share of sheets whose words are read, and whose caption is foretold."""

    def source(self, run: Context) -> WordSource:
        """Return sheets told in words."""
        return WordSource(run.codec, self.seed, law=self.law, thin=self.thin, told=self.told)

    def held_out(self, run: Context) -> WordSource:
        """Return sheets of the validation split, told by the same law."""
        return WordSource(run.codec, self.seed, "val", replace(self.law, captions_only=0.0), told=self.told)


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
    words: StickerWordData | None = None
    """Sheets told in words, where `mix.words` has a share."""

    def source(self, run: Context) -> StickerLessons:
        """Return lessons, and plain documents among them."""
        plain, words = self.plain.source(run), None if self.words is None else self.words.source(run)
        return StickerLessons(run.codec, self.seed, self.mix, self.law, plain=plain, words=words)

    def held_out(self, run: Context) -> StickerLessons:
        """Return lessons and plain documents of the validation split."""
        plain, words = self.plain.held_out(run), None if self.words is None else self.words.held_out(run)
        return StickerLessons(run.codec, self.seed, self.mix, self.law, plain=plain, words=words, split="val")

    def prompts(self, run: Context, number: int = 8) -> list[Document]:
        """Return those of the plain documents."""
        return self.plain.prompts(run, number)

    def given(self, source: Source) -> dict[str, Any]:
        """Return those of the plain documents."""
        assert isinstance(source, StickerLessons) and source.plain is not None
        return self.plain.given(source.plain)

    def tasks(self) -> tuple[str, ...]:
        """Return the tasks of instructions that have a share."""
        return tuple(name for name in TASKS if self.mix.shares[name] > 0)

    def world(self) -> Mapping[str, Any]:
        """Return that of the plain documents."""
        return self.plain.world()

    def begin(self, run: Context) -> None:
        """Make what the plain documents need."""
        self.plain.begin(run)


@dataclass(frozen=True)
class StickerBankData(_Stickers):
    """Captioned sheets, and sheets after documents of things that they show (cm3/stickers/data/bank_source.py).

    With an encoder, the bundle comes with it and with a bank of kinds that no training saw: `out/encoder`, `out/bank`.
    """

    seed: int = 1
    """Stream of the training split."""
    law: BankLaw = field(default_factory=BankLaw)
    encoder: str = ""
    """Encoder that the bank is searched with: a folder or a hub id; without one there is no bank."""
    trained: int = 30
    """Kinds of training in the bank, beside those that no training saw."""

    def source(self, run: Context) -> BankSource:
        """Return sheets, most of them after documents."""
        return BankSource(run.codec, self.seed, law=self.law, length=min(run.length, run.context))

    def held_out(self, run: Context) -> BankSource:
        """Return the same of the validation split; what is asked for are drawings that no training shows."""
        law = replace(self.law, sheets=replace(self.law.sheets, captions_only=0.0))
        return BankSource(run.codec, self.seed, "val", law, length=min(run.length, run.context))

    def given(self, source: Source) -> dict[str, Any]:
        """Return the encoder's name."""
        return {"encoder": load_encoder(self.encoder).name} if self.encoder else {}

    def begin(self, run: Context) -> None:
        """Make the encoder and the bank that the bundle comes with."""
        if not self.encoder:
            return
        if not (run.out / "bank").is_dir():
            build_sticker_bank(run.out / "bank", load_encoder(self.encoder), trained=self.trained, size=run.size)
        if (folder := Path(self.encoder)).is_dir():
            # Less what training left beside it.
            less = shutil.ignore_patterns("*.pt", "*.jsonl", "run.json", "checkpoints", ".*")
            shutil.copytree(folder, run.out / "encoder", dirs_exist_ok=True, ignore=less)


@dataclass(frozen=True)
class StickerPairs(Data):
    """Documents of shown things and sheets of the training split without end, each said twice."""

    seed: int = 3
    """Stream of the training split."""
    shown: float = 0.7
    """Share of documents of one thing; the others are sheets."""

    def pairs(self, size: int, batch: int) -> Batches:
        """Return batches of pairs: documents first, then sheets. Raises `ConfigError` for a share out of range."""
        return sticker_pairs(self.seed, size, batch, self.shown)

    def measure(self, encoder: Any, pairs: Batches, seed: int) -> dict[str, float]:
        """Return what an encoder finds in the bank that ships, and among sheets that it never saw (`measure_bank`)."""
        return measure_bank(encoder, seed=seed)
