"""A small model of Chameleon's shape, with random weights: its decoder, its kind of tokenizer, pictures of 4 x 4. And
one of Lumina-mGPT's, whose pictures have marks."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from published_tokenizer import text_tokenizer
from tiny_model import SIZE, stir, vqgan

from cm3.convert.ids import IdMap
from cm3.model.bundle import Bundle
from cm3.model.decoder import Decoder, DecoderConfig

FILE = text_tokenizer(codes=64, shuffle=3)
IDS = IdMap.of(FILE)
LUMINA_FILE = text_tokenizer(codes=64, shuffle=5, marks=5)
LUMINA = IdMap.of(LUMINA_FILE, side=SIZE)
SHAPE: dict[str, Any] = {
    "d_model": 32, "layers": 2, "heads": 4, "context": 192, "hidden": 64, "norm": "rms", "norm_affine": True,
    "activation": "swiglu", "positions": "rope", "qk_norm": True, "tied": False,
}  # fmt: skip


@functools.cache
def tokenizer_path(data: bytes = FILE) -> Path:
    """The file of the text tokenizer."""
    path = Path(tempfile.mkdtemp(prefix="cm3-test-")) / "tokenizer.json"
    path.write_bytes(data)
    return path


def lumina(**changes: Any) -> Bundle:
    """The same of Lumina-mGPT's kind."""
    decoder = stir(Decoder(DecoderConfig(vocab_size=LUMINA.vocab.size, **SHAPE | changes))).double().eval()
    about = {"prompt_format": "lumina"}
    return Bundle(LUMINA.vocab, decoder, vqgan(), SIZE, tokenizer_path(LUMINA_FILE), about=about, name="tiny")


def bundle(prompt_format: str | None = "chameleon", **changes: Any) -> Bundle:
    """A model that writes at random, but with conviction; in float64, so that no batch rounds otherwise."""
    decoder = stir(Decoder(DecoderConfig(vocab_size=IDS.vocab.size, **SHAPE | changes))).double().eval()
    about = {} if prompt_format is None else {"prompt_format": prompt_format}
    return Bundle(IDS.vocab, decoder, vqgan(), SIZE, tokenizer_path(), about=about, name="tiny")
