"""Optimizers and schedule.

AdamW is the paper's kind. Muon (Jordan et al. 2024) orthogonalises the momentum of each weight matrix; embeddings and
norms stay with AdamW beside it. torch's own Muon runs its Newton-Schulz steps in bfloat16, which a processor without
bfloat16 arithmetic emulates at a fraction of its speed, so the step is here, in the number type of the run
(docs/decisions/0003-muon.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cm3.errors import ConfigError
from cm3.parallel import clip_grad_norm, full, like


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule. Raises `ConfigError` for a value out of range.

    `lr` is the peak rate (of the matrices, with Muon); `adam_lr` that of embeddings and norms beside Muon.
    """

    name: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for the matrices of the blocks with AdamW for the rest."""
    lr: float = 6e-4
    """Peak rate; of the matrices, with Muon."""
    adam_lr: float = 3e-3
    """Peak rate of embeddings and norms beside Muon."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW."""
    eps: float = 1e-8
    """AdamW's."""
    weight_decay: float = 0.1
    """Of matrices."""
    momentum: float = 0.95
    """Muon's."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    warmup: int = 100
    """Updates over which the rate rises."""
    decay_from: float = 0.0
    """Share of the run after which the rate falls; before it, it stays at its peak."""
    final: float = 0.1
    """Rate at the end, as a share of the peak."""
    shape: Literal["linear", "cosine"] = "linear"
    """How the rate falls."""

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "muon"):
            raise ConfigError(f"optim.name={self.name!r}: must be 'adamw' or 'muon'")
        if self.shape not in ("linear", "cosine"):
            raise ConfigError(f"optim.shape={self.shape!r}: must be 'linear' or 'cosine'")
        for name in ("lr", "adam_lr", "clip"):
            if not 0 < getattr(self, name) < 100:
                raise ConfigError(f"optim.{name}={getattr(self, name)}: must be over 0 and under 100")
        for name in ("eps", "weight_decay", "momentum", "decay_from", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"optim.{name}={getattr(self, name)}: must be in 0..1")
        if self.warmup < 0:
            raise ConfigError(f"optim.warmup={self.warmup}: must be at least 0 steps")

    def rate(self, step: int, steps: int) -> float:
        """Return the share of the peak rate at `step` (from 0) of a run of `steps`."""
        return schedule(step, steps, self.warmup, self.final, self.shape, self.decay_from)


def schedule(step: int, steps: int, warmup: int, final: float, shape: str = "cosine", decay_from: float = 0.0) -> float:
    """Return the share of the peak rate at `step` (from 0) of a run of `steps`.

    It rises linearly for `warmup` steps, stays until the share `decay_from` of the run, and falls to `final`.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, int(decay_from * steps))
    if step < start or steps <= start:
        return 1.0
    progress = min(1.0, (step - start) / (steps - start))
    fall = progress if shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * progress)
    return 1.0 - (1.0 - final) * fall


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps, for matrices. Nesterov form.

    A convolution's weight (out, in, h, w) is taken as the matrix (out, in * h * w). A weight that lies in shards is
    orthogonalised whole, on every process; its momentum stays in shards.

    The step is scaled by 0.2 * sqrt(larger side), so that its size matches AdamW's (Liu et al. 2025, arXiv:2502.16982).
    `dtype` is that of the Newton-Schulz steps, None the weight's; weights and momentum keep theirs.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        for group in self.param_groups:
            if any(p.dim() < 2 for p in group["params"]):
                raise ConfigError("Muon takes matrices and convolutions only; give vectors to AdamW")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                average = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(full(p.grad.lerp(average, group["momentum"])).flatten(1), dtype=self.dtype)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(like(update.view(p.shape), p), alpha=-group["lr"] * 0.2 * math.sqrt(max(update.shape)))


STEPS = 5
"""Newton-Schulz steps."""
_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Of a step: x -> a x + (b g + c g^2) x, with the Gram matrix g of x."""


def orthogonalise(matrix: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the nearest matrix with singular values near 1: quintic Newton-Schulz (Jordan et al. 2024).

    (r, c) -> (r, c), computed in `dtype`, None the matrix's, on a processor and in bfloat16 on a GPU. In float32 a
    matrix of which one side is twice the other takes its steps in its Gram matrix, which is smaller. That squares the
    singular values, for which bfloat16 has too few digits.
    """
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else dtype or matrix.dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    if x.dtype in (torch.float32, torch.float64) and x.shape[1] >= 2 * x.shape[0]:
        x = _steps_of_gram(x @ x.T) @ x
    else:
        for _ in range(STEPS):
            x = torch.addmm(x, _step(x @ x.T), x, beta=_A)
    return (x.T if tall else x).to(matrix.dtype)


