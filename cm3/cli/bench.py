"""`cm3 bench decode`: how fast this machine decodes, against transformers' Chameleon where that is installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from cm3.cli.options import HERE, Device, Flag, Progress, Verb, progress
from cm3.errors import ConfigError, whole_number

PICTURE = "a large red circle above a small blue square"
"""What a trained model draws where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class BenchDecode(Verb):
    """Measure decoding on this machine: tokens a second by case and number type, and how near the memory's speed.

    Weights are random, prompts have 64 tokens and draw 256 image codes. Requests are one, one with guidance, eight,
    eight of which half have guidance, and 32 that arrive at random, which are compared with a batch that is always
    full. Where transformers is installed, its Chameleon does the same by turns, on the same weights. Number types that
    the device does not compute in are left out, and say why. Seconds are the processor's with --threads 1, else the
    clock's.

    With --model that model draws pictures, with the settings that it recommends: several codes in one pass, 16 at most
    and as many as pay here, against one by one. How many codes a pass keeps is for a trained model to show.

    examples:
      cm3 bench decode --quick
      cm3 bench decode --shape 85m --threads 1
      cm3 bench decode --shape 350m --device cuda --json
      cm3 bench decode --model scenes --threads 1
    """

    shape: Annotated[str | None, arg(metavar="SHAPE", help_behavior_hint="(default: 10m)")] = None
    """Size of the model: 10m, 85m, 350m, 760m or 7b parameters, about."""
    model: Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")] = None
    """A trained model: a name (stickers or scenes, in the package), a bundle's folder, or hf://OWNER/NAME."""
    say: Annotated[str | None, arg(metavar="WORDS", help_behavior_hint="")] = None
    """With --model, the picture to draw; without it, as for the model in the package."""
    quick: Annotated[Flag, arg(help="Prompts of 16 tokens, 16 codes and one round, or one picture: a first look.")] = (
        False
    )
    place: Annotated[Device, HERE] = Device()

    def run(self) -> dict[str, Any]:
        """Measure, with a bar; a table for a person."""
        from cm3.bench.decode import measure, table
        from cm3.bench.machine import about, place

        if self.model is not None:
            return self._windows(self.model)
        if self.say is not None:
            raise ConfigError("--say: is for --model; give that, or leave it out")
        device, shape = place(self.place.device), self.shape or "10m"
        prompt, new, rounds = (16, 16, 1) if self.quick else (64, 256, 3)
        with progress(f"{shape} prepared", unit="run") as update:
            report = measure(shape, prompt=prompt, new=new, rounds=rounds, device=device, progress=update)
        found = about(device)
        print(table(report["rows"]))
        print(", ".join(f"{dtype} streamed at {rate} GB/s" for dtype, rate in report["streaming_gb_s"].items()))
        print(f"{found['device']} ({', '.join(found['flags'])}), torch {found['torch']}, {found['threads']} threads")
        return report | found

    def _windows(self, name: str) -> dict[str, Any]:
        """Measure a trained model."""
        from cm3.bench.decode import table
        from cm3.bench.windows import told

        if self.shape is not None:
            raise ConfigError(f"--shape {self.shape}: has random weights, and --model {name} its own; give one of them")
        with progress(f"{name} prepared", unit="run") as update:
            report = measure_model(name, self.say or PICTURE, 1 if self.quick else 5, self.place.device, update)
        print(table(report["rows"]), *told(report["rows"]), sep="\n")
        return report


def measure_model(name: str, say: str, number: int, device: str, progress: Progress | None = None) -> dict[str, Any]:
    """Return what `measure_windows` does, of a bundle that draws `number` pictures of the same words."""
    from cm3.bench.machine import about
    from cm3.bench.windows import measure_windows
    from cm3.generate import CM3Leon

    whole_number("rounds", number)
    model = CM3Leon.load(name, device=device)
    prepared = model.prepare([say] * number, seeds=range(number), candidates=1)
    requests = [one.requests[0] for one in prepared]
    return measure_windows(model.decoder, model.vocab, requests, model.bundle.name, progress) | about(model.device)
