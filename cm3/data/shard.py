"""One file of a token store: a safetensors file, written whole or not at all, read by name and by part.

ids           uint16 or int32 (t,)   the tokens of all documents, one after the other
starts        int64 (d + 1,)         where each document's tokens begin; the last is t
images        int32 (d,)             how many of its tokens are image codes
names         uint8 (c,)             JSON {"id", "source", "meta"} of each document, one after the other
name_starts   int64 (d + 1,)
digests       uint8 (d, 16)          hash of a document's tokens
keys          uint64 (d, 2)          hash of its id, hash of its source
vectors       float16 (d, w)         where an encoder was given
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from cm3.errors import DataError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PART = ".part"
HEAD = 1 << 16
"""Bytes that are asked for first of a file far away: they hold the header of a shard, and often more."""
DTYPES = {
    "U8": np.uint8,
    "U16": np.uint16,
    "U64": np.uint64,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
}


def pack(
    tokens: Sequence[np.ndarray],
    images: Sequence[int],
    names: Sequence[dict[str, Any]],
    vectors: np.ndarray | None,
    entries: int,
) -> bytes:
    """The bytes of a shard: token ids and name of each document, for a vocabulary of so many entries."""
    ids = np.concatenate([np.zeros(0, np.int32), *tokens]).astype(np.uint16 if entries <= 1 << 16 else np.int32)
    written = [json.dumps(name, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass") for name in names]
    tensors = {
        "ids": ids,
        "starts": _starts([len(t) for t in tokens]),
        "images": np.array(images, np.int32),
        "names": np.frombuffer(b"".join(written), np.uint8),
        "name_starts": _starts([len(w) for w in written]),
        "digests": np.frombuffer(b"".join(map(_digest, tokens)), np.uint8).reshape(-1, 16),
        "keys": np.array([(key(n["id"]), key(n["source"])) for n in names], np.uint64).reshape(-1, 2),
    }
    if vectors is not None:
        tensors["vectors"] = vectors.astype(np.float16)
    return save(tensors)


def key(name: str) -> int:
    """64 bits of a hash of an id or a source."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def write(path: Path, data: bytes) -> None:
    """Write a file that is there whole, also after a kill or a power cut, or not at all.

    Raises `DataError` where there is no room left.
    """
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else the name may be lost where the file is not
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DataError(
            f"{str(path)!r}: no room left for it ({os.strerror(error.errno)}); make some and run the same command "
            "again, it goes on where it was"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)


def facts(data: bytes) -> dict[str, Any]:
    """What a store keeps of a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def page_bytes(page: dict[str, Any]) -> bytes:
    """A JSON object as the bytes of its file."""
    return (json.dumps(page, indent=1, sort_keys=True) + "\n").encode()


class Place:
    """Where a store is: a folder, mapped into memory, or an address of fsspec's, read by byte ranges."""

    def __init__(self, address: str | Path) -> None:
        """Raises `DataError` for an address that fsspec does not know or has no library for."""
        self.address = str(address)
        self.far: Any = None
        self.root = self.address
        if "://" in self.address:
            import fsspec

            try:
                self.far, self.root = fsspec.core.url_to_fs(self.address)
            except (ValueError, ImportError) as error:
                raise DataError(f"store {self.address!r}: cannot be reached ({error}); check the address") from error

    def path(self, name: str) -> str:
        """The path of a file of the store."""
        return f"{self.root.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        """A whole file. Raises `FileNotFoundError`."""
        return self.far.cat_file(self.path(name)) if self.far is not None else Path(self.path(name)).read_bytes()

    def sizes(self, folder: str) -> dict[str, int]:
        """Name -> bytes of the files of a folder of the store, `folder/` before each name."""
        if self.far is not None:
            self.far.invalidate_cache()
            found = self.far.ls(self.path(folder), detail=True)
            return {f"{folder}/{f['name'].rsplit('/', 1)[-1]}": int(f["size"] or 0) for f in found}
        with os.scandir(self.path(folder)) as entries:
            return {f"{folder}/{entry.name}": entry.stat().st_size for entry in entries}

    def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of a file far away, asked for together."""
        starts, stops = [a for a, _ in spans], [b for _, b in spans]
        return list(self.far.cat_ranges([self.path(name)] * len(spans), starts, stops))


class Tensors:
    """The tensors of a safetensors file by name: mapped where it is near, fetched when asked for where it is far."""

    def __init__(self, place: Place, name: str) -> None:
        """Read the header. Raises `DataError` for a file that is missing or has none."""
        self.place, self.name = place, name
        self.known: dict[str, np.ndarray] = {}
        try:
            if place.far is None:
                # A plain array on the map: slicing one is several times quicker than slicing a np.memmap.
                self._raw = np.asarray(np.memmap(place.path(name), np.uint8, "r"))
                head = self._raw[:HEAD].tobytes()
            else:
                head = place.far.cat_file(place.path(name), start=0, end=HEAD)
            self._begin = 8 + int.from_bytes(head[:8], "little")
            header = json.loads(head[8 : self._begin])
        except (OSError, ValueError) as error:
            raise DataError(f"store {place.address!r}: {name} cannot be read ({error}); restore it") from error
        self._where = {n: (np.dtype(DTYPES[t["dtype"]]), t["shape"], t["data_offsets"]) for n, t in header.items()}
        if place.far is None:
            for tensor, (dtype, shape, (start, stop)) in self._where.items():
                self.known[tensor] = self._raw[self._begin + start : self._begin + stop].view(dtype).reshape(shape)

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._where

    def __getitem__(self, tensor: str) -> np.ndarray:
        """A whole tensor; kept once it was fetched."""
        if tensor not in self.known:
            dtype, shape, (start, stop) = self._where[tensor]
            data = self.place.ranges(self.name, [(self._begin + start, self._begin + stop)])[0] if stop > start else b""
            self.known[tensor] = np.frombuffer(data, dtype).reshape(shape)
        return self.known[tensor]

    def parts(self, tensor: str, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Rows `start` to `stop` of a tensor, for each span; where the file is far, nothing else is fetched."""
        if tensor in self.known:
            whole = self.known[tensor]
            return [whole[a:b] for a, b in spans]
        dtype, shape, (start, _) = self._where[tensor]
        row, start = dtype.itemsize * math.prod(shape[1:]), self._begin + start
        wanted = [(start + a * row, start + b * row) for a, b in spans]
        return [np.frombuffer(data, dtype).reshape(-1, *shape[1:]) for data in self.place.ranges(self.name, wanted)]


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _digest(ids: np.ndarray) -> bytes:
    return hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=16).digest()
