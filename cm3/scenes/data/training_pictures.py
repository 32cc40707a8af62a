"""Pictures for an image tokenizer: scenes, and all else that the instruction tasks on them show, drawn on the fly.

Each function gives `Drawn`, whose batches are pure functions of the step, so that a run that was killed sees again
what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from cm3.errors import ConfigError, did_you_mean
from cm3.scenes.drawing import draw
from cm3.scenes.letters import draw_lettered, random_lettered
from cm3.scenes.scene import COLOURS, HELD_OUT_PAIRS, SHAPES, SIZES, Split, random_scene
from cm3.scenes.structure import STRUCTURES, random_guided

TASK_PICTURES = (*STRUCTURES, "letters")
"""The kinds of pictures beside plain scenes."""
OBJECTS = (0.1, 0.2, 0.3, 0.4)
"""Shares of scenes with 1, 2, 3 and 4 objects: more than half of a picture with one is ground."""


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


def test_pictures(size: int, seed: int, number: int = 256) -> list[PIL.Image.Image]:
    """Return scenes of the test split."""
    rng = np.random.default_rng([seed, 0xE7A1])
    return [draw(random_scene(rng, "test"), size, rng) for _ in range(number)]


def scene_pictures(
    seed: int, size: int, batch: int, objects: Sequence[float] = OBJECTS, focus: Sequence[str] = ()
) -> Drawn:
    """Return scenes of the training split, with shares `objects` of 1, 2, 3 and 4 objects.

    Every other one holds an object that is all the words of `focus` (a size, a colour, a shape). Raises `ConfigError`
    where no such object can be, or for wrong shares.
    """
    shares = np.asarray(objects, dtype=np.float64)
    if shares.shape != (4,) or shares.min() < 0 or shares.sum() <= 0:
        raise ConfigError(f"data.objects={tuple(objects)}: must be four shares, none negative")
    known = (*SIZES, *COLOURS, *SHAPES)
    for word in focus:
        if word not in known:
            raise ConfigError(f"data.focus={word!r}: must be a size, colour or shape.{did_you_mean(word, known)}")
    kinds = [sum(w in kind for w in set(focus)) for kind in (SIZES, COLOURS, SHAPES)]
    if max(kinds) > 1 or any({shape, colour} <= set(focus) for shape, colour in HELD_OUT_PAIRS):
        raise ConfigError(f"data.focus={tuple(focus)}: no training picture has such an object; give one word of a kind")

    def picture(step: int, i: int) -> PIL.Image.Image:
        rng = np.random.default_rng([seed, 0x70C, step * batch + i])
        focused = bool(focus) and i % 2 == 0
        while True:
            scene = random_scene(rng, "train", int(rng.choice(4, p=shares / shares.sum())) + 1)
            words = [{o.size, o.colour, o.shape} for o in scene.objects]
            if not focused or any(set(focus) <= w for w in words):
                return draw(scene, size, rng)

    return Drawn(picture, batch, lambda: test_pictures(size, seed))


def task_pictures(seed: int, size: int, batch: int, plain: int, shares: Mapping[str, float]) -> Drawn:
    """Return first `plain` scenes of the training split, then pictures of the kinds of `shares`, as often as it says.

    Raises `ConfigError` for an unknown kind or wrong shares.
    """
    if unknown := sorted(set(shares) - set(TASK_PICTURES)):
        raise ConfigError(
            f"data.shares: {unknown[0]!r} is no kind of picture.{did_you_mean(unknown[0], TASK_PICTURES)}"
        )
    law = np.array([shares.get(kind, 0.0) for kind in TASK_PICTURES])
    if law.min() < 0 or law.sum() <= 0:
        raise ConfigError(
            f"data.shares={dict(shares)}: must be shares of {', '.join(TASK_PICTURES)}, none negative and one above 0"
        )

    def picture(step: int, i: int) -> PIL.Image.Image:
        rng = np.random.default_rng([seed, 0x7A5C, step * batch + i])
        kind = "scene" if i < plain else TASK_PICTURES[int(rng.choice(len(law), p=law / law.sum()))]
        return task_picture(kind, size, rng)

    return Drawn(picture, batch, lambda: test_pictures(size, seed))


def task_picture(kind: str, size: int, rng: np.random.Generator, split: Split = "train") -> PIL.Image.Image:
    """Return a picture of a kind, or a plain scene for "scene", of `size` pixels. Raises `ConfigError` for another
    kind."""
    if kind == "scene":
        return draw(random_scene(rng, split, int(rng.choice(4, p=OBJECTS)) + 1), size, rng)
    if kind == "letters":
        this = random_lettered(rng, split)
        return draw_lettered(this.scene, this.sign, size, rng)
    if kind not in STRUCTURES:
        known = ("scene", *TASK_PICTURES)
        raise ConfigError(f"picture kind={kind!r}: must be one of {', '.join(known)}.{did_you_mean(kind, known)}")
    return random_guided(rng, split, kind, size).structure
