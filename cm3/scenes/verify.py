"""Picture -> Scene, by measuring pixels: it knows nothing of the tokens or of the model that made the picture.

`read` brings the picture to one working size, takes the background from the border, and in each quarter measures the
colour, the area and the middle of what stands out. For each shape the area says how large it would be and the middle
where; the four candidates are rendered and compared with what is there. Each test has a tolerance that a soft picture
(a VQ decoder, JPEG, a slight blur) passes, and whatever the found objects do not explain refuses the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from cm3.errors import DataError
from cm3.scenes.drawing import RADIUS, outline
from cm3.scenes.phrases import in_words
from cm3.scenes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, Object, Scene
from cm3.scenes.sentences import Statement, holds

WORKING = 128
"""Side in pixels at which everything is measured; lengths and areas below are in its pixels."""
SMALLEST = 64
"""Smallest side of a picture that is read; below it a small star is a blot."""
APART = 45.0
"""A pixel this far (Euclidean, RGB levels) from the background belongs to something."""
COLOUR_ERROR = 55.0
"""Largest distance of a measured colour from the one it is named after."""
STRANGE = 70.0
"""A pixel in or at an object this far from what the object's colour explains is of something else."""
SIZE_ERROR = 0.16
"""Largest relative error of an object's half-width against its class."""
OVERLAP = 0.80
"""Least intersection over union of an object and the shape it is named after."""
MARGIN = 0.03
"""Least lead of the best shape's overlap over the second best's."""
STRAY = 20
"""Most pixels (of 128 x 128) that stand out and belong to no object."""
BORDER = 0.75
"""Least share of the border that shows the background."""

_SOFTNESS = (0.7, 1.8)
"""Gaussian radii at which candidates are rendered: the working blur alone, and that of a soft decoder on top."""
_SHARP = 0.93
"""Overlap above which no softer candidates are tried."""
_FRINGE = 2
"""Pixels around an object within which what stands out is put down to its soft edge."""
_ROOM = 6
"""Pixels left around an object where its candidates are rendered."""
_SUPERSAMPLE = 4
# Area of a shape over the square of its half-width, and how far its centroid lies below its centre, in half-widths.
_AREA = {"circle": math.pi, "square": 1.76**2, "triangle": 1.85, "star": 5 * 1.08 * 0.45 * math.sin(math.pi / 5)}
_SINK = {"circle": 0.0, "square": 0.0, "triangle": 0.7 / 3, "star": 0.0}
_COLOUR_NAMES = tuple(COLOURS)
_COLOUR_VALUES = np.array([COLOURS[name] for name in _COLOUR_NAMES], dtype=np.float32)


@dataclass(frozen=True)
class Seen:
    """The object in one quarter, named after its nearest kind whether or not it is near enough.

    `x`, `y`, `radius` are shares of the picture's side; `overlap` is the intersection over union with the named shape,
    `margin` its lead over the next one. `reason` says why it is no object, or is empty.
    """

    place: str
    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    overlap: float
    margin: float
    reason: str = ""


@dataclass(frozen=True)
class Reading:
    """The reading of a picture: a scene, or None and the reason; `background` and `seen` are there even then."""

    scene: Scene | None
    reason: str
    background: str
    seen: tuple[Seen, ...]


@dataclass(frozen=True)
class Verdict:
    """A verdict on a picture, the reason where it is wrong, and the reading."""

    ok: bool
    reason: str
    reading: Reading


