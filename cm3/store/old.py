"""Stores and banks of format 1, for reading, for one release: `cm3 index build OLD --out NEW` writes a bank anew.

A token store had shards and an index of fewer tensors. A memory bank had a folder for each segment:

    segment-0001/documents.sqlite    documents and pictures
                 vectors.f32, .f16   their vectors, the mean of words and pictures
                 images.f16          the vectors of their pictures alone, zeros for none; perhaps not there
                 gone-000000003.npy  rows that were deleted
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sqlite3
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cm3.document import Document, Image, Text, check_text
from cm3.errors import DataError
from cm3.files import Facts, build, checksum, inside, parse_json, read_json, said, sha256
from cm3.store.manifest import BANK, FORMAT, KIND, NAME, Built, Manifest, Segment, page
from cm3.store.place import Layout
from cm3.store.record import Picture, Record, shows
from cm3.store.shard import Shape, license_of
from cm3.store.shard import shard_layout as new_layout
from cm3.store.store import About, Progress
from cm3.store.store import index_layout as new_index

# Token stores


def checked(found: dict[str, Any], where: str) -> Manifest:
    """Return the manifest of a token store of format 1 as one of today's. Raises `DataError` naming what is wrong."""
    if found.get("format") != 1:
        raise DataError(
            f"{where}: is of format {str(found.get('format'))[:20]}, this version reads 1 and {FORMAT}; prepare it "
            "again, or use the version that wrote it"
        )
    if found.get("sha256") != checksum(found):
        raise DataError(f"{where}: {NAME} was altered (its checksum is another); restore it")
    left = {name: value for name, value in found.items() if name not in ("from", "sha256", "format", "kind")}
    try:
        shards = [{"names": "", "pictures": None, **shard} for shard in left["shards"]]
        shape = {"words": False, "pictures": False, "encoder": None, "width": None}
        left |= shape | {"format": FORMAT, "kind": KIND, "shards": shards, "segments": [{"shards": len(shards)}]}
    except (TypeError, KeyError) as error:
        raise DataError(f"{where}: {NAME}.shards: is no list of shards; restore it") from error
    return build(Manifest, left, f"{where}: {NAME}", DataError)


def shard_layout(found: Mapping[str, Any], documents: int, shape: Shape) -> Layout:
    """Return the tensors of a shard of format 1; its vectors, the means of words and pictures, are left unread."""
    layout = dict(new_layout(documents, shape))
    for name in ("name_sums", "shown", "shown_starts"):
        del layout[name]
    width = found.get("width")
    return layout | ({"vectors": (np.float16, (documents, width))} if isinstance(width, int) else {})


def index_layout(documents: int) -> Layout:
    """Return the tensors of an index of format 1."""
    return {name: tensor for name, tensor in new_index(documents).items() if name != "has"}


# Memory banks

SMALL = 1 << 26
"""Files of at most so many bytes are compared with their checksum at every opening, larger ones by size."""
VECTORS = {"float32": "vectors.f32", "float16": "vectors.f16"}
_SEGMENT, _GONE = re.compile(r"segment-\d{4}"), re.compile(r"gone-\d{9,18}\.npy")
_FILE = re.compile(r"documents\.sqlite|images\.f16|index\.faiss|vectors\.f(32|16)")


@dataclass(frozen=True)
class Gone:
    """The list of rows that were deleted."""

    file: str
    rows: int
    facts: Facts


@dataclass(frozen=True)
class Entry:
    """A segment in the manifest of a bank."""

    name: str
    rows: int
    index: dict[str, Any]
    files: dict[str, Facts]
    gone: Gone | None = None

    def __post_init__(self) -> None:
        if not _SEGMENT.fullmatch(self.name) or not all(map(_FILE.fullmatch, self.files)) or self.rows < 1:
            raise ValueError(f"{self.name[:60]!r}: must be named as segment-0001, with the files and rows of one")
        if self.gone is not None and not _GONE.fullmatch(self.gone.file):
            raise ValueError(f"gone={self.gone.file[:60]!r}: must be named as gone-000000001.npy")


@dataclass(frozen=True)
class Page:
    """The manifest of a bank."""

    format: Literal[1]
    kind: str
    encoder: str
    width: int
    dtype: Literal["float32", "float16"]
    index: Literal["auto", "exact", "ivf", "pq"]
    about: dict[str, Any]
    segments: tuple[Entry, ...]


