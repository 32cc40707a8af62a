"""The documents behind a memory bank, in one SQLite file: by row, by id, with their pictures as encoded bytes.

SQLite because it is a well-kept store of the standard library that does what is needed here: random access by row and
by id without reading the rest, memory-mapped reading, and transactions, so that the file is its own journal while a
bank is built: what was committed is there after a kill. A finished shelf is never written again and is opened as
immutable, which takes no lock and works on read-only media.

A picture that comes from a JPEG, PNG or WebP file keeps that file's bytes; any other is stored without loss as PNG, or
as TIFF where PNG does not know its mode. Equal pictures are stored once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import PIL.ImageFile

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import CheckpointError, DataError
from cm3.picture import open_picture

SCHEMA = """
CREATE TABLE documents (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, meta TEXT NOT NULL,
                        parts TEXT NOT NULL);
CREATE TABLE pictures (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL);
CREATE TABLE skipped (item INTEGER PRIMARY KEY, id TEXT NOT NULL, reason TEXT NOT NULL);
"""
AS_THEY_ARE = ("JPEG", "MPO", "PNG", "WEBP")
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
MAPPED = 1 << 30
FEW = 8
"""Up to so many rows are asked for one by one, which is quicker than a list of them."""


@dataclass(frozen=True)
class Record:
    """A document as it is stored: its parts are strings, and pictures as encoded bytes; `meta` is JSON."""

    id: str
    source: str
    meta: str
    parts: tuple[str | bytes, ...]

    @property
    def text(self) -> str:
        """Every text part, joined."""
        return "".join(p for p in self.parts if isinstance(p, str))


def pack(document: Document) -> tuple[Record, Document] | Unreadable:
    """A document as a record, and with its pictures read; `Unreadable` where a picture is damaged or nothing is there.

    Raises `DataError` for one without an id, with a gap, or with `meta` that is not plain JSON.
    """
    if not document.id:
        raise DataError(
            f"a document of {document.source or 'no source'!r} has no id; give each document one of its own"
        )
    try:
        f"{document.id}{document.source}".encode()
    except UnicodeEncodeError as error:
        raise DataError(f"document {document.id!r}: id and source must be valid Unicode") from error
    if document.has_gap:
        raise DataError(f"document {document.id!r}: has a gap; a memory bank holds whole documents")
    if not document.text.strip() and not document.images:
        return Unreadable(document.id, "has neither text nor picture")
    parts: list[str | bytes] = []
    read: list[Text | Image] = []
    for part in document.parts:
        if isinstance(part, Text):
            parts.append(part.text)
            read.append(part)
        elif isinstance(part, Image):
            try:
                data, pixels = encode(part.pixels)
            except Exception as error:  # Pillow raises many kinds for a damaged file
                return Unreadable(document.id, " ".join(str(error).split()) or type(error).__name__)
            parts.append(data)
            read.append(Image(pixels))
    try:
        meta = json.dumps(dict(document.meta), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"document {document.id!r}: meta is not plain JSON ({error})") from error
    known = Document(tuple(read), id=document.id, source=document.source, meta=document.meta)
    return Record(document.id, document.source, meta, tuple(parts)), known


def encode(picture: PIL.Image.Image) -> tuple[bytes, PIL.Image.Image]:
    """The bytes to keep of a picture, and the picture with its pixels read. Raises Pillow's errors for a damaged one.

    A file that was opened and not read yet (`open_picture` reads the header only) still is its file's bytes; later
    it may have been drawn on.
    """
    unread = isinstance(picture, PIL.ImageFile.ImageFile) and getattr(picture, "_im", picture) is None
    if unread and picture.format in AS_THEY_ARE and picture.tell() == 0:
        assert isinstance(picture, PIL.ImageFile.ImageFile) and picture.fp is not None
        picture.fp.seek(0)
        data = picture.fp.read()
        read = open_picture(data)
        read.load()
        return data, read
    picture.load()
    buffer = io.BytesIO()
    keep = {name: picture.info[name] for name in ("exif", "icc_profile") if picture.info.get(name)}
    if picture.mode in PNG_MODES:
        picture.save(buffer, "PNG", **keep)
    else:
        try:
            picture.save(buffer, "TIFF", **keep)
        except (OSError, KeyError):  # a mode of neither format, such as HSV: the nearest one that is
            picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
            picture.save(buffer, "PNG", **keep)
    return buffer.getvalue(), picture


class Shelf:
    """A finished shelf, for reading; from any thread, and after a fork."""

    def __init__(self, path: Path) -> None:
        """Open one. Raises `CheckpointError` for a file that is none."""
        self.path = path
        self._process = 0
        self._lock = threading.Lock()
        self._all("SELECT row FROM documents LIMIT 1")

    def _all(self, query: str, *values: object) -> list[tuple]:
        try:
            with self._lock:
                if self._process != os.getpid():  # SQLite: no connection is carried across a fork
                    self._connect()
                return self._store.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise CheckpointError(f"{str(self.path)!r}: not readable ({error}); restore it from a copy") from error

    def _connect(self) -> None:
        address = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
        self._store, self._process = sqlite3.connect(address, uri=True, check_same_thread=False), os.getpid()
        weakref.finalize(self, self._store.close)
        self._store.execute(f"PRAGMA mmap_size={MAPPED}")

    def row(self, id: str) -> int | None:
        """Where a document is."""
        found = self._all("SELECT row FROM documents WHERE id = ?", id)
        return found[0][0] if found else None

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Those of `ids` that are here, with their rows."""
        query = "SELECT id, row FROM documents WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self._all(query, json.dumps(list(ids))))

    def ids_of(self, rows: Sequence[int]) -> dict[int, str]:
        """The ids of rows."""
        if len(rows) <= FEW:
            return {row: id for row in rows for (id,) in self._all("SELECT id FROM documents WHERE row = ?", row)}
        query = "SELECT row, id FROM documents WHERE row IN (SELECT value FROM json_each(?))"
        return dict(self._all(query, json.dumps(list(rows))))

    def ids(self) -> Iterator[tuple[int, str]]:
        """Every row with its id, in order."""
        after = -1
        while found := self._all("SELECT row, id FROM documents WHERE row > ? ORDER BY row LIMIT 10000", after):
            yield from found
            after = found[-1][0]

    def record(self, row: int) -> Record:
        """What is stored of a row."""
        ((id, source, meta, parts),) = self._all("SELECT id, source, meta, parts FROM documents WHERE row = ?", row)
        kept: list[str | bytes] = []
        for part in json.loads(parts):
            kept.append(part if isinstance(part, str) else self._picture(part))
        return Record(id, source, meta, tuple(kept))

    def _picture(self, number: int) -> bytes:
        return self._all("SELECT data FROM pictures WHERE number = ?", number)[0][0]

    def document(self, row: int) -> Document:
        """A document; its pictures are decoded when their pixels are first asked for."""
        record = self.record(row)
        parts = tuple(Text(p) if isinstance(p, str) else Image(open_picture(p)) for p in record.parts)
        return Document(parts, id=record.id, source=record.source, meta=json.loads(record.meta))

    def skipped(self) -> list[Unreadable]:
        """What could not be kept when the shelf was made."""
        return [Unreadable(*row) for row in self._all("SELECT id, reason FROM skipped ORDER BY item")]

    def count(self, what: str, rows: Sequence[int] | None = None) -> dict[str, int]:
        """How many documents each `source` or `license` (of meta) has, of all or of some rows."""
        value = {"source": "source", "license": "coalesce(json_extract(meta, '$.license'), '')"}[what]
        some = "" if rows is None else "WHERE row IN (SELECT value FROM json_each(?))"
        given = () if rows is None else (json.dumps(list(rows)),)
        return {str(v): n for v, n in self._all(f"SELECT {value}, count(*) FROM documents {some} GROUP BY 1", *given)}

    def damage(self) -> str:
        """What SQLite finds wrong with the file, empty where nothing is."""
        found = self._all("PRAGMA quick_check(1)")[0][0]
        return "" if found == "ok" else str(found)


