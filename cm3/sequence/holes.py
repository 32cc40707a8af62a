"""Holes of a document: what one is, the space before it, and how text closes around it.

    document   "a small " Gap "circle"                   Image with a gap of two rows
    groups     [Text, Gap, Text]                         [Image]
    prompt     </s> a small <mask:0> circle   <break>    X X <mask:1> X X <mask:2> X X </s>
    join       "a small" + " red" + " circle"            codes go to the cells of their hole

The space before a hole: byte-level BPE keeps a space with the word after it, and training cuts spans between tokens,
so what comes back for a hole is " small", not "small". One space before a gap is therefore left out of the source,
where it would be a token of its own that training never shows there, and `join` puts it back only if a letter or digit
would otherwise stick to the text before the gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cm3.document import Document, Gap, Part, Text
from cm3.vocab import Tokens


@dataclass(frozen=True)
class Hole:
    """One `<mask:i>` of a prompt: what kind of ids it takes and where they belong.

    `cells` are the places 1 + raster index that an image hole fills, in order, so `len(cells)` is how many codes it
    takes; empty for text, which is as long as the model makes it. `part` is the index of the part in the document. An
    "interleaved" hole takes words and pictures, each of as many codes as `cells`. A cell of 0 takes the mark of a row
    (`cm3.sequence.segments.image_cells`).
    """

    kind: Literal["text", "image", "interleaved"]
    cells: tuple[int, ...]
    mask: int
    part: int


@dataclass(frozen=True, eq=False)
class Prompt:
    """A document as a CM3 source, closed by `</s>`, and its holes in the order of their masks.

    In the grammar "chameleon", which has no masks, it is what stands before its one hole, and whole where it has none.

    `codes` holds the whole grid, int32 (rows, cols), of each `Image` part, by the index of the part.
    """

    tokens: Tokens
    holes: tuple[Hole, ...]
    codes: Mapping[int, np.ndarray] = field(repr=False)

    @property
    def interleaved(self) -> bool:
        """Tell whether its hole, the only one then, takes words and pictures."""
        return any(hole.kind == "interleaved" for hole in self.holes)


def before_hole(text: str) -> tuple[str, str]:
    """Split a text before a hole: what stands in the source, and the space, or "", that the filling starts with."""
    return (text[:-1], " ") if text.endswith(" ") else (text, "")


def space_before(part: object) -> str:
    """Return the space that the filling of a hole starts with, after `part` (a `Part`, or None at the very start)."""
    return before_hole(part.text)[1] if isinstance(part, Text) else ""


def join(pieces: list[str | bytes]) -> str:
    """Join strings, and as bytes what was written for the gaps between them; see the module about spaces."""
    out, owed, after_gap = b"", False, False
    for number, piece in enumerate(pieces, start=1):
        gap, space = isinstance(piece, bytes), ""
        if isinstance(piece, str) and number < len(pieces):
            piece, space = before_hole(piece)
        data = piece if isinstance(piece, bytes) else piece.encode()
        if after_gap and not gap and out.endswith(b" ") and data.startswith(b" "):
            data = data[1:]
        if owed and data:
            out += b" " if data.decode("utf-8", errors="replace")[0].isalnum() else b""
            owed = False
        out, owed, after_gap = out + data, owed or bool(space), gap and bool(data)
    return (out + (b" " if owed else b"")).decode("utf-8", errors="replace")


def groups(document: Document) -> Iterator[list[tuple[int, Part]]]:
    """Yield parts with their index, one list a segment: texts and text gaps side by side, or one picture.

    Empty texts are left out, and neighbouring texts are one, with the index of the first.
    """
    run: list[tuple[int, Part]] = []
    for at, part in enumerate(document.parts):
        if not isinstance(part, Text) and part != Gap("text"):
            yield from ([run] if run else [])
            yield [(at, part)]
            run = []
        elif run and isinstance(part, Text) and isinstance(last := run[-1][1], Text):
            run[-1] = run[-1][0], Text(last.text + part.text)
        elif part != Text(""):
            run.append((at, part))
    yield from ([run] if run else [])