def is_bank(folder: str | Path) -> bool:
    """Tell whether a folder is a memory bank of format 1."""
    return "://" not in str(folder) and page(Path(folder) / NAME).get("kind") == BANK


class Bank:
    """A memory bank of format 1, as `cm3.retrieval.memory.Memory` reads a store. All its rows are searched."""

    def __init__(self, folder: Path) -> None:
        """Raise `DataError` for one that is damaged, or names what no bank has."""
        self.path, what = str(folder), f"memory bank {str(folder)!r}"
        self.manifest = read_json(inside(folder, NAME, what), what, DataError)
        self.fingerprint = str(self.manifest.get("sha256"))
        if self.fingerprint != checksum(self.manifest):
            raise DataError(f"{what}: {NAME} was altered (its checksum is another); restore it")
        left = {name: value for name, value in self.manifest.items() if name != "sha256"}
        found = build(Page, left, f"{what}: {NAME}", DataError)
        self.encoder_name: str | None = found.encoder
        self.width: int | None = found.width
        self._parts = [_Part(folder, entry, found) for entry in found.segments]
        self._starts = np.cumsum([0, *(part.rows for part in self._parts)])
        live = np.ones(int(self._starts[-1]), bool)
        live[
            [start + row for part, start in zip(self._parts, self._starts.tolist(), strict=False) for row in part.gone]
        ] = 0
        self.kept = np.flatnonzero(live)
        counts = Counter[str](), Counter[str]()
        for number in range(len(self.kept)):
            _, source, meta, _ = self._row(number)
            counts[0][source] += 1
            counts[1][license_of(meta)] += 1
        size = sum(f.bytes for entry in found.segments for f in entry.files.values())
        none: dict[str, Any] = {"bytes": 0, "sha256": "0" * 64}
        self.facts = Manifest(
            format=FORMAT, kind=KIND, about=found.about, vocab=None, text_tokenizer=None, image_tokenizer=None,
            encoder=found.encoder, width=found.width, index=found.index, words=True, pictures=True,
            documents=len(self.kept), tokens=0, text_tokens=0, image_tokens=0, truncated=0, duplicates={},
            deleted=int((~live).sum()), skipped={}, sources=dict(counts[0]), licenses=dict(counts[1]),
            segments=[Segment(1)], files={"index.safetensors": Facts(**none)},
            shards=[{"documents": len(live), "bytes": size, "sha256": "", "names": "", "pictures": none}],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.kept)

    def _at(self, number: int) -> tuple[_Part, int]:
        row = int(self.kept[number])
        part = int(np.searchsorted(self._starts, row, "right")) - 1
        return self._parts[part], row - int(self._starts[part])

    def _row(self, number: int) -> tuple[str, str, dict[str, Any], list[Any]]:
        part, row = self._at(number)
        return part.row(row)

    def spans(self) -> list[tuple[int, int, Built]]:
        """Return one segment."""
        return [(0, int(self._starts[-1]), Built())]

    def rows(self, what: str, begin: int, end: int) -> Vectors:
        """See `cm3.store.store.Store.rows`."""
        return self._vectors(what, np.arange(begin, end))

    def vectors(self, what: str) -> Vectors:
        """See `cm3.store.store.Store.vectors`."""
        return self._vectors(what, self.kept)

    def _vectors(self, what: str, rows: np.ndarray) -> Vectors:
        made = [part.vectors(what) for part in self._parts]
        has = np.concatenate([has for _, has in made])
        return Vectors([vectors for vectors, _ in made], self._starts, rows, has[rows])

    def about(self, number: int) -> About:
        """See `cm3.store.store.Store.about`."""
        id, source, meta, _ = self._row(number)
        pictures = tuple(p.digest.hex() for p in self.record(number).pictures)
        return About(id, source, meta, pictures)

    def ids_of(self, numbers: Sequence[int] | np.ndarray) -> list[str]:
        """See `cm3.store.store.Store.ids_of`."""
        return [self._row(int(number))[0] for number in numbers]

    def find_all(self, ids: Sequence[str]) -> list[list[int]]:
        """See `cm3.store.store.Store.find_all`."""
        return [self.find(id) for id in ids]

    def find(self, id: str, source: str | None = None) -> list[int]:
        """See `cm3.store.store.Store.find`."""
        found = []
        for part, start in zip(self._parts, self._starts.tolist(), strict=False):
            for row in part.find(id):
                number = int(np.searchsorted(self.kept, start + row))
                if number < len(self.kept) and self.kept[number] == start + row:
                    found.append(number)
        return [n for n in found if source is None or self._row(n)[1] == source]

    def ids(self) -> Iterator[str]:
        """Yield the id of every document, in order."""
        return (self._row(number)[0] for number in range(len(self)))

    def record(self, number: int) -> Record:
        """See `cm3.store.store.Store.record`."""
        part, row = self._at(number)
        return part.record(row)

    def document(self, number: int) -> Document:
        """See `cm3.store.store.Store.document`."""
        made = self.record(number)
        parts = tuple(Text(p) if isinstance(p, str) else Image(data=p.data) for p in made.parts)
        return Document(parts, id=made.id, source=made.source, meta=made.meta)

    def pixels(self, numbers: Sequence[int] | np.ndarray) -> list[frozenset[bytes]]:
        """See `cm3.store.store.Store.pixels`."""
        return [frozenset(p.pixels for p in self.record(int(number)).pictures) for number in numbers]

    def verify(self, progress: Progress | None = None) -> None:
        """Read every byte. Raises `DataError` naming the first file that is not as it was written."""
        for number, part in enumerate(self._parts, start=1):
            part.check(whole=True)
            if progress is not None:
                progress(number, len(self._parts), "")


