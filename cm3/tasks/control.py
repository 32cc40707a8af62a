"""Control images: what a picture is guided by, computed here or read from files beside the picture.

    canny, scribble      from the picture's own pixels                    OpenCV
    segmentation         from outlines (COCO's polygons and RLE)          pycocotools; one colour a category
    pose                 from joints (COCO's 17)                          drawn as OpenPose draws its 18
    hed, depth, normal   networks make these: NAME.hed.png, NAME.depth.png, NAME.normal.png beside NAME.jpg

A computed one is as the model sees its picture: upright, cropped, `size` x `size`, so that it lies on it pixel by pixel
and its colours are exact. One that is read has the size of its picture and goes the picture's own way.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from PIL.Image import Resampling

from cm3.document import Image
from cm3.errors import ConfigError, DataError
from cm3.files import is_number
from cm3.picture import orientation, rgb, upright, window
from cm3.tokens.image import Fit, preprocess

LEVELS, STEP, SPREAD = 6, 51, 83
"""The palette: six levels a channel, 51 apart; category c has colour number 83 c modulo 215, so neighbours differ."""
LONGEST = 1_000_000
"""Most pixels that the outlines of one thing are long, all together."""
CATEGORIES = LEVELS**3 - 1
"""Most categories of the palette, 1 to 215; COCO's go to 90, with its stuff to 200."""

# OpenPose's order of joints as COCO's; its second, the neck, is the middle of COCO's shoulders 5 and 6.
_JOINTS = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
# The hues of OpenPose: 18 steps of 20 degrees, full and bright.
_HUES = (
    "#ff0000 #ff5500 #ffaa00 #ffff00 #aaff00 #55ff00 #00ff00 #00ff55 #00ffaa #00ffff #00aaff #0055ff #0000ff #5500ff "
    "#aa00ff #ff00ff #ff00aa #ff0055"
).split()


def canny(picture: PIL.Image.Image, size: int, fit: Fit = "crop", low: int = 100, high: int = 200) -> PIL.Image.Image:
    """Draw white edges on black, RGB: Canny's, with ControlNet's thresholds. Raises `ConfigError` without OpenCV."""
    return _white(_library("cv2").Canny(_grey(picture, size, fit), low, high))


