"""Segments and cells are those that the codec lays out, whatever stands beside what."""

from __future__ import annotations

import numpy as np
import PIL.Image
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_parts import PARTS, VOCAB, document, same

from cm3.document import Document
from cm3.sequence.segments import cells_of, document_of, image_tokens, runs, segments, text_tokens
from cm3.vocab import Tokens

SHADES = [PIL.Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "navy")]
DOCUMENTS = st.lists(st.one_of(st.text("ab c", max_size=6), st.sampled_from(SHADES)), max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.lists(DOCUMENTS, max_size=3))
def test_cells_are_those_of_the_codec_for_any_layout(several: list[list[str | PIL.Image.Image]]) -> None:
    codec = tiny_model.codec()
    tokens = Tokens.concat(codec.encode_many(Document.of(*parts) for parts in several))
    for codes in (None, 16):
        found = cells_of(tokens.ids, codec.vocab, codes)
        assert found.tolist() == tokens.cells.tolist() and found.dtype == np.int32


def test_an_image_begins_anew_after_its_codes_where_none_stands_between() -> None:
    codes = Tokens.concat([image_tokens(np.arange(4).reshape(2, 2), VOCAB)] * 2)
    assert cells_of(codes.ids, VOCAB, 4).tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert cells_of(codes.ids[:0], VOCAB, 4).size == 0


@given(PARTS)
def test_a_document_is_its_parts_again(parts: list[int]) -> None:
    tokens = document(*parts)
    spans = runs(tokens.ids, VOCAB)
    assert [stop - start for start, stop in spans] == [*map(abs, parts), 0]
    assert segments(tokens.ids, VOCAB) == spans[:-1]
    assert same(document_of([tokens.slice(*span) for span in spans[:-1]], VOCAB), tokens)


def test_by_hand() -> None:
    v = VOCAB
    made = document_of([text_tokens([0, 5], v), image_tokens(np.array([[7, 1], [2, 3]]), v)], v)
    ids = [v.eos, v.text_start, v.text_start + 5, v.brk, *(v.image_start + i for i in (7, 1, 2, 3)), v.eos]
    assert same(made, Tokens.of(ids, [0, 0, 0, 0, 1, 2, 3, 4, 0]))
    tail = Tokens.of([v.mask(0), v.text_start, v.eoss])
    assert runs(Tokens.concat([made, tail]).ids, v) == [(1, 3), (4, 8), (9, 12)], "the last run is the tail"
    empty = document_of([], v)
    assert empty.ids.tolist() == [v.eos, v.eos] and segments(empty.ids, v) == []
