"""Figures that a run is watched by: sums over the steps since the last line of the log, of all ranks, made into one
line.

loss_text loss_image loss_special   nats a target, by modality; without batches whose loss was not finite
loss_at_1 loss_at_4 loss_at_16 ...  the same by place: targets 1 to 3 of a document, 4 to 15, ... (last step's)
grad_norm                           before clipping, the largest
output_norm                         RMS of the hidden states before the last norm (last step's); where it grows and
                                    grows, the loss is about to diverge (Chameleon section 2.3)
tokens_per_s gflop_per_s mfu        of all ranks; mfu, the share of the GPUs' peak, where the GPU is a known one. Of
                                    adapters too the work is counted as if all weights learnt, a third or so too much
data_wait fill                      share of time spent waiting for data; share of the windows that is not padding
memory_gb                           most that the main process alone has held: of the GPU, or without one of main memory
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from cm3.data.load import Counts
from cm3.data.pack import Batch
from cm3.model.decoder import DecoderConfig
from cm3.model.loss import GROUPS
from cm3.model.sizes import flops_per_token, parameters
from cm3.parallel import Mesh
from cm3.train.gpus import GPUS

PLACES = 16
"""Places 4^0 to 4^15."""
AMISS = ("truncated", "unmasked", "skipped")


class OutputNorm:
    """Sees what enters a model's last norm. `watched` (b, s) says which tokens count; None is not looking."""

    def __init__(self, norm: nn.Module) -> None:
        self.watched: Tensor | None = None
        self.sums = torch.zeros(2, dtype=torch.float64)
        norm.register_forward_pre_hook(self._see, prepend=True)

    def take(self) -> Tensor:
        """Return (2,) float64: sum of squares and number of all values since the last call."""
        sums, self.sums = self.sums, torch.zeros_like(self.sums)
        return sums

    def _see(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.watched is not None:
            seen = inputs[0].detach()[self.watched].float()
            self.sums = self.sums + torch.tensor([float(seen.square().sum()), seen.numel()], dtype=torch.float64)


@torch.no_grad()
def nats_by_place(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, places: Tensor, chunk: int = 1024
) -> Tensor:
    """Return (2, PLACES) float64: nats and targets, by the power of 4 of the target's place in its document (from 1).

    hidden (n, d), targets and places (n,); the head runs once more, so this is for some steps only.
    """
    found = torch.zeros(2, PLACES, dtype=torch.float64)
    buckets = torch.log2(places.float()).div(2, rounding_mode="floor").long().cpu()
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        nats = nn.functional.cross_entropy(head(hidden[part]).float(), targets[part], reduction="none")
        found[0].index_add_(0, buckets[part], nats.double().cpu())
        found[1].index_add_(0, buckets[part], torch.ones(len(nats), dtype=torch.float64))
    return found


class Window:
    """Sums over the steps since the last line of the log, of this rank until `summary` adds up all of them."""

    def __init__(self, before: Counts) -> None:
        """Take `before`, the counts of the loader at the last line."""
        self.before = self.counted = replace(before)
        self.groups = torch.zeros(2, len(GROUPS), dtype=torch.float64)
        """Nats and targets, by group."""
        self.places = torch.zeros(2, PLACES, dtype=torch.float64)
        self.output = torch.zeros(2, dtype=torch.float64)
        self.tokens, self.documents, self.room, self.norm, self.waited, self.seconds = [0.0] * 6

    def add(self, batch: Batch, counted: Counts) -> None:
        """Count a batch, after which the loader had counted so much."""
        self.counted = counted
        self.tokens += float((batch.documents > 0).sum())
        self.documents += float(batch.documents.max(axis=1).sum())
        self.room += float(batch.documents.size)

    def add_step(self, norm: float, waited: float, seconds: float) -> None:
        """Count a step."""
        self.norm, self.waited, self.seconds = max(self.norm, norm), self.waited + waited, self.seconds + seconds

    def summary(self, config: DecoderConfig, mesh: Mesh) -> dict[str, float]:
        """Return the line, of all ranks; every process must call it."""
        amiss = [float(getattr(self.counted, name) - getattr(self.before, name)) for name in AMISS]
        own = [self.tokens, self.documents, self.room, self.waited, self.seconds, *amiss]
        flat = [self.groups.flatten(), self.places.flatten(), self.output, torch.tensor(own, dtype=torch.float64)]
        sums = mesh.sum(torch.cat(flat))
        groups, places, output, rest = sums.split([len(f) for f in flat])
        tokens, documents, room, waited, seconds, *amiss = rest.tolist()
        rate = tokens / max(seconds / mesh.ranks, 1e-9)
        # Attention is blocked at documents, so its work is that of their mean length, not of the window's.
        gflops = rate * flops_per_token(config, round(tokens / max(documents, 1))) / 1e9
        names = [f"loss_{g}" for g in GROUPS] + [f"loss_at_{4**i}" for i in range(PLACES)]
        nats = torch.cat([groups.view(2, -1), places.view(2, -1)], dim=1)
        line = {name: float(n / c) for name, n, c in zip(names, *nats, strict=True) if c > 0}
        line |= {name: number for name, number in zip(AMISS, amiss, strict=True) if number}
        line |= {"grad_norm": self.norm, "tokens_per_s": rate, "gflop_per_s": gflops}
        if output[1]:
            line["output_norm"] = float((output[0] / output[1]).sqrt())
        if peak := peak_of(mesh.device):
            line["mfu"] = gflops * 1e9 / (peak * mesh.ranks * mesh.tp)
        return line | {
            "data_wait": waited / max(seconds, 1e-9),
            "fill": tokens / max(room, 1),
            "memory_gb": memory(mesh.device) / 1e9,
            "parameters": parameters(config),
        }


def memory(device: torch.device) -> float:
    """Return the most bytes that this process has held so far."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(used if sys.platform == "darwin" else used * 1024)


def peak_of(device: torch.device, name: str = "") -> float:
    """Return the dense bfloat16 FLOP a second of a GPU; 0 for one that is not in the table, and for a processor."""
    if device.type != "cuda":
        return 0.0
    words = (name or torch.cuda.get_device_name(device)).lower().replace("-", " ").split()
    kinds = [key for key in GPUS if all(word in words for word in key.split("-"))]
    return GPUS[max(kinds, key=len)].tflops * 1e12 if kinds else 0.0
