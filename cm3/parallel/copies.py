"""Whole copies of a small network, one a process: what they must sum so that they learn as one would.

    rows of a rank  --gathered-->  rows of all, in order          gradients --mean_gradients--> their mean over ranks
    sums of a rank  --summed-->    sums of all                    batch norms --share_norms--> of the pictures of all

This does as DistributedDataParallel and SyncBatchNorm do, on processors too. A loss is the mean over a rank's own even
share of the batch. `gathered` and `summed` have the gradients of all losses, so the mean over ranks is the gradient of
the mean.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cm3.parallel.mesh import Mesh


def summed(tensor: Tensor, mesh: Mesh) -> Tensor:
    """Return the sum over the ranks, of the same shape, with gradients."""
    return tensor if mesh.ranks == 1 else _Summed.apply(tensor, mesh)


def gathered(tensor: Tensor, mesh: Mesh) -> Tensor:
    """Return the rows of all ranks, as many of each: (n, ...) -> (n * ranks, ...), with gradients."""
    return tensor if mesh.ranks == 1 else _Gathered.apply(tensor, mesh)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, mesh: Mesh) -> Tensor:
        ctx.mesh = mesh
        return mesh.sum(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.mesh.sum(grads[0].contiguous()), None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, mesh: Mesh) -> Tensor:
        ctx.mesh = mesh
        return mesh.gather(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.mesh.sum(grads[0].contiguous()).chunk(ctx.mesh.ranks)[ctx.mesh.rank], None


@torch.no_grad()
def mean_gradients(parameters: Iterable[Tensor], mesh: Mesh) -> None:
    """Replace each gradient by its mean over the ranks, the same bits on each; all have the same gradients."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if mesh.ranks == 1 or not grads:
        return
    flat = mesh.sum(torch.cat([grad.flatten() for grad in grads])) / mesh.ranks
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view(grad.shape))


def share_norms(module: nn.Module, mesh: Mesh) -> None:
    """Let every batch norm of a network that is trained see the batches of all ranks, in place."""
    for norm in module.modules() if mesh.ranks > 1 else ():
        if isinstance(norm, nn.BatchNorm2d):
            norm.forward = functools.partial(_norm, norm, mesh)  # type: ignore[method-assign]


def _norm(norm: nn.BatchNorm2d, mesh: Mesh, x: Tensor) -> Tensor:
    """Normalise x (b, c, h, w) by the mean and variance of all ranks' b * ranks pictures."""
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, x)
    count = x.numel() // x.shape[1] * mesh.ranks
    mean = summed(x.sum((0, 2, 3)), mesh) / count
    centred = x - mean[:, None, None]
    variance = summed(centred.square().sum((0, 2, 3)), mesh) / count
    with torch.no_grad():
        assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum or 0.0)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum or 0.0)
    y = centred * (variance + norm.eps).rsqrt()[:, None, None]
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]
