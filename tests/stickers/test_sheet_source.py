"""Sheets as training documents: put together from known blocks they are what encoding them whole gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lesson_codec import codec
from tiny_model import codec as wide_codec

from cm3.errors import ConfigError
from cm3.stickers.data.bank_source import BankLaw
from cm3.stickers.data.sheet_codes import SheetCodes, cells_of_place, fits
from cm3.stickers.data.sheet_source import SheetLaw, SheetSource, describe_sheet
from cm3.stickers.drawing import draw
from cm3.stickers.world import PLACES, QUARTERS, random_sheet


def test_codes_of_blocks_are_those_of_the_whole_sheet() -> None:
    image = codec().image
    assert image is not None and fits(image)
    rng = np.random.default_rng(0)
    sheets = [random_sheet(rng, number=number) for number in (1, 1, 1, 2, 3, 4, 4)]
    whole = image.encode([draw(sheet) for sheet in sheets])
    codes = SheetCodes(image)
    found = np.stack([codes.of(sheet) for sheet in sheets])
    assert len(np.unique(whole)) > 8, "codes differ, or equality says little"
    assert (found == whole).mean() > 0.995, "all but those on a border between two codes, where sums round otherwise"
    # in any order, and again
    again = SheetCodes(image)
    assert all((again.of(sheets[i]) == found[i]).all() for i in reversed(range(len(sheets))))


def test_places_of_blocks_cover_the_sheet() -> None:
    held = np.zeros((16, 16), int)
    for place in PLACES:
        held[cells_of_place(place, 16)] += 1
    assert (held[4:12, 4:12] == 2).all() and held.sum() == 5 * 64 and held.min() == 1


def test_documents_are_those_that_are_encoded_whole() -> None:
    source = SheetSource(codec(), 3, law=SheetLaw(captions_only=0.2))
    numbers = range(12)
    found, whole = source.sequences(numbers), codec().encode_many([source.document(i) for i in numbers])
    for ours, theirs in zip(found, whole, strict=True):
        assert (ours.cells == theirs.cells).all()
        assert (ours.ids == theirs.ids)[theirs.cells == 0].all() and (ours.ids == theirs.ids).mean() > 0.99
    assert len({tokens.length > 256 for tokens in found}) == 2, "some are captions alone"


@pytest.mark.parametrize("number", [1, 3])
def test_a_block_is_the_part_of_its_sheet_where_a_sticker_is(number: int) -> None:
    law = SheetLaw(number=(0.0,) * (number - 1) + (1.0,), captions_only=0.0)
    cut_law = replace(law, block=1.0)
    whole, cut = SheetSource(codec(), 4, law=law), SheetSource(codec(), 4, law=cut_law)
    seen = set()
    for i, (one, part) in enumerate(zip(whole.sequences(range(30)), cut.sequences(range(30)), strict=True)):
        described = describe_sheet(4, i, law=cut_law)
        assert described.sheet.at(described.shown) is not None
        seen.add(described.shown)
        kept = part.cells > 0
        cells = (np.arange(1, 257).reshape(16, 16)[cells_of_place(described.shown, 16)]).ravel()
        assert part.cells[kept].tolist() == cells.tolist()
        wanted = one.ids[(one.cells == 0) | np.isin(one.cells, cells)]
        assert (part.ids == wanted).all(), "its caption, its codes in their cells, and nothing else"
    assert seen == set(PLACES if number == 1 else QUARTERS)


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"law.block=0.5: needs the grammar cm3, and an image tokenizer of 256 px"):
        SheetSource(wide_codec(), 1, law=SheetLaw(block=0.5))
    with pytest.raises(ConfigError, match=r"law.sheets.block=0.5: sheets beside documents are whole; must be 0"):
        BankLaw(sheets=SheetLaw(block=0.5))
    with pytest.raises(ConfigError, match=r"law.block=-0.1: is a share, must be in 0..1"):
        SheetLaw(block=-0.1)
