"""Attention at document borders: `Blocked` and `Flexed` are the dense boolean mask, computed without it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cm3.model import attention
from cm3.model.attention import Blocked, Causal, Flexed, blocked

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
    monkeypatch.setattr(attention, "QUERIES", 3)
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
    inner = attention._Alone.apply
    monkeypatch.setattr(attention._Alone, "apply", lambda *args: (seen.append(1), inner(*args))[1])
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


def test_flexed_is_the_dense_mask() -> None:
    documents = torch.tensor(ROWS["padding only"])
    q, k, v = (x.detach().float() for x in inputs(*documents.shape))
    torch.testing.assert_close(Flexed(documents)(0, q, k, v), dense(q, k, v, documents))


def test_the_kernel_is_chosen_by_name() -> None:
    documents = torch.tensor(ROWS["one"])
    assert isinstance(blocked(documents), Blocked) and isinstance(blocked(documents, "flex"), Flexed)
