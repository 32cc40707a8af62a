"""The memory bank of named emblems: for each its one document, among others and among scenes that name nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cm3.document import Document
from cm3.retrieval.embed import Encoder
from cm3.retrieval.memory import Memory
from cm3.retrieval.nearest import Progress
from cm3.scenes.data.emblem_source import bank_documents
from cm3.scenes.emblems import emblem_document

SEED = 0xBA4C
"""Of the phrases, drawings and scenes in the bank. Prompts are said, and training documents drawn, with others."""


def build_emblem_bank(
    folder: str | Path,
    encoder: Encoder,
    *,
    test: int = 600,
    train: int = 200,
    scenes: int = 200,
    size: int = 128,
    seed: int = SEED,
    progress: Progress | None = None,
) -> Memory:
    """Build the bank of the first `test` and `train` emblems of these splits, and of `scenes` described scenes.

    The defaults are those of the bank that ships. Pictures are `size` pixels wide; every document carries its source
    and licence. Raises what `Memory.build` raises.
    """
    documents = emblem_bank_documents(test, train, scenes, size, seed)
    return Memory.build(folder, documents, encoder, progress=progress)


def emblem_bank_documents(test: int, train: int, scenes: int, size: int, seed: int = SEED) -> Iterator[Document]:
    """Yield the documents of `build_emblem_bank`, in order: those that training has never seen first."""
    for i in range(test):
        yield emblem_document(i, "test", size, seed)
    yield from bank_documents(train, scenes, size, seed)
