"""Quantisers: a grid of vectors to a grid of integers and back, five laws behind one interface.

    forward(z (b, d, h, w), generator) -> Quantized(z_q (b, d', h, w), codes (b, h, w) int64, loss ())
    lookup(codes (b, h, w)) -> z_q (b, d', h, w), exactly what `forward` gave for these codes
    codes: how many there are

Gradients pass straight through the rounding: `z_q` has the value of the code and, for `z`, the gradient of the
identity. Randomness (Gumbel noise, which vector restarts a dead code) comes from `generator` only.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3.errors import ConfigError


class Quantized(NamedTuple):
    """The output of a quantiser: the quantised grid, its codes, and the loss that trains the quantiser (0 for FSQ)."""

    z_q: Tensor
    codes: Tensor
    loss: Tensor


class Alone:
    """The other processes of a run, as a quantiser sees them: there are none. `cm3.parallel.Mesh` is many."""

    rank, ranks = 0, 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all processes, in order."""
        return tensor


class Others(Protocol):
    """Processes that each quantise an even share of a batch: codes are counted, moved and drawn over all of it."""

    rank: int
    ranks: int

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all processes, in order."""


def _straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    # in this order the value is exactly that of the code
    return z_q.detach() + (z - z.detach())


class FSQ(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505): each channel is rounded to a few levels.

    There is no codebook to learn or to die. `levels[i]` is how many values channel i takes; a code is the mixed-radix
    number of its channels, the first one the least significant. Values are spread over [-1, 1].
    """

    reach: Tensor
    offset: Tensor
    shift: Tensor
    half_width: Tensor
    basis: Tensor
    count: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        if not levels or any(level < 2 for level in levels):
            raise ConfigError(f"fsq.levels={tuple(levels)}: needs at least one channel of at least 2 levels each")
        self.levels = tuple(levels)
        self.codes = math.prod(levels)
        self.dim = len(levels)
        # Not on meta, where networks are laid out: for arithmetic there torch imports its compiler, over a second.
        here = torch.get_default_device()
        with torch.device("cpu"):
            count = torch.tensor(levels, dtype=torch.float32)
            even = (count % 2 == 0).float()
            # (L - 1) / 2 steps either side, a little wider so that tanh need not saturate to reach the outermost level
            reach = (count - 1) * (1 + 1e-3) / 2
            constants = {
                "reach": reach,
                "offset": 0.5 * even,
                "shift": torch.atanh(0.5 * even / reach),
                "half_width": torch.tensor([n // 2 for n in levels]),
                "basis": torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]),
                "count": torch.tensor(levels),
            }
        for name, value in constants.items():
            self.register_buffer(name, value.to(here).view(-1, 1, 1), persistent=False)

    def bound(self, z: Tensor) -> Tensor:
        """Return the values that are rounded, in levels: where in its interval of 1 each of (b, len(levels), h, w)
        stands."""
        return torch.tanh(z + self.shift) * self.reach - self.offset

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Round (b, len(levels), h, w); see the module."""
        bounded = self.bound(z)
        steps = bounded.detach().round()
        codes = ((steps.long() + self.half_width) * self.basis).sum(1)
        return Quantized(_straight_through(bounded, steps) / self.half_width, codes, z.new_zeros(()))

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the exact inverse of the codes."""
        steps = (codes.unsqueeze(1) // self.basis) % self.count - self.half_width
        return steps.to(self.reach.dtype) / self.half_width


class _Table(nn.Module):
    """A codebook (codes, dim): learned by gradient, or a buffer that the quantiser moves itself."""

    weight: Tensor

    def __init__(self, weight: Tensor, learned: bool):
        super().__init__()
        if learned:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)


