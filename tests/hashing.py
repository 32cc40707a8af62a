"""A tiny encoder that is the same everywhere: words and colours, hashed into a few directions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import PIL.Image

from cm3.document import Document


class Hashing:
    """Unit vectors: a text is the sum of its words', a picture that of the nearest of the colour words."""

    COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}

    def __init__(self, width: int = 16, name: str = "hashing:1") -> None:
        self.width, self.name = width, name
        self.seen = 0
        """How many texts and pictures it has encoded."""

    def word(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(self.width)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += len(texts)
        return unit(np.array([sum(self.word(w) for w in text.lower().split()) for text in texts]))

    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        self.seen += len(images)
        return unit(np.array([self.word(self._colour(image)) for image in images]))

    def _colour(self, image: PIL.Image.Image) -> str:
        mean = np.asarray(image.convert("RGB"), np.float64).mean((0, 1))
        return min(self.COLOURS, key=lambda name: float(np.abs(mean - self.COLOURS[name]).sum()))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def texts(number: int, start: int = 0, source: str = "texts") -> list[Document]:
    """Documents of two words each, all different."""
    return [Document.of(f"word{i} red", id=f"t{i}", source=source) for i in range(start, start + number)]
