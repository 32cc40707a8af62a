"""Sequences -> windows of a fixed length, whole documents only.

    | document 1          | document 2    | 3    | 4 |..|     a window; what stays empty (..) is padding of weight 0

Nothing that is packed is cut, so no image is split and no masked tail is lost. Documents of a window do not see each
other and count their positions from 0, so a window may be many times longer than a model's context; the longer it is,
the less of it is padding. A document that is longer than all there is was cut before (`cm3.sequence.truncate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cm3.sequence.answers import Weighted
from cm3.vocab import Vocab


class Batch(NamedTuple):
    """Windows ready for a decoder, each array (b, s).

    `ids`, `cells`, `positions` (from 0 in each document, with gaps where tokens are left out) int64; `documents` int64,
    0 for padding, else 1, 2, ...; `targets` int64, the next token of the same document; `weights` float32, 0 where
    there is no target.
    """

    ids: np.ndarray
    cells: np.ndarray
    positions: np.ndarray
    documents: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    @property
    def fill(self) -> float:
        """Return the share of the windows that is not padding."""
        return float((self.documents > 0).mean())


def best_fill(lengths: Sequence[int], room: int, *, first: bool = False) -> list[int]:
    """Choose the lengths that fill `room` best together, in order: exactly best, and of equals those that come earlier.

    With `first`, the first is among them; it must fit.
    """
    # Bit s of sums[i] says whether some of the first i lengths make s together.
    sums, within = [1], (1 << room + 1) - 1
    for i, length in enumerate(lengths):
        taken = sums[-1] << length & within
        sums.append(taken if first and i == 0 else sums[-1] | taken)
    total, chosen = sums[-1].bit_length() - 1, []
    for i in reversed(range(len(lengths))):
        if not sums[i] >> total & 1:
            chosen.append(i)
            total -= lengths[i]
    return chosen[::-1]


def lay_out(rows: Sequence[Sequence[Weighted]], length: int, vocab: Vocab) -> Batch:
    """Lay out one window of `length` tokens for each row of documents, which together are no longer."""
    shape = (len(rows), length)
    ids = np.full(shape, vocab.pad, np.int64)
    cells, positions, documents, targets = (np.zeros(shape, np.int64) for _ in range(4))
    weights = np.zeros(shape, np.float32)
    count = np.arange(length)
    for i, row in enumerate(rows):
        at = 0
        for number, document in enumerate(row, start=1):
            tokens, given, shown, kept = document
            end = at + document.length
            own = count[: tokens.length] if kept is None else np.flatnonzero(kept)
            ids[i, at:end], cells[i, at:end] = (tokens.ids if shown is None else shown)[own], tokens.cells[own]
            positions[i, at:end], documents[i, at:end] = own, number
            # What follows a token in the document, though the next in the window may be one further on.
            told = own[own < tokens.length - 1] + 1
            targets[i, at : at + len(told)] = tokens.ids[told]
            weights[i, at : at + len(told)] = given[told]
            at = end
    return Batch(ids, cells, positions, documents, targets, weights)
