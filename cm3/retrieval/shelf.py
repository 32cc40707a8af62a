"""The documents behind a memory bank, in one SQLite file: by row, by id, with their pictures as encoded bytes.

SQLite because it is a well-kept store of the standard library that does what is needed here: random access by row and
by id without reading the rest, memory-mapped reading, and transactions, so that the file is its own journal while a
bank is built: what was committed is there after a kill. A finished shelf is never written again and is opened as
immutable, which takes no lock and works on read-only media.

A picture that comes from a JPEG, PNG or WebP file keeps that file's bytes; any other is stored without loss as PNG, or
as TIFF where PNG does not know its mode. Equal pictures are stored once. Each document and each picture is compared
with its checksum whenever it is read. A file may come from a stranger: only one of the tables below, and nothing else
that SQLite knows, is one of ours.
"""

from __future__ import annotations

import contextlib
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
from typing import Any

from cm3.document import Document, Image, Text, Unreadable, check_text
from cm3.errors import CheckpointError, DataError, DiskError
from cm3.files import disk_error, parse_json, said
from cm3.picture import open_picture
from cm3.retrieval.picture import digest

_PICTURES = "CREATE TABLE pictures (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL)"
_SKIPPED = "CREATE TABLE skipped (item INTEGER PRIMARY KEY, id TEXT NOT NULL, reason TEXT NOT NULL)"
_BARE = (
    "CREATE TABLE documents (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, "
    "meta TEXT NOT NULL, parts TEXT NOT NULL{})"
)
TABLES = (_BARE.format(", pixels BLOB NOT NULL, sum BLOB NOT NULL"), _PICTURES, _SKIPPED)
"""`pixels`: the digests of what its pictures show, one after the other; `sum`: the checksum of all before it."""
EARLIER = (_BARE.format(""), _PICTURES, _SKIPPED)
"""Those of shelves that were made before there were sums."""
AS_THEY_ARE = ("JPEG", "MPO", "PNG", "WEBP")
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
MAPPED = 1 << 30
FEW = 8
"""Up to so many rows are asked for one by one, which is quicker than a list of them."""
DIGEST = 16
"""Bytes of the digest of what a picture shows."""


@dataclass(frozen=True)
class Record:
    """A document as it is stored: its parts are strings, and pictures as encoded bytes; `meta` is JSON.

    `pixels` are the digests of what its pictures show (`cm3.retrieval.picture.digest`), in their order.
    """

    id: str
    source: str
    meta: str
    parts: tuple[str | bytes, ...]
    pixels: tuple[bytes, ...] = ()

    @property
    def text(self) -> str:
        """Every text part, joined."""
        return "".join(p for p in self.parts if isinstance(p, str))


