"""A stream: words of a request as soon as they are whole, and pictures by finished rows.

tokens of the engine -> spans of the plan -> words, byte by byte; rows of codes -> the picture down to there
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import PIL.Image

from cm3.document import Document, Gap, Image
from cm3.engine.grammar import Cursor
from cm3.engine.request import Request
from cm3.generate.generation import Generation, number_given
from cm3.sequence.holes import Prompt
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer
from cm3.vocab import Tokens


@dataclass(frozen=True, eq=False)
class Chunk:
    """The part of a result that came since the chunk before.

    part: the index of the part of the prompt, as a document, that is filled. What fills an interleaved gap are parts of
        their own, from the index of the gap on.
    text: words that follow those of that part's chunks before. All of them together are the text as it is at the end.
    rows: finished rows of codes of that part's picture, counted from its top; 0 for a text.
    generation: with the last chunk, what `CM3Leon.generate` returns; that chunk has no text.
    """

    part: int = -1
    text: str = ""
    rows: int = 0
    generation: Generation | None = None
    _draw: Callable[[], PIL.Image.Image] | None = field(default=None, repr=False)

    @property
    def image(self) -> PIL.Image.Image | None:
        """Draw the picture from its top down to the last finished row; None where the chunk is of a text.

        Pixels near the last row may yet change with the rows below. It is drawn anew each time it is asked for.
        """
        return None if self._draw is None else self._draw()


class Interleaving:
    """Words and pictures of an interleaved answer while they come; `first`: the index of its first part."""

    def __init__(self, first: int, codec: Codec) -> None:
        self._part, self._codec = first - 1, codec
        self._bytes: codecs.IncrementalDecoder | None = None
        self._codes: list[int] = []

    def take(self, tokens: Tokens) -> Iterator[Chunk]:
        """Yield what further tokens bring."""
        vocab, image = self._codec.vocab, self._codec.image
        assert image is not None, "an interleaved answer has pictures"
        for id, cell in zip(tokens.ids.tolist(), tokens.cells.tolist(), strict=True):
            words = vocab.text_start <= id < vocab.image_start
            if words and self._bytes is None:
                self._part, self._bytes = self._part + 1, codecs.getincrementaldecoder("utf-8")("replace")
            if self._bytes is not None:
                data = self._codec.text.decode_bytes([id - vocab.text_start] if words else [])
                if text := self._bytes.decode(data, final=not words):
                    yield Chunk(self._part, text)
                self._bytes = self._bytes if words else None
            if cell:
                if cell == 1:
                    self._part, self._codes = self._part + 1, []
                self._codes.append(id - vocab.image_start)
                rows, rest = divmod(len(self._codes), image.grid[1])
                if not rest:
                    draw = partial(_down_to, np.array(self._codes).reshape(rows, -1), image)
                    yield Chunk(self._part, rows=rows, _draw=draw)


def _down_to(codes: np.ndarray, image: ImageTokenizer) -> PIL.Image.Image:
    """Draw the first rows of a grid of codes; those below repeat the last."""
    rows, below = len(codes), image.grid[0] - len(codes)
    (picture,) = image.decode(np.concatenate([codes, codes[-1:].repeat(below, 0)])[None])
    return _top(picture, rows, image.grid[0])


def _top(picture: PIL.Image.Image, rows: int, of: int) -> PIL.Image.Image:
    """Return the first rows of a picture that has so many."""
    return picture.crop((0, 0, picture.width, picture.height * rows // of))


class Filling:
    """The holes of a prompt while they are filled. `document` is the prompt's."""

    def __init__(self, document: Document, prompt: Prompt, request: Request, codec: Codec) -> None:
        self._document, self._prompt, self._codec = document, prompt, codec
        self._cursor, self._taken = Cursor(request.plan, codec.vocab), 0
        self._bytes = [codecs.getincrementaldecoder("utf-8")("replace") for _ in prompt.holes]
        self._all, self._columns = codec.image.grid if codec.image is not None else (0, 1)
        self._missing = {
            part: Counter(self._row(cell) for h in prompt.holes if h.part == part for cell in h.cells if cell)
            for part in {hole.part for hole in prompt.holes if hole.kind == "image"}
        }
        """Codes to come in each row of a picture's grid, by part."""
        self._on = Interleaving(number_given(document), codec) if prompt.interleaved else None

    def take(self, tokens: Tokens) -> Iterator[Chunk]:
        """Yield what further tokens, those that the plan forces among them, bring."""
        if self._on is not None:
            yield from self._on.take(tokens)
            return
        cursor, vocab = self._cursor, self._codec.vocab
        start, self._taken = self._taken, self._taken + tokens.length
        while len(cursor.ids) < self._taken:
            drawn, cell = int(tokens.ids[len(cursor.ids) - start]), cursor.cell
            hole, closed = self._prompt.holes[len(cursor.reasons)], len(cursor.reasons)
            cursor.accept(drawn)
            if hole.kind == "text":
                ids = [drawn - vocab.text_start] if drawn >= vocab.text_start else []
                data = self._codec.text.decode_bytes(ids)
                if text := self._bytes[hole.mask].decode(data, final=len(cursor.reasons) > closed):
                    yield Chunk(hole.part, text)
                continue
            missing, row = self._missing[hole.part], self._row(cell)
            missing[row] -= 1
            if not missing[row]:
                del missing[row]
                if row < (rows := min(missing, default=self._all)):
                    yield Chunk(hole.part, rows=rows, _draw=partial(self._picture, hole.part, rows))

    def _row(self, cell: int) -> int:
        return (cell - 1) // self._columns

    def _picture(self, part: int, rows: int) -> PIL.Image.Image:
        """Draw the picture of a part down to a row. Codes below repeat the last row: the tokenizer wants a whole grid,
        and what it sees there should not look like an edge."""
        spans, ids, vocab = [], self._cursor.ids, self._codec.vocab
        bounds = [*self._cursor.bounds, *[[0, 0]] * len(self._prompt.holes)]
        known: dict[int, int] = {}
        for hole, (start, stop) in zip(self._prompt.holes, bounds, strict=False):
            known |= dict(zip(hole.cells, ids[start:stop], strict=False)) if hole.part == part else {}
        known = {cell: code for cell, code in known.items() if self._row(cell) < rows}
        last = max(known)
        for hole in self._prompt.holes:
            above = [min(cell, (rows - 1) * self._columns + 1 + (cell - 1) % self._columns) for cell in hole.cells]
            own = [known.get(cell, known[last]) for cell in above]
            spans.append(own if hole.part == part else [vocab.image_start] * len(hole.cells))
        done = self._codec.fill(self._document, spans, self._prompt)
        before = [p for p in self._document.parts[:part] if isinstance(p, Image) or p == Gap("image")]
        return _top(done.images[len(before)].pixels, rows, self._all)