class Draft:
    """A shelf that is being made; what `commit` has returned from survives a kill."""

    def __init__(self, path: Path) -> None:
        """Begin one, or go on with what was committed."""
        fresh = not path.exists()
        try:
            self._store = sqlite3.connect(path)
            if fresh or not self._store.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._store.executescript(f"BEGIN; {SCHEMA} COMMIT;")
            (self.rows,) = self._store.execute("SELECT count(*) FROM documents").fetchone()
            (self.skips,) = self._store.execute("SELECT count(*) FROM skipped").fetchone()
        except sqlite3.Error as error:
            raise CheckpointError(f"{str(path)!r}: not readable ({error}); delete {str(path.parent)!r}") from error

    def journal(self) -> Iterator[tuple[str, str | None, str | None]]:
        """What was committed, in the source's order: (id, source, text) of a document, (id, None, None) if skipped."""
        skipped = dict(self._store.execute("SELECT item, id FROM skipped"))
        rows = self._store.execute("SELECT id, source, parts FROM documents ORDER BY row")
        for item in range(self.rows + len(skipped)):
            if item in skipped:
                yield skipped[item], None, None
            else:
                id, source, parts = next(rows)
                yield id, source, "".join(p for p in json.loads(parts) if isinstance(p, str))

    def skipped(self) -> list[Unreadable]:
        """What is left out so far."""
        return [Unreadable(*row) for row in self._store.execute("SELECT id, reason FROM skipped ORDER BY item")]

    def taken(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that are here already."""
        query = "SELECT id FROM documents WHERE id IN (SELECT value FROM json_each(?))"
        return [row[0] for row in self._store.execute(query, (json.dumps(list(ids)),))]

    def put(self, record: Record) -> None:
        """Add a document."""
        parts: list[str | int] = [p if isinstance(p, str) else self._keep(p) for p in record.parts]
        values = (self.rows, record.id, record.source, record.meta, json.dumps(parts))
        self._store.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", values)
        self.rows += 1

    def _keep(self, data: bytes) -> int:
        digest = hashlib.sha256(data).digest()
        self._store.execute("INSERT OR IGNORE INTO pictures (digest, data) VALUES (?, ?)", (digest, data))
        return self._store.execute("SELECT number FROM pictures WHERE digest = ?", (digest,)).fetchone()[0]

    def skip(self, unreadable: Unreadable) -> None:
        """List a document that is left out."""
        values = (self.rows + self.skips, unreadable.id, unreadable.reason)
        self._store.execute("INSERT INTO skipped VALUES (?, ?, ?)", values)
        self.skips += 1

    def commit(self) -> None:
        """Make everything until here survive a kill."""
        self._store.commit()

    def close(self) -> None:
        """Drop what was not committed."""
        self._store.close()
