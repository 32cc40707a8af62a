"""Files of weights written tensor by tensor: safetensors, and torch's zip. No more than two tensors are held at once.

A tensor is made, and so read from its own file, while the one before is written. Files appear whole or not at all
(cm3/files.py). Their sums are made on the way, on a thread of its own. Either file is read by its own library,
memory-mapped too, and safely: the pickle in torch's names nothing but what builds tensors.
"""

from __future__ import annotations

import collections
import hashlib
import io
import json
import math
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor

from cm3.convert.pickles import STORAGES
from cm3.convert.problems import refuse, some
from cm3.convert.tensor_files import HEADER_BYTES, SAFETENSORS
from cm3.errors import CheckpointError
from cm3.files import Facts, replacing

_CHUNK = 1 << 24
"""Bytes that are written and summed at a time."""
_AHEAD = 4
"""Writes that may be ahead of their sum."""
_ALIGNED = 64
"""Storages in torch's zip begin at a multiple of it."""


class Piece(Protocol):
    """A tensor to be written: its name, shape and number type, and what makes it when its turn comes."""

    @property
    def name(self) -> str:
        """Return its name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return its shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Return its number type."""

    @property
    def make(self) -> Callable[[], Tensor]:
        """Return what makes it."""


Made = Callable[[int], Any]
"""Called with the bytes of each tensor that was written."""


