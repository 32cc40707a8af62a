"""Vectors of a store's documents as arrays: a slice, numbers or a mask give those rows, and nothing else is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from cm3.store.place import Tensors


class Rows(Protocol):
    """Vectors of words or of pictures (n, width)."""

    has: np.ndarray
    """Rows that have one, bool (n,); the others are zeros."""
    shape: tuple[int, int]

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


class Shards(Protocol):
    """The part of `cm3.store.store.Store` that is read here."""

    def shard(self, number: int, /) -> Tensors: ...
    def by_shard(self, places: np.ndarray, /) -> Iterator[tuple[int, np.ndarray, np.ndarray]]: ...


class Stored:
    """Vectors float16 (n, width), mapped: a slice or an array of row numbers gives those rows as an array."""

    def __init__(
        self, store: Shards, what: str, shape: tuple[int, int], begin: int, places: np.ndarray | None, has: np.ndarray
    ) -> None:
        """Take `places` of the rows in the shards of a store; without them, the rows from place `begin` on."""
        self._store, self._what, self._begin, self._places = store, what, begin, places
        self.shape, self.dtype = shape, np.dtype(np.float16)
        self.has = has

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """Return rows (..., width), by slice, by numbers, or by mask."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        wanted = np.asarray(rows)
        wanted = np.flatnonzero(wanted) if wanted.dtype == bool else wanted.astype(np.int64)
        flat = wanted.reshape(-1)
        if flat.size and not (-len(self) <= flat.min() and flat.max() < len(self)):
            raise IndexError(f"vectors: has rows 0 to {len(self) - 1}")
        flat = np.where(flat < 0, flat + len(self), flat)
        places = flat + self._begin if self._places is None else self._places[flat]
        found = np.zeros((flat.size, self.shape[1]), np.float16)
        for number, mine, row in self._store.by_shard(places):
            shard = self._store.shard(number)
            if int(row[-1]) - int(row[0]) + 1 == len(row) and bool((np.diff(row) == 1).all()):
                part = shard.parts(self._what, [(int(row[0]), int(row[-1]) + 1)])[0]
            else:
                part = shard[self._what][row]
            if len(mine) == flat.size:
                found = part  # of one shard, in the order asked for
            else:
                found[mine] = part
        return found.reshape(*wanted.shape, self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows, in memory."""
        return self[:].astype(dtype or self.dtype, copy=bool(copy))


class Means:
    """The documents' vectors, float32 (n, width): the mean of words and pictures, or the one that there is."""

    def __init__(self, text: Rows, image: Rows) -> None:
        self.text, self.image, self.shape = text, image, text.shape
        count = text.has.astype(np.float32) + image.has
        self._share = 1 / np.maximum(count, 1)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        found = self.text[rows].astype(np.float32)
        found += self.image[rows]
        found *= self._share[rows][..., None]
        return found
