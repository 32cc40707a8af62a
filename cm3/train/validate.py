"""Losses on documents that are never trained on: the same batches each time, shared by all ranks.

validation source -> loader, from its first document -> `batches` batches, kept -> val_loss, val_loss_text, ...
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from cm3.data.load import Loader, Source
from cm3.data.pack import Batch
from cm3.model.loss import GROUPS, Loss
from cm3.parallel import Mesh
from cm3.sequence.mask import MaskLaw
from cm3.vocab import Vocab


class Validation:
    """Measures a loss. The documents are masked as in training, each time alike."""

    def __init__(
        self, source: Source, vocab: Vocab, law: MaskLaw, mesh: Mesh, *, windows: int, length: int, longest: int
    ) -> None:
        """Take `windows` of `length` a batch, of all ranks together, as `Loader` takes them."""
        self.mesh = mesh
        self._loader = Loader(
            source,
            vocab,
            law,
            windows=windows,
            length=length,
            seed=0,
            longest=longest,
            rank=mesh.rank,
            ranks=mesh.ranks,
        )
        self._batches: list[Batch] = []

    @torch.no_grad()
    def measure(self, loss: Callable[[Batch], Loss], batches: int) -> dict[str, float]:
        """Measure the mean nats a target, all and by modality, over so many batches; every process must call it."""
        # Read once: they are few, and a source may have to draw or decode them.
        more = batches - len(self._batches)
        self._batches += [batch for batch, _ in itertools.islice(self._loader, max(more, 0))]
        sums = torch.zeros(2, len(GROUPS), dtype=torch.float64)
        for batch in self._batches[:batches]:
            found = loss(batch)
            sums += torch.stack([found.sums, found.counts]).double().cpu()
        nats, counts = self.mesh.sum(sums)
        line = {f"val_loss_{g}": float(n / c) for g, n, c in zip(GROUPS, nats, counts, strict=True) if c > 0}
        return {"val_loss": float(nats.sum() / counts.sum()), **line}