def _step(gram: Tensor) -> Tensor:
    """Return b g + c g^2."""
    return torch.addmm(gram, gram, gram, beta=_B, alpha=_C)


def _steps_of_gram(gram: Tensor) -> Tensor:
    """Return the product of all steps, each a matrix p = a + b g + c g^2: x -> p x, so g -> p g p."""
    total = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for left in reversed(range(STEPS)):
        p = _step(gram)
        p.diagonal().add_(_A)
        total = p @ total
        gram = p @ (gram @ p) if left else gram
    return total


class Optimizer:
    """Torch optimizers stepped as one, with the schedule and the gradient clip: `clip`, then `step`.

    `parts` hold weights of `model` that learn, each group with its peak rate; `rate(step, steps)` is the share of it.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Iterable[torch.optim.Optimizer],
        limit: float,
        rate: Callable[[int, int], float],
    ) -> None:
        self.names = {p: n for n, p in model.named_parameters() if p.requires_grad}
        self.parts, self.limit, self.rate = list(parts), limit, rate
        self.peaks = [[g["lr"] for g in part.param_groups] for part in self.parts]

    @classmethod
    def of(cls, model: nn.Module, config: OptimConfig, dtype: torch.dtype | None = None) -> Optimizer:
        """Return that of a decoder: matrices of the blocks, and the rest. `dtype`: see `Muon`."""
        c, names = config, {p: n for n, p in model.named_parameters() if p.requires_grad}
        matrices = [p for p, n in names.items() if p.dim() == 2 and n.startswith("blocks.") and _is_linear(n)]
        inside = {id(p) for p in matrices}
        rest = [p for p in names if id(p) not in inside]
        parts: list[torch.optim.Optimizer]
        if c.name == "muon":
            parts = [
                Muon(matrices, c.lr, c.momentum, c.weight_decay, dtype),
                torch.optim.AdamW(rest, c.adam_lr, c.betas, c.eps, 0.0, fused=True),
            ]
        else:
            groups = [{"params": matrices, "weight_decay": c.weight_decay}, {"params": rest, "weight_decay": 0.0}]
            parts = [torch.optim.AdamW(groups, c.lr, c.betas, c.eps, fused=True)]
        return cls(model, parts, c.clip, c.rate)

    def clip(self) -> float:
        """Scale the gradients so that their norm is at most `limit`. Returns the norm before, of all shards."""
        return clip_grad_norm(self.names, self.limit)

    def step(self, step: int, steps: int, learn: bool = True) -> float:
        """Set the rates for `step` of `steps`, update if it is to `learn`, clear gradients. Returns the rate."""
        share = self.rate(step, steps)
        for part, peaks in zip(self.parts, self.peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            if learn:
                part.step()
        self.clear()
        return self.peaks[0][0] * share

    def clear(self) -> None:
        """Drop the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name, zero before the first step: `exp_avg.NAME`, ...; the very tensors, to save or
        fill."""
        found: dict[str, Tensor] = {}
        for part in self.parts:
            for group in part.param_groups:
                for p in group["params"]:
                    if not part.state[p]:
                        part.state[p].update(_fresh(part, p))
                    found |= {f"{kind}.{self.names[p]}": value for kind, value in part.state[p].items()}
        return found


def _fresh(part: torch.optim.Optimizer, p: Tensor) -> dict[str, Tensor]:
    """Return the state that the first step would make."""
    if isinstance(part, Muon):
        return {"momentum": torch.zeros_like(p)}
    step = torch.zeros((), dtype=torch.float32, device=p.device if part.defaults["fused"] else "cpu")
    return {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


def _is_linear(name: str) -> bool:
    return name.endswith(
        ("wq.weight", "wk.weight", "wv.weight", "wo.weight", "up.weight", "gate.weight", "down.weight")
    )
