"""Attending through the cache equals causal attention, however the rows grow, move and are padded."""

from __future__ import annotations

import pytest
import torch

from cm3.engine.cache import Append, Cache, Prefill
from cm3.model.attention import Causal

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 8


def qkv(rows: int, length: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, HEADS, length, WIDTH, generator=generator) for _ in range(3))


def test_prefill_then_append_equals_causal() -> None:
    lengths, chunks = [70, 3, 0], [[1, 4, 1], [2, 1, 60], [1, 1, 1]]
    total = 140
    q, k, v = qkv(3, total, 0)
    expected = Causal()(0, q, k, v)
    cache = Cache(max_rows=4, context=256)
    # Rows 1 and 0 of the cache hold prompts of the batch in the other order.
    batch = torch.tensor([1, 0])
    fill = Prefill(cache, [[1], [0]], [3, 70], CPU)
    out = fill(0, *(x[batch, :, :70] for x in (q, k, v)))
    torch.testing.assert_close(out[1], expected[0, :, :70])
    torch.testing.assert_close(out[0, :, :3], expected[1, :, :3])
    starts = list(lengths)
    for step in range(3):
        counts = [chunks[row][step] for row in range(3)]
        attend = Append(cache, starts, counts, CPU)
        place = attend.positions[:, None, :, None].expand(-1, HEADS, -1, WIDTH)
        out = attend(0, *(x.gather(2, place) for x in (q, k, v)))
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            torch.testing.assert_close(out[row, :, :count], expected[row, :, start : start + count])
        starts = [a + b for a, b in zip(starts, counts, strict=True)]
    assert starts == [76, 66, 3]


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_heads_are_stored_once_and_attend_as_if_repeated(groups: int) -> None:
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(2, 4, 9, WIDTH, generator=generator)
    k, v = (torch.randn(2, groups, 9, WIDTH, generator=generator) for _ in range(2))
    expected = Causal()(0, q, *(x.repeat_interleave(4 // groups, dim=1) for x in (k, v)))
    cache = Cache(max_rows=2, context=64)
    out = Prefill(cache, [[0], [1]], [5, 2], CPU)(0, *(x[:, :, :5] for x in (q, k, v)))
    torch.testing.assert_close(out[0], expected[0, :, :5])
    starts = [5, 2]
    for counts in ([1, 1], [2, 3], [1, 1]):
        attend = Append(cache, starts, counts, CPU)
        out = attend(
            0, *(x.gather(2, attend.positions[:, None, :, None].expand(-1, x.shape[1], -1, WIDTH)) for x in (q, k, v))
        )
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            torch.testing.assert_close(out[row, :, :count], expected[row, :, start : start + count])
        starts = [a + b for a, b in zip(starts, counts, strict=True)]
    assert cache.layer(0, k, 2, 9)[0].shape[1] == groups


def test_a_shared_prompt_reaches_every_row_and_a_move_carries_it() -> None:
    q, k, v = qkv(1, 6, 1)
    cache = Cache(max_rows=4, context=64)
    Prefill(cache, [[0, 3]], [5], CPU)(0, *(x[:, :, :5] for x in (q, k, v)))
    cache.move(3, 1, 5)
    expected = Causal()(0, q, k, v)[:, :, 5:]
    out = Append(cache, [5, 5], [1, 1], CPU)(0, *(x[:, :, 5:].expand(2, -1, -1, -1) for x in (q, k, v)))
    torch.testing.assert_close(out, expected.expand(2, -1, -1, -1))


def test_layers_are_apart_and_memory_follows_need() -> None:
    cache = Cache(max_rows=100, context=4096)
    like = torch.zeros(1, HEADS, 1, WIDTH, dtype=torch.bfloat16)
    assert cache.reserve(2, 10, ()) and cache.memory == 0
    keys, values = cache.layer(0, like, rows=2, length=10)
    assert keys.shape == values.shape == (2, HEADS, 64, WIDTH) and keys.dtype == torch.bfloat16
    keys.fill_(1.0)
    assert cache.memory == 2 * keys.nbytes
    assert not cache.layer(1, like, 2, 10)[0].any()
    assert cache.reserve(3, 65, ())
    grown, _ = cache.layer(0, like, rows=3, length=65)
    assert grown.shape == (4, HEADS, 128, WIDTH), "rows come one by one, and are made by twice as many"
    assert grown[:2, :, :64].all() and not grown[2:].any() and not grown[:, :, 64:].any()
    assert cache.layer(0, like, rows=1, length=1)[0] is grown
