"""Picture -> Sheet, by measuring pixels: it knows nothing of the tokens or of the model that made the picture.

`read` brings the picture to 256 pixels and takes the ground from the border. Where nothing stands out of the middle
block there is one sticker in the middle, else each quarter has its own or none. What stands in a block is compared with
the renderings of all kinds in both sizes, first at a quarter of the side and the nearest few at full size; all stickers
share a white rim, so the drawing itself must match against white too. In the end the picture may nowhere differ from
the sheet that was read, by the mean over any 16 x 16 pixels: that finds a blot, a missing half, a foreign colour.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import PIL.Image

from cm3.errors import DataError
from cm3.stickers.artwork import KINDS, sprite
from cm3.stickers.drawing import BLOCK, CORNER, DRAWN, RIM, WHITE, WIDTH, block
from cm3.stickers.sentences import Statement, holds
from cm3.stickers.structure import NOTHING, PALETTE, groups
from cm3.stickers.world import GROUNDS, QUARTERS, SIZES, Sheet, Sticker

SMALLEST = 128
"""Smallest side of a picture that is read, in its pixels; below it a small sticker is a blot."""
GROUND_ERROR = 28.0
"""Largest distance (Euclidean, RGB levels) of the border's median from a ground; two grounds are 62 apart at least."""
BORDER = 0.9
"""Least share of the border that is of one colour."""
APART = 40.0
"""A cell this far from the ground belongs to something."""
MATCH = 0.8
"""Least likeness (`_likeness`) of a sticker to its kind's rendering, rim and all, and of the drawing alone."""
FLAW = 48.0
"""Largest difference of the mean over 16 x 16 pixels from what the sheet that was read explains."""

SPECK = 256
"""Pixels of a segmentation map below which a group is taken for a soft edge: a code's. A sticker has 2,300."""

CELL = 4
"""Side of the squares whose means are searched first, in pixels,"""
FINE = 2
"""and of those whose means decide: what a blur of one pixel takes away is no part of a likeness."""
_WINDOW = 4
"""Side of the squares that `FLAW` is about, in cells."""
_LEAST = 40
"""Cells that stand out where a sticker stands: the smallest takes 148, a blot of 13 pixels' radius 33."""
_ELSEWHERE = 1 / 3
"""Largest share of what stands out that is outside of the middle, where one sticker is in the middle; of sheets with
quarters it is two thirds at least."""
_FEW = 3
"""Renderings that are compared at full size."""
_NEAR = 2.0
"""Those only whose squared error at first is below this many times the least."""
_WHITE = np.asarray(WHITE, np.float32)
_LOOKS = tuple((kind, size) for kind in KINDS for size in SIZES)


@dataclass(frozen=True)
class Seen:
    """The sticker in one block, named after the nearest rendering whether or not it is near enough.

    `match` is its likeness in 0..1 (`MATCH`). `problem` says why it is no sticker of the world, or is empty.
    """

    place: str
    kind: str
    size: str
    match: float
    problem: str = ""


@dataclass(frozen=True)
class Reading:
    """The reading of a picture: a sheet, or None and the problems; `ground` and `seen` are there even then."""

    sheet: Sheet | None
    problems: tuple[str, ...]
    ground: str
    seen: tuple[Seen, ...]


@dataclass(frozen=True)
class Verdict:
    """A verdict on a picture of a sheet: `exact` is all of it, the rest are shares in 0..1, refused or not.

    `places` is the share of the sheet's stickers in whose block anything stands, `kinds` and `sizes` the shares where
    it is also named right; `ground` and `count` are 0 or 1. `why` is empty where it is exact.
    """

    exact: bool
    why: str
    ground: float
    count: float
    kinds: float
    sizes: float
    places: float
    reading: Reading


