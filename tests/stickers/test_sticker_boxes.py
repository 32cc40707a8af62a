"""Boxes of stickers: tight around what is drawn, in the numbers of the tasks, and judged one sticker a box."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cm3.errors import DataError
from cm3.stickers.artwork import KINDS
from cm3.stickers.drawing import WHITE, draw
from cm3.stickers.sticker_boxes import ENOUGH, box_of, boxes_of, matched, overlap
from cm3.stickers.world import GROUNDS, SIZES, Sheet, Sticker, random_sheet
from cm3.tasks.boxes import check_place, read_objects, segmentations


def test_a_box_is_tight_around_what_differs_from_the_ground() -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        sheet = random_sheet(rng, "train", 1)
        (name, (x1, y1, x2, y2)) = boxes_of(sheet)[0]
        shown = np.abs(np.asarray(draw(sheet), int) - GROUNDS[sheet.ground]).max(-1)
        assert name == sheet.stickers[0].kind
        inside = np.zeros((256, 256), bool)
        inside[y1 : y2 + 1, x1 : x2 + 1] = True
        # a rim ends where it hides half of the ground
        half = np.abs(np.subtract(WHITE, GROUNDS[sheet.ground])).max() / 2
        assert shown[~inside].max() <= half + 1
        for edge in (shown[y1, x1 : x2 + 1], shown[y2, x1 : x2 + 1], shown[y1 : y2 + 1, x1], shown[y1 : y2 + 1, x2]):
            assert edge.max() >= half - 1


def test_boxes_are_locations_and_read_back_from_their_words() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        boxes = boxes_of(random_sheet(rng, "train"))
        assert all(check_place(box) == box for _, box in boxes)
        assert read_objects(segmentations(boxes)) == list(boxes)


def test_overlap_is_of_whole_pixels() -> None:
    assert overlap((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert overlap((0, 0, 9, 9), (0, 0, 9, 4)) == 0.5
    assert overlap((0, 0, 9, 9), (10, 0, 19, 9)) == 0
    assert overlap((0, 0, 9, 9), (5, 5, 14, 14)) == 25 / 175


def test_a_box_holds_the_sticker_of_its_name_place_and_size() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        sheet = random_sheet(rng, "train", 3)
        boxes = boxes_of(sheet)
        assert matched(sheet.stickers, boxes) == matched(sheet.stickers, boxes[::-1]) == 1
        one, *rest = sheet.stickers
        free = next(p for p in ("top left", "top right", "bottom left", "bottom right") if not sheet.at(p))
        other = next(s for s in SIZES if s != one.size)
        for wrong in ({"place": free}, {"size": other}, {"kind": "panda"}):
            moved = dataclasses.replace(one, **wrong)
            assert overlap(box_of(moved), boxes[0][1]) <= ENOUGH or "kind" in wrong
            assert matched([moved, *rest], boxes) == 2 / 3
        assert matched(rest, boxes) == 2 / 3 and matched([], boxes) == 0


def test_a_sticker_of_the_other_size_fills_no_box() -> None:
    for kind in KINDS:
        small, large = (box_of(Sticker("top left", kind, size)) for size in SIZES)
        assert 0.4 < overlap(small, large) < ENOUGH - 0.05


def test_two_boxes_of_one_sticker_are_not_both_full() -> None:
    sheet = Sheet("sand", (Sticker("top left", "cat", "large"),))
    (box,) = boxes_of(sheet)
    assert matched(sheet.stickers, [box, box]) == 0.5


def test_boxes_of_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="boxes: there are none; give at least one name and its box"):
        matched([], [])
    with pytest.raises(DataError, match="box of 'pandas': is no kind of sticker. Did you mean 'panda'"):
        matched([], [("pandas", (0, 0, 9, 9))])
