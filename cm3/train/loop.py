"""The one training loop: batches in, checkpoints out, on one process or on many.

    take -> learn -> log -> save -> validate -> sample -> asked to stop?
                      |      |
    out/log.jsonl  <--+      +--> out/checkpoints/ (cm3/train/checkpoint.py)        out/config.json: what is trained

A subclass says what is trained: a language model (trainer.py), an image tokenizer, a small CLIP (clip_trainer.py).
Everything that the next step depends on is in the checkpoint, so a run that was killed continues with the same losses
as one that was not: to the bit on the same processes and threads, and up to rounding on others.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cm3.bars import bar
from cm3.errors import CheckpointError, Cm3Error, ConfigError, DivergedError
from cm3.files import said, write
from cm3.parallel import Mesh, start
from cm3.precision import Choice, for_training
from cm3.train.checkpoint import OLD, Checkpoints, check_new, last
from cm3.train.claim import run_claimed
from cm3.train.collective import Ranks, lost
from cm3.train.config import LoopConfig, check_resumed, plain
from cm3.train.signals import Signals
from cm3.train.spike import IN_A_ROW, Spikes, named
from cm3.train.track import Lines, check_tracker, finite


def share_of(source: Any, step: int, mesh: Mesh) -> Any:
    """Return this rank's share of the batch of a step: of `cm3.data.kind.Batches`, or cut from what a function gives.

    The shares of all ranks, in order, are the batch of one.
    """
    if hasattr(source, "batch"):
        return source.batch(step, mesh.rank, mesh.ranks)
    whole = source(step)
    each = len(whole) // mesh.ranks
    return whole[mesh.rank * each : (mesh.rank + 1) * each]


def given(source: Any) -> dict[str, Any]:
    """Return names of what a source reads from disk, as a run's settings have them: {"given": ...}, or nothing."""
    found = dict(getattr(source, "given", {}))
    return {"given": found} if found else {}


def check_held_out(config: LoopConfig, source: Any) -> None:
    """Raise `ConfigError` where a run is to measure what is held out, and nothing is."""
    if config.validate_every and not (hasattr(source, "held_out") and len(source.held_out())):
        raise ConfigError(
            f"{config.BEFORE}validate_every={config.validate_every}: nothing is held out; give 0, or a source "
            "with a --data.holdout"
        )


def check_copies(config: LoopConfig, batch: int, mesh: Mesh) -> None:
    """Raise `ConfigError` for a mesh that a network of which each process has a whole copy cannot be trained on."""
    if mesh.tp > 1:
        raise ConfigError(f"{config.BEFORE}mesh.tp={mesh.tp}: only language models are split; give 1")
    if batch % mesh.ranks:
        raise ConfigError(f"{config.BEFORE}batch={batch}: must be a multiple of the {mesh.ranks} processes")


