"""Documents -> vectors. The vector of a document is the mean of its unit text and unit image vectors.

So the inner product of a query's unit vector with a document's is the mean of two cosines, in -1..1 (RA-CM3, Yasunaga
et al. 2023, section 3.1; CM3Leon section 2.1). The mean is not brought to length one again: a document whose picture
contradicts its caption scores lower against both. A document of one part has that part's unit vector.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import PIL.Image

from cm3.document import Document
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.files import read_json, said
from cm3.store.record import shows as digest


class Encoder(Protocol):
    """An encoder makes vectors of texts and pictures, in one space."""

    name: str
    """Its weights' identity: `clip:<hub id or content hash>`, `pairs:<content hash>`. Banks store it and insist."""
    width: int

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors float32 (n, width)."""

    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return unit vectors float32 (n, width) of pictures of any mode and size."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of n documents, float32 (n, width)."""

    vectors: np.ndarray
    """The documents': mean of text and image, or the one that there is."""
    texts: np.ndarray
    """Unit rows; zeros where a document has no text."""
    images: np.ndarray
    """Unit rows, the direction of the mean where a document has several images; zeros where it has none."""
    pictures: tuple[frozenset[bytes], ...] = ()
    """Of each document the digests of its images (`cm3.store.record.shows`); empty where nobody knows them."""


def load_encoder(name: str | Path, *, device: str = "cpu", fetch: bool = True) -> Encoder:
    """Return an encoder by the folder that a pairs run wrote, a folder in Hugging Face's CLIP layout, or a hub id of
    one.

    A hub id is `openai/clip-vit-base-patch32` or, where a folder of that name is in the way, `hf://owner/name`. Without
    `fetch`, for a name that the user did not give, only what is on this machine already is taken. Raises
    `CheckpointError` for what is neither or cannot be read, `ConfigError` for a missing library or an unknown device.
    """
    text = str(name)
    folder = folder_of(text)
    if os.path.isdir(folder) and not text.startswith("hf://"):
        config = read_json(folder / "config.json", f"encoder {text!r}")
        if config.get("format") == "cm3-pairs":
            from cm3.retrieval.pairs import PairEncoder

            return PairEncoder.load(folder, device=device)
        if config.get("model_type") != "clip":
            raise CheckpointError(
                f"encoder {text!r}: config.json describes neither pairs nor a CLIP; give a folder that "
                "`cm3 train scenes:clip` wrote, or one in Hugging Face's CLIP layout"
            )
    elif not text.startswith("hf://") and (text.count("/") != 1 or text.startswith((".", "/", "~"))):
        raise CheckpointError(f"encoder {text!r}: no such folder; give one, or a hub id such as owner/name")
    from cm3.retrieval.clip import ClipEncoder

    return ClipEncoder.load(text, device=device, fetch=fetch)


def folder_of(name: str) -> Path:
    """Return the folder that a name may stand for, `~` being the user's own; a name that stands for nobody's stays."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def embed(encoder: Encoder, documents: Sequence[Document], *, batch: int = 64) -> Vectors:
    """Return vectors of documents; equal texts and equal pictures are encoded once, `batch` at a time.

    Raises `DataError` for a document with neither text nor image, and for an image that cannot be read.
    """
    if batch < 1:
        raise ConfigError(f"batch={batch}: must be at least 1")
    texts: dict[str, str] = {}
    images: dict[bytes, PIL.Image.Image] = {}
    parts: list[tuple[str | None, list[bytes]]] = []
    for at, document in enumerate(documents):
        words = document.text if document.text.strip() else None
        keys = [_digest(image.pixels, document.id or str(at)) for image in document.images]
        if words is None and not keys:
            raise DataError(f"document {document.id or at!r}: has neither text nor image; leave it out")
        if words is not None:
            texts[words] = words
        images.update(zip(keys, (image.pixels for image in document.images), strict=True))
        parts.append((words, keys))
    by_words, by_key = _encode(texts, encoder.texts, batch), _encode(images, encoder.images, batch)
    by_text = np.zeros((len(parts), encoder.width), dtype=np.float32)
    by_image = np.zeros_like(by_text)
    for at, (words, keys) in enumerate(parts):
        if words is not None:
            by_text[at] = by_words[words]
        if keys:
            mean = np.mean([by_key[key] for key in keys], axis=0)
            by_image[at] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    number = np.array([(words is not None) + bool(keys) for words, keys in parts], dtype=np.float32)
    pictures = tuple(frozenset(keys) for _, keys in parts)
    return Vectors((by_text + by_image) / number.reshape(-1, 1), by_text, by_image, pictures)


K = TypeVar("K")
T = TypeVar("T")


def _encode(items: Mapping[K, T], encode: Callable[[Sequence[T]], np.ndarray], batch: int) -> dict[K, np.ndarray]:
    found: dict[K, np.ndarray] = {}
    keys = list(items)
    for start in range(0, len(keys), batch):
        chunk = keys[start : start + batch]
        found.update(zip(chunk, np.asarray(encode([items[key] for key in chunk]), np.float32), strict=True))
    return found


def _digest(image: PIL.Image.Image, document: str) -> bytes:
    try:
        return digest(image)
    except Exception as error:  # a lazily opened file may prove to be cut short only now, in as many ways as formats
        raise DataError(
            f"document {document!r}: its image of mode {image.mode} cannot be read ({said(error)}); mend it or leave "
            "it out"
        ) from error
