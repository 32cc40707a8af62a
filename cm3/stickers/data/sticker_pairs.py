"""Pairs for a small CLIP: documents of one thing, asked for as a prompt would, and sheets that are said twice.

Names that look alike stand in one batch, in both sizes: a retriever confuses just these, and a batch drawn at random
has hardly any.
"""

from __future__ import annotations

import functools

import numpy as np

from cm3.errors import ConfigError
from cm3.retrieval.live import mentions
from cm3.retrieval.pairs import Pair
from cm3.stickers.artwork import OTHERS
from cm3.stickers.data.bank_source import ShownSheet, alone
from cm3.stickers.data.training_pictures import Drawn
from cm3.stickers.drawing import draw
from cm3.stickers.sentences import describe
from cm3.stickers.shown import KEPT, NAMES, Shown, name_of
from cm3.stickers.world import GROUNDS, SIZES, TRAINED, any_sheet, pick, random_kind, random_sheet

KINDS_SHOWN = 0.2
"""Share of the documents that show a kind of training under its own name."""


def sticker_pairs(seed: int, size: int, batch: int, shown: float) -> Drawn:
    """Return batches of pairs with pictures of `size` pixels, a share `shown` of them documents of one thing.

    Raises `ConfigError` for a share outside 0..1.
    """
    if not 0 <= shown <= 1:
        raise ConfigError(f"data.shown={shown}: is a share, must be in 0..1")
    named = round(batch * shown)

    def pair(step: int, i: int) -> Pair:
        rng = np.random.default_rng([seed, 0xC11B, step, i])
        if i >= named:
            sheet = random_sheet(rng)
            return Pair(describe(sheet, rng), draw(sheet, size), describe(sheet, rng))
        # Four in a row: two things in both sizes.
        group = np.random.default_rng([seed, 0xC11C, step, i // 4])
        thing, how_large = _things(group)[i // 2 % 2], SIZES[i % 2]
        kind = thing.kind or random_kind(rng)
        ground = pick(rng, tuple(GROUNDS))
        document = alone(kind, how_large, ground, {kind: thing})
        asked = _asked(rng, thing, kind, how_large, ground)
        return Pair(document.say(rng, style="alone"), document.draw(size), asked, tells=thing.kind is not None)

    return Drawn(pair, batch, list)


def _things(rng: np.random.Generator) -> list[Shown]:
    """Draw two things of like names."""
    if rng.random() < KINDS_SHOWN:
        return [Shown(TRAINED[i], TRAINED[i]) for i in rng.permutation(len(TRAINED))[:2]]
    at, way = int(rng.integers(NAMES - 1)), int(rng.integers(2))
    drawings = rng.permutation(OTHERS - KEPT)
    return [Shown(name, int(n)) for name, n in zip(_sorted(way)[at : at + 2], drawings, strict=False)]


@functools.cache
def _sorted(way: int) -> list[str]:
    """Return all names in the order of their letters, from the front or from the back."""
    return sorted((name_of(i) for i in range(NAMES)), key=lambda name: name[:: -1 if way else 1])


def _asked(rng: np.random.Generator, thing: Shown, kind: str, size: str, ground: str) -> str:
    """Return what a search has of a prompt for a sheet with this thing in this size: its mention alone."""
    others = [k for k in (random_kind(rng) for _ in range(int(rng.integers(4)))) if k != kind]
    while True:
        sheet = any_sheet(rng, [kind, *others])
        if sheet.stickers[[s.kind for s in sheet.stickers].index(kind)].size == size:
            break
    if rng.random() < 0.5:
        sheet = type(sheet)(ground, sheet.stickers)
    said = mentions(ShownSheet(sheet, {kind: thing}).say(rng))
    return next(part for part in said if f" {size} {thing.name}" in f" {part}")
