"""A document store as a bank to choose documents from: what a search reads of it, laid out once.

store -> lay_bank -> StoreBank -> neighbours_of: what its documents, or another store's, may get
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from cm3.errors import CheckpointError
from cm3.files import checksum, read_json, replacing, sha256, write
from cm3.retrieval.nearest import Exact, Index, Progress, build_lists, open_lists
from cm3.retrieval.select import By, Candidate, SelectLaw, shortlists

_PARTS: tuple[By, By] = ("text", "image")
_LAID = ("means.npy", "images.npy", "has.npy")
"""Files of `lay_bank`."""
ROWS = 65_536
"""Rows of vectors that are read together."""


class About(Protocol):
    """The origin of a document. `own`: its id in its source; `pictures`: digests of its pictures."""

    @property
    def own(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def pictures(self) -> Sequence[str]: ...


class Rows(Protocol):
    """A matrix of vectors, read by rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray: ...


class Documents(Protocol):
    """The part of a store that is read here."""

    @property
    def path(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def encoder_name(self) -> str | None: ...
    def __len__(self) -> int: ...
    def about(self, number: int, /) -> About: ...
    def vectors(self, of: Literal["text", "image"], /) -> Rows | None: ...


def neighbours_of(
    bank: StoreBank, store: Documents, numbers: range, law: SelectLaw, texts: np.ndarray | None = None
) -> list[list[Candidate[int]]]:
    """Return what documents `numbers` of a store may get, best first; one list each.

    `texts` (n, w) are the vectors that they are searched for by, where those are not of all that they say.
    """
    own, images = (unit_vectors(store, of, slice(numbers.start, numbers.stop)) for of in _PARTS)
    here = store.fingerprint == bank.store.fingerprint
    skip = [frozenset({n} if here else ()) for n in numbers]
    known = [known_by(store.about(n)) for n in numbers]
    return shortlists(bank, own if texts is None else texts, images, skip, law, known, own)


def known_by(about: About) -> frozenset[bytes]:
    """Return what a document shares with none but its copies: its id in its source, and each of its pictures."""
    name = hashlib.sha256(json.dumps([about.source, about.own]).encode()).digest()
    return frozenset({name, *(picture.encode() for picture in about.pictures)})


def unit_vectors(store: Documents, of: Literal["text", "image"], rows: slice) -> np.ndarray:
    """Return unit vectors float32 of some documents, zeros for what they have not."""
    vectors = store.vectors(of)
    assert vectors is not None  # `_check_stores`
    found = np.asarray(vectors[rows], np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def lay_bank(store: Documents, parts: Path, kind: str, progress: Progress | None = None) -> None:
    """Write what a search reads of a bank, so that it reads no shard of the store, whose rows lie here and there.

    means.npy    float16 (n, width)   of the unit vectors of text and pictures
    images.npy   float16 (n, width)   unit vectors of pictures
    has.npy      uint8 (n,)           how many of the two there are
    lists.faiss                       the index, where not every row is looked at

    Files that are there as they were written are kept.
    """
    names = [*_LAID, *(() if kind == "exact" else ("lists.faiss",))]
    with contextlib.suppress(CheckpointError):  # damaged, or not there
        page = read_json(parts / "bank.json", "bank")
        if page.get("sha256") == checksum(page):
            if page["files"] == [(parts / name).is_file() and sha256(parts / name) for name in names]:
                return
    n, width = len(store), unit_vectors(store, "text", slice(0, 1)).shape[1]
    with contextlib.ExitStack() as stack:
        shapes = ((np.float16, (n, width)), (np.float16, (n, width)), (np.uint8, (n,)))
        files = [stack.enter_context(replacing(parts / name)) for name in _LAID]
        laid = [np.lib.format.open_memmap(f, "w+", *shape) for f, shape in zip(files, shapes, strict=True)]
        for start in range(0, n, ROWS):
            some = slice(start, min(start + ROWS, n))
            text, image = (unit_vectors(store, of, some) for of in _PARTS)
            has = [one.any(axis=1).astype(np.uint8) for one in (text, image)]
            number = has[0] + has[1]
            laid[0][some] = (text + image) / np.maximum(number, 1)[:, None]
            laid[1][some] = image
            laid[2][some] = number
            if progress is not None:
                progress(some.stop, n, "vectors")
        for array in laid:
            array.flush()
        del laid, array
    page = {"nprobe": 0}
    if kind != "exact":
        means = np.load(parts / "means.npy", mmap_mode="c")
        page = build_lists(means, kind, parts / "lists.faiss", progress)  # type: ignore[arg-type]
    page["files"] = [sha256(parts / name) for name in names]
    write(parts / "bank.json", json.dumps(page | {"sha256": checksum(page)}))


class StoreBank:
    """A store as a bank to choose from (`cm3.retrieval.select.Bank`): its documents are named by their numbers."""

    def __init__(self, store: Documents, parts: Path, kind: str) -> None:
        """Take `parts` and `kind` as they were given to `lay_bank`."""
        self.store, self.encoder_name = store, str(store.encoder_name)
        # Mapped "c", as torch takes no array that it may not write.
        self._means, self._images, self._has = (np.asarray(np.load(parts / name, mmap_mode="c")) for name in _LAID)
        self._index: Index = Exact(self._means)
        if kind != "exact":
            page = read_json(parts / "bank.json", "bank")
            self._index = open_lists(parts / "lists.faiss", self._means, page["nprobe"])

    @cached_property
    def _gone(self) -> np.ndarray | None:
        """Return documents without a vector, bool (n,); None where every one has one."""
        gone = self._has == 0
        return gone if gone.any() else None

    def __len__(self) -> int:
        return len(self._means) - (0 if self._gone is None else int(self._gone.sum()))

    def search(self, vectors: np.ndarray, k: int) -> tuple[list[list[int]], np.ndarray]:
        """Return numbers and scores (n, k) of the documents nearest to each of n vectors, best first."""
        scores, rows = self._index.search(vectors, k, self._gone)
        return rows.tolist(), scores

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """Return means of the unit vectors of text and pictures, float32 (n, width)."""
        return self._means[np.asarray(ids, np.int64)].astype(np.float32)

    def images(self, ids: Sequence[int]) -> np.ndarray:
        """Return unit vectors of pictures alone, float32 (n, width), zeros where there are none."""
        return self._images[np.asarray(ids, np.int64)].astype(np.float32)

    def pictures(self, ids: Sequence[int]) -> list[frozenset[bytes]]:
        """Return what documents are known by (`known_by`)."""
        return [known_by(self.store.about(id)) for id in ids]

    def whole(self, ids: Sequence[int]) -> list[bool]:
        """Tell which documents have text and a picture."""
        return (self._has[np.asarray(ids, np.int64)] == 2).tolist()
