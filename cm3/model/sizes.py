"""Named decoder sizes: the paper's three (Table 3), and small ones of ours.

Numbers of heads are not in the paper; they are metaseq's for these sizes (docs/paper.md 1.7).
"""

from __future__ import annotations

from cm3.errors import ConfigError, did_you_mean
from cm3.model.decoder import DecoderConfig

SIZES: dict[str, dict[str, int]] = {
    "350m": {"layers": 24, "d_model": 1024, "heads": 16},
    "760m": {"layers": 24, "d_model": 1536, "heads": 16},
    "7b": {"layers": 32, "d_model": 4096, "heads": 32},
    "small": {"layers": 8, "d_model": 512, "heads": 8},
    "tiny": {"layers": 6, "d_model": 256, "heads": 4},
    "nano": {"layers": 2, "d_model": 64, "heads": 2},
}


def size(name: str, **changes: object) -> DecoderConfig:
    """Return the config of a named size, with fields changed: `size("350m", vocab_size=65_536)`.

    Raises `ConfigError` for an unknown name.
    """
    if name not in SIZES:
        raise ConfigError(f"size {name!r}: must be one of {', '.join(SIZES)}.{did_you_mean(name, SIZES)}")
    return DecoderConfig(**{**SIZES[name], **changes})  # type: ignore[arg-type]


def parameters(config: DecoderConfig) -> int:
    """Return the number of parameters by arithmetic: 12 L d^2 + (v + context) d for the paper's style (docs/paper.md
    1.7)."""
    d, kv = config.d_model, (config.kv_heads or config.heads) * config.head_dim
    attention = 2 * d * d + 2 * d * kv
    if config.qk_norm:
        attention += 2 * (d + kv)
    feed_forward = (3 if config.activation == "swiglu" else 2) * d * config.ffn
    norm = (d * (2 if config.norm == "layer" else 1)) if config.norm_affine else 0
    total = config.layers * (attention + feed_forward + 2 * norm) + norm
    total += config.vocab_size * d * (1 if config.tied else 2)
    if config.positions == "learned":
        total += config.context * d
    if config.grid:
        total += (config.grid[0] + 1 + config.grid[1] + 1) * d
    return total + (d if config.near else 0)


def flops_per_token(config: DecoderConfig, length: int) -> float:
    """Return the training FLOP a token at sequences of `length`: 6 N + 6 L d length.

    Tables that are only looked up do not count.

    PaLM appendix B, with causal attention at half of the square: the work that an exact kernel must do.
    """
    tables = config.vocab_size * config.d_model * (0 if config.tied else 1)
    tables += config.context * config.d_model if config.positions == "learned" else 0
    tables += (config.grid[0] + 1 + config.grid[1] + 1) * config.d_model if config.grid else 0
    return 6.0 * (parameters(config) - tables) + 6.0 * config.attentions * config.d_model * length
