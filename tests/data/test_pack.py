"""Packing: whole documents only, each a small world of its own."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cm3.data.pack import Batch, best_fill, lay_out
from cm3.sequence.answers import weigh
from cm3.sequence.mask import MaskLaw, cm3_mask, cm3_unmask
from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=16, masks=8, reserved=0)


def some(length: int, seed: int) -> Tokens:
    """`</s> ids </s>` of a length, cells wherever there is an image code."""
    ids = np.random.default_rng(seed).integers(VOCAB.text_start, VOCAB.size, length)
    ids[0] = ids[-1] = VOCAB.eos
    return Tokens.of(ids, np.where(VOCAB.is_image(ids), 1 + np.arange(length), 0))


def taken(batch: Batch, row: int, number: int) -> Tokens:
    at = batch.documents[row] == number
    return Tokens.of(batch.ids[row, at], batch.cells[row, at])


@given(st.lists(st.lists(st.integers(2, 16), max_size=4), min_size=1, max_size=4))
def test_every_document_stands_whole_and_alone(lengths: list[list[int]]) -> None:
    rows = [[some(n, 7 * i + j) for j, n in enumerate(row)] for i, row in enumerate(lengths)]
    batch = lay_out([[weigh(t, VOCAB) for t in row] for row in rows], 64, VOCAB)
    assert all(a.shape == (len(rows), 64) for a in batch)
    assert [a.dtype for a in batch] == [np.int64] * 5 + [np.float32]
    for row, documents in enumerate(rows):
        numbers = batch.documents[row]
        present = numbers[numbers > 0]
        # 1, 2, ... side by side, then padding.
        assert present.tolist() == [n for n, d in enumerate(documents, 1) for _ in range(d.length)]
        pad = numbers == 0
        assert not pad[: len(present)].any()
        assert (batch.ids[row, pad] == VOCAB.pad).all() and not batch.cells[row, pad].any()
        assert not batch.weights[row, pad].any()
        for number, tokens in enumerate(documents, 1):
            at = numbers == number
            assert batch.ids[row, at].tolist() == tokens.ids.tolist()
            assert batch.cells[row, at].tolist() == tokens.cells.tolist()
            assert batch.positions[row, at].tolist() == list(range(tokens.length))
            # The next token of the same document; the last one predicts nothing.
            assert batch.targets[row, at][:-1].tolist() == tokens.ids[1:].tolist()
            assert batch.weights[row, at].tolist() == [1.0] * (tokens.length - 1) + [0.0]
    assert batch.fill == sum(map(sum, lengths)) / (len(rows) * 64)


def test_the_masked_tail_is_never_cut() -> None:
    """Masking goes before packing: what is packed of a masked document can be unmasked."""
    rng, law = np.random.default_rng(0), MaskLaw(rate=2.0)
    plain = [some(int(n), i) for i, n in enumerate(rng.integers(4, 20, 6))]
    batch = lay_out([[weigh(cm3_mask(t, VOCAB, law, rng), VOCAB) for t in plain]], 256, VOCAB)
    whole = [cm3_unmask(taken(batch, 0, n), VOCAB).ids.tolist() for n in range(1, 7)]
    assert whole == [t.ids.tolist() for t in plain]


def test_the_tail_weighs_what_the_law_says() -> None:
    source = Tokens.of([VOCAB.eos, VOCAB.text_start, VOCAB.mask(0), VOCAB.eos])
    tail = Tokens.of([VOCAB.mask(0), VOCAB.text_start + 1, VOCAB.eoss])
    rows = [[weigh(one, VOCAB, tail_weight=4.0) for one in (Tokens.concat([source, tail]), some(5, 0))]]
    weights = lay_out(rows, 16, VOCAB).weights[0]
    # Targets: three in the source, then `<mask:0>`, the span and its end; a document without a tail weighs 1.
    assert weights[:7].tolist() == [1, 1, 1, 4, 4, 4, 0]
    assert weights[7:12].tolist() == [1, 1, 1, 1, 0]
    assert not weights[12:].any()


@given(st.lists(st.integers(1, 30), max_size=8), st.integers(0, 80), st.booleans())
def test_the_best_fill_is_the_best_of_all(lengths: list[int], room: int, first: bool) -> None:
    first = first and bool(lengths) and lengths[0] <= room
    chosen = best_fill(lengths, room, first=first)
    every = [s for k in range(len(lengths) + 1) for s in itertools.combinations(range(len(lengths)), k)]
    totals = [sum(lengths[i] for i in s) for s in every if not first or 0 in s]
    assert chosen == sorted(set(chosen)) and (0 in chosen or not first)
    assert sum(lengths[i] for i in chosen) == max(t for t in totals if t <= room)


def test_of_equals_the_earlier_are_taken() -> None:
    assert best_fill([5, 5, 5, 5], 11) == [0, 1]
    assert best_fill([7, 2, 5, 4, 3], 9) == [0, 1]
    assert best_fill([4, 8], 9, first=True) == [0] and best_fill([4, 8], 9) == [1]


@given(st.lists(st.tuples(st.integers(2, 16), st.integers(0, 99)), min_size=1, max_size=4))
def test_what_is_left_out_leaves_the_rest_where_it_was(drawn: list[tuple[int, int]]) -> None:
    """Those that stay keep position, cell and target, so a model that sees no other token gives what it gave."""
    whole = [weigh(some(n, seed), VOCAB) for n, seed in drawn]
    rngs = [np.random.default_rng(seed) for _, seed in drawn]
    thinned = [one._replace(kept=rng.random(one.tokens.length) < 0.5) for one, rng in zip(whole, rngs, strict=True)]
    before, after = lay_out([whole], 64, VOCAB), lay_out([thinned], 64, VOCAB)
    for number, one in enumerate(thinned, 1):
        at, now = before.documents[0] == number, after.documents[0] == number
        assert now.sum() == one.length
        for field in ("ids", "cells", "positions", "targets", "weights"):
            assert getattr(after, field)[0, now].tolist() == getattr(before, field)[0, at][one.kept].tolist(), field
    assert (after.documents[0] > 0).sum() == sum(one.length for one in thinned)
