"""The key-value cache, and the attends that read and write it.

Active streams are in rows 0 to n - 1 (schedule.py). A row is what it shares with others, held once, and its own part:

    row 0   [ prefix A, blocks of 64 tokens ] [ own: rest of the prompt, what is written ........ ]
    row 1   [ prefix A                      ] [ own                                               ]
    row 2                                     [ own                                               ]

Own parts are one tensor (rows, heads, length, head_dim) a layer, so a decode step reads a slice and gathers nothing;
its rows attend to a prefix in one product for all that read it. All that a request can need is reserved when it starts,
in blocks: rows times the longest own part, and each prefix once. A key head that a group of query heads shares is
stored once. Shapes and devices are those of the first keys that arrive, so a decoder that holds a share of the heads
needs no word here. What requests leave behind takes the room that they do not need (kept.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cm3.engine.kept import KeptBlocks
from cm3.model.attention import causal, spread

BLOCK = 64
"""Tokens of a block."""

Chain = tuple[bytes, ...]
"""A hash for each whole block of a prompt, of it and of all before it: the same only where all tokens are the same."""
Kept = list[Tensor]
"""Keys, values; in int8 the scales of each beside them. The tokens are the last axis but one."""
Before = Callable[[int], Kept]
"""What stands before tokens, a layer at a time: no more than one layer of it is copied at once."""


class Prefix:
    """Keys and values of whole blocks with which rows begin. `readers`: rows that read it; `whole`: it was read."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.length = chain, BLOCK * len(chain)
        self.layers: dict[int, Kept] = {}
        self.readers, self.whole = 0, False


class Shape(NamedTuple):
    """Rows, and the blocks of each."""

    rows: int
    blocks: int


