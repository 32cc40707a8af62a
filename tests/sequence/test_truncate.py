"""A document that is too long becomes one that is whole in itself: no picture is split, no span is left in half."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import tiny_model
from hypothesis import given
from hypothesis import strategies as st
from sequence_parts import PARTS, VOCAB, document, same

from cm3.document import Document
from cm3.sequence.mask import MaskLaw, cm3_mask, cm3_unmask
from cm3.sequence.segments import segments
from cm3.sequence.truncate import cut_texts, fit, shorten_text, truncate
from cm3.vocab import Tokens


@given(PARTS, st.integers(0, 60))
def test_what_is_truncated_is_a_document(parts: list[int], room: int) -> None:
    tokens = document(*parts)
    cut = truncate(tokens, room, VOCAB)
    if tokens.length <= room:
        assert cut is tokens
        return
    picture = next((i for i, n in enumerate(parts) if n < 0), None)
    if cut is None:
        # Not even one part, or not up to its first picture.
        least = 3 if parts[0] > 0 else 2 - parts[0]
        assert room < (least if picture is None else document(*parts[: picture + 1]).length)
        return
    assert cut.length <= room and cut.ids[-1] == VOCAB.eos and cut.ids[-2] != VOCAB.brk
    stop = cut.length - 1
    assert cut.ids[:stop].tolist() == tokens.ids[:stop].tolist()
    assert cut.cells.tolist() == [*tokens.cells[:stop].tolist(), 0]
    assert (cut.cells > 0).any() == (picture is not None)
    # It ends with a whole part, or inside a text and leaves no room.
    kept = document(*parts[: 1 + int((cut.ids == VOCAB.brk).sum())])
    assert kept.length == cut.length or (parts[int((cut.ids == VOCAB.brk).sum())] > 0 and cut.length == room)
    # No part more would have fitted.
    ends = [document(*parts[:k]).length for k in range(1, len(parts) + 1)]
    assert cut.length >= max(end for end in ends if end <= room) if ends[0] <= room else cut.length == room


def test_truncation_by_example() -> None:
    caption = document(4, -9)
    assert truncate(caption, 16, VOCAB) is caption and truncate(caption, 15, VOCAB) is None
    cut = truncate(document(9), 5, VOCAB)
    assert cut is not None and cut.ids.tolist() == [*document(9).ids[:4], VOCAB.eos]
    found = {room: truncate(document(2, -3, 2, -3), room, VOCAB) for room in (7, 8, 9, 10, 11, 14, 15)}
    lengths = {room: cut and cut.length for room, cut in found.items()}
    assert lengths == {7: None, 8: 8, 9: 8, 10: 10, 11: 11, 14: 11, 15: 15}


@given(PARTS, st.integers(0, 60), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_no_picture_is_split_and_no_span_is_left_in_half(parts: list[int], room: int, number: int, seed: int) -> None:
    tokens = document(*parts)
    shorter = [
        truncate(tokens, room, VOCAB),
        shorten_text(tokens, number, VOCAB),
        cut_texts(tokens, number, VOCAB, lambda ids: bytes(i % 128 for i in ids)),
    ]
    whole = [tokens.slice(*span).ids.tolist() for span in segments(tokens.ids, VOCAB)]
    for cut in shorter:
        if cut is None:
            continue
        found = [cut.slice(*span) for span in segments(cut.ids, VOCAB)]
        assert all(one.ids.tolist() in whole for one in found if VOCAB.is_image(one.ids).any())
        assert np.flatnonzero(cut.ids == VOCAB.eos).tolist() == [0, cut.length - 1]
        masked = cm3_mask(cut, VOCAB, MaskLaw(rate=3.0, whole_text=0.2), np.random.default_rng(seed), cut.length + 6)
        assert masked.length <= cut.length + 6 and same(cm3_unmask(masked, VOCAB), cut)


@given(PARTS, st.integers(2, 60), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.7, 4.0]))
def test_a_document_and_its_masks_fit(parts: list[int], longest: int, seed: int, rate: float) -> None:
    tokens, law = document(*parts), MaskLaw(rate=rate)

    def masked(one: Tokens, room: int | None = None) -> Tokens:
        return cm3_mask(one, VOCAB, law, np.random.default_rng(seed), room)

    found, truncated, unmasked = fit(tokens, longest, VOCAB, masked)
    if found is None:
        assert truncate(tokens, longest, VOCAB) is None and not truncated and not unmasked
        return
    whole = cm3_unmask(found, VOCAB)
    assert found.length <= longest
    assert truncated == (whole.length < tokens.length) and (truncated or same(whole, tokens))
    assert same(found, masked(whole, longest)) or unmasked, "its masks are those of what is left of it"
    # It gives up words or masks only where there is no room for all.
    assert (not truncated and not unmasked) or masked(tokens).length > longest
    assert not unmasked or (found is whole or same(found, whole))


@given(PARTS, st.integers(1, 12))
def test_the_longest_text_gives_its_last_words(parts: list[int], number: int) -> None:
    tokens, longest = document(*parts), max(parts)
    cut = shorten_text(tokens, number, VOCAB)
    if longest <= number:
        assert cut is None
        return
    place = parts.index(longest)
    stop = document(*parts[: place + 1]).length - 1
    assert cut is not None and cut.ids.tolist() == [*tokens.ids[: stop - number], *tokens.ids[stop:]]
    assert cut.cells.tolist() == [*tokens.cells[: stop - number], *tokens.cells[stop:]]


def test_a_long_text_is_cut_between_characters() -> None:
    codec = tiny_model.codec()
    picture = PIL.Image.new("RGB", (32, 32), "red")
    document = Document.of("\u4e2d\u6587" * 30, picture, "short", picture)
    tokens = codec.encode(document)
    for most in range(1, 12):
        cut = cut_texts(tokens, most, codec.vocab, codec.text.decode_bytes)
        *first, second = (p.text for p in codec.decode(cut).parts if hasattr(p, "text"))
        assert len(first) == (most >= len(codec.text.encode("\u4e2d"))), "no text rather than a part of a character"
        assert all(document.text.startswith(one) and one for one in first)
        assert all(len(codec.text.encode(one)) <= most for one in first)
        assert second == "short" or len(codec.text.encode(second)) <= most
        assert cut.cells.tolist()[-17:] == tokens.cells.tolist()[-17:]
    assert cut_texts(tokens, 500, codec.vocab, codec.text.decode_bytes) is tokens


@pytest.mark.parametrize("parts", [["\u4e2d"], ["\u4e2d", "red"], ["red", "\u4e2d"], ["red", "\u4e2d", "red"]])
def test_a_text_without_a_whole_character_goes_with_its_border(parts: list[str]) -> None:
    codec = tiny_model.codec()
    picture = PIL.Image.new("RGB", (32, 32), "red")
    tokens = codec.encode(Document.of(*(picture if part == "red" else part for part in parts)))
    cut = cut_texts(tokens, 1, codec.vocab, codec.text.decode_bytes)
    left = Document.of(*(picture for part in parts if part == "red"))
    assert cut.ids.tolist() == codec.encode(left).ids.tolist()
