"""The world of stickers: its splits, what no training sees, and how sheets are drawn."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from cm3.errors import ConfigError
from cm3.stickers.artwork import KINDS, OTHERS, other, sprite
from cm3.stickers.drawing import BLOCK, CORNER, DRAWN, RIM, WHITE, block, draw, paste
from cm3.stickers.world import (
    GROUNDS,
    HELD_OUT,
    HELD_OUT_PLACES,
    INVERSE,
    PLACES,
    QUARTERS,
    SIZES,
    SPLITS,
    TRAINED,
    Sheet,
    Split,
    Sticker,
    any_sheet,
    random_sheet,
    split_of,
)


def some(split: Split, number: int) -> list[Sheet]:
    rng = np.random.default_rng(len(split))
    return [random_sheet(rng, split) for _ in range(number)]


@pytest.mark.parametrize("split", SPLITS)
def test_a_sheet_is_of_one_split_whatever_found_it(split: Split) -> None:
    for sheet in some(split, 150):
        assert split_of(sheet) == split
        # the order in which its stickers were given does not matter
        assert split_of(Sheet(sheet.ground, sheet.stickers[::-1])) == split
        assert not any(one.kind in HELD_OUT for one in sheet.stickers)
        pairs = {(one.kind, one.place) for one in sheet.stickers}
        assert bool(pairs & HELD_OUT_PLACES) == (split == "held_out")


def test_splits_are_disjoint_and_of_their_shares() -> None:
    found = {split: {sheet.key for sheet in some(split, 300)} for split in SPLITS}
    for one in SPLITS:
        assert not any(found[one] & found[two] for two in SPLITS if two != one)
    rng = np.random.default_rng(3)
    drawn = [split_of(any_sheet(rng, ["cat", "bus", "rose"])) for _ in range(4000)]
    seen = [split for split in drawn if split != "held_out"]
    for split, share in (("train", 0.9), ("val", 0.02), ("test", 0.08)):
        assert abs(seen.count(split) / len(seen) - share) < 0.02


def test_splits_stay_as_they_are() -> None:
    """A model that was trained on one split of yesterday must not be tested on it tomorrow."""
    alone = [
        Sheet(ground, (Sticker(place, kind, size),))
        for ground in GROUNDS
        for place in PLACES
        for kind in KINDS
        for size in SIZES
    ]
    told = "\n".join(f"{split_of(sheet)} {sheet.key}" for sheet in alone)
    assert hashlib.sha256(told.encode()).hexdigest() == (
        "6611eb354406c314c887b7719b1eb351fcdfe35fad67e71d4369445ba8dce77e"
    )


def test_what_is_held_out() -> None:
    assert len(HELD_OUT) == len(set(HELD_OUT)) == 15 and set(HELD_OUT) <= set(KINDS)
    assert set(TRAINED) == set(KINDS) - set(HELD_OUT)
    assert {place for _, place in HELD_OUT_PLACES} == set(QUARTERS)
    kinds = [kind for kind, _ in HELD_OUT_PLACES]
    assert len(kinds) == len(set(kinds)) == -(-len(TRAINED) // 6)
    rng = np.random.default_rng(0)
    for kind in HELD_OUT:
        assert split_of(any_sheet(rng, [kind])) is None
        assert split_of(any_sheet(rng, ["cat", kind])) is None


def test_sheets_of_all_numbers_kinds_and_places_are_drawn() -> None:
    sheets = some("train", 1500)
    assert {len(sheet.stickers) for sheet in sheets} == {1, 2, 3, 4}
    assert {sheet.ground for sheet in sheets} == set(GROUNDS)
    stickers = [one for sheet in sheets for one in sheet.stickers]
    assert {one.kind for one in stickers} == set(TRAINED)
    assert {one.place for one in stickers} == set(PLACES) and {one.size for one in stickers} == set(SIZES)
    rng = np.random.default_rng(0)
    assert all(len(random_sheet(rng, "test", number).stickers) == number for number in (1, 2, 3, 4) for _ in range(9))
    assert all(one.about.shape for one in random_sheet(rng, number=4, shapes=1, twice=0).stickers)
    twice = any_sheet(rng, ["cat", "dog"], twice=1)
    assert [one.kind for one in twice.stickers] == ["cat", "cat"]


def test_relations_hold_both_ways_between_neighbours() -> None:
    full = next(sheet for sheet in some("train", 99) if len(sheet.stickers) == 4)
    related = full.relations()
    assert len(related) == 8 == len(set(related))
    for a, relation, b in related:
        assert (b, INVERSE[relation], a) in related
        (ax, ay), (bx, by) = CORNER[a.place], CORNER[b.place]
        side = {"left of": ax < bx, "right of": ax > bx, "above": ay < by, "below": ay > by}
        assert side[relation] and (ax == bx or ay == by)
    assert not Sheet("sky", (full.stickers[0], full.stickers[3])).relations()


@pytest.mark.parametrize("size", SIZES)
def test_a_sticker_has_the_same_pixels_at_every_place(size: str) -> None:
    for ground in GROUNDS:
        for kind in ("cat", "bicycle", "yellow star"):
            shown = []
            for place in PLACES:
                pixels = np.array(draw(Sheet(ground, (Sticker(place, kind, size),))))
                left, top = CORNER[place]
                assert left % 16 == top % 16 == 0
                shown.append(pixels[top : top + BLOCK, left : left + BLOCK].copy())
                pixels[top : top + BLOCK, left : left + BLOCK] = GROUNDS[ground]
                assert (pixels == GROUNDS[ground]).all(), "something is outside of its block"
            assert all((one == shown[0]).all() for one in shown)


def test_one_sticker_does_not_change_another() -> None:
    for sheet in some("train", 30):
        whole = np.asarray(draw(sheet))
        for one in sheet.stickers:
            left, top = CORNER[one.place]
            alone = np.asarray(draw(Sheet(sheet.ground, (one,))))
            window = np.s_[top : top + BLOCK, left : left + BLOCK]
            assert (whole[window] == alone[window]).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_drawing_is_of_its_size_with_a_white_rim(size: str) -> None:
    for kind in KINDS:
        drawing = sprite(kind)
        assert drawing.shape == (96, 96, 4) and drawing.dtype == np.uint8 and not drawing.flags.writeable
        colour, opaque = block(drawing, size)
        assert colour.shape == (BLOCK, BLOCK, 3) and 0 <= opaque.min() and opaque.max() == 1
        taken = np.argwhere(opaque > 0)
        reach = DRAWN[size] // 2 + RIM
        assert BLOCK // 2 - reach <= taken.min() and taken.max() < BLOCK // 2 + reach
        # where the sticker ends it is white: colours times opacity are no more and no less than that
        first, last = taken.min(0), taken.max(0)
        edge = [np.s_[first[0]], np.s_[last[0]], np.s_[:, first[1]], np.s_[:, last[1]]]
        for side in edge:
            assert np.abs(colour[side] - opaque[side][..., None] * np.array(WHITE)).max() <= 2
    square = block(sprite("red square"), size)[1]
    assert (square > 0.5).any(0).sum() == pytest.approx(0.86 * DRAWN[size] + 2 * RIM, abs=2)


def test_pictures_of_other_sizes() -> None:
    sheet = some("train", 1)[0]
    whole = draw(sheet)
    assert whole.size == (256, 256) and whole.mode == "RGB"
    small = np.asarray(draw(sheet, 64), float)
    assert small.shape == (64, 64, 3) and np.abs(small - np.asarray(whole.reduce(4), float)).mean() < 6


def test_what_is_no_sheet_is_refused() -> None:
    cat = Sticker("top left", "cat", "small")
    cases = [
        (lambda: Sticker("left", "cat", "small"), r"sticker.place='left': must be top left, .*"),
        (lambda: Sticker("top left", "catt", "small"), r"sticker.kind='catt': must be one of 195.*'cat'"),
        (lambda: Sticker("top left", "cat", "huge"), r"sticker.size='huge': must be small, large"),
        (lambda: Sheet("blue", (cat,)), r"sheet.ground='blue': must be one of sky, mint"),
        (lambda: Sheet("sky", ()), r"sheet.stickers at \[\]: must be 1 to 4"),
        (lambda: Sheet("sky", (cat, cat)), "each in its own quarter"),
        (lambda: Sheet("sky", (cat, Sticker("middle", "dog", "small"))), "or one in the middle"),
        (lambda: random_sheet(np.random.default_rng(0), "all"), r"split='all': must be one of train"),  # type: ignore[arg-type]
        (lambda: random_sheet(np.random.default_rng(0), number=5), "number=5: must be 1 to 4 stickers"),
        (lambda: draw(Sheet("sky", (cat,)), 0), "size=0: a picture needs at least 1 pixel"),
        (lambda: paste((0, 0, 0), [], -1), "size=-1"),
    ]
    for make, message in cases:
        with pytest.raises(ConfigError, match=message):
            make()
    with pytest.raises(KeyError):
        sprite("no such thing")
    with pytest.raises(IndexError):
        other(OTHERS)
