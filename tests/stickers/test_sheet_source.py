"""Sheets as training documents: put together from known blocks they are what encoding them whole gives."""

from __future__ import annotations

import numpy as np
import pytest
from lesson_codec import codec

from cm3.stickers.data.sheet_codes import SheetCodes, cells_of_place, fits
from cm3.stickers.data.sheet_source import SheetLaw, SheetSource, describe_sheet
from cm3.stickers.drawing import draw
from cm3.stickers.sentences import parse
from cm3.stickers.world import PLACES, random_sheet


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


def test_captions_tell_places_and_relations_as_often_as_the_law_says() -> None:
    def told(**shares: float) -> tuple[float, float]:
        law = SheetLaw(number=(0.0, 0.0, 1.0), **shares)
        said = [parse(describe_sheet(4, i, law=law).caption) for i in range(200)]
        places = sum(all(m.place for m in one.mentions) for one in said)
        return places / len(said), sum(bool(one.relations) for one in said) / len(said)

    assert told(places=1.0) == (1, 0) and told(places=1.0, relations=1.0) == (1, 0)
    # of three stickers two are neighbours, but beside two of one kind neither "the dog" nor "it" may tell which
    assert told(relations=1.0)[1] > 0.9 and 0.35 < told()[1] < 0.65
    places, relations = told(places=0.5, relations=1.0)
    assert abs(places - 0.5) < 0.15 and relations == pytest.approx(1 - places)
    some = [describe_sheet(4, i, law=SheetLaw(relations=1.0)) for i in range(40)]
    assert {len(one.sheet.stickers) for one in some} == {1, 2, 3, 4}  # one alone has nothing beside it


def test_documents_are_those_that_are_encoded_whole() -> None:
    source = SheetSource(codec(), 3, law=SheetLaw(captions_only=0.2))
    numbers = range(12)
    found, whole = source.sequences(numbers), codec().encode_many([source.document(i) for i in numbers])
    for ours, theirs in zip(found, whole, strict=True):
        assert (ours.cells == theirs.cells).all()
        assert (ours.ids == theirs.ids)[theirs.cells == 0].all() and (ours.ids == theirs.ids).mean() > 0.99
    assert len({tokens.length > 256 for tokens in found}) == 2, "some are captions alone"
