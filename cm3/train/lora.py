"""Low-rank adapters (LoRA, Hu et al. 2021) beside some matrices of a decoder, whose own weights stay as they are.

    decoder --adapt--> the same with A (rank, in) and B (out, rank) beside each chosen W; only these learn     (peft)
    its weights --merge--> those of a plain decoder, W + alpha / rank * B A, which nothing but cm3 has to read

B begins at zero, so an adapted decoder begins as what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cm3.errors import ConfigError
from cm3.model.decoder import Decoder

MATRICES = ("wq", "wk", "wv", "wo", "up", "gate", "down")
BASE, DOWN, UP = "base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"
"""The names of W, A and B in peft."""


@dataclass(frozen=True)
class LoraConfig:
    """Adapters; `rank` 0 is none. Raises `ConfigError` for a value out of range."""

    rank: int = 0
    """Width of the adapters; 0 trains all weights instead."""
    alpha: float = 32.0
    """Adapters count alpha / rank times."""
    targets: tuple[str, ...] = ("wq", "wk", "wv", "wo")
    """Matrices of each block that get one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 0:
            raise ConfigError(f"lora.rank={self.rank}: must be at least 1, or 0 for no adapters")
        if not self.alpha > 0:
            raise ConfigError(f"lora.alpha={self.alpha}: must be over 0")
        if not self.targets or any(t not in MATRICES for t in self.targets):
            raise ConfigError(f"lora.targets={self.targets}: must be some of {', '.join(MATRICES)}")


def adapt(model: Decoder, config: LoraConfig) -> Decoder:
    """Put adapters into a decoder, in place, and freeze the rest. Returns it.

    A is drawn from the global torch generator. Raises `ConfigError` where the model has no such matrix, and where peft
    is not installed.
    """
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    if missing := [t for t in config.targets if t not in names]:
        raise ConfigError(f"lora.targets={config.targets}: the model has no {missing[0]!r}; leave it out")
    try:
        import peft
    except ImportError as error:
        raise ConfigError(f"lora.rank={config.rank}: needs peft, which is not installed: pip install peft") from error
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # it says int, and only divides it by r
        target_modules=list(config.targets),
        lora_dropout=0.0,
        bias="none",
    )
    peft.inject_adapter_in_model(settings, model)
    return model


def merge(weights: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Return the weights of the plain decoder from those of an adapted one, whole and on one device, by name."""
    merged: dict[str, Tensor] = {}
    for name, weight in weights.items():
        stem = name.removesuffix(BASE)
        if stem != name:
            change = weights[stem + UP] @ weights[stem + DOWN]
            merged[f"{stem}weight"] = weight + config.alpha / config.rank * change
        elif not name.endswith((DOWN, UP)):
            merged[name] = weight
    return merged
