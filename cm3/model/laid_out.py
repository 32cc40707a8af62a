"""A block as drawing computes it: matrices of one input in one product, few operators, nothing kept for gradients.

    x (b, s, d) -> norm -> q, k and v -> norms of q and k -> rotation of both -> attend -> back, added to x
                -> norm -> gate and up -> activation                         -> down, added to x

Parameters stay where their modules have them, with their names and values: they are laid out in memory anew, those of
one product side by side. A step of one token reads each weight once and uses it once, so the layout decides: see
`joined`. The figures are in docs/speed.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from cm3.model.decoder import Attend, Block

PAD = 16
"""Numbers, 64 bytes, between rows of a transposed matrix: rows a power of two apart share places of a cache."""
BLOCKED = 256
"""Rows transposed at once, which is three times as fast as all."""

Map = Callable[[Tensor], Tensor]


class LaidOut:
    """One block, with the products that read its weights: of q, k and v, back, of gate and up, and down."""

    def __init__(self, block: Block, qkv: Map, back: Map, wide: Map, down: Map) -> None:
        self._qkv, self._back, self._wide, self._down = qkv, back, wide, down
        self._pre, self._kv_heads, self._head_dim = block.order == "pre", block.kv_heads, block.head_dim
        self._activation = block.activation
        self._norm1, self._norm2 = norm_of(block.norm1), norm_of(block.norm2)
        self._heads: tuple[Tensor, Tensor] | None = None
        if block.q_norm is not None and block.k_norm is not None:
            self._heads = joined(block.q_norm.weight, block.k_norm.weight), joined(block.q_norm.bias, block.k_norm.bias)
            self._eps = block.q_norm.eps
        self._parts = list(block.children())
        self._hooks, self._places = _hooks(block, self._parts), _places(self._parts)

    def stands_for(self, block: nn.Module) -> bool:
        """Tell whether a block still is what was laid out: its parts, their parameters where they were, and no hook
        more."""
        parts = [part for part in block._modules.values() if part is not None]
        return parts == self._parts and _hooks(block, parts) == self._hooks and _places(parts) == self._places

    def __call__(self, x: Tensor, layer: int, rotary: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        """Map (b, s, d) -> same, as `Block.forward`; `rotary` as `turns` gives it."""
        if self._pre:
            x = x + self._attention(self._norm1(x), layer, rotary, attend)
            return x + self._feed_forward(self._norm2(x))
        x = x + self._norm1(self._attention(x, layer, rotary, attend))
        return x + self._norm2(self._feed_forward(x))

    def _attention(self, x: Tensor, layer: int, rotary: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        b, s, _ = x.shape
        g = self._kv_heads
        made = self._qkv(x).view(b, s, -1, self._head_dim)  # (b, s, h + 2 g, k)
        both = made[:, :, :-g]
        if self._heads is not None:
            scale, shift = self._heads
            both = torch.addcmul(shift, F.layer_norm(both, both.shape[-1:], eps=self._eps), scale)
        if rotary is not None:
            cos, sin = rotary
            both = torch.addcmul(both * cos, both.roll(self._head_dim // 2, -1), sin)
        both, v = both.transpose(1, 2), made[:, :, -g:].transpose(1, 2)
        return self._back(attend(layer, both[:, :-g], both[:, -g:], v).transpose(1, 2).reshape(b, s, -1))

    def _feed_forward(self, x: Tensor) -> Tensor:
        wide = self._wide(x)
        if self._activation == "swiglu":
            gate, up = wide.chunk(2, -1)
            return self._down(F.silu(gate).mul_(up))
        return self._down(F.gelu(wide) if self._activation == "gelu" else F.relu(wide))


def _places(parts: list[nn.Module]) -> list[tuple[str, int]]:
    """Return where the parameters of modules lie, by name."""
    own = (item for part in parts for item in part._parameters.items())
    return [(name, 0 if weight is None else weight.data_ptr()) for name, weight in own]


def _hooks(block: nn.Module, parts: list[nn.Module]) -> int:
    """Count what is to be called before or after a block or one of its parts."""
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in (block, *parts))


def product(weight: Tensor) -> Map:
    """Return the map of a matrix, (..., i) -> (..., o)."""
    return functools.partial(F.linear, weight=weight)


def chained(first: Map, then: Map) -> Map:
    """Return the map that does one after the other."""
    return lambda x: then(first(x))


def joined(*parts: Tensor) -> Tensor:
    """Lay parameters (..., i) out in memory one after another; returns the whole, (their sum, ..., i), of which each is
    a part from now on.

    On a processor a float32 matrix that makes as many numbers as it takes, or more, is laid out transposed. One row
    times it then is a sum of rows, read as fast as memory gives them; rows' own sums are a third slower.
    """
    with torch.inference_mode(parts[0].is_inference()), torch.no_grad():
        whole = torch.cat([part.detach() for part in parts]) if len(parts) > 1 else parts[0].detach()
        if whole.dim() == 2 and len(whole) >= whole.shape[1] and whole.is_cpu and whole.dtype == torch.float32:
            plain, whole = whole, whole.new_empty(whole.shape[1], len(whole) + PAD)[:, : len(whole)].t()
            for into, piece in zip(whole.split(BLOCKED), plain.split(BLOCKED), strict=True):
                into.copy_(piece.t().contiguous().t())
        for part, value in zip(parts, whole.split([len(part) for part in parts]), strict=True):
            part.data = value
    return whole


def turns(cos: Tensor, sin: Tensor) -> Tensor:
    """Return rotary angles (..., k) as a block here reads them, (2, ..., k): x turned is x * cos + rolled x * sin."""
    first, second = sin.chunk(2, -1)
    return torch.stack([cos, torch.cat([-first, second], -1)])


def norm_of(norm: Any) -> Map:
    """Return the map of a norm, (..., d) -> same, in few operators."""
    weight, eps = norm.weight, norm.eps
    if isinstance(norm, nn.LayerNorm):
        return functools.partial(
            F.layer_norm, normalized_shape=norm.normalized_shape, weight=weight, bias=norm.bias, eps=eps
        )
    return functools.partial(_rms_norm, weight=weight, eps=eps, own=torch.tensor(eps))


def _rms_norm(x: Tensor, weight: Tensor | None, eps: float, own: Tensor) -> Tensor:
    if not x.is_cpu or x.dtype != torch.float32:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    norm = torch.linalg.vector_norm(x, 2, -1, True)
    out = x * torch.addcmul(own, norm, norm, value=1 / x.shape[-1]).rsqrt_()
    return out if weight is None else out.mul_(weight)
