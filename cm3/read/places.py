"""A large JSON file of annotations in COCO's layout, of which the places of its records are kept and not the records.

    {"images": [{...}, ...], "annotations": [{...}, ...], "categories": [...], "licenses": [...], ...}

The file is read once, a megabyte at a time, and of each record 48 bytes are kept: whose it is, where it begins, how
long it is. These stand in a file in `$XDG_CACHE_HOME/cm3` (~/.cache/cm3), named by the sha256 of the annotations and
mapped into memory, so that every other process that opens the same annotations parses none before it needs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from cm3.bars import bar
from cm3.errors import Cm3Error, ConfigError, DataError
from cm3.files import DIGITS, locked, parse_json, replacing, said, sha256

LISTS = ("images", "annotations", "categories", "licenses")
"""Lists of the file whose records are kept; all else in it is read and left."""
CHUNK = 1 << 20
"""Bytes that are read at a time."""
LONGEST = 64 << 20
"""Most bytes of a record."""
SMALL = 8 << 20
"""Bytes of a file whose places are found anew each time, which takes less than half a second."""
TEXTS = 2**62
"""The least key of an id that is a text."""
NONE = 2**63 - 1
"""The key of a record that names nothing."""

_VERSION = 1
_SPACE = re.compile(r"[ \t\n\r]*")
_NESTED = re.compile(r'"(?:[^"\\]|\\.)*+"|[][{}"]', re.S)
_FAST = json.JSONDecoder()
_SAFE = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) <= DIGITS else math.inf)


def key_of(id: Any) -> int:
    """Return a number for an id, a whole number or a text; `NONE` for anything else. Numbers come first, in order."""
    if type(id) is int and -TEXTS < id < TEXTS:
        return id
    if isinstance(id, str) and id:
        digest = hashlib.blake2b(id.encode(errors="surrogatepass"), digest_size=8).digest()
        return TEXTS + int.from_bytes(digest) % 2**61
    return NONE


class Places:
    """The records of each list by key: those of `annotations` by image_id and then id, all others by id.

    May be used by several threads and processes; holds no open file.
    """

    def __init__(self, path: Path) -> None:
        """Find the records of a file, or where they were found before; with a bar on a terminal where it takes long.

        Raises `DataError` for a file that is missing or cannot be read, that is no JSON to its end, and that is no
        object of lists.
        """
        self.path = path
        try:
            self._stamp = _stamp(path)
            self._table = _kept(path) if self._stamp[0] > SMALL else _found(path)
        except OSError as error:
            raise DataError(f"{str(path)!r}: cannot be read ({said(error)}); check the file") from error
        ends = np.searchsorted(self._table[0], np.arange(len(LISTS) + 1))
        self._ends = dict(zip(LISTS, zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True), strict=True))

    def rows(self, name: str) -> range:
        """Return the rows of a list, in the order of their keys."""
        return range(*self._ends[name])

    def keys(self, name: str) -> np.ndarray:
        """Return the key of each row of a list, int64 (rows,)."""
        return self._table[1, slice(*self._ends[name])]

    def ids(self, name: str) -> np.ndarray:
        """Return the key of each record's own id, int64 (rows,)."""
        return self._table[2, slice(*self._ends[name])]

    def numbers(self, name: str) -> np.ndarray:
        """Return which record of its list each row is, int64 (rows,)."""
        return self._table[3, slice(*self._ends[name])]

    def find(self, name: str, id: Any) -> range:
        """Return the rows of a list whose key is that of `id`: annotations of an image; images, categories called so.

        Two texts may have one key, so who asks for a text compares it with what the record says.
        """
        start, keys, key = self._ends[name][0], self.keys(name), key_of(id)
        if key == NONE:
            return range(0)
        return range(start + int(np.searchsorted(keys, key)), start + int(np.searchsorted(keys, key, "right")))

    def where(self, row: int) -> str:
        """Return file and record of a row, for a message."""
        return f"{self.path.name}, {LISTS[self._table[0, row]]} record {self._table[3, row]}"

    def number(self, row: int) -> int:
        """Return which record of its list a row is."""
        return int(self._table[3, row])

    def record(self, row: int) -> dict[str, Any]:
        """Return the record of a row; its numbers need not be finite. Raises `DataError` for one that is no object."""
        start, length = (int(v) for v in self._table[4:, row])
        try:
            if _stamp(self.path) != self._stamp:
                raise DataError(f"{str(self.path)!r}: was changed while it was in use; start again")
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(length)
        except OSError as error:
            raise DataError(f"{str(self.path)!r}: cannot be read ({said(error)}); check the file") from error
        try:
            record = _SAFE.decode(data.decode())
        except (ValueError, RecursionError):
            record = parse_json(data, self.where(row))
        if not isinstance(record, dict):
            raise DataError(f"{self.where(row)}: is {record!r:.40}, must be an object; mend it")
        return record


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _kept(path: Path) -> np.ndarray:
    """Return the table from the cache; found and put there by the first of all processes that ask for it at once."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cm3"
    cached = folder / f"places-{_VERSION}-{sha256(path)}.npy"
    while True:
        if (table := _loaded(cached)) is not None:
            return table
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(cached.with_suffix(".lock"), "annotations"))
            except ConfigError:  # another process finds them
                time.sleep(0.05)
                continue
            except Cm3Error:  # no place to keep it
                return _found(path)
            if (table := _loaded(cached)) is None:  # nobody made it just before the lock was had
                table = _found(path)
                with contextlib.suppress(Cm3Error), replacing(cached) as part, part.open("wb") as file:
                    np.save(file, table)
            return table


def _loaded(cached: Path) -> np.ndarray | None:
    """Return a table of the cache, mapped; None where it is not there or damaged."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        table: np.ndarray = np.load(cached, mmap_mode="r")
        if table.dtype == np.int64 and table.ndim == 2 and len(table) == 6:
            return table
    return None


