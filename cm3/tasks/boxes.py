"""Locations in words: `(x1, y1) -> (x2, y2)`, as in the paper's figures 5 and 15.

Four whole numbers in 0..255, the first and last column and row of pixels that a thing touches, both counted in, of the
picture as the model sees it (cropped, resized) at 256 x 256. At another size of picture the numbers are the same, so
that words do not depend on the model. Origin at the top left, x before y.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import PIL.Image

from cm3.document import Box
from cm3.errors import DataError, RequestError
from cm3.files import is_number
from cm3.tokens.image import Fit, place_box

SIDE = 256
"""Side of the square that locations count in."""
Place = tuple[int, int, int, int]
"""x1, y1, x2, y2 of a location, all counted in."""
Objects = Sequence[tuple[str, Place]]
"""Names of things, and where they are."""

_PLACE = r"\((-?\d+), (-?\d+)\) -> \((-?\d+), (-?\d+)\)"
_OBJECT = re.compile(rf"(.+?) at (?:(?:the )?location )?{_PLACE}(?:, | and with |$)")


def check_place(place: Sequence[int], name: str = "box") -> Place:
    """Return `place` when it is a location. Raises `RequestError` for one outside 0..255 or with its corners
    exchanged."""
    if len(place) != 4 or any(type(v) is not int for v in place):
        raise RequestError(f"{name} {tuple(place)}: must be four whole numbers x1, y1, x2, y2")
    x1, y1, x2, y2 = place
    if not all(0 <= v < SIDE for v in place):
        raise RequestError(f"{name} {_words(place)}: lies outside the picture; numbers must be in 0..{SIDE - 1}")
    if x1 > x2 or y1 > y2:
        raise RequestError(f"{name} {_words(place)}: is inverted; give the top left corner first, x1 <= x2, y1 <= y2")
    return x1, y1, x2, y2


def location(place: Sequence[int], name: str = "box") -> str:
    """Return a location in words. Raises `RequestError` as `check_place`."""
    return _words(check_place(place, name))


def segmentations(objects: Objects) -> str:
    """Write things and their places as in Table 5: "dog at (0, 1) -> (2, 3), cat at (4, 5) -> (6, 7)"."""
    return ", ".join(f"{name} at {location(place, f'box of {name!r}')}" for name, place in objects)


def locations(objects: Objects) -> str:
    """Write things and their places as in figure 15: "dog at location (0, 1) -> (2, 3) and with cat at location
    ..."."""
    return " and with ".join(f"{name} at location {location(place, f'box of {name!r}')}" for name, place in objects)


def read_objects(text: str) -> list[tuple[str, Place]]:
    """Invert `segmentations` and of `locations`; figure 5's "at the location" is read like figure 15's.

    Raises `RequestError` for a text of another form, and for a location that is none.
    """
    found: list[tuple[str, Place]] = []
    at, text = 0, text.strip()
    while at < len(text):
        match = _OBJECT.match(text, at)
        if match is None:
            raise RequestError(f"boxes {text[at : at + 60]!r}: must read 'NAME at (x1, y1) -> (x2, y2), NAME at ...'")
        place = [int(v) for v in match.groups()[1:]]
        found.append((match[1], check_place(place, f"box of {match[1]!r}")))
        at = match.end()
    return found


def place_of(bbox: Any, picture: PIL.Image.Image, fit: Fit = "crop") -> Place | None:
    """Return the location of an annotated box, COCO's x, y, width, height in the stored pixels of `picture`.

    The part of the box outside the picture, or in what the crop cuts away, is cut off; None where nothing is left.
    Raises `DataError` for a box that is no four numbers, or of negative size.
    """
    numbers = [float(v) for v in bbox if is_number(v)] if isinstance(bbox, Sequence) else []
    if len(numbers) != 4 or len(bbox) != 4 or min(numbers[2:]) < 0:
        raise DataError(f"bbox {bbox!r:.60}: must be x, y, width, height, and no size below 0")
    x, y, wide, high = numbers
    box: Box = (
        max(math.floor(x), 0),
        max(math.floor(y), 0),
        min(math.ceil(x + wide), picture.width),
        min(math.ceil(y + high), picture.height),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    try:
        x0, y0, x1, y1 = place_box(picture, box, SIDE, fit)
    except RequestError:  # wholly in what the crop cuts away
        return None
    return x0, y0, x1 - 1, y1 - 1


def _words(place: Sequence[int]) -> str:
    return f"({place[0]}, {place[1]}) -> ({place[2]}, {place[3]})"
