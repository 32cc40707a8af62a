"""Vocab: one space of token ids as three ranges, specials, text and image codes.

    0 <s>  1 <pad>  2 </s>  3 <unk>  4 <break>  5 <eoss>  6.. <mask:0> ..  (reserved)  | text | image codes

`</s>` stands at both ends of a document, `<break>` at each change of modality, `<mask:i>` where span i was taken out
and again before it in the tail, `<eoss>` (end of span) after it. The paper: 56,320 text + 8,192 image + 1,024 specials
= 65,536 (sections 2.1 and 2.2; names from the authors' branches).

Chameleon and what was made of it use the same names otherwise, which is `grammar` "chameleon": `<s>` opens a document
and `</s>` closes it, `<break>` begins a picture and `<eoss>` ends it, there are no masks, and one of the reserved ids,
`turn`, ends what a user says. Lumina-mGPT 1, made of Chameleon, has reserved ids inside its pictures too, the `marks`.
`cm3/convert/ids.py` maps the ids of such a file to these ranges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from cm3.errors import ConfigError


class Tokens(NamedTuple):
    """Token ids with, for each image code, its place in its image.

    `ids` int32 (s,). `cells` int32 (s,): 0 for anything that is not an image code, else 1 + the raster index of the
    code in its image's grid. Cells travel with the tokens when spans are moved, so a code keeps its row and column.
    """

    ids: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, ids: Iterable[int], cells: Iterable[int] | None = None) -> Tokens:
        """Return tokens from sequences of integers; `cells` default to zeros."""
        ids_array = np.asarray(list(ids) if not isinstance(ids, np.ndarray) else ids, dtype=np.int32)
        if cells is None:
            return cls(ids_array, np.zeros_like(ids_array))
        return cls(ids_array, np.asarray(list(cells) if not isinstance(cells, np.ndarray) else cells, dtype=np.int32))

    @classmethod
    def concat(cls, pieces: Iterable[Tokens]) -> Tokens:
        """Join pieces end to end."""
        pieces = list(pieces)
        if not pieces:
            return cls.of([])
        return cls(np.concatenate([p.ids for p in pieces]), np.concatenate([p.cells for p in pieces]))

    def slice(self, start: int, stop: int) -> Tokens:
        """Return tokens `start` to `stop`, stop exclusive."""
        return Tokens(self.ids[start:stop], self.cells[start:stop])

    @property
    def length(self) -> int:
        """Return the number of tokens (`len` of a NamedTuple is its number of fields)."""
        return int(self.ids.shape[0])


Grammar = Literal["cm3", "chameleon"]
ADDED = "<|image|>"
"""A picture's place in Lumina-mGPT's prompts. Its program adds the name to the text tokenizer, behind all ids that the
weights have rows for."""


@dataclass(frozen=True)
class Marks:
    """The ids in a picture of Lumina-mGPT that are no codes: those of its `height` and `width`, behind `<break>`, and
    `row`, behind each row of codes. A model of ours has pictures of one size."""

    height: int
    width: int
    row: int


@dataclass(frozen=True)
class Vocab:
    """The ranges. `Vocab()` is the paper's; any smaller one is `Vocab(text=512, image=1000, masks=32, reserved=0)`.

    `grammar`: how documents are laid out (`cm3/sequence`). `turn`: the reserved id that ends a turn, or None. `marks`:
    the reserved ids inside pictures, or None.
    """

    text: int = 56_320
    image: int = 8_192
    masks: int = 512
    reserved: int = 506
    grammar: Grammar = "cm3"
    turn: int | None = None
    marks: Marks | None = None

    bos: ClassVar[int] = 0
    pad: ClassVar[int] = 1
    eos: ClassVar[int] = 2
    unk: ClassVar[int] = 3
    brk: ClassVar[int] = 4
    eoss: ClassVar[int] = 5
    _FIXED: ClassVar[int] = 6
    _MOST: ClassVar[int] = 1 << 23

    def __post_init__(self) -> None:
        for name, low in (("text", 256), ("image", 2), ("masks", 0), ("reserved", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"vocab.{name}={getattr(self, name)}: must be at least {low}")
            if getattr(self, name) > self._MOST:
                raise ConfigError(f"vocab.{name}={getattr(self, name)}: must be at most {self._MOST}")
        if self.grammar not in get_args(Grammar):
            raise ConfigError(f"vocab.grammar={self.grammar!r}: must be 'cm3' or 'chameleon'")
        if self.grammar == "cm3" and self.masks == 0:
            raise ConfigError("vocab.masks=0: must be at least 1 where vocab.grammar is 'cm3', which fills masks")
        first = self._FIXED + self.masks
        if self.turn is not None and not first <= self.turn < self.text_start:
            raise ConfigError(
                f"vocab.turn={self.turn}: must be a reserved id, {first} to {self.text_start - 1}, or None"
            )
        if self.marks is None:
            return
        if self.grammar != "chameleon" or self.turn is None:
            raise ConfigError("vocab.marks: are of pictures in the grammar 'chameleon' with turns; leave them out")
        height, width, row = astuple(self.marks)
        if not all(first <= id < self.text_start for id in (height, width, row)):
            raise ConfigError(f"vocab.marks={self.marks}: must be reserved ids, {first} to {self.text_start - 1}")
        if row in (height, width) or self.turn in (height, width, row):
            raise ConfigError(f"vocab.marks={self.marks}: row must be neither height nor width, and none the turn")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; grammar, turn and marks only where they are not the default."""
        fields = asdict(self)
        for name in ("grammar", "turn", "marks"):
            if fields[name] == getattr(Vocab, name):
                del fields[name]
        return fields

    @property
    def opens(self) -> int:
        """Return the id that a document begins with; `eos` ends it in each grammar."""
        return self.bos if self.grammar == "chameleon" else self.eos

    @property
    def begins(self) -> tuple[int, ...]:
        """Return the ids that a picture begins with: `<break>`, and behind it the marks of its size."""
        return (self.brk,) if self.marks is None else (self.brk, self.marks.height, self.marks.width)

    @property
    def text_start(self) -> int:
        """Return first text id."""
        return self._FIXED + self.masks + self.reserved

    @property
    def image_start(self) -> int:
        """Return first image-code id."""
        return self.text_start + self.text

    @property
    def size(self) -> int:
        """Return the number of ids."""
        return self.image_start + self.image

    def mask(self, i: int) -> int:
        """Return the id of `<mask:i>`."""
        if not self.masks:
            raise ConfigError(f"<mask:{i}>: this vocabulary has no masks; the model was not trained to fill holes")
        if not 0 <= i < self.masks:
            raise ConfigError(f"<mask:{i}>: this vocabulary has masks 0 to {self.masks - 1}; raise vocab.masks")
        return self._FIXED + i

    def is_mask(self, ids: np.ndarray) -> np.ndarray:
        """Return which ids are `<mask:i>`, elementwise."""
        return (ids >= self._FIXED) & (ids < self._FIXED + self.masks)

    def is_text(self, ids: np.ndarray) -> np.ndarray:
        """Return which ids are text, elementwise."""
        return (ids >= self.text_start) & (ids < self.image_start)

    def is_image(self, ids: np.ndarray) -> np.ndarray:
        """Return which ids are image codes, elementwise."""
        return (ids >= self.image_start) & (ids < self.size)

    def name(self, token: int) -> str:
        """Return a readable name: `<break>`, `<mask:3>`, `text:17`, `image:512`."""
        fixed = ("<s>", "<pad>", "</s>", "<unk>", "<break>", "<eoss>")
        if 0 <= token < self._FIXED:
            return fixed[token]
        if token < self._FIXED + self.masks:
            return f"<mask:{token - self._FIXED}>"
        if token < self.text_start:
            return f"<reserved:{token - self._FIXED - self.masks}>"
        if token < self.image_start:
            return f"text:{token - self.text_start}"
        if token < self.size:
            return f"image:{token - self.image_start}"
        raise ConfigError(f"token id {token}: this vocabulary has ids 0 to {self.size - 1}")
