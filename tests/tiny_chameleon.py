"""A small model of Chameleon's shape, with random weights: its decoder, its kind of tokenizer, pictures of 4 x 4."""

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
SHAPE: dict[str, Any] = {
    "d_model": 32, "layers": 2, "heads": 4, "context": 192, "hidden": 64, "norm": "rms", "norm_affine": True,
    "activation": "swiglu", "positions": "rope", "qk_norm": True, "tied": False,
}  # fmt: skip


@functools.cache
def tokenizer_path() -> Path:
    """The file of the text tokenizer."""
    path = Path(tempfile.mkdtemp(prefix="cm3-test-")) / "tokenizer.json"
    path.write_bytes(FILE)
    return path


def bundle(prompt_format: str | None = "chameleon", **changes: Any) -> Bundle:
    """A model that writes at random, but with conviction; in float64, so that no batch rounds otherwise."""
    decoder = stir(Decoder(DecoderConfig(vocab_size=IDS.vocab.size, **SHAPE | changes))).double().eval()
    about = {} if prompt_format is None else {"prompt_format": prompt_format}
    return Bundle(IDS.vocab, decoder, vqgan(), SIZE, tokenizer_path(), about=about, name="tiny")
