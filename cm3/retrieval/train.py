"""Train a small CLIP on one's own pairs (cm3/retrieval/pairs.py); killed and resumed unseen.

Two losses, each a cross-entropy both ways over the batch (InfoNCE) with a sharpness of its own that is learnt:

- text and picture, as CLIP has it (Radford et al. 2021, figure 3), over the pairs whose text tells what the picture
  shows;
- query and document, over the pairs with a second description: that one against the mean of the first one's vector and
  the picture's, which is the very score that a memory bank ranks by. It is what holds words apart that no training
  saw. The first loss has no use for a word that says nothing of its picture, as a name does, and would map all names
  to one place; this one is paid for telling them apart, and as a word is read by its letters, that carries over to
  new ones. It also keeps what the picture's half of the score makes of a name too small to drown the word's half.

The pairs are a pure function of the step, so a resumed run sees what the unbroken one would have seen, and ends in the
same bits (on the same number of threads).

    out/config.json, out/weights.safetensors   the encoder, written at the end
    out/run.json                               what was trained
    out/checkpoint.pt                          the last checkpoint, replaced atomically
    out/log.jsonl                              one line every `log_every` steps
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cm3.bars import bar
from cm3.errors import CheckpointError, ConfigError, DataError, DivergedError
from cm3.files import locked, said, write
from cm3.retrieval.pairs import Pair, Pairs, PairsConfig, save
from cm3.weights import check_weights, not_finite, on_device

LOCK = ".lock"
"""Held by the process that writes to the run's folder, as every run has it."""
NOTHING = "pairs: no text tells what its picture shows, and none has another description; give either"
FREE = {"steps", "lr", "lr_end", "warmup", "grad_clip", "weight_decay"}
"""Settings that a run may change when it goes on, as one does that diverged."""
MAX_SCALE = 100.0
"""Greatest sharpness of a loss, as in CLIP."""


PairSource = Callable[[int], Sequence[Pair]]
"""Step -> its batch; pure."""


@dataclass(frozen=True)
class PairTrainConfig:
    """A run, but for its data. The learning rate rises linearly for `warmup` steps, then falls as a cosine to
    `lr_end * lr`. Raises `ConfigError` for a value out of range.
    """

    out: str
    """Folder of the run."""
    model: PairsConfig = field(default_factory=PairsConfig)
    steps: int = 400
    """Updates."""
    batch: int = 128
    """Pairs an update."""
    lr: float = 2e-3
    """Peak learning rate."""
    lr_end: float = 0.02
    """Rate at the end, as a share of the peak."""
    warmup: int = 30
    """Updates over which the rate rises."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW."""
    weight_decay: float = 0.05
    """Of matrices."""
    grad_clip: float = 1.0
    """Largest norm of a gradient."""
    temperature: float = 0.07
    """Where both losses begin; 1 / sharpness."""
    document_weight: float = 1.0
    """Weight of the loss between query and document."""
    seed: int = 0
    """Draws the weights."""
    log_every: int = 20
    """Updates between lines of the log."""
    save_every: int = 50
    """Updates between checkpoints."""
    device: str = "cpu"
    """cpu, or cuda."""
    threads: int = 0
    """torch's; 0 leaves them."""

    def __post_init__(self) -> None:
        """Check every field and say everything that is wrong at once."""
        lows = {"steps": 1, "batch": 2, "warmup": 0, "log_every": 1, "save_every": 1, "threads": 0}
        wrong = [
            f"clip.{name}={getattr(self, name)}: must be at least {low}"
            for name, low in (lows | {"lr_end": 0, "weight_decay": 0, "document_weight": 0}).items()
            if getattr(self, name) < low
        ]
        wrong += [
            f"clip.{name}={getattr(self, name)}: must be above 0"
            for name in ("lr", "grad_clip", "temperature")
            if getattr(self, name) <= 0
        ]
        if wrong:
            raise ConfigError("; ".join(wrong))


def info_nce(queries: Tensor, keys: Tensor, scale: Tensor, right: Tensor | None = None) -> Tensor:
    """Mean of both cross-entropies: each query (q, w) among the keys (k, w), each asked-for key among the queries.

    `right` int64 (q,): the key of each query, all different; the one in its place where it is not given.
    """
    right = torch.arange(len(queries), device=queries.device) if right is None else right
    logits = scale * queries @ keys.T
    back = torch.arange(len(queries), device=queries.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, right].T, back)) / 2


