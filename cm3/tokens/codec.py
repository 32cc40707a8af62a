"""Documents to tokens and back: where the modalities meet, and where holes become `<mask:i>`.

    </s> part (<break> part)* </s>

Neighbouring `Text` parts are one part; an image is exactly rows x cols codes, with cells 1 to n; `<break>` stands
wherever text meets image or image meets image (paper section 2.2). A document with holes becomes a CM3 source: each
hole, in order, is one `<mask:i>`; what a model writes for mask i goes back in with `Codec.fill`.

    Gap("text")            one mask in its text
    Gap("image")           one mask in place of all codes of a picture
    Image(..., gap=box)    one mask for each grid row the box touches, in place of that row's run of codes

How text closes around a gap, and what becomes of the space before it, is in `cm3.tokens.holes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from cm3.document import Document, Gap, Image, Part, Text
from cm3.errors import ConfigError, DataError, RequestError
from cm3.tokens.holes import Hole, Prompt, groups, join, pairs, pieces, rectangle
from cm3.tokens.image import ImageTokenizer, place_box
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Tokens, Vocab


class Codec:
    """`encode`, `decode`, and `encode_prompt`, `fill` for documents with holes. `image` may be None for text alone."""

    def __init__(self, vocab: Vocab, text: TextTokenizer, image: ImageTokenizer | None = None) -> None:
        """Raises `ConfigError` when a tokenizer has more ids than its range of `vocab`."""
        if text.size > vocab.text:
            raise ConfigError(f"vocab.text={vocab.text}: must be at least the text tokenizer's size {text.size}")
        if image is not None and image.codes > vocab.image:
            raise ConfigError(f"vocab.image={vocab.image}: must be at least the image tokenizer's {image.codes} codes")
        self.vocab, self.text, self.image = vocab, text, image

    def encode(self, document: Document) -> Tokens:
        """Tokens of a document; with holes, the source of `encode_prompt`."""
        return self.encode_prompt(document).tokens

    def encode_many(self, documents: Iterable[Document]) -> list[Tokens]:
        """`encode` of each document, with the pictures of all of them in the image tokenizer's batches."""
        return [prompt.tokens for prompt in self.encode_prompts(list(documents))]

    def encode_prompt(self, document: Document) -> Prompt:
        """Tokens and holes of a document.

        Raises `RequestError` for more holes than the vocabulary has masks, for a gap outside what the centre crop
        keeps, and for a picture where there is no image tokenizer; `DataError` for unreadable text or pixels.
        """
        return self.encode_prompts([document])[0]

    def unmask(self, prompt: Prompt, spans: Sequence[Sequence[int] | np.ndarray]) -> Tokens:
        """The prompt with each `<mask:i>` replaced by `spans[i]`: every other token and cell is as it was.

        A span holds vocabulary ids and may end in `<eoss>`. Raises `DataError` for a span of another kind or length.
        """
        filled = self._spans(prompt, spans)
        ids, cells = prompt.tokens
        kept, start = [], 0
        for hole, at in zip(prompt.holes, np.flatnonzero(self.vocab.is_mask(ids)), strict=True):
            kept.append(Tokens(ids[start:at], cells[start:at]))
            kept.append(Tokens.of(filled[hole.mask], hole.cells or None))
            start = int(at) + 1
        return Tokens.concat([*kept, Tokens(ids[start:], cells[start:])])

    def fill(
        self, document: Document, spans: Sequence[Sequence[int] | np.ndarray], prompt: Prompt | None = None
    ) -> Document:
        """The document with `spans[i]` in hole i. `prompt`, this document's, saves encoding it again.

        Text is joined with its gaps into one part. Where an image had a gap, the new codes take the place of the old at
        the hole's cells, every other code stays; the picture decoded from them is used inside the rectangle of those
        cells only: every pixel outside is the preprocessed original's, exactly. Parts without a hole are passed on.
        Raises `DataError` as `unmask` does.
        """
        prompt = prompt or self.encode_prompt(document)
        filled = self._spans(prompt, spans)
        holes: dict[int, list[Hole]] = {}
        for hole in prompt.holes:
            holes.setdefault(hole.part, []).append(hole)
        parts: list[Part] = []
        grids: dict[int, np.ndarray] = {}  # index in `parts` -> codes of the picture to be decoded
        old: dict[int, int] = {}  # the same -> index of the picture in the document
        for group in groups(document):
            first, part = group[0]
            if isinstance(part, Text) or (isinstance(part, Gap) and part.kind == "text"):
                texts = [self._written(filled[holes[p][0].mask]) if isinstance(p, int) else p for p in pieces(group)]
                parts.append(Text(join(texts)))
            elif first not in holes:
                parts.append(part)
            else:
                assert self.image is not None  # else the document would not have become a prompt
                codes = np.zeros(self.image.grid, np.int32) if first not in prompt.codes else prompt.codes[first].copy()
                for hole in holes[first]:
                    codes.flat[np.asarray(hole.cells) - 1] = filled[hole.mask] - self.vocab.image_start
                grids[len(parts)] = codes
                if isinstance(part, Image):
                    old[len(parts)] = first
                parts.append(part)
        if grids and self.image is not None:
            for at, picture in zip(grids, self.image.decode(np.stack(list(grids.values()))), strict=True):
                if at in old:
                    original = document.parts[old[at]]
                    assert isinstance(original, Image)
                    box = rectangle(holes[old[at]], self.image.grid[1], self.image.factor)
                    whole = self.image.preprocess(original.pixels).copy()
                    whole.paste(picture.crop(box), box)
                    picture = whole
                parts[at] = Image(picture)
        return dataclasses.replace(document, parts=tuple(parts))

    def decode(self, tokens: Tokens | Sequence[int] | np.ndarray) -> Document:
        """The document of a whole sequence without holes. Raises `DataError` naming the position and the rule."""
        ids, cells = tokens if isinstance(tokens, Tokens) else (np.asarray(tokens), None)
        ids, v = np.asarray(ids, dtype=np.int64), self.vocab
        for at in (0, len(ids) - 1):
            if len(ids) < 2 or ids[at] != v.eos:
                raise DataError(f"tokens, position {max(at, 0)}: a document starts and ends with its own </s>")
        bad = np.flatnonzero(~(v.is_text(ids) | v.is_image(ids) | (ids == v.brk)))[1:-1]
        if bad.size:
            name = v.name(int(ids[bad[0]])) if 0 <= ids[bad[0]] < v.size else f"id {ids[bad[0]]}"
            raise DataError(
                f"tokens, position {bad[0]}: {name} cannot stand inside a document; fill holes before decoding"
            )
        parts: list[Part | None] = []
        grids: list[np.ndarray] = []
        borders = [0, *np.flatnonzero(ids == v.brk).tolist(), len(ids) - 1]
        for start, stop in zip([b + 1 for b in borders[:-1]], borders[1:], strict=True):
            segment = ids[start:stop]
            if not segment.size and len(ids) > 2:
                raise DataError(f"tokens, position {start}: nothing between two borders; a part has at least one token")
            mixed = np.flatnonzero(v.is_image(segment) != v.is_image(segment[:1]).any())
            if mixed.size:
                raise DataError(
                    f"tokens, position {start + mixed[0]}: text and image codes need a <break> between them"
                )
            picture = segment.size and bool(v.is_image(segment[:1])[0])
            want = np.arange(1, 1 + segment.size) if picture else np.zeros(segment.size)
            if cells is not None and (cells[start:stop] != want).any():
                at = start + int(np.flatnonzero(cells[start:stop] != want)[0])
                raise DataError(f"tokens, position {at}: cell {cells[at]}, must be {int(want[at - start])} here")
            if picture:
                grids.append(self._grid(segment - v.image_start, start))
                parts.append(None)
            elif segment.size:
                parts.append(Text(self.text.decode(self._text_ids(segment, start))))
        pictures = iter(self.image.decode(np.stack(grids)) if grids and self.image is not None else [])
        return Document(tuple(Image(next(pictures)) if part is None else part for part in parts))

    def encode_prompts(self, documents: list[Document]) -> list[Prompt]:
        """One prompt a document; all pictures are encoded together."""
        places = [(d, i, part) for d, doc in enumerate(documents) for i, part in enumerate(doc.parts)]
        if self.image is None and any(isinstance(p, Image) or p == Gap("image") for _, _, p in places):
            raise RequestError("document: has a picture, but this model has no image tokenizer; give text only")
        pictures = [(d, i, part) for d, i, part in places if isinstance(part, Image)]
        codes: list[dict[int, np.ndarray]] = [{} for _ in documents]
        if pictures and self.image is not None:
            for (d, i, _), grid in zip(pictures, self.image.encode([p.pixels for *_, p in pictures]), strict=True):
                codes[d][i] = grid
        return [self._prompt(document, grids) for document, grids in zip(documents, codes, strict=True)]

    def _prompt(self, document: Document, codes: dict[int, np.ndarray]) -> Prompt:
        """Lay out one document whose pictures are encoded."""
        v = self.vocab
        holes: list[Hole] = []

        def mask(kind: Literal["text", "image"], part: int, cells: Iterable[int] = ()) -> Tokens:
            if len(holes) == v.masks:
                raise RequestError(
                    f"document: has more than {v.masks} holes, the masks of this vocabulary (an image gap takes one "
                    "for each grid row); ask for fewer or smaller gaps"
                )
            holes.append(Hole(kind, tuple(cells), len(holes), part))
            return Tokens.of([v.mask(len(holes) - 1)])

        segments: list[Tokens] = []
        for group in groups(document):
            first, part = group[0]
            row: list[Tokens] = []
            if isinstance(part, Image):
                flat, cells, start = codes[first].ravel() + v.image_start, np.arange(1, codes[first].size + 1), 0
                for run in self._runs(part):
                    row += [Tokens.of(flat[start : run.start], cells[start : run.start])]
                    row += [mask("image", first, range(run.start + 1, run.stop + 1))]
                    start = run.stop
                row.append(Tokens.of(flat[start:], cells[start:]))
            elif isinstance(part, Gap) and part.kind == "image":
                assert self.image is not None  # checked in _prompts
                row.append(mask("image", first, range(1, self.image.grid[0] * self.image.grid[1] + 1)))
            else:
                for piece, following in pairs(pieces(group)):
                    if isinstance(piece, int):
                        row.append(mask("text", piece))
                    else:
                        ids = self.text.encode(piece.removesuffix(" ") if following is not None else piece)
                        row.append(Tokens.of([v.text_start + i for i in ids]))
            segments.append(Tokens.concat(row))
        border = [Tokens.of([v.eos])]
        for at, segment in enumerate(segments):
            border += [Tokens.of([v.brk]), segment] if at else [segment]
        return Prompt(Tokens.concat([*border, Tokens.of([v.eos])]), tuple(holes), codes)

    def _runs(self, part: Image) -> list[range]:
        """Raster indices that the gap of a picture covers, one range a row."""
        if part.gap is None or self.image is None:
            return []
        cols = self.image.grid[1]
        box = place_box(part.pixels, part.gap, self.image.size, self.image.fit)
        return [range(row * cols + start, row * cols + stop) for row, start, stop in self.image.cells_of_box(box)]

    def _spans(self, prompt: Prompt, spans: Sequence[Sequence[int] | np.ndarray]) -> list[np.ndarray]:
        """The spans as int64 arrays without a closing `<eoss>`, each of its hole's kind and length."""
        if len(spans) != len(prompt.holes):
            raise DataError(f"spans: got {len(spans)} for {len(prompt.holes)} holes; give one for each, in mask order")
        arrays = []
        for hole, span in zip(prompt.holes, spans, strict=True):
            ids = np.asarray(span, dtype=np.int64).reshape(-1)
            ids = ids[:-1] if ids.size and ids[-1] == self.vocab.eoss else ids
            if hole.kind == "text":
                self._text_ids(ids, 0, f"span {hole.mask}")
            else:
                codes = ids - self.vocab.image_start
                limit = self.image.codes if self.image is not None else 0
                if codes.size != len(hole.cells) or ((codes < 0) | (codes >= limit)).any():
                    raise DataError(f"span {hole.mask}: must be {len(hole.cells)} image codes, got {_shown(ids)}")
            arrays.append(ids)
        return arrays

    def _written(self, span: np.ndarray) -> bytes:
        """The bytes of a text span."""
        return self.text.decode_bytes(self._text_ids(span, 0))

    def _text_ids(self, ids: np.ndarray, start: int, where: str = "tokens") -> list[int]:
        """Tokenizer ids of vocabulary ids; `DataError` at the first that is not one."""
        local = ids - self.vocab.text_start
        bad = np.flatnonzero((local < 0) | (local >= self.text.size))
        if bad.size:
            raise DataError(
                f"{where}, position {start + bad[0]}: id {ids[bad[0]]} is no text id of this tokenizer; those are "
                f"{self.vocab.text_start} to {self.vocab.text_start + self.text.size - 1}"
            )
        return local.tolist()

    def _grid(self, codes: np.ndarray, start: int) -> np.ndarray:
        """One picture's codes as a grid; `DataError` for a wrong number or range of them."""
        rows, cols = self.image.grid if self.image is not None else (0, 0)
        if codes.size != rows * cols:
            raise DataError(
                f"tokens, position {start}: image of {codes.size} codes; one has {rows} x {cols} = {rows * cols}"
            )
        limit = self.image.codes if self.image is not None else 0
        bad = np.flatnonzero(codes >= limit)
        if bad.size:
            raise DataError(f"tokens, position {start + bad[0]}: image code {codes[bad[0]]}, must be below {limit}")
        return codes.reshape(rows, cols)


def _shown(ids: np.ndarray) -> str:
    """The first few ids, for a message."""
    return f"{ids.size} ids {ids[:6].tolist()}" + ("..." if ids.size > 6 else "")