def read(picture: PIL.Image.Image) -> Reading:
    """Read a square picture of any mode, at least 64 pixels wide, back into a scene.

    A picture that shows no scene gives a `Reading` without one, and the reason. Raises `DataError` for a picture that
    is not square or too small to be measured.
    """
    pixels = _pixels(picture)
    rim = np.concatenate([side.reshape(-1, 3) for side in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])])
    named = {name: _distance(rim, np.array(value)) for name, value in BACKGROUNDS.items()}
    background = max(named, key=lambda name: int((named[name] < APART).sum()))
    shown = rim[named[background] < APART]
    ground = np.median(shown if len(shown) else rim, axis=0)
    apart = _distance(pixels, ground)

    half = WORKING // 2
    seen, explained = [], np.zeros((WORKING, WORKING), dtype=bool)
    for place in PLACES:
        top, left = half * ("bottom" in place), half * ("right" in place)
        window = np.s_[top : top + half, left : left + half]
        if (apart[window] > APART).sum() > STRAY:
            thing, explained[window] = _look(place, pixels[window], apart[window], ground, (left, top))
            seen.append(thing)
    stray = int(((apart > APART) & ~explained).sum())

    reason = next((thing.reason for thing in seen if thing.reason), "")
    if len(shown) < BORDER * len(rim):
        reason = f"the border is not of one background ({len(shown) / len(rim):.0%} {background})"
    elif not seen:
        reason = "nothing stands on the background"
    elif not reason and stray > STRAY:
        reason = f"{stray} pixels belong to no object"
    scene = None if reason else Scene(background, tuple(Object(s.place, s.shape, s.colour, s.size) for s in seen))
    return Reading(scene, reason, background, tuple(seen))


def verify(picture: PIL.Image.Image, truth: Scene | Statement) -> Verdict:
    """Tell whether a picture shows exactly a scene, or a scene of which a statement is exactly and completely true."""
    reading = read(picture)
    if reading.scene is None:
        return Verdict(False, reading.reason, reading)
    if isinstance(truth, Scene):
        ok = reading.scene == truth
    else:
        ok = holds(truth, reading.scene)
    return Verdict(ok, "" if ok else f"the picture shows {in_words(reading.scene)}", reading)


def attributes(reading: Reading, scene: Scene) -> dict[str, float]:
    """Measure how much of a scene a reading has right, refused or not, as shares in 0..1.

    `place` is the share of the scene's objects in whose quarter anything stands, `shape`, `colour` and `size` the
    shares where it is also named right; `background` and `count` are 0 or 1.
    """
    seen = {thing.place: thing for thing in reading.seen}
    pairs = [(thing, seen.get(thing.place)) for thing in scene.objects]
    shares = {
        name: sum(found is not None and getattr(found, name) == getattr(thing, name) for thing, found in pairs)
        / len(pairs)
        for name in ("shape", "colour", "size", "place")
    }
    return {
        **shares,
        "background": float(reading.background == scene.background),
        "count": float(len(seen) == len(scene.objects)),
    }


def _pixels(picture: PIL.Image.Image) -> np.ndarray:
    """Return the picture at the working size, slightly smoothed, as float32 (128, 128, 3) in 0..255."""
    width, height = picture.size
    if width != height or width < SMALLEST:
        raise DataError(
            f"picture of {width} x {height}: a scene is read from a square of at least {SMALLEST} pixels; crop it"
        )
    small = picture.convert("RGB")
    if width != WORKING:
        small = small.resize((WORKING, WORKING), PIL.Image.Resampling.BICUBIC)
    return np.asarray(small.filter(PIL.ImageFilter.GaussianBlur(_SOFTNESS[0])), dtype=np.float32)


