"""The smallest parts that fit together, with random weights: 32 px pictures of 4 x 4 codes, a decoder of one layer."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cm3.model.bundle import Bundle
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.scenes import describe, random_scene
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Vocab

SIZE = 32
SHAPE = VQGANConfig(
    factor=8, channels=8, multipliers=(1, 1), blocks=0, middle=False, attention=False, patch=4,
    z_channels=8, quantizer="fsq", codes=64, levels=(4, 4, 4), resample="shuffle",
)  # fmt: skip


@functools.cache
def vqgan() -> VQGAN:
    """An image tokenizer whose codes differ between pictures."""
    torch.manual_seed(0)
    return VQGAN(SHAPE).eval()


@functools.cache
def tokenizer_path() -> Path:
    """The file of a text tokenizer of 320 entries."""
    rng = np.random.default_rng(0)
    path = Path(tempfile.mkdtemp(prefix="cm3-test-")) / "tokenizer.json"
    TextTokenizer.train([describe(random_scene(rng), rng) for _ in range(200)], 320).save(path)
    return path


@functools.cache
def codec() -> Codec:
    """Both tokenizers and their vocabulary."""
    text = TextTokenizer.load(tokenizer_path())
    vocab = Vocab(text=text.size, image=64, masks=16, reserved=0)
    return Codec(vocab, text, ImageTokenizer(vqgan(), SIZE))


def stir(decoder: Decoder, seed: int = 0, scale: float = 0.3) -> Decoder:
    """Give every matrix random values, so that each token depends on all before it (fresh, it sees only itself)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
        for table in (decoder.row, decoder.column):
            if table is not None:
                table.weight[0] = 0
    return decoder


def bundle(**changes: Any) -> Bundle:
    """A model that writes at random, but with conviction."""
    c = codec()
    shape = {"d_model": 32, "layers": 1, "heads": 2, "context": 160, "grid": (4, 4), "positions": "rope"} | changes
    decoder = stir(Decoder(DecoderConfig(vocab_size=c.vocab.size, **shape))).eval()
    return Bundle(c.vocab, decoder, vqgan(), SIZE, tokenizer_path(), about={"recipe": "none"}, name="tiny")