class Loop:
    """A run. Where there are many processes each makes one, and all call the same methods.

    A subclass gives what the next step depends on (`tensors`, `restored`, `state`, `restore`), what a resumed run may
    change (`fixed`), and the step itself (`take`, `learn`, `summary`).
    """

    label = ""
    """Of the progress bar."""
    page = "config.json"
    """File that says what is trained."""
    remedy = "lower lr, or raise warmup"
    """Against a loss that diverges."""
    shown: Mapping[str, str] = {"loss": "loss {:.4f}"}
    """Numbers of the log that the progress bar shows, and how."""

    def __init__(
        self,
        config: LoopConfig,
        *,
        mesh: Mesh | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        """Take `mesh`, started already; None starts that of `config`. `about`: all settings, to write as `page`; None
        is `config`. Raises `ConfigError`.
        """
        check_tracker(config.track)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.out = config, Path(config.out)
        self.about = plain(about or asdict(config))
        self.mesh = mesh or start(config.mesh, config.device)
        self.ranks = Ranks(self.mesh)
        self.number_type = self._agreed()
        self._votes = Ranks(self.mesh, timedelta(seconds=config.mesh.timeout_s))
        folder = self.out / "checkpoints"
        self.checkpoints = Checkpoints(folder, self.mesh, keep=config.kept, milestone=config.milestone_every)
        self.spikes = Spikes(config.spike_sigma, config.on_spike == "note")
        self.step, self.stopping, self.changed = 0, False, dict[str, list[Any]]()
        self.seen: int | None = None
        self._saved, self._batch, self._left = -1, None, 0
        self._asked: Callable[[int], bool] = lambda step: False
        self._signals, self._notes = Signals(), list[dict[str, Any]]()
        self._lines: Lines | None = None

    def _agreed(self) -> Choice:
        """Return the number type of the passes: float32 for all where one process cannot do otherwise."""
        own = for_training(self.config.dtype, self.mesh.device)
        found = [Choice(*one) for one in self.ranks.gather(tuple(own))]
        return next((one for one in found if one.name == "float32"), found[0])

    @property
    def dtype(self) -> torch.dtype:
        """Return the number type of the passes."""
        return self.number_type.dtype

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which torch computes in the number type of the passes whatever gains by it."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.mesh.device.type, self.dtype)

    def run(
        self,
        *,
        progress: bool = True,
        callbacks: Iterable[Callable[[Any], None]] = (),
        stopping: Callable[[int], bool] | None = None,
        claimed: bool = False,
    ) -> dict[str, Any]:
        """Train to the last step. Returns the last logged metrics and "dtype", the number type; asked to stop by a
        signal, with "stopped": its name.

        A callback is called on every process. Work that one of them does alone and slowly, it does in `ranks.together`.
        `stopping(step)` is asked after each step whether to end there, at a checkpoint. `claimed`: the caller holds
        `run_claimed`. Raises `DivergedError`, with the last checkpoint as it was, for a loss, gradient or weights that
        are not finite, and for spikes as `on_spike` says.
        """
        record, callbacks = dict[str, Any](), [type(self).sample, *callbacks]
        self._asked = stopping or self._asked
        going = self._ready()  # before anything is written: what cannot be trained on is refused without a trace
        with self._open(claimed), self._signals, self._bar(progress) as drawn:
            drawn.set_postfix_str(f"{self.number_type.name}: {self.number_type.why}")
            while going:
                metrics = self.advance()
                drawn.update()
                if self._due("log_every"):
                    record = self._write(metrics | self.summary())
                    self._tell_left_out()
                    drawn.set_postfix_str(self._short(record))
                if self._due("save_every"):
                    self.save()
                if self._due("validate_every"):
                    record |= self._write({"step": self.step, **self.validate()})
                if self._due("sample_every"):
                    for callback in callbacks:
                        callback(self)
                going = self._ready()
            if self.stopping and self._saved != self.step:
                self.save()
            self.checkpoints.wait()
            if not self.stopping:
                self.finish()
        record |= {"dtype": self.number_type.name}
        name = self._signals.name or ("another process" if self.ranks.count > 1 else "asked")
        return record | {"step": self.step, "stopped": name} if self.stopping else record

    def advance(self) -> dict[str, float]:
        """Make one step. Returns its metrics. Raises as `run`."""
        if self._batch is None:
            self._ready()
        batch, self._batch = self._batch, None
        try:
            metrics = self.learn(batch)
        finally:
            self._tell()
        self.step += 1
        return {"step": self.step, **metrics}

    def _ready(self) -> bool:
        """Take the next batch. Returns whether to go on. An error of one process is raised on all."""
        trouble: Exception | None = None
        try:
            if self._batch is None and self.step < self.config.steps:
                self._batch = self.take()
        except Exception as error:
            trouble = error
        self.stopping = self._votes.vote(bool(self._signals.name) or self._asked(self.step), trouble)
        return self.step < self.config.steps and not self.stopping

    def _due(self, name: str) -> bool:
        every = getattr(self.config, name, 0)
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def judge(self, loss: float, norm: float, of: str = "", places: Callable[[], Sequence[int]] | None = None) -> bool:
        """Tell whether to learn from a batch of this loss and gradient norm, the same on every process.

        `of` says whose loss it is; `places`, where the batch stands in its source. Raises `DivergedError` where the
        run ends here, as `on_spike` says.
        """
        c = self.config
        sound = math.isfinite(loss) and math.isfinite(norm)
        trouble = self.spikes.judge(loss, norm)
        if not trouble:
            return True
        ends = c.on_spike == "stop" or (c.on_spike == "note" and not sound) or self.spikes.row >= IN_A_ROW
        learnt = c.on_spike == "note" and not ends
        note: dict[str, Any] = {"step": self.step + 1, "spike": of + trouble, "spikes": self.spikes.count}
        told = ""
        if places is not None:
            found = sorted(places())
            note["positions"], told = found, f" ({len(found)} documents, at positions {named(found)})"
        # Told before the run stops for it, so that all its documents are in the log.
        self._notes.append(note | {"learnt": learnt})
        if ends:
            raise DivergedError(
                f"step {self.step + 1}: {of}{trouble}{told}; {self.remedy}, or set on_spike to skip; {self._good()}"
            )
        return learnt

    def save(self) -> None:
        """Begin to write a checkpoint; see `checkpoints`."""
        state = {**self.state(), "config": self.about, "spikes": self.spikes.state}
        self.checkpoints.save(self.step, self.tensors(), state)
        self._saved = self.step

    def resume(self, wanted: bool) -> None:
        """Take up the last checkpoint where that is wanted and there is one.

        Raises `ConfigError` for a folder that holds a run already; `CheckpointError` for a checkpoint that is damaged
        or of another run.
        """
        where = str(self.out)
        self.ranks.together(lambda: check_new(self.out, wanted))
        if self.ranks.together((self.out / OLD).exists)[0]:
            raise CheckpointError(f"checkpoint in {where!r}: {OLD} is not of this version's trainer; give another out")
        self.seen = self.checkpoints.latest()
        if self.seen is None:
            return
        _, saved = self.checkpoints.read(self.seen)
        try:
            self.changed = check_resumed(where, saved["config"], self.about, self.fixed)
            self.restore(saved)
            self.step = self._saved = int(saved["step"])
            self.spikes = Spikes(self.config.spike_sigma, self.config.on_spike == "note", saved["spikes"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint in {where!r}: state.json lacks {error}, or it is wrong; give another out"
            ) from error
        tensors = self.tensors()
        self.checkpoints.restore(self.seen, tensors)
        self.restored(tensors)

    def describe(self) -> None:
        """Write what is trained, if that is not there yet."""
        path, page = self.out / self.page, json.dumps(self.about, indent=1) + "\n"
        if not path.exists() or path.read_text() != page:
            write(path, page)

    # ---- what a subclass gives ----

    def left_out(self) -> Mapping[str, Any]:
        """Return `{"left_out": {"count": ..., "first": ...}}` of what could not be read so far, else nothing."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return all that is learnt and drawn from, by name: the very tensors, to save or to fill."""
        raise NotImplementedError

    def restored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what of these tensors, which were filled, is not a part of what they belong to."""

    def state(self) -> dict[str, Any]:
        """Return the rest of what the next step depends on, as plain values, equal on every process."""
        return {}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up such a state. Raises `CheckpointError` for that of another run; `KeyError` for what it lacks."""

    def fixed(self, name: str) -> bool:
        """Tell whether a setting, by its dotted name, must be that of the checkpoint."""
        raise NotImplementedError

    def take(self) -> Any:
        """Return this process's share of the next batch. Raises `DataError`."""
        raise NotImplementedError

    def learn(self, batch: Any) -> dict[str, float]:
        """Make an optimizer step, unless `judge` says not to. Returns its metrics, of all processes."""
        raise NotImplementedError

    def summary(self) -> dict[str, float]:
        """Return more numbers for a line of the log, of all processes, and begin to count anew."""
        return {}

    def validate(self) -> dict[str, float]:
        """Return the losses on what is held out."""
        raise NotImplementedError

    def sample(self) -> None:
        """Draw what can be looked at, every `sample_every` steps."""

    def finish(self) -> None:
        """Write what the run is for, after its last step."""

    # ---- the rest ----

    @contextlib.contextmanager
    def _open(self, claimed: bool) -> Iterator[None]:
        """Hold the run's folder and its log. Says of another process that is gone, that it is."""
        with contextlib.ExitStack() as held:

            def begin() -> None:
                if self.mesh.main and not claimed:
                    held.enter_context(run_claimed(self.out, lambda: last(self.out), self.seen))
                if self.mesh.main:
                    self.describe()
                c = self.config
                self._lines = Lines(self.out, self.step, c.track, self.mesh.main, self.about)
                held.callback(self._lines.close)
                if self.changed:
                    self._write({"step": self.step, "changed": self.changed})
                if self.config.dtype == "auto":
                    self._write({"step": self.step, "dtype": self.number_type.name, "why": self.number_type.why})

            self.ranks.together(begin)
            try:
                yield
            except RuntimeError as error:
                if self.ranks.count == 1 or not lost(error):
                    raise
                found, waited = last(self.out) or 0, self.config.mesh.timeout_s
                raise Cm3Error(
                    f"step {self.step}: another process of this run is gone, or did not answer for {waited} s "
                    f"({said(error)}); start all again with --resume, from step {found}"
                ) from error
            finally:
                self.checkpoints.leave()

    def _bar(self, wanted: bool) -> Any:
        return bar(self.label, total=self.config.steps, done=self.step, wanted=wanted and self.mesh.main)

    def _short(self, record: Mapping[str, Any]) -> str:
        return ", ".join(form.format(record[name]) for name, form in self.shown.items() if name in record)

    def _write(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Write a line of the log. Returns it, without what is not finite."""
        assert self._lines is not None, "the log is open"
        self._lines.write(told := finite(line))
        return told

    def _tell(self) -> None:
        """Write the notes of a step, where the log is open."""
        while self._lines is not None and self._notes:
            self._lines.write(self._notes.pop(0))

    def _tell_left_out(self) -> None:
        """Write which documents of the main process cannot be read, where there are more than were told."""
        told = self.left_out()
        if told and told["left_out"]["count"] > self._left:
            self._left = told["left_out"]["count"]
            self._write({"step": self.step, **told})

    def _good(self) -> str:
        if last(self.out) is None:
            return "there is no checkpoint yet"
        return "the last checkpoint is good: go on from it with --resume"
