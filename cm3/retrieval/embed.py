"""Documents -> vectors. The vector of a document is the mean of its unit text and unit image vectors.

So the inner product of a query's unit vector with a document's is the mean of two cosines, in -1..1 (RA-CM3, Yasunaga
et al. 2023, section 3.1; CM3Leon section 2.1). The mean is not brought to length one again: a document whose picture
contradicts its caption scores lower against both. A document of one part has that part's unit vector.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import PIL.Image

from cm3.document import Document
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.picture import upright
from cm3.retrieval.cache import VectorCache

__all__ = ["Encoder", "VectorCache", "Vectors", "embed", "load_encoder"]


class Encoder(Protocol):
    """What makes vectors of texts and pictures, in one space."""

    name: str
    """Its weights' identity: `clip:<hub id or content hash>`, `pairs:<content hash>`. Banks store it and insist."""
    width: int

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 (n, width)."""

    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Unit vectors float32 (n, width) of pictures of any mode and size."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of n documents, float32 (n, width)."""

    vectors: np.ndarray
    """The documents': mean of text and image, or the one that there is."""
    texts: np.ndarray
    """Unit rows; zeros where a document has no text."""
    images: np.ndarray
    """Unit rows, the direction of the mean where a document has several images; zeros where it has none."""


def load_encoder(name: str | Path, *, device: str = "cpu") -> Encoder:
    """An encoder by the folder that a pairs run wrote, a folder in Hugging Face's CLIP layout, or a hub id of one.

    A hub id is `openai/clip-vit-base-patch32` or, where a folder of that name is in the way, `hf://owner/name`. Raises
    `CheckpointError` for what is neither or cannot be read, `ConfigError` for a missing library or an unknown device.
    """
    text = str(name)
    folder = Path(text).expanduser()
    if folder.is_dir() and not text.startswith("hf://"):
        config = _config(folder)
        if config.get("format") == "cm3-pairs":
            from cm3.retrieval.pairs import PairEncoder

            return PairEncoder.load(folder, device=device)
        if config.get("model_type") != "clip":
            raise CheckpointError(
                f"encoder {text!r}: config.json describes neither pairs nor a CLIP; give a folder that "
                "`cm3 train recipes/scenes.py:clip` wrote, or one in Hugging Face's CLIP layout"
            )
    elif not text.startswith("hf://") and (text.count("/") != 1 or text.startswith((".", "/", "~"))):
        raise CheckpointError(f"encoder {text!r}: no such folder; give one, or a hub id such as owner/name")
    from cm3.retrieval.clip import ClipEncoder

    return ClipEncoder.load(text, device=device)


def embed(
    encoder: Encoder, documents: Sequence[Document], *, batch: int = 64, cache: VectorCache | None = None
) -> Vectors:
    """Vectors of documents; equal texts and equal pictures are encoded once, `batch` at a time.

    With a cache, what it has is not encoded, and what it has not is put there batch by batch. Raises `DataError` for a
    document with neither text nor image, and for an image that cannot be read.
    """
    if batch < 1:
        raise ConfigError(f"batch={batch}: must be at least 1")
    texts: dict[bytes, str] = {}
    images: dict[bytes, PIL.Image.Image] = {}
    keys: list[tuple[bytes | None, list[bytes]]] = []
    for at, document in enumerate(documents):
        words = document.text
        text_key = _key(encoder, "text", words.encode(errors="surrogatepass")) if words.strip() else None
        image_keys = [_image_key(encoder, image.pixels, document.id or str(at)) for image in document.images]
        if text_key is None and not image_keys:
            raise DataError(f"document {document.id or at!r}: has neither text nor image; leave it out")
        if text_key is not None:
            texts[text_key] = words
        images.update(zip(image_keys, (image.pixels for image in document.images), strict=True))
        keys.append((text_key, image_keys))
    found = _encode(texts, encoder.texts, batch, cache) | _encode(images, encoder.images, batch, cache)
    by_text = np.zeros((len(keys), encoder.width), dtype=np.float32)
    by_image = np.zeros_like(by_text)
    for at, (text_key, image_keys) in enumerate(keys):
        if text_key is not None:
            by_text[at] = found[text_key]
        if image_keys:
            mean = np.mean([found[key] for key in image_keys], axis=0)
            by_image[at] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    parts = np.array([(text is not None) + bool(image) for text, image in keys], dtype=np.float32)
    return Vectors((by_text + by_image) / parts.reshape(-1, 1), by_text, by_image)


T = TypeVar("T")


def _encode(
    items: Mapping[bytes, T], encode: Callable[[Sequence[T]], np.ndarray], batch: int, cache: VectorCache | None
) -> dict[bytes, np.ndarray]:
    found = cache.get(list(items)) if cache is not None else {}
    missing = [key for key in items if key not in found]
    for start in range(0, len(missing), batch):
        chunk = missing[start : start + batch]
        vectors = np.asarray(encode([items[key] for key in chunk]), dtype=np.float32)
        if cache is not None:
            cache.put(chunk, vectors)
        found.update(zip(chunk, vectors, strict=True))
    return found


def _key(encoder: Encoder, kind: str, content: bytes) -> bytes:
    return hashlib.sha256(f"{encoder.name}\n{kind}\n".encode() + content).digest()


def _image_key(encoder: Encoder, image: PIL.Image.Image, document: str) -> bytes:
    try:
        image.load()
        image = upright(image)
        # What colours the bytes is content too: a palette, a transparent colour.
        palette = image.getpalette() if image.mode in ("P", "PA") else None
        about = repr((image.mode, image.size, image.info.get("transparency"), palette))
        return _key(encoder, "image", about.encode() + b"\n" + image.tobytes())
    except Exception as error:  # a lazily opened file may prove to be cut short only now, in as many ways as formats
        raise DataError(
            f"document {document!r}: its image of mode {image.mode} cannot be read ({error}); mend it or leave it out"
        ) from error


def _config(folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"encoder {str(folder)!r}: config.json cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"encoder {str(folder)!r}: config.json is not an object; restore it")
    return config
