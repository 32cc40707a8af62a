"""The elementwise parts of a block with their gradients by hand: fewer passes over memory, and less of it kept.

    rotate      one new tensor each way where the formula makes five
    swiglu      keeps gate and up alone; silu is made again in the backward pass
    RMSNorm     on a processor, where torch has no kernel of it: keeps its input alone

Each is its textbook formula to rounding, and runs compiled, sharded and recomputed as that does. Nothing that was given
is changed: a matrix product's output may be kept by others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (b, h, s, k) by angles (b, 1, s, k) whose halves are equal: `rotary_angles` (cm3/model/decoder.py)."""
    return _Rotate.apply(x, cos, sin)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None  # a rotation's gradient is rotated back


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(first, second) -> (first * cos - second * sin, second * cos + first * sin)."""
    out, half = x * cos, x.shape[-1] // 2
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, each of the same shape (Shazeer 2020)."""
    return _SwiGLU.apply(gate, up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        inner = grad * up
        return torch.ops.aten.silu_backward.grad_input(inner, gate, grad_input=inner), F.silu(gate).mul_(grad)


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight over the last of (..., d) (Zhang and Sennrich 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> same."""
        # A DTensor, half precision and a GPU go torch's own way.
        if type(x) is Tensor and x.is_cpu and x.dtype in (torch.float32, torch.float64) and self.eps is not None:
            return _RMS.apply(x, self.weight, self.eps)
        return super().forward(x)


class _RMS(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        out = x * scale
        return out if weight is None else out.mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        d = x.shape[-1]
        both = (grad * x).view(-1, d)
        sums = both.sum(-1) if weight is None else both.mv(weight)
        of_weight = None if weight is None else both.T.mv(scale.flatten())
        away = sums.view(scale.shape) * scale.pow(3) / d
        out = grad * scale if weight is None else torch.mul(grad, weight, out=both.view_as(x)).mul_(scale)
        return out.addcmul_(x, away, value=-1), of_weight, None
