"""The one training loop of language models: batches in, checkpoints out, on one process or on many.

Pretraining and tuning are the same loop; what differs is the data and its loss weights. Everything that the next step
depends on is in the checkpoint, so a run that was killed continues with the same losses as one that was not: to the bit
on the same processes and threads, and up to rounding on others.

    loader of a rank -> forward, backward -> sums over all ranks -> spike? -> clip, update
                                              |
    out/config.json       what is trained     +-> out/log.jsonl       a line every `log_every` steps
    out/checkpoints/      cm3/train/checkpoint.py     out/samples/    what callbacks draw
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from cm3.bars import bar
from cm3.data.lanes import LoaderState, merge_states
from cm3.data.load import Loader, Source
from cm3.data.pack import Batch
from cm3.errors import CheckpointError, Cm3Error, ConfigError, DivergedError
from cm3.files import said, write
from cm3.model.attention import Blocked
from cm3.model.decoder import Decoder
from cm3.model.loss import GROUPS, Loss, next_token_loss
from cm3.parallel import Mesh, before_pass, create, full, start
from cm3.train.ahead import Ahead, Ready
from cm3.train.checkpoint import OLD, Checkpoints, check_new, last
from cm3.train.config import TrainConfig, check_resumed, plain
from cm3.train.heap import keep_freed
from cm3.train.lora import adapt, merge
from cm3.train.metrics import OutputNorm, Window, nats_by_place
from cm3.train.optim import Optimizer
from cm3.train.ranks import Ranks, lost
from cm3.train.signals import Signals
from cm3.train.spike import IN_A_ROW, Spikes, named, packed
from cm3.train.track import Lines, check_tracker, finite
from cm3.train.validate import Validation
from cm3.vocab import Vocab

__all__ = ["Callback", "TrainConfig", "Trainer"]

Callback = Callable[["Trainer"], None]


class Trainer:
    """Trains a decoder on a source of documents. `run` does it all; `advance` is one step.

    Where there are many processes each makes one, and all call the same methods.
    """

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
        notes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """`mesh`: started already; None starts that of `config`. `resume` goes on from the last checkpoint, where there
        is one. `validation`: documents held out. `about`: all settings, to write as config.json; None is `config`.
        `weights` of the model to begin with, by name, in the place of random ones; where adapters are trained they are
        what stays as it is, and not in a checkpoint. `notes`: what the log says first, such as of the documents.

        Raises `ConfigError` for a vocabulary of another size and for a folder that holds a run already;
        `CheckpointError` for a checkpoint that is damaged or of another run.
        """
        if vocab.size != config.model.vocab_size:
            raise ConfigError(f"model.vocab_size={config.model.vocab_size}: must be the vocabulary's {vocab.size}")
        check_tracker(config.track)
        if config.validate_every and validation is None:
            raise ConfigError(f"validate_every={config.validate_every}: there are no documents held out; give 0")
        lora = config.lora
        if lora.rank and weights is None:
            raise ConfigError(f"lora.rank={lora.rank}: adapters need a model to stand beside; give init, or rank 0")
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.vocab, self.source, self.out = config, vocab, source, Path(config.out)
        self.about, self._first = plain(about or asdict(config)), notes
        self.mesh = mesh or start(config.mesh, config.device)
        if self.mesh.device.type == "cpu":
            keep_freed()
        if lora.rank and self.mesh.tp > 1:
            raise ConfigError(f"mesh.tp={self.mesh.tp}: adapters (lora.rank) are not split; give 1")
        self.model = create(
            config.model, self.mesh, config.shard, config.seed, weights,
            (lambda model: adapt(model, lora)) if lora.rank else None,
        )  # fmt: skip
        # Taken now: between two passes of FSDP the model's own may be the gathered ones.
        self._all = dict(self.model.named_parameters())
        self.optimizer = Optimizer(self.model, config.optim)
        self.ranks = Ranks(self.mesh)
        self._votes = Ranks(self.mesh, timedelta(seconds=config.mesh.timeout_s))
        self.checkpoints = Checkpoints(
            self.out / "checkpoints", self.mesh, keep=config.keep, milestone=config.milestone_every
        )
        self.step, self.stopping = 0, False
        self.changed: dict[str, list[Any]] = {}
        state = self._resume(resume)
        shape = {"windows": config.windows, "length": config.length, "longest": config.model.context}
        self.loader = Loader(
            source,
            vocab,
            config.mask,
            **shape,
            seed=config.seed,
            rank=self.mesh.rank,
            ranks=self.mesh.ranks,
            state=state,
        )
        self.validation = Validation(validation, vocab, config.mask, self.mesh, **shape) if validation else None
        self._batches = Ahead(self.loader, self.mesh.device)
        self.state = self.loader.state
        self._signals = Signals()
        self._output = OutputNorm(self.model.norm)
        self._since = Window(self.loader.counts)
        self._notes: list[dict[str, Any]] = []

    def _tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by name."""
        found = {f"model.{name}": p.detach() for name, p in self.weights.items()}
        return found | {f"optimizer.{name}": value for name, value in self.optimizer.tensors().items()}

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters that learn, by name, as they lie on this process."""
        return {name: p for name, p in self._all.items() if p.requires_grad}

    def _resume(self, resume: bool) -> LoaderState | None:
        """Take up the last checkpoint where that is wanted and there is one. Returns where the loader goes on."""
        c, where = self.config, str(self.out)
        self.ranks.together(lambda: check_new(self.out, resume))
        found = self.seen = self.checkpoints.latest()
        self.spikes = Spikes(c.spike_sigma, c.on_spike == "note")
        if self.ranks.together((self.out / OLD).exists)[0]:
            raise CheckpointError(f"checkpoint in {where!r}: {OLD} is not of this version's trainer; give another out")
        if found is None:
            return None
        _, saved = self.checkpoints.read(found)
        try:
            if saved["vocab"] != asdict(self.vocab):
                raise CheckpointError(
                    f"checkpoint in {where!r}: is of another vocabulary; give the same tokenizers and masks"
                )
            self.changed = check_resumed(where, saved["config"], self.about)
            state, self.step = LoaderState.of(saved["loader"]), int(saved["step"])
            self.spikes = Spikes(c.spike_sigma, c.on_spike == "note", saved["spikes"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint in {where!r}: state.json lacks {error}, or it is wrong; give another out"
            ) from error
        chance = torch.get_rng_state()
        self.checkpoints.restore(found, self._tensors() | {"rng": chance})
        torch.set_rng_state(chance)
        return state

    def loss(self, batch: Batch) -> Loss:
        """Loss of a batch of this rank, blocked at document borders."""
        tensors = self._on_device(batch)
        return self._loss(tensors, Blocked(tensors[3]))

    def _on_device(self, batch: Batch) -> tuple[Tensor, ...]:
        ids, cells, positions, documents, targets, weights = (torch.from_numpy(a).to(self.mesh.device) for a in batch)
        if self.config.text_weight != 1:
            text = (targets >= self.vocab.text_start) & (targets < self.vocab.image_start)
            weights = torch.where(text, weights * self.config.text_weight, weights)
        return ids, cells, positions, documents, targets, weights

    def _loss(self, tensors: tuple[Tensor, ...], attend: Blocked, watch: bool = False) -> Loss:
        ids, cells, positions, documents, targets, weights = tensors
        self._output.watched = documents > 0 if watch else None
        hidden = self.model.hidden(ids, positions, attend, cells)
        self._output.watched = None
        flat = hidden.flatten(0, 1), targets.flatten(), weights.flatten()
        if watch:
            keep = flat[2] > 0
            places = positions.flatten()[keep] + 1
            self._since.places += nats_by_place(self.model.head, flat[0].detach()[keep], flat[1][keep], places)
        return next_token_loss(self.model.head, *flat, self.vocab, z_loss=self.config.z_loss)

    def advance(self) -> dict[str, float]:
        """One step. Returns its metrics.

        Raises `DivergedError` naming the step and its documents for a spike, or a loss or gradient that is not finite,
        where `on_spike` says so.
        """
        began, waited = time.perf_counter(), self._batches.waited
        batch, state, counts = self._next()
        share, place = self.config.micro or len(batch.ids), self.step + 1
        watch = place % self.config.log_every == 0 or place == self.config.steps
        tensors = self._on_device(batch)
        # Of all ranks and passes: each adds its share of one mean over the whole batch.
        weight = self.mesh.sum(tensors[-1].sum()).clamp_min(1e-9)
        total = torch.zeros((), device=self.mesh.device)
        groups = torch.zeros(2, len(GROUPS), dtype=torch.float64, device=self.mesh.device)
        parts = [tuple(t[i : i + share] for t in tensors) for i in range(0, len(batch.ids), share)]
        # All of them before the first pass: a GPU is waited for to make one.
        attends = [Blocked(part[3]) for part in parts]
        for part, attend in zip(parts, attends, strict=True):
            before_pass(self.model, last=attend is attends[-1])
            loss = self._loss(part, attend, watch)
            mine = loss.total * (part[-1].sum() / weight)
            mine.backward()
            total = total + mine.detach()
            # They stay on their device: to look at them would wait for it.
            groups += torch.stack([loss.sums, loss.counts])
        self._since.add(batch, counts)
        if place < self.config.steps:
            self._batches.read()
        value = float(self.mesh.sum(total))
        if math.isfinite(value):
            self._since.groups += groups.cpu()
        norm, rate = self._update(value, state)
        self.step, self.state = place, state
        self._since.add_step(norm, self._batches.waited - waited, time.perf_counter() - began)
        return {"step": self.step, "loss": value, "lr": rate}

    def _next(self) -> Ready:
        """The next batch. An error of one rank is raised on all."""
        trouble: Exception | None = None
        found: Any = None
        try:
            found = self._batches.take()
        except Exception as error:
            trouble = error
        self.stopping = self._votes.vote(bool(self._signals.name), trouble)
        return found

    def _update(self, loss: float, state: LoaderState) -> tuple[float, float]:
        """Learn from a batch, unless it is a spike that is not to be learnt from. Returns (gradient norm, rate)."""
        c, norm = self.config, self.optimizer.clip()
        sound = math.isfinite(loss) and math.isfinite(norm)
        trouble = self.spikes.judge(loss, norm)
        ends = c.on_spike == "stop" or (c.on_spike == "note" and not sound) or self.spikes.row >= IN_A_ROW
        learnt = not trouble or (c.on_spike == "note" and not ends)
        if learnt:
            rate = self.optimizer.step(self.step, c.steps)
        else:
            self.optimizer.clear()
            rate = c.optim.rate(self.step, c.steps) * c.optim.lr
        if trouble:
            # Told before the run stops for it, so that all its documents are in the log.
            parts = self.ranks.gather(packed(self.state, state))[:: self.mesh.tp]
            places = sorted(place for part in parts for place in part)
            note = {"step": self.step + 1, "spike": trouble, "spikes": self.spikes.count}
            self._notes.append(note | {"learnt": learnt, "positions": places})
            if ends:
                raise DivergedError(
                    f"step {self.step + 1}: {trouble} ({len(places)} documents, at positions {named(places)}); lower "
                    "optim.lr, turn on model.qk_norm and z_loss, or set on_spike to skip; the last checkpoint is good"
                )
        return norm if sound else 0.0, rate

    def save(self) -> None:
        """Begin to write a checkpoint; see `checkpoints`."""
        self._gather_up()
        parts = self.ranks.gather(self.state.plain())[:: self.mesh.tp]
        merged = merge_states([LoaderState.of(part) for part in parts])
        state = {
            "loader": merged.plain(),
            "mixture": self.mixture(merged.documents),
            "config": self.about,
            "vocab": asdict(self.vocab),
            "spikes": self.spikes.state,
        }
        self.checkpoints.save(self.step, self._tensors() | {"rng": torch.get_rng_state()}, state)

    def _gather_up(self) -> None:
        # A pass without a backward leaves gathered weights behind.
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def whole(self) -> Decoder | None:
        """The model in one piece, on the main process; None on the others. Every process must call it."""
        lora, main = self.config.lora, self.mesh.main
        if self.mesh.devices is None and self.mesh.device.type == "cpu" and not lora.rank:
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
        """Documents that were trained on, of all ranks; every process must call it."""
        return sum(self.ranks.gather(self.state.documents)[:: self.mesh.tp])

    def mixture(self, documents: int) -> dict[str, Any]:
        """Return what a mixture gave in so many documents, by name; empty for a source that is none."""
        return self.source.report(documents)

    def validate(self) -> dict[str, float]:
        """Losses on the documents held out, `val_loss` and by modality."""
        assert self.validation is not None
        found = self.validation.measure(self.loss, self.config.validate_batches)
        self._gather_up()
        return found

    def run(self, *, progress: bool = True, callbacks: Iterable[Callback] = ()) -> dict[str, Any]:
        """Train to the last step. Returns the last logged metrics; asked to stop by a signal, with "stopped": its name.

        A callback is called on every process. What one of them does alone and slowly, it does in `ranks.together`.
        """
        callbacks = list(callbacks)
        self.ranks.together(self._open)
        drawn = bar(total=self.config.steps, done=self.step, wanted=progress and self.mesh.main)
        try:
            with self._signals, drawn:
                record = self._steps(drawn, callbacks)
                self.checkpoints.wait()
                return record
        except RuntimeError as error:
            if self.ranks.count == 1 or not lost(error):
                raise
            found, waited = last(self.out) or 0, self.config.mesh.timeout_s
            raise Cm3Error(
                f"step {self.step}: another process of this run is gone, or did not answer for {waited} s "
                f"({said(error)}); start all again with --resume, from step {found}"
            ) from error
        finally:
            self._tell()
            self.checkpoints.leave()
            self._lines.close()

    def describe(self) -> None:
        """Write what is trained, config.json, if that is not there yet."""
        path, page = self.out / "config.json", json.dumps(self.about, indent=1) + "\n"
        if not path.exists() or path.read_text() != page:
            write(path, page)

    def _open(self) -> None:
        if self.mesh.main:
            self.describe()
        self._lines = Lines(self.out, self.step, self.config.track, self.mesh.main, self.about, self._first)
        if self.changed:
            self._lines.write({"step": self.step, "changed": self.changed})
        self._since = Window(self.loader.counts)

    def _tell(self) -> None:
        for note in self._notes:
            self._lines.write(note)
        self._notes.clear()

    def _steps(self, bar: Any, callbacks: list[Callback]) -> dict[str, Any]:
        c, record = self.config, dict[str, Any]()
        while self.step < c.steps:
            metrics = self.advance()
            done = self.step == c.steps

            def due(every: int, done: bool = done) -> bool:
                return every > 0 and (self.step % every == 0 or done)

            bar.update()
            self._tell()
            if due(c.log_every):
                self._since.output = self._output.take()
                record = finite(metrics | self._since.summary(c.model, self.mesh))
                self._since = Window(self._since.counted)
                self._lines.write(record)
                bar.set_postfix_str(_short(record))
            if due(c.save_every) or self.stopping:
                self.save()
            if self.stopping and not done:
                return record | {"step": self.step, "stopped": self._signals.name or "another process"}
            if due(c.validate_every):
                found = finite(self.validate())
                record |= found
                self._lines.write({"step": self.step, **found})
            if due(c.sample_every):
                for callback in callbacks:
                    callback(self)
        if self._votes.vote(bool(self._signals.name)):  # it came while the last step was measured or drawn
            return record | {"step": self.step, "stopped": self._signals.name or "another process"}
        return record


def _short(record: dict[str, Any]) -> str:
    parts = [f"{g} {record[f'loss_{g}']:.3f}" for g in GROUPS[:2] if f"loss_{g}" in record]
    return ", ".join([*parts, f"{record['tokens_per_s']:.0f} tok/s", f"{record['gflop_per_s']:.0f} GFLOP/s"])
