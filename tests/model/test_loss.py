"""The loss equals the textbook one, however it is cut up, and reports its parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cm3.model.loss import GROUPS, Loss, next_token_loss, target_groups
from cm3.vocab import Vocab

VOCAB = Vocab(text=256, image=40, masks=8, reserved=2)


def inputs(n: int = 50) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, targets, weights with zeros among them, and the matrix of the head."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 8, generator=g, dtype=torch.float64).requires_grad_()
    targets = torch.randint(VOCAB.size, (n,), generator=g)
    weights = torch.rand(n, generator=g).mul(2).round().div(2).float()
    matrix = torch.randn(VOCAB.size, 8, generator=g, dtype=torch.float64).requires_grad_()
    assert 0 < int((weights == 0).sum()) < n
    return hidden, targets, weights, matrix


def ours(hidden: Tensor, targets: Tensor, weights: Tensor, matrix: Tensor, **options: Any) -> Loss:
    return next_token_loss(lambda h: h @ matrix.T, hidden, targets, weights, VOCAB, **options)


@pytest.mark.parametrize(
    "options", [{}, {"chunk": 1}, {"chunk": 7}, {"chunk": 7, "keep_logits": 0}, {"keep_logits": 0}], ids=str
)
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_it_is_cross_entropy_however_it_is_cut(options: dict[str, int], z_loss: float) -> None:
    hidden, targets, weights, matrix = inputs()
    loss = ours(hidden, targets, weights, matrix, z_loss=z_loss, **options)
    loss.total.backward()

    hidden2, _, _, matrix2 = inputs()
    logits = (hidden2 @ matrix2.T).float()
    nats = F.cross_entropy(logits, targets, reduction="none")
    z = logits.exp().sum(-1).log() ** 2
    want = (nats * weights).sum() / weights.sum() + z_loss * (z * weights).sum() / weights.sum()
    want.backward()

    torch.testing.assert_close(loss.total, want)
    torch.testing.assert_close(loss.z, ((z * weights).sum() / weights.sum()).detach())
    torch.testing.assert_close(hidden.grad, hidden2.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(matrix.grad, matrix2.grad, rtol=1e-4, atol=1e-7)


def test_logits_are_made_again_where_they_would_not_fit() -> None:
    hidden, targets, weights, matrix = inputs()
    calls = []

    def head(h: Tensor) -> Tensor:
        calls.append(len(h))
        return h @ matrix.T

    counted = int((weights > 0).sum())
    next_token_loss(head, hidden, targets, weights, VOCAB, chunk=20).total.backward()
    assert sum(calls) == counted and max(calls) <= 20
    calls.clear()
    next_token_loss(head, hidden, targets, weights, VOCAB, chunk=20, keep_logits=0).total.backward()
    assert sum(calls) == 2 * counted
    calls.clear()
    with torch.no_grad():
        next_token_loss(head, hidden, targets, weights, VOCAB, chunk=20, keep_logits=0)
    assert sum(calls) == counted


def test_groups_are_the_ranges_of_the_vocabulary() -> None:
    ids = torch.arange(VOCAB.size)
    names = [GROUPS[i] for i in target_groups(ids, VOCAB).tolist()]
    kinds = zip(VOCAB.is_text(ids.numpy()), VOCAB.is_image(ids.numpy()), strict=True)
    assert names == ["text" if text else "image" if image else "special" for text, image in kinds]


def test_parts_by_group_are_plain_means_and_detached() -> None:
    hidden, targets, weights, matrix = inputs()
    loss = ours(hidden, targets, weights, matrix, chunk=7)
    keep = weights > 0
    nats = F.cross_entropy((hidden @ matrix.T).float(), targets, reduction="none")[keep].detach()
    groups = target_groups(targets[keep], VOCAB)
    for i, name in enumerate(GROUPS):
        assert float(loss.sums[i] / loss.counts[i]) == pytest.approx(float(nats[groups == i].mean()), rel=1e-5), name
    assert loss.counts.sum() == keep.sum() and not loss.sums.requires_grad and not loss.z.requires_grad
    text = torch.full_like(targets, VOCAB.text_start)
    assert ours(hidden, text, weights, matrix).counts.bool().tolist() == [True, False, False]


def test_nothing_to_predict_is_zero_and_not_nan() -> None:
    hidden, targets, weights, matrix = inputs()
    loss = ours(hidden, targets, torch.zeros_like(weights), matrix, z_loss=0.1)
    assert float(loss.total.detach()) == 0.0 and not loss.sums.any() and not loss.counts.any()
    loss.total.backward()
    assert hidden.grad is not None and not hidden.grad.any()


def test_confident_logits_do_not_overflow() -> None:
    hidden = torch.full((3, 1), 1e4, requires_grad=True)
    matrix = torch.linspace(-1, 1, VOCAB.size)[:, None]
    targets = torch.tensor([VOCAB.size - 1, 0, 5])
    loss = next_token_loss(lambda h: h @ matrix.T, hidden, targets, torch.ones(3), VOCAB, z_loss=1e-4)
    assert math.isfinite(float(loss.total.detach()))


def test_the_logits_memory_becomes_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else of their size is made, in either pass; cut into rows or not."""
    made: list[Tensor] = []
    for block in (1, 2**20):
        monkeypatch.setattr("cm3.model.kernels.BLOCK", block)
        _, targets, weights, _ = inputs()
        logits = torch.randn(len(targets), VOCAB.size, requires_grad=True)
        reference = logits.detach().clone().requires_grad_()
        made.clear()

        def head(h: Tensor, logits: Tensor = logits, weights: Tensor = weights) -> Tensor:
            made.append(logits[weights > 0] * 1.0)
            made[0].register_hook(made.append)
            return made[0]

        loss = next_token_loss(head, logits, targets, weights, VOCAB, z_loss=0.1)
        loss.total.backward()
        kept, grad = made
        assert grad.data_ptr() == kept.data_ptr()
        nats = F.cross_entropy(reference, targets, reduction="none")
        z = reference.logsumexp(-1).square()
        (((nats + 0.1 * z) * weights).sum() / weights.sum()).backward()
        torch.testing.assert_close(logits.grad, reference.grad)


def test_a_head_that_keeps_its_output_is_an_error() -> None:
    hidden, targets, weights, matrix = inputs()
    matrix = matrix.detach().float().requires_grad_()
    loss = next_token_loss(lambda h: (h.float() @ matrix.T).exp(), hidden, targets, weights, VOCAB)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.total.backward()


@pytest.mark.parametrize("chunk", [16, 1024])
def test_bfloat16_on_a_processor_is_the_same_loss_in_few_shapes(chunk: int) -> None:
    hidden, targets, weights, matrix = inputs(150)
    hidden, matrix = (x.detach().bfloat16().requires_grad_() for x in (hidden, matrix))
    rows = []
    got = next_token_loss(
        lambda h: (rows.append(len(h)), F.linear(h, matrix))[1], hidden, targets, weights, VOCAB, chunk=chunk
    )
    exact = [x.detach().double().requires_grad_() for x in (hidden, matrix)]
    want = ours(exact[0], targets, weights, exact[1])
    torch.testing.assert_close(got.total.double(), want.total.double(), atol=0.05, rtol=0.02)
    got.total.backward()
    want.total.backward()
    for mine, true in zip((hidden, matrix), exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), true.grad, atol=0.02, rtol=0.1)
    assert rows and all(n % 64 == 0 for n in rows)