def pair_losses(model: Pairs, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """The losses of a batch: `image` over the pairs whose text tells, `document` over those with another description.

    Raises `DataError` where there is neither kind.
    """
    second = [at for at, pair in enumerate(pairs) if pair.other]
    both = model.encode_texts([*(pair.text for pair in pairs), *(pairs[at].other for at in second)])
    texts, others = both[: len(pairs)], both[len(pairs) :]
    images = model.encode_images([pair.image for pair in pairs])
    scale = model.log_scale.exp().clamp_max(MAX_SCALE)
    losses = {}
    if told := [at for at, pair in enumerate(pairs) if pair.tells]:
        losses["image"] = info_nce(texts[told], images[told], scale[0])
    if second:
        right = torch.tensor(second, device=texts.device)
        losses["document"] = info_nce(others, (texts + images) / 2, scale[1], right)
    if not losses:
        raise DataError(NOTHING)
    return losses


class _Run:
    """Everything that changes while training, and the one step that changes it."""

    def __init__(self, config: PairTrainConfig) -> None:
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            model = Pairs(config.model, config.temperature)
        self.model = on_device(model.to(memory_format=torch.channels_last), config.device)  # type: ignore[call-overload]
        weights = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in weights if p.dim() > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
            ],
            config.lr,
            betas=config.betas,
        )
        self.step = 0
        self.records: list[dict[str, float]] = []

    def check(self, pairs: Sequence[Pair]) -> None:
        """Raise `DataError` for a batch that nothing can be learnt from."""
        if len(pairs) < 2:
            raise DataError(f"step {self.step}: a batch of {len(pairs)}; a pair is told from others, give at least two")
        if not any(pair.tells or pair.other for pair in pairs):
            raise DataError(NOTHING)

    def advance(self, pairs: Sequence[Pair]) -> dict[str, float]:
        """Make one optimiser step; return what is worth logging. Raises `DivergedError`, without the step, for NaN."""
        config = self.config
        self.check(pairs)
        share = _schedule(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * share
        losses = pair_losses(self.model, pairs)
        weights = {"image": 1.0, "document": config.document_weight}
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        if not torch.isfinite(loss.detach() + norm):
            raise DivergedError(
                f"step {self.step + 1}: the loss is {float(loss.detach()):.4g}, its gradient norm {float(norm):.4g}; "
                "lower lr, or raise warmup; the last checkpoint is good: go on from it with --resume"
            )
        self.optimizer.step()
        self.step += 1
        record = {"step": self.step, "loss": float(loss.detach())}
        record |= {f"loss_{name}": float(value.detach()) for name, value in losses.items()}
        scale = self.model.log_scale.detach().exp().tolist()
        record |= {"scale_image": scale[0], "scale_document": scale[1]}
        return record | {"grad_norm": float(norm), "lr": config.lr * share}


def train_pairs(
    config: PairTrainConfig,
    pairs: PairSource,
    *,
    progress: bool = True,
    stopping: Callable[[int], bool] | None = None,
    about: Mapping[str, Any] | None = None,
    notes: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Train until `config.steps`, resuming from `config.out` if a checkpoint is there; returns the encoder's folder.

    `about` says what the pairs are, in JSON's types: a checkpoint made with others is refused. `stopping(step)`
    is asked before each step whether to end here, at a checkpoint and without an encoder. The log begins with `notes`.
    Raises `CheckpointError`
    where the checkpoint belongs to other settings, `DivergedError` where loss or gradient is not finite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    out = Path(config.out)
    run = _Run(config)
    settings = json.loads(json.dumps({**dataclasses.asdict(config), "pairs": dict(about or {})}))
    if (out / "checkpoint.pt").exists():
        _resume(run, settings, out / "checkpoint.pt")
    # Before anything is written: pairs that do not fit are refused without a trace.
    batch = pairs(run.step) if run.step < config.steps else None
    if batch is not None:
        run.check(batch)
    with locked(out / LOCK, f"run in {str(out)!r}"):
        run.records += [line for note in notes if (line := {"step": 0, **note}) not in run.records]
        _train(run, pairs, settings, batch, progress, stopping)
    return out


def _train(
    run: _Run,
    pairs: PairSource,
    settings: dict[str, Any],
    batch: Sequence[Pair] | None,
    progress: bool,
    stopping: Callable[[int], bool] | None,
) -> None:
    """Train to the end, or until `stopping`. `batch` is the first one."""
    config, out = run.config, Path(run.config.out)
    write(out / "run.json", json.dumps(settings, indent=1) + "\n")
    with bar("pairs", total=config.steps, done=run.step, wanted=progress) as drawn:
        while run.step < config.steps and not (stopping and stopping(run.step)):
            record = run.advance(pairs(run.step) if batch is None else batch)
            batch = None
            drawn.update()
            if run.step % config.log_every == 0 or run.step == config.steps:
                run.records.append(record)
                write(out / "log.jsonl", "".join(json.dumps(r) + "\n" for r in run.records))
                drawn.set_postfix(loss=f"{record['loss']:.3f}")
            if run.step % config.save_every == 0:
                _save(run, settings, out / "checkpoint.pt")
    _save(run, settings, out / "checkpoint.pt")
    if run.step >= config.steps:
        save(run.model, out, {"steps": run.step, **settings})


def _schedule(config: PairTrainConfig, step: int) -> float:
    """Share of the peak learning rate at a step, counted from 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr_end + (1 - config.lr_end) * 0.5 * (1 + math.cos(math.pi * done))


def _save(run: _Run, settings: dict[str, Any], path: Path) -> None:
    if name := not_finite(run.model.state_dict()):
        raise DivergedError(
            f"step {run.step}: {name} has values that are not finite; lower lr, or raise warmup; the last checkpoint "
            "is good: go on from it with --resume"
        )
    state = {"step": run.step, "settings": json.dumps(settings), "records": json.dumps(run.records)}
    buffer = io.BytesIO()
    torch.save(state | {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}, buffer)
    write(path, buffer.getvalue())


def _resume(run: _Run, settings: dict[str, Any], path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = json.loads(state["settings"])
        records = json.loads(state["records"])
    except Exception as error:  # torch.load has no one exception for a damaged file
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({said(error)}); delete it to start anew"
        ) from error
    check_weights(state["model"], f"checkpoint {str(path)!r}")
    free = {"out", "log_every", "save_every", "threads", "device", *FREE}
    other = sorted(k for k in settings if k not in free and settings[k] != saved.get(k))
    if other:
        raise CheckpointError(
            f"{path}: was made with another {', '.join(other)}; resume with the same settings, or choose another out"
        )
    run.model.load_state_dict(state["model"])
    decays = [group["weight_decay"] for group in run.optimizer.param_groups]
    run.optimizer.load_state_dict(state["optimizer"])
    for group, decay in zip(run.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    run.step, run.records = state["step"], records