def scribble(picture: PIL.Image.Image, size: int, fit: Fit = "crop") -> PIL.Image.Image:
    """Draw a few rough white strokes on black, RGB. Ours, as ControlNet makes its own of HED edges, which need a
    network.

    The picture is blurred until only big forms are left (sigma 1/85 of the side), edges are followed, those shorter
    than a tenth of the side are left out, and the others are drawn as polygons of long straight strokes. Raises
    `ConfigError` without OpenCV.
    """
    cv2 = _library("cv2")
    blurred = cv2.GaussianBlur(_grey(picture, size, fit), (0, 0), size / 85)
    lines, _ = cv2.findContours(cv2.Canny(blurred, 30, 90), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    canvas = np.zeros((size, size), np.uint8)
    for line in lines:
        # The outline of a line one pixel wide goes there and back.
        if cv2.arcLength(line, closed=True) >= 2 * size / 10:
            rough = cv2.approxPolyDP(line, size / 100, closed=True)
            cv2.polylines(canvas, [rough], isClosed=True, color=255, thickness=max(1, round(size / 85)))
    return _white(canvas)


def colour(category: int) -> tuple[int, int, int]:
    """Return the colour of a category, 1 to `CATEGORIES`; 0 is the background, black. Raises `DataError` for any
    other."""
    if not 0 <= category <= CATEGORIES:
        raise DataError(f"category {category}: the palette has 0 to {CATEGORIES}")
    number = 0 if category == 0 else category * SPREAD % CATEGORIES + 1
    return number // LEVELS**2 * STEP, number // LEVELS % LEVELS * STEP, number % LEVELS * STEP


def categories(segmentation: PIL.Image.Image) -> np.ndarray:
    """Return the category of every pixel, int (h, w): that of the nearest colour, so small errors of colour do not
    matter."""
    levels = np.rint(np.asarray(rgb(segmentation), np.float64) / STEP).astype(np.int64)
    numbers = levels @ np.array([LEVELS**2, LEVELS, 1])
    named = np.zeros(CATEGORIES + 1, np.int64)
    named[[c * SPREAD % CATEGORIES + 1 for c in range(1, CATEGORIES + 1)]] = np.arange(1, CATEGORIES + 1)
    return named[numbers]


def segmentation(
    picture: PIL.Image.Image, instances: Sequence[Mapping[str, Any]], size: int, fit: Fit = "crop"
) -> PIL.Image.Image:
    """Return the outlines of `instances` (`segmentation` and `category_id` as COCO has them) filled in their colours,
    RGB.

    Crowds lie below, then the largest first, so small things stay in sight. Raises `DataError` for an outline that is
    none or of another size than the picture, and for a category outside the palette.
    """
    layers = [(mask_of(instance, picture.size), instance) for instance in instances]
    layers.sort(key=lambda layer: (not layer[1].get("iscrowd"), -int(layer[0].sum())))
    canvas = np.zeros((picture.height, picture.width), np.uint8)
    for mask, instance in layers:
        category = instance.get("category_id")
        if type(category) is not int or not 1 <= category <= CATEGORIES:
            raise DataError(f"category {category!r}: the palette has 1 to {CATEGORIES}")
        canvas[mask] = category
    seen = _turned(PIL.Image.fromarray(canvas), picture)
    ids = seen.resize((size, size), Resampling.NEAREST, box=window(seen.size, fit))
    palette = np.array([colour(c) for c in range(CATEGORIES + 1)], np.uint8)
    return PIL.Image.fromarray(palette[np.asarray(ids)])


def mask_of(instance: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of an outline, bool (h, w), for a picture of `size` (width, height): polygons or RLE, either
    kind.

    All of it is checked before the library is called, which trusts what it is given. Raises `DataError` for an outline
    that is none of these or does not fit the picture, `ConfigError` without pycocotools.
    """
    outline, (width, height) = instance.get("segmentation"), size
    where = f"segmentation of annotation {instance.get('id')!r:.40}"
    if isinstance(outline, dict):
        if outline.get("size") != [height, width]:
            raise DataError(f"{where}: is of size {outline.get('size')!r:.40}, its picture of {[height, width]}")
        runs = _runs(outline.get("counts"), width * height, where)
        ones = np.arange(len(runs)) % 2 == 1  # the first run is of background
        return np.repeat(ones, runs).reshape(width, height).T
    if not isinstance(outline, list) or not all(
        isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in outline
    ):
        raise DataError(f"{where}: must be polygons of at least three points, x and y in turn, or RLE")
    length = 0.0
    for polygon in outline:
        points = _near(polygon, size, where)
        length += float(np.abs(np.diff(points, axis=0, append=points[:1])).sum())
    if length > LONGEST:
        raise DataError(f"{where}: is {length:.0f} pixels long, must be at most {LONGEST}; mend it")
    if not outline:
        return np.zeros((height, width), bool)
    masks = _library("pycocotools.mask")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy's, about pycocotools' own arrays
        return np.asarray(masks.decode(masks.merge(masks.frPyObjects(outline, height, width))), bool)


def _near(numbers: Sequence[Any], size: tuple[int, int], where: str) -> np.ndarray:
    """Return points x, y in turn, as float (points, 2).

    Raises `DataError` for numbers that are none, and for points that are farther from their picture than it is long.
    """
    if not all(map(is_number, numbers)):
        raise DataError(f"{where}: must be finite numbers; mend it")
    points = np.array(numbers, np.float64).reshape(-1, 2)
    if (points < -max(size)).any() or (points > np.array(size) + max(size)).any():
        raise DataError(f"{where}: lies far outside of its picture of {size[0]} x {size[1]} pixels; mend it")
    return points


def _runs(counts: Any, pixels: int, where: str) -> np.ndarray:
    """Return the runs of RLE, int64, given as numbers or in COCO's letters.

    Raises `DataError` for any that are none or that do not add up to the `pixels` of their picture.
    """
    rule = f"{where}: 'counts' does not add up to the {pixels} pixels of its picture; mend it"
    if isinstance(counts, str | bytes):
        runs = _unpacked(counts.encode(errors="surrogatepass") if isinstance(counts, str) else counts, where)
    elif isinstance(counts, list) and all(type(run) is int and 0 <= run <= pixels for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise DataError(rule)
    if (runs < 0).any() or (runs > pixels).any() or runs.sum() != pixels:
        raise DataError(rule)
    return runs


def _unpacked(letters: bytes, where: str) -> np.ndarray:
    """Read COCO's letters as runs. A letter has six bits, less 48: five of a number, the low ones first, and whether
    the number goes on; its highest bit is its sign. From the fourth on a number is the difference to the last but
    one."""
    bits = np.frombuffer(letters, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(bits & 32 == 0)
    starts = np.concatenate([[0], last[:-1] + 1])
    if not len(bits) or (bits >> 6).any() or not len(last) or last[-1] != len(bits) - 1 or (last - starts).max() > 6:
        raise DataError(f"{where}: 'counts' is not COCO's packed RLE; mend it")
    place = np.arange(len(bits)) - np.repeat(starts, last - starts + 1)
    numbers = np.add.reduceat((bits & 31) << 5 * place, starts)
    numbers -= np.where(bits[last] & 16, 1 << 5 * (last - starts + 1), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def pose(
    picture: PIL.Image.Image, persons: Sequence[Mapping[str, Any]], size: int, fit: Fit = "crop"
) -> PIL.Image.Image:
    """Return the joints of `persons` (`keypoints` as COCO has them: 17 times x, y, and 0 where unknown), RGB on black.

    Limbs and joints have OpenPose's colours; a limb is drawn where both its ends are known. Raises `DataError` for
    keypoints of another layout.
    """
    canvas = PIL.Image.new("RGB", picture.size)
    draw = PIL.ImageDraw.Draw(canvas)
    wide = max(1, round(min(picture.size) / 64))
    for person in persons:
        joints = _joints(person, picture.size)
        for (a, b), hue in zip(_LIMBS, _HUES, strict=False):
            start, end = joints[a], joints[b]
            if start and end:
                dim = tuple(v * 3 // 5 for v in bytes.fromhex(hue[1:]))
                draw.line([start, end], fill=dim, width=wide)
        for joint, hue in zip(joints, _HUES, strict=True):
            if joint:
                draw.circle(joint, wide, fill=hue)
    return preprocess(_turned(canvas, picture), size, fit)


def read_control(path: Path, picture: PIL.Image.Image) -> Image:
    """Return a control image from its file. Raises `DataError` where it is missing, damaged or of another size."""
    from cm3.read.base import picture as open_file  # no reader is loaded with a model

    try:
        found = open_file(path)
    except DataError as error:
        raise DataError(f"control image: {error}; docs/tasks.md says how to make it") from error
    has, want = ("{} x {}".format(*seen_size(image)) for image in (found.pixels, picture))
    if has != want:
        raise DataError(
            f"control image {path.name}: is {has} pixels, its picture {want}; make it at the picture's size"
        )
    return found


def seen_size(picture: PIL.Image.Image) -> tuple[int, int]:
    """Return the width and height of a picture as it is seen, upright; its pixels need not be sound."""
    width, height = picture.size
    return (height, width) if orientation(picture) >= 5 else (width, height)


def _joints(person: Mapping[str, Any], size: tuple[int, int]) -> list[tuple[float, float] | None]:
    """Return OpenPose's 18 joints, None where unknown."""
    numbers, where = person.get("keypoints"), f"keypoints of annotation {person.get('id')!r:.40}"
    if not isinstance(numbers, list) or len(numbers) != 51 or any(v not in (0, 1, 2) for v in numbers[2::3]):
        raise DataError(f"{where}: must be 17 times x, y and 0, 1 or 2")
    points = _near([v for i, v in enumerate(numbers) if i % 3 < 2], size, where)
    known = [(x, y) if seen else None for (x, y), seen in zip(points.tolist(), numbers[2::3], strict=True)]
    left, right = known[5], known[6]
    neck = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2) if left and right else None
    return [neck if j < 0 else known[j] for j in _JOINTS]


def _turned(drawn: PIL.Image.Image, picture: PIL.Image.Image) -> PIL.Image.Image:
    """Turn a drawing over the stored pixels of `picture` as that is turned."""
    drawn.getexif()[0x0112] = orientation(picture)
    return upright(drawn)


def _grey(picture: PIL.Image.Image, size: int, fit: Fit) -> np.ndarray:
    return np.asarray(preprocess(picture, size, fit).convert("L"))


def _white(mask: np.ndarray) -> PIL.Image.Image:
    return PIL.Image.fromarray(mask).convert("RGB")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        needs = {"cv2": "OpenCV"}.get(name, "pycocotools")
        raise ConfigError(
            f"control images need {needs}, which is not installed: pip install opencv-python-headless pycocotools"
        ) from error
