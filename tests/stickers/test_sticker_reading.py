"""The verifier reads true sheets back, sharp or soft, and refuses every way of spoiling one."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import pytest

from cm3.errors import DataError
from cm3.stickers.artwork import COLOURS, KINDS, OTHERS, SHAPES, other, sprite
from cm3.stickers.drawing import BLOCK, CORNER, WHITE, block, draw, paste
from cm3.stickers.sentences import parse
from cm3.stickers.structure import NOTHING, PALETTE, groups, structure
from cm3.stickers.verify import compare, iou, read, read_map, verify, why_not
from cm3.stickers.world import (
    GROUNDS,
    PLACES,
    QUARTERS,
    SIZES,
    SPLITS,
    Sheet,
    Split,
    Sticker,
    pick,
    random_sheet,
)

Picture = PIL.Image.Image


@pytest.mark.parametrize("split", SPLITS)
def test_true_pictures_are_read_back(split: Split) -> None:
    rng = np.random.default_rng(len(split))
    for _ in range(40):
        sheet = random_sheet(rng, split)
        verdict = verify(draw(sheet), sheet)
        assert verdict.exact and not verdict.why, verdict.why
        assert verdict.reading.sheet == sheet
        assert min(seen.match for seen in verdict.reading.seen) > 0.99
        shares = (verdict.ground, verdict.count, verdict.kinds, verdict.sizes, verdict.places)
        assert shares == (1, 1, 1, 1, 1)


def every_look() -> list[Sheet]:
    """Sheets that show every kind in both sizes, each ground and each place among them."""
    looks = [(kind, size) for kind in KINDS for size in SIZES]
    grounds, sheets = tuple(GROUNDS), []
    for i in range(0, len(looks), 4):
        some = looks[i : i + 4]
        sheets.append(
            Sheet(
                grounds[len(sheets) % len(grounds)],
                tuple(Sticker(p, k, s) for p, (k, s) in zip(QUARTERS, some, strict=False)),
            )
        )
    return sheets


def jpeg(picture: Picture) -> Picture:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=40)
    return PIL.Image.open(file)


def noisy(picture: Picture) -> Picture:
    noise = np.random.default_rng(0).normal(0, 12, (*picture.size, 3))
    return PIL.Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


SOFTENED: dict[str, Callable[[Picture], Picture]] = {
    "as it is": lambda p: p,
    "jpeg": jpeg,
    "blur": lambda p: p.filter(PIL.ImageFilter.GaussianBlur(1)),
    "halved": lambda p: p.reduce(2),
    "doubled": lambda p: p.resize((512, 512), PIL.Image.Resampling.BICUBIC),
    "noise": noisy,
    "paler": lambda p: PIL.Image.blend(p, PIL.Image.new("RGB", p.size, (150, 150, 150)), 0.1),
    "with alpha": lambda p: p.convert("RGBA"),
}


@pytest.mark.parametrize("how", SOFTENED)
def test_soft_pictures_of_every_kind_are_read_back(how: str) -> None:
    verdicts = [verify(SOFTENED[how](draw(sheet)), sheet) for sheet in every_look()]
    wrong = [v.why for v in verdicts if not v.exact]
    # thin lines, as of a small bicycle, do not outlive a blur
    assert len(wrong) <= (0.02 if how == "blur" else 0) * len(verdicts), wrong


def test_a_kind_alone_in_the_middle_is_read_back() -> None:
    for i, kind in enumerate(KINDS):
        sheet = Sheet(tuple(GROUNDS)[i % 6], (Sticker("middle", kind, SIZES[i % 2]),))
        assert read(draw(sheet)).sheet == sheet


def pixels_of(sheet: Sheet) -> np.ndarray:
    return np.array(draw(sheet))


def part(pixels: np.ndarray, place: str) -> np.ndarray:
    left, top = CORNER[place]
    return pixels[top : top + BLOCK, left : left + BLOCK]


def instead(sheet: Sheet, one: Sticker, drawing: np.ndarray) -> Picture:
    """The sheet with another drawing in the place of one of its stickers."""
    shown = [(s.place, drawing if s == one else sprite(s.kind), s.size) for s in sheet.stickers]
    return paste(GROUNDS[sheet.ground], shown)


def other_kind(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    return instead(sheet, one, sprite(pick(rng, [k for k in KINDS if k != one.kind])))


def no_kind(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    return instead(sheet, one, other(int(rng.integers(OTHERS))))


def other_size(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    return draw(Sheet(sheet.ground, (*(s for s in sheet.stickers if s != one), changed(one))))


def changed(one: Sticker) -> Sticker:
    return Sticker(one.place, one.kind, SIZES[1 - SIZES.index(one.size)])


def recoloured(drawing: np.ndarray, colour: tuple[float, ...]) -> np.ndarray:
    found = drawing.copy()
    found[..., :3] = colour
    return found


def half(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One half of what a mask holds, on any of four sides."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    found = np.zeros_like(mask)
    middle_row, middle_column = int(rows.mean()), int(columns.mean())
    sides = [np.s_[:middle_row], np.s_[middle_row:], np.s_[:, :middle_column], np.s_[:, middle_column:]]
    found[sides[int(rng.integers(4))]] = True
    return found


def half_missing(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    pixels = pixels_of(sheet)
    part(pixels, one.place)[half(block(sprite(one.kind), one.size)[1] > 0, rng)] = GROUNDS[sheet.ground]
    return PIL.Image.fromarray(pixels)


def half_white(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    """Half of the drawing is missing, and its sticker is white there."""
    drawing = sprite(one.kind).copy()
    drawing[..., :3][half(drawing[..., 3] > 0, rng)] = WHITE
    return instead(sheet, one, drawing)


def two_halves(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    drawing, second = sprite(one.kind).copy(), sprite(pick(rng, [k for k in KINDS if k != one.kind]))
    where = half(np.ones(drawing.shape[:2], bool), rng)
    drawing[where] = second[where]
    return instead(sheet, one, drawing)


def rim_alone(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    return instead(sheet, one, recoloured(sprite(one.kind), WHITE))


def no_rim(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    pixels = pixels_of(sheet)
    here = part(pixels, one.place)
    here[(block(sprite(one.kind), one.size)[1] > 0) & (np.abs(here.astype(int) - WHITE).max(-1) < 8)] = GROUNDS[
        sheet.ground
    ]
    return PIL.Image.fromarray(pixels)


def blot(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    """A stray blob anywhere: on the ground, on an edge, or on a sticker of other colours."""
    picture = draw(sheet)
    radius = rng.uniform(9, 14)
    x, y = rng.uniform(radius, 256 - radius, 2)
    here = np.asarray(picture, float)[int(y) - 6 : int(y) + 6, int(x) - 6 : int(x) + 6].mean((0, 1))
    colour = max(COLOURS.values(), key=lambda c: (float(np.linalg.norm(here - c)) > 150) * rng.random())
    PIL.ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return picture


def shifted(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    pixels = pixels_of(sheet)
    here = part(pixels, one.place)
    here[:] = np.roll(here, (16, -16)[int(rng.integers(2))], int(rng.integers(2)))
    return PIL.Image.fromarray(pixels)


def other_ground(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    return draw(Sheet(pick(rng, [g for g in GROUNDS if g != sheet.ground]), sheet.stickers))


def no_ground(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    colours = [(255, 255, 255), (120, 120, 120), (0, 0, 0), (200, 60, 60)]
    return paste(colours[int(rng.integers(4))], [(s.place, sprite(s.kind), s.size) for s in sheet.stickers])


def two_grounds(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    pixels = pixels_of(sheet)
    pixels[:128] = np.array(other_ground(sheet, one, rng))[:128]
    return PIL.Image.fromarray(pixels)


def missing(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    return paste(GROUNDS[sheet.ground], [(s.place, sprite(s.kind), s.size) for s in sheet.stickers if s != one])


def one_more(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    free = [p for p in PLACES if sheet.at(p) is None and p != "middle"]
    place = pick(rng, free or ["middle"])
    more = (place, sprite(pick(rng, tuple(KINDS))), "small" if place == "middle" else pick(rng, SIZES))
    return paste(GROUNDS[sheet.ground], [*((s.place, sprite(s.kind), s.size) for s in sheet.stickers), more])


def empty(sheet: Sheet, one: Sticker, rng: np.random.Generator) -> Picture:
    return paste(GROUNDS[sheet.ground], [])


SPOILED: dict[Callable[[Sheet, Sticker, np.random.Generator], Picture], str] = {
    other_kind: "PLACE: SIZE .*, not SIZE KIND",
    no_kind: "PLACE: ",
    other_size: "PLACE: OTHER KIND, not SIZE KIND",
    half_missing: "PLACE: ",
    half_white: "PLACE: ",
    two_halves: "PLACE: ",
    rim_alone: "PLACE: ",
    no_rim: "PLACE: ",
    blot: "levels off|nothing known",
    shifted: "(?:PLACE|): ",
    other_ground: "ground: .*, not GROUND",
    no_ground: "ground: .* levels from the nearest",
    two_grounds: "ground: only .* of the border",
    missing: "PLACE: nothing, not SIZE KIND",
    one_more: ": ",
    empty: "the sheet is empty",
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_spoiled_pictures_are_refused(spoil: Callable[[Sheet, Sticker, np.random.Generator], Picture]) -> None:
    rng = np.random.default_rng(11)
    for _ in range(40):
        sheet = random_sheet(rng, "test")
        one = sheet.stickers[int(rng.integers(len(sheet.stickers)))]
        verdict = verify(spoil(sheet, one, rng), sheet)
        assert not verdict.exact
        said = SPOILED[spoil].replace("PLACE", one.place).replace("GROUND", sheet.ground)
        said = said.replace("OTHER", changed(one).size).replace("SIZE", one.size).replace("KIND", one.kind)
        assert re.search(said, verdict.why), verdict.why
        assert "\n" not in verdict.why


@pytest.mark.parametrize("size", SIZES)
def test_each_shape_has_its_own_colour(size: str) -> None:
    """A neighbouring colour is another kind; white, grey and black are none."""
    names = tuple(COLOURS)
    for shape in SHAPES:
        for i, name in enumerate(names):
            one = Sticker("middle", f"{name} {shape}", size)
            sheet = Sheet("mint", (one,))
            for other_name in (names[i - 1], names[(i + 1) % len(names)]):
                verdict = verify(instead(sheet, one, recoloured(sprite(one.kind), COLOURS[other_name])), sheet)
                assert not verdict.exact
                assert verdict.why == f"middle: {size} {other_name} {shape}, not {size} {name} {shape}"
            for grey in (0, 128, 255):
                assert read(instead(sheet, one, recoloured(sprite(one.kind), (grey,) * 3))).sheet is None


def test_a_spoiled_part_leaves_the_others_right() -> None:
    sheet = Sheet("sky", (Sticker("top left", "cat", "large"), Sticker("bottom right", "dog", "small")))
    wrong = Sheet("sky", (Sticker("top left", "cat", "small"), Sticker("bottom right", "bear", "small")))
    reading = read(draw(wrong))
    verdict = compare(reading, sheet)
    assert reading.sheet == wrong and compare(reading, wrong).exact
    assert (verdict.ground, verdict.count, verdict.places, verdict.kinds, verdict.sizes) == (1, 1, 1, 0.5, 0.5)
    assert verdict.why == "top left: small cat, not large cat; bottom right: small bear, not small dog"
    fewer = compare(read(draw(Sheet("navy", sheet.stickers[:1]))), sheet)
    assert (fewer.ground, fewer.count, fewer.places, fewer.kinds, fewer.sizes) == (0, 0, 0.5, 0.5, 0.5)
    more = compare(reading, Sheet("sky", wrong.stickers[:1]))
    assert (more.count, more.places) == (0, 1) and more.why == "bottom right: small bear, not empty"


def test_a_sentence_is_held_against_a_picture() -> None:
    sheet = Sheet("sky", (Sticker("top left", "cat", "large"), Sticker("top right", "dog", "small")))
    reading = read(draw(sheet))
    assert not why_not(parse("a large cat to the left of a dog on a sky ground"), reading)
    assert why_not(parse("a small cat to the left of a dog"), reading) == "the cat is large, not small"
    nothing = paste(GROUNDS["sky"], [])
    assert why_not(parse("a large cat on a sky ground"), read(nothing)) == "the sheet is empty"


@pytest.mark.parametrize("measure", [read, read_map])
def test_what_is_no_square_is_refused(measure: Callable[[Picture], object]) -> None:
    for size in ((256, 200), (127, 127), (0, 0)):
        with pytest.raises(
            DataError, match=f"of {size[0]} x {size[1]}: must be a square of at least 128 pixels; crop it"
        ):
            measure(PIL.Image.new("RGB", size))


def test_maps_of_segments_are_read_back() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        sheet = random_sheet(rng, "val")
        picture = structure(sheet, "segmentation", rng)
        truth, found = groups(sheet), read_map(picture)
        assert truth.keys() == found.keys() and all((truth[name] == found[name]).all() for name in truth)
        assert iou(sheet, picture) == 1
        assert iou(sheet, picture.filter(PIL.ImageFilter.GaussianBlur(1.5))) > 0.93
        assert iou(sheet, noisy(picture)) > 0.93
        assert iou(sheet, PIL.Image.new("RGB", (256, 256), NOTHING)) == 0


def test_overlap_is_the_mean_over_groups_in_either() -> None:
    sheet = Sheet("sky", (Sticker("top left", "red square", "large"),))
    pixels = np.array(structure(sheet, "segmentation", np.random.default_rng(0)))
    mask = groups(sheet)["shape"]
    pixels[:64] = NOTHING
    share = mask[64:].sum() / mask.sum()
    assert iou(sheet, PIL.Image.fromarray(pixels)) == pytest.approx(share)
    pixels[200:, 200:] = PALETTE["food"]  # a group that the sheet has not
    assert iou(sheet, PIL.Image.fromarray(pixels)) == pytest.approx(share / 2)
    pixels[212:] = NOTHING
    pixels[200:212, 221:] = NOTHING  # 252 pixels are left: less than a code's, a speck
    assert iou(sheet, PIL.Image.fromarray(pixels)) == pytest.approx(share)
