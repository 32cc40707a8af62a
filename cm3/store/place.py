"""The place of a store, and the reading of its files: mapped from a folder, or by byte ranges from object storage.

A safetensors file is read by name and by part. Nothing that a header, a name or a link says leads outside the store.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cm3.errors import Cm3Error, DataError
from cm3.files import inside, parse_json, said

HEAD = 1 << 16
"""Most bytes of a file's header, and those that are asked for first of a file far away."""
T = TypeVar("T")
Layout = Mapping[str, tuple[type[np.generic], tuple[int | None, ...]]]
"""Tensor -> its dtype and shape, None for a length that may be any."""
DTYPES: dict[str, type[np.generic]] = {
    "U8": np.uint8,
    "U16": np.uint16,
    "U64": np.uint64,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
}


class Place:
    """The place of a store: a folder, mapped into memory, or an address of fsspec's, read by byte ranges."""

    def __init__(self, address: str | Path) -> None:
        """Raise `DataError` for an address that fsspec does not know or has no library for."""
        self.address = str(address)
        self.far: Any = None
        self.root = self.address
        if "://" in self.address:
            import fsspec
            from fsspec.implementations.local import LocalFileSystem

            try:
                self.far, self.root = fsspec.core.url_to_fs(self.address)
            except Exception as error:  # each library behind fsspec raises its own kinds
                raise DataError(
                    f"store {self.address!r}: cannot be reached ({said(error)}); check the address"
                ) from error
            if isinstance(self.far, LocalFileSystem):
                self.far = None

    @property
    def said(self) -> str:
        """Return its name for messages."""
        return f"store {self.address!r}"

    def path(self, name: str) -> str:
        """Return the path of a file of the store.

        In a folder it is that of a file, whose links do not lead outside: raises `DataError` for anything else, and
        `FileNotFoundError`.
        """
        if self.far is not None:
            return f"{self.root.rstrip('/')}/{name}"
        path = inside(self.root, name, self.said)
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{self.said}: {name} is no file; restore it from a copy")
        return str(path)

    def read(self, name: str) -> bytes:
        """Return a whole file. Raises `FileNotFoundError`, and `DataError` for a file that cannot be read."""

        def whole() -> bytes:
            path = self.path(name)
            return bytes(self.far.cat_file(path)) if self.far is not None else Path(path).read_bytes()

        return self._told(name, whole)

    def array(self, name: str) -> np.ndarray:
        """Return a whole file as uint8 (bytes,): mapped where it is near, else fetched. Raises `DataError`."""

        def mapped() -> np.ndarray:
            if self.far is not None or os.path.getsize(self.path(name)) == 0:  # an empty file has no map
                return np.frombuffer(self.read(name), np.uint8)
            # A plain array on the map: slicing one is several times quicker than slicing a np.memmap.
            return np.asarray(np.memmap(self.path(name), np.uint8, "r"))

        return self._there(name, mapped)

    def sizes(self, folder: str) -> dict[str, int]:
        """Map name -> bytes of the files of a folder of the store, `folder/` before each name. Raises `DataError`."""

        def listed() -> dict[str, int]:
            if self.far is not None:
                self.far.invalidate_cache()
                found = self.far.ls(self.path(folder), detail=True)
                return {f"{folder}/{f['name'].rsplit('/', 1)[-1]}": int(f["size"] or 0) for f in found}
            found = {}
            with os.scandir(inside(self.root, folder, self.said)) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # a link that leads nowhere, or to itself
                        if entry.is_file():
                            found[f"{folder}/{entry.name}"] = entry.stat().st_size
            return found

        return self._there(folder, listed)

    def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return parts of a file far away, asked for together. Raises `DataError` where one is not to be had whole."""
        path, starts, stops = self.path(name), [a for a, _ in spans], [b for _, b in spans]
        found = self._there(name, lambda: list(self.far.cat_ranges([path] * len(spans), starts, stops)))
        for (start, stop), data in zip(spans, found, strict=True):
            if isinstance(data, Exception):
                raise DataError(f"{self.said}: {name} cannot be read ({said(data)}); try again") from data
            if len(data) != stop - start:
                raise DataError(f"{self.said}: {name} ends at a byte that it should have; restore it from a copy")
        return found

    def part(self, name: str, start: int, stop: int) -> bytes:
        """Return a part of a file, near or far. Raises as `ranges` does."""
        if self.far is not None:
            return self.ranges(name, [(start, stop)])[0] if stop > start else b""

        def read() -> bytes:
            with open(self.path(name), "rb") as file:
                file.seek(start)
                return file.read(stop - start)

        return self._there(name, read)

    def _told(self, name: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except (Cm3Error, FileNotFoundError):
            raise
        except Exception as error:  # each library behind fsspec raises its own kinds
            why = getattr(error, "strerror", None) or said(error)
            raise DataError(f"{self.said}: {name} cannot be read ({why}); restore it from a copy") from error

    def _there(self, name: str, read: Callable[[], T]) -> T:
        try:
            return self._told(name, read)
        except FileNotFoundError as error:
            raise DataError(f"{self.said}: {name} is missing; restore it from a copy") from error


class Tensors:
    """The tensors of a safetensors file by name, of a whole file, or fetched when asked for of one that is far."""

    def __init__(self, place: Place, name: str, size: int, layout: Layout, raw: np.ndarray | None = None) -> None:
        """Read the header. `size` is the file's in bytes; `raw`, all of it, may be left out where it is far.

        Raises `DataError` for a file that cannot be read, or whose header names other tensors than `layout`.
        """
        self.place, self.name = place, name
        self.known: dict[str, np.ndarray] = {}
        self._borders: dict[str, np.ndarray] = {}
        head = raw[:HEAD].tobytes() if raw is not None else place.ranges(name, [(0, min(HEAD, size))])[0]
        self._where, self._begin = self._read(head, size, layout)
        if raw is not None:
            for tensor, (dtype, shape, (start, stop)) in self._where.items():
                self.known[tensor] = raw[self._begin + start : self._begin + stop].view(dtype).reshape(shape)

    def _read(
        self, head: bytes, size: int, layout: Layout
    ) -> tuple[dict[str, tuple[np.dtype[Any], tuple[int, ...], tuple[int, int]]], int]:
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 or not 2 <= length <= min(HEAD, size) - 8:
            raise self.wrong("cannot be read (it has no header)")
        header = parse_json(head[8 : 8 + length], f"{self.place.said}: {self.name}")
        if not isinstance(header, dict) or header.keys() != layout.keys():
            raise self.wrong(f"must hold {', '.join(layout)}")
        found = {}
        for tensor, (kind, wanted) in layout.items():
            entry = header[tensor]
            entry = entry if isinstance(entry, dict) else {}
            shape: Any = entry.get("shape")
            offsets: Any = entry.get("data_offsets")
            dtype = np.dtype(kind)
            ok = DTYPES.get(str(entry.get("dtype"))) is kind
            ok = ok and _counts(shape, len(wanted)) and all(w in (None, n) for w, n in zip(wanted, shape, strict=True))
            ok = ok and _counts(offsets, 2) and offsets[0] <= offsets[1] <= size - 8 - length
            if not ok or math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
                lengths = ", ".join("n" if w is None else str(w) for w in wanted)
                raise self.wrong(f"must hold {tensor} as {dtype} ({lengths})")
            found[tensor] = (dtype, tuple(shape), (offsets[0], offsets[1]))
        return found, 8 + length

    def wrong(self, how: str) -> DataError:
        """Return an error to be raised: how this file is wrong."""
        return DataError(f"{self.place.said}: {self.name} {how}; restore it from a copy")

    def __getitem__(self, tensor: str) -> np.ndarray:
        """Return a whole tensor; kept once it was fetched."""
        if tensor not in self.known:
            dtype, shape, (start, stop) = self._where[tensor]
            data = self.place.ranges(self.name, [(self._begin + start, self._begin + stop)])[0] if stop > start else b""
            self.known[tensor] = np.frombuffer(data, dtype).reshape(shape)
        return self.known[tensor]

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._where

    def borders(self, starts: str, tensor: str) -> np.ndarray:
        """Return `starts`, where each document begins in `tensor`. Raises `DataError` where those are no places of
        it."""
        if starts not in self._borders:
            found, end = self[starts], self._where[tensor][1][0]
            if found[0] != 0 or found[-1] != end or bool((found[1:] < found[:-1]).any()):
                raise self.wrong(f"has {starts} that are no places of its {tensor}")
            self._borders[starts] = found
        return self._borders[starts]

    def parts(self, tensor: str, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return rows `start` to `stop` of a tensor, for each span; where the file is far, nothing else is fetched."""
        if tensor in self.known:
            whole = self.known[tensor]
            return [whole[a:b] for a, b in spans]
        dtype, shape, (start, _) = self._where[tensor]
        row, start = dtype.itemsize * math.prod(shape[1:]), self._begin + start
        wanted = [(start + a * row, start + b * row) for a, b in spans]
        return [np.frombuffer(data, dtype).reshape(-1, *shape[1:]) for data in self.place.ranges(self.name, wanted)]


def _counts(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(n) is int and n >= 0 for n in value)
