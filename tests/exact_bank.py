"""The smallest bank and encoder for tests of what selects: exact search over hand-made or simple vectors."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import PIL.Image

from cm3.document import Document
from cm3.store.record import shows as digest


class ExactBank:
    """Documents and their vectors in memory; inner products, equal scores in order of id."""

    def __init__(self, documents: Sequence[Document], vectors: np.ndarray, encoder_name: str = "letters") -> None:
        self.documents = {d.id: d for d in documents}
        self.matrix = np.asarray(vectors, np.float32)
        self.encoder_name = encoder_name
        self.shown: np.ndarray | None = None
        """Unit vectors of the documents' pictures alone, zeros for none; None where they are unknown."""
        self.searched = 0  # queries so far

    def __len__(self) -> int:
        return len(self.documents)

    def __iter__(self) -> Iterator[str]:
        return iter(self.documents)

    def __contains__(self, id: object) -> bool:
        return id in self.documents

    def __getitem__(self, id: str) -> Document:
        return self.documents[id]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        return self.matrix[self._at(ids)]

    def images(self, ids: Sequence[str]) -> np.ndarray:
        return (
            np.zeros((len(ids), self.matrix.shape[1]), np.float32) if self.shown is None else self.shown[self._at(ids)]
        )

    def pictures(self, ids: Sequence[str]) -> list[frozenset[bytes]]:
        return [frozenset(digest(image.pixels) for image in self.documents[id].images) for id in ids]

    def whole(self, ids: Sequence[str]) -> list[bool]:
        return [bool(self.documents[id].text) and bool(self.documents[id].images) for id in ids]

    def _at(self, ids: Sequence[str]) -> list[int]:
        place = {id: i for i, id in enumerate(self.documents)}
        return [place[id] for id in ids]

    def search(self, vectors: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
        self.searched += len(vectors)
        ids, scores = list(self.documents), vectors @ self.matrix.T
        order = [sorted(range(len(ids)), key=lambda j, row=row: (-row[j], ids[j]))[:k] for row in scores]
        return [[ids[j] for j in row] for row in order], np.stack([s[o] for s, o in zip(scores, order, strict=True)])


class Letters:
    """An `Encoder` without weights: words and their letter triples in one half of the space, colours in the other."""

    name = "letters"
    width = 112
    common = frozenset("a an one here is of picture drawing at the on to and with".split())

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), self.width), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                padded, weight = f" {word} ", 0.1 if word in self.common else 1.0
                for piece in [word, *(padded[i : i + 3] for i in range(len(padded) - 2))]:
                    code = zlib.crc32(piece.encode())
                    row[code % 64] += weight if code & 64 else -weight
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        rows = np.zeros((len(images), self.width), np.float32)
        for row, image in zip(rows, images, strict=True):
            small = np.asarray(image.convert("RGB").resize((4, 4), PIL.Image.Resampling.BOX), np.float32)
            row[64:] = (small - small.mean(axis=(0, 1))).ravel()
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
