"""Next-token loss: weighted cross-entropy in chunks, z-loss, and its parts by modality.

A mean over tokens is blind to text, with about nine caption tokens beside 1,024 image codes (docs/paper.md 1.5), so the
loss is always reported by group of targets as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cm3.model.kernels import cross_entropy
from cm3.vocab import Vocab

GROUPS = ("text", "image", "special")
"""Names of the target groups, in the order of `target_groups`."""

ROWS = 64
"""Rows that the head's product in bfloat16 on a processor has a multiple of."""


class Loss(NamedTuple):
    """`total`: what to minimise, scalar. `sums`, `counts` (groups,): unweighted nats and targets by group, detached."""

    total: Tensor
    sums: Tensor
    counts: Tensor
    z: Tensor


def target_groups(targets: Tensor, vocab: Vocab) -> Tensor:
    """Return 0 for text, 1 for an image code, 2 for a special, for each target id; same shape."""
    return torch.where(targets < vocab.text_start, 2, torch.where(targets < vocab.image_start, 0, 1))


def next_token_loss(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor,
    vocab: Vocab,
    z_loss: float = 0.0,
    chunk: int = 1024,
    keep_logits: int = 2**26,
) -> Loss:
    """Return mean cross-entropy of `targets` (n,) given `hidden` (n, d), weighted by `weights` (n,), 0 for no target.

    Logits are made `chunk` tokens at a time, which keeps them in a processor's cache; where all of them would be more
    than `keep_logits` numbers they are made again in the backward pass, so that (n, v) is never held at once. With
    `z_loss`, adds that times the mean of log(Z)^2 (PaLM; Chameleon section 2.3 uses 1e-5). Z is of the very logits that
    predict the target, so hidden and targets must be aligned: hidden[i] predicts targets[i].
    """
    keep = weights > 0
    hidden, targets, weights = hidden[keep], targets[keep], weights[keep]
    groups = target_groups(targets, vocab)
    norm = weights.sum().clamp_min(1e-9)
    # Zero; where there is no target at all, with a gradient of zero.
    total = hidden.new_zeros((), dtype=torch.float32) if len(hidden) else hidden.float().sum()
    z_total = hidden.new_zeros((), dtype=torch.float32)
    sums = hidden.new_zeros(len(GROUPS), dtype=torch.float32)
    again = hidden.shape[0] * vocab.size > keep_logits and torch.is_grad_enabled()
    for start in range(0, hidden.shape[0], chunk):
        part = slice(start, start + chunk)
        if again:
            nats, log_z = checkpoint(_nats, head, hidden[part], targets[part], z_loss > 0, use_reentrant=False)
        else:
            nats, log_z = _nats(head, hidden[part], targets[part], z_loss > 0)
        total = total + (nats * weights[part]).sum() / norm
        z_total = z_total + (log_z.square() * weights[part]).sum() / norm
        sums = sums.index_add(0, groups[part], nats.detach())
    counts = torch.bincount(groups, minlength=len(GROUPS)).float()
    return Loss(total + z_loss * z_total if z_loss else total, sums, counts, z_total.detach())


def _nats(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, with_z: bool) -> tuple[Tensor, Tensor]:
    """Return nats a target, and log(Z), which has a gradient only `with_z`."""
    if hidden.is_cpu and hidden.dtype == torch.bfloat16:  # few shapes: see cm3.model.attention.rounded
        logits = head(F.pad(hidden, (0, 0, 0, -len(hidden) % ROWS)))[: len(hidden)]
    else:
        logits = head(hidden)
    nats, log_z = cross_entropy(logits.float(), targets)
    return nats, log_z if with_z else log_z.detach()
