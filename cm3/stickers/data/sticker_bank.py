"""The memory bank that ships: documents of kinds that no training saw, and of some that it did.

A document is a sheet with one sticker in the middle: "a large panda on a mint ground". A kind is there in both sizes,
one that no training saw on every ground, since the codes of a rim are those of its ground, and one that training saw
on two of them, so that the grounds come equally often.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cm3.document import Document
from cm3.errors import ConfigError
from cm3.retrieval.embed import Encoder
from cm3.retrieval.memory import Memory
from cm3.stickers.artwork import KINDS
from cm3.stickers.data.bank_source import alone
from cm3.stickers.drawing import WIDTH
from cm3.stickers.world import GROUNDS, HELD_OUT, SIZES, TRAINED

SEED = 0xBA4C
"""Of the captions in the bank."""
SOURCE, LICENSE = "Fluent Emoji Flat (Microsoft)", "MIT"
"""Whose drawings the documents show, and under which licence."""


def build_sticker_bank(
    folder: str | Path,
    encoder: Encoder,
    *,
    trained: int = 30,
    size: int = WIDTH,
) -> Memory:
    """Build the bank of `sticker_bank_documents`. Raises what they and `Memory.build` raise."""
    return Memory.build(folder, sticker_bank_documents(trained, size), encoder)


def sticker_bank_documents(trained: int, size: int = WIDTH) -> Iterator[Document]:
    """Yield the documents of the held-out kinds, then of `trained` kinds of training, spread over them all.

    An id is "panda/large/mint". Pictures are `size` pixels wide. Raises `ConfigError` for a number of kinds out of
    range.
    """
    if not 0 <= trained <= len(TRAINED):
        raise ConfigError(f"bank.trained={trained}: must be 0 to {len(TRAINED)}, as many as kinds are trained on")
    kinds = (*HELD_OUT, *(TRAINED[i * len(TRAINED) // trained] for i in range(trained)))
    grounds = tuple(GROUNDS)
    for i, kind in enumerate(kinds):
        for j, how_large in enumerate(SIZES):
            for k in range(len(GROUNDS) if kind in HELD_OUT else 2):
                ground = grounds[(i + 2 * j + 3 * k + k // 2) % len(grounds)]
                rng = np.random.default_rng([SEED, tuple(KINDS).index(kind), j, k])
                sheet, id = alone(kind, how_large, ground), f"{kind}/{how_large}/{ground}"
                text, picture = sheet.say(rng, style="alone"), sheet.draw(size)
                yield Document.of(text, picture, id=id, source=SOURCE, license=LICENSE)