def write_safetensors(path: str | Path, pieces: Sequence[Piece], made: Made = lambda size: None) -> Facts:
    """Write tensors in the order given; those of wider numbers first, as each must begin at a multiple of its width.

    Raises `CheckpointError`, before anything is written, for a name that stands twice and a number type that the format
    lacks, and later for a piece that makes another tensor than it says. Raises `DiskError` as `replacing`.
    """
    names = {dtype: name for name, dtype in SAFETENSORS.items()}
    _check(path, pieces, set(names))
    pieces = sorted(pieces, key=lambda piece: -piece.dtype.itemsize)
    page: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for piece in pieces:
        page[piece.name] = {"dtype": names[piece.dtype], "shape": list(piece.shape)}
        page[piece.name]["data_offsets"] = [at, at := at + _bytes(piece)]
    header = json.dumps(page, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > HEADER_BYTES:
        refuse(path, [f"{len(pieces)} tensors have a header of {len(header)} bytes; {HEADER_BYTES} are the most"])
    with replacing(path) as part, _summed(part) as out:
        out.write(len(header).to_bytes(8, "little") + header)
        for piece, tensor in _ahead(pieces):
            _pour(tensor, out.write)
            out.settle()
            del tensor  # before the next but one is made
            made(_bytes(piece))
    return out.facts


def write_pickled(path: str | Path, pieces: Sequence[Piece], made: Made = lambda size: None, group: str = "") -> Facts:
    """Write what torch.save writes of a dictionary of tensors, in the order given; in a dictionary `group`, if named.

    Raises as `write_safetensors`.
    """
    path = Path(path)
    _check(path, pieces, set(STORAGES.values()))
    root = path.stem
    with replacing(path) as part, _summed(part) as out:
        # Without a way back in the file, sums stand behind each record, as torch has them too.
        with zipfile.ZipFile(_OneWay(out), "w") as archive:
            for name, data in (("data.pkl", _program(pieces, group)), ("byteorder", sys.byteorder.encode())):
                with _record(archive, f"{root}/{name}", out.size, len(data)) as record:
                    record.write(data)
            for number, (piece, tensor) in enumerate(_ahead(pieces)):
                with _record(archive, f"{root}/data/{number}", out.size, _bytes(piece)) as record:
                    _pour(tensor, record.write)
                    out.settle()
                    del tensor  # before the next but one is made
                made(_bytes(piece))
            with _record(archive, f"{root}/version", out.size, 2) as record:
                record.write(b"3\n")
    return out.facts


def _check(path: str | Path, pieces: Sequence[Piece], kinds: set[torch.dtype]) -> None:
    counts = collections.Counter(piece.name for piece in pieces)
    wrong = [f"{some(twice)} twice" for twice in [[n for n, count in counts.items() if count > 1]] if twice]
    odd = sorted({str(piece.dtype) for piece in pieces if piece.dtype not in kinds})
    if odd:
        wrong.append(f"{some(odd)} has no place in the format")
    refuse(path, wrong)


def _bytes(piece: Piece) -> int:
    return math.prod(piece.shape) * piece.dtype.itemsize


def _ahead(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Tensor]]:
    """Yield each piece with its tensor, which is made while the one before is with the caller."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_made, pieces[0]) if pieces else None
        for i, piece in enumerate(pieces):
            assert coming is not None
            tensor = coming.result()
            coming = pool.submit(_made, pieces[i + 1]) if i + 1 < len(pieces) else None
            yield piece, tensor


def _made(piece: Piece) -> Tensor:
    tensor = piece.make()
    if tuple(tensor.shape) != tuple(piece.shape) or tensor.dtype != piece.dtype:
        raise CheckpointError(
            f"{piece.name}: is {tuple(tensor.shape)} {tensor.dtype} where {tuple(piece.shape)} {piece.dtype} was "
            "planned; convert files that stay as they are"
        )
    return tensor


def _pour(tensor: Tensor, write: Callable[[memoryview], Any]) -> None:
    """Write the numbers of a tensor."""
    if not tensor.numel():
        return
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    data = memoryview(flat.numpy())  # type: ignore[arg-type]
    for start in range(0, len(data), _CHUNK):
        write(data[start : start + _CHUNK])


class _Summed:
    """A file that is written from front to back, and its size and sha256."""

    def __init__(self, file: IO[bytes], pool: ThreadPoolExecutor) -> None:
        self._file, self._pool, self._sum = file, pool, hashlib.sha256()
        self._summing: collections.deque[Future[None]] = collections.deque()
        self.size = 0

    def write(self, data: Any) -> int:
        """Write, and sum meanwhile: `data` stays as it is until `settle`."""
        self._summing.append(self._pool.submit(self._sum.update, data))
        self._file.write(data)
        self.size += len(data)
        if len(self._summing) > _AHEAD:
            self._summing.popleft().result()
        return len(data)

    def settle(self) -> None:
        """Wait until all that was written is summed."""
        while self._summing:
            self._summing.popleft().result()

    def flush(self) -> None:
        """Write what the file holds back."""
        self._file.flush()

    @property
    def facts(self) -> Facts:
        """Return size and sha256 so far."""
        self.settle()
        return Facts(self.size, self._sum.hexdigest())


@contextmanager
def _summed(path: Path) -> Iterator[_Summed]:
    with open(path, "wb") as file, ThreadPoolExecutor(1) as pool:
        yield _Summed(file, pool)


class _OneWay(io.RawIOBase):
    """A file without a way back, for zipfile."""

    def __init__(self, out: _Summed) -> None:
        self._out = out

    def write(self, data: Any) -> int:
        """Write."""
        return self._out.write(data)

    def writable(self) -> bool:
        """Tell that it is."""
        return True


def _record(archive: zipfile.ZipFile, name: str, at: int, size: int) -> IO[bytes]:
    """Begin a record whose data begins at a multiple of `_ALIGNED`; `at` is where the file ends now."""
    info = zipfile.ZipInfo(name)  # of 1980: the same weights make the same file
    info.file_size = size
    zip64 = 20
    filled = -(at + 30 + len(name.encode()) + zip64 + 4) % _ALIGNED
    info.extra = b"FB" + filled.to_bytes(2, "little") + b"Z" * filled  # torch's own way to fill
    return archive.open(info, "w", force_zip64=True)


class _Stored:
    """Stand for the storage of a tensor in a pickle."""

    def __init__(self, key: str, dtype: torch.dtype, numbers: int) -> None:
        self.key, self.dtype, self.numbers = key, dtype, numbers


class _Saved:
    """Stand for a tensor in a pickle."""

    def __init__(self, key: str, piece: Piece) -> None:
        self._storage = _Stored(key, piece.dtype, math.prod(piece.shape))
        self._shape = tuple(piece.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        stride = tuple(math.prod(self._shape[i + 1 :]) for i in range(len(self._shape)))
        rebuild: Any = torch._utils._rebuild_tensor_v2
        return rebuild, (self._storage, 0, self._shape, stride, False, collections.OrderedDict())


class _Pickler(pickle.Pickler):
    """Write the pickle of torch.save."""

    def persistent_id(self, thing: Any) -> Any:
        """Name a storage as torch does."""
        if not isinstance(thing, _Stored):
            return None
        kind = next(name for name, dtype in STORAGES.items() if dtype == thing.dtype)
        return ("storage", getattr(torch, kind), thing.key, "cpu", thing.numbers)


def _program(pieces: Sequence[Piece], group: str) -> bytes:
    tensors = {piece.name: _Saved(str(number), piece) for number, piece in enumerate(pieces)}
    out = io.BytesIO()
    _Pickler(out, protocol=2).dump({group: tensors} if group else tensors)
    return out.getvalue()
