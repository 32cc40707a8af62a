"""Sequences -> windows of a fixed length, whole documents only.

First fit: a document goes into the first window with room for it. Nothing is cut, so no image is split and no masked
tail is lost; what stays empty is padding with weight 0, and its share is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cm3.errors import ConfigError, DataError
from cm3.vocab import Tokens, Vocab


class Batch(NamedTuple):
    """Windows ready for a decoder, each array (b, s).

    `ids`, `cells`, `positions` (from 0 in each document) int64; `documents` int64, 0 for padding, else 1, 2, ...;
    `targets` int64, the next token of the same document; `weights` float32, 0 where there is no target.
    """

    ids: np.ndarray
    cells: np.ndarray
    positions: np.ndarray
    documents: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    @property
    def fill(self) -> float:
        """Share of the windows that is not padding."""
        return float((self.documents > 0).mean())


class Packer:
    """Fills `windows` windows of `length` tokens. `add` says whether a document still found room."""

    def __init__(self, windows: int, length: int, vocab: Vocab, tail_weight: float = 1.0) -> None:
        """`tail_weight`: loss weight of what follows the closing `</s>`, the spans that a mask moved there.

        Raises `ConfigError` when there is no room for anything.
        """
        if windows < 1 or length < 2:
            raise ConfigError(f"pack: windows={windows} must be at least 1 and length={length} at least 2")
        self.length, self.vocab, self.tail_weight = length, vocab, tail_weight
        self.rows: list[list[Tokens]] = [[] for _ in range(windows)]
        self.room = [length] * windows

    def add(self, document: Tokens) -> bool:
        """Place a document; False when no window has room. Raises `DataError` for one longer than a whole window."""
        if document.length > self.length:
            raise DataError(
                f"pack: a document of {document.length} tokens does not fit a window of {self.length}; raise the length"
            )
        for i, room in enumerate(self.room):
            if document.length <= room:
                self.rows[i].append(document)
                self.room[i] -= document.length
                return True
        return False

    def batch(self) -> Batch:
        """The windows as arrays."""
        shape = (len(self.rows), self.length)
        ids = np.full(shape, self.vocab.pad, np.int64)
        cells, positions, documents, targets = (np.zeros(shape, np.int64) for _ in range(4))
        weights = np.zeros(shape, np.float32)
        for i, row in enumerate(self.rows):
            at = 0
            for number, tokens in enumerate(row, start=1):
                end = at + tokens.length
                ids[i, at:end], cells[i, at:end] = tokens.ids, tokens.cells
                positions[i, at:end], documents[i, at:end] = np.arange(tokens.length), number
                targets[i, at : end - 1], weights[i, at : end - 1] = tokens.ids[1:], 1.0
                if self.tail_weight != 1 and int(tokens.ids[-1]) != self.vocab.eos:
                    closed = at + int(np.flatnonzero(tokens.ids == self.vocab.eos)[-1])
                    weights[i, closed : end - 1] = self.tail_weight
                at = end
        return Batch(ids, cells, positions, documents, targets, weights)


def pack(documents: Iterable[Tokens], windows: int, length: int, vocab: Vocab) -> tuple[Batch, int]:
    """Pack documents until one finds no room; return the batch and how many were taken."""
    packer, taken = Packer(windows, length, vocab), 0
    for document in documents:
        if not packer.add(document):
            break
        taken += 1
    return packer.batch(), taken
