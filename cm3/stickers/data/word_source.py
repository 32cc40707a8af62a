"""Sheets told in words alone: where a picture has a code, there stands a word of the name of what is there.

    "a large panda at the top left, ... on a mint ground" -> 16 x 16 words: "panda" in the cells of the panda, "mint"
    in those of the ground

The words are hidden from the model as codes can be (`cm3.sequence.mask.hide`), and it foretells each from the caption
and its own cell. So which name belongs where is learnt before, and apart from, what a thing looks like, from a
hundredth of the facts. A model that learns both at once deals the names out by chance for long (docs/log.md).

The other way round the words are read, and the caption is foretold behind them: what is said of a sheet where each
thing stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cm3.data.load import Source
from cm3.errors import ConfigError
from cm3.sequence.answers import Weighted, weighted_tail
from cm3.sequence.mask import between_equals
from cm3.sequence.segments import document_of, image_tokens, text_tokens
from cm3.stickers.data.sheet_codes import cells_of_place, whole_cells
from cm3.stickers.data.sheet_source import SheetLaw, describe_sheet
from cm3.stickers.drawing import WIDTH, covered
from cm3.stickers.world import Sheet, Split
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens


class WordSource(Source):
    """`Source` (cm3/data/load.py) of sheets told in words alone."""

    def __init__(
        self,
        codec: Codec,
        seed: int,
        split: Split = "train",
        law: SheetLaw | None = None,
        thin: float = 0.0,
        told: float = 0.0,
    ) -> None:
        """Raise `ConfigError` for a codec without pictures, of another size or grammar, and for shares out of range."""
        if codec.image is None or not whole_cells(codec.image) or codec.vocab.grammar != "cm3":
            raise ConfigError(
                f"codec: must have an image tokenizer of {WIDTH} px, with places in whole cells, and the grammar 'cm3'"
            )
        for name, share in (("thin", thin), ("told", told)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name}={share}: is a probability, must be in 0..1")
        self.codec, self.seed, self.split, self.law = codec, seed, split, law or SheetLaw()
        self.thin, self.told = thin, told
        self._factor = codec.image.factor
        self._names: dict[str, np.ndarray] = {}

    def sequences(self, positions: Sequence[int]) -> list[Tokens | Weighted]:
        """Return these sequences. `thin` is the share of cells between two of the same word that is left out; `told`
        that of sheets whose words are read and whose caption is foretold."""
        return [self._laid_out(i) for i in positions]

    def words(self, sheet: Sheet) -> np.ndarray:
        """Return the ids of the words of a sheet's cells, int32 (rows, columns).

        Row i of a sticker has token i of its kind's name, from the first again behind the last; what a sticker's rim
        touches is the sticker's. The ground has the first token of its own name.
        """
        side = WIDTH // self._factor
        grid = np.full((side, side), self._name(sheet.ground)[0], np.int32)
        for one in sheet.stickers:
            rows, columns = cells_of_place(one.place, self._factor)
            start, stop = covered(one.size, self._factor)
            name = self._name(one.kind)
            for i in range(start, stop):
                grid[rows.start + i, columns.start + start : columns.start + stop] = name[(i - start) % len(name)]
        return grid

    def _name(self, name: str) -> np.ndarray:
        if name not in self._names:
            self._names[name] = text_tokens(self.codec.text.encode(f" {name}"), self.codec.vocab).ids
        return self._names[name]

    def _laid_out(self, index: int) -> Tokens | Weighted:
        described = describe_sheet(self.seed, index, self.split, self.law)
        v = self.codec.vocab
        caption = text_tokens(self.codec.text.encode(described.caption), v)
        if not described.shown:
            return document_of([caption], v)
        rng = np.random.default_rng([self.seed, 0x3077, index])
        told = self.told > 0 and rng.random() < self.told
        words = self.words(described.sheet)
        before = Tokens.of([v.mask(0)]) if told else caption
        laid = document_of([before, image_tokens(np.zeros_like(words), v)], v)
        on = laid.cells > 0
        ids = laid.ids.copy()
        ids[on] = words.ravel()
        left_out = between_equals(ids) & on & (rng.random(len(ids)) < self.thin)
        made = Weighted.of(Tokens(ids, laid.cells), 0.0 if told else 1.0)
        made = made._replace(kept=~left_out if left_out.any() else None)
        if told:  # it is read, and only what is said of it behind it weighs
            return Weighted.concat([made, weighted_tail(0, caption, v, rest=0.0)])
        return made._replace(shown=np.where(on, np.int32(v.unk), ids))
