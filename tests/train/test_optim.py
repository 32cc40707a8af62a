"""Optimizers and schedule against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cm3.errors import ConfigError
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.train.optim import Muon, OptimConfig, Optimizer, orthogonalise, schedule


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8), (1, 9), (64, 63)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_the_directions(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = orthogonalise(x)
    values = torch.linalg.svdvals(y)
    assert y.shape == x.shape and y.dtype == x.dtype
    # Jordan et al.: five steps bring them into about [0.7, 1.2]; a value near 0 stays below.
    assert float(values.max()) < 1.3 and float(values.median()) > 0.6
    # U and V are those of x: U^T y V is diagonal.
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    inner = u.T @ y @ vh.T
    assert float((inner - inner.diag().diag()).abs().max()) < 1e-9
    torch.testing.assert_close(orthogonalise(7 * x), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 9), (6, 12), (18, 5)])
def test_orthogonalise_is_the_quintic(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    s = s / (x.norm() + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalise(x), u @ s.diag() @ vh)
    torch.testing.assert_close(orthogonalise(x.float()).double(), u @ s.diag() @ vh, rtol=1e-3, atol=1e-4)
    assert not orthogonalise(torch.zeros(3, 4)).any()


def test_muon_is_its_formula() -> None:
    """Nesterov momentum, orthogonalised, 0.2 * sqrt(larger side), decoupled decay (arXiv:2502.16982)."""
    g = torch.Generator().manual_seed(0)
    start = torch.randn(5, 8, generator=g)
    p = nn.Parameter(start.clone())
    muon = Muon([p], lr=0.1, momentum=0.9, weight_decay=0.02)
    want, average = start.clone(), torch.zeros(5, 8)
    for _ in range(4):
        grad = torch.randn(5, 8, generator=g)
        p.grad = grad.clone()
        muon.step()
        average = 0.9 * average + 0.1 * grad
        update = orthogonalise(0.1 * grad + 0.9 * average)
        want = want * (1 - 0.1 * 0.02) - 0.1 * 0.2 * math.sqrt(8) * update
        torch.testing.assert_close(p.data, want)


def test_muon_takes_a_convolution_as_a_matrix_and_no_vectors() -> None:
    g = torch.Generator().manual_seed(0)
    weight, grad = torch.randn(4, 3, 2, 2, generator=g), torch.randn(4, 3, 2, 2, generator=g)
    conv, matrix = nn.Parameter(weight.clone()), nn.Parameter(weight.flatten(1).clone())
    conv.grad, matrix.grad = grad.clone(), grad.flatten(1).clone()
    Muon([conv], 0.1).step()
    Muon([matrix], 0.1).step()
    assert torch.equal(conv.data.flatten(1), matrix.data)
    still = nn.Parameter(torch.ones(2, 2))
    Muon([still], 0.1, weight_decay=0.5).step()
    assert torch.equal(still.data, torch.ones(2, 2)), "no gradient, no step"
    with pytest.raises(ConfigError, match="Muon takes matrices and convolutions only; give vectors to AdamW"):
        Muon([nn.Parameter(torch.zeros(3))], 0.1)


def test_the_schedule() -> None:
    linear = OptimConfig(warmup=10, final=0.1)
    rates = [linear.rate(i, 110) for i in range(110)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)]) and rates[10] == 1.0
    assert rates[60] == pytest.approx(0.55) and all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert linear.rate(110, 110) == pytest.approx(0.1) == linear.rate(500, 110)

    held = OptimConfig(warmup=10, decay_from=0.5, final=0.0, shape="cosine")
    assert {held.rate(i, 100) for i in range(9, 51)} == {1.0}
    assert held.rate(75, 100) == pytest.approx(0.5) and held.rate(100, 100) == pytest.approx(0.0)

    assert OptimConfig(warmup=0).rate(0, 10) == 1.0
    # The cosine of an image tokenizer, down to a share of the peak.
    for step in range(50):
        done = (step - 7) / 43
        wanted = (step + 1) / 7 if step < 7 else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
        assert schedule(step, 50, 7, 0.02) == pytest.approx(wanted)
    short = OptimConfig(warmup=50)
    assert [short.rate(i, 20) for i in (0, 19)] == pytest.approx([0.02, 0.4])
    assert short.rate(60, 20) == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "adam"}, "optim.name='adam': must be 'adamw' or 'muon'"),
        ({"shape": "step"}, "optim.shape='step': must be 'linear' or 'cosine'"),
        ({"lr": 0.0}, "optim.lr=0.0: must be over 0 and under 100"),
        ({"adam_lr": float("nan")}, "optim.adam_lr=nan: must be over 0"),
        ({"clip": -1.0}, "optim.clip=-1.0: must be over 0"),
        ({"weight_decay": 2.0}, "optim.weight_decay=2.0: must be in 0..1"),
        ({"eps": -1e-8}, "optim.eps=-1e-08: must be in 0..1"),
        ({"momentum": 1.5}, "optim.momentum=1.5: must be in 0..1"),
        ({"decay_from": -0.5}, "optim.decay_from=-0.5: must be in 0..1"),
        ({"final": 1.1}, "optim.final=1.1: must be in 0..1"),
        ({"warmup": -1}, "optim.warmup=-1: must be at least 0 steps"),
    ],
)
def test_config_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimConfig(**values)


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            vocab_size=40, d_model=16, layers=2, heads=2, context=8, qk_norm=True, norm_affine=True, tied=False,
            activation="swiglu", grid=(2, 2),
        )
    )  # fmt: skip


def groups(name: str) -> dict[str, tuple[str, float]]:
    """Parameter -> (class of its optimizer, its weight decay)."""
    model = decoder()
    names = {id(p): n for n, p in model.named_parameters()}
    optimizer = Optimizer.of(model, OptimConfig(name=name, weight_decay=0.3))  # type: ignore[arg-type]
    return {
        names[id(p)]: (type(part).__name__, group["weight_decay"])
        for part in optimizer.parts
        for group in part.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_matrices_decay_and_the_rest_does_not(name: str) -> None:
    found = groups(name)
    assert found.keys() == {n for n, _ in decoder().named_parameters()}
    for parameter, (kind, decay) in found.items():
        inside = parameter.startswith("blocks.") and "norm" not in parameter
        assert decay == (0.3 if inside else 0.0), parameter
        assert kind == ("Muon" if inside and name == "muon" else "AdamW"), parameter


def test_adamw_is_torchs() -> None:
    """With clipping and the schedule of the step."""
    mine, theirs = decoder(), decoder()
    config = OptimConfig(lr=0.01, betas=(0.8, 0.9), weight_decay=0.0, clip=0.5, warmup=4)
    optimizer = Optimizer.of(mine, config)
    reference = torch.optim.AdamW(theirs.parameters(), 0.01, (0.8, 0.9), config.eps, 0.0)
    for step in range(6):
        for model in (mine, theirs):
            loss(model, step).backward()
        norm, rate = optimizer.clip(), optimizer.step(step, 20)
        want = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.param_groups[0]["lr"] = 0.01 * config.rate(step, 20)
        reference.step()
        reference.zero_grad()
        assert norm == pytest.approx(float(want), rel=1e-5) and rate == pytest.approx(0.01 * config.rate(step, 20))
        assert all(p.grad is None for p in mine.parameters())
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def loss(model: nn.Module, step: int) -> Tensor:
    """Something to minimise that every parameter takes part in."""
    g = torch.Generator().manual_seed(step)
    total = torch.zeros(())
    for p in model.parameters():
        total = total + (p * torch.randn(p.shape, generator=g)).sum() + p.square().sum()
    return total


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_comes_back(name: str) -> None:
    config = OptimConfig(name=name, lr=0.01, warmup=3)  # type: ignore[arg-type]
    whole, half = decoder(), decoder()
    one, two = Optimizer.of(whole, config), Optimizer.of(half, config)
    for step in range(3):
        for model, optimizer in ((whole, one), (half, two)):
            loss(model, step).backward()
            optimizer.clip()
            optimizer.step(step, 10)
    state, weights = {k: v.clone() for k, v in two.tensors().items()}, half.state_dict()
    fresh = decoder()
    fresh.load_state_dict(weights)
    resumed = Optimizer.of(fresh, config)
    for kind, tensor in resumed.tensors().items():
        assert not tensor.any()
        tensor.copy_(state.pop(kind))
    assert not state
    for step in range(3, 6):
        for model, optimizer in ((whole, one), (fresh, resumed)):
            loss(model, step).backward()
            optimizer.clip()
            optimizer.step(step, 10)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_of_zeros_is_what_the_first_step_makes(name: str) -> None:
    config = OptimConfig(name=name, lr=0.01, warmup=3)  # type: ignore[arg-type]
    models = decoder(), decoder()
    for model, asked in zip(models, (False, True), strict=True):
        optimizer = Optimizer.of(model, config)
        if asked:
            optimizer.tensors()
        loss(model, 0).backward()
        optimizer.step(0, 10)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_told_by_its_norm_and_can_be_dropped(bad: float) -> None:
    model = decoder()
    optimizer = Optimizer.of(model, OptimConfig())
    loss(model, 0).backward()
    assert model.embed.weight.grad is not None
    model.embed.weight.grad[0, 0] = bad
    assert not math.isfinite(optimizer.clip())
    optimizer.clear()
    assert all(p.grad is None for p in model.parameters())


def test_newton_schulz_in_bfloat16_is_that_of_float32_to_its_rounding() -> None:
    x = torch.randn(24, 64, generator=torch.Generator().manual_seed(2))
    exact, half = orthogonalise(x), orthogonalise(x, dtype=torch.bfloat16)
    assert half.dtype == torch.float32 and torch.equal(half, half.bfloat16().float())
    assert float((half - exact).norm() / exact.norm()) < 0.05
    assert torch.equal(orthogonalise(x, dtype=torch.float32), exact)
    weights = [nn.Parameter(torch.zeros(24, 64)) for _ in range(2)]
    for weight, dtype in zip(weights, (None, torch.bfloat16), strict=True):
        weight.grad = x.clone()
        muon = Muon([weight], lr=0.1, dtype=dtype)
        muon.step()
        assert weight.dtype == muon.state[weight]["momentum"].dtype == torch.float32
    assert not torch.equal(*weights)
    torch.testing.assert_close(weights[1].data, weights[0].data, atol=0.01, rtol=0)
