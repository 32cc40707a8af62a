"""Who may look at whom in training: implementations of `Attend` (cm3/model/decoder.py).

    Causal     one document a row
    Blocked    documents packed into rows; on a processor document by document, elsewhere one padded call
    Flexed     the same through FlexAttention's block mask: one kernel on a GPU, no padding, no copies

The engine's cache is another, in cm3/engine/cache.py.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

QUERIES = 64
"""Queries at once on a processor: their scores with one document's keys stay in its cache."""
SHORT = 48
"""Mean tokens a document under which one padded call beats a loop over documents on a processor."""


class Causal:
    """Each token sees itself and what came before it in its row."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(b, h, s, k) each -> (b, h, s, k)."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Blocked:
    """Causal, and blocked at the borders between the documents packed into one row.

    `documents` (b, s) holds an integer for each token: tokens of one row see each other only where it is equal, and
    equal ones stand side by side. Each document attends alone, so the work is that of the documents and not of the
    square of the row. Exact: nothing is approximated or masked away.
    """

    def __init__(self, documents: Tensor) -> None:
        flat = documents.flatten()
        rows = torch.arange(documents.shape[0], device=flat.device).repeat_interleave(documents.shape[1])
        starts = torch.ones_like(flat, dtype=torch.bool)
        starts[1:] = (flat[1:] != flat[:-1]) | (rows[1:] != rows[:-1])
        which = starts.cumsum(0) - 1  # (n,) document of each token
        first = torch.nonzero(starts).squeeze(1)
        lengths = torch.bincount(which)
        self.count, self.longest = int(lengths.numel()), int(lengths.max())
        # Place of each token among (count, longest), and the token at each place; padding repeats a document's first.
        self.place = which * self.longest + (torch.arange(flat.numel(), device=flat.device) - first[which])
        source = first[:, None].expand(-1, self.longest).clone().flatten()
        source[self.place] = torch.arange(flat.numel(), device=flat.device)
        self.source = source
        self.spans = tuple(zip(first.tolist(), (first + lengths).tolist(), strict=True)) if flat.is_cpu else ()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(b, h, s, k) each -> (b, h, s, k)."""
        b, h, s, width = q.shape
        # A compiled loop would be another graph for each packing; half precision has no fast product on a processor.
        # So whether one is compiled is asked first: what is asked after that is no guard of the graph.
        eager = not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))
        if eager and self.spans and b * s >= SHORT * self.count and q.dtype in (torch.float32, torch.float64):
            return _Alone.apply(q, k, v, self.spans)
        q, k, v = self._out(q), self._out(k), self._out(v)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        flat = out.transpose(1, 2).reshape(self.count * self.longest, h * width)
        return flat.index_select(0, self.place).view(b, s, h, width).transpose(1, 2)

    def _out(self, x: Tensor) -> Tensor:
        """(b, h, s, k) -> (count, h, longest, k)."""
        b, h, s, width = x.shape
        flat = x.transpose(1, 2).reshape(b * s, h * width).index_select(0, self.source)
        return flat.view(self.count, self.longest, h, width).transpose(1, 2)


class _Alone(torch.autograd.Function):
    """Attention of the tokens `spans` = ((first, end), ...) of the flattened rows, each span by itself.

    q, k, v (b, h, s, k) -> (b, h, s, k). For each span a few queries at a time against the keys up to them: large
    matrix products without a mask but on the diagonal. Scores are made again in the backward pass (Dao et al. 2022),
    from the log of the sum that normed them.
    """

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
    """(b, h, s, k) -> (h, b * s, k), a view where tokens lie before heads in memory."""
    b, h, s, width = x.shape
    return x.transpose(1, 2).reshape(b * s, h, width).transpose(0, 1)


def _scores(q: Tensor, k: Tensor, spans: tuple[tuple[int, int], ...]) -> Iterator[tuple[slice, slice, Tensor]]:
    """(queries, keys, scores (h, queries, keys)), with minus infinity for keys that are after their query."""
    scale = 1 / math.sqrt(q.shape[-1])
    after = torch.full((QUERIES, QUERIES), -torch.inf, dtype=q.dtype).triu_(1)
    for first, end in spans:
        for start in range(first, end, QUERIES):
            mine, seen = slice(start, min(start + QUERIES, end)), slice(first, min(start + QUERIES, end))
            count = mine.stop - start
            scores = torch.bmm(q[:, mine], k[:, seen].mT).mul_(scale)
            scores[:, :, start - first :].add_(after[:count, :count])
            yield mine, seen, scores


class Flexed:
    """What `Blocked` is, through FlexAttention: blocks of the mask that are empty are not computed.

    For a GPU, compiled there once for each shape. On a processor it computes the same,
    slowly, and torch has no backward pass of it there.
    """

    def __init__(self, documents: Tensor) -> None:
        b, s = documents.shape
        documents = documents.contiguous()

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & (documents[row, query] == documents[row, key])

        self.mask = create_block_mask(seen, b, None, s, s, device=documents.device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(b, h, s, k) each -> (b, h, s, k)."""
        if q.is_cuda:
            return _compiled()(q, k, v, block_mask=self.mask)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow uncompiled
            out = flex_attention(q, k, v, block_mask=self.mask)
        assert isinstance(out, Tensor)
        return out


@functools.cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)


def blocked(documents: Tensor, kernel: Literal["sdpa", "flex"] = "sdpa") -> Blocked | Flexed:
    """Attention within the documents of packed rows (b, s), by a kernel."""
    return Flexed(documents) if kernel == "flex" else Blocked(documents)
