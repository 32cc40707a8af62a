"""`cm3 export RUN --out DIR`: a bundle of a run's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from cm3.cli.options import Verb


@dataclass(frozen=True, kw_only=True)
class Export(Verb):
    """Write a bundle, ready for every other verb, of a checkpoint of a pretraining run, whatever ranks wrote it.

    A run writes one itself when it ends; this is for a run that is under way, that ended early, or that trained on many
    machines. It takes one process, with main memory for the whole model.

    examples:
      cm3 export runs/scenes/pretrain --out bundle
      cm3 export runs/scenes/pretrain --out early --step 200 --dtype float32
      cm3 export runs/scenes/pretrain --out small --dtype int8
    """

    run_: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder that `cm3 train` wrote to."""
    out: Annotated[str, arg(metavar="DIR")]
    """Folder of the bundle; a bundle that is there is replaced, and nothing else."""
    step: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the last)")] = None
    """Step of the checkpoint."""
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "int8"], arg(metavar="float16|bfloat16|float32|int8")
    ] = "float16"
    """Of the weights in the bundle. In int8 the language model is drawn with so, on a processor or an NVIDIA GPU; it
    cannot be trained further."""

    def run(self) -> dict[str, Any]:
        """Write it."""
        import torch

        from cm3.runs.export_run import export_run

        step = export_run(self.run_, self.out, self.step, getattr(torch, self.dtype))
        print(f"{self.out}: the model of step {step}")
        return {"out": self.out, "step": step}