def read(picture: PIL.Image.Image) -> Reading:
    """Read a square picture of any mode, at least 128 pixels wide, back into a sheet.

    A picture that shows no sheet gives a `Reading` without one, and the problems, each with its place. Raises
    `DataError` for a picture that is not square or too small to be measured.
    """
    image = _square(picture, "picture")
    pixels = np.asarray(image.reduce(FINE), np.float32)
    cells = np.asarray(image.reduce(CELL), np.float32)
    border = np.concatenate([side.reshape(-1, 3) for side in (cells[0], cells[-1], cells[:, 0], cells[:, -1])])
    colour = np.median(border, axis=0)
    ground = min(GROUNDS, key=lambda name: _far(colour, np.asarray(GROUNDS[name], np.float32)))
    problems = []
    error = float(_far(colour, np.asarray(GROUNDS[ground], np.float32)))
    if error > GROUND_ERROR:
        problems.append(f"ground: {_rgb(colour)} is {error:.0f} levels from the nearest, {ground}")

    shown = float((_far(border, colour) < GROUND_ERROR).mean())
    if shown < BORDER:
        problems.append(f"ground: only {shown:.0%} of the border is {_rgb(colour)}")

    standing = _far(cells, colour) > APART
    middle = _part(standing, "middle").sum()
    alone = middle >= _LEAST and standing.sum() - middle <= _ELSEWHERE * standing.sum()
    places = [p for p in (("middle",) if alone else QUARTERS) if _part(standing, p).sum() >= _LEAST]
    expected = np.empty_like(cells)
    expected[:] = colour
    unnamed = np.zeros(standing.shape, bool)
    seen = []
    if places:
        around = np.stack([_part(cells, place) for place in places]) - colour
        for place, near in zip(places, _nearest(around, ground), strict=True):
            look, match = _best(_part(pixels, place, FINE), colour, near)
            kind, size = _LOOKS[look]
            problem = ""
            if match < MATCH:
                problem = f"{place}: nothing known; the nearest, {size} {kind}, matches {match:.2f} of 1"
                problems.append(problem)
                _part(unnamed, place)[:] = True
            else:
                _part(expected, place)[:] += _looks().shown[look] - _looks().opaque[look] * colour
            seen.append(Seen(place, kind, size, match, problem))
    else:
        problems.append("the sheet is empty")
    problems += _flaws(cells, expected, unnamed, seen)
    stickers = tuple(Sticker(one.place, one.kind, one.size) for one in seen)
    return Reading(None if problems else Sheet(ground, stickers), tuple(problems), ground, tuple(seen))


def verify(picture: PIL.Image.Image, sheet: Sheet) -> Verdict:
    """Tell whether a picture shows exactly a sheet, and how much of it. Raises `DataError` as `read` does."""
    return compare(read(picture), sheet)


def compare(reading: Reading, sheet: Sheet) -> Verdict:
    """Compare a reading with the sheet that the picture should show."""
    wrong = list(reading.problems)
    found = {one.place: one for one in reading.seen}
    if reading.ground != sheet.ground:
        wrong.append(f"ground: {reading.ground}, not {sheet.ground}")
    for one in sheet.stickers:
        this = found.get(one.place)
        if this is None:
            wrong.append(f"{one.place}: nothing, not {one.size} {one.kind}")
        elif not this.problem and (this.kind, this.size) != (one.kind, one.size):
            wrong.append(f"{one.place}: {this.size} {this.kind}, not {one.size} {one.kind}")
    wrong += [f"{p}: {s.size} {s.kind}, not empty" for p, s in found.items() if not s.problem and sheet.at(p) is None]
    pairs = [(one, found.get(one.place)) for one in sheet.stickers]
    return Verdict(
        exact=reading.sheet == sheet,
        why="; ".join(wrong),
        ground=float(reading.ground == sheet.ground),
        count=float(len(found) == len(sheet.stickers)),
        kinds=sum(this is not None and this.kind == one.kind for one, this in pairs) / len(pairs),
        sizes=sum(this is not None and this.size == one.size for one, this in pairs) / len(pairs),
        places=sum(this is not None for _, this in pairs) / len(pairs),
        reading=reading,
    )


def why_not(statement: Statement, reading: Reading) -> str:
    """Return why a statement is not exactly and completely true of what a picture shows, or "" where it is."""
    if reading.sheet is None:
        return "; ".join(reading.problems)
    return holds(statement, reading.sheet).why


