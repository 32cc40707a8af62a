"""Attention in training, causal or within documents: implementations of `Attend` (cm3/model/decoder.py).

    Causal     one document a row
    Blocked    documents packed into rows; on a processor document by document; on a GPU in half precision one kernel of
               documents of any lengths; else padded calls of documents of about one length, which a processor makes in
               bfloat16 by plain matrix products

The engine's cache is another, in cm3/engine/cache.py. Each takes keys and values of grouped heads as they are.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cm3.model.kernels import alone

SHORT = 48
"""Mean tokens a document under which one padded call beats a loop over documents on a processor."""
PADDED = {"cpu": 8}
"""How many times as many tokens as there are one padded call may have on a kind of device; `ELSEWHERE` on others. A few
long documents among many short ones would make it documents x longest, which no memory holds."""
ELSEWHERE = 2
PRODUCTS = 1024
"""Longest row, in tokens, that a processor attends to in bfloat16 by plain matrix products: the backward pass of its
flash kernel took 44% of a step of documents of 105 tokens, where it multiplies natively. They keep the square."""


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend causally. q (b, h, s, k); k, v (b, g, s, k), a key head for h / g query heads each -> (b, h, s, k)."""
    if q.is_cuda and k.shape[1] < q.shape[1]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    k, v = spread(k, q), spread(v, q)
    if q.is_cpu and q.dtype == torch.bfloat16 and q.shape[2] <= PRODUCTS:
        return products(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend causally by two matrix products with a softmax between. q, k, v (b, h, s, k) -> (b, h, s, k)."""
    b, h, s, width = q.shape
    after = torch.full((s, s), -torch.inf, dtype=q.dtype, device=q.device).triu_(1)
    q, k, v = (x.reshape(b * h, s, width) for x in (q, k, v))
    scores = torch.baddbmm(after, q, k.mT, alpha=1 / math.sqrt(width))
    return torch.bmm(scores.softmax(-1), v).view(b, h, s, width)


def spread(x: Tensor, q: Tensor) -> Tensor:
    """Return key heads (b, g, s, k), each repeated for every query head (b, h, s, k) of its group -> (b, h, s, k)."""
    group = q.shape[1] // x.shape[1]
    return x if group == 1 else x.repeat_interleave(group, dim=1)


class Padded(NamedTuple):
    """Documents laid out for padded calls."""

    place: Tensor
    """Of each token its place among those of all calls, (n,)."""
    calls: tuple[tuple[int, int, Tensor], ...]
    """Of each call how many documents it has, their length with padding, and the token at each of its places."""


def rounded(lengths: Tensor) -> Tensor:
    """Return lengths (n,) rounded up to 16, 24, 32, 48, 64, 96, ...: at most 1.5 times as much from 16 on.

    oneDNN makes a kernel for each shape of a product in bfloat16 and keeps it: documents of all lengths made a run
    slower and larger with every step, by gigabytes after a thousand (docs/log.md).
    """
    lengths = lengths.clamp_min(16)
    power = 2 ** torch.frexp((lengths - 1).float()).exponent
    less = power // 4 * 3
    return torch.where(lengths <= less, less, power)


class Causal:
    """Each token sees itself and what came before it in its row."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (b, h, s, k) to k, v (b, g, s, k) -> (b, h, s, k)."""
        return causal(q, k, v)


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
        self.spans = tuple(zip(first.tolist(), (first + lengths).tolist(), strict=True)) if flat.is_cpu else ()
        self.ends = F.pad(first + lengths, (1, 0)).to(torch.int32)
        self._known = which, first, lengths
        self.row = documents.shape[1]
        self.padded: Padded | None = None
        """All documents in few padded calls."""
        self.rounded: Padded | None = None
        """The same in calls of rounded lengths."""
        self.varlen = _varlen(flat.device)
        self.grouped = self.varlen is not None and "enable_gqa" in inspect.signature(self.varlen).parameters
        if self.varlen is None:
            self.padded = self._pad()

    def _pad(self) -> Padded:
        """Lay the documents out for padded calls: by the number of bits of their length, where one padded call of all
        would be too large; none is padded to more than twice its length then."""
        which, _, lengths = self._known
        many = self.count * self.longest > PADDED.get(which.device.type, ELSEWHERE) * which.numel()
        kinds = torch.frexp((lengths - 1).float()).exponent if many else torch.zeros_like(lengths)
        most = {kind: int(lengths[kinds == kind].max()) for kind in kinds.unique().tolist()}
        return self._laid_out(kinds, most)

    def _round(self) -> Padded:
        """Lay them out by `rounded` lengths: products of few shapes, and little padding."""
        kinds = rounded(self._known[2]).clamp_max(self.row)
        return self._laid_out(kinds, {kind: kind for kind in kinds.unique().tolist()})

    def _laid_out(self, kinds: Tensor, most: dict[int, int]) -> Padded:
        """Return a padded call for each kind of document, to `most` tokens."""
        which, first, lengths = self._known
        device, number = which.device, which.numel()
        places, calls = torch.zeros_like(which), []
        inner, placed = torch.arange(number, device=device) - first[which], 0
        for kind, longest in most.items():
            chosen = torch.nonzero(kinds == kind).squeeze(1)
            count = int(chosen.numel())
            order = torch.zeros_like(lengths)
            order[chosen] = torch.arange(count, device=device)
            mine = torch.nonzero((kinds == kind)[which]).squeeze(1)
            place = order[which[mine]] * longest + inner[mine]
            source = first[chosen][:, None].expand(-1, longest).clone().flatten()  # padding repeats a first token
            source[place] = mine
            places[mine] = placed + place
            calls.append((count, longest, source))
            placed += count * longest
        return Padded(places, tuple(calls))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (b, h, s, k) to k, v (b, g, s, k) -> (b, h, s, k)."""
        if not q.is_cuda:
            k, v = spread(k, q), spread(v, q)
        elif self.varlen is not None and (dtype := _half(q)) is not None:
            return self._unpadded(*(x.to(dtype) for x in (q, k, v)))
        b, h, s, width = q.shape
        # A compiled loop would be another graph for each packing; half precision has no fast product on a processor.
        # So whether one is compiled is asked first: what is asked after that is no guard of the graph.
        eager = not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))
        if eager and self.spans and b * s >= SHORT * self.count and q.dtype in (torch.float32, torch.float64):
            return alone(q, k, v, self.spans)
        flat = [_tokens(x) for x in (q, k, v)]
        if eager and q.is_cpu and q.dtype == torch.bfloat16:
            laid = self.rounded = self.rounded or self._round()
        else:
            laid = self.padded = self.padded or self._pad()
        outs = []
        for count, longest, source in laid.calls:
            out = causal(*(x.index_select(0, source).unflatten(0, (count, longest)).transpose(1, 2) for x in flat))
            outs.append(out.transpose(1, 2).reshape(count * longest, h, width))
        every = outs[0] if len(outs) == 1 else torch.cat(outs)
        return every.index_select(0, laid.place).view(b, s, h, width).transpose(1, 2)

    def _unpadded(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the same by the kernel for documents of any lengths: no padding, and from torch 2.12 no copies."""
        assert self.varlen is not None
        b, h, s, width = q.shape
        more = {"enable_gqa": True} if self.grouped else {}
        flat = [_tokens(x) for x in (q, k, v)] if self.grouped else [_tokens(spread(x, q)) for x in (q, k, v)]
        out = self.varlen(*flat, self.ends, self.ends, self.longest, self.longest, window_size=(-1, 0), **more)
        return out.view(b, s, h, width).transpose(1, 2)


def _tokens(x: Tensor) -> Tensor:
    """Map (b, h, s, k) -> (b * s, h, k)."""
    return x.transpose(1, 2).flatten(0, 1)


def _half(q: Tensor) -> torch.dtype | None:
    """Return the half precision that attention is computed in, None for a whole one."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype
    return dtype if dtype in (torch.float16, torch.bfloat16) and q.shape[-1] <= 256 and q.shape[-1] % 8 == 0 else None


def _varlen(device: torch.device) -> Callable[..., Any] | None:
    """Return torch's kernel for documents of any lengths, where it is there as it is called here and the device can run
    it."""
    if device.type != "cuda" or torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn  # imports torch's compiler, which takes seconds
    except ImportError:  # it is new in torch, and may move
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None
