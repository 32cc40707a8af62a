"""A run of a second: a tiny model on documents made on the fly, and readers of what it writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cm3.data.load import Source
from cm3.model.decoder import DecoderConfig
from cm3.train.optim import OptimConfig
from cm3.train.trainer import TrainConfig, Trainer
from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=16, masks=8, reserved=0)
MODEL = DecoderConfig(
    vocab_size=VOCAB.size, d_model=16, layers=1, heads=2, context=64, positions="rope", grid=(2, 2), init_std=0.05
)


class Pairs(Source):
    """Some words and a picture of four codes that depends on the first; `kinds` documents, again and again."""

    def __init__(self, kinds: int = 1000) -> None:
        self.kinds = kinds

    def sequences(self, indices: Sequence[int]) -> list[Tokens]:
        return [self.one(i % self.kinds) for i in indices]

    @staticmethod
    def one(i: int) -> Tokens:
        rng = np.random.default_rng(i)
        words = VOCAB.text_start + np.concatenate([[i % 16], rng.integers(0, 256, 4)])
        codes = VOCAB.image_start + (i + np.arange(4)) % 16
        return Tokens.of([VOCAB.eos, *words, VOCAB.brk, *codes, VOCAB.eos], [0] * 7 + [1, 2, 3, 4] + [0])


class Others(Pairs):
    """Documents that training never sees."""

    def sequences(self, indices: Sequence[int]) -> list[Tokens]:
        return [self.one(5000 + i) for i in indices]


def config(out: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        str(out), MODEL, optim=OptimConfig(lr=1e-2, warmup=2), steps=12, windows=2, length=64, log_every=1,
        save_every=4, sample_every=0, seed=3, dtype="float32",
    )  # fmt: skip
    return replace(base, **changes)


def records(out: Path) -> list[dict[str, float]]:
    """The log without what the clock says."""
    clock = {"tokens_per_s", "gflop_per_s", "data_wait", "memory_gb"}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Weights and state of the optimizer in the last checkpoint."""
    last = max((out / "checkpoints").iterdir())
    return {k: v for path in last.glob("*.safetensors") for k, v in load_file(path).items()}


def state(out: Path) -> dict[str, Any]:
    """What the last checkpoint has beside tensors."""
    return json.loads((max((out / "checkpoints").iterdir()) / "state.json").read_text())


def alter(out: Path, **changes: Any) -> None:
    """Change that, as another version would have written it."""
    last = max((out / "checkpoints").iterdir())
    text = json.dumps(state(out) | changes)
    (last / "state.json").write_text(text)
    manifest = json.loads((last / "manifest.json").read_text())
    manifest["files"]["state.json"] = [len(text), hashlib.sha256(text.encode()).hexdigest()]
    (last / "manifest.json").write_text(json.dumps(manifest))


def spoil(out: Path, **tensors: torch.Tensor) -> None:
    """Change tensors of the last checkpoint, by name."""
    last = max((out / "checkpoints").iterdir())
    [path] = last.glob("*.safetensors")
    save_file(load_file(path) | tensors, path)
    manifest = json.loads((last / "manifest.json").read_text())
    manifest["files"][path.name] = [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
    (last / "manifest.json").write_text(json.dumps(manifest))


def config_of(out: Path) -> dict[str, Any]:
    """The settings in the last checkpoint."""
    return state(out)["config"]


def same_bits(a: Path, b: Path) -> bool:
    x, y = weights(a), weights(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def poison(at: int) -> Callable[[Trainer], None]:
    """A callback that spoils the weights after step `at`, and mends them after the next."""
    good: list[torch.Tensor] = []

    def callback(trainer: Trainer) -> None:
        with torch.no_grad():
            if trainer.step == at:
                good.append(trainer.model.embed.weight.clone())
                trainer.model.embed.weight.fill_(float("nan"))
            elif good:
                trainer.model.embed.weight.copy_(good.pop())

    return callback