def _look(
    place: str, pixels: np.ndarray, apart: np.ndarray, ground: np.ndarray, corner: tuple[int, int]
) -> tuple[Seen, np.ndarray]:
    """Name what stands in a quarter; returns it and the pixels (half, half) that it and its soft edge explain."""
    # The strongest half of the pixels is free of the soft edge whatever the colour.
    standing = apart > APART
    core = pixels[standing & (apart >= np.median(apart[standing]))]
    colour_at = _distance(core[:, None], _COLOUR_VALUES).argmin(axis=1)
    votes = np.bincount(colour_at, minlength=len(_COLOUR_NAMES))
    best = int(votes.argmax())
    colour, value = _COLOUR_NAMES[best], np.median(core[colour_at == best], axis=0)
    error = float(np.linalg.norm(value - _COLOUR_VALUES[best]))

    # Only the part around it is measured further, which saves half of the time.
    rows, columns = np.flatnonzero(standing.any(axis=1)), np.flatnonzero(standing.any(axis=0))
    x0, x1 = max(int(columns[0]) - _ROOM, 0), min(int(columns[-1]) + 1 + _ROOM, len(standing))
    y0, y1 = max(int(rows[0]) - _ROOM, 0), min(int(rows[-1]) + 1 + _ROOM, len(standing))
    part = pixels[y0:y1, x0:x1]
    # How much of each pixel the object covers: exact on a soft edge, which is a mixture of the two colours.
    axis = value - ground
    cover = np.clip((part - ground) @ axis / max(float(axis @ axis), 1.0), 0, 1)
    cover[apart[y0:y1, x0:x1] <= APART / 3] = 0
    area = float(cover.sum())
    x = float(cover.sum(axis=0) @ (np.arange(x1 - x0) + 0.5)) / area
    y = float(cover.sum(axis=1) @ (np.arange(y1 - y0) + 0.5)) / area

    flat = {shape: _flat(shape, x, y, math.sqrt(area / _AREA[shape]), cover.shape) for shape in SHAPES}
    fits = {shape: _fit(cover, flat[shape], _SOFTNESS[0]) for shape in SHAPES}
    for shape in sorted(SHAPES, key=lambda s: -fits[s])[: 2 * (max(fits.values()) < _SHARP)]:
        fits[shape] = max(fits[shape], _fit(cover, flat[shape], _SOFTNESS[1]))
    shape, second = sorted(SHAPES, key=lambda s: -fits[s])[:2]
    overlap, margin = fits[shape], fits[shape] - fits[second]
    radius = math.sqrt(area / _AREA[shape]) / WORKING
    size = min(RADIUS, key=lambda s: abs(math.log(radius / RADIUS[s])))

    # Of something else: what is no mixture of object and ground, and what is not the object well inside it.
    other = _distance(part, ground + cover[..., None] * axis) > STRANGE
    other |= (_soften(flat[shape], _SOFTNESS[1]) > 0.95) & (_distance(part, value) > STRANGE)
    strange = int(other.sum())
    reason = ""
    if error > COLOUR_ERROR:
        reason = f"{place}: the colour is {error:.0f} levels from {colour}"
    elif overlap < OVERLAP or margin < MARGIN:
        reason = f"{place}: the outline is no clear {shape} (overlap {overlap:.2f}, {margin:.2f} over {second})"
    elif abs(radius / RADIUS[size] - 1) > SIZE_ERROR:
        reason = f"{place}: half-width {radius:.3f} of the side is neither small nor large"
    elif strange > STRAY:
        reason = f"{place}: {strange} pixels in or at the {shape} are not {colour}"
    middle = ((corner[0] + x0 + x) / WORKING, (corner[1] + y0 + y) / WORKING - _SINK[shape] * radius)
    explained = np.zeros_like(standing)
    edge = flat[shape].point(lambda v: 255 * (v > 64)).filter(PIL.ImageFilter.MaxFilter(2 * _FRINGE + 1))
    explained[y0:y1, x0:x1] = np.asarray(edge) > 0
    return Seen(place, shape, colour, size, *middle, radius, overlap, margin, reason), explained


def _distance(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return Euclidean distance over the last axis, in RGB levels."""
    gap = pixels - colours
    return np.sqrt(np.einsum("...c,...c", gap, gap))


def _flat(shape: str, x: float, y: float, r: float, rows_columns: tuple[int, ...]) -> PIL.Image.Image:
    """Return a shape of half-width `r` whose centroid is (x, y), in pixels: its cover as a grey picture of
    `rows_columns`."""
    x, y, r = x * _SUPERSAMPLE, (y - _SINK[shape] * r) * _SUPERSAMPLE, r * _SUPERSAMPLE
    image = PIL.Image.new("L", (rows_columns[1] * _SUPERSAMPLE, rows_columns[0] * _SUPERSAMPLE))
    pen = PIL.ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    else:
        pen.polygon(outline(shape, x, y, r), fill=255)
    return image.reduce(_SUPERSAMPLE)


def _soften(flat: PIL.Image.Image, softness: float) -> np.ndarray:
    return np.asarray(flat.filter(PIL.ImageFilter.GaussianBlur(softness)), dtype=np.float32) / 255


def _fit(cover: np.ndarray, flat: PIL.Image.Image, softness: float) -> float:
    """Return the intersection over union of two covers in 0..1: min(a, b) and max(a, b) take the place of "and" and
    "or"."""
    render = _soften(flat, softness)
    return float(np.minimum(cover, render).sum() / np.maximum(cover, render).sum())