class Vectors:
    """Rows of several arrays as of one, float32 (n, width)."""

    def __init__(self, parts: Sequence[np.ndarray], starts: np.ndarray, rows: np.ndarray, has: np.ndarray) -> None:
        self._parts, self._starts, self._rows, self.has = parts, starts, rows, has
        self.shape = (len(rows), int(parts[0].shape[1]))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows (..., width)."""
        wanted = self._rows[rows]
        part = np.searchsorted(self._starts, wanted, "right") - 1
        found = np.zeros((*wanted.shape, self.shape[1]), np.float32)
        for number, vectors in enumerate(self._parts):
            mine = part == number
            found[mine] = vectors[wanted[mine] - self._starts[number]]
        return found


class _Part:
    """A segment of a bank."""

    def __init__(self, folder: Path, entry: Entry, page: Page) -> None:
        self.rows, self._entry, self._page, self._bank = entry.rows, entry, page, folder
        self._what, self._lock, self._process = f"memory bank {str(folder)!r}", threading.Lock(), 0
        needed = {"documents.sqlite", VECTORS[page.dtype]}
        if not needed <= entry.files.keys():
            raise DataError(f"{self._what}: {NAME} names no {' and '.join(sorted(needed))}; restore it")
        self.check(whole=False)
        tables = {
            name for (name,) in self._all("SELECT name FROM sqlite_master WHERE type IN ('table', 'view', 'trigger')")
        }
        if tables != {"documents", "pictures", "skipped"}:
            raise self._bad("holds other tables than a memory bank's")
        self._summed = "pixels" in {row[1] for row in self._all("PRAGMA table_info(documents)")}
        if self._all("SELECT min(row), max(row), count(*) FROM documents") != [(0, self.rows - 1, self.rows)]:
            raise self._bad(f"does not have {self.rows} documents")
        self.gone: list[int] = []
        if entry.gone is not None:
            data = self._file(entry.gone.file, entry.gone.facts, whole=True).read_bytes()
            rows = (
                np.load(io.BytesIO(data), allow_pickle=False) if len(data) == entry.gone.rows * 8 + 128 else np.zeros(0)
            )
            if rows.dtype != np.int64 or rows.shape != (entry.gone.rows,) or rows.min() < 0 or rows.max() >= self.rows:
                raise DataError(f"{self._what}: {entry.gone.file} names rows that are not there; restore it")
            self.gone = [int(row) for row in rows]

    def check(self, *, whole: bool) -> None:
        """Compare every file with the manifest; large ones by size only, unless `whole`."""
        for name, facts in self._entry.files.items():
            self._file(name, facts, whole)
        for name, each in ((VECTORS[self._page.dtype], 4 if self._page.dtype == "float32" else 2), ("images.f16", 2)):
            known = self._entry.files.get(name)
            if known is not None and known.bytes != self.rows * self._page.width * each:
                raise DataError(f"{self._what}: {name} does not have {self.rows} rows; restore it")

    def _file(self, name: str, facts: Facts, whole: bool) -> Path:
        path = inside(self._bank, f"{self._entry.name}/{name}", self._what)
        if not path.is_file():
            raise DataError(f"{self._what}: {name} is missing, or no file; restore it from a copy")
        size = path.stat().st_size
        if size != facts.bytes:
            raise DataError(f"{self._what}: {name} has {size} bytes, not {facts.bytes}; restore it from a copy")
        if (whole or size <= SMALL) and sha256(path) != facts.sha256:
            raise DataError(f"{self._what}: {name} was altered (its checksum is another); restore it from a copy")
        return path

    def vectors(self, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors (rows, width) float32 of words or pictures, and which rows have one.

        Where a picture's is not known, the mean stands for that of the words.
        """
        shape, files = (self.rows, self._page.width), self._bank / self._entry.name
        mean = np.memmap(files / VECTORS[self._page.dtype], self._page.dtype, "r", shape=shape)
        if "images.f16" not in self._entry.files:
            is_text = what == "text"
            return mean if is_text else np.zeros_like(mean), np.full(self.rows, is_text)
        image = np.asarray(np.memmap(files / "images.f16", np.float16, "r", shape=shape), np.float32)
        has = np.asarray(image.any(1))
        if what == "image":
            return image, has
        alone = has & (np.abs(image - mean).max(1) < 1e-3)
        text = np.where(has[:, None], 2 * mean.astype(np.float32) - image, mean)
        text[alone] = 0
        return text, ~alone

    def _bad(self, reason: str) -> DataError:
        return DataError(f"{self._what}: documents.sqlite is not readable ({reason}); restore it from a copy")

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                if self._process != os.getpid():  # SQLite: no connection is carried across a fork
                    path = (self._bank / self._entry.name / "documents.sqlite").resolve()
                    self._store = sqlite3.connect(
                        f"{path.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
                    )
                    self._process = os.getpid()
                    weakref.finalize(self, self._store.close)
                    self._store.execute("PRAGMA trusted_schema=OFF")
                    self._store.execute("PRAGMA cell_size_check=ON")
                return self._store.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeError, OverflowError) as error:
            raise self._bad(said(error)) from error

    def find(self, id: str) -> list[int]:
        """Return the row of a document; nothing for what is not here, and for what is no text."""
        try:
            check_text(id)
        except DataError:
            return []
        return [row for (row,) in self._all("SELECT row FROM documents WHERE id = ?", id)]

    def row(self, row: int) -> tuple[str, str, dict[str, Any], list[Any]]:
        """Return id, source, meta and parts of a document. Raises `DataError` for one that is damaged."""
        more = ", pixels, sum" if self._summed else ""
        found = self._all(f"SELECT id, source, meta, parts{more} FROM documents WHERE row = ?", row)
        if found and all(isinstance(value, str) for value in found[0][:4]):
            id, source, meta, parts, *sums = found[0]
            told = json.dumps(
                [row, id, source, meta, parts, sums[0].hex() if sums and isinstance(sums[0], bytes) else ""]
            )
            if not sums or hashlib.blake2b(told.encode(), digest_size=8).digest() == sums[1]:
                known, listed = (parse_json(text, f"{self._what}: document {id!r}") for text in (meta, parts))
                if isinstance(known, dict) and isinstance(listed, list):
                    return id, source, known, listed
        raise self._bad(f"row {row} is damaged or missing")

    def record(self, row: int) -> Record:
        """Return all that is stored of a row. Raises as `row`."""
        id, source, meta, listed = self.row(row)
        parts: list[str | Picture] = []
        for part in listed:
            if isinstance(part, str):
                check_text(part, f"{self._what}: document {id!r}: its text")
                parts.append(part)
                continue
            found = self._all("SELECT digest, data FROM pictures WHERE number = ?", part) if type(part) is int else []
            if not found or not isinstance(found[0][1], bytes) or hashlib.sha256(found[0][1]).digest() != found[0][0]:
                raise self._bad(f"picture {str(part)[:20]} is damaged or missing")
            data = found[0][1]
            parts.append(Picture(data, (image := Image(data=data)).digest, shows(image.pixels)))
        return Record(id, source, meta, tuple(parts))
