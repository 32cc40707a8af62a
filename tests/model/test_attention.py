"""Attention at document borders: `Blocked` is the dense boolean mask, computed without it."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cm3.model import attention, kernels
from cm3.model.attention import Blocked, Causal

ROWS = {
    "packed": [[1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]],
    "one": [[1] * 8],
    "padding only": [[1, 1, 2, 2, 2, 2, 0, 0], [0] * 8, [1, 2, 3, 4, 5, 6, 7, 0]],
    "same number across rows": [[1, 1, 2, 2], [2, 2, 2, 3]],
}


@pytest.fixture(params=["alone", "padded"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of `Blocked` on a processor, with documents of more than one block of queries."""
    monkeypatch.setattr(attention, "SHORT", 0 if request.param == "alone" else 10**9)
    monkeypatch.setattr(kernels, "QUERIES", 3)
    return request.param


def dense(q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Tensor:
    """Softmax attention by its formula, under a (b, s, s) mask."""
    s = q.shape[2]
    allowed = (documents[:, :, None] == documents[:, None, :]) & torch.ones(s, s, dtype=torch.bool).tril()
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~allowed[:, None], -torch.inf)
    return scores.softmax(-1) @ v


def inputs(b: int, s: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, 3, s, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_blocked_is_the_dense_mask_forwards_and_backwards(rows: list[list[int]]) -> None:
    documents = torch.tensor(rows)
    mine, reference = inputs(*documents.shape), inputs(*documents.shape)
    got, want = Blocked(documents)(0, *mine), dense(*reference, documents)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (got * weight).sum().backward()
    (want * weight).sum().backward()
    for a, b in zip(mine, reference, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_random_packings() -> None:
    generator = torch.Generator().manual_seed(3)
    for trial in range(20):
        documents = (torch.rand(3, 12, generator=generator) < 0.3).long().cumsum(1) + 1
        q, k, v = inputs(3, 12, trial)
        torch.testing.assert_close(Blocked(documents)(0, q, k, v), dense(q, k, v, documents))


@pytest.mark.parametrize("kv_heads", [1, 3])
def test_grouped_heads_are_repeated_heads(kv_heads: int) -> None:
    documents = torch.tensor(ROWS["packed"])
    q, *_ = inputs(2, 8)
    generator = torch.Generator().manual_seed(5)
    k, v = (torch.randn(2, kv_heads, 8, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    wide = [x.repeat_interleave(3 // kv_heads, dim=1) for x in (k, v)]
    for attend, mask in ((Causal(), torch.ones(2, 8)), (Blocked(documents), documents)):
        torch.testing.assert_close(attend(0, q, k, v), dense(q, *wide, mask))


def lengths_of(attend: Blocked) -> list[tuple[int, int]]:
    """Of each padded call how many documents it has, and the longest."""
    assert attend.padded is not None
    return [(count, longest) for count, longest, _ in attend.padded.calls]


@pytest.mark.parametrize("most", [0, 2, 8])
def test_a_long_document_among_short_ones_is_not_padded_for_all(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(attention, "PADDED", {"cpu": most})
    short = torch.arange(1, 41)
    documents = torch.stack([short, torch.full((40,), 50), torch.arange(40) // 3 + 100])
    attend = Blocked(documents)
    assert attend.count * attend.longest == 55 * 40 > 8 * documents.numel()
    assert sum(count * longest for count, longest in lengths_of(attend)) < 2 * documents.numel()
    mine, reference = inputs(3, 40), inputs(3, 40)
    got, want = attend(0, *mine), dense(*reference, documents)
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    want.square().sum().backward()
    for a, b in zip(mine, reference, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_random_packings_in_padded_calls_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PADDED", {"cpu": 0})
    generator = torch.Generator().manual_seed(4)
    for trial in range(20):
        documents = (torch.rand(3, 30, generator=generator) < 0.05 + trial / 25).long().cumsum(1) + 1
        attend = Blocked(documents)
        assert sum(count * longest for count, longest in lengths_of(attend)) < 2 * documents.numel()
        q, k, v = inputs(3, 30, trial)
        torch.testing.assert_close(attend(0, q, k, v), dense(q, k, v, documents))


def test_lengths_are_rounded_to_few_and_never_by_half() -> None:
    lengths = torch.arange(1, 3000)
    up = attention.rounded(lengths)
    assert (up >= lengths).all() and (up[16:] < 1.5 * lengths[16:]).all() and up.unique()[:6].tolist() == [
        16, 24, 32, 48, 64, 96
    ]  # fmt: skip


def test_bfloat16_on_a_processor_is_in_products_of_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, shapes = torch.Generator().manual_seed(6), set()
    made = attention.products
    monkeypatch.setattr(attention, "products", lambda *qkv: (shapes.add(qkv[0].shape[2]), made(*qkv))[1])
    for trial in range(30):
        documents = (torch.rand(2, 200, generator=generator) < 0.02 + trial / 200).long().cumsum(1) + 1
        mine, reference = inputs(2, 200, trial), inputs(2, 200, trial)
        got = Blocked(documents)(0, *(x.bfloat16() for x in mine))
        want = dense(*(x.bfloat16().double() for x in reference), documents)
        torch.testing.assert_close(got.double(), want, atol=0.05, rtol=0.05)
        got.double().square().sum().backward()
        want.square().sum().backward()
        for a, b in zip(mine, reference, strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=0.2, rtol=0.1)
    assert shapes <= {16, 24, 32, 48, 64, 96, 128, 192, 200}, "a row is no longer than it is"


def test_the_kernel_for_documents_of_any_lengths_is_given_their_borders() -> None:
    """The kernel itself needs a GPU; here by its documented meaning, and its real signature for shapes."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.nn.attention.varlen import varlen_attn

    def meant(
        q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, most_q: int, most_k: int, **more: Any
    ) -> Tensor:
        assert more == {"window_size": (-1, 0)} and ends_q.dtype == torch.int32 and most_q == most_k
        out = torch.empty_like(q)
        for a, b in zip(ends_q.tolist(), ends_k.tolist()[1:], strict=False):
            assert b - a <= most_q
            out[a:b] = Causal()(0, *(x[None, a:b].transpose(1, 2) for x in (q, k, v)))[0].transpose(0, 1)
        return out

    documents = torch.tensor(ROWS["packed"])
    attend = Blocked(documents)
    attend.varlen = meant
    q, k, v = (x.detach() for x in inputs(2, 8))
    torch.testing.assert_close(attend._unpadded(q, k[:, :1], v[:, :1]), dense(q, k[:, :1], v[:, :1], documents))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        attend.varlen = varlen_attn
        attend.ends = torch.empty(attend.count + 1, dtype=torch.int32, device="cuda")
        named = inspect.signature(varlen_attn).parameters
        for heads, attend.grouped in ((3, False), (1, False), *[(1, True)] * ("enable_gqa" in named)):
            kinds = [torch.empty(2, n, 8, 16, dtype=torch.bfloat16, device="cuda") for n in (3, heads, heads)]
            assert attend._unpadded(*kinds).shape == (2, 3, 8, 16)


def test_causal_is_the_dense_triangle() -> None:
    q, k, v = inputs(2, 7)
    torch.testing.assert_close(Causal()(0, q, k, v), dense(q, k, v, torch.ones(2, 7)))


@pytest.mark.parametrize("at", range(8))
def test_a_change_is_seen_by_what_follows_in_its_document_and_by_nothing_else(at: int) -> None:
    documents = torch.tensor(ROWS["packed"])
    attend = Blocked(documents)
    q, k, v = (x.detach() for x in inputs(2, 8))
    before = attend(0, q, k, v)
    for x in (q, k, v):
        x[0, :, at] += 1.0
    changed = (attend(0, q, k, v) != before).any(-1).any(1)  # (b, s)
    sees = (documents[0] == documents[0, at]) & (torch.arange(8) >= at)
    assert changed[0].tolist() == sees.tolist() and not changed[1].any()


def test_the_loop_over_documents_is_for_long_ones_in_whole_precision(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    seen: list[int] = []
    inner = attention.alone
    monkeypatch.setattr(attention, "alone", lambda *args: (seen.append(1), inner(*args))[1])
    documents = torch.tensor(ROWS["packed"])
    q, k, v = (x.detach() for x in inputs(2, 8))
    Blocked(documents)(0, q, k, v)
    assert len(seen) == (way == "alone")
    half = Blocked(documents)(0, q.bfloat16(), k.bfloat16(), v.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        Blocked(documents)(0, q.float(), k.float(), v.float())
    assert len(seen) == (way == "alone")
    torch.testing.assert_close(half.double(), dense(q, k, v, documents), rtol=0.05, atol=0.05)
    monkeypatch.setattr(attention, "SHORT", 4.0)
    seen.clear()
    Blocked(torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2]]))(0, q[:1], k[:1], v[:1])
    Blocked(torch.tensor([[1, 1, 1, 3, 2, 2, 2, 2]]))(0, q[:1], k[:1], v[:1])
    assert len(seen) == 1


def test_large_scores_stay_finite() -> None:
    documents = torch.tensor(ROWS["packed"])
    q, k, v = inputs(2, 8)
    out = Blocked(documents)(0, q * 1e4, k, v)
    torch.testing.assert_close(out, dense(q * 1e4, k, v, documents))
    out.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))


def test_the_kernel_for_any_lengths_is_chosen_by_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention.varlen import varlen_attn

    cuda, half = torch.device("cuda"), torch.empty(1, 1, 2, 16, dtype=torch.bfloat16)
    assert attention._varlen(torch.device("cpu")) is None and attention._varlen(torch.device("mps")) is None
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for capability, want in (((9, 0), varlen_attn), ((8, 0), varlen_attn), ((7, 5), None)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert attention._varlen(cuda) is want
    monkeypatch.setattr(torch.version, "cuda", None)  # an AMD GPU
    assert attention._varlen(cuda) is None
    assert attention._half(half) == torch.bfloat16 and attention._half(half.half()) == torch.float16
    assert attention._half(half.float()) is None and attention._half(half[..., :12]) is None, "eights of a head's width"


def test_plain_products_are_attention_forwards_and_backwards() -> None:
    """In double precision, as a reference; a processor takes them in bfloat16."""
    mine, theirs = inputs(2, 7), inputs(2, 7)
    got, want = attention.products(*mine), dense(*theirs, torch.ones(2, 7))
    torch.testing.assert_close(got, want)
    (got * torch.arange(7.0)[:, None]).sum().backward()
    (want * torch.arange(7.0)[:, None]).sum().backward()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("most", [8, 7])
def test_a_processor_takes_them_in_bfloat16_for_short_rows(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    seen: list[int] = []
    inner = attention.products
    monkeypatch.setattr(attention, "products", lambda *args: (seen.append(1), inner(*args))[1])
    monkeypatch.setattr(attention, "PRODUCTS", most)
    q, k, v = (x.detach() for x in inputs(2, 8))
    want = dense(q, k, v, torch.ones(2, 8))
    k, v = (x[:, :1] for x in (k, v))  # one head of keys for three of queries
    grouped = dense(q, k.expand_as(q), v.expand_as(q), torch.ones(2, 8))
    half = Causal()(0, *(x.bfloat16() for x in (q, k, v)))
    assert half.dtype == torch.bfloat16 and len(seen) == (most == 8)
    torch.testing.assert_close(half.double(), grouped, rtol=0.05, atol=0.05)
    assert not torch.allclose(grouped, want)
    Causal()(0, q, k, v)
    assert len(seen) == (most == 8)
