"""The trainer of a small CLIP (cm3/retrieval/pairs.py) in the loop of loop.py, on one's own pairs.

Two losses, each a cross-entropy both ways over the batch (InfoNCE) with a sharpness of its own that is learnt:

- text and picture, as CLIP has it (Radford et al. 2021, figure 3), over the pairs whose text tells what the picture
  shows;
- query and document, over the pairs with a second description: that one against the mean of the first one's vector and
  the picture's, which is the very score that a memory bank ranks by. It is what holds words apart that no training
  saw. The first loss has no use for a word that says nothing of its picture, as a name does, and would map all names
  to one place; this one is paid for telling them apart, and as a word is read by its letters, that carries over to
  new ones. It also keeps what the picture's half of the score makes of a name too small to drown the word's half.

On many processes each encodes its share of the batch, and tells its vectors from those of all.

    out/config.json, out/weights.safetensors   the encoder, written at the end
    out/run.json                               what was trained
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cm3.data.kind import Batches
from cm3.errors import ConfigError, DataError
from cm3.parallel import Mesh, gathered, mean_gradients, start
from cm3.retrieval.pairs import Pair, Pairs, PairsConfig, save
from cm3.train.config import OURS, LoopConfig
from cm3.train.loop import Loop, check_copies, check_held_out, given, share_of
from cm3.train.optim import Optimizer, schedule

NOTHING = "pairs: no text tells what its picture shows, and none has another description; give either"
FREE = {"steps", "lr", "lr_end", "warmup", "grad_clip", "weight_decay", "on_spike", "spike_sigma", "dtype"}
"""Settings that a run may change when it goes on, as one does that diverged."""
MAX_SCALE = 100.0
"""Greatest sharpness of a loss, as in CLIP."""


PairSource = Batches | Callable[[int], Sequence[Pair]]
"""Pairs of each step; a plain function gives those of all ranks."""


@dataclass(frozen=True, kw_only=True)
class PairTrainConfig(LoopConfig):
    """A run, but for its data. The learning rate rises linearly for `warmup` steps, then falls as a cosine to
    `lr_end * lr`. Raises `ConfigError` for a value out of range.
    """

    BEFORE = "clip."

    out: str = field(kw_only=False)
    """Folder of the run."""
    model: PairsConfig = field(default_factory=PairsConfig, kw_only=False)
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
    save_every: int = 50
    """Updates between checkpoints."""

    def wrong(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        found = super().wrong() + self.under(2, "batch")
        found += self.under(0, "warmup", "lr_end", "weight_decay", "document_weight")
        return found + self.over_zero("lr", "grad_clip", "temperature")


def info_nce(queries: Tensor, keys: Tensor, scale: Tensor, right: Tensor | None = None) -> Tensor:
    """Return the mean of both cross-entropies: each query (q, w) among the keys (k, w), each asked-for key among the
    queries.

    `right` int64 (q,): the key of each query, all different; the one in its place where it is not given.
    """
    right = torch.arange(len(queries), device=queries.device) if right is None else right
    logits = scale * queries @ keys.T
    back = torch.arange(len(queries), device=queries.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, right].T, back)) / 2


def pair_losses(
    model: Pairs,
    pairs: Sequence[Pair],
    mesh: Mesh | None = None,
    encoding: AbstractContextManager[Any] | None = None,
) -> dict[str, Tensor]:
    """Return the losses of a batch: `image` over the pairs whose text tells, `document` over those with another
    description.

    `pairs` are this process's share where `mesh` has many. The towers run in the context `encoding`, if any. Raises
    `DataError` where there is neither kind.
    """
    own = [at for at, pair in enumerate(pairs) if pair.other]
    with encoding or nullcontext():
        both = model.encode_texts([*(pair.text for pair in pairs), *(pairs[at].other for at in own)]).float()
        images = model.encode_images([pair.image for pair in pairs]).float()
    texts = both[: len(pairs)]
    # A row for each pair, so that all processes have as many.
    others = torch.zeros_like(texts).index_put(
        (torch.tensor(own, dtype=torch.int64).to(texts.device),), both[len(pairs) :]
    )
    flags = torch.tensor([[pair.tells, bool(pair.other)] for pair in pairs], dtype=torch.int64)
    if mesh is not None:
        flags = mesh.gather(flags)
        texts, images, others = (gathered(rows, mesh) for rows in (texts, images, others))
    told, second = (kind.nonzero().squeeze(-1) for kind in flags.to(texts.device).T)
    scale = model.log_scale.exp().clamp_max(MAX_SCALE)
    losses = {}
    if len(told):
        losses["image"] = info_nce(texts[told], images[told], scale[0])
    if len(second):
        losses["document"] = info_nce(others[second], (texts + images) / 2, scale[1], second)
    if not losses:
        raise DataError(NOTHING)
    return losses


class PairTrainer(Loop):
    """Trains the two towers on pairs, of which each process reads its share."""

    label = "pairs"
    page = "run.json"
    config: PairTrainConfig

    def __init__(
        self,
        config: PairTrainConfig,
        pairs: PairSource,
        *,
        resume: bool = True,
        mesh: Mesh | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Resume from the last checkpoint, where there is one. `about` says what the pairs are, in JSON's
        types: a checkpoint made with others is refused. `mesh` is that of the loop.

        Raises `ConfigError`, and `CheckpointError` for a checkpoint that is damaged or of another run.
        """
        c = config
        check_held_out(c, pairs)
        if c.validate_every and len(pairs.held_out()) < 2:  # type: ignore[union-attr]
            raise ConfigError(
                f"validate_every={c.validate_every}: one pair is held out, and is told from others; give a larger "
                "--data.holdout, or 0"
            )
        super().__init__(c, mesh=mesh, about={**asdict(c), "pairs": dict(about or {}), **given(pairs)})
        check_copies(c, c.batch, self.mesh)
        self.pairs = pairs
        with torch.random.fork_rng():
            torch.manual_seed(c.seed)
            model = Pairs(c.model, c.temperature)
        self.model = model.to(self.mesh.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = list(self.model.parameters())
        groups = [
            {"params": [p for p in weights if p.dim() > 1], "weight_decay": c.weight_decay},
            {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, c.lr, betas=c.betas)
        self.optimizer = Optimizer(
            self.model, [adamw], c.grad_clip, lambda step, steps: schedule(step, steps, c.warmup, c.lr_end)
        )
        self.resume(resume)

    def tensors(self) -> dict[str, Tensor]:
        """See the loop."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        return found | {f"optimizer.{name}": value for name, value in self.optimizer.tensors().items()}

    def fixed(self, name: str) -> bool:
        """See the loop."""
        return name.split(".")[0] not in FREE | OURS

    def left_out(self) -> Mapping[str, Any]:
        """See the loop."""
        return getattr(self.pairs, "left_out", {})

    def take(self) -> Sequence[Pair]:
        """See the loop. Raises `DataError` for a batch that nothing can be learnt from."""
        pairs: Sequence[Pair] = share_of(self.pairs, self.step, self.mesh)
        if len(pairs) * self.mesh.ranks < 2:
            told = f"step {self.step}: a batch of {len(pairs)}; a pair is told from others, give at least two"
            raise DataError(told)
        if self.mesh.ranks == 1 and not any(pair.tells or pair.other for pair in pairs):
            raise DataError(NOTHING)
        return pairs

    def _loss(self, pairs: Sequence[Pair], mesh: Mesh | None) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch, of all ranks of a mesh, and its parts."""
        losses = pair_losses(self.model, pairs, mesh, self.autocast())
        weights = {"image": 1.0, "document": self.config.document_weight}
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return loss, {f"loss_{name}": float(value.detach()) for name, value in losses.items()}

    def learn(self, batch: Sequence[Pair]) -> dict[str, float]:
        """See the loop."""
        loss, parts = self._loss(batch, self.mesh)
        loss.backward()
        mean_gradients(self.model.parameters(), self.mesh)
        # The same number, to the last bit, on every rank.
        norm, value = self.optimizer.clip(), float(self.mesh.sum(loss)) / self.mesh.ranks
        rate = self.optimizer.step(self.step, self.config.steps, self.judge(value, norm))
        scale = self.model.log_scale.detach().exp().tolist()
        record = {"loss": value, **parts, "scale_image": scale[0], "scale_document": scale[1]}
        return record | {"grad_norm": norm, "lr": rate}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Measure the loss of the pairs that are held out, as many as `validate_batches` batches, `val_loss`."""
        held, size = self.pairs.held_out(), self.config.batch  # type: ignore[union-attr]
        parts = [held[at : at + size] for at in range(0, len(held), size)][: self.config.validate_batches]
        found = [float(self._loss(part, None)[0]) for part in parts if len(part) > 1]
        return {"val_loss": sum(found) / len(found)}

    def finish(self) -> None:
        """Write the encoder."""
        about = {"steps": self.step, **self.about}
        self.ranks.together(lambda: save(self.model, self.out, about) if self.mesh.main else None)


def train_pairs(
    config: PairTrainConfig,
    pairs: PairSource,
    *,
    progress: bool = True,
    stopping: Callable[[int], bool] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Train until `config.steps`, resuming from `config.out` if a checkpoint is there; returns the encoder's folder.

    `stopping(step)` is asked after each step whether to end here, at a checkpoint and without an encoder; a signal ends
    it so too. Raises as `PairTrainer` and its `run` do, and `DataError` for pairs that nothing can be learnt from.
    """
    with start(config.mesh, config.device) as mesh:
        trainer = PairTrainer(config, pairs, mesh=mesh, about=about)
        trainer.run(progress=progress, stopping=stopping)
    return trainer.out
