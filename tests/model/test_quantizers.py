"""Quantisers invert exactly, pass gradients straight through, agree with naive references, and learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cm3.errors import ConfigError
from cm3.model.quantizers import FSQ, IBQ, Gumbel, VectorQuantizer

LEVELS = [(8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 5), (2, 3), (4,)]


def make(kind: str, dim: int = 3) -> FSQ | VectorQuantizer | Gumbel | IBQ:
    torch.manual_seed(0)
    if kind == "fsq":
        return FSQ((8, 5, 5)[:dim])
    if kind == "gumbel":
        return Gumbel(16, dim)
    if kind == "ibq":
        return IBQ(16, dim)
    return VectorQuantizer(16, dim, kind, restart_after=8)


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_lookup_then_forward_gives_every_code_back(levels: tuple[int, ...]) -> None:
    fsq = FSQ(levels)
    codes = torch.arange(fsq.codes).view(1, 1, -1)
    values = fsq.lookup(codes)
    assert values.abs().max() <= 1 and values.flatten(2).unique(dim=2).shape[2] == fsq.codes
    # undo the bounding: where tanh lands exactly on each level
    steps = values * fsq.half_width
    z = torch.atanh(((steps + fsq.offset) / fsq.reach).double()).float() - fsq.shift
    found = fsq(z)
    assert torch.equal(found.codes, codes)
    assert torch.equal(found.z_q, values)


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_reaches_every_level_and_no_other(levels: tuple[int, ...]) -> None:
    fsq = FSQ(levels)
    z = torch.linspace(-30, 30, 4001).view(1, 1, 1, -1).expand(1, len(levels), 1, -1)
    digits = fsq(z).codes.unsqueeze(1) // fsq.basis % fsq.count
    for channel, level in enumerate(levels):
        assert digits[0, channel].unique().tolist() == list(range(level))
    assert fsq(z).codes.min() == 0 and fsq(z).codes.max() == fsq.codes - 1


@pytest.mark.parametrize("kind", ["fsq", "plain", "ema", "l2", "gumbel", "ibq"])
def test_lookup_of_the_codes_is_what_forward_gave(kind: str) -> None:
    quantizer = make(kind).eval()
    found = quantizer(torch.randn(2, 3, 4, 5))
    assert found.codes.shape == (2, 4, 5) and found.codes.dtype == torch.int64 and found.loss.shape == ()
    assert 0 <= found.codes.min() and found.codes.max() < quantizer.codes
    assert torch.equal(found.z_q, quantizer.lookup(found.codes))


@pytest.mark.parametrize("kind", ["plain", "ema"])
def test_gradient_passes_straight_through(kind: str) -> None:
    z = torch.randn(2, 3, 4, 4, requires_grad=True)
    weight = torch.randn(2, 3, 4, 4)
    (make(kind).eval()(z).z_q * weight).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, weight)


def test_fsq_gradient_is_that_of_the_bounding() -> None:
    fsq = FSQ((8, 5))
    z = torch.randn(1, 2, 3, 3, requires_grad=True)
    fsq(z).z_q.sum().backward()
    y = z.detach().clone().requires_grad_()
    (torch.tanh(y + fsq.shift) * fsq.reach / fsq.half_width).sum().backward()
    assert z.grad is not None and y.grad is not None
    torch.testing.assert_close(z.grad, y.grad)


def test_nearest_equals_the_naive_search() -> None:
    quantizer = make("plain").eval()
    z = torch.randn(2, 3, 3, 3)
    flat = z.permute(0, 2, 3, 1).reshape(-1, 3)
    book = quantizer.embedding.weight.detach()
    naive = [min(range(16), key=lambda i: float((x - book[i]).square().sum())) for x in flat]
    assert quantizer(z).codes.flatten().tolist() == naive


def test_plain_loss_is_codebook_plus_beta_commitment() -> None:
    quantizer = VectorQuantizer(8, 2, beta=0.25)
    z = torch.randn(1, 2, 4, 4)
    found = quantizer(z)
    error = F.mse_loss(quantizer.lookup(found.codes), z)
    torch.testing.assert_close(found.loss, 1.25 * error)


def test_ibq_takes_the_largest_product_and_moves_every_code() -> None:
    quantizer = make("ibq").train()
    z = torch.randn(1, 3, 4, 4, requires_grad=True)
    book = quantizer.embedding.weight
    products = [[float(book[i].detach() @ x) for i in range(16)] for x in z.detach()[0].flatten(1).T]
    found = quantizer(z)
    assert found.codes.flatten().tolist() == [max(range(16), key=row.__getitem__) for row in products]
    (found.z_q * torch.randn(1, 3, 4, 4)).sum().backward()
    assert z.grad is not None and bool(z.grad.any())
    assert bool(book.grad.ne(0).any(1).all()), "codes that nothing chose are moved too"


def test_l2_codes_are_unit_vectors_and_ignore_length() -> None:
    quantizer = make("l2").eval()
    z = torch.randn(1, 3, 4, 4)
    assert torch.equal(quantizer(z).codes, quantizer(z * 7).codes)
    torch.testing.assert_close(quantizer(z).z_q.norm(dim=1), torch.ones(1, 4, 4))


def test_ema_update_equals_the_naive_one() -> None:
    quantizer = VectorQuantizer(5, 2, "ema", decay=0.9, epsilon=1e-3)
    book = torch.randn(5, 2)
    quantizer.embedding.weight.copy_(book)
    quantizer.ema_sum.copy_(book)
    count, total = [1.0] * 5, book.tolist()
    for step in range(3):
        z = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(step))
        flat = z.permute(0, 2, 3, 1).reshape(-1, 2)
        chosen = torch.cdist(flat, book).argmin(1).tolist()
        assert quantizer(z).codes.flatten().tolist() == chosen
        for i in range(5):
            mine = [x for x, c in zip(flat.tolist(), chosen, strict=True) if c == i]
            count[i] = 0.9 * count[i] + 0.1 * len(mine)
            total[i] = [0.9 * total[i][j] + 0.1 * sum(x[j] for x in mine) for j in range(2)]
        n = sum(count)
        smooth = [(c + 1e-3) / (n + 5 * 1e-3) * n for c in count]
        book = torch.tensor([[v / s for v in row] for row, s in zip(total, smooth, strict=True)])
        torch.testing.assert_close(quantizer.embedding.weight, book)
    assert not list(quantizer.parameters())


@pytest.mark.parametrize("kind", ["plain", "ema", "l2"])
def test_a_dead_code_restarts_from_the_batch(kind: str) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(4, 2, kind, restart_after=3)
    quantizer.unused.zero_()
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
        if kind == "ema":
            quantizer.ema_sum.copy_(quantizer.embedding.weight)
    z = torch.tensor([[0.9, 0.1], [0.1, 0.9], [-0.9, -0.1]]).t().reshape(1, 2, 1, 3)
    for step in range(3):
        before = quantizer.embedding.weight[3].clone()
        quantizer(z, torch.Generator().manual_seed(step))
        assert quantizer.unused.tolist() == [0, 0, 0, step + 1]
    quantizer(z, torch.Generator().manual_seed(9))
    assert quantizer.unused[3] <= 1 and not torch.equal(quantizer.embedding.weight[3], before)


def test_the_first_batch_initialises_a_codebook_that_restarts() -> None:
    quantizer = VectorQuantizer(64, 4, "ema", restart_after=10)
    z = torch.randn(4, 4, 8, 8) * 3 + 5
    found = quantizer(z, torch.Generator().manual_seed(0))
    assert F.mse_loss(found.z_q, z) < 0.5 * z.var() and found.codes.unique().numel() > 32


@pytest.mark.parametrize("kind", ["ema", "gumbel"])
def test_the_generator_decides(kind: str) -> None:
    z = torch.randn(2, 3, 4, 4)
    runs = [make(kind)(z, torch.Generator().manual_seed(seed)).codes for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_gumbel_is_argmax_in_eval() -> None:
    quantizer = make("gumbel").eval()
    z = torch.randn(1, 3, 4, 4)
    assert torch.equal(quantizer(z).codes, quantizer.proj(z).argmax(1))


@pytest.mark.parametrize("kind", ["fsq", "plain", "ema", "l2", "gumbel", "ibq"])
def test_each_quantiser_trains(kind: str) -> None:
    """An encoder and a decoder of one matrix each, round a quantiser, learn to give a tiny batch back."""
    quantizer = make(kind).train()
    encoder, decoder = torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)
    parameters = [*encoder.parameters(), *decoder.parameters(), *quantizer.parameters()]
    optimizer = torch.optim.Adam(parameters, 2e-2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 4, 4, generator=generator)
    losses = []
    for _ in range(80):
        found = quantizer(encoder(x), generator)
        loss = F.mse_loss(decoder(found.z_q), x)
        optimizer.zero_grad()
        (loss + found.loss).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="fsq.levels=\\(1, 5\\): needs at least one channel of at least 2 levels"):
        FSQ((1, 5))
    with pytest.raises(ConfigError, match="rule='cosine': must be 'plain', 'l2' or 'ema'"):
        VectorQuantizer(4, 2, "cosine")
