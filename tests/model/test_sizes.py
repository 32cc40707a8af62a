"""Named sizes against the paper's parameter counts, on the meta device: no weight is made."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cm3.errors import ConfigError
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.sizes import SIZES, flops_per_token, parameters, size


@pytest.mark.parametrize(("name", "count"), [("350m", 373e6), ("760m", 786e6), ("7b", 6.73e9)])
def test_the_papers_sizes(name: str, count: float) -> None:
    """Table 3; counts by 12 L d^2 + (65,536 + 4,096) d (docs/paper.md 1.7)."""
    config = size(name)
    assert (config.vocab_size, config.context) == (65_536, 4096)
    with torch.device("meta"):
        decoder = Decoder(config)
    real = sum(p.numel() for p in decoder.parameters())
    assert real == parameters(config) == 12 * config.layers * config.d_model**2 + 69_632 * config.d_model
    assert real == pytest.approx(count, rel=0.005)


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_a_config(name: str) -> None:
    config = size(name, vocab_size=1000, qk_norm=True)
    assert config.vocab_size == 1000 and config.qk_norm and config.d_model == SIZES[name]["d_model"]


def test_unknown_sizes_are_refused_with_a_near_name() -> None:
    with pytest.raises(ConfigError, match="size '350': must be one of 350m, .* Did you mean '350m'?"):
        size("350")


@pytest.mark.parametrize(
    "changes",
    [{}, {"tied": False}, {"positions": "rope"}, {"activation": "swiglu", "hidden": 48}, {"grid": (4, 4)}],
    ids=str,
)
def test_flops_are_those_of_the_matrix_products(changes: dict[str, Any]) -> None:
    """Six for each weight of a matrix that a token is multiplied with, and attention over half of the square."""
    config = DecoderConfig(vocab_size=100, d_model=32, layers=3, heads=4, context=64, **changes)
    decoder = Decoder(config)
    products = sum(p.numel() for n, p in decoder.named_parameters() if "blocks" in n) + 100 * 32
    attention = 3 * 2 * (2 * 64 * 32) * 3 / 2  # layers, scores and sums, 2 FLOP each, three passes, half
    assert flops_per_token(config, 64) == 6 * products + attention