class Cache:
    """Keys and values of up to `max_rows` streams, in at most `blocks` blocks; without them, of `context` tokens each.

    `dtype`: how they are held: as they come (None), in bfloat16, or in int8 with a scale for each token and head.
    `most_kept`: blocks of those that may stay after their requests.
    """

    def __init__(
        self, max_rows: int, context: int, blocks: int | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.max_rows = max_rows
        self.blocks = max_rows * -(-context // BLOCK) if blocks is None else blocks
        self.dtype = dtype
        self.shape = Shape(0, 0)
        self.prefixes: dict[bytes, Prefix] = {}
        self.shared: dict[int, Prefix] = {}
        self.kept, self.most_kept = KeptBlocks(), self.blocks
        self._layers: dict[int, Kept] = {}

    @property
    def memory(self) -> int:
        """Return the bytes that it takes."""
        apart = [kept for prefix in self.prefixes.values() for kept in prefix.layers.values()]
        return self.kept.memory + sum(tensor.nbytes for kept in (*self._layers.values(), *apart) for tensor in kept)

    @property
    def addresses(self) -> Hashable:
        """Return where the rows' keys and values lie, and in which shape."""
        return tuple((tensor.data_ptr(), tensor.shape) for kept in self._layers.values() for tensor in kept)

    def reserve(self, rows: int, length: int, chains: Collection[Chain]) -> bool:
        """Make room for rows with `length` tokens of their own each, beside prefixes; returns whether there is.

        Blocks that are kept, then prefixes that no row reads, the oldest first, go where their room is needed.
        """
        held = {chain[-1]: len(chain) for chain in chains}
        held |= {key: len(prefix.chain) for key, prefix in self.prefixes.items() if prefix.readers}
        idle = {key: len(prefix.chain) for key, prefix in self.prefixes.items() if key not in held}
        had, blocks = self.shape, max(1, -(-length // BLOCK))
        left = self.blocks - sum(held.values())
        if rows * blocks > left:
            return False
        more = had.rows if rows <= had.rows else max(rows, min(2 * had.rows, self.max_rows))
        shape = Shape(rows, blocks)
        free = left - sum(idle.values())
        # Spare rows displace nothing that is kept, until rows are short: then as many again, not to copy all each time.
        for room, most in ((free - len(self.kept), more), (free, min(more, 2 * rows))):
            for long in (blocks, max(had.blocks, blocks)):  # as little as possible is copied now and by the next
                fit = min(most, room // long)
                shape = Shape(fit, long) if fit >= rows else shape
            if room >= math.prod(shape):
                break
        while math.prod(shape) + sum(idle.values()) > left:
            oldest = next(iter(idle))
            del idle[oldest], self.prefixes[oldest]
        self.kept.shrink(left - sum(idle.values()) - math.prod(shape))
        self._resize(shape)
        return True

    def keep(self, row: int, chain: Chain, rows: int, length: int) -> None:
        """Let the first blocks of a row stay after it, as far as there is room beside `rows` rows of `length` tokens.

        Those that are there are not copied again. Room is made before it is taken: kept blocks go, those used longest
        ago first, and rows that are far more than are needed.
        """
        there, blocks = self.kept.use(chain), max(1, -(-length // BLOCK))
        left = self.blocks - sum(len(prefix.chain) for prefix in self.prefixes.values())
        wanted = min(self.most_kept, len(self.kept) + len(chain) - there)
        short = wanted > left - math.prod(self.shape)
        if short and math.prod(self.shape) > 4 * rows * blocks:
            self._resize(Shape(min(2 * rows, self.shape.rows), blocks))
        room = max(0, min(self.most_kept, left - math.prod(self.shape)))
        new = range(there, min(len(chain), room))
        self.kept.shrink(room - len(new))
        for i in reversed(new):
            self.kept.put(chain[i], self._cut(row, BLOCK * i))
        self.kept.use(chain[: len(new) + there])

    def recall(self, row: int, chain: Chain) -> int:
        """Copy what is kept of a row's first blocks into it, behind its prefix; returns the tokens that it has then."""
        begin = self.held(row) // BLOCK
        count = max(begin, self.kept.use(chain))
        for i in range(begin, count):
            start, block = BLOCK * (i - begin), self.kept.block(chain[i])
            for layer, own in self._layers.items():
                for x, y in zip(own, block, strict=True):
                    x[row, :, start : start + BLOCK] = y[layer]
        return BLOCK * count

    def begin(self, row: int, chain: Chain) -> None:
        """Let a row begin with a prefix, which is whole or will be read."""
        prefix = self.prefixes.setdefault(chain[-1], Prefix(chain))
        prefix.readers += 1
        self.shared[row] = prefix

    def held(self, row: int) -> int:
        """Return the tokens of a row's prefix."""
        return self.shared[row].length if row in self.shared else 0

    def layer(self, layer: int, like: Tensor, rows: int, length: int) -> Kept:
        """Return what is kept of a layer, keys first: (>= rows, heads, >= length, head_dim), grown if it was less."""
        had, blocks = self.shape
        if rows > had or length > blocks * BLOCK:
            self._resize(Shape(max(had, rows), max(blocks, -(-length // BLOCK))))
        old = self._layers.get(layer)
        if old is None or old[0].dtype != (self.dtype or like.dtype) or old[0].device != like.device:
            heads, width = like.shape[1], like.shape[3]
            size = (self.shape.rows, heads, self.shape.blocks * BLOCK)
            # Zeros, not empty: a masked place still enters the product, and 0 * nan is nan.
            old = [like.new_zeros(*size, width, dtype=self.dtype) for _ in range(2)]
            if self.dtype == torch.int8:
                old += [like.new_zeros(*size, 1) for _ in range(2)]
            self._layers[layer] = old
        return old

    def move(self, source: int, target: int, length: int) -> None:
        """Make a row, which was released, of another's first `length` tokens, its prefix among them."""
        if source in self.shared:
            self.shared[target] = self.shared.pop(source)
            length -= self.shared[target].length
        for kept in self._layers.values():
            for tensor in kept:
                tensor[target, :, :length] = tensor[source, :, :length]
                tensor[target, :, length:] = 0  # as `clear`

    def release(self, row: int) -> None:
        """Let a row no longer read its prefix."""
        prefix = self.shared.pop(row, None)
        if prefix is not None:
            prefix.readers -= 1

    def clear(self, row: int) -> None:
        """Zero a row for its next stream: the last may have left nan, which a mask does not keep out of a product."""
        for kept in self._layers.values():
            for tensor in kept:
                tensor[row].zero_()

    def lift(self, source: int | Prefix | Chain, length: int) -> Before:
        """Return the first tokens of a row, of a prefix or of kept blocks, as they are kept; not copied where they lie
        in one piece."""
        if isinstance(source, tuple):
            return lambda layer: self.kept.layer(source[: length // BLOCK], layer)
        prefix = source if isinstance(source, Prefix) else self.shared.get(source)
        if prefix is not None and length <= prefix.length:
            return lambda layer: [x[:, :length] for x in prefix.layers[layer]]
        assert isinstance(source, int), "a prefix has no more than its tokens"
        if prefix is None:
            return lambda layer: [x[source, :, :length] for x in self._layers[layer]]
        more = length - prefix.length
        return lambda layer: [
            torch.cat([a, b[source, :, :more]], 1)
            for a, b in zip(prefix.layers[layer], self._layers[layer], strict=True)
        ]

    def pack(self, k: Tensor, v: Tensor) -> Kept:
        """Return keys and values (..., s, k) as they are kept."""
        if self.dtype is None:
            return [k, v]
        if self.dtype != torch.int8:
            return [k.to(self.dtype), v.to(self.dtype)]
        scales = [x.abs().amax(-1, keepdim=True).div_(127).clamp_min_(torch.finfo(x.dtype).tiny) for x in (k, v)]
        codes = [(x / scale).round_().to(torch.int8) for x, scale in zip((k, v), scales, strict=True)]
        return codes + scales

    def unpack(self, kept: Kept, like: Tensor) -> Kept:
        """Return keys and values to compute with."""
        if self.dtype == torch.int8:
            return [codes * scale for codes, scale in zip(kept[:2], kept[2:], strict=True)]
        return kept if self.dtype is None else [tensor.to(like.dtype) for tensor in kept]

    def _cut(self, row: int, start: int) -> list[Kept]:
        """Return a block of a row, of each layer."""
        prefix, held = self.shared.get(row), self.held(row)
        if prefix is not None and start < held:
            return [[x[:, start : start + BLOCK] for x in prefix.layers[layer]] for layer in range(len(self._layers))]
        start -= held
        return [[x[row, :, start : start + BLOCK] for x in self._layers[layer]] for layer in range(len(self._layers))]

    def _resize(self, shape: Shape) -> None:
        """Give rows another shape, a layer at a time; what they hold stays, as far as it fits."""
        if shape == self.shape:
            return
        rows, length = min(shape.rows, self.shape.rows), min(shape.blocks, self.shape.blocks) * BLOCK
        self.shape = shape
        for kept in self._layers.values():
            for i, old in enumerate(kept):
                kept[i] = old.new_zeros(shape.rows, old.shape[1], shape.blocks * BLOCK, old.shape[3])
                kept[i][:rows, :, :length] = old[:rows, :, :length]


def _addresses(prefix: Prefix) -> tuple[int, ...]:
    """Return where the keys and values of a prefix lie."""
    return tuple(tensor.data_ptr() for kept in prefix.layers.values() for tensor in kept)


def _index(rows: list[int], device: torch.device) -> slice | Tensor:
    """Return rows, in order, as an index: a slice, which copies nothing, where none is missing between them."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)


class Prefill:
    """Attend of whole prompts, right-padded: causal among themselves, written to the cache.

    Prompt i of the batch has `lengths[i]` tokens and goes to each row in `rows[i]`: requests that share a prompt share
    its computation. All stand behind the tokens `after`, or at position 0, and go to the rows' own parts from the place
    `at` on. The only one of a batch may go to the prefix `into`, after those. Padding is to the right of every real
    query, so causality alone hides it.
    """

    def __init__(
        self,
        cache: Cache,
        rows: list[list[int]],
        lengths: list[int],
        device: torch.device,
        after: Before | None = None,
        into: Prefix | None = None,
        at: int = 0,
    ) -> None:
        self._cache, self._after, self._into = cache, after, into
        self._rows = 1 + max((max(r) for r in rows if r), default=-1)
        self._at, self._length = at, at + max(lengths)
        places = [(i, row, n) for i, (targets, n) in enumerate(zip(rows, lengths, strict=True)) for row in targets]
        counts = torch.tensor([n for _, _, n in places], dtype=torch.long)
        self._source = torch.tensor([i for i, _, _ in places], dtype=torch.long).repeat_interleave(counts).to(device)
        self._target = torch.tensor([r for _, r, _ in places], dtype=torch.long).repeat_interleave(counts).to(device)
        self._position = torch.cat([torch.arange(0), *(torch.arange(n) for _, _, n in places)]).to(device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (b, h, s, k) to k, v (b, g, s, k), g key heads -> (b, h, s, k)."""
        new = self._cache.pack(k, v)
        if self._rows:
            for kept, x in zip(self._cache.layer(layer, k, self._rows, self._length), new, strict=True):
                kept[self._target, :, self._at + self._position] = x[self._source, :, self._position]
        before = self._after(layer) if self._after else []
        if self._into is not None:
            alone = [x[0] for x in new]
            parts = zip(before, alone, strict=True)
            self._into.layers[layer] = [torch.cat(both, 1) for both in parts] if before else [x.clone() for x in alone]
        if not before:
            return causal(q, k, v)
        k, v = (
            torch.cat([a.expand(len(b), -1, -1, -1), b], 2)
            for a, b in zip(self._cache.unpack(before, k), (k, v), strict=True)
        )
        hidden = k.shape[2] - q.shape[2]
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril_(hidden)
        return scaled_dot_product_attention(q, spread(k, q), spread(v, q), attn_mask=mask)


class Append:
    """Attend of the next tokens of rows 0 to n - 1: each sees its row's cached tokens and, causally, its new ones.

    `starts[i]` tokens of row i are cached, its prefix among them; `counts[i]` new ones follow (right-padded to the
    longest count), none in a row that reads nothing now.
    """

    def __init__(self, cache: Cache, starts: list[int], counts: list[int], device: torch.device) -> None:
        self._cache = cache
        self._width = max(counts)
        readers: dict[Prefix, list[int]] = {}
        for i in sorted(cache.shared.keys() & range(len(starts))):
            readers.setdefault(cache.shared[i], []).append(i)
        self._readers = readers
        self._groups = [(prefix, _index(rows, device), len(rows)) for prefix, rows in readers.items()]
        before = [cache.held(i) for i in range(len(starts))]
        start = torch.tensor(starts)
        own = start - torch.tensor(before)
        count = torch.tensor(counts)
        self.length = int((own + count).max())
        offset = torch.arange(self._width)
        valid = offset < count[:, None]  # (n, width)
        self.positions = (start[:, None] + offset).masked_fill(~valid, 0).to(device)
        self._places = (own[:, None] + offset).masked_fill(~valid, 0).to(device)
        self._single = self._width == 1 and min(counts) == 1
        row, place = valid.nonzero(as_tuple=True)
        self._row, self._place = row.to(device), place.to(device)
        self._at = self._places[self._row, self._place]
        # One length for all and one new token: every key is visible and no mask is needed.
        self._even = self._single and int(own.min()) + 1 == self.length
        self.fixed = False
        self.look()

    @property
    def tensors(self) -> list[Tensor]:
        """Return what moves on with each token."""
        return [self.positions, self._places, self._at]

    @property
    def signature(self) -> Hashable:
        """Return what else a pass depends on: the prefixes, by where they lie and which rows read them."""
        return tuple((tuple(rows), prefix.length, _addresses(prefix)) for prefix, rows in self._readers.items())

    def apart(self, length: int, fixed: bool) -> Append:
        """Return the same with moving tensors of its own, for one token a row. It reads `length` places of the rows,
        which `fixed` holds, and hides those that no token has reached."""
        made = copy.copy(self)
        made.positions, made._places, made._at = (tensor.clone() for tensor in self.tensors)
        made.length, made.fixed, made._even = length, fixed, False
        made.look()
        return made

    def advance(self) -> None:
        """Let one more token of each row follow the one that each has read, in place. Nothing comes from the host."""
        for tensor in self.tensors:
            tensor += 1
        if not self.fixed:
            self.length += 1
            self.look()

    def look(self) -> None:
        """Find out which keys each new token sees, (n, 1, width, length); None where it is all."""
        self._mask: Tensor | None = None
        if not self._even:
            keys = torch.arange(self.length, device=self._places.device)
            self._mask = (keys <= self._places[:, :, None])[:, None]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (n, h, width, k) to k, v (n, g, width, k), g key heads -> (n, h, width, k)."""
        rows = q.shape[0]
        held = self._cache.layer(layer, k, rows, self.length)
        for kept, x in zip(held, self._cache.pack(k, v), strict=True):
            kept[self._row, :, self._at] = x[:, :, 0] if self._single else x[self._row, :, self._place]
        keys, values = self._cache.unpack([kept[:rows, :, : self.length] for kept in held], q)
        group = q.shape[1] // k.shape[1]
        if group == 1 and not self._groups:
            return scaled_dot_product_attention(q, keys, values, self._mask)
        # The query heads of a group as so many more queries of their key head: no key is copied.
        mask = None if self._mask is None else self._mask.repeat(1, 1, group, 1)
        wide = q.reshape(rows, -1, group * q.shape[2], q.shape[3])
        if self._groups:
            return self._joined(layer, wide, keys, values, mask).reshape(q.shape)
        return scaled_dot_product_attention(wide, keys, values, mask).reshape(q.shape)

    def _joined(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attend to prefixes and own parts under one softmax: a prefix in one product for all of its rows."""
        n, g, queries, width = q.shape
        longest = max(prefix.length for prefix, _, _ in self._groups)
        scores = q.new_empty(n, g, queries, longest + self.length)
        if any(prefix.length < longest or some < n for prefix, _, some in self._groups):
            scores[..., :longest] = -torch.inf
        q = q / math.sqrt(width)
        own = q @ keys.mT
        scores[..., longest:] = own if mask is None else own.masked_fill_(~mask, -torch.inf)
        groups = [(p.length, rows, some, self._cache.unpack(p.layers[layer], q)) for p, rows, some in self._groups]
        for length, rows, some, (k, _) in groups:
            part = q[rows].transpose(0, 1).reshape(g, -1, width) @ k.mT
            scores[rows, :, :, :length] = part.view(g, some, queries, length).transpose(0, 1)
        shares = scores.softmax(-1)
        out = shares[..., longest:] @ values
        for length, rows, some, (_, v) in groups:
            part = shares[rows, :, :, :length].transpose(0, 1).reshape(g, -1, length) @ v
            out[rows] += part.view(g, some, queries, width).transpose(0, 1)
        return out
