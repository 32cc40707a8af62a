"""Options that verbs share: --json, --debug and --threads, --model, and those of sampling."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from tyro.conf import FlagCreatePairsOff, arg

from cm3.cli.parse import parse
from cm3.errors import RequestError

if TYPE_CHECKING:
    from cm3.generate import CM3Leon

Flag = FlagCreatePairsOff[bool]
HERE = arg(name="")
"""For a group of options whose names stand without a prefix."""
OWN = arg(help_behavior_hint="(default: the model's own)", metavar="NUMBER")
"""For an option that is None unless given: then the model's bundle decides."""
YES_NO = arg(metavar="yes|no", help_behavior_hint="(default: the model's own)")
"""For a yes or no that is None unless given."""
SILENT = {"silent": True}
"""The result of a process for which another one speaks."""


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Return two at most: small models gain nothing from a third, and OpenMP threads on busy cores spin against
    each other.

    OMP_NUM_THREADS, where it is set, is taken instead.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else min(2, cores())


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every verb."""

    json: Annotated[Flag, arg(help="The last line of stdout is one JSON object; all else goes to stderr.")] = False
    debug: Annotated[Flag, arg(help="Show the traceback of an error.")] = False
    threads: Annotated[
        int, arg(metavar="N", help="CPU threads. More than there are idle cores is much slower, not faster.")
    ] = default_threads()

    def use_threads(self) -> None:
        """Set the number of threads for whatever is loaded from now on. Raises `RequestError` for fewer than one."""
        at_least(1, threads=self.threads)
        for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
            os.environ[name] = str(self.threads)
        if torch := sys.modules.get("torch"):  # already imported: it has read the environment
            torch.set_num_threads(self.threads)


@dataclass(frozen=True, kw_only=True)
class Verb:
    """Base of every verb."""

    common: Annotated[Common, HERE] = Common()

    @classmethod
    def parse(cls, args: Sequence[str], prog: str) -> Self:
        """Read the arguments after the verb. Raises `RequestError` where they are wrong."""
        return parse(cls, args, prog=prog, description=inspect.getdoc(cls) or "")

    def run(self) -> dict[str, Any]:
        """Do it: print for a person, return for a machine."""
        raise NotImplementedError


def stopped(out: Path) -> dict[str, Any]:
    """Say that SIGTERM ended what goes on when the same command is given again; returns it for a machine."""
    print(
        f"cm3: {out}: stopped by SIGTERM; what is done stays, and the same command goes on where it was",
        file=sys.stderr,
    )
    return {"stopped": "SIGTERM"}


@dataclass(frozen=True, kw_only=True)
class Bank:
    """The bank of documents to draw on."""

    memory: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: the model's own)")] = None
    """Folder of a memory bank, as `cm3 index build` writes it."""
    encoder: Annotated[
        str | None, arg(metavar="ENCODER", help_behavior_hint="(default: the bank's or the model's)")
    ] = None
    """Encoder that the bank was made with: a folder, or a hub id such as openai/clip-vit-base-patch32."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device of networks."""

    device: Annotated[str, arg(metavar="DEVICE")] = "cpu"
    """Where networks run: cpu, cuda, cuda:1, mps; auto is a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class Precision(Device):
    """The device of networks, their precision, and the memory of what is drawn side by side."""

    dtype: Annotated[str, arg(metavar="DTYPE")] = "auto"
    """Precision of the language model, or of the image tokenizer that is measured: float32, bfloat16, float16, and for
    a language model on a processor or an NVIDIA GPU int8; auto is int8 for a bundle in int8, bfloat16 for a language
    model on an NVIDIA GPU that has it or a processor that draws faster in it, else float32."""
    cache_gb: Annotated[
        float | None, arg(metavar="GB", help_behavior_hint="(default: half of what is free, 0.8 on an NVIDIA GPU)")
    ] = None
    """Most memory for keys and values, in gigabytes: fewer requests side by side, and the same results."""
    parallel: Annotated[int | str, arg(metavar="auto|N")] = "auto"
    """Codes of a picture that are drawn in one pass at most, the same as one by one; 0 is one. auto is as many as pay:
    several on a processor in float32 where few requests run, else one."""


@dataclass(frozen=True, kw_only=True)
class ModelVerb(Verb):
    """A verb that uses a model."""

    model: Annotated[str, arg(metavar="MODEL")] = "stickers"
    """The model: a name (stickers or scenes, in the package), a bundle's folder, or hf://OWNER/NAME."""
    place: Annotated[Precision, HERE] = Precision()
    verbose: bool = False
    """Say which number type the language model computes in, and why."""

    def open_model(
        self, bank: Bank | None = None, task: str | None = None, tp: int = 1, max_streams: int = 64
    ) -> CM3Leon:
        """Load the model, with a memory bank of one's own, or with others a share of it. Raises `CheckpointError` for
        one unknown or damaged, `ConfigError` for a device or dtype that is not there.

        Tells the user where it was not tuned for `task`.
        """
        from cm3.generate import CM3Leon

        bank = bank or Bank()
        model = CM3Leon.load(
            self.model, memory=bank.memory, encoder=bank.encoder, tp=tp, max_streams=max_streams, **vars(self.place)
        )
        if self.verbose and model.leads:
            name, why = model.number_type
            print(f"cm3: the language model computes in {name} on {model.device}: {why}", file=sys.stderr, flush=True)
        self.tell_untuned(model, [] if task is None or not model.leads else [task])
        return model

    @staticmethod
    def told(warnings: Sequence[str], of: str = "") -> list[str]:
        """Tell the user what the model was never shown, a line each; returns the lines, for --json."""
        for line in warnings:
            print(f"cm3: {of}{': ' if of else ''}{line}", file=sys.stderr, flush=True)
        return list(warnings)

    def tell_untuned(self, model: CM3Leon, tasks: Sequence[str]) -> None:
        """Tell the user which of these tasks the model was not tuned for."""
        if lacking := [task for task in dict.fromkeys(tasks) if task not in model.tasks]:
            named = ", ".join(map(repr, lacking))
            print(f"model {self.model!r} was not tuned for {named}: expect little of it", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of sampling."""

    seed: Annotated[int, arg(metavar="N")] = 0
    """The same seed gives the same output."""
    temperature: Annotated[float | None, OWN] = None
    """0 takes the likeliest token each time."""
    top_p: Annotated[float | None, OWN] = None
    """Draw from the fewest tokens that hold this much probability."""

    max_tokens: Annotated[int | None, OWN] = None
    """Longest text to write, for each gap, in tokens."""
    candidates: Annotated[int | None, OWN] = None
    """Make so many and keep the one whose whole document is the likeliest; with a temperature over 0."""
    think: Annotated[Literal["yes", "no"] | None, YES_NO] = None
    """Say first, in one sentence, what the picture will show, or shows, and go on from that: for all that is made from
    words or about a picture. A model has to be tuned for it."""

    def arguments(self) -> dict[str, Any]:
        """Return those that were given, as arguments of `CM3Leon.generate`. Raises `RequestError` for no tokens."""
        for name in ("max_tokens", "candidates"):
            at_least(1, **{name: 1 if getattr(self, name) is None else getattr(self, name)})
        given = {name: value for name, value in vars(self).items() if value not in (None, "none")}
        return given | ({} if self.think is None else {"think": self.think == "yes"})


@dataclass(frozen=True, kw_only=True)
class Guided(Sampling):
    """Settings of sampling, with the prompt weighed against no prompt."""

    guidance: Annotated[float | None, OWN] = None
    """How far to push towards the prompt; 1 is no guidance."""
    contrast: Annotated[Literal["none", "max", "kmax"], arg(metavar="none|max|kmax")] = "none"
    """Contrastive decoding: keep only tokens with at least ALPHA times the largest (max) or K-th largest (kmax: CD-K)
    probability. Without --guidance the score is the contrast itself."""
    k: Annotated[int | None, OWN] = None
    """K of CD-K."""
    alpha: Annotated[float | None, OWN] = None
    """ALPHA of contrastive decoding, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Retrieval(Bank):
    """Documents to draw on: their number, and the way."""

    retrieve: Annotated[int, arg(metavar="K")] = 0
    """Documents to look up in the memory bank and read before drawing, 0 to 3."""
    unconditional: Annotated[
        Literal["kept", "dropped"] | None, arg(metavar="kept|dropped", help_behavior_hint="(default: the model's own)")
    ] = None
    """With guidance: whether the stream to guide away from reads the documents too."""

    def arguments(self) -> dict[str, Any]:
        """Return them as arguments of `CM3Leon.generate`. Raises `RequestError` for a number outside 0..3."""
        if not 0 <= self.retrieve <= 3:
            raise RequestError(f"--retrieve {self.retrieve}: must be 0 to 3 documents")
        return {"retrieve": self.retrieve, "unconditional": self.unconditional}


def at_least(low: float, **values: float) -> None:
    """Raise `RequestError` for the first value below `low`, naming its option."""
    for name, value in values.items():
        if value < low:
            raise RequestError(f"--{name.replace('_', '-')} {value}: must be at least {low}")


def own_encoder(name: str) -> str:
    """Return the encoder that a name stands for: of a model with its own, that folder; else the name."""
    from cm3.model.bundle import EMBEDDED
    from cm3.retrieval.embed import folder_of

    own = (folder_of(name) / "encoder", EMBEDDED / name / "encoder")
    return next((str(folder) for folder in own if os.path.isdir(folder)), name)


class Progress(Protocol):
    """The callable that `progress` gives."""

    def __call__(self, done: int, total: int, label: str = "") -> None: ...


@contextmanager
def progress(label: str, unit: str = "token") -> Iterator[Progress]:
    """Return a bar on stderr, where that is a terminal; call what it gives with (done, total) and perhaps a new
    label."""
    from cm3.bars import bar

    with bar(label, unit=unit) as drawn:

        def update(done: int, total: int, label: str = "") -> None:
            drawn.total = total
            if label:
                drawn.set_description(label, refresh=False)
            drawn.update(done - drawn.n)

        yield update
