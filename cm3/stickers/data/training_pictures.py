"""Pictures for an image tokenizer: sheets full of stickers, other drawings among them, and maps of sheets.

Batches are pure functions of the step, so that a run that was killed sees again what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import PIL.Image

from cm3.errors import ConfigError
from cm3.stickers.artwork import OTHERS, other, sprite
from cm3.stickers.drawing import draw, paste
from cm3.stickers.structure import STRUCTURES, structure
from cm3.stickers.world import GROUNDS, QUARTERS, SIZES, pick, random_kind, random_sheet

MEASURED = 128
"""Sheets that an image tokenizer is measured on."""


class Drawn:
    """Batches (`cm3.data.kind.Batches`) of what is drawn by step and number: pictures, or pairs."""

    left_out: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}

    def __init__(self, draw: Callable[[int, int], Any], size: int, held_out: Callable[[], list[PIL.Image.Image]]):
        """Take `draw(step, number)`, which gives one of the `size` of a batch."""
        self._draw, self._size, self.held_out = draw, size, held_out

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> list[Any]:
        """Return a rank's share of a step's batch, in order."""
        each = self._size // ranks
        return [self._draw(step, i) for i in range(rank * each, (rank + 1) * each)]


def training_pictures(seed: int, size: int, batch: int, maps: float, others: float, grounds: float) -> Drawn:
    """Return full sheets of training's kinds, `size` x `size`: with four stickers, since a ground teaches nothing.

    `maps` is the share of maps of sheets, `others` that of drawings without a name among the stickers, `grounds` that
    of grounds in any colour at all. Raises `ConfigError` for a share outside 0..1.
    """
    for name, share in (("maps", maps), ("others", others), ("grounds", grounds)):
        if not 0 <= share <= 1:
            raise ConfigError(f"data.{name}={share}: is a share, must be in 0..1")

    def picture(step: int, i: int) -> PIL.Image.Image:
        rng = np.random.default_rng([seed, 0x571C, step * batch + i])
        if rng.random() < maps:
            return fit(structure(random_sheet(rng, "train", 4), pick(rng, STRUCTURES), rng), size)
        ground = GROUNDS[pick(rng, tuple(GROUNDS))]
        if rng.random() < grounds:
            ground = tuple(int(v) for v in rng.integers(0, 256, 3))  # type: ignore[assignment]
        shown = [
            (
                place,
                other(int(rng.integers(OTHERS))) if rng.random() < others else sprite(random_kind(rng)),
                pick(rng, SIZES),
            )
            for place in QUARTERS
        ]
        return paste(ground, shown, size)

    return Drawn(picture, batch, lambda: test_pictures(size, seed))


def test_pictures(size: int, seed: int) -> list[PIL.Image.Image]:
    """Return `MEASURED` sheets of the test split."""
    rng = np.random.default_rng([seed, 0xE7A1])
    return [draw(random_sheet(rng, "test"), size) for _ in range(MEASURED)]


def fit(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """Return a picture at `size` x `size`."""
    return image if image.width == size else image.resize((size, size), PIL.Image.Resampling.LANCZOS)