def read_map(picture: PIL.Image.Image) -> dict[str, np.ndarray]:
    """Return the pixels of each group in a segmentation map, bool (256, 256); a group that is nowhere is left out.

    A pixel is taken for a mixture of nothing and the group that explains it best, and belongs to it when the greater
    part is of it: a soft edge does not pass for a third group, nor do fewer than `SPECK` pixels.
    Raises `DataError` as `read` does.
    """
    nothing = np.asarray(NOTHING, np.float32)
    pixels = np.asarray(_square(picture, "segmentation map"), np.float32).reshape(-1, 3) - nothing
    axes = np.asarray(list(PALETTE.values()), np.float32) - nothing
    length = np.square(axes).sum(-1)
    share = np.clip(pixels @ axes.T / length, 0, 1)
    # |p - s a|^2 without |p|^2, which is the same for all groups
    best = (share * share * length - 2 * share * (pixels @ axes.T)).argmin(-1)
    inside = np.take_along_axis(share, best[:, None], -1)[:, 0] > 0.5
    masks = {name: (inside & (best == i)).reshape(WIDTH, WIDTH) for i, name in enumerate(PALETTE)}
    return {name: mask for name, mask in masks.items() if mask.sum() >= SPECK}


def iou(sheet: Sheet, picture: PIL.Image.Image) -> float:
    """Return the mean intersection over union of a segmentation map with a sheet's, over the groups in either."""
    a, b = groups(sheet), read_map(picture)
    nothing = np.zeros((WIDTH, WIDTH), bool)
    pairs = [(a.get(name, nothing), b.get(name, nothing)) for name in PALETTE if name in a or name in b]
    return float(np.mean([(x & y).sum() / (x | y).sum() for x, y in pairs]))


def _square(picture: PIL.Image.Image, said: str) -> PIL.Image.Image:
    width, height = picture.size
    if width != height or width < SMALLEST:
        raise DataError(f"{said} of {width} x {height}: must be a square of at least {SMALLEST} pixels; crop it")
    image = picture.convert("RGB")
    return image if width == WIDTH else image.resize((WIDTH, WIDTH), PIL.Image.Resampling.BICUBIC)


