"""Settings of Chameleon's family: the numbers of a model that its tensors do not say, from each layout's own files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cm3.errors import CheckpointError
from cm3.model.decoder import DecoderConfig

EPS = 1e-5
"""The query-key norms of this family add this to the variance, whatever the config says of the other norms."""


@dataclass(frozen=True)
class Settings:
    """Describe what tensors do not say. `claims`: numbers that they do say, as the settings have them."""

    norm_eps: float = EPS
    rope_theta: float = 10_000.0
    swin: bool = False
    context: int = 4096
    tied: bool = False
    claims: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_meta(cls, params: Mapping[str, Any], consolidated: Mapping[str, Any]) -> Settings:
        """Read params.json and consolidate_params.json. Raises `CheckpointError` with all that is wrong."""
        model = params.get("model", {})
        page = _Page({**params, **(model if isinstance(model, dict) else {}), **consolidated}, "params.json")
        dim = page.whole("dim")
        claims = {
            "vocab_size": page.whole("vocab_size"), "d_model": dim, "layers": page.whole("n_layers"),
            "heads": page.whole("n_heads"), "kv_heads": page.whole("n_kv_heads") or page.whole("n_heads"),
            "model_parallel_size": page.whole("model_parallel_size"),
        }  # fmt: skip
        multiple, factor = page.whole("multiple_of"), page.real("ffn_dim_multiplier", None)
        if dim and multiple:
            claims["hidden"] = feed_forward(dim, multiple, factor)
        if page.values.get("qk_normalization", True) is not True:
            page.wrong.append("qk_normalization must be true")
        # A vocabulary of -1 stands in published files for that of the tokenizer.
        made = cls(
            page.real("norm_eps", EPS) or EPS, page.real("rope_theta", 10_000.0) or 10_000.0, page.flag("swin_norm"),
            page.whole("max_seq_len") or 4096, False, {k: v for k, v in claims.items() if v},
        )  # fmt: skip
        return page.done(made)

    @classmethod
    def of_transformers(cls, config: Mapping[str, Any]) -> Settings:
        """Read config.json. Raises `CheckpointError` with all that is wrong."""
        page = _Page(config, "config.json")
        named = {
            "vocab_size": "vocab_size", "d_model": "hidden_size", "layers": "num_hidden_layers",
            "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "hidden": "intermediate_size",
            "model_parallel_size": "model_parallel_size",
        }  # fmt: skip
        claims = {ours: n for ours, theirs in named.items() if (n := page.whole(theirs))}
        if config.get("hidden_act", "silu") != "silu":
            page.wrong.append("hidden_act must be silu")
        for name in ("attention_bias", "mlp_bias"):
            if page.flag(name):
                page.wrong.append(f"{name} must be false")
        rope = config.get("rope_parameters") or {}
        old = config.get("rope_scaling")
        scaled = old not in (None, {}) and (not isinstance(old, dict) or old.get("rope_type", old.get("type")))
        kind = rope.get("rope_type", "default") if isinstance(rope, dict) else None
        if kind != "default" or scaled not in (False, None, "default"):
            page.wrong.append("rotary positions are scaled, which Chameleon's are not")
        theta = page.real("rope_theta", 10_000.0) or 10_000.0
        if isinstance(rope, dict) and "rope_theta" in rope:
            theta = _Page(rope, "config.json: rope_parameters", page.wrong).real("rope_theta", theta) or theta
        made = cls(
            page.real("rms_norm_eps", EPS) or EPS, theta, page.flag("swin_norm"),
            page.whole("max_position_embeddings") or 4096, page.flag("tie_word_embeddings"), claims,
        )  # fmt: skip
        return page.done(made)


class _Page:
    """The numbers of a stranger's settings, with a note of each that is none."""

    def __init__(self, values: Mapping[str, Any], what: str, wrong: list[str] | None = None) -> None:
        self.values, self.what = values, what
        self.wrong: list[str] = [] if wrong is None else wrong

    def whole(self, name: str) -> int:
        """Return a whole number; 0 where there is none. -1 and null are none."""
        value = self.values.get(name)
        if value is None or value == -1:
            return 0
        if type(value) is not int or not 0 < value < 1 << 24:
            self.wrong.append(f"{name}={value!r:.40} must be a whole number from 1")
            return 0
        return value

    def real(self, name: str, default: float | None) -> float | None:
        """Return a number over 0; `default` where there is none."""
        value = self.values.get(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 < value < 1e12:
            self.wrong.append(f"{name}={value!r:.40} must be a number over 0")
            return default
        return float(value)

    def flag(self, name: str) -> bool:
        """Return true or false; false where there is none."""
        value = self.values.get(name)
        if value is None:
            return False
        if type(value) is not bool:
            self.wrong.append(f"{name}={value!r:.40} must be true or false")
        return value is True

    def done(self, made: Settings) -> Settings:
        """Return the settings. Raises `CheckpointError` with all that was noted."""
        if made.norm_eps != EPS:
            # The query-key norms of every program of this family add 1e-5; ours add what the others do.
            self.wrong.append(f"norms add {made.norm_eps}; of this family {EPS} alone is known")
        if "d_model" not in made.claims and not self.wrong:
            # Of a file that says nothing, the order of norms would be a guess, and pictures wrong.
            self.wrong.append("does not say the width of the model, nor then which model it is of")
        if self.wrong:
            raise CheckpointError(f"{self.what}: {'; '.join(self.wrong)}; restore it")
        return made


def feed_forward(dim: int, multiple: int, factor: float | None) -> int:
    """Return the feed-forward width that Meta's program computes of its settings."""
    hidden = int(2 * (4 * dim) / 3)
    if factor is not None:
        hidden = int(factor * hidden)
    return multiple * -(-hidden // multiple)


def to_meta(config: DecoderConfig, shards: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return params.json and consolidate_params.json of a model, of which `Settings.of_meta` makes the same."""
    multiple, factor = 256, None
    if feed_forward(config.d_model, multiple, factor) != config.ffn:
        multiple = 1
        if feed_forward(config.d_model, multiple, factor) != config.ffn:
            factor = (config.ffn + 0.5) / int(2 * (4 * config.d_model) / 3)
    model: dict[str, Any] = {
        "dim": config.d_model, "n_layers": config.layers, "n_heads": config.heads,
        "n_kv_heads": config.kv_heads if config.kv_heads != config.heads else None, "vocab_size": config.vocab_size,
        "multiple_of": multiple, "ffn_dim_multiplier": factor, "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta, "qk_normalization": True, "swin_norm": config.norm_order == "swin",
        "max_seq_len": config.context,
    }  # fmt: skip
    return {"model": model}, {"model_parallel_size": shards}


def check_family(config: DecoderConfig) -> None:
    """Raise `CheckpointError`, with all that is wrong, for a decoder that is no Chameleon."""
    wanted: dict[str, Any] = {
        "norm": "rms", "norm_affine": True, "activation": "swiglu", "positions": "rope", "qk_norm": True, "grid": None,
        "norm_eps": EPS, "near": 0,
    }  # fmt: skip
    if wrong := [f"decoder.{n}={getattr(config, n)}, not {v}" for n, v in wanted.items() if getattr(config, n) != v]:
        raise CheckpointError(
            f"{'; '.join(wrong)}: other layouts have no place for this model; train one of their shape"
        )