class VectorQuantizer(nn.Module):
    """Nearest vector of a codebook (van den Oord et al. 2017), its tensors named as in taming-transformers.

    rule 'plain': the codebook follows its own loss, plus `beta` times the commitment of the encoder to it;
    rule 'l2': the same between unit vectors (ViT-VQGAN, LlamaGen), where low-dimensional codes are used best;
    rule 'ema': no codebook loss; each code is the moving average, with `decay`, of the vectors given to it, its count
    Laplace-smoothed by `epsilon`.

    A code that no vector chose for `restart_after` training steps is moved onto a random vector of the batch at hand
    (0: never). A fresh codebook counts as dead, so the first batch initialises it.
    """

    unused: Tensor
    ema_count: Tensor
    ema_sum: Tensor

    def __init__(
        self,
        codes: int,
        dim: int,
        rule: str = "plain",
        *,
        beta: float = 0.25,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        restart_after: int = 0,
    ):
        super().__init__()
        if rule not in ("plain", "l2", "ema"):
            raise ConfigError(f"vector_quantizer.rule={rule!r}: must be 'plain', 'l2' or 'ema'")
        self.codes, self.dim, self.rule = codes, dim, rule
        self.beta, self.decay, self.epsilon, self.restart_after = beta, decay, epsilon, restart_after
        self.others: Others = Alone()
        weight = torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes)
        if rule == "l2":
            weight = F.normalize(torch.randn(codes, dim), dim=-1)
        self.embedding = _Table(weight, learned=rule != "ema")
        self.register_buffer("unused", torch.full((codes,), restart_after, dtype=torch.int64))
        if rule == "ema":
            self.register_buffer("ema_count", torch.ones(codes))
            self.register_buffer("ema_sum", weight.clone())

    def _codebook(self) -> Tensor:
        return F.normalize(self.embedding.weight, dim=-1) if self.rule == "l2" else self.embedding.weight

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantise (b, dim, h, w). Training mode also restarts dead codes and, for 'ema', moves the codebook."""
        b, d, h, w = z.shape
        flat = z.permute(0, 2, 3, 1).reshape(-1, d)  # (n, d)
        if self.rule == "l2":
            flat = F.normalize(flat, dim=-1)
        if self.training and self.restart_after:
            # before the codebook is read: a tensor that autograd holds must not change under it
            self._restart(flat.detach(), generator)
        index = self._nearest(flat.detach())
        chosen = F.embedding(index, self._codebook())  # (n, d)
        loss = self.beta * F.mse_loss(flat, chosen.detach())
        if self.rule != "ema":
            loss = loss + F.mse_loss(chosen, flat.detach())
        z_q = _straight_through(flat, chosen).view(b, h, w, d).permute(0, 3, 1, 2)
        if self.training:
            self._observe(flat.detach(), index)
        return Quantized(z_q, index.view(b, h, w), loss)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors of the codes."""
        return F.embedding(codes, self._codebook()).permute(0, 3, 1, 2)

    @torch.no_grad()
    def _nearest(self, flat: Tensor) -> Tensor:
        book = self._codebook()
        # |x - e|^2 without |x|^2, which is the same for every code
        return (book.square().sum(-1) - 2 * flat @ book.t()).argmin(-1)

    @torch.no_grad()
    def _observe(self, flat: Tensor, index: Tensor) -> None:
        count = self.others.sum(torch.bincount(index, minlength=self.codes))
        self.unused.add_(1).masked_fill_(count > 0, 0)
        if self.rule != "ema":
            return
        total = self.others.sum(torch.zeros_like(self.ema_sum).index_add_(0, index, flat))
        self.ema_count.lerp_(count.to(self.ema_count.dtype), 1 - self.decay)
        self.ema_sum.lerp_(total, 1 - self.decay)
        n = self.ema_count.sum()
        smoothed = (self.ema_count + self.epsilon) / (n + self.codes * self.epsilon) * n
        self.embedding.weight.copy_(self.ema_sum / smoothed.unsqueeze(-1))

    @torch.no_grad()
    def _restart(self, flat: Tensor, generator: torch.Generator | None) -> None:
        dead = (self.unused >= self.restart_after).nonzero().squeeze(-1)
        if dead.numel() == 0:
            return
        flat = self.others.gather(flat)
        # drawn on the CPU, where the generator lives whatever device the network is on
        if dead.numel() <= flat.shape[0]:
            rows = torch.randperm(flat.shape[0], generator=generator)[: dead.numel()]
        else:
            rows = torch.randint(flat.shape[0], (dead.numel(),), generator=generator)
        fresh = flat[rows.to(flat.device)]
        self.embedding.weight[dead] = fresh
        self.unused[dead] = 0
        if self.rule == "ema":
            self.ema_count[dead] = 1.0
            self.ema_sum[dead] = fresh


