"""Borders, the segments between them, and the cells of image codes.

    place    0    1  2  3   4       5   6   7   8   9
    ids      </s> a  b  c   <break> X   Y   Z   W   </s>
    cells    0    0  0  0   0       1   2   3   4   0
    runs          (1, 4)            (5, 9)             (10, 10): what follows the closing </s>, a tail or nothing

A border is `</s>` at both ends of a document, or `<break>` at each change of modality (paper section 2.2). A cell is
1 + the place of a code in the grid of its image, row by row; it travels with the code wherever the code is moved. In
the grammar "chameleon" the borders are `<s>`, `<break>` before a picture, `<eoss>` after it, and `</s>`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cm3.sequence.turns import block
from cm3.vocab import Tokens, Vocab

Span = tuple[int, int]
"""Start and stop of a run of tokens, stop exclusive."""


def runs(ids: np.ndarray, vocab: Vocab) -> list[Span]:
    """Return the run after each border of `ids` (s,), up to the next border or the end; empty ones too.

    Run i of a whole document is its part i, and the last run is what follows the document. In the grammar "chameleon"
    two borders may stand side by side, and there an empty run is no part: it is left out, but for the last. The marks
    of a picture's size are borders, and those of its rows are in the run.
    """
    ends = (vocab.eos,) if vocab.grammar == "cm3" else (vocab.eos, vocab.bos, vocab.eoss)
    borders = np.flatnonzero(np.isin(ids, (*vocab.begins, *ends))).tolist()
    found = [(start + 1, stop) for start, stop in zip(borders, [*borders[1:], len(ids)], strict=True)]
    if vocab.grammar == "chameleon":
        found = [run for run in found[:-1] if run[1] > run[0]] + found[-1:]
    return found


def segments(ids: np.ndarray, vocab: Vocab) -> list[Span]:
    """Return the runs of `ids` (s,) that are not empty."""
    return [(start, stop) for start, stop in runs(ids, vocab) if stop > start]


def cells_of(ids: np.ndarray, vocab: Vocab, codes: int | None = None) -> np.ndarray:
    """Compute cells int32 (s,) of whole documents one after the other; 0 for whatever is no image code.

    An image is a run of codes, with the marks of its rows; with `codes` a new one begins after each so many of a run.
    """
    code = vocab.is_image(ids)
    inside = code if vocab.marks is None else code | (ids == vocab.marks.row)
    at = np.cumsum(code, dtype=np.int32)
    cells = at - np.maximum.accumulate(np.where(inside, 0, at))
    return np.where(code, (cells - 1) % codes + 1 if codes else cells, 0).astype(np.int32)


def text_tokens(ids: Iterable[int], vocab: Vocab) -> Tokens:
    """Make tokens of a text from the ids of its tokenizer."""
    return Tokens.of([vocab.text_start + i for i in ids])


def image_cells(grid: tuple[int, ...], vocab: Vocab) -> np.ndarray:
    """Compute the cells int32 of an image's tokens, for a grid of (rows, columns): 1 to rows x columns, and 0 for the
    mark behind each row, where the vocabulary has marks."""
    cells = np.arange(1, 1 + np.prod(grid), dtype=np.int32).reshape(grid)
    return (cells if vocab.marks is None else np.pad(cells, ((0, 0), (0, 1)))).ravel()


def image_tokens(codes: np.ndarray, vocab: Vocab) -> Tokens:
    """Make tokens of an image from its grid of codes (rows, columns)."""
    cells = image_cells(codes.shape, vocab)
    ids = np.full(cells.size, 0 if vocab.marks is None else vocab.marks.row, np.int32)
    ids[cells > 0] = codes.ravel() + vocab.image_start
    return Tokens(ids, cells)


def image_codes(ids: np.ndarray, vocab: Vocab) -> np.ndarray:
    """Return the codes of an image's tokens, flat, without the marks of rows: the inverse of `image_tokens`."""
    return ids[vocab.is_image(ids)] - vocab.image_start


def document_of(parts: Iterable[Tokens], vocab: Vocab) -> Tokens:
    """Lay out `</s> part (<break> part)* </s>`; of no parts, `</s> </s>`. In the grammar "chameleon" it is `<s> part*
    </s>`, where a picture is `<break> codes <eoss>`."""
    border, pieces = Tokens.of([vocab.eos]), list[Tokens]()
    if vocab.grammar == "chameleon":
        laid_out = [block(p, vocab) if vocab.is_image(p.ids[:1]).any() else p for p in parts]
        return Tokens.concat([Tokens.of([vocab.bos]), *laid_out, border])
    for part in parts:
        pieces += [border if not pieces else Tokens.of([vocab.brk]), part]
    return Tokens.concat([*(pieces or [border]), border])
