"""Tensors as pieces to write, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Piece(NamedTuple):
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def pieces_of(tensors: Mapping[str, Tensor]) -> list[Piece]:
    """Return pieces that make these tensors."""
    return [Piece(name, tuple(t.shape), t.dtype, lambda t=t: t) for name, t in tensors.items()]


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are equal bit for bit: float8 has no comparison, and NaN equals nothing."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*(t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))
