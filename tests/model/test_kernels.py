"""Gradients by hand are those of the formulas, and nothing that was given is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3.model.decoder import rotary_angles
from cm3.model.kernels import RMSNorm, rotate, swiglu


def some(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def angles(s: int = 5) -> tuple[Tensor, Tensor]:
    return rotary_angles(torch.tensor([range(s), range(3, s + 3)]), 6, 10_000.0, torch.float64)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def rms(x: Tensor, weight: Tensor | None) -> Tensor:
    out = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    return out if weight is None else out * weight


def normed(x: Tensor, weight: Tensor | None) -> Tensor:
    norm = RMSNorm(x.shape[-1], eps=1e-3, elementwise_affine=weight is not None)
    if weight is None:
        return norm(x)
    result = torch.func.functional_call(norm, {"weight": weight}, (x,))
    assert isinstance(result, Tensor)
    return result


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[[], list[Any]]]] = {
    "rotate": (rotate, rotated, lambda: [some(2, 3, 5, 6), *angles()]),
    "rotate, tokens before heads": (
        lambda x, *a: rotate(x.transpose(1, 2), *a),
        lambda x, *a: rotated(x.transpose(1, 2), *a),
        lambda: [some(2, 5, 3, 6), *angles()],
    ),
    "swiglu": (swiglu, lambda gate, up: F.silu(gate) * up, lambda: [some(2, 5, 7), some(2, 5, 7, seed=1)]),
    "rms": (normed, rms, lambda: [some(2, 5, 7), some(7, seed=1)]),
    "rms without weights": (normed, rms, lambda: [some(2, 5, 7), None]),
    "rms, one row": (normed, rms, lambda: [some(7), some(7, seed=1)]),
    "rms, a view": (
        lambda x, w: normed(x.mT, w),
        lambda x, w: rms(x.mT, w),
        lambda: [some(2, 7, 5), some(7, seed=1)],
    ),
}


@pytest.mark.parametrize(("kernel", "formula", "make"), CASES.values(), ids=CASES.keys())
def test_it_is_its_formula_forwards_and_backwards(
    kernel: Callable[..., Tensor], formula: Callable[..., Tensor], make: Callable[[], list[Any]]
) -> None:
    mine, reference = make(), make()
    got, want = kernel(*mine), formula(*reference)
    torch.testing.assert_close(got, want)
    weight = some(*got.shape, seed=7).detach()
    untouched = weight.clone()
    got.backward(weight)
    want.backward(weight)
    assert torch.equal(weight, untouched), "the gradient that came is not ours to change"
    for a, b in zip(mine, reference, strict=True):
        if a is not None:
            assert torch.equal(a, b), "an input was changed"
            if b.requires_grad:
                torch.testing.assert_close(a.grad, b.grad)


def test_gradients_by_finite_differences() -> None:
    assert torch.autograd.gradcheck(rotate, (some(2, 1, 2, 6), *angles(2)))
    assert torch.autograd.gradcheck(swiglu, (some(3, 2), some(3, 2, seed=1)))
    assert torch.autograd.gradcheck(normed, (some(2, 3), some(3, seed=1)))


@pytest.mark.parametrize("x", [some(2, 4).detach().bfloat16(), some(2, 4).detach().half()], ids=["bfloat16", "half"])
def test_half_precision_is_torch_own(x: Tensor) -> None:
    ours, theirs = RMSNorm(4, eps=1e-5, dtype=x.dtype), nn.RMSNorm(4, eps=1e-5, dtype=x.dtype)
    assert torch.equal(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]


def test_what_is_kept_for_the_backward_pass() -> None:
    """swiglu its two inputs, the norm its input and one number a row, the rotation none of its input."""

    def kept(call: Callable[[], Tensor]) -> int:
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.data_ptr()] = x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            call()
        return sum(sizes.values())

    gate, up, x = some(50, 40), some(50, 40, seed=1), some(1, 2, 50, 6)
    weight, (cos, sin) = some(40, seed=2), angles(50)
    assert kept(lambda: swiglu(gate, up)) == 2 * 50 * 40
    assert kept(lambda: normed(gate, weight)) == 50 * 40 + 40 + 50
    assert kept(lambda: rotate(x, cos[:1], sin[:1])) == 2 * 50 * 6
