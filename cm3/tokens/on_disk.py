"""Both tokenizers from where they are on disk, without the model that they belong to.

    a model's folder (cm3/model/bundle.py)      config.json, image_tokenizer.safetensors, tokenizer.json
    what an image tokenizer run wrote           config.json, image_tokenizer.safetensors; and a tokenizer.json
                                                beside them or given

The second is for data that is prepared before there is a model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cm3.errors import CheckpointError, Cm3Error
from cm3.files import build, read_json, said, sha256
from cm3.model.folder import FILES, check_config, check_text, opened
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.tokens.chameleon import load_text_tokenizer, read_text_tokenizer, vocab_for
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Vocab
from cm3.weights import load_into, on_device

WEIGHTS = FILES[1]
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
    neither, and for a file that is missing or does not fit; `ConfigError` for a device that is not there.
    """
    folder = Path(folder)
    what = f"tokenizers {str(folder)!r}"
    config = read_json(folder / "config.json", what)
    if "vocab" in config:
        if text is not None:
            raise CheckpointError(f"{what}: a model has its own text tokenizer; give no other")
        return _of_model(folder, device)
    path = Path(text) if text is not None else folder / FILES[2]
    words = load_text_tokenizer(path)
    shape, size = _image(what, config, "vqgan", "size")
    vqgan = load_into(lambda: VQGAN(shape), folder / WEIGHTS, f"{what}: {WEIGHTS}")
    vocab = _fits(what, lambda: vocab_for(words, shape.codes, masks))
    return _made(what, vocab, words, on_device(vqgan, device), size, path)


def _of_model(folder: Path, device: str) -> Tokenizers:
    with opened(folder, lambda name: name in FILES[1:]) as found:
        shape, size = _image(found.what, found.config, "image_tokenizer", "image_size")
        vocab = build(Vocab, found.config["vocab"], f"{found.what}: config.json: vocab")
        check_config(folder, found.config)
        data = found.read(FILES[2])
        check_text(vocab, data, found.what)
        words = read_text_tokenizer(data, folder / FILES[2])
        vqgan = found.fill(WEIGHTS, lambda: VQGAN(shape))
    return _made(found.what, vocab, words, on_device(vqgan, device), size, folder / FILES[2], found.config.get("about"))


def _image(what: str, config: dict[str, Any], shape: str, size: str) -> tuple[VQGANConfig, int]:
    """Return shape of the image tokenizer and size of its pictures, from where config.json has them."""
    if shape not in config or type(config.get(size)) is not int:
        raise CheckpointError(
            f"{what}: config.json and {WEIGHTS} do not make an image tokenizer (it lacks {shape!r} or {size!r}); give "
            "a model's folder, or that of an image tokenizer"
        )
    return build(VQGANConfig, config[shape], f"{what}: config.json: {shape}"), config[size]


def _made(
    what: str, vocab: Vocab, words: TextTokenizer, vqgan: VQGAN, size: int, path: Path, about: Any = None
) -> Tokenizers:
    image = _fits(what, lambda: ImageTokenizer(vqgan, size))
    if image.codes != vocab.image:
        raise CheckpointError(f"{what}: has vocab.image={vocab.image} and {image.codes} image codes; restore it")
    return Tokenizers(
        _fits(what, lambda: Codec(vocab, words, image, about if isinstance(about, dict) else None)),
        path,
        fingerprint(image),
    )


T = TypeVar("T")


def _fits(what: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except Cm3Error as error:
        raise CheckpointError(f"{what}: {said(error)}; give a model's folder, or that of an image tokenizer") from error


def fingerprint(image: ImageTokenizer) -> str:
    """Return a name for what an image tokenizer does: its shape, size and weights, in hexadecimal."""
    return image.vqgan.fingerprint(size=image.size, fit=image.fit)


def text_fingerprint(path: str | Path) -> str:
    """Return a name for a text tokenizer: the sha256 of its file."""
    return sha256(path)
