"""The one training loop of language models: batches in, checkpoints out.

Pretraining and tuning are the same loop; what differs is the data and its loss weights. Everything that the next step
depends on is in the checkpoint, so a run that was killed continues with the same losses as one that was not (on the
same number of threads: on another, sums round otherwise).

    out/config.json       what is trained
    out/checkpoint.pt     the last checkpoint
    out/log.jsonl         a line every `log_every` steps
    out/samples/          what callbacks draw
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cm3.data.lanes import LoaderState
from cm3.data.load import Counts, Loader, Source
from cm3.data.mask import MaskLaw
from cm3.data.pack import Batch
from cm3.errors import CheckpointError, ConfigError, DivergedError
from cm3.model.attention import Blocked
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.loss import GROUPS, Loss, next_token_loss
from cm3.model.sizes import flops_per_token, parameters
from cm3.train import checkpoint
from cm3.train.optim import OptimConfig, Optimizer
from cm3.vocab import Vocab

Callback = Callable[["Trainer"], None]


@dataclass(frozen=True)
class TrainConfig:
    """A run, but for its data. Raises `ConfigError` for a value out of range."""

    out: str
    model: DecoderConfig
    mask: MaskLaw = field(default_factory=MaskLaw)
    optim: OptimConfig = field(default_factory=OptimConfig)
    steps: int = 1000
    windows: int = 16
    """Windows a batch."""
    length: int = 512
    """Tokens a window; documents are packed into windows whole. May be many times `model.context`, which a document
    never exceeds: they do not see each other, and the longer a window, the less of it is padding."""
    z_loss: float = 0.0
    text_weight: float = 1.0
    """Loss weight of text targets; the paper's is 1 for everything."""
    log_every: int = 20
    save_every: int = 200
    sample_every: int = 1000
    """Steps between callbacks (sample sheets); 0 is never."""
    seed: int = 0
    threads: int = 0
    """Processor threads; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("windows", 1), ("length", 8), ("log_every", 1), ("save_every", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least {low}")
        for name in ("sample_every", "threads", "z_loss", "text_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must not be negative")
        if not self.out:
            raise ConfigError("out='': must be the folder to write to")


class Trainer:
    """Trains a decoder on a source of documents. `run` does it all; `advance` is one step."""

    def __init__(self, config: TrainConfig, vocab: Vocab, source: Source, *, resume: bool = False) -> None:
        """Raises `ConfigError` for a vocabulary of another size, `CheckpointError` for another run's checkpoint."""
        if vocab.size != config.model.vocab_size:
            raise ConfigError(f"model.vocab_size={config.model.vocab_size}: must be the vocabulary's {vocab.size}")
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.vocab, self.out = config, vocab, Path(config.out)
        torch.manual_seed(config.seed)
        self.model = Decoder(config.model)
        self.optimizer = Optimizer(self.model, config.optim)
        self.step = 0
        state: LoaderState | None = None
        if resume:
            saved = checkpoint.load(self.out / "checkpoint.pt")
            if not _is_of(saved.get("model_config"), config.model):
                raise CheckpointError(
                    f"checkpoint in {str(self.out)!r}: is of another model; give the same model.* or another out"
                )
            state = LoaderState.of(saved.get("loader"))
            try:
                self.model.load_state_dict(saved["model"])
                self.optimizer.load_state_dict(saved["optimizer"])
                self.step = int(saved["step"])
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"checkpoint in {str(self.out)!r}: does not fit this run ({error}); give the same optim.name or "
                    "another out"
                ) from error
        self.loader = Loader(
            source,
            vocab,
            config.mask,
            windows=config.windows,
            length=config.length,
            seed=config.seed,
            longest=config.model.context,
            state=state,
        )
        self._batches = iter(self.loader)
        self.state = self.loader.state
        self._since = _Window(self.loader.counts)

    def loss(self, batch: Batch) -> Loss:
        """Loss of a batch, blocked at document borders."""
        ids, cells, positions, documents, targets, weights = (torch.from_numpy(a) for a in batch)
        if self.config.text_weight != 1:
            text = (targets >= self.vocab.text_start) & (targets < self.vocab.image_start)
            weights = torch.where(text, weights * self.config.text_weight, weights)
        hidden = self.model.hidden(ids, positions, Blocked(documents), cells)
        flat = hidden.flatten(0, 1), targets.flatten(), weights.flatten()
        return next_token_loss(self.model.head, *flat, self.vocab, z_loss=self.config.z_loss)

    def advance(self) -> dict[str, float]:
        """One step. Returns its metrics. Raises `DivergedError` naming the step when the loss is not finite."""
        began = time.perf_counter()
        batch, state = next(self._batches)
        waited = time.perf_counter() - began
        loss = self.loss(batch)
        if not torch.isfinite(loss.total):
            raise DivergedError(
                f"step {self.step}: the loss is {loss.total.item()} (documents {self.state.documents} to "
                f"{state.documents}); lower optim.lr, or turn on model.qk_norm and z_loss; the last checkpoint is "
                "untouched"
            )
        loss.total.backward()
        norm, rate = self.optimizer.step(self.step, self.config.steps)
        self.step, self.state = self.step + 1, state
        self._since.add(batch, loss, norm, waited, time.perf_counter() - began)
        return {"step": self.step, "loss": loss.total.item(), "lr": rate}

    def save(self) -> None:
        """Write the checkpoint."""
        checkpoint.save(
            self.out / "checkpoint.pt",
            {
                "step": self.step,
                "loader": self.state.plain(),
                "model": self.model.state_dict(),
                "model_config": _plain(self.config.model.to_dict()),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def run(
        self, *, progress: bool = True, callbacks: Iterable[Callback] = (), about: dict[str, Any] | None = None
    ) -> dict[str, float]:
        """Train to the last step. Returns the last logged metrics. `about`: what to write as config.json."""
        c, callbacks = self.config, list(callbacks)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.json").write_text(json.dumps(about or asdict(c), indent=1) + "\n")
        log = checkpoint.Log(self.out / "log.jsonl", self.step)
        record: dict[str, float] = {}
        self._since = _Window(self.loader.counts)
        bar = tqdm(total=c.steps, initial=self.step, unit="step", disable=not progress, dynamic_ncols=True)
        with bar:
            while self.step < c.steps:
                metrics = self.advance()
                bar.update()
                if self.step % c.log_every == 0 or self.step == c.steps:
                    record = metrics | self._since.summary(c)
                    self._since = _Window(self.loader.counts)
                    log.write({k: round(v, 6) for k, v in record.items()})
                    bar.set_postfix_str(_short(record))
                if self.step % c.save_every == 0 or self.step == c.steps:
                    self.save()
                if c.sample_every and (self.step % c.sample_every == 0 or self.step == c.steps):
                    for callback in callbacks:
                        callback(self)
        return record


class _Window:
    """Sums over the steps since the last log line."""

    def __init__(self, packed: Counts) -> None:
        self.packed, self.before = packed, replace(packed)
        self.nats, self.counts = torch.zeros(len(GROUPS)), torch.zeros(len(GROUPS))
        self.tokens, self.documents, self.norm, self.waited, self.seconds, self.fill, self.steps = *[0.0] * 6, 0

    def add(self, batch: Batch, loss: Loss, norm: float, waited: float, seconds: float) -> None:
        self.nats, self.counts = self.nats + loss.sums, self.counts + loss.counts
        self.tokens += float((batch.documents > 0).sum())
        self.documents += float(batch.documents.max(axis=1).sum())
        self.norm, self.waited, self.seconds = max(self.norm, norm), self.waited + waited, self.seconds + seconds
        self.fill, self.steps = self.fill + batch.fill, self.steps + 1

    def summary(self, config: TrainConfig) -> dict[str, float]:
        rate = self.tokens / max(self.seconds, 1e-9)
        losses = {f"loss_{g}": float(n / c) for g, n, c in zip(GROUPS, self.nats, self.counts, strict=True) if c > 0}
        names = ("truncated", "unmasked", "skipped")
        amiss = {name: float(getattr(self.packed, name) - getattr(self.before, name)) for name in names}
        return (
            losses
            | {name: number for name, number in amiss.items() if number}
            | {
                "grad_norm": self.norm,
                "tokens_per_s": rate,
                # Attention is blocked at documents, so its work is that of their mean length, not of the window's.
                "gflop_per_s": rate * flops_per_token(config.model, round(self.tokens / self.documents)) / 1e9,
                "data_wait": self.waited / max(self.seconds, 1e-9),
                "fill": self.fill / max(self.steps, 1),
                "parameters": parameters(config.model),
            }
        )


def _short(record: dict[str, float]) -> str:
    parts = [f"{g} {record[f'loss_{g}']:.3f}" for g in GROUPS[:2] if f"loss_{g}" in record]
    return ", ".join([*parts, f"{record['tokens_per_s']:.0f} tok/s", f"{record['gflop_per_s']:.0f} GFLOP/s"])


def _is_of(saved: Any, config: DecoderConfig) -> bool:
    # Built anew, so that a field that a later version adds takes its default.
    try:
        return DecoderConfig(**saved) == config
    except (TypeError, ValueError):
        return False


def _plain(value: Any) -> Any:
    """What JSON makes of a value: tuples become lists."""
    return json.loads(json.dumps(value))
