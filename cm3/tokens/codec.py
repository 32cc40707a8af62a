"""Documents to tokens and back: where the modalities meet, and where holes become `<mask:i>`.

    </s> part (<break> part)* </s>

Neighbouring `Text` parts are one part; an image is exactly rows x cols codes, with cells 1 to n; `<break>` stands
wherever text meets image or image meets image (paper section 2.2). A document with holes becomes a CM3 source: each
hole, in order, is one `<mask:i>`; what a model writes for mask i goes back in with `Codec.fill`.

    Gap("text")            one mask in its text
    Gap("image")           one mask in place of all codes of a picture
    Image(..., gap=box)    one mask for each grid row the box touches, in place of that row's run of codes

How text closes around a gap, and what becomes of the space before it, is in `cm3.sequence.holes`.

    Gap("interleaved")     at the end alone: one mask for words and pictures, whatever a model writes

In the grammar "chameleon" (cm3/sequence/turns.py) there are no masks: a gap stands at the end, of any of the kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from cm3.document import Box, Document, Gap, Image, Part, Text
from cm3.errors import ConfigError, DataError, RequestError
from cm3.sequence.answers import closing
from cm3.sequence.holes import Hole, Prompt, before_hole, groups, join
from cm3.sequence.mask import put_back
from cm3.sequence.segments import cells_of, document_of, image_cells, image_codes, image_tokens, runs, text_tokens
from cm3.sequence.turns import FORMATS, INFILL, ORDERS, TURNS, block, ends, prompt_format
from cm3.tokens.chameleon import ChameleonText, marks_of
from cm3.tokens.image import ImageTokenizer, place_box
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Tokens, Vocab


class Codec:
    """`encode`, `decode`, and `encode_prompt`, `fill` for documents with holes. `image` may be None for text alone.

    `about`: what a bundle says of itself, for the format of its prompts, where the grammar is "chameleon".
    """

    def __init__(
        self,
        vocab: Vocab,
        text: TextTokenizer,
        image: ImageTokenizer | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Raise `ConfigError` when a tokenizer has more ids than its range of `vocab`, for a format of prompts that is
        unknown, and for marks that are not those of pictures of this size."""
        if text.size > vocab.text:
            raise ConfigError(f"vocab.text={vocab.text}: must be at least the text tokenizer's size {text.size}")
        if image is not None and image.codes > vocab.image:
            raise ConfigError(f"vocab.image={vocab.image}: must be at least the image tokenizer's {image.codes} codes")
        if vocab.marks is not None and image is not None and isinstance(text, ChameleonText):
            if (wanted := marks_of(text.entries, image.size)) != vocab.marks:
                raise ConfigError(
                    f"vocab.marks={vocab.marks}: those of pictures of {image.size} pixels are {wanted}; convert the "
                    "model again, at another size"
                )
        self.vocab, self.text, self.image = vocab, text, image
        self.format = prompt_format(about or {}, vocab)

    def turns(self, kind: str) -> bool:
        """Tell whether a turn ends before an answer of this kind, a word of `Gap`."""
        return self.vocab.grammar == "chameleon" and kind in FORMATS[self.format]

    def encode(self, document: Document) -> Tokens:
        """Encode a document; with holes, the source of `encode_prompt`."""
        return self.encode_prompt(document).tokens

    def encode_many(self, documents: Iterable[Document]) -> list[Tokens]:
        """Return `encode` of each document, with the pictures of all of them in the image tokenizer's batches."""
        return [prompt.tokens for prompt in self.encode_prompts(list(documents))]

    def encode_prompt(self, document: Document) -> Prompt:
        """Return tokens and holes of a document.

        Raises `RequestError` for more holes than the vocabulary has masks, for a gap outside what the centre crop
        keeps, and for a picture where there is no image tokenizer; `DataError` for unreadable text or pixels.
        """
        return self.encode_prompts([document])[0]

    def unmask(self, prompt: Prompt, spans: Sequence[Sequence[int] | np.ndarray]) -> Tokens:
        """Return the prompt with each `<mask:i>` replaced by `spans[i]`: every other token and cell is as it was.

        A span holds vocabulary ids and may end in `<eoss>`. Raises `DataError` for a span of another kind or length.
        """
        arrays = self._spans(prompt, spans)
        if prompt.interleaved:
            list(self._parts_of(arrays[0], "span 0"))  # raises where it is no run of words and pictures
            filled = [Tokens(ids.astype(np.int32), cells_of(ids, self.vocab)) for ids in arrays]
        else:
            filled = [Tokens.of(ids, h.cells or None) for ids, h in zip(arrays, prompt.holes, strict=True)]
        if self.vocab.grammar == "chameleon":
            return Tokens.concat([prompt.tokens, *filled, *([closing(prompt, self.vocab)] if filled else [])])
        return put_back(prompt.tokens, filled, self.vocab)

    def fill(
        self, document: Document, spans: Sequence[Sequence[int] | np.ndarray], prompt: Prompt | None = None
    ) -> Document:
        """Return the document with `spans[i]` in hole i. `prompt`, this document's, saves encoding it again.

        Text is joined with its gaps into one part. Where an image had a gap, the new codes take the place of the old at
        the hole's cells, every other code stays; the picture decoded from them is used inside the rectangle of those
        cells only: every pixel outside is the preprocessed original's, exactly. Parts without a hole are passed on.
        Raises `DataError` as `unmask` does.
        """
        prompt = prompt or self.encode_prompt(document)
        if self.vocab.grammar == "chameleon" or document.interleaved:
            return self._continued(document, spans, prompt)
        tokens, filled = self.unmask(prompt, spans), self._spans(prompt, spans)
        parts: list[Part] = []
        drawn: dict[int, tuple[np.ndarray, list[Hole]]] = {}  # index in `parts` -> codes of a picture, and its holes
        for (start, stop), group in zip(runs(tokens.ids, self.vocab), groups(document), strict=False):
            first, part = group[0]
            holes = [hole for hole in prompt.holes if hole.part == first]
            if isinstance(part, Text) or part == Gap("text"):
                masks = {hole.part: hole.mask for hole in prompt.holes}
                texts = [p.text if isinstance(p, Text) else self._written(filled[masks[at]]) for at, p in group]
                part = Text(join(texts))
            elif holes and self.image is not None:
                codes = tokens.ids[start:stop] - self.vocab.image_start
                drawn[len(parts)] = codes.reshape(self.image.grid), holes
            parts.append(part)
        if drawn and self.image is not None:
            pictures = self.image.decode(np.stack([codes for codes, _ in drawn.values()]))
            for (at, (_, holes)), picture in zip(drawn.items(), pictures, strict=True):
                if isinstance(original := parts[at], Image):
                    box = _rectangle(holes, self.image.grid[1], self.image.factor)
                    whole = self.image.preprocess(original.pixels).copy()
                    whole.paste(picture.crop(box), box)
                    picture = whole
                parts[at] = Image(picture)
        return dataclasses.replace(document, parts=tuple(parts))

    def decode(self, tokens: Tokens | Sequence[int] | np.ndarray) -> Document:
        """Return the document of a whole sequence without holes. Raises `DataError` naming the position and the
        rule."""
        if self.vocab.grammar == "chameleon":
            return Document(tuple(self._decoded(tokens)))
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
        wanted = cells_of(ids, v)
        for start, stop in runs(ids, v)[:-1]:
            segment = ids[start:stop]
            if not segment.size and len(ids) > 2:
                raise DataError(f"tokens, position {start}: nothing between two borders; a part has at least one token")
            mixed = np.flatnonzero(v.is_image(segment) != v.is_image(segment[:1]).any())
            if mixed.size:
                raise DataError(
                    f"tokens, position {start + mixed[0]}: text and image codes need a <break> between them"
                )
            picture = segment.size and bool(v.is_image(segment[:1])[0])
            if cells is not None and (cells[start:stop] != wanted[start:stop]).any():
                at = start + int(np.flatnonzero(cells[start:stop] != wanted[start:stop])[0])
                raise DataError(f"tokens, position {at}: cell {cells[at]}, must be {wanted[at]} here")
            if picture:
                grids.append(self._grid(segment - v.image_start, start))
                parts.append(None)
            elif segment.size:
                parts.append(Text(self.text.decode(self._text_ids(segment, start))))
        pictures = iter(self.image.decode(np.stack(grids)) if grids and self.image is not None else [])
        return Document(tuple(Image(next(pictures)) if part is None else part for part in parts))

    def encode_prompts(self, documents: list[Document]) -> list[Prompt]:
        """Return one prompt a document; all pictures are encoded together."""
        places = [(d, i, part) for d, doc in enumerate(documents) for i, part in enumerate(doc.parts)]
        if self.image is None and any(isinstance(p, Image) or p in _DRAWN for _, _, p in places):
            raise RequestError("document: has a picture, but this model has no image tokenizer; give text only")
        pictures = [(d, i, part) for d, i, part in places if isinstance(part, Image)]
        codes: list[dict[int, np.ndarray]] = [{} for _ in documents]
        if pictures and self.image is not None:
            for (d, i, _), grid in zip(pictures, self.image.encode([p.pixels for *_, p in pictures]), strict=True):
                codes[d][i] = grid
        return [self._prompt(document, grids) for document, grids in zip(documents, codes, strict=True)]

    def _prompt(self, document: Document, codes: dict[int, np.ndarray]) -> Prompt:
        """Lay out one document whose pictures are encoded."""
        if self.vocab.grammar == "chameleon":
            return self._open(document, codes)
        v = self.vocab
        holes: list[Hole] = []
        gaps = [part for part in document.parts if isinstance(part, Gap) or (isinstance(part, Image) and part.gap)]
        on = document.interleaved
        if Gap("interleaved") in gaps and (len(gaps) > 1 or not on):
            raise RequestError("document: an interleaved gap stands alone at its end; put it last, and no other gap")

        def mask(kind: Literal["text", "image", "interleaved"], part: int, cells: Iterable[int] = ()) -> Tokens:
            if len(holes) == v.masks:
                raise RequestError(
                    f"document: has more than {v.masks} holes, the masks of this vocabulary (an image gap takes one "
                    "for each grid row); ask for fewer or smaller gaps"
                )
            holes.append(Hole(kind, tuple(cells), len(holes), part))
            return Tokens.of([v.mask(len(holes) - 1)])

        parts: list[Tokens] = []
        for group in (listed := list(groups(document))):
            first, part = group[0]
            row: list[Tokens] = []
            if isinstance(part, Image):
                picture, start = image_tokens(codes[first], v), 0
                for run in self._runs(part):
                    row += [picture.slice(start, run.start), mask("image", first, range(run.start + 1, run.stop + 1))]
                    start = run.stop
                row.append(picture.slice(start, picture.length))
            elif isinstance(part, Gap) and part.kind != "text":
                hole = mask(part.kind, first, self._cells())
                if part.kind == "interleaved" and parts and v.is_text(parts[-1].ids).any():
                    row.append(parts.pop())  # words go on
                row.append(hole)
            else:
                for number, (at, piece) in enumerate(group, start=1):
                    if isinstance(piece, Text):
                        whole = number == len(group) and not (on and group is listed[-2])
                        words = piece.text if whole else before_hole(piece.text)[0]
                        row.append(text_tokens(self.text.encode(words), v))
                    else:
                        row.append(mask("text", at))
            parts.append(Tokens.concat(row))
        return Prompt(document_of(parts, v), tuple(holes), codes)

    def _open(self, document: Document, codes: dict[int, np.ndarray]) -> Prompt:
        """Lay out a document in the grammar "chameleon", up to its hole, which must be its end."""
        v, holes = self.vocab, list[Hole]()
        pieces = [Tokens.of([v.bos])]
        parts = list(_with_turns(document))
        order = ""
        if self.image is not None and not codes and parts and parts[-1][1] == Gap("image"):
            order = ORDERS.get(self.format, "").format(width=self.image.size, height=self.image.size)
        for number, (at, part) in enumerate(parts, start=1):
            if holes or (isinstance(part, Image) and part.gap is not None):
                raise RequestError(f"document: {INFILL}; put its one gap last")
            if isinstance(part, Image):
                pieces.append(block(image_tokens(codes[at], v), v))
            elif part is None:
                if v.turn is None or not self.turns("text"):
                    raise RequestError("document: has several turns, and this model's prompts have one; give the last")
                pieces.append(Tokens.of([v.turn]))
            elif isinstance(part, Text):
                follows = parts[number][1] if number < len(parts) else None
                on = isinstance(follows, Gap) and not self.turns(follows.kind)
                words = before_hole(part.text)[0] if on else part.text
                words = words if words.startswith(order) or not isinstance(follows, Gap) else order + words
                pieces.append(text_tokens(self.text.encode(words), v))
            else:
                holes.append(Hole(part.kind, () if part.kind == "text" else self._cells(), 0, at))
                turn = [v.turn] if v.turn is not None and self.turns(part.kind) else []
                pieces.append(Tokens.of([*turn, *v.begins] if part.kind == "image" else turn))
        return Prompt(Tokens.concat(pieces if holes else [*pieces, Tokens.of([v.eos])]), tuple(holes), codes)

    def _cells(self) -> tuple[int, ...]:
        """Return the cells of a whole picture's tokens."""
        assert self.image is not None  # checked in encode_prompts
        return tuple(image_cells(self.image.grid, self.vocab).tolist())

    def _continued(self, document: Document, spans: Sequence[Sequence[int] | np.ndarray], prompt: Prompt) -> Document:
        """Return the document with what was written at its end. Words that go on a text are one part with it; where a
        turn ended between them, they are a part of their own."""
        filled = self._spans(prompt, spans)
        parts = [part for part in document.parts if not isinstance(part, Gap) and part != Text("")]
        for hole, ids in zip(prompt.holes, filled, strict=True):
            if hole.kind == "text":
                last = parts[-1] if parts else None
                if isinstance(last, Text) and not self.turns("text"):
                    parts[-1] = Text(join([last.text, self._written(ids)]))
                else:
                    parts.append(Text(self._said(ids)))
            elif hole.kind == "image":
                parts += self._drawn([ids])
            else:
                found = list(self._parts_of(ids, f"span {hole.mask}"))
                pictures = iter(self._drawn([codes for picture, codes in found if picture]))
                parts += [next(pictures) if picture else Text(self._said(ids)) for picture, ids in found]
        return dataclasses.replace(document, parts=tuple(parts))

    def _said(self, ids: np.ndarray) -> str:
        return self._written(ids).decode("utf-8", errors="replace")

    def _drawn(self, spans: list[np.ndarray]) -> list[Image]:
        """Return the pictures of spans of codes, as ids."""
        if not spans or self.image is None:
            return []
        grids = np.stack([image_codes(ids, self.vocab).reshape(self.image.grid) for ids in spans])
        return [Image(picture) for picture in self.image.decode(grids)]

    def _parts_of(self, ids: np.ndarray, where: str) -> Iterator[tuple[bool, np.ndarray]]:
        """Yield what stands between the borders of a run of words and pictures: whether it is a picture, and its ids.

        Raises `DataError` naming the position and the rule.
        """
        v, at, end = self.vocab, 0, len(ids)
        cells, first = self._cells() if self.image is not None else (), len(self.vocab.begins)
        number, limit = len(cells), self.image.codes if self.image is not None else 0
        while at < end:
            if ids[at] != v.brk:
                stop = next((i for i in range(at, end) if ids[i] == v.brk), end)
                self._text_ids(ids[at:stop], at, where)
                yield False, ids[at:stop]
                at = stop
                continue
            codes = ids[at + first : at + first + number]
            if v.grammar == "cm3" and not (codes[:1] >= v.image_start).any():
                at += 1  # back to words
                continue
            wrong = ids[at : at + first] != v.begins[: end - at]
            wrong = np.append(wrong, self._odd(codes, cells[: codes.size]))
            if wrong.any() or codes.size != number or not number:
                place = at + (int(wrong.argmax()) if wrong.any() else wrong.size)
                marks = "" if v.marks is None else ", with the marks of its size and rows"
                raise DataError(
                    f"{where}, position {place}: <break> begins a picture, of {np.count_nonzero(cells)} codes below "
                    f"{limit}{marks}"
                )
            yield True, codes
            at += first + number
            if v.grammar == "chameleon":
                if at >= end or ids[at] != v.eoss:
                    raise DataError(
                        f"{where}, position {at}: <eoss> ends a picture, after {np.count_nonzero(cells)} codes"
                    )
                at += 1

    def _odd(self, ids: np.ndarray, cells: Sequence[int]) -> np.ndarray:
        """Tell which ids of a picture's tokens are no codes of the image tokenizer, or no marks where those belong."""
        codes, v = ids - self.vocab.image_start, self.vocab
        odd = (codes < 0) | (codes >= (self.image.codes if self.image is not None else 0))
        return odd if v.marks is None else np.where(np.array(cells) > 0, odd, ids != v.marks.row)

    def _decoded(self, tokens: Tokens | Sequence[int] | np.ndarray) -> list[Part]:
        """Return the parts of a whole sequence of the grammar "chameleon"."""
        ids, cells = tokens if isinstance(tokens, Tokens) else (np.asarray(tokens), None)
        ids, v = np.asarray(ids, dtype=np.int64), self.vocab
        for at, id, name in ((0, v.bos, "starts with <s>"), (len(ids) - 1, v.eos, "ends with </s>")):
            if len(ids) < 2 or ids[at] != id:
                raise DataError(f"tokens, position {max(at, 0)}: a document {name}")
        inner, wanted = ids[1:-1], cells_of(ids, v)
        found = list(self._parts_of(inner, "tokens after <s>"))
        if cells is not None and (cells != wanted).any():
            at = int(np.flatnonzero(cells != wanted)[0])
            raise DataError(f"tokens, position {at}: cell {cells[at]}, must be {wanted[at]} here")
        pictures = iter(self._drawn([codes for picture, codes in found if picture]))
        return [next(pictures) if picture else Text(self._said(words)) for picture, words in found]

    def _runs(self, part: Image) -> list[range]:
        """Return the raster indices that the gap of a picture covers, one range a row."""
        if part.gap is None or self.image is None:
            return []
        cols = self.image.grid[1]
        box = place_box(part.pixels, part.gap, self.image.size, self.image.fit)
        return [range(row * cols + start, row * cols + stop) for row, start, stop in self.image.cells_of_box(box)]

    def _spans(self, prompt: Prompt, spans: Sequence[Sequence[int] | np.ndarray]) -> list[np.ndarray]:
        """Return the spans as int64 arrays without a closing `<eoss>`, each of its hole's kind and length;
        of an interleaved one, `_parts_of` checks the kind."""
        if len(spans) != len(prompt.holes):
            raise DataError(f"spans: got {len(spans)} for {len(prompt.holes)} holes; give one for each, in mask order")
        arrays = []
        for hole, span in zip(prompt.holes, spans, strict=True):
            ids = np.asarray(span, dtype=np.int64).reshape(-1)
            if hole.kind != "interleaved":
                ids = ids[:-1] if ids.size and ids[-1] == self.vocab.eoss else ids
            if hole.kind == "text":
                self._text_ids(ids, 0, f"span {hole.mask}")
            elif hole.kind == "interleaved":
                ids = ids[:-1] if ids.size and ids[-1] in ends(self.vocab) else ids
            else:
                if ids.size != len(hole.cells) or self._odd(ids, hole.cells).any():
                    wanted = np.count_nonzero(hole.cells)
                    raise DataError(f"span {hole.mask}: must be {wanted} image codes, got {_shown(ids)}")
            arrays.append(ids)
        return arrays

    def _written(self, span: np.ndarray) -> bytes:
        """Return the bytes of a text span."""
        return self.text.decode_bytes(self._text_ids(span, 0))

    def _text_ids(self, ids: np.ndarray, start: int, where: str = "tokens") -> list[int]:
        """Return the tokenizer ids of vocabulary ids; `DataError` at the first that is not one."""
        local = ids - self.vocab.text_start
        bad = np.flatnonzero((local < 0) | (local >= self.text.size))
        if bad.size:
            raise DataError(
                f"{where}, position {start + bad[0]}: id {ids[bad[0]]} is no text id of this tokenizer; those are "
                f"{self.vocab.text_start} to {self.vocab.text_start + self.text.size - 1}"
            )
        return local.tolist()

    def _grid(self, codes: np.ndarray, start: int) -> np.ndarray:
        """Return one picture's codes as a grid; `DataError` for a wrong number or range of them."""
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


_DRAWN = (Gap("image"), Gap("interleaved"))


def _with_turns(document: Document) -> Iterator[tuple[int, Part | None]]:
    """Yield parts with their index, texts side by side as one, and None where a turn ends."""
    for start, stop in pairwise((0, *document.meta.get(TURNS, ()), len(document.parts))):
        if start:
            yield start, None
        for group in groups(dataclasses.replace(document, parts=document.parts[start:stop])):
            yield from ((start + at, part) for at, part in group)


def _shown(ids: np.ndarray) -> str:
    """Return the first few ids, for a message."""
    return f"{ids.size} ids {ids[:6].tolist()}" + ("..." if ids.size > 6 else "")


def _rectangle(holes: list[Hole], cols: int, factor: int) -> Box:
    """Return the pixels of the smallest rectangle of cells that holds all of `holes`; a box's holes fill it."""
    y, x = np.divmod(np.asarray([cell - 1 for hole in holes for cell in hole.cells]), cols)
    f = factor
    return int(x.min()) * f, int(y.min()) * f, (int(x.max()) + 1) * f, (int(y.max()) + 1) * f
