"""Settings of a training run, and what of them a run may change when it is resumed.

saved with the checkpoint  --differences-->  model, vocabulary, seed, windows, optim.name, data.seed: refused
                                             steps, optim.lr, mask.*, ...: said in the log
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cm3.errors import CheckpointError, ConfigError
from cm3.model.decoder import DecoderConfig
from cm3.parallel import MeshConfig, ShardConfig
from cm3.precision import TRAINED
from cm3.sequence.mask import MaskLaw
from cm3.train.lora import LoraConfig
from cm3.train.optim import OptimConfig

FIXED = ("seed", "windows", "optim.name", "data.seed", "image_size", "lora.rank", "lora.alpha", "lora.targets", "base")
"""Settings of a language model that a resumed run keeps, beside shape and vocabulary. `base`: the model of adapters."""
GIVEN = "given."
"""Beginning of the names of all that is read from disk, by its content: it must be as it was, too."""
OURS = {"out", "log_every", "save_every", "sample_every", "validate_every", "keep", "milestone_every", "threads"}
OURS |= {"micro", "track", "device", "mesh", "shard", "validate_batches"}
"""Settings that change nothing that is learnt."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings that every run of cm3/train/loop.py has. Raises `ConfigError` for all values out of range at once."""

    BEFORE = ""
    """Stands before the names of settings in messages."""

    out: str
    """Folder of the run."""
    steps: int = 1000
    """Updates."""
    on_spike: Literal["note", "skip", "stop"] = "note"
    """Treatment of a batch whose loss is a spike: write it in the log and learn from it; write it and do not learn
    from it; or stop. A loss that is not finite stops the run unless it is to be skipped."""
    spike_sigma: float = 6.0
    """A spike is this many standard deviations over the mean of the last 100 losses; 0 is never."""
    log_every: int = 20
    """Updates between lines of the log."""
    save_every: int = 200
    """Updates between checkpoints."""
    milestone_every: int = 0
    """Checkpoints at multiples of this step are kept for ever; 0 is none."""
    validate_every: int = 0
    """Steps between measurements on what is held out; 0 is never."""
    validate_batches: int = 4
    """Batches of it."""
    seed: int = 0
    """Draws the weights, and for a language model the order of the documents in windows, and the masks."""
    threads: int = 0
    """Processor threads; 0 leaves torch's choice."""
    device: Literal["", "cpu", "cuda"] = ""
    """Empty is a GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of the passes: auto is bfloat16 on a device that computes in it, else float32. Weights, sums of
    gradients and the optimizer's state are float32 always."""
    track: Literal["", "tensorboard", "wandb"] = ""
    """Where the log goes beside log.jsonl."""
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        if wrong := self.wrong():
            raise ConfigError("; ".join(wrong))

    def wrong(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        found = finite_settings(self, self.BEFORE)
        found += self.under(1, "steps", "log_every", "save_every", "validate_batches")
        found += self.under(0, "validate_every", "milestone_every", "threads", "spike_sigma")
        found += self.other("on_spike", "note", "skip", "stop") + self.other("track", "", "tensorboard", "wandb")
        found += self.other("dtype", *TRAINED)
        return found if self.out else [*found, f"{self.BEFORE}out='': must be the folder to write to"]

    @property
    def kept(self) -> int:
        """Return how many of the newest checkpoints are kept."""
        return 2

    def under(self, low: int, *names: str) -> list[str]:
        """Return which of these numbers are under the lowest one that they may be."""
        rule = f"be at least {low}" if low else "not be negative"
        wrong = [name for name in names if getattr(self, name) < low]
        return [f"{self.BEFORE}{name}={getattr(self, name)}: must {rule}" for name in wrong]

    def over_zero(self, *names: str) -> list[str]:
        """Return which of these numbers are not above 0."""
        wrong = [name for name in names if getattr(self, name) <= 0]
        return [f"{self.BEFORE}{name}={getattr(self, name)}: must be above 0" for name in wrong]

    def other(self, name: str, *known: str) -> list[str]:
        """Return what is wrong where a word is none of the known ones."""
        value = getattr(self, name)
        rule = f"must be one of {', '.join(filter(None, known))}"
        return [] if value in known else [f"{self.BEFORE}{name}={value!r}: {rule}"]


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """A run of a language model, but for its data. Raises `ConfigError` for a value out of range."""

    out: str
    """Folder of the run."""
    model: DecoderConfig = field(default_factory=DecoderConfig)
    mask: MaskLaw = field(default_factory=MaskLaw)
    optim: OptimConfig = field(default_factory=OptimConfig)
    windows: int = 16
    """Windows a batch, of all ranks together."""
    length: int = 512
    """Tokens a window; documents are packed into windows whole. May be many times `model.context`, which a document
    never exceeds: they do not see each other, and the longer a window, the less of it is padding."""
    micro: int = 0
    """Windows of a rank that pass through the model at once, their gradients added up; 0 is all of its share."""
    z_loss: float = 0.0
    """Weight of the squared logarithm of the sum of all probabilities before they are normed, against drift."""
    text_weight: float = 1.0
    """Loss weight of text targets; the paper's is 1 for everything."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    sample_every: int = 1000
    """Steps between callbacks (sample sheets); 0 is never."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)

    def wrong(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        found = super().wrong() + self.under(1, "windows", "keep") + self.under(8, "length")
        found += self.under(0, "sample_every", "micro", "z_loss", "text_weight")
        if self.lora.rank and self.optim.name != "adamw":
            found.append(f"optim.name={self.optim.name!r}: adapters (lora.rank) are trained by 'adamw'")
        return found

    @property
    def kept(self) -> int:
        """See the base."""
        return self.keep

    def settled(self) -> TrainConfig:
        """Return the run with the model that it will build, as far as that can be known before it begins."""
        return self


def finite_settings(config: Any, before: str = "") -> list[str]:
    """Return what is wrong with the numbers of a config and its groups: those that are none (nan, inf), seeds, betas.

    `before` stands before their names.
    """
    wrong: list[str] = []
    for field_ in dataclasses.fields(config):
        value, name = getattr(config, field_.name), f"{before}{field_.name}"
        if dataclasses.is_dataclass(value):
            wrong += finite_settings(value, f"{name}.")
            continue
        if field_.name == "seed" and isinstance(value, int) and not 0 <= value < 2**63:
            wrong.append(f"{name}={value!s:.40}: must be in 0..2**63 - 1")
        inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else [value]
        if any(isinstance(one, float) and not math.isfinite(one) for one in inside):
            wrong.append(f"{name}={value}: must be a finite number")
        elif field_.name == "betas" and not all(0 <= one < 1 for one in value):
            wrong.append(f"{name}={value}: must each be from 0 to under 1")
    return wrong


def plain(value: Any) -> Any:
    """Return a value as JSON has it: tuples become lists."""
    return json.loads(json.dumps(value))


def check_resumed(
    where: str, saved: Mapping[str, Any], config: Mapping[str, Any], fixed: Callable[[str], bool]
) -> dict[str, list[Any]]:
    """Compare the settings of a checkpoint with those of the run that goes on from it.

    Both are nested plain values; `fixed` says of a dotted name whether it must be as it was. Returns what differs and
    counts, [old, new] by name. Raises `CheckpointError` for what must not differ.
    """
    old, new = flat(saved), flat(config)
    # A setting that only one of them has came or went with a version, or with another kind of data.
    changed = {name: [old[name], new[name]] for name in old if name in new and old[name] != new[name]}
    changed = {name: change for name, change in changed.items() if name.rpartition(".")[2] not in ("workers", "out")}
    for name, (was, now) in changed.items():
        if name.startswith(GIVEN):
            raise CheckpointError(
                f"checkpoint in {where!r}: was made with other {name.removeprefix(GIVEN).replace('_', ' ')}: what lies "
                "there now is not what the run began with; restore it, or give another out"
            )
        if fixed(name):
            raise CheckpointError(
                f"checkpoint in {where!r}: was made with {name}={was!r}, this run has {now!r}; give the same, or "
                "another out"
            )
    return {name: change for name, change in changed.items() if name.split(".")[0] not in OURS}


def same_model(where: str, saved: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` where the decoder of these settings is not that of the saved ones."""
    try:
        # Built anew, so that a field that a later version adds takes its default.
        same = DecoderConfig(**saved["model"]) == DecoderConfig(**config["model"])
    except (KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise CheckpointError(f"checkpoint in {where!r}: is of another model; give the same model.* or another out")


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Name nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found
