"""The run that trains a small CLIP (cm3/retrieval/train.py) on captioned pictures of any source."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cm3.data.kind import Data
from cm3.data.kinds import DocumentData
from cm3.errors import ConfigError
from cm3.retrieval.pairs import PairEncoder
from cm3.retrieval.train import PairTrainConfig, train_pairs
from cm3.train.checkpoint import check_new
from cm3.train.config import finite_settings
from cm3.train.signals import Signals


@dataclass(frozen=True)
class ClipRun(PairTrainConfig):
    """Train a small CLIP on pairs of `data`, and measure what it finds."""

    data: Data = field(default_factory=lambda: DocumentData(("data/photos",)))

    def __post_init__(self) -> None:
        """Check every field, and those of `data`."""
        super().__post_init__()
        if wrong := finite_settings(self, "clip."):
            raise ConfigError("; ".join(wrong))

    def run(self, *, progress: bool = True, resume: bool = False) -> dict[str, Any]:
        """Train; returns the encoder's folder and name, and shares found first and among the first five.

        Stopped by a signal, returns with "stopped" and a checkpoint in its place.
        """
        check_new(Path(self.out), resume)
        base = PairTrainConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(PairTrainConfig)})
        about = {"kind": type(self.data).__name__, **dataclasses.asdict(self.data)}  # type: ignore[call-overload]
        pairs = self.data.pairs(self.model.image_size, self.batch)
        with Signals() as signals:
            folder = train_pairs(base, pairs.batch, progress=progress, about=about, stopping=signals.stopping)
        if signals.stopped or signals.stopping(self.steps):
            return {"out": self.out} | signals.stopped
        encoder = PairEncoder.load(folder)
        measured = self.data.measure(encoder, pairs, self.seed)
        return {"out": self.out, "encoder": encoder.name, **measured, **pairs.left_out}
