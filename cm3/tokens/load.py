"""Both tokenizers from where they are on disk, without the model that they belong to.

    a model's folder (cm3/model/bundle.py)      config.json, image_tokenizer.safetensors, tokenizer.json
    what an image tokenizer run wrote           config.json, image_tokenizer.safetensors; and a tokenizer.json
                                                beside them or given

The second is for data that is prepared before there is a model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from cm3.errors import CheckpointError
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Vocab

WEIGHTS = "image_tokenizer.safetensors"
MASKS = 32
"""Masks of a vocabulary that no model has settled yet."""


class Tokenizers(NamedTuple):
    """A codec, the file of its text tokenizer, and the name of its image tokenizer (`fingerprint`)."""

    codec: Codec
    text: Path
    image: str


def load_tokenizers(
    folder: str | Path, *, text: str | Path | None = None, masks: int = MASKS, device: str = "cpu"
) -> Tokenizers:
    """Read the tokenizers of a model, or of an image tokenizer run with the tokenizer.json `text`.

    `masks` is for the latter alone, whose vocabulary has no reserved ids. Raises `CheckpointError` for a folder that is
    neither, and for a file that is missing or does not fit.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"tokenizers {str(folder)!r}: config.json cannot be read ({error}); give a model's folder, or that of an "
            "image tokenizer"
        ) from error
    model = "vocab" in config if isinstance(config, dict) else False
    if model and text is not None:
        raise CheckpointError(f"tokenizers {str(folder)!r}: a model has its own text tokenizer; give no other")
    path = Path(text) if text is not None else folder / "tokenizer.json"
    words = TextTokenizer.load(path)
    try:
        shape = _build(VQGANConfig, config["image_tokenizer" if model else "vqgan"])
        size = int(config["image_size" if model else "size"])
        vocab = (
            _build(Vocab, config["vocab"])
            if model
            else Vocab(text=words.size, image=shape.codes, masks=masks, reserved=0)
        )
        vqgan = VQGAN(shape)
        weights = load_file(folder / WEIGHTS)
        vqgan.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    except Exception as error:  # safetensors and torch raise their own kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"tokenizers {str(folder)!r}: config.json and {WEIGHTS} do not make an image tokenizer ({reason}); give a "
            "model's folder, or that of an image tokenizer"
        ) from error
    image = ImageTokenizer(vqgan.eval().to(device), size)
    return Tokenizers(Codec(vocab, words, image), path, fingerprint(image))


def fingerprint(image: ImageTokenizer) -> str:
    """A name for what an image tokenizer does: its shape, size and weights, in hexadecimal.

    Weights count as half precision, so that a model which was saved so keeps the name of its tokenizer.
    """
    about = {"shape": dataclasses.asdict(image.vqgan.config), "size": image.size, "fit": image.fit}
    hashed = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, weight in sorted(image.vqgan.state_dict().items()):
        value = weight.detach().cpu()
        value = value.to(torch.float16) if value.is_floating_point() else value.to(torch.int64)
        hashed.update(name.encode() + value.contiguous().numpy().tobytes())
    return hashed.hexdigest()


def text_fingerprint(path: str | Path) -> str:
    """A name for a text tokenizer: the sha256 of its file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _build(kind: type, values: dict[str, Any]) -> Any:
    # JSON has lists where the configs have tuples.
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
