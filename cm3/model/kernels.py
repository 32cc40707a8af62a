"""Parts of training with their gradients by hand: fewer passes over memory, and less of it kept (docs/speed.md).

    rotate          one new tensor each way where the formula makes five
    swiglu          keeps gate and up alone; silu is made again in the backward pass
    RMSNorm         on a processor, where torch has no kernel of it: keeps its input alone
    alone           attention of each document by itself, on a processor
    cross_entropy   in the memory of the logits

Each is its textbook formula to rounding, and runs compiled, sharded and recomputed as that does. Nothing that was given
is changed: a matrix product's output may be kept by others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

QUERIES = 64
"""Queries at once in `alone`: their scores with one document's keys stay in a processor's cache."""
BLOCK = 2**18
"""Logits at once in `cross_entropy`, about: what is read three times stays in a processor's cache."""


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
    """Map (first, second) -> (first * cos - second * sin, second * cos + first * sin)."""
    out, half = x * cos, x.shape[-1] // 2
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute silu(gate) * up, each of the same shape (Shazeer 2020)."""
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
        """Map (..., d) -> same."""
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


def alone(q: Tensor, k: Tensor, v: Tensor, spans: tuple[tuple[int, int], ...]) -> Tensor:
    """Attend among the tokens `spans` = ((first, end), ...) of the flattened rows, each span by itself, causally.

    q, k, v (b, h, s, k) -> (b, h, s, k). For each span a few queries at a time against the keys up to them: large
    matrix products without a mask but on the diagonal. Scores are made again in the backward pass (Dao et al. 2022),
    from the log of the sum that normed them.
    """
    return _Alone.apply(q, k, v, spans)


class _Alone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, spans: tuple[tuple[int, int], ...]) -> Tensor:
        b, h, s, width = q.shape
        rows = [_rows(x) for x in (q, k, v)]
        out = q.new_empty(b, s, h, width)
        log_z = q.new_empty(h, b * s, 1)
        for mine, seen, scores in _scores(rows[0], rows[1], spans):
            high = scores.amax(-1, keepdim=True)
            total = scores.sub_(high).exp_().sum(-1, keepdim=True)
            log_z[:, mine] = high.add_(total.log())
            _rows(out.transpose(1, 2))[:, mine] = torch.bmm(scores, rows[2][:, seen]).div_(total)
        ctx.save_for_backward(q, k, v, out, log_z)
        ctx.spans = spans
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out, log_z = ctx.saved_tensors
        q, k, v = (_rows(x) for x in inputs)
        b, h, s, width = inputs[0].shape
        # Of a softmax: probability * (gradient - mean gradient), the latter by the output instead of by the scores.
        mean = (grad.transpose(1, 2) * out).sum(-1).view(b * s, h).T[..., None]
        grad = _rows(grad)
        made = [torch.zeros(b, s, h, width, dtype=q.dtype) for _ in inputs]
        dq, dk, dv = (_rows(x.transpose(1, 2)) for x in made)
        scale = 1 / math.sqrt(width)
        for mine, seen, scores in _scores(q, k, ctx.spans):
            scores.sub_(log_z[:, mine]).exp_()
            dv[:, seen] += torch.bmm(scores.mT, grad[:, mine])
            scores.mul_(torch.bmm(grad[:, mine], v[:, seen].mT).sub_(mean[:, mine])).mul_(scale)
            dq[:, mine] = torch.bmm(scores, k[:, seen])
            dk[:, seen] += torch.bmm(scores.mT, q[:, mine])
        return *(x.transpose(1, 2) for x in made), None


def _rows(x: Tensor) -> Tensor:
    """Map (b, h, s, k) -> (h, b * s, k), a view where tokens lie before heads in memory."""
    b, h, s, width = x.shape
    return x.transpose(1, 2).reshape(b * s, h, width).transpose(0, 1)


def _scores(q: Tensor, k: Tensor, spans: tuple[tuple[int, int], ...]) -> Iterator[tuple[slice, slice, Tensor]]:
    """Return (queries, keys, scores (h, queries, keys)), with minus infinity for keys that are after their query."""
    scale = 1 / math.sqrt(q.shape[-1])
    after = torch.full((QUERIES, QUERIES), -torch.inf, dtype=q.dtype).triu_(1)
    for first, end in spans:
        for start in range(first, end, QUERIES):
            mine, seen = slice(start, min(start + QUERIES, end)), slice(first, min(start + QUERIES, end))
            count = mine.stop - start
            scores = torch.bmm(q[:, mine], k[:, seen].mT).mul_(scale)
            scores[:, :, start - first :].add_(after[:count, :count])
            yield mine, seen, scores


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return nats (n,) of `targets` (n,) under `logits` (n, v), and log(Z) (n,).

    The logits' own memory becomes their exponentials, and in the backward pass their gradient, so that one (n, v) is
    held where log-softmax and its gradient make three. Whoever made them must not keep them for its own gradient; a
    matrix product does not, and for one that does autograd raises an error.
    """
    return _InPlace.apply(logits, targets)


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        work, place = logits.detach(), targets[:, None]
        high = work.amax(1, keepdim=True)
        aimed = work.gather(1, place)
        total = torch.empty_like(high)
        rows = max(1, BLOCK // work.shape[1])
        for start in range(0, work.shape[0], rows):
            part = slice(start, start + rows)
            torch.sum(work[part].sub_(high[part]).exp_(), 1, keepdim=True, out=total[part])
        ctx.save_for_backward(work, place, total)
        log_z = total.log().add_(high)
        return (log_z - aimed).squeeze(1), log_z.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, nats: Tensor, log_z: Tensor) -> tuple[Tensor, None]:
        # The probabilities times both, less the nats' at the target. Saved as it is, a second pass would be an error.
        work, place, total = ctx.saved_tensors
        work.mul_((nats + log_z)[:, None] / total)
        return work.scatter_add_(1, place, -nats[:, None]), None
