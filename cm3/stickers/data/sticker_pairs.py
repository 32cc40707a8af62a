"""Pairs for a small CLIP: documents of one thing, asked for as a prompt would, and sheets that are said twice.

A batch holds what a retriever confuses, for one drawn at random has hardly any of it: names that look alike, both
sizes of a thing, a thing on two grounds, of which a model copies best from the one that it is to draw, and a known
kind on the very ground that an unknown thing is asked for on. The picture of a known kind says much that words say too,
that of an unknown thing says its ground and size alone, and would be outdone.
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
from cm3.stickers.world import GROUNDS, SIZES, TRAINED, Sheet, any_sheet, random_kind, random_sheet

KNOWN = (0.3, 0.5, 0.2)
"""Shares of groups with no thing, one and two that are kinds of training under their own name."""


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
        # Eight in a row: two things in both sizes on two grounds, and each is asked for on its own.
        group = np.random.default_rng([seed, 0xC11C, step, i // 8])
        things, grounds = _things(group), [tuple(GROUNDS)[g] for g in group.permutation(len(GROUNDS))[:2]]
        thing, how_large, ground = things[i // 4 % 2], SIZES[i % 2], grounds[i // 2 % 2]
        kind = thing.kind or random_kind(rng)
        document = alone(kind, how_large, ground, {kind: thing})
        asked = _asked(rng, thing, kind, how_large, ground)
        return Pair(document.say(rng, style="alone"), document.draw(size), asked, tells=thing.kind is not None)

    return Drawn(pair, batch, list)


def _things(rng: np.random.Generator) -> list[Shown]:
    """Draw two things, in an order by chance; of like names where both are invented."""
    known = int(rng.choice(3, p=KNOWN))
    at, way = int(rng.integers(NAMES - 1)), int(rng.integers(2))
    kinds, drawings = rng.permutation(len(TRAINED))[:known], rng.permutation(OTHERS - KEPT)
    things = [Shown(TRAINED[k], TRAINED[k]) for k in kinds]
    things += [Shown(name, int(n)) for name, n in zip(_sorted(way)[at : at + 2 - known], drawings, strict=False)]
    return [things[i] for i in rng.permutation(2)]


@functools.cache
def _sorted(way: int) -> list[str]:
    """Return all names in the order of their letters, from the front or from the back."""
    return sorted((name_of(i) for i in range(NAMES)), key=lambda name: name[:: -1 if way else 1])


def _asked(rng: np.random.Generator, thing: Shown, kind: str, size: str, ground: str) -> str:
    """Return a prompt as a search has it for a thing of this size, on this ground: its mention alone."""
    others = [k for k in (random_kind(rng) for _ in range(int(rng.integers(4)))) if k != kind]
    while True:
        sheet = any_sheet(rng, [kind, *others])
        if sheet.stickers[[s.kind for s in sheet.stickers].index(kind)].size == size:
            break
    said = mentions(ShownSheet(Sheet(ground, sheet.stickers), {kind: thing}).say(rng))
    return next(part for part in said if f" {size} {thing.name}" in f" {part}")
