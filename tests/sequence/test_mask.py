"""The CM3 objective: spans stay inside their segments, come back exactly, and are drawn as the law says."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_parts import VOCAB, document, same

from cm3.errors import ConfigError, DataError
from cm3.sequence.mask import (
    MaskLaw,
    cm3_mask,
    cm3_unmask,
    hide,
    move_spans,
    put_back,
    row_spans,
    split_tails,
    thin,
)
from cm3.sequence.mask import tail as tail_of
from cm3.sequence.segments import segments
from cm3.vocab import Tokens, Vocab

COLUMNS = 4


def tail(masked: Tokens, vocab: Vocab = VOCAB) -> list[Tokens]:
    """The spans of a masked document, read by hand: from the second half of its masks to each <eoss>."""
    where = np.flatnonzero(vocab.is_mask(masked.ids)).tolist()
    starts = where[len(where) // 2 :]
    return [masked.slice(a + 1, b - 1) for a, b in zip(starts, [*starts[1:], masked.length], strict=False)]


PARTS = st.lists(st.sampled_from([0, 1, 2, 7, -1, -8, -12]), min_size=1, max_size=7)
LAWS = st.builds(
    MaskLaw,
    law=st.sampled_from(["segments", "published"]),
    rate=st.sampled_from([0.0, 0.5, 1.0, 3.0, 16.0]),
    whole_text=st.sampled_from([0.0, 0.5, 1.0]),
    whole_image=st.sampled_from([0.0, 0.5, 1.0]),
    box=st.sampled_from([0.0, 0.5, 1.0]),
    columns=st.just(COLUMNS),
    most=st.sampled_from([0, 1, 2]),
    text=st.sampled_from([None, 0.0, 0.3, 1.0]),
    pieces=st.sampled_from([1, 2, 4]),
)


@settings(max_examples=150)
@given(PARTS, LAWS, st.integers(0, 2**32 - 1))
def test_nothing_is_lost_and_no_span_crosses_a_border(parts: list[int], law: MaskLaw, seed: int) -> None:
    tokens = document(*parts, seed=seed)
    masked = cm3_mask(tokens, VOCAB, law, np.random.default_rng(seed))
    assert same(cm3_unmask(masked, VOCAB), tokens)
    assert masked.ids.dtype == tokens.ids.dtype and masked.cells.dtype == tokens.cells.dtype
    is_mask = VOCAB.is_mask(masked.ids)
    number, odd = divmod(int(is_mask.sum()), 2)
    assert not odd and number <= VOCAB.masks and masked.length == tokens.length + 3 * number
    # Every token of the document is there once, beside exactly the masks and ends that the spans need.
    kept = ~is_mask & (masked.ids != VOCAB.eoss)
    pairs = sorted(zip(masked.ids[kept].tolist(), masked.cells[kept].tolist(), strict=True))
    assert pairs == sorted(zip(tokens.ids.tolist(), tokens.cells.tolist(), strict=True))
    assert int((masked.ids == VOCAB.eoss).sum()) == number
    # Masks count up from 0, once in the source and once in the tail.
    assert masked.ids[is_mask].tolist() == [VOCAB.mask(i) for i in range(number)] * 2
    for span in tail(masked):
        assert span.length > 0
        assert not np.isin(span.ids, [VOCAB.brk, VOCAB.eos]).any()
        assert VOCAB.is_image(span.ids).all() or VOCAB.is_text(span.ids).all()
    if law.rate == 0:
        assert same(masked, tokens)


@settings(max_examples=30)
@given(PARTS, LAWS, st.integers(0, 2**32 - 1))
def test_the_generator_decides(parts: list[int], law: MaskLaw, seed: int) -> None:
    tokens = document(*parts)
    one, two = (cm3_mask(tokens, VOCAB, law, np.random.default_rng(seed)) for _ in range(2))
    assert same(one, two)


@given(st.data())
def test_any_spans_come_back(data: st.DataObject) -> None:
    tokens = document(3, -8, 5, seed=1)
    cuts = data.draw(st.lists(st.integers(0, tokens.length), unique=True, max_size=2 * VOCAB.masks).map(sorted))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    moved = move_spans(tokens, spans[::-1], VOCAB)
    assert same(cm3_unmask(moved, VOCAB), tokens)
    assert [same(got, tokens.slice(*span)) for got, span in zip(tail(moved), spans, strict=True)] == [True] * len(spans)


@given(PARTS, LAWS, st.integers(0, 2**32 - 1))
def test_tails_round_trip(parts: list[int], law: MaskLaw, seed: int) -> None:
    tokens = document(*parts, seed=seed)
    masked = cm3_mask(tokens, VOCAB, law, np.random.default_rng(seed))
    source, spans = split_tails(masked, VOCAB)
    assert [same(a, b) for a, b in zip(spans, tail(masked), strict=True)] == [True] * len(spans)
    assert same(Tokens.concat([source, *(tail_of(i, s, VOCAB) for i, s in enumerate(spans))]), masked)
    assert same(put_back(source, spans, VOCAB), tokens)
    assert source.ids[-1] == VOCAB.eos and int(VOCAB.is_mask(source.ids).sum()) == len(spans)


def test_the_layout_of_the_module() -> None:
    v = VOCAB
    a, red, circle = (v.text_start + i for i in range(3))
    image = range(v.image_start, v.image_start + 4)
    tokens = Tokens.of([v.eos, a, red, circle, v.brk, *image, v.eos], [0] * 5 + [1, 2, 3, 4] + [0])
    moved = move_spans(tokens, [(2, 3)], v)
    want = [v.eos, a, v.mask(0), circle, v.brk, *image, v.eos, v.mask(0), red, v.eoss]
    assert moved.ids.tolist() == want and moved.cells.tolist() == [0] * 5 + [1, 2, 3, 4] + [0] * 4
    assert segments(tokens.ids, v) == [(1, 4), (5, 9)]


def chosen(rate: float) -> float:
    """P(the caption is among the chosen segments) of `caption, picture`: half of one span, all of two or more."""
    return math.exp(-rate) * rate / 2 + 1 - math.exp(-rate) * (1 + rate)


def close(count: int, trials: int, p: float) -> bool:
    """Within five standard deviations of the binomial."""
    return abs(count - trials * p) <= 5 * math.sqrt(trials * p * (1 - p)) + 1e-9


@pytest.mark.parametrize(("rate", "whole"), [(1.0, 0.5), (1.0, 0.0), (0.4, 1.0), (3.0, 0.2)])
def test_a_caption_is_masked_as_often_as_the_law_says(rate: float, whole: float) -> None:
    words, trials = 9, 3000
    tokens, law = document(words, -16), MaskLaw(rate=rate, whole_text=whole)
    rng = np.random.default_rng(7)
    any_, all_ = 0, 0
    for _ in range(trials):
        spans = [s for s in tail(cm3_mask(tokens, VOCAB, law, rng)) if VOCAB.is_text(s.ids).all()]
        assert len(spans) <= 1
        any_ += len(spans)
        all_ += sum(s.length == words for s in spans)
    # A uniform part has two of ten borders: both ends of the caption in 2 of 100 cases.
    part = 2 / (words + 1) ** 2
    assert close(any_, trials, chosen(rate))
    assert close(all_, trials, chosen(rate) * (whole + (1 - whole) * part))


def test_text_and_picture_are_chosen_alike() -> None:
    tokens, law, rng, trials = document(9, -16), MaskLaw(rate=1.0), np.random.default_rng(3), 2000
    kinds = [bool(VOCAB.is_image(s.ids).all()) for _ in range(trials) for s in tail(cm3_mask(tokens, VOCAB, law, rng))]
    assert close(sum(kinds), len(kinds), 0.5)


@pytest.mark.parametrize("text", [0.0, 0.3, 1.0])
def test_the_first_segment_is_a_text_as_often_as_the_law_says(text: float) -> None:
    tokens, rng, trials = document(9, -16), np.random.default_rng(3), 2000
    law = MaskLaw(rate=16, most=1, text=text, whole_text=1.0, whole_image=1.0)
    spans = [tail(cm3_mask(tokens, VOCAB, law, rng)) for _ in range(trials)]
    assert all(len(s) == 1 for s in spans)  # Poisson(16) is never 0 here
    assert close(sum(bool(VOCAB.is_text(s[0].ids).all()) for s in spans), trials, text)


def test_a_document_without_a_picture_has_its_text_masked_whatever_the_law_prefers() -> None:
    law = MaskLaw(rate=16, most=1, text=0.0, whole_text=1.0)
    masked = cm3_mask(document(9), VOCAB, law, np.random.default_rng(0))
    assert [s.length for s in tail(masked)] == [9]


def test_one_to_so_many_pieces_of_a_text_are_masked() -> None:
    tokens, rng, trials = document(20, -16), np.random.default_rng(5), 3000
    law = MaskLaw(rate=16, most=1, text=1.0, whole_text=0.0, pieces=3)
    numbers = [len(tail(cm3_mask(tokens, VOCAB, law, rng))) for _ in range(trials)]
    assert all(close(numbers.count(n), trials, 1 / 3) for n in (1, 2, 3))
    short = [len(tail(cm3_mask(document(3, -16), VOCAB, law, rng))) for _ in range(100)]
    assert set(short) == {1, 2}, "two pieces and a token between them are all that three tokens have room for"


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_segments_are_masked_than_the_law_allows(most: int) -> None:
    tokens, rng = document(3, -16, 4, -16), np.random.default_rng(5)
    law = MaskLaw(rate=16, most=most, whole_text=1.0, whole_image=1.0)
    assert {len(tail(cm3_mask(tokens, VOCAB, law, rng))) for _ in range(50)} == {most}


def test_the_published_law_practically_never_masks_a_caption() -> None:
    """docs/paper.md 3.4 has 0.000 for a caption of about nine words beside 1,024 codes; ours masks 45%."""
    vocab = Vocab(text=256, image=8192, masks=512, reserved=0)
    tokens, rng, trials = document(9, -1024, vocab=vocab), np.random.default_rng(0), 1500

    def share(law: MaskLaw) -> float:
        masked = (cm3_mask(tokens, vocab, law, rng) for _ in range(trials))
        return sum(any(vocab.is_text(s.ids).any() for s in tail(m, vocab)) for m in masked) / trials

    assert share(MaskLaw(law="published")) < 0.002
    assert share(MaskLaw()) == pytest.approx(chosen(1.0), abs=0.07)


def test_the_published_law_draws_its_number_of_spans() -> None:
    """Poisson with 0 allowed: 37% of the documents stay plain, and a few more whose span came out empty."""
    tokens, rng, trials = document(30, -32), np.random.default_rng(0), 3000
    masked = [cm3_mask(tokens, VOCAB, MaskLaw(law="published"), rng) for _ in range(trials)]
    plain = sum(m.length == tokens.length for m in masked) / trials
    assert math.exp(-1) - 0.03 < plain < math.exp(-1) + 0.06


@pytest.mark.parametrize("seed", range(40))
def test_a_box_is_a_rectangle(seed: int) -> None:
    rows = 6
    tokens = document(2, -rows * COLUMNS)
    law = MaskLaw(rate=16, whole_image=0.0, whole_text=1.0, box=1.0, columns=COLUMNS)
    spans = [s for s in tail(cm3_mask(tokens, VOCAB, law, np.random.default_rng(seed))) if VOCAB.is_image(s.ids).all()]
    cells = np.concatenate([s.cells for s in spans]) - 1
    y, x = np.divmod(cells, COLUMNS)
    height, width = int(y.max() - y.min()) + 1, int(x.max() - x.min()) + 1
    assert len(spans) == height and all(s.length == width for s in spans)
    assert sorted(cells.tolist()) == [
        r * COLUMNS + c for r in range(y.min(), y.min() + height) for c in range(x.min(), x.min() + width)
    ]


def test_every_box_can_come() -> None:
    law = MaskLaw(rate=16, whole_image=0.0, box=1.0, columns=2)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        spans = tail(cm3_mask(document(-4), VOCAB, law, rng))
        seen.add(tuple(sorted(np.concatenate([s.cells for s in spans]).tolist())))
    assert seen == {(1,), (2,), (3,), (4,), (1, 2), (3, 4), (1, 3), (2, 4), (1, 2, 3, 4)}


@pytest.mark.parametrize("seed", range(30))
def test_masks_that_run_out_leave_rectangles_whole(seed: int) -> None:
    vocab = replace(VOCAB, masks=5, image=48)
    law = MaskLaw(rate=16, whole_image=0.0, box=1.0, columns=COLUMNS)
    tokens = document(-16, -16, -16, vocab=vocab)
    # Code 16 p + i in cell i of picture p, so that a span says which picture it is of.
    image = vocab.is_image(tokens.ids)
    tokens.ids[image] = vocab.image_start + np.arange(48)
    masked = cm3_mask(tokens, vocab, law, np.random.default_rng(seed))
    assert same(cm3_unmask(masked, vocab), tokens)
    gone = np.concatenate([s.ids for s in tail(masked, vocab)]) - vocab.image_start
    for picture in set((gone // 16).tolist()):
        y, x = np.divmod(gone[gone // 16 == picture] % 16, COLUMNS)
        assert (np.ptp(y) + 1) * (np.ptp(x) + 1) == len(x)


def test_row_spans() -> None:
    assert row_spans(10, 4, range(1, 3), 1, 3) == [(15, 17), (19, 21)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"law": "clip"}, "mask.law='clip': must be 'segments' or 'published'"),
        ({"rate": -0.1}, "mask.rate=-0.1: must be in 0..16"),
        ({"rate": 17}, "mask.rate=17: must be in 0..16"),
        ({"most": -1}, r"mask.most=-1: must be 0 \(no limit\) or more"),
        ({"pieces": 0}, "mask.pieces=0: must be in 1..16"),
        ({"text": 1.5}, "mask.text=1.5: is a probability"),
        ({"whole_text": 1.5}, "mask.whole_text=1.5: is a probability"),
        ({"whole_image": -1}, "mask.whole_image=-1: is a probability"),
        ({"box": 2, "columns": 4}, "mask.box=2: is a probability"),
        ({"box": 0.5}, "mask.columns=0: must be the columns of the image grid when mask.box > 0"),
        ({"tail_weight": 0}, "mask.tail_weight=0: must be over 0 and at most 100"),
    ],
)
def test_law_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MaskLaw(**values)


def test_a_document_is_masked_once() -> None:
    rng = np.random.default_rng(0)
    masked = move_spans(document(3), [(1, 2)], VOCAB)
    with pytest.raises(DataError, match="holds <mask> tokens already; mask a document once"):
        cm3_mask(masked, VOCAB, MaskLaw(), rng)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(1, 1)], "span 1..1 is empty, overlaps or is past the end"),
        ([(1, 3), (2, 4)], "span 2..4 is empty, overlaps or is past the end"),
        ([(1, 99)], r"span 1..99 is empty, overlaps or is past the end \(14\)"),
        ([(i, i + 1) for i in range(9)], "9 spans, the vocabulary has 8 masks; raise vocab.masks"),
    ],
)
def test_spans_that_cannot_move_are_refused(spans: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        move_spans(document(12), spans, VOCAB)


def test_a_tail_that_does_not_answer_is_refused() -> None:
    v, text = VOCAB, VOCAB.text_start
    rule = "each <mask:i> must stand once in the source and once in the tail, in one order"
    m0, m1 = v.mask(0), v.mask(1)
    for ids in (
        [v.eos, m0, v.eos],
        [v.eos, m0, v.eos, m1, text, v.eoss],
        [v.eos, m0, m1, v.eos, m1, text, v.eoss, m0, text, v.eoss],
        [v.eos, m0, m0, v.eos, m0, text, v.eoss, m0, text, v.eoss],
    ):
        with pytest.raises(DataError, match=rule):
            cm3_unmask(Tokens.of(ids), v)
    for end in ([text], [text, v.eos], []):
        with pytest.raises(DataError, match="the span after <mask:0> does not end with <eoss>"):
            cm3_unmask(Tokens.of([v.eos, m0, v.eos, m0, *end]), v)


@settings(max_examples=100)
@given(PARTS, LAWS, st.integers(0, 2**32 - 1))
def test_only_codes_of_the_last_image_are_hidden(parts: list[int], law: MaskLaw, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = cm3_mask(document(*parts, seed=seed), VOCAB, law, rng)
    shown = hide(tokens, VOCAB, replace(law, hide=1.0), rng)
    firsts = np.flatnonzero(tokens.cells == 1)
    told = len(firsts) and VOCAB.is_text(tokens.ids[firsts[-1] :]).any()
    if shown is None:
        assert told or not len(firsts)
        return
    assert not told, "words that tell a picture are told of one that is seen"
    other = shown != tokens.ids
    assert (shown[other] == VOCAB.unk).all() and (tokens.cells[other] > 0).all()
    assert not other[: firsts[-1]].any()


def test_codes_are_hidden_as_often_as_the_law_says() -> None:
    tokens, rng = document(3, -8, 2, -8), np.random.default_rng(0)
    assert hide(tokens, VOCAB, MaskLaw(), rng) is None
    found = [hide(tokens, VOCAB, MaskLaw(hide=0.4), rng) for _ in range(2000)]
    some = [int((shown != tokens.ids).sum()) for shown in found if shown is not None]
    assert 0.35 < len(some) / len(found) < 0.45
    # half of them hide all eight codes, the others a share that is drawn
    assert 0.5 < some.count(8) / len(some) < 0.65 and len(set(some)) == 9


def test_a_share_of_hidden_codes_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"mask.hide=1.5: is a probability, must be in 0..1"):
        MaskLaw(hide=1.5)


def test_a_picture_that_words_tell_afterwards_is_seen() -> None:
    """A caption that was moved behind its picture is told of that picture."""
    tokens, law = document(3, -8), MaskLaw(rate=16, text=1.0, whole_text=1.0, most=1, hide=1.0)
    masked = cm3_mask(tokens, VOCAB, law, np.random.default_rng(0))
    assert VOCAB.is_text(masked.ids[np.flatnonzero(masked.cells)[-1] :]).any(), "the caption is behind the picture"
    assert all(hide(masked, VOCAB, law, np.random.default_rng(seed)) is None for seed in range(50))
    assert hide(tokens, VOCAB, law, np.random.default_rng(0)) is not None


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=1, max_size=40), st.sampled_from([0.0, 0.5, 1.0]))
def test_only_codes_between_two_of_their_own_kind_are_left_out(codes: list[int], share: float) -> None:
    ids = [VOCAB.eos, *[VOCAB.text_start] * 4, VOCAB.brk, *(VOCAB.image_start + c for c in codes), VOCAB.eos]
    cells = [0] * 6 + list(range(1, len(codes) + 1)) + [0]
    kept = thin(Tokens.of(ids, cells), VOCAB, MaskLaw(thin=share), np.random.default_rng(len(codes)))
    inner = range(1, len(ids) - 1)
    between = np.array([False, *(ids[i - 1] == ids[i] == ids[i + 1] and cells[i] > 0 for i in inner), False])
    if share == 0 or not between.any():
        assert kept is None
    elif share == 1:
        assert kept is not None and (kept == ~between).all()
    else:
        assert kept is None or kept[~between].all()


def test_codes_are_left_out_as_often_as_the_law_says() -> None:
    flat = Tokens.of([VOCAB.eos, VOCAB.brk, *[VOCAB.image_start] * 4002, VOCAB.eos])
    kept = thin(flat, VOCAB, MaskLaw(thin=0.9), np.random.default_rng(0))
    assert kept is not None and 360 < int(kept.sum()) - 5 < 440


def test_a_share_to_leave_out_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"mask.thin=-0.5: is a probability, must be in 0..1"):
        MaskLaw(thin=-0.5)