def _part(array: np.ndarray, place: str, cell: int = CELL) -> np.ndarray:
    """Return a place's block of an array of cells, as a view."""
    left, top = (v // cell for v in CORNER[place])
    return array[top : top + BLOCK // cell, left : left + BLOCK // cell]


def _far(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return Euclidean distance over the last axis, in RGB levels."""
    gap = pixels - colour
    return np.sqrt(np.einsum("...c,...c", gap, gap))


def _rgb(colour: np.ndarray) -> str:
    return "({:.0f}, {:.0f}, {:.0f})".format(*colour)


def _nearest(around: np.ndarray, ground: str) -> list[list[int]]:
    """Return for each block of cells, less the ground, the looks to compare at full size."""
    table, lengths = _table(ground)
    errors = lengths - 2 * around.reshape(len(around), -1) @ table.T  # less the blocks' own squares
    found = []
    for row, own in zip(errors, np.square(around).sum((1, 2, 3)), strict=True):
        first = np.argpartition(row, _FEW)[:_FEW]
        least = max(float(row[first].min() + own), 1.0)  # a true picture's is 0, but for rounding
        found.append([int(i) for i in first if row[i] + own <= _NEAR * least])
    return found


def _best(pixels: np.ndarray, colour: np.ndarray, near: list[int]) -> tuple[int, float]:
    """Return which of some looks a block is like most at full size, and how much."""
    apart = pixels - colour
    own = float(np.vdot(apart, apart))
    best, likeness = near[0], -1.0
    for look in near:
        shown, opaque, drawing = _looks().fine[look]
        side = len(shown)
        start = (BLOCK // FINE - side) // 2
        inside = slice(start, start + side)
        rendered = shown - opaque * (colour / 255)
        whole = _likeness(
            float(np.vdot(np.ascontiguousarray(apart[inside, inside]), rendered)),
            own,
            float(np.vdot(rendered, rendered)),
        )
        a = pixels[inside, inside].reshape(-1, 3)[drawing] - _WHITE
        b = rendered.reshape(-1, 3)[drawing] + (colour - _WHITE)
        alone = _likeness(float(np.vdot(a, b)), float(np.vdot(a, a)), float(np.vdot(b, b)))
        if min(whole, alone) > likeness:
            best, likeness = look, min(whole, alone)
    return best, likeness


def _likeness(product: float, a: float, b: float) -> float:
    """Return the correlation times the ratio of the lengths: 1 only for equals, so that an error of scale counts."""
    return product / max(a, b, 1.0)


def _flaws(cells: np.ndarray, expected: np.ndarray, unnamed: np.ndarray, seen: list[Seen]) -> list[str]:
    """Return where the cells differ from what is expected, the worst of each block, but for blocks without a name."""
    gap = cells - expected
    gap[unnamed] = 0
    across = len(gap) - _WINDOW + 1
    gap = np.sum([gap[i : i + across] for i in range(_WINDOW)], 0)
    gap = np.sum([gap[:, i : i + across] for i in range(_WINDOW)], 0)
    gap = _far(gap, np.zeros(3, np.float32)) / _WINDOW**2
    found = []
    for place in sorted({*QUARTERS, *(one.place for one in seen)}, key=lambda p: p != "middle"):
        part = _part(gap, place)
        worst = np.unravel_index(int(part.argmax()), part.shape)
        if part[worst] > FLAW:
            named = next((f"the {one.size} {one.kind}" for one in seen if one.place == place), "the ground")
            left, top = CORNER[place]
            x, y = (corner + CELL * (int(i) + _WINDOW // 2) for corner, i in zip((left, top), worst[::-1], strict=True))
            found.append(f"{place}: {part[worst]:.0f} levels off {named} around ({x}, {y})")
            part[:] = 0  # the middle lies in all four quarters
    return found


@dataclass(frozen=True)
class _Looks:
    """The renderings of all looks.

    Of each, in `fine`, as much of its block as it takes, by means over `FINE` x `FINE` pixels: colours times opacity
    and opacity, both uint8, and the numbers of those pixels where the drawing itself lies. Of all, in cells: colours
    times opacity (looks, 32, 32, 3) and opacity (looks, 32, 32, 1).
    """

    fine: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    shown: np.ndarray
    opaque: np.ndarray


@functools.cache
def _looks() -> _Looks:
    fine, cells = [], []
    for kind, size in _LOOKS:
        drawing = sprite(kind)
        pixels = np.dstack(block(drawing, size))
        cells.append(_means(pixels, CELL))
        side = DRAWN[size] // FINE
        alone = PIL.Image.fromarray(drawing[..., 3]).resize((side, side), PIL.Image.Resampling.BOX)
        edge, rim = (BLOCK // FINE - side) // 2, RIM // FINE
        inside = slice(edge - rim, edge + side + rim)
        part = np.rint(_means(pixels, FINE)[inside, inside] * (1, 1, 1, 255)).astype(np.uint8)
        there = np.flatnonzero(np.pad(np.asarray(alone), rim) > 127).astype(np.int32)
        fine.append((part[..., :3], part[..., 3:], there))
    return _Looks(fine, np.stack([c[..., :3] for c in cells]), np.stack([c[..., 3:] for c in cells]))


def _means(pixels: np.ndarray, side: int) -> np.ndarray:
    across = len(pixels) // side
    return pixels.reshape(across, side, across, side, -1).mean((1, 3))


@functools.cache
def _table(ground: str) -> tuple[np.ndarray, np.ndarray]:
    """Return all looks on a ground, less the ground, (looks, 3072), and their squared lengths."""
    looks = _looks()
    table = (looks.shown - looks.opaque * np.asarray(GROUNDS[ground], np.float32)).reshape(len(_LOOKS), -1)
    return table, np.square(table).sum(-1)
