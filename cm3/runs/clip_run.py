"""The run that trains a small CLIP (cm3/train/clip_trainer.py) on captioned pictures of any source."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cm3.data.kind import Data
from cm3.data.kinds import DocumentData
from cm3.parallel import start
from cm3.retrieval.pairs import PairEncoder
from cm3.train.checkpoint import check_new
from cm3.train.clip_trainer import PairTrainConfig, PairTrainer


@dataclass(frozen=True)
class ClipRun(PairTrainConfig):
    """Train a small CLIP on pairs of `data`, and measure what it finds."""

    data: Data = field(default_factory=lambda: DocumentData(("data/photos",)))

    def run(self, *, progress: bool = True, resume: bool = False) -> dict[str, Any]:
        """Train; returns the encoder's folder and name, and shares found first and among the first five.

        Stopped by a signal, returns with "stopped" and a checkpoint in its place.
        """
        check_new(Path(self.out), resume)
        about = {"kind": type(self.data).__name__}
        pairs = self.data.pairs(self.model.image_size, self.batch)
        with start(self.mesh, self.device) as mesh:
            trainer = PairTrainer(self, pairs, resume=resume, mesh=mesh, about=about)
            record = trainer.run(progress=progress)
        if "stopped" in record:
            return {"out": self.out} | {name: record[name] for name in ("step", "stopped")}
        encoder = PairEncoder.load(self.out)
        measured = self.data.measure(encoder, pairs, self.seed)
        return {"out": self.out, "dtype": record["dtype"], "encoder": encoder.name, **measured, **pairs.left_out}