class Gumbel(nn.Module):
    """Gumbel-softmax codes (taming-transformers' GumbelQuantize, as in DALL-E): noisy choice in training, argmax after.

    The loss is `kl_weight` times the divergence of the choice from uniform. `temperature` is a plain attribute that a
    trainer may lower.
    """

    def __init__(self, codes: int, dim: int, *, hidden: int | None = None, kl_weight: float = 5e-4):
        super().__init__()
        self.codes, self.dim, self.kl_weight, self.temperature = codes, dim, kl_weight, 1.0
        self.others: Others = Alone()
        self.proj = nn.Conv2d(hidden or dim, codes, 1)
        self.embed = nn.Embedding(codes, dim)

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantise (b, hidden, h, w) to (b, dim, h, w)."""
        logits = self.proj(z)  # (b, n, h, w)
        probabilities = logits.softmax(1)
        loss = self.kl_weight * (probabilities * (probabilities * self.codes + 1e-10).log()).sum(1).mean()
        if not self.training:
            codes = logits.argmax(1)
            return Quantized(self.lookup(codes), codes, loss)
        whole = (logits.shape[0] * self.others.ranks, *logits.shape[1:])
        uniform = torch.rand(whole, generator=generator).chunk(self.others.ranks)[self.others.rank].to(logits.device)
        noise = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        soft = ((logits + noise) / self.temperature).softmax(1)
        codes = soft.argmax(1)
        hard = F.one_hot(codes, self.codes).permute(0, 3, 1, 2).to(soft.dtype)
        choice = _straight_through(soft, hard)
        return Quantized(torch.einsum("bnhw,nd->bdhw", choice, self.embed.weight), codes, loss)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors of the codes."""
        return self.embed(codes).permute(0, 3, 1, 2)


class IBQ(nn.Module):
    """Index backpropagation quantisation (Shi et al. 2024, arXiv:2412.02692): the code whose vector has the largest dot
    product with z.

    Gradients reach every code, by way of the softmax of the products. The loss is that of the paper without its term of
    entropy. Tensors have the names of SEED-Voken's checkpoints.
    """

    def __init__(self, codes: int, dim: int, *, beta: float = 0.25):
        super().__init__()
        self.codes, self.dim, self.beta = codes, dim, beta
        self.others: Others = Alone()
        self.embedding = _Table(torch.empty(codes, dim).normal_(), learned=True)

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantise (b, dim, h, w)."""
        book = self.embedding.weight
        logits = torch.einsum("bdhw,nd->bnhw", z, book)
        codes = logits.argmax(1)
        chosen = self.lookup(codes)
        if not self.training:
            return Quantized(chosen, codes, F.mse_loss(chosen, z))
        hard = F.one_hot(codes, self.codes).permute(0, 3, 1, 2).to(z.dtype)
        z_q = torch.einsum("bnhw,nd->bdhw", _straight_through(logits.softmax(1), hard), book)
        loss = F.mse_loss(z_q, z) + F.mse_loss(chosen.detach(), z) + self.beta * F.mse_loss(chosen, z.detach())
        return Quantized(z_q, codes, loss)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors of the codes."""
        return F.embedding(codes, self.embedding.weight).permute(0, 3, 1, 2)
