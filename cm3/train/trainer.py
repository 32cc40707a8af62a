"""The trainer of pretraining and tuning: a decoder, on a source of documents, in the loop of loop.py.

Both are the same; what differs is the data and its loss weights.

    loader of a rank -> forward, backward -> sums over all ranks -> spike? -> clip, update
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from cm3.data.lanes import LoaderState, merge_states
from cm3.data.load import Loader, Source
from cm3.data.pack import Batch
from cm3.document import left_out
from cm3.errors import CheckpointError, ConfigError
from cm3.model.attention import Blocked
from cm3.model.decoder import Decoder
from cm3.model.loss import GROUPS, Loss, next_token_loss
from cm3.parallel import HalfCopy, Mesh, before_pass, create, full
from cm3.train.config import FIXED, TrainConfig, same_model
from cm3.train.loop import Loop
from cm3.train.lora import adapt, merge
from cm3.train.malloc import keep_freed
from cm3.train.metrics import OutputNorm, Window, nats_by_place
from cm3.train.optim import Optimizer
from cm3.train.prefetch import Prefetch, Ready
from cm3.train.spike import packed
from cm3.train.validate import Validation
from cm3.vocab import Vocab

__all__ = ["TrainConfig", "Trainer"]


class Trainer(Loop):
    """Trains a decoder on a source of documents. `run` does it all; `advance` is one step."""

    remedy = "lower optim.lr, turn on model.qk_norm and z_loss"
    shown = {
        "loss_text": "text {:.3f}",
        "loss_image": "image {:.3f}",
        "tokens_per_s": "{:.0f} tok/s",
        "gflop_per_s": "{:.0f} GFLOP/s",
    }
    config: TrainConfig

    def __init__(
        self,
        config: TrainConfig,
        vocab: Vocab,
        source: Source,
        *,
        resume: bool = False,
        mesh: Mesh | None = None,
        validation: Source | None = None,
        about: dict[str, Any] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Resume from the last checkpoint, where there is one. `validation`: documents held out. `mesh`
        and `about` are those of the loop. `weights` of the model to begin with, by name, in the place of random
        ones; where adapters are trained they are what stays as it is, and not in a checkpoint.

        Raises `ConfigError` for a vocabulary of another size and for a folder that holds a run already;
        `CheckpointError` for a checkpoint that is damaged or of another run.
        """
        if vocab.size != config.model.vocab_size:
            raise ConfigError(f"model.vocab_size={config.model.vocab_size}: must be the vocabulary's {vocab.size}")
        if config.validate_every and validation is None:
            raise ConfigError(f"validate_every={config.validate_every}: there are no documents held out; give 0")
        lora = config.lora
        if lora.rank and weights is None:
            raise ConfigError(f"lora.rank={lora.rank}: adapters need a model to stand beside; give init, or rank 0")
        super().__init__(config, mesh=mesh, about=about)
        self.vocab, self.source, self._held_out = vocab, source, validation
        if self.mesh.device.type == "cpu":
            keep_freed()
        if lora.rank and self.mesh.tp > 1:
            raise ConfigError(f"mesh.tp={self.mesh.tp}: adapters (lora.rank) are not split; give 1")
        self.model = create(
            config.model, self.mesh, config.shard, config.seed, weights,
            (lambda model: adapt(model, lora)) if lora.rank else None, self.dtype,
        )  # fmt: skip
        half = self.in_place and self.dtype != torch.float32
        self._copy = HalfCopy(self.model, self.mesh, config.shard) if half else None
        self._passing = self._copy.model if self._copy else self.model
        # Taken now: between two passes of FSDP the model's own may be the gathered ones.
        self._all = dict(self.model.named_parameters())
        self.optimizer = Optimizer.of(self.model, config.optim, self.dtype)
        self._resumed: LoaderState | None = None
        self.resume(resume)
        shape = {"windows": config.windows, "length": config.length, "longest": config.model.context}
        place = {"rank": self.mesh.rank, "ranks": self.mesh.ranks}
        self.loader = Loader(source, vocab, config.mask, seed=config.seed, state=self._resumed, **shape, **place)
        self.validation = Validation(validation, vocab, config.mask, self.mesh, **shape) if validation else None
        self._batches = Prefetch(self.loader, self.mesh.device)
        self._began = self._waited = 0.0
        self.position = self.loader.state
        self._output = OutputNorm(self._passing.norm)
        self._since = Window(self.loader.counts)

    def tensors(self) -> dict[str, Tensor]:
        """See the loop."""
        found = {f"model.{name}": p.detach() for name, p in self.weights.items()}
        found |= {f"optimizer.{name}": value for name, value in self.optimizer.tensors().items()}
        return found | {"rng": torch.get_rng_state()}

    def restored(self, tensors: Mapping[str, Tensor]) -> None:
        """See the loop."""
        torch.set_rng_state(tensors["rng"])

    @property
    def weights(self) -> dict[str, Tensor]:
        """Return the parameters that learn, by name, as they lie on this process."""
        return {name: p for name, p in self._all.items() if p.requires_grad}

    def state(self) -> dict[str, Any]:
        """See the loop."""
        self._gather_up()
        parts = self.ranks.gather(self.position.plain())[:: self.mesh.tp]
        merged = merge_states([LoaderState.of(part) for part in parts])
        mixture = self.mixture(merged.documents)
        return {"loader": merged.plain(), "mixture": mixture, "vocab": self.vocab.to_dict()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See the loop."""
        where = str(self.out)
        if saved["vocab"] != self.vocab.to_dict():
            raise CheckpointError(
                f"checkpoint in {where!r}: is of another vocabulary; give the same tokenizers and masks"
            )
        same_model(where, saved["config"], self.about)
        self._resumed = LoaderState.of(saved["loader"])

    def fixed(self, name: str) -> bool:
        """See the loop. The model is compared as a whole."""
        return name in FIXED

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch of this rank, blocked at document borders."""
        self._refresh()
        tensors = self._on_device(batch)
        return self._loss(tensors, Blocked(tensors[3]))

    def _refresh(self) -> None:
        if self._copy is not None:
            self._copy.refresh()

    def _on_device(self, batch: Batch) -> tuple[Tensor, ...]:
        ids, cells, positions, documents, targets, weights = (torch.from_numpy(a).to(self.mesh.device) for a in batch)
        if self.config.text_weight != 1:
            text = (targets >= self.vocab.text_start) & (targets < self.vocab.image_start)
            weights = torch.where(text, weights * self.config.text_weight, weights)
        return ids, cells, positions, documents, targets, weights

    def _loss(self, tensors: tuple[Tensor, ...], attend: Blocked, watch: bool = False) -> Loss:
        ids, cells, positions, documents, targets, weights = tensors
        self._output.watched = documents > 0 if watch else None
        hidden = self._passing.hidden(ids, positions, attend, cells)
        self._output.watched = None
        flat = hidden.flatten(0, 1), targets.flatten(), weights.flatten()
        if watch:
            keep = flat[2] > 0
            places = positions.flatten()[keep] + 1
            self._since.places += nats_by_place(self._passing.head, flat[0].detach()[keep], flat[1][keep], places)
        return next_token_loss(self._passing.head, *flat, self.vocab, z_loss=self.config.z_loss)

    def left_out(self) -> Mapping[str, Any]:
        """See the loop."""
        held = self._held_out.left_out() if self._held_out else ()
        found = [*self.source.left_out(), *held]
        return {"left_out": left_out(found)} if found else {}

    def take(self) -> Ready:
        """See the loop."""
        self._began, self._waited = time.perf_counter(), self._batches.waited
        return self._batches.take()

    def learn(self, batch: Ready) -> dict[str, float]:
        """See the loop."""
        c, (windows, after, counts), place = self.config, batch, self.step + 1
        share = c.micro or len(windows.ids)
        watch = place % c.log_every == 0 or place == c.steps
        tensors = self._on_device(windows)
        # Of all ranks and passes: each adds its share of one mean over the whole batch.
        weight = self.mesh.sum(tensors[-1].sum()).clamp_min(1e-9)
        total = torch.zeros((), device=self.mesh.device)
        groups = torch.zeros(2, len(GROUPS), dtype=torch.float64, device=self.mesh.device)
        parts = [tuple(t[i : i + share] for t in tensors) for i in range(0, len(windows.ids), share)]
        # All of them before the first pass: a GPU is waited for to make one.
        attends = [Blocked(part[3]) for part in parts]
        self._refresh()
        for part, attend in zip(parts, attends, strict=True):
            before_pass(self._passing, last=attend is attends[-1])
            loss = self._loss(part, attend, watch)
            mine = loss.total * (part[-1].sum() / weight)
            mine.backward()
            total = total + mine.detach()
            # They stay on their device: to look at them would wait for it.
            groups += torch.stack([loss.sums, loss.counts])
        self._since.add(windows, counts)
        if place < c.steps:
            self._batches.read()
        value, norm = float(self.mesh.sum(total)), self.optimizer.clip()
        if math.isfinite(value):
            self._since.groups += groups.cpu()
        rate = self.optimizer.step(self.step, c.steps, learn=self.judge(value, norm, places=lambda: self._in(after)))
        self.position = after
        norm = norm if math.isfinite(value) and math.isfinite(norm) else 0.0
        self._since.add_step(norm, self._batches.waited - self._waited, time.perf_counter() - self._began)
        return {"loss": value, "lr": rate}

    def _in(self, after: LoaderState) -> list[int]:
        """Return the positions in the source of the documents of all ranks in the batch after which the loader stands
        so."""
        parts = self.ranks.gather(packed(self.position, after))[:: self.mesh.tp]
        return [position for part in parts for position in part]

    def summary(self) -> dict[str, float]:
        """See the loop."""
        self._since.output = self._output.take()
        found = self._since.summary(self.config.model, self.mesh)
        self._since = Window(self._since.counted)
        return found

    def _gather_up(self) -> None:
        # A pass without a backward leaves gathered weights behind.
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @property
    def in_place(self) -> bool:
        """Tell whether this process alone has the model, so that `whole` gathers nothing and no other process waits."""
        return self.mesh.devices is None

    def whole(self) -> Decoder | None:
        """Return the model in one piece, on the main process; None on the others. Every process must call it.

        The very one that is trained, on its device, where it is `in_place` and has no adapters; else a copy on the
        processor, gathered from all of them.
        """
        lora, main = self.config.lora, self.mesh.main
        if self.in_place and not lora.rank:
            return self.model
        weights: dict[str, Tensor] = {}
        for name, p in self._all.items():
            gathered = full(p.detach())
            if main:
                weights[name] = gathered.cpu()
        if not main:
            return None
        with torch.device("meta"):
            model = Decoder(self.config.model)
        model.load_state_dict(merge(weights, lora) if lora.rank else weights, assign=True)
        return model

    def documents(self) -> int:
        """Return the documents that were trained on, of all ranks; every process must call it."""
        return sum(self.ranks.gather(self.position.documents)[:: self.mesh.tp])

    def mixture(self, documents: int) -> dict[str, Any]:
        """Return what a mixture gave in so many documents, by name; empty for a source that is none."""
        return self.source.report(documents)

    def validate(self) -> dict[str, float]:
        """Measure the losses on the documents held out, `val_loss` and by modality."""
        assert self.validation is not None
        found = self.validation.measure(self.loss, self.config.validate_batches)
        self._gather_up()
        return found
