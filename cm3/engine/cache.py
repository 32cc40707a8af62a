"""The key-value cache, and the two attends that read and write it.

Row i of the cache is the i-th active stream, and active streams are kept in rows 0 to n - 1 (schedule.py), so a decode
step reads a slice of each layer and gathers nothing. The tensors (rows, heads, capacity, head_dim) grow as rows and
lengths ask, up to the engine's maximum; shapes, types and devices are those of the first keys that arrive, so a decoder
that holds a share of the heads, or computes in bfloat16, needs no word here. A key head that a group of query heads
shares is stored once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cm3.model.attention import causal

_STEP = 64


class Cache:
    """Keys and values of up to `max_rows` streams of up to `context` tokens, for each layer."""

    def __init__(self, max_rows: int, context: int) -> None:
        self._max_rows = max_rows
        self._context = context
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, layer: int, like: Tensor, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a layer, (>= rows, heads, >= length, head_dim), grown if they were smaller."""
        old = self._layers.get(layer)
        if old is not None and (old[0].dtype, old[0].device) != (like.dtype, like.device):
            old = None  # the decoder was moved
        if old is not None and old[0].shape[0] >= rows and old[0].shape[2] >= length:
            return old
        had_rows, had_length = (old[0].shape[0], old[0].shape[2]) if old is not None else (0, 0)
        if rows > had_rows:
            rows = max(rows, min(2 * had_rows, self._max_rows))
        if length > had_length:
            length = max(length, min(2 * had_length, self._context))
        rows, length = max(rows, had_rows), max(-(-length // _STEP) * _STEP, had_length)
        # Zeros, not empty: a masked place still enters the product, and 0 * nan is nan.
        new = tuple(like.new_zeros(rows, like.shape[1], length, like.shape[3]) for _ in range(2))
        if old is not None:
            for wide, narrow in zip(new, old, strict=True):
                wide[:had_rows, :, :had_length] = narrow
        self._layers[layer] = (new[0], new[1])
        return self._layers[layer]

    @property
    def memory(self) -> int:
        """Return the bytes that it takes."""
        return sum(tensor.nbytes for pair in self._layers.values() for tensor in pair)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another row."""
        for pair in self._layers.values():
            for tensor in pair:
                tensor[target, :, :length] = tensor[source, :, :length]

    def clear(self, row: int) -> None:
        """Zero a row. Needed only if it may hold nan, which a mask does not keep out of the next stream's product."""
        for pair in self._layers.values():
            for tensor in pair:
                tensor[row].zero_()


class Prefill:
    """Attend of whole prompts, right-padded: causal among themselves, written to the cache.

    Prompt i of the batch has `lengths[i]` tokens from position 0 and goes to each row in `rows[i]`: requests that share
    a prompt share its computation. Padding is to the right of every real query, so causality alone hides it.
    """

    def __init__(self, cache: Cache, rows: list[list[int]], lengths: list[int], device: torch.device) -> None:
        self._cache = cache
        self._rows = 1 + max(max(r) for r in rows)
        self._length = max(lengths)
        places = [(i, row, n) for i, (targets, n) in enumerate(zip(rows, lengths, strict=True)) for row in targets]
        counts = torch.tensor([n for _, _, n in places])
        self._source = torch.tensor([i for i, _, _ in places]).repeat_interleave(counts).to(device)
        self._target = torch.tensor([row for _, row, _ in places]).repeat_interleave(counts).to(device)
        self._position = torch.cat([torch.arange(n) for _, _, n in places]).to(device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (b, h, s, k) to k, v (b, g, s, k), g key heads -> (b, h, s, k)."""
        keys, values = self._cache.layer(layer, k, self._rows, self._length)
        keys[self._target, :, self._position] = k[self._source, :, self._position]
        values[self._target, :, self._position] = v[self._source, :, self._position]
        return causal(q, k, v)


class Append:
    """Attend of the next tokens of rows 0 to n - 1: each sees its row's cached tokens and, causally, its new ones.

    `starts[i]` tokens of row i are cached; `counts[i]` >= 1 new ones follow (right-padded to the longest count).
    """

    def __init__(self, cache: Cache, starts: list[int], counts: list[int], device: torch.device) -> None:
        self._cache = cache
        self._width = max(counts)
        start = torch.tensor(starts)
        count = torch.tensor(counts)
        ends = start + count
        self._length = int(ends.max())
        offset = torch.arange(self._width)
        valid = offset < count[:, None]  # (n, width)
        positions = (start[:, None] + offset).masked_fill(~valid, 0)
        self.positions = positions.to(device)
        self._single = self._width == 1
        row, place = valid.nonzero(as_tuple=True)
        self._row, self._place = row.to(device), place.to(device)
        self._at = positions[row, place].to(device)
        # One length for all and one new token: every key is visible and no mask is needed.
        even = self._single and int(start.min()) + 1 == self._length
        seen = torch.arange(self._length) <= positions[:, :, None]  # (n, width, length)
        self._mask = None if even else seen[:, None].to(device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (n, h, width, k) to k, v (n, g, width, k), g key heads -> (n, h, width, k)."""
        rows = q.shape[0]
        keys, values = self._cache.layer(layer, k, rows, self._length)
        keys[self._row, :, self._at] = k[:, :, 0] if self._single else k[self._row, :, self._place]
        values[self._row, :, self._at] = v[:, :, 0] if self._single else v[self._row, :, self._place]
        keys, values = keys[:rows, :, : self._length], values[:rows, :, : self._length]
        group = q.shape[1] // k.shape[1]
        if group == 1:
            return scaled_dot_product_attention(q, keys, values, attn_mask=self._mask)
        # The query heads of a group as so many more queries of their key head: no key is copied.
        mask = None if self._mask is None else self._mask.repeat(1, 1, group, 1)
        out = scaled_dot_product_attention(q.reshape(rows, -1, group * q.shape[2], q.shape[3]), keys, values, mask)
        return out.reshape(q.shape)
