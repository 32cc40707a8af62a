"""Tensors that lie in shards over the mesh (DTensors), taken as the whole that they are.

    sharded --full--> whole, on every process     (one all-gather)
    whole   --like--> sharded                     (each process keeps its own part; nothing is sent)

An optimizer that needs a whole matrix (Muon) goes there and back: `p.add_(like(orthogonalise(full(update)), p))`.
Everything here also takes plain tensors, and then does the plain thing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.nn.utils import get_total_norm


def full(tensor: Tensor) -> Tensor:
    """Return the whole tensor. Every process of its mesh must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(whole: Tensor, sharded: Tensor) -> Tensor:
    """Return `whole`, which each process holds equally, laid out as `sharded` is; same shape."""
    if not isinstance(sharded, DTensor):
        return whole
    # No source rank: each process takes its part of what it has.
    return distribute_tensor(whole, sharded.device_mesh, sharded.placements, src_data_rank=None)


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[Tensor], limit: float) -> float:
    """Scale the gradients so that their norm over all shards is at most `limit`. Returns the norm before.

    The same number on every process. Where it is not finite the gradients stay as they are.
    """
    by_copies: dict[int, list[Tensor]] = {}
    spread = False
    for grad in (p.grad for p in parameters if p.grad is not None):
        spread = spread or isinstance(grad, DTensor)
        by_copies.setdefault(_copies(grad), []).append(_local(grad))
    shares = [get_total_norm(grads).square() / copies for copies, grads in by_copies.items()]
    total = torch.stack(shares).sum() if shares else torch.zeros(())
    if spread:
        # A sharded model's tensors lie on the whole mesh, so the sum over all processes is the sum over all shards.
        dist.all_reduce(total)
    norm = float(total.sqrt())
    if limit < norm < float("inf"):
        for grads in by_copies.values():
            torch._foreach_mul_(grads, limit / (norm + 1e-6))
    return norm


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copies(tensor: Tensor) -> int:
    """Count the processes that hold each element of a tensor."""
    if not isinstance(tensor, DTensor):
        return 1
    copies = 1
    for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
        assert not placement.is_partial(), "a gradient is summed before it is measured"
        copies *= size if isinstance(placement, Replicate) else 1
    return copies
