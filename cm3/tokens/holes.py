"""Holes of a document: what one is, and how text closes around it.

A space before a text gap: byte-level BPE keeps a space with the word after it, and training cuts spans between tokens,
so what comes back for a hole is " small", not "small". One space before a gap is therefore left out of the source,
where it would be a token of its own that training never shows there, and `join` puts it back only if a letter or digit
would otherwise stick to the text before the gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cm3.document import Box, Document, Gap, Part, Text
from cm3.vocab import Tokens


@dataclass(frozen=True)
class Hole:
    """One `<mask:i>` of a prompt: what kind of ids it takes and where they belong.

    `cells` are the places 1 + raster index that an image hole fills, in order, so `len(cells)` is how many codes it
    takes; empty for text, which is as long as the model makes it. `part` is the index of the part in the document.
    """

    kind: Literal["text", "image"]
    cells: tuple[int, ...]
    mask: int
    part: int


@dataclass(frozen=True, eq=False)
class Prompt:
    """A document as a CM3 source, closed by `</s>`, and its holes in the order of their masks.

    `codes` holds the whole grid, int32 (rows, cols), of each `Image` part, by the index of the part.
    """

    tokens: Tokens
    holes: tuple[Hole, ...]
    codes: Mapping[int, np.ndarray] = field(repr=False)


def join(pieces: list[str | bytes]) -> str:
    """Strings, and as bytes what was written for the gaps between them, as one string; see the module about spaces."""
    out, owed, after_gap = b"", False, False
    for piece, following in pairs(pieces):
        gap = isinstance(piece, bytes)
        data = piece if isinstance(piece, bytes) else piece.encode()
        drop = not gap and following is not None and data.endswith(b" ")
        data = data[:-1] if drop else data
        if after_gap and not gap and out.endswith(b" ") and data.startswith(b" "):
            data = data[1:]
        if owed and data:
            out += b" " if data.decode("utf-8", errors="replace")[0].isalnum() else b""
            owed = False
        out, owed, after_gap = out + data, owed or drop, gap and bool(data)
    return (out + (b" " if owed else b"")).decode("utf-8", errors="replace")


def groups(document: Document) -> Iterator[list[tuple[int, Part]]]:
    """Parts with their index, one list a segment: neighbouring text and text gaps together, empty text left out."""
    run: list[tuple[int, Part]] = []
    for at, part in enumerate(document.parts):
        if isinstance(part, Text) or (isinstance(part, Gap) and part.kind == "text"):
            if not isinstance(part, Text) or part.text:
                run.append((at, part))
            continue
        if run:
            yield run
        run = []
        yield [(at, part)]
    if run:
        yield run


def pieces(group: list[tuple[int, Part]]) -> list[str | int]:
    """A text segment as strings and, for each gap, the index of its part; neighbouring strings are joined."""
    pieces: list[str | int] = []
    for at, part in group:
        if not isinstance(part, Text):
            pieces.append(at)
        elif pieces and isinstance(pieces[-1], str):
            pieces[-1] += part.text
        else:
            pieces.append(part.text)
    return pieces


def pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    """Each item with the one after it, the last with None."""
    return list(zip(items, [*items[1:], None], strict=True))


def rectangle(holes: list[Hole], cols: int, factor: int) -> Box:
    """Pixels of the smallest rectangle of cells that holds all of `holes`; a box's holes fill it."""
    y, x = np.divmod(np.asarray([cell - 1 for hole in holes for cell in hole.cells]), cols)
    f = factor
    return int(x.min()) * f, int(y.min()) * f, (int(x.max()) + 1) * f, (int(y.max()) + 1) * f
