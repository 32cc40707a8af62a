"""Decoders of Chameleon's kind by size, with random weights: they cost what trained ones cost."""

from __future__ import annotations

import torch

from cm3.model.decoder import Decoder, DecoderConfig
from cm3.vocab import Vocab
from cm3.weights import bare

SHAPES: dict[str, tuple[int, int, int, int, int]] = {
    # name: d_model, layers, heads, feed-forward width, vocabulary
    "test": (32, 1, 2, 64, 600),
    "10m": (256, 6, 4, 688, 10_240),
    "85m": (768, 8, 12, 2304, 16_384),
    "350m": (1024, 24, 16, 2752, 65_536),
    "760m": (1536, 24, 16, 4096, 65_536),
    "7b": (4096, 32, 32, 11_008, 65_536),
}


def shape(size: str, length: int) -> DecoderConfig:
    """Return the decoder of a size and a context, as Chameleon is."""
    d, layers, heads, hidden, vocab = SHAPES[size]
    return DecoderConfig(
        vocab_size=vocab, d_model=d, layers=layers, heads=heads, context=length, hidden=hidden, activation="swiglu",
        norm="rms", norm_affine=True, qk_norm=True, positions="rope", tied=False,
    )  # fmt: skip


def words(config: DecoderConfig) -> Vocab:
    """Return a vocabulary of that size, half of it for images."""
    image = config.vocab_size // 2
    bare_size = Vocab(text=256, image=image, masks=16, reserved=0).size - 256
    return Vocab(text=config.vocab_size - bare_size, image=image, masks=16, reserved=0)


def drawn(config: DecoderConfig, device: torch.device) -> Decoder:
    """Return a decoder whose weights are drawn, residual outputs too; float32, the same at each call."""
    with bare():
        made = Decoder(config)
    made.to_empty(device=device).eval().requires_grad_(False)
    chance = torch.Generator(device).manual_seed(0)
    for name, weight in made.named_parameters():
        weight.normal_(0, 0.02, generator=chance)
        if "norm" in name and name.endswith("weight"):
            weight.add_(1)
    return made
