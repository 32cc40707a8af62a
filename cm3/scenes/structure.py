"""Structure-guided scenes: a picture of outlines, classes, strokes or depth, a caption, and the scene that both tell.

    edges      white outlines on black, 3 pixels wide at 128: what an edge detector leaves of the drawing
    scribble   the same by an unsteady hand: two wavering strokes around each object
    segments   one colour a shape (`PALETTE`) on black; the colour of the object is not told
    depth      near is light: a large object is near, a small one further, the ground furthest

Objects stand in quarters of their own and never overlap, so depth goes by size, which is all that a flat world has of
it. The structure tells shapes, sizes and places; the caption (`brief`) tells colours and the ground. A picture is right
when it is true to both, and in line with the structure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from cm3.errors import ConfigError, DataError, did_you_mean
from cm3.scenes.drawing import CENTRES, OVERSAMPLE, RADIUS, Middles, contour, draw, middles
from cm3.scenes.phrases import pick
from cm3.scenes.scene import BACKGROUNDS, COLOURS, SHAPES, Rgb, Scene, Split, random_scene
from cm3.scenes.sentences import brief, parse
from cm3.scenes.verify import WORKING, Reading, Verdict, read, verify

STRUCTURES = ("edges", "scribble", "segments", "depth")
PALETTE: dict[str, Rgb] = {
    "circle": COLOURS["red"],
    "square": COLOURS["green"],
    "triangle": COLOURS["blue"],
    "star": COLOURS["yellow"],
}
"""Colour of each class of a segmentation map; what belongs to no object is `NOTHING`."""
NOTHING: Rgb = (25, 25, 30)
DEPTH = {"small": 140, "large": 250}
"""Grey level of an object in a depth map, by its size; the ground has that of `NOTHING`."""
IN_LINE = 0.75
"""Least mean intersection over union of what a picture shows and the structure that it follows."""

_LINE = 0.024
"""Width of a line, as a share of the side."""
_WAVER = 0.07
"""Largest distance of a stroke from the outline it follows, in half-widths of the object."""
_AXES = np.array([PALETTE[shape] for shape in SHAPES], dtype=np.float32) - np.array(NOTHING, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Guided:
    """A structure, a caption, and a picture that is right: `scene` drawn in line with the structure."""

    kind: str
    structure: PIL.Image.Image
    caption: str
    scene: Scene
    at: Middles
    picture: PIL.Image.Image


def random_guided(
    rng: np.random.Generator,
    split: Split = "train",
    kind: str | None = None,
    size: int = 128,
    objects: int | None = None,
) -> Guided:
    """Return a structure of a kind (else any, uniformly) with its caption and picture, of `size` pixels; of so many
    objects, else of any number."""
    kind = kind or pick(rng, STRUCTURES)
    scene, at = random_scene(rng, split, objects), middles(rng)
    structure = draw_structure(kind, scene, size, at=at, rng=rng)
    return Guided(kind, structure, brief(scene, rng), scene, at, draw(scene, size, at=at))


def draw_structure(
    kind: str,
    scene: Scene,
    size: int = 128,
    *,
    at: Middles = CENTRES,
    rng: np.random.Generator | None = None,
) -> PIL.Image.Image:
    """Return the structure of a scene, as an RGB picture of `size` x `size` pixels in line with `draw(scene, size,
    at=at)`.

    `rng` leads the hand of a scribble (0 where it is not given). Raises `ConfigError` for an unknown kind.
    """
    if kind not in STRUCTURES:
        raise ConfigError(
            f"structure={kind!r}: must be one of {', '.join(STRUCTURES)}.{did_you_mean(kind, STRUCTURES)}"
        )
    spots = [(o.shape, *at[o.place], RADIUS[o.size]) for o in scene.objects]
    if kind == "segments":
        return _filled(spots, [PALETTE[o.shape] for o in scene.objects], NOTHING, size)
    if kind == "depth":
        return _filled(spots, [(DEPTH[o.size],) * 3 for o in scene.objects], NOTHING, size)
    big = size * OVERSAMPLE
    picture = PIL.Image.new("RGB", (big, big), NOTHING)
    pen = PIL.ImageDraw.Draw(picture)
    hand = rng or np.random.default_rng(0)
    for spot in spots:
        points = np.array(contour(*spot)) * big
        strokes = [points] if kind == "edges" else [_stroke(points, spot[-1] * big, hand) for _ in range(2)]
        for stroke in strokes:
            # One point more than closed, so that the first corner is joined like all others.
            line = [(float(x), float(y)) for x, y in (*stroke, *stroke[:2])]
            pen.line(line, fill=COLOURS["white"], width=round(_LINE * big), joint="curve")
    return picture.reduce(OVERSAMPLE)


def read_structure(kind: str, picture: PIL.Image.Image) -> Reading:
    """Read shapes, sizes and places from a structure; the colours and the ground of the reading mean nothing.

    An area that lines enclose counts as an object, and so does what is lighter than half of the least depth. The
    measured sizes decide in a depth map too, not its levels.
    """
    if kind == "segments":
        inside = classes(picture) > 0
    else:
        grey = picture.convert("L").resize((WORKING, WORKING), PIL.Image.Resampling.BICUBIC)
        inside = np.asarray(grey) > (NOTHING[0] + DEPTH["small"]) / 2
        if kind in ("edges", "scribble"):
            inside = _enclosed(inside)
    drawing = PIL.Image.new("RGB", (WORKING, WORKING), BACKGROUNDS["grey"])
    drawing.paste(COLOURS["red"], mask=PIL.Image.fromarray(inside))
    return read(drawing)


def verify_guided(picture: PIL.Image.Image, guided: Guided) -> Verdict:
    """Tell whether a picture is true to a caption and to a structure, and in line with it."""
    verdict = verify(picture, parse(guided.caption))
    if not verdict.ok:
        return Verdict(False, f"not true to the caption: {verdict.reason}", verdict.reading)
    assert verdict.reading.scene is not None
    form = [(o.place, o.shape, o.size) for o in guided.scene.objects]
    shown = [(o.place, o.shape, o.size) for o in verdict.reading.scene.objects]
    if shown != form:
        reason = f"not true to the structure: shows {'; '.join(' '.join(o) for o in shown)}"
        return Verdict(False, reason, verdict.reading)
    overlap = iou(segments_of(verdict.reading), guided.scene, at=guided.at)
    if overlap < IN_LINE:
        return Verdict(False, f"not in line with the structure: overlap {overlap:.2f}", verdict.reading)
    return verdict


def segments_of(reading: Reading) -> PIL.Image.Image:
    """Return the segmentation map of what a picture shows, from the measured middles and sizes, 128 x 128."""
    spots = [(s.shape, s.x, s.y, s.radius) for s in reading.seen]
    return _filled(spots, [PALETTE[s.shape] for s in reading.seen], NOTHING, WORKING)


def classes(picture: PIL.Image.Image) -> np.ndarray:
    """Return the class of each pixel of a segmentation map, int (128, 128): 0 is nothing, 1 + i is `SHAPES[i]`.

    A pixel is taken for a mixture of nothing and the class that explains it best, and belongs to it when the greater
    part is of it: a soft edge does not pass for a third class. Raises `DataError` for a map that is not square.
    """
    if picture.width != picture.height:
        raise DataError(f"segmentation map of {picture.width} x {picture.height}: must be square; crop it")
    small = picture.convert("RGB")
    if small.width != WORKING:
        small = small.resize((WORKING, WORKING), PIL.Image.Resampling.BICUBIC)
    pixels = np.asarray(small, dtype=np.float32)[:, :, None] - np.array(NOTHING, dtype=np.float32)
    share = np.clip((pixels * _AXES).sum(axis=-1) / np.square(_AXES).sum(axis=-1), 0, 1)  # (128, 128, shapes)
    best = np.square(pixels - share[..., None] * _AXES).sum(axis=-1).argmin(axis=-1)
    return np.where(np.take_along_axis(share, best[..., None], axis=-1)[..., 0] > 0.5, best + 1, 0)


def iou(predicted: PIL.Image.Image, scene: Scene, *, at: Middles = CENTRES) -> float:
    """Return the mean intersection over union of a segmentation map with a scene's, over the shapes that are in either,
    0..1."""
    a, b = classes(predicted), classes(draw_structure("segments", scene, WORKING, at=at))
    present = [k for k in range(1, len(SHAPES) + 1) if (a == k).any() or (b == k).any()]
    return float(np.mean([((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum() for k in present]))


def _filled(
    spots: Iterable[tuple[str, float, float, float]], fills: Iterable[Rgb], ground: Rgb, size: int
) -> PIL.Image.Image:
    big = size * OVERSAMPLE
    picture = PIL.Image.new("RGB", (big, big), ground)
    pen = PIL.ImageDraw.Draw(picture)
    for spot, fill in zip(spots, fills, strict=True):
        pen.polygon([(x * big, y * big) for x, y in contour(*spot)], fill=fill)
    return picture.reduce(OVERSAMPLE)


def _stroke(points: np.ndarray, r: float, rng: np.random.Generator) -> np.ndarray:
    """Return a closed stroke along a polygon, up to `_WAVER` of `r` beside it, smoothly: float (96, 2)."""
    ends = np.vstack([points, points[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(ends, axis=0), axis=1))])
    turn = np.linspace(0, 1, 96, endpoint=False)
    path = np.stack([np.interp(turn * along[-1], along, ends[:, i]) for i in range(2)], axis=1)
    # A few slow waves, of which the strength falls with the pace: a hand drifts, it does not shake.
    pace = np.arange(1, 5)
    strength = rng.uniform(-1, 1, (2, 2, len(pace))) / pace
    waves = np.einsum(
        "akp,kpt->ta", strength, [np.sin(2 * np.pi * np.outer(pace, turn)), np.cos(2 * np.pi * np.outer(pace, turn))]
    )
    return path + waves * (_WAVER * r / max(float(np.abs(waves).max()), 1.0))


def _enclosed(lines: np.ndarray) -> np.ndarray:
    """Return the lines (bool) and all that they enclose: what cannot be reached from the rim."""
    closed = PIL.Image.fromarray(lines).convert("L").filter(PIL.ImageFilter.MaxFilter(3))
    # A rim of its own makes one flood reach every side.
    room = PIL.Image.new("L", (closed.width + 2, closed.height + 2))
    room.paste(closed, (1, 1))
    PIL.ImageDraw.floodfill(room, (0, 0), 128)
    inside = room.point(lambda v: 255 * (v != 128)).filter(PIL.ImageFilter.MinFilter(5))
    return np.asarray(inside)[1:-1, 1:-1] > 0
