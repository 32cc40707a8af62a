"""Files as memory: opened at no cost, read where they are looked at, let go when that is over."""

from __future__ import annotations

import math
import mmap
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cm3.errors import CheckpointError

_HELD = 1 << 30
"""Bytes that tensors of a file may take of memory before the pages of the earlier ones are let go."""


class MappedFile:
    """The bytes of one file. It must stay as long as it is while it is open; one that is cut short ends the process."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            handle = os.open(self.path, flags)
        except OSError as error:
            raise CheckpointError(
                f"{str(path)!r}: cannot be read ({error.strerror}); give a file of weights"
            ) from error
        try:
            state = os.fstat(handle)
            if not stat.S_ISREG(state.st_mode):
                raise CheckpointError(f"{str(path)!r}: is no file; give a file of weights")
            self.size = state.st_size
            self._state = _state(state)
            if not self.size:
                raise CheckpointError(f"{str(path)!r}: is empty; fetch it again")
            self._map = _mapped(handle)
        except OSError as error:
            raise CheckpointError(f"{str(path)!r}: cannot be mapped ({error.strerror}); copy it to a disk") from error
        finally:
            os.close(handle)
        self._seen: list[tuple[int, int]] = []
        self._bytes = 0

    def check_unchanged(self) -> None:
        """Raise `CheckpointError` where its place has other bytes now than when it was opened."""
        try:
            same = _state(os.stat(self.path)) == self._state
        except OSError:
            same = False
        if not same:
            raise CheckpointError(
                f"{str(self.path)!r}: was changed while it was read; give the same command again when nothing writes it"
            )

    def bytes(self, start: int, stop: int) -> bytes:
        """Return a copy of bytes `start` to `stop`, fewer where the file ends."""
        return self._map[max(start, 0) : max(stop, 0)]

    def tensor(
        self, start: int, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int] | None = None
    ) -> Tensor:
        """Return the tensor whose first number lies at byte `start`; it is the file's memory, so do not write to it.

        `stride` is in numbers; None is that of a tensor without gaps. The caller knows that all of it lies in the file.
        """
        shape = tuple(shape)
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        numbers = math.prod(shape)
        if stride is not None:
            numbers = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        length = numbers * dtype.itemsize
        if self._map.size() < self.size:  # the system ends a process that looks beyond the end
            raise CheckpointError(f"{str(self.path)!r}: was cut short while it was read; fetch it again")
        self._look(start, length)
        flat = torch.frombuffer(self._map, dtype=torch.uint8, count=length, offset=start)
        if start % dtype.itemsize:
            flat = flat.clone()
        flat = flat.view(dtype)
        return flat.view(shape) if stride is None else flat.as_strided(shape, tuple(stride))

    def _look(self, start: int, length: int) -> None:
        """Keep count of the memory, and let go of pages: their numbers come from the file again when asked for."""
        if self._bytes + length > _HELD and hasattr(mmap, "MADV_DONTNEED"):
            for at, many in self._seen:
                first = at - at % mmap.PAGESIZE
                self._map.madvise(mmap.MADV_DONTNEED, first, at + many - first)
            self._seen, self._bytes = [], 0
        if hasattr(mmap, "MADV_WILLNEED"):  # read at once, not page by page as they are looked at
            first = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, first, start + length - first)
        self._seen.append((start, length))
        self._bytes += length


def _state(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _mapped(handle: int) -> mmap.mmap:
    """Map a file so that a write by mistake changes a copy and never the file, and reserves no memory for that."""
    if sys.platform == "win32":
        return mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)
    lazily = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
    return mmap.mmap(handle, 0, flags=mmap.MAP_PRIVATE | lazily, prot=mmap.PROT_READ | mmap.PROT_WRITE)
