"""The cases that are put to a model: one function a task, each from a generator, a split and a size.

Every second caption names the stickers in reading order, as in training; every fourth sheet has one sticker, two, ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cm3.document import Document, Gap, Image
from cm3.stickers.drawing import draw, random_box
from cm3.stickers.pieces import hide_piece
from cm3.stickers.sentences import describe, loosely, styles_of
from cm3.stickers.wishes import Wish, random_wish
from cm3.stickers.world import (
    QUARTERS,
    SIZES,
    Sheet,
    Split,
    Sticker,
    pick,
    random_kind,
    random_sheet,
    split_of,
)


@dataclass(frozen=True, eq=False)
class Case:
    """A prompt, the seed for its generation, and the truth: the sheet, a caption that says it, and its style. A wish
    stands for a caption that is one of many wordings; its sheet is one of those that grant it."""

    prompt: Document
    seed: int
    sheet: Sheet
    caption: str
    style: str
    wish: Wish | None = None


def cases(task: str, seed: int, n: int, split: Split, size: int) -> Iterator[Case]:
    """Yield the `n` cases of a task, each from its number alone; pictures are of `size` pixels."""
    make = _MAKERS.get(task, said)
    # unguided has the very prompts and seeds of text_to_image
    stream = _STREAMS.index("text_to_image" if task == "unguided" else task)
    for i in range(n):
        yield make(np.random.default_rng([seed, 0xE7A1, stream, i]), split, i % len(QUARTERS) + 1, size)


_STREAMS = ("text_to_image", "held_out", "image_to_text", "text_infill", "region_infill", "loose", "wishes")


def said(rng: np.random.Generator, split: Split, number: int, size: int) -> Case:
    """Return a caption of any style, and a gap for its picture."""
    sheet, caption, style = _said(rng, split, number)
    return Case(Document.of(caption, Gap("image")), _seed(rng), sheet, caption, style)


def left_open(rng: np.random.Generator, split: Split, number: int, size: int) -> Case:
    """Return words that leave sizes, places or the ground open, and a gap for a picture; `sheet` is one that fits."""
    sheet = random_sheet(rng, split, number)
    caption = loosely(sheet, rng)
    return Case(Document.of(caption, Gap("image")), _seed(rng), sheet, caption, "loose")


def wished(rng: np.random.Generator, split: Split, number: int, size: int) -> Case:
    """Return a wish, and a gap for a picture."""
    wish, sheet, _ = random_wish(rng, split, number)
    return Case(Document.of(wish.text, Gap("image")), _seed(rng), sheet, wish.text, "wish", wish)


def drawn(rng: np.random.Generator, split: Split, number: int, size: int) -> Case:
    """Return a true picture, and a gap for its caption; `caption` is one that would be right."""
    sheet, caption, style = _said(rng, split, number)
    return Case(Document.of(Gap("text"), draw(sheet, size)), _seed(rng), sheet, caption, style)


def hidden_piece(rng: np.random.Generator, split: Split, number: int, size: int) -> Case:
    """Return a caption with a piece hidden, and its true picture; `style` is the kind of piece."""
    sheet, caption, _ = _said(rng, split, number)
    kind, _, parts = hide_piece(caption, rng)
    return Case(Document.of(*parts, draw(sheet, size)), _seed(rng), sheet, caption, kind)


def redrawn(rng: np.random.Generator, split: Split, number: int, size: int) -> Case:
    """Return a picture of a sheet with a box in one place, and a caption of the sheet that it is to become.

    There another sticker stands than before or, 1 in 4 where one stands and is not the last, none. Neither sheet is
    held out; the first is of the split.
    """
    while True:
        before = random_sheet(rng, split, number)
        place = "middle" if before.at("middle") else pick(rng, QUARTERS)
        after = _changed(rng, before, place)
        if after is not None and split_of(after) in ("train", "test"):
            break
    caption, style = _say(rng, after)
    box = random_box(rng, place, [s.size for s in (before.at(place), after.at(place)) if s], size)
    picture = Image(draw(before, size)).with_gap(box)
    return Case(Document.of(caption, picture), _seed(rng), after, caption, style)


def _said(rng: np.random.Generator, split: Split, number: int) -> tuple[Sheet, str, str]:
    sheet = random_sheet(rng, split, number)
    return sheet, *_say(rng, sheet)


def _say(rng: np.random.Generator, sheet: Sheet) -> tuple[str, str]:
    style = pick(rng, styles_of(sheet))
    return describe(sheet, rng, in_order=rng.random() < 0.5, style=style), style


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _changed(rng: np.random.Generator, sheet: Sheet, place: str) -> Sheet | None:
    old = sheet.at(place)
    others = tuple(s for s in sheet.stickers if s is not old)
    if old is not None and others and rng.random() < 0.25:
        return Sheet(sheet.ground, others)
    new = Sticker(place, random_kind(rng), pick(rng, SIZES))
    return None if new == old else Sheet(sheet.ground, (*others, new))


_MAKERS = {
    "image_to_text": drawn,
    "text_infill": hidden_piece,
    "region_infill": redrawn,
    "loose": left_open,
    "wishes": wished,
}
"""Tasks whose cases are no captions."""
