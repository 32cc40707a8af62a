"""Settings of a training run, and what of them a run may change when it is resumed.

saved with the checkpoint  --differences-->  model, vocabulary, seed, windows, optim.name, data.seed: refused
                                             steps, optim.lr, mask.*, ...: said in the log
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cm3.errors import CheckpointError, ConfigError
from cm3.model.decoder import DecoderConfig
from cm3.parallel import MeshConfig, ShardConfig
from cm3.sequence.mask import MaskLaw
from cm3.train.lora import LoraConfig
from cm3.train.optim import OptimConfig

FIXED = ("seed", "windows", "optim.name", "data.seed", "image_size", "lora.rank", "lora.alpha", "lora.targets", "base")
"""What must be as it was, beside the model and the vocabulary. `base`: the weights that adapters stand beside."""
GIVEN = "given."
"""How names begin of what is read from disk, by its content: it must be as it was, too."""
OURS = {"out", "log_every", "save_every", "sample_every", "validate_every", "keep", "milestone_every", "threads"}
OURS |= {"micro", "track", "device", "mesh", "shard"}
"""What changes nothing that is learnt."""


@dataclass(frozen=True)
class TrainConfig:
    """A run, but for its data. Raises `ConfigError` for a value out of range."""

    out: str
    """Folder of the run."""
    model: DecoderConfig = field(default_factory=DecoderConfig)
    mask: MaskLaw = field(default_factory=MaskLaw)
    optim: OptimConfig = field(default_factory=OptimConfig)
    steps: int = 1000
    """Updates."""
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
    on_spike: Literal["note", "skip", "stop"] = "note"
    """What to do with a batch whose loss is a spike: write it in the log and learn from it; write it and do not learn
    from it; or stop. A loss that is not finite stops the run unless it is to be skipped."""
    spike_sigma: float = 6.0
    """A spike is this many standard deviations over the mean of the last 100 losses; 0 is never."""
    log_every: int = 20
    """Updates between lines of the log."""
    save_every: int = 200
    """Updates between checkpoints."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    milestone_every: int = 0
    """Checkpoints at multiples of this step are kept for ever; 0 is none."""
    sample_every: int = 1000
    """Steps between callbacks (sample sheets); 0 is never."""
    validate_every: int = 0
    """Steps between measurements on documents that are held out; 0 is never."""
    validate_batches: int = 4
    """Batches of such documents."""
    seed: int = 0
    """Draws the weights, the order of the documents in windows, and the masks."""
    threads: int = 0
    """Processor threads; 0 leaves torch's choice."""
    device: Literal["", "cpu", "cuda"] = ""
    """Empty is a GPU where there is one."""
    track: Literal["", "tensorboard", "wandb"] = ""
    """Where the log goes beside log.jsonl."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)

    def __post_init__(self) -> None:
        if wrong := finite_settings(self):
            raise ConfigError(wrong[0])
        for name, low in (
            ("steps", 1), ("windows", 1), ("length", 8), ("log_every", 1), ("save_every", 1), ("keep", 1),
            ("validate_batches", 1),
        ):  # fmt: skip
            if getattr(self, name) < low:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least {low}")
        for name in (
            "sample_every", "validate_every", "milestone_every", "micro", "threads", "z_loss", "text_weight",
            "spike_sigma",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must not be negative")
        for name, known in (("on_spike", ("note", "skip", "stop")), ("track", ("", "tensorboard", "wandb"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(filter(None, known))}")
        if self.lora.rank and self.optim.name != "adamw":
            raise ConfigError(f"optim.name={self.optim.name!r}: adapters (lora.rank) are trained by 'adamw'")
        if not self.out:
            raise ConfigError("out='': must be the folder to write to")

    def settled(self) -> TrainConfig:
        """Return the run with the model that it will build, as far as that can be known before it begins."""
        return self


def finite_settings(config: Any, before: str = "") -> list[str]:
    """Return what is wrong with the numbers of a config and its groups: those that are none (nan, inf), and seeds.

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
    return wrong


def plain(value: Any) -> Any:
    """What JSON makes of a value: tuples become lists."""
    return json.loads(json.dumps(value))


def check_resumed(where: str, saved: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What differs between the settings of a checkpoint and those of the run that goes on from it: [old, new] by name.

    Both are nested plain values. Raises `CheckpointError` for a setting that must be as it was.
    """
    try:
        # Built anew, so that a field that a later version adds takes its default.
        same = DecoderConfig(**saved["model"]) == DecoderConfig(**config["model"])
    except (KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise CheckpointError(f"checkpoint in {where!r}: is of another model; give the same model.* or another out")
    old, new = flat(saved), flat(config)
    # A setting that only one of them has came or went with a version, or with another kind of data.
    changed = {name: [old[name], new[name]] for name in old if name in new and old[name] != new[name]}
    for name in changed:
        if name.startswith(GIVEN):
            raise CheckpointError(
                f"checkpoint in {where!r}: was made with other {name.removeprefix(GIVEN).replace('_', ' ')}: what lies "
                "there now is not what the run began with; restore it, or give another out"
            )
    for name in FIXED:
        if name in changed:
            was, now = changed[name]
            raise CheckpointError(
                f"checkpoint in {where!r}: was made with {name}={was!r}, this run has {now!r}; give the same, or "
                "another out"
            )
    return {n: c for n, c in changed.items() if n.split(".")[0] not in {*OURS, "model"}}


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found
