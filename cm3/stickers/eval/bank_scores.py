"""A measure of how well a small CLIP finds the documents that the shipped bank has for a prompt."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cm3.document import Document
from cm3.retrieval.accuracy import among_hundred
from cm3.retrieval.embed import Encoder
from cm3.retrieval.live import Retriever
from cm3.stickers.data.sticker_bank import build_sticker_bank
from cm3.stickers.drawing import draw
from cm3.stickers.sentences import describe
from cm3.stickers.world import HELD_OUT, Sheet, any_sheet, random_kind, random_sheet


def measure_bank(
    encoder: Encoder, *, seed: int = 0, asked: int = 100, trained: int = 30, size: int = 64
) -> dict[str, float]:
    """Return shares of `asked` prompts each for which a bank of `trained` kinds and the held-out ones gives what it
    should: a document of the right kind in the right size.

    `one`: a held-out kind alone, and one document is searched for. `beside`: a held-out kind and one to three of
    training; its document is among two. `two`: two held-out kinds; both documents are found in two. `sheets_recall_1`,
    `sheets_recall_5`: a test sheet, described; its picture is first, or among the first five, of at most 100.
    """
    rng = np.random.default_rng([seed, 0xBA4D])
    found: dict[str, list[bool]] = {"one": [], "beside": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        memory = build_sticker_bank(Path(folder) / "bank", encoder, trained=trained, size=size)
        retriever = Retriever(memory, encoder)
        for _ in range(asked):
            first, second = (HELD_OUT[i] for i in rng.permutation(len(HELD_OUT))[:2])
            others = [random_kind(rng) for _ in range(int(rng.integers(1, 4)))]
            for name, kinds, wanted, k in (
                ("one", [first], [first], 1),
                ("beside", [first, *others], [first], 2),
                ("two", [first, second], [first, second], 2),
            ):
                sheet = any_sheet(rng, kinds)
                got = [r.document.id for r in retriever.search(Document.of(describe(sheet, rng)), k)]
                found[name].append(_all_there(sheet, wanted, got))
    sheets = [random_sheet(rng, "test") for _ in range(asked)]
    pictures = encoder.images([draw(sheet, size) for sheet in sheets])
    scores = among_hundred("sheets", encoder.texts([describe(sheet, rng) for sheet in sheets]), pictures)
    return {name: float(np.mean(right)) for name, right in found.items()} | scores


def _all_there(sheet: Sheet, kinds: Sequence[str], ids: Sequence[str]) -> bool:
    """Tell whether each sticker of these kinds has a document of its kind and size among those of the ids."""
    return all(any(id.startswith(f"{s.kind}/{s.size}/") for id in ids) for s in sheet.stickers if s.kind in kinds)
