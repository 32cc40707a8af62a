"""The run that trains an image tokenizer on pictures of any source."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cm3.data.kind import Data
from cm3.data.kinds import DocumentData
from cm3.parallel import start
from cm3.score.reconstruction import score_reconstruction
from cm3.tokens.image import to_pixels
from cm3.train.checkpoint import check_new
from cm3.train.image_tokenizer import ImageTokenizerConfig, ImageTokenizerTrainer


@dataclass(frozen=True)
class ImageTokenizerRun(ImageTokenizerConfig):
    """Train an image tokenizer on pictures of `data`."""

    data: Data = field(default_factory=lambda: DocumentData(("data/photos",)))

    def run(self, *, progress: bool = True, resume: bool = False) -> dict[str, Any]:
        """Train, then measure on pictures that were held out; on those of training where none are.

        Stopped by a signal, returns with "stopped" and a checkpoint in its place.
        """
        check_new(Path(self.out), resume)
        pictures = self.data.pictures(self.size, self.batch, self.keep)
        with start(self.mesh, self.device) as mesh:
            trainer = ImageTokenizerTrainer(self, pictures, resume=resume, mesh=mesh)
            record = trainer.run(progress=progress)
        if "stopped" in record:
            return {"out": self.out} | {name: record[name] for name in ("step", "stopped")}
        held = pictures.held_out()
        shown = held or [one for step in range(8) for one in pictures.batch(step)]
        parts = [range(i, min(i + 32, len(shown))) for i in range(0, len(shown), 32)]
        batches = (([str(i) for i in part], to_pixels([shown[i] for i in part])) for part in parts)
        measured = score_reconstruction(trainer.vqgan, batches).figures
        on = "held out" if held else "training"
        return {"out": self.out, "dtype": record["dtype"], "measured_on": on, **measured, **pictures.left_out}