def _found(path: Path) -> np.ndarray:
    """Return list, key, key of the id, number in the list, first byte and bytes of each record.

    It is int64 (6, records), sorted by the first four.
    """
    columns = [array("q") for _ in range(6)]
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        bar(path.name, total=size, unit="B", wanted=size > SMALL) as drawn,
    ):
        for name, number, start, stop, record in _Scan(file, path, drawn.update).records():
            id, key = (key_of(record.get(field)) if isinstance(record, dict) else NONE for field in ("id", "image_id"))
            row = LISTS.index(name), key if name == "annotations" else id, id, number, start, stop - start
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    order = np.lexsort([np.frombuffer(column, np.int64) for column in reversed(columns[:4])])
    table = np.empty((6, len(order)), np.int64)
    for made, column in zip(table, columns, strict=True):
        np.take(np.frombuffer(column, np.int64), order, out=made)
    return table


class _Scan:
    """A JSON file as a text of one character a byte, of which a part is in memory: `text`, read up to `at`."""

    def __init__(self, file: IO[bytes], path: Path, told: Callable[[int], object]) -> None:
        """Tell `told` how many bytes were read, each time."""
        self.file, self.path, self.told = file, path, told
        self.size = path.stat().st_size
        self.text, self.at, self.before = "", 0, 0

    def records(self) -> Iterator[tuple[str, int, int, int, Any]]:
        """Yield list, number, first byte, last byte but one, and value of each record of `LISTS`."""
        seen = set[str]()
        while len(self.text) < 3 and self.more():
            pass
        self.at = 3 if self.text.startswith("\xef\xbb\xbf") else 0
        self.take("{", "an object is expected")
        while self.peek() != "}":
            if seen:
                self.take(",", "',' or '}' is expected")
            _, _, name = self.value()
            if not isinstance(name, str) or name in seen:
                raise self.damaged(f"{name!r:.40} is no new name")
            seen.add(name)
            self.take(":", "':' is expected")
            if self.peek() != "[":
                self.value()
                if name in LISTS:
                    raise DataError(f"{str(self.path)!r}: {name!r} is no list; download it again")
                continue
            self.at += 1
            number = 0
            while self.peek() != "]":
                if number:
                    self.take(",", "',' or ']' is expected")
                start, stop, value = self.value()
                if name in LISTS:
                    yield name, number, start, stop, value
                number += 1
            self.at += 1
        self.at += 1
        if self.peek():
            raise self.damaged("nothing is expected")
        if "annotations" not in seen:
            raise DataError(f"{str(self.path)!r}: has no 'annotations'; download it again")

    def more(self) -> bool:
        """Read on; more each time while one value is not at its end."""
        data = self.file.read(max(CHUNK, len(self.text) - self.at))
        if not data:
            return False
        self.text, self.before, self.at = self.text[self.at :] + data.decode("latin-1"), self.before + self.at, 0
        self.told(len(data))
        return True

    def peek(self) -> str:
        """Return the next character that is no space; empty at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            assert space is not None  # it matches nothing, too
            self.at = space.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, wanted: str, rule: str) -> None:
        if self.peek() != wanted:
            raise self.damaged(rule)
        self.at += 1

    def value(self) -> tuple[int, int, Any]:
        """Return the next value, its first byte and its last but one. None where it is no text in UTF-8."""
        self.peek()
        decoder = _FAST
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if len(self.text) - self.at < LONGEST and self.more():
                    continue
                raise self.damaged(error.msg) from error
            except ValueError as error:  # a number of thousands of digits
                if decoder is _SAFE:
                    raise self.damaged(said(error)) from error
                decoder = _SAFE
                continue
            except RecursionError:  # of this record alone
                value, end = None, self._end()
            if end + 2 >= len(self.text) and self.more():  # a number may go on: "1", and then "e+5"
                continue
            break
        if not self.text.isascii() and not (piece := self.text[self.at : end]).isascii():
            try:
                value = _SAFE.decode(piece.encode("latin-1").decode())
            except UnicodeDecodeError:
                value = None
        place = self.before + self.at, self.before + end
        self.at = end
        return *place, value

    def _end(self) -> int:
        """Return where the object or list ends that is nested too deep to be read."""
        while True:
            depth = 0
            for found in _NESTED.finditer(self.text, self.at):
                if found[0] == '"':  # a text that goes on
                    break
                depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(found[0], 0)
                if depth == 0:
                    return found.end()
            if len(self.text) - self.at >= LONGEST or not self.more():
                raise self.damaged("nested too deep")

    def damaged(self, reason: str) -> DataError:
        return DataError(
            f"{str(self.path)!r}: is not JSON ({reason} at byte {self.before + self.at} of {self.size}); download it "
            "again"
        )
