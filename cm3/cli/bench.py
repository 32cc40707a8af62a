"""`cm3 bench decode`: how fast this machine decodes, against transformers' Chameleon where that is installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from cm3.cli.options import HERE, Device, Flag, Verb, progress


@dataclass(frozen=True, kw_only=True)
class BenchDecode(Verb):
    """Measure decoding on this machine: tokens a second by case and number type, and how near the memory's speed.

    Weights are random, prompts have 64 tokens and draw 256 image codes. Requests are one, one with guidance, eight,
    eight of which half have guidance, and 32 that arrive at random, which are compared with a batch that is always
    full. Where transformers is installed, its Chameleon does the same by turns, on the same weights. Number types that
    the device does not compute in are left out, and say why. Seconds are the processor's with --threads 1, else the
    clock's.

    examples:
      cm3 bench decode --quick
      cm3 bench decode --shape 85m --threads 1
      cm3 bench decode --shape 350m --device cuda --json
    """

    shape: Annotated[str, arg(metavar="SHAPE")] = "10m"
    """Size of the model: 10m, 85m, 350m, 760m or 7b parameters, about."""
    quick: Annotated[Flag, arg(help="Prompts of 16 tokens, 16 codes and one round: a first look.")] = False
    place: Annotated[Device, HERE] = Device()

    def run(self) -> dict[str, Any]:
        """Measure, with a bar; a table for a person."""
        from cm3.bench.decode import measure, table
        from cm3.bench.machine import about, place

        device = place(self.place.device)
        prompt, new, rounds = (16, 16, 1) if self.quick else (64, 256, 3)
        with progress(f"{self.shape} prepared", unit="run") as update:
            report = measure(self.shape, prompt=prompt, new=new, rounds=rounds, device=device, progress=update)
        found = about(device)
        print(table(report["rows"]))
        print(", ".join(f"{dtype} streamed at {rate} GB/s" for dtype, rate in report["streaming_gb_s"].items()))
        print(f"{found['device']} ({', '.join(found['flags'])}), torch {found['torch']}, {found['threads']} threads")
        return report | found
