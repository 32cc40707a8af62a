"""Boxes in words lie where the model sees the thing: painted, preprocessed, measured."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings

from cm3.errors import DataError
from cm3.tasks.boxes import SIDE, location, place_of, read_objects
from cm3.tokens.image import preprocess


def painted(size: tuple[int, int], bbox: tuple[float, float, float, float]) -> PIL.Image.Image:
    """A black picture, white in every pixel that the box (x, y, width, height) touches."""
    x, y, wide, high = bbox
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    top, left, bottom, right = (max(int(v), 0) for v in (y, x, np.ceil(y + high), np.ceil(x + wide)))
    pixels[top:bottom, left:right] = 255
    return PIL.Image.fromarray(pixels)


def measured(picture: PIL.Image.Image) -> tuple[int, int, int, int] | None:
    """First and last column and row that are more white than black, of what the model sees."""
    white = np.asarray(preprocess(picture, SIDE))[..., 0] > 127
    if not white.any():
        return None
    y, x = np.nonzero(white)
    return int(x.min()), int(y.min()), int(x.max()), int(y.max())


@settings(max_examples=40)
@given(st.integers(0, 200), st.integers(-9, 250), st.integers(-9, 330), st.integers(1, 200), st.integers(1, 200))
def test_exactly_the_pixels_where_the_picture_is_only_cropped(over: int, y: int, x: int, wide: int, high: int) -> None:
    size = (SIDE + over, SIDE)
    picture = painted(size, (x, y, wide, high))
    assert place_of((x, y, wide, high), picture) == measured(picture)


@settings(max_examples=40)
@given(st.integers(0, 255), st.integers(0, 255), st.integers(1, 256), st.integers(1, 256))
def test_exactly_the_pixels_where_it_is_halved(x: int, y: int, wide: int, high: int) -> None:
    bbox = (2 * x, 2 * y + 100, 2 * wide, 2 * high)
    picture = painted((512, 712), bbox)
    assert place_of(bbox, picture) == measured(picture)


@settings(max_examples=60)
@given(
    st.tuples(st.integers(40, 700), st.integers(40, 700)),
    st.tuples(*[st.floats(0, 1)] * 2),
    st.tuples(*[st.floats(0.2, 1)] * 2),
)
def test_encloses_it_within_a_pixel_at_any_scale(
    size: tuple[int, int], start: tuple[float, float], part: tuple[float, float]
) -> None:
    bbox = tuple(round(v * n, 2) for v, n in zip((*start, *part), size * 2, strict=True))
    picture = painted(size, bbox)
    seen, said = measured(picture), place_of(bbox, picture)
    if seen is None or said is None:
        side = min(size) / SIDE  # a sliver at the crop's edge may be said and not seen
        assert said is None or min(said[2] - said[0], said[3] - said[1]) <= max(2, 2 / side)
        return
    within = 1 + SIDE // min(size)  # a stored pixel may be several of the model's
    assert all(0 <= (a - b) * sign <= within for a, b, sign in zip(seen, said, (1, 1, -1, -1), strict=True))
    assert read_objects(f"dog at {location(said)}") == [("dog", said)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_is_turned_by_its_exif(orientation: int) -> None:
    picture = painted((512, 256), (150, 10, 60, 30))
    picture.getexif()[0x0112] = orientation
    assert place_of((150, 10, 60, 30), picture) == measured(picture)


def test_clipped_where_it_is_partly_outside_and_dropped_where_it_is_wholly() -> None:
    picture = PIL.Image.new("RGB", (512, 256))
    assert place_of((-10, -10, 512 + 20, 256 + 20), picture) == (0, 0, 255, 255)
    assert place_of((100, 0, 40, 10), picture) == (0, 0, 11, 9)  # the crop begins at 128
    for outside in ((0, 0, 128, 256), (-9, 0, 9, 9), (300, 256, 5, 5), (384, 0, 128, 9), (200, 9, 0, 9)):
        assert place_of(outside, picture) is None
    assert place_of((200.4, 9.9, 0, 0.2), picture) == (72, 9, 72, 10)
    assert place_of((0, 0, 512, 256), picture, "stretch") == (0, 0, 255, 255)


@pytest.mark.parametrize("where", ["at", "at location", "at the location"])
def test_places_in_the_words_of_either_figure(where: str) -> None:
    """Figure 5 has "at the location", figure 15 "at location", Table 5 "at"."""
    one, other = ("a refrigerator", (50, 50, 100, 100)), ("a look at the sea", (0, 1, 2, 3))
    assert read_objects(f"a refrigerator {where} (50, 50) -> (100, 100)") == [one]
    said = f"a refrigerator {where} (50, 50) -> (100, 100) and with a look at the sea {where} (0, 1) -> (2, 3)"
    assert read_objects(said) == [one, other]


@pytest.mark.parametrize("bbox", [None, (1, 2, 3), (1, 2, 3, -1), (1, 2, float("nan"), 3), ("1", 2, 3, 4)])
def test_a_box_that_is_none(bbox: tuple[float, ...] | None) -> None:
    with pytest.raises(DataError, match="bbox .*: must be x, y, width, height, and no size below 0"):
        place_of(bbox, PIL.Image.new("RGB", (9, 9)))
