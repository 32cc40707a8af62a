"""Vectors kept by the content of what they stand for, so that nothing is encoded twice, by whichever process.

A folder of append-only files, one per writer, so that writers need no lock. A file is a header (magic, width) and then
records of key (32 bytes), vector (float32) and CRC-32. A kill can only tear the last record of a file: it is not whole
or its CRC is wrong, and counts as never written.
"""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cm3.errors import DataError

_MAGIC = b"cm3vec1\n"
_HEADER = len(_MAGIC) + 8
_SUFFIX = ".vectors"


class VectorCache:
    """Vectors by key, in a folder. Sees what was there when it was opened, and what it put itself."""

    def __init__(self, folder: str | Path) -> None:
        """Open, and make, the folder. Raises `DataError` where it cannot be made."""
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"vector cache {str(folder)!r}: cannot be made a folder ({error}); give another") from error
        self._files: list[Path] = []
        self._maps: list[np.ndarray] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._own: dict[tuple[int, int], int] = {}  # (process, width) -> its file; a forked child writes its own
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            self._read(path)

    def __len__(self) -> int:
        return len(self._places)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The vectors (width,) of those keys that are there and undamaged."""
        found = {}
        for key in keys:
            if key not in self._places:
                continue
            file, row = self._places[key]
            if row >= len(self._maps[file]):
                self._maps[file] = _records(self._files[file])
            record = self._maps[file][row]
            if int(record["crc"]) == _crc(key, record["vector"]):
                found[key] = np.array(record["vector"])
        return found

    def put(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Keep vectors float32 (n, width) under keys of 32 bytes; on disk when this returns, but for the disk's own."""
        records = np.zeros(len(keys), dtype=_record(vectors.shape[1]))
        for record, key, vector in zip(records, keys, vectors, strict=True):
            record["key"], record["vector"] = np.void(key), vector
            record["crc"] = _crc(key, record["vector"])
        file = self._writer(vectors.shape[1])
        # One write of whole records: what a kill leaves of it is a prefix.
        with self._files[file].open("ab", buffering=0) as out:
            start = (out.tell() - _HEADER) // records.itemsize
            out.write(records.tobytes())
        self._places.update({key: (file, start + i) for i, key in enumerate(keys)})

    def _writer(self, width: int) -> int:
        mine = (os.getpid(), width)
        if mine not in self._own:
            path = self.folder / f"{uuid.uuid4().hex}{_SUFFIX}"
            path.write_bytes(_MAGIC + np.array([width, 0], dtype="<u4").tobytes())
            self._own[mine] = len(self._files)
            self._files.append(path)
            self._maps.append(_records(path))
        return self._own[mine]

    def _read(self, path: Path) -> None:
        records = _records(path)
        if not len(records):
            return
        keys = np.ascontiguousarray(records["key"]).tobytes()
        at = len(self._files)
        self._places.update({keys[32 * i : 32 * i + 32]: (at, i) for i in range(len(records))})
        self._files.append(path)
        self._maps.append(records)


def _record(width: int) -> np.dtype:
    return np.dtype([("key", "V32"), ("vector", "<f4", (width,)), ("crc", "<u4")])


def _crc(key: bytes, vector: np.ndarray) -> int:
    return zlib.crc32(vector.tobytes(), zlib.crc32(key))


def _records(path: Path) -> np.ndarray:
    """The whole records of a file, memory-mapped; none where its header is not one of ours or not whole."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        return np.zeros(0, dtype=_record(1))
    dtype = _record(int(np.frombuffer(header, "<u4", 1, len(_MAGIC))[0]))
    rows = (path.stat().st_size - _HEADER) // dtype.itemsize
    if not rows:
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=_HEADER, shape=(rows,))
