"""Documents before a query: the layout of the paper, cells and all, nothing cut, and K drawn by its shares."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_parts import VOCAB, document, same

from cm3.errors import ConfigError, DataError
from cm3.sequence.before import AugmentLaw, context_of, fitting, most_relevant, prepend, with_documents
from cm3.sequence.mask import MaskLaw, cm3_mask, cm3_unmask
from cm3.sequence.segments import segments
from cm3.vocab import Tokens

SIZES = st.tuples(st.integers(0, 6), st.sampled_from([0, -4, -9])).map(lambda s: tuple(filter(None, s))).filter(bool)
"""Words and a picture, or one of the two, for `document`."""


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=4), seed=st.integers(0, 100))
def test_the_layout_holds_every_part_once_and_in_order(sizes: list[tuple[int, ...]], seed: int) -> None:
    *documents, query = [document(*size, seed=seed + i) for i, size in enumerate(sizes)]
    whole = with_documents(query, documents, VOCAB)
    assert np.flatnonzero(whole.ids == VOCAB.eos).tolist() == [0, whole.length - 1]
    assert whole.length == query.length + sum(d.length - 1 for d in documents)
    # Cut at its breaks, it is the parts of the documents and of the query.
    parts = [d.slice(*span) for d in [*documents, query] for span in segments(d.ids, VOCAB)]
    found = [whole.slice(*span) for span in segments(whole.ids, VOCAB)]
    assert len(found) == len(parts) and all(same(a, b) for a, b in zip(found, parts, strict=True))
    assert int((whole.ids == VOCAB.brk).sum()) == len(parts) - 1
    # The query's own tokens are as they were, and at the end.
    assert same(whole.slice(whole.length - query.length + 1, whole.length), query.slice(1, query.length))
    assert same(whole, prepend(context_of(documents, VOCAB), query))
    # And it is a document like any other to the objective.
    masked = cm3_mask(whole, VOCAB, MaskLaw(rate=2.0), np.random.default_rng(seed))
    assert same(cm3_unmask(masked, VOCAB), whole)


def test_two_documents_by_hand() -> None:
    query, first, second = document(2, -4), document(1, -4, seed=1), document(3, seed=2)
    brk, eos = [VOCAB.brk], [VOCAB.eos]
    want = [*eos, *first.ids[1:-1], *brk, *second.ids[1:-1], *brk, *query.ids[1:-1], *eos]
    whole = with_documents(query, [first, second], VOCAB)
    assert whole.ids.tolist() == want
    assert whole.cells.tolist() == [0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0]
    assert same(with_documents(query, [], VOCAB), query)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=4), length=st.integers(3, 60))
def test_what_does_not_fit_is_dropped_whole_from_the_front(sizes: list[tuple[int, ...]], length: int) -> None:
    *documents, query = [document(*size, seed=i) for i, size in enumerate(sizes)]
    if query.length > length:
        with pytest.raises(
            DataError, match=f"augment: a query of {query.length} tokens does not fit {length}; raise the length"
        ):
            with_documents(query, documents, VOCAB, length)
        return
    whole, kept = with_documents(query, documents, VOCAB, length), fitting(query, documents, length)
    assert whole.length <= length
    assert all(a is b for a, b in zip(kept, documents[len(documents) - len(kept) :], strict=True))
    assert same(whole, with_documents(query, kept, VOCAB))
    if len(kept) < len(documents):
        one_more = documents[len(documents) - len(kept) - 1 :]
        assert with_documents(query, one_more, VOCAB).length > length


@given(
    st.lists(st.tuples(st.integers(3, 20), st.sampled_from([math.nan, 0.1, 0.5, 0.9])), max_size=4), st.integers(0, 60)
)
def test_the_most_relevant_are_taken_and_all_that_fit_beside_them(some: list[tuple[int, float]], room: int) -> None:
    lengths, scores = [n for n, _ in some], [s for _, s in some]
    used = most_relevant(lengths, scores, room)
    assert used == sorted(set(used)) and sum(lengths[i] - 1 for i in used) <= room
    order = sorted(range(len(some)), key=lambda i: (math.isnan(scores[i]), -scores[i] if scores[i] == scores[i] else 0))
    for at, i in enumerate(order):
        before = sum(lengths[j] - 1 for j in order[:at] if j in used)
        assert (i in used) == (before + lengths[i] - 1 <= room), "one is left out only for those more relevant than it"


def test_k_is_drawn_by_its_shares() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(AugmentLaw().draw(rng) for _ in range(4000))
    assert set(drawn) == {0, 1, 2, 3} and all(900 < n < 1100 for n in drawn.values())
    drawn = Counter(AugmentLaw((0.5, 0.0, 0.5)).draw(rng) for _ in range(2000))
    assert set(drawn) == {0, 2} and 900 < drawn[0] < 1100
    assert {AugmentLaw((1.0,)).draw(rng) for _ in range(50)} == {0}
    assert {AugmentLaw((0.0, 0.0, 0.0, 1.0)).draw(rng) for _ in range(50)} == {3}


@pytest.mark.parametrize("shares", [(), (0.2,) * 5])
def test_shares_are_one_to_four(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"augment.shares=\(.*\): must be 1 to 4 numbers, for 0, 1, 2, 3 documents"):
        AugmentLaw(shares)


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.6), (-0.5, 1.5), (float("nan"), 1.0)])
def test_shares_add_up(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="are shares, must be in 0..1 and add up to 1"):
        AugmentLaw(shares)


def test_what_is_no_whole_document_is_refused() -> None:
    good = document(2, -4)
    rule = "must be one whole document, </s> at both ends and nowhere else, and a part between"
    inner = Tokens.concat([good, good])
    for bad in (Tokens.of([]), good.slice(0, 3), good.slice(1, good.length), inner, Tokens.of([VOCAB.eos, VOCAB.eos])):
        with pytest.raises(DataError, match=f"augment, document 1: {rule}"):
            with_documents(good, [good, bad], VOCAB)
        with pytest.raises(DataError, match=f"augment, query: {rule}"):
            with_documents(bad, [], VOCAB)
    # A span in the middle: what was moved stands after the closing </s>. The law above sees it first.
    masked = Tokens.of([VOCAB.eos, VOCAB.mask(0), VOCAB.eos])
    with pytest.raises(DataError, match="augment, query: holds <mask> tokens; put documents before a query first"):
        with_documents(masked, [good], VOCAB)
