"""Scene -> picture, antialiased, at any resolution.

Shapes are drawn at four times the size and averaged down, so the same scene looks the same at every resolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import PIL.Image
import PIL.ImageDraw

from cm3.errors import ConfigError
from cm3.scenes.scene import BACKGROUNDS, COLOURS, PLACES, Scene

RADIUS = {"small": 0.11, "large": 0.19}
"""Half the width of an object, as a share of the picture's side."""
JITTER = 0.01
"""Largest shift of an object from the middle of its quarter, as a share of the picture's side."""
CENTRES = dict(zip(PLACES, ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)), strict=True))
"""Middle of each quarter (x, y), as shares of the picture's side."""
OVERSAMPLE = 4

Middles = Mapping[str, tuple[float, float]]
"""Where an object of each place has its middle (x, y), as shares of the picture's side."""


def outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Return the corners of a polygon shape (square, triangle, star) with half-width `r` around (x, y), in the unit of
    `r`."""
    if shape == "square":
        a = 0.88 * r
        return [(x - a, y - a), (x + a, y - a), (x + a, y + a), (x - a, y + a)]
    if shape == "triangle":
        return [(x, y - r), (x + r, y + 0.85 * r), (x - r, y + 0.85 * r)]
    if shape == "star":
        points = []
        for i in range(10):
            reach = r * 1.08 if i % 2 == 0 else r * 0.45
            angle = -math.pi / 2 + i * math.pi / 5
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        return points
    raise ConfigError(f"shape={shape!r}: has no outline")


def contour(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Return the corners of any shape as `outline` gives them; a circle is a polygon of 96."""
    if shape != "circle":
        return outline(shape, x, y, r)
    return [(x + r * math.cos(a), y + r * math.sin(a)) for a in (i * math.pi / 48 for i in range(96))]


def middles(rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Return the middle of every quarter shifted by up to `JITTER` in x and y: what several pictures of one layout
    share."""
    return {
        place: (x + rng.uniform(-JITTER, JITTER), y + rng.uniform(-JITTER, JITTER)) for place, (x, y) in CENTRES.items()
    }


def draw(
    scene: Scene, size: int = 128, rng: np.random.Generator | None = None, *, at: Middles = CENTRES
) -> PIL.Image.Image:
    """Draw a scene as an RGB picture of `size` x `size` pixels, each object in its middle of `at`.

    With `rng`, each object is shifted by up to `JITTER` in x and y; without, it stands just there.
    Raises `ConfigError` for a size under 16.
    """
    if size < 16:
        raise ConfigError(f"size={size}: must be at least 16 pixels")
    big = size * OVERSAMPLE
    picture = PIL.Image.new("RGB", (big, big), BACKGROUNDS[scene.background])
    pen = PIL.ImageDraw.Draw(picture)
    for thing in scene.objects:
        x, y = at[thing.place]
        if rng is not None:
            x, y = x + rng.uniform(-JITTER, JITTER), y + rng.uniform(-JITTER, JITTER)
        x, y, r = x * big, y * big, RADIUS[thing.size] * big
        if thing.shape == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[thing.colour])
        else:
            pen.polygon(outline(thing.shape, x, y, r), fill=COLOURS[thing.colour])
    return picture.reduce(OVERSAMPLE)