def pack(document: Document) -> tuple[Record, Document] | Unreadable:
    """Return a document as a record, and with its pictures read.

    `Unreadable` where a picture is damaged, where its text or what is noted of it is none (`cm3.document.check_text`),
    where its `meta` is not plain JSON, and where nothing is there. Raises `DataError` for one without an id, or with a
    gap.
    """
    if not document.id:
        raise DataError(
            f"a document of {document.source or 'no source'!r} has no id; give each document one of its own"
        )
    if document.has_gap:
        raise DataError(f"document {document.id!r}: has a gap; a memory bank holds whole documents")
    try:
        meta = json.dumps(dict(document.meta), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return Unreadable(document.id, f"its meta is not plain JSON ({said(error)})")
    if not document.text.strip() and not document.images:
        return Unreadable(document.id, "has neither text nor picture")
    parts: list[str | bytes] = []
    read: list[Text | Image] = []
    pixels: list[bytes] = []
    try:
        check_text(document.id, "its id")
        check_text(document.source, "its source")
        check_text(dict(document.meta), "its meta")
        for part in document.parts:
            if isinstance(part, Text):
                check_text(part.text)
                parts.append(part.text)
                read.append(part)
            elif isinstance(part, Image):
                # Decoded in an image of our own, so that who keeps the document keeps no pixels.
                own = part if part.data is None else Image(data=part.data, name=part.name)
                parts.append(encode(own))
                read.append(own)
                pixels.append(digest(own.pixels))
    except Exception as error:  # Pillow raises many kinds for a damaged picture
        return Unreadable(document.id, said(error))
    known = Document(tuple(read), id=document.id, source=document.source, meta=document.meta)
    return Record(document.id, document.source, meta, tuple(parts), tuple(pixels)), known


def encode(image: Image) -> bytes:
    """The bytes to keep of a picture, which is read to its end. Raises Pillow's errors for a damaged one."""
    picture = image.pixels
    picture.load()
    if image.data is not None and picture.format in AS_THEY_ARE:
        return image.data
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
    return buffer.getvalue()


class Shelf:
    """A finished shelf, for reading; from any thread, and after a fork."""

    def __init__(self, path: Path) -> None:
        """Open one. Raises `CheckpointError` for a file that is none."""
        self.path = path
        self._process = 0
        self._lock = threading.Lock()
        self._summed = _tables(self._all(_SCHEMA)) == TABLES
        if not self._summed and _tables(self._all(_SCHEMA)) != EARLIER:
            raise self._bad("holds other tables than a memory bank's")
        first, last = self._all("SELECT min(row), max(row) FROM documents")[0]
        self.rows = 0 if last is None else _whole(last) + 1
        """How many documents it has, by its first and last row."""
        if first not in (None, 0):
            raise self._bad("its rows do not begin at 0")

    def _bad(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{str(self.path)!r}: not readable ({reason}); restore it from a copy")

    def _all(self, query: str, *values: object) -> list[tuple]:
        try:
            with self._lock:
                if self._process != os.getpid():  # SQLite: no connection is carried across a fork
                    self._connect()
                return self._store.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeError, OverflowError) as error:
            raise self._bad(said(error)) from error

    def _connect(self) -> None:
        address = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
        self._store, self._process = sqlite3.connect(address, uri=True, check_same_thread=False), os.getpid()
        weakref.finalize(self, self._store.close)
        self._store.execute(f"PRAGMA mmap_size={MAPPED}")
        self._store.execute("PRAGMA trusted_schema=OFF")
        self._store.execute("PRAGMA cell_size_check=ON")

    def row(self, id: str) -> int | None:
        """Return where a document is; None for what is not here, and for what is no text."""
        try:
            check_text(id)
        except DataError:
            return None
        found = self._all("SELECT row FROM documents WHERE id = ?", id)
        return found[0][0] if found else None

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Those of `ids` that are here, with their rows."""
        query = "SELECT id, row FROM documents WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self._all(query, json.dumps(list(ids))))

    def ids_of(self, rows: Sequence[int]) -> dict[int, str]:
        """Return the ids of those of `rows` that are there."""
        if len(rows) <= FEW:
            found = {row: id for row in rows for (id,) in self._all("SELECT id FROM documents WHERE row = ?", row)}
        else:
            query = "SELECT row, id FROM documents WHERE row IN (SELECT value FROM json_each(?))"
            found = dict(self._all(query, json.dumps(list(rows))))
        if not all(isinstance(id, str) for id in found.values()):
            raise self._bad("an id is no text")
        return found

    def ids(self) -> Iterator[tuple[int, str]]:
        """Yield every row with its id, in order. Raises `CheckpointError` for one that is damaged."""
        after = -1
        while found := self._all(f"{self._columns} WHERE row > ? ORDER BY row LIMIT 1000", after):
            for known in found:
                self._check(known)
                yield known[0], known[1]
            after = found[-1][0]

    @property
    def _columns(self) -> str:
        return f"SELECT row, id, source, meta, parts{', pixels, sum' if self._summed else ''} FROM documents"

    def _row(self, row: int) -> tuple[Any, ...]:
        found = self._all(f"{self._columns} WHERE row = ?", row)
        if not found:
            raise self._bad(f"row {row} is missing")
        self._check(found[0])
        return found[0]

    def _check(self, known: tuple[Any, ...]) -> None:
        right = all(isinstance(value, str) for value in known[1:5])
        if right and self._summed:
            right = isinstance(known[5], bytes) and _sum(*known[:6]) == known[6]
        if not right:
            raise self._bad(f"row {known[0]} is damaged")

    def record(self, row: int) -> Record:
        """Return all that is stored of a row. Raises `CheckpointError` for one that is damaged, or no bank's."""
        _, id, source, meta, parts, *pixels = self._row(row)
        kept: list[str | bytes] = []
        what = f"{str(self.path)!r}: document {id!r}"
        for part in _list(parse_json(parts, what, CheckpointError), what):
            kept.append(part if isinstance(part, str) else self._picture(part))
        try:
            for name, text in (("its id", id), ("its source", source), *(("its text", p) for p in kept)):
                if isinstance(text, str):
                    check_text(text, name)
            if not isinstance(parse_json(meta, what, CheckpointError), dict):
                raise DataError("what is noted of it is no object")
        except DataError as error:
            raise CheckpointError(f"{what}: {error}; delete it from the bank, or build the bank again") from error
        shown = _cut(pixels[0]) if pixels else tuple(_shown(p) for p in kept if isinstance(p, bytes))
        return Record(id, source, meta, tuple(kept), shown)

    def _picture(self, number: object) -> bytes:
        if type(number) is int and abs(number) < 1 << 63:
            for known, data in self._all("SELECT digest, data FROM pictures WHERE number = ?", number):
                if isinstance(data, bytes) and hashlib.sha256(data).digest() == known:
                    return data
        raise self._bad(f"picture {str(number)[:20]} is damaged or missing")

    def pixels(self, row: int) -> frozenset[bytes]:
        """Return the digests of what the pictures of a row show. Raises as `record`."""
        return frozenset(_cut(self._row(row)[5]) if self._summed else self.record(row).pixels)

    def document(self, row: int) -> Document:
        """Return a document; its pictures are decoded when their pixels are first asked for. Raises as `record`."""
        record = self.record(row)
        try:
            parts = tuple(Text(p) if isinstance(p, str) else Image(data=p) for p in record.parts)
        except DataError as error:
            raise CheckpointError(
                f"{str(self.path)!r}: document {record.id!r}: {error}; delete it from the bank"
            ) from error
        return Document(parts, id=record.id, source=record.source, meta=json.loads(record.meta))

    def skipped(self) -> list[Unreadable]:
        """What could not be kept when the shelf was made."""
        return [Unreadable(str(id), str(why)) for id, why in self._all("SELECT id, reason FROM skipped ORDER BY item")]

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
        """Begin one, or go on with what was committed. Raises `CheckpointError` for what is no draft of ours."""
        self.path = path
        fresh = not path.exists()
        with self._told():
            self._store = sqlite3.connect(path)
            self._store.execute("PRAGMA trusted_schema=OFF")
            if fresh or not self._store.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._store.executescript(f"BEGIN; {'; '.join(TABLES)}; COMMIT;")
            if _tables(self._store.execute(_SCHEMA).fetchall()) != TABLES:
                self._store.close()
                raise CheckpointError(f"{str(path)!r}: not readable (holds other tables); delete {str(path.parent)!r}")
            self._count()

    def _count(self) -> None:
        (self.rows,) = self._store.execute("SELECT count(*) FROM documents").fetchone()
        (self.skips,) = self._store.execute("SELECT count(*) FROM skipped").fetchone()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say in our own kinds what SQLite cannot do."""
        try:
            yield
        except sqlite3.Error as error:
            told = disk_error(error, self.path)
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if told is None and code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN):
                told = DiskError(f"{str(self.path)!r}: cannot be written ({said(error)}); make room, or mend the disk")
            if told is not None:
                raise told from error
            raise CheckpointError(
                f"{str(self.path)!r}: not readable ({said(error)}); delete {str(self.path.parent)!r}"
            ) from error

    def journal(self) -> Iterator[Record | str]:
        """Yield all that was committed, in the source's order: a record with its sums, or the id of a skip."""
        skipped = dict(self._store.execute("SELECT item, id FROM skipped"))
        rows = self._store.execute("SELECT id, source, meta, parts, pixels FROM documents ORDER BY row")
        for item in range(self.rows + len(skipped)):
            if item in skipped:
                yield skipped[item]
                continue
            id, source, meta, parts, pixels = next(rows)
            kept = [p if isinstance(p, str) else self._sum_of(p) for p in json.loads(parts)]
            yield Record(id, source, meta, tuple(kept), _cut(pixels))

    def _sum_of(self, number: int) -> bytes:
        return self._store.execute("SELECT digest FROM pictures WHERE number = ?", (number,)).fetchone()[0]

    def cut(self, items: int) -> None:
        """Drop everything but the first `items` of the source."""
        with self._told():
            (skips,) = self._store.execute("SELECT count(*) FROM skipped WHERE item < ?", (items,)).fetchone()
            self._store.execute("DELETE FROM skipped WHERE item >= ?", (items,))
            self._store.execute("DELETE FROM documents WHERE row >= ?", (items - skips,))
            self._store.execute(
                "DELETE FROM pictures WHERE number NOT IN "
                "(SELECT value FROM documents, json_each(parts) WHERE json_each.type = 'integer')"
            )
            self._store.commit()
            self._count()

    def skipped(self) -> list[Unreadable]:
        """What is left out so far."""
        return [Unreadable(*row) for row in self._store.execute("SELECT id, reason FROM skipped ORDER BY item")]

    def taken(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that are here already."""
        query = "SELECT id FROM documents WHERE id IN (SELECT value FROM json_each(?))"
        return [row[0] for row in self._store.execute(query, (json.dumps(list(ids)),))]

    @property
    def has_pictures(self) -> bool:
        """Whether any document has one."""
        return bool(self._store.execute("SELECT EXISTS (SELECT 1 FROM pictures)").fetchone()[0])

    def put(self, record: Record) -> None:
        """Add a document. Raises `DiskError` where there is no room."""
        with self._told():
            parts: list[str | int] = [p if isinstance(p, str) else self._keep(p) for p in record.parts]
            values = (self.rows, record.id, record.source, record.meta, json.dumps(parts), b"".join(record.pixels))
            self._store.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, _sum(*values)))
        self.rows += 1

    def _keep(self, data: bytes) -> int:
        known = hashlib.sha256(data).digest()
        self._store.execute("INSERT OR IGNORE INTO pictures (digest, data) VALUES (?, ?)", (known, data))
        return self._store.execute("SELECT number FROM pictures WHERE digest = ?", (known,)).fetchone()[0]

    def skip(self, unreadable: Unreadable) -> None:
        """List a document that is left out. Raises as `put`."""
        with self._told():
            values = (self.rows + self.skips, as_text(unreadable.id), as_text(unreadable.reason))
            self._store.execute("INSERT INTO skipped VALUES (?, ?, ?)", values)
        self.skips += 1

    def commit(self) -> None:
        """Make everything until here survive a kill. Raises as `put`."""
        with self._told():
            self._store.commit()

    def close(self) -> None:
        """Drop what was not committed."""
        self._store.close()


_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master"


def as_text(text: str) -> str:
    """Return a string whose lone surrogates and NULs are written out, so that it can be listed."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _tables(found: Sequence[tuple[Any, ...]]) -> tuple[str, ...]:
    """Return the tables' definitions, in order of name; what SQLite itself makes for UNIQUE left out."""
    made = sorted(str(sql).strip() for kind, name, table, sql in found if not _own(kind, name, table, sql))
    return tuple(" ".join(sql.split()) for sql in made)


def _own(kind: object, name: object, table: object, sql: object) -> bool:
    return kind == "index" and sql is None and name == f"sqlite_autoindex_{table}_1"


def _sum(row: int, id: str, source: str, meta: str, parts: str, pixels: bytes) -> bytes:
    told = json.dumps([row, id, source, meta, parts, pixels.hex()]).encode()
    return hashlib.blake2b(told, digest_size=8).digest()


def _cut(pixels: bytes) -> tuple[bytes, ...]:
    return tuple(pixels[at : at + DIGEST] for at in range(0, len(pixels), DIGEST))


def _shown(data: bytes) -> bytes:
    """Return the digest of what a stored picture shows; of its bytes where it cannot be read."""
    try:
        return digest(open_picture(data))
    except DataError:
        return hashlib.blake2b(data, digest_size=DIGEST).digest()


def _whole(value: object) -> int:
    return value if isinstance(value, int) else -1


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"{what}: its parts are no list; build the bank again")
    return value
