"""Sequences with a weight for each token go through the loader as they are, among documents that are masked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.data.lanes import LoaderState, merge_states
from cm3.data.load import Loader, Source
from cm3.data.pack import Batch, lay_out
from cm3.errors import DataError
from cm3.sequence.answers import Weighted, weigh
from cm3.sequence.mask import MaskLaw
from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=16, masks=8, reserved=0)
LAW = MaskLaw(rate=3.0, tail_weight=4.0)


def lesson(i: int) -> Weighted:
    """`</s> number <mask:0> </s> <mask:0> word ... <eoss>`; its weights tell the number too, and are never 1 or 4."""
    span = [VOCAB.text_start + 250] * (1 + i % 5)
    number = [VOCAB.text_start + i // 200, VOCAB.text_start + i % 200]
    ids = [VOCAB.eos, *number, VOCAB.mask(0), VOCAB.eos, VOCAB.mask(0), *span, VOCAB.eoss]
    weights = np.zeros(len(ids), np.float32)
    weights[6:] = 7 + i / 1024
    return Weighted(Tokens.of(ids), weights)


class Mixed(Source):
    """Every third sequence is a lesson, the others documents that spell their number."""

    def __init__(self, together: int = 1) -> None:
        self.together = together

    def sequences(self, indices: Sequence[int]) -> list[Tokens | Weighted]:
        return [lesson(i) if i % 3 == 0 else self.plain(i) for i in indices]

    @staticmethod
    def plain(i: int) -> Tokens:
        words = [VOCAB.text_start + i // 200, VOCAB.text_start + i % 200]
        return Tokens.of([VOCAB.eos, *words, *[VOCAB.text_start + 251] * (i % 4), VOCAB.eos])


def loader(state: LoaderState | None = None, **changes: Any) -> Loader:
    options = {"windows": 6, "length": 40, "seed": 5, "source": Mixed()} | changes
    return Loader(options.pop("source"), VOCAB, LAW, state=state, **options)


def parts(batch: Batch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and weights, these of each id as a target, of every document of a batch."""
    found = []
    for ids, numbers, weights in zip(batch.ids, batch.documents, batch.weights, strict=True):
        for n in range(1, numbers.max() + 1):
            at = np.flatnonzero(numbers == n)
            found.append((ids[at], np.r_[0, weights[at[:-1]]]))
            assert weights[at[-1]] == 0, "the last token of a document predicts nothing"
    return found


def test_weights_come_through_and_nothing_of_a_lesson_is_masked() -> None:
    lessons, masked = 0, 0
    for batch, _ in itertools.islice(loader(), 40):
        for ids, weights in parts(batch):
            i = int(ids[1] - VOCAB.text_start) * 200 + int(ids[2] - VOCAB.text_start)
            if not VOCAB.is_mask(ids[1:3]).any() and i % 3 == 0:
                want = lesson(i)
                assert ids.tolist() == want.tokens.ids.tolist() and weights.tolist() == want.weights.tolist()
                lessons += 1
            else:
                tail = np.flatnonzero(ids == VOCAB.eos)[-1]
                assert (weights[1 : tail + 1] == 1).all() and (weights[tail + 1 :] == LAW.tail_weight).all()
                masked += bool(VOCAB.is_mask(ids).any())
    assert lessons > 250 and masked > 400


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([1, 4, 16]), st.integers(1, 7), st.sampled_from([(1, 2), (2, 3), (6, 1), (3, 2)]))
def test_a_run_with_lessons_goes_on_with_the_very_next_batch(together: int, cut: int, ranks: tuple[int, int]) -> None:
    """Stopped at any batch and taken up on any number of ranks: the same windows, weights and all."""
    whole = list(itertools.islice(loader(source=Mixed(together)), cut + 3))
    states, first = [], []
    for rank in range(ranks[0]):
        run = list(itertools.islice(loader(source=Mixed(together), rank=rank, ranks=ranks[0]), cut))
        states.append(run[-1][1])
        first.append(run[-1][0])
    state = merge_states(states)
    assert state == whole[cut - 1][1]
    runs = [
        list(itertools.islice(loader(state, source=Mixed(together), rank=r, ranks=ranks[1]), 3))
        for r in range(ranks[1])
    ]
    for k in range(3):
        joined = [np.stack(a, axis=1).reshape(6, -1) for a in zip(*(run[k][0] for run in runs), strict=True)]
        assert all(np.array_equal(a, b) for a, b in zip(joined, whole[cut + k][0], strict=True))


def test_a_lesson_that_is_too_long_is_skipped_and_never_cut() -> None:
    class Long(Mixed):
        def sequences(self, indices: Sequence[int]) -> list[Tokens | Weighted]:
            ids = Tokens.of([VOCAB.eos, *[VOCAB.text_start] * 60, VOCAB.eos])
            long = Weighted(ids, np.full(62, 9, np.float32))
            return [long if i % 3 == 0 else self.plain(i) for i in indices]

    made = loader(source=Long(), windows=4)
    for batch, _ in itertools.islice(made, 20):
        assert not (batch.weights == 9).any()
    assert made.counts.skipped > 50 and made.counts.truncated == 0
    assert any((b.weights == 9).any() for b, _ in itertools.islice(loader(source=Long(), windows=4, length=64), 20))


def test_every_token_has_its_weight() -> None:
    class Short(Mixed):
        def sequences(self, indices: Sequence[int]) -> list[Tokens | Weighted]:
            return [Weighted(self.plain(1), np.ones(2, np.float32)) for _ in indices]

    with pytest.raises(DataError, match="pack, document 0: has 2 weights for 5 tokens; give one for each"):
        next(iter(loader(source=Short())))


def test_weights_stand_at_the_place_that_predicts() -> None:
    one = Weighted(Tokens.of([VOCAB.eos, 50, 51, VOCAB.eos]), np.array([9, 0.5, 2, 3], np.float32))
    batch = lay_out([[one, weigh(Tokens.of([VOCAB.eos, 52, VOCAB.eos]), VOCAB, tail_weight=4)]], 8, VOCAB)
    assert batch.weights.tolist() == [[0.5, 2, 3, 0, 1, 1, 0, 0]]
    assert batch.targets.tolist()[0][:3] == [50, 51, VOCAB.eos]
