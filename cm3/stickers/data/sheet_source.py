"""Sheets as a source of training documents: drawn, described and tokenised on the fly, each from its number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cm3.data.load import Source
from cm3.document import Document, Image, Text
from cm3.errors import ConfigError
from cm3.sequence.segments import document_of, image_tokens, text_tokens
from cm3.stickers.data.sheet_codes import SheetCodes, fits
from cm3.stickers.drawing import draw
from cm3.stickers.sentences import describe, styles_of
from cm3.stickers.world import QUARTERS, Sheet, Split, by_share, random_sheet
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens


@dataclass(frozen=True)
class SheetLaw:
    """The law by which captioned sheets are drawn. Raises `ConfigError` for a value out of range."""

    number: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    """Shares of sheets with 1, 2, 3 and 4 stickers."""
    in_order: float = 0.5
    """Share of captions that name the stickers in reading order."""
    places: float = 0.0
    """Share of captions that say every place; the others are of any style."""
    relations: float = 0.0
    """Of the others, share of those that tell stickers from those beside them where a sheet has such; without documents
    alone."""
    captions_only: float = 0.03
    """Share of documents that are a caption without its picture."""

    def __post_init__(self) -> None:
        """Check every field."""
        fine = all(0 <= share < np.inf for share in self.number) and sum(self.number) > 0
        if not (1 <= len(self.number) <= len(QUARTERS) and fine):
            raise ConfigError(f"law.number={self.number}: must be shares of 1 to 4 stickers, of 0 or more, not all 0")
        for name in ("in_order", "places", "relations", "captions_only"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"law.{name}={getattr(self, name)}: is a share, must be in 0..1")


class Described(NamedTuple):
    """A sheet, what is said of it, and whether it is shown."""

    sheet: Sheet
    caption: str
    shown: bool
    """Whether it is shown, or a caption alone."""


def describe_sheet(seed: int, index: int, split: Split = "train", law: SheetLaw | None = None) -> Described:
    """Draw sheet `index` of the endless stream `seed` by a law, and what is said of it."""
    law = SheetLaw() if law is None else law
    rng = np.random.default_rng([seed, index, 0x57E])
    number = by_share(rng, law.number) + 1
    in_order, places, alone = (rng.random() < share for share in (law.in_order, law.places, law.captions_only))
    sheet = random_sheet(rng, split, number)
    related = law.relations > 0 and rng.random() < law.relations and "relations" in styles_of(sheet)
    style = "places" if places else "relations" if related else None
    caption = describe(sheet, rng, in_order=bool(in_order), style=style)
    return Described(sheet, caption, not alone)


def sheet_document(seed: int, index: int, size: int, split: Split = "train", law: SheetLaw | None = None) -> Document:
    """Return document `index` of the endless stream `seed`: a caption and its whole picture of `size` pixels."""
    sheet, caption, shown = describe_sheet(seed, index, split, law)
    parts = (Text(caption), Image(draw(sheet, size))) if shown else (Text(caption),)
    return Document(parts, id=str(index), source=f"stickers/{split}")


class SheetSource(Source):
    """`Source` (cm3/data/load.py) of tokenised sheets."""

    def __init__(self, codec: Codec, seed: int, split: Split = "train", law: SheetLaw | None = None) -> None:
        """Raise `ConfigError` for a codec without an image tokenizer."""
        if codec.image is None:
            raise ConfigError("codec: sheets have pictures; give it an image tokenizer")
        self.codec, self.seed, self.split, self.law = codec, seed, split, law or SheetLaw()
        self.size = codec.image.size
        self._codes = SheetCodes(codec.image) if fits(codec.image) and codec.vocab.grammar == "cm3" else None

    def sequences(self, positions: Sequence[int]) -> list[Tokens]:
        """Return tokens of these documents."""
        if self._codes is None:
            return self.codec.encode_many([self.document(i) for i in positions])
        return [self._laid_out(describe_sheet(self.seed, i, self.split, self.law), self._codes) for i in positions]

    def document(self, index: int) -> Document:
        """Return document `index` of the stream, its picture whole."""
        return sheet_document(self.seed, index, self.size, self.split, self.law)

    def _laid_out(self, described: Described, codes: SheetCodes) -> Tokens:
        """Return the tokens of a document, from the known codes of its blocks."""
        vocab = self.codec.vocab
        parts = [text_tokens(self.codec.text.encode(described.caption), vocab)]
        if described.shown:
            parts.append(image_tokens(codes.of(described.sheet), vocab))
        return document_of(parts, vocab)
