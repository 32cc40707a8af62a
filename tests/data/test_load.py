"""The loader: its whole state is one number, and with it the next batch is the very next batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from cm3.data.load import Loader, LoaderState
from cm3.data.mask import MaskLaw, cm3_mask, cm3_unmask
from cm3.data.pack import Batch
from cm3.errors import CheckpointError, DataError
from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=16, masks=8, reserved=0)


class Numbers:
    """Document i spells i, with some words after it; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def tokens(self, indices: Sequence[int]) -> list[Tokens]:
        self.asked.append(list(indices))
        return [self.one(i) for i in indices]

    @staticmethod
    def one(i: int) -> Tokens:
        words = [VOCAB.text_start + i // 200, VOCAB.text_start + i % 200] + [VOCAB.text_start + 250] * (i % 7)
        return Tokens.of([VOCAB.eos, *words, VOCAB.eos])


def loader(state: LoaderState | None = None, *, seed: int = 5, ahead: int = 16, length: int = 48) -> Loader:
    return Loader(Numbers(), VOCAB, MaskLaw(rate=1.0), windows=2, length=length, seed=seed, state=state, ahead=ahead)


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def documents(batch: Batch) -> list[int]:
    """Numbers of the documents of a batch, unmasked."""
    found = []
    for ids, numbers in zip(batch.ids, batch.documents, strict=True):
        for n in range(1, numbers.max() + 1):
            text = cm3_unmask(Tokens.of(ids[numbers == n]), VOCAB).ids - VOCAB.text_start
            found.append(int(text[1]) * 200 + int(text[2]))
    return sorted(found)


def test_every_document_comes_once_and_in_order() -> None:
    start = 0
    for batch, state in itertools.islice(loader(), 12):
        assert documents(batch) == list(range(start, state.next)) and state.next > start
        start = state.next
    assert start > 64


@pytest.mark.parametrize("ahead", [1, 3, 16, 64])
def test_a_loader_made_with_a_state_continues_bit_for_bit(ahead: int) -> None:
    run = list(itertools.islice(loader(), 8))
    for cut in (1, 4, 6):
        rest = list(itertools.islice(loader(run[cut - 1][1], ahead=ahead), 8 - cut))
        assert all(same(a, b) and s == t for (a, s), (b, t) in zip(run[cut:], rest, strict=True))


def test_the_seed_decides_the_masks_and_each_document_has_its_own() -> None:
    first = next(iter(loader()))[0]
    assert same(first, next(iter(loader()))[0])
    assert not same(first, next(iter(loader(seed=6)))[0])
    # The mask of a document depends on the seed and on its number only.
    rows = zip(first.ids, first.documents, strict=True)
    found = [ids[numbers == n].tolist() for ids, numbers in rows for n in range(1, numbers.max() + 1)]
    want = [cm3_mask(Numbers.one(i), VOCAB, MaskLaw(), np.random.default_rng([5, 0xC3, i])) for i in range(len(found))]
    assert sorted(found) == sorted(t.ids.tolist() for t in want) and len(found) > 5


def test_a_resumed_run_asks_for_the_same_chunks() -> None:
    """An image tokenizer may round differently in another batch, so chunks do not depend on where a run began."""
    whole = loader()
    run = list(itertools.islice(whole, 6))
    assert isinstance(whole.source, Numbers) and any(state.next % 16 for _, state in run[:5])
    for cut in range(1, 6):
        rest = loader(run[cut - 1][1])
        list(itertools.islice(rest, 6 - cut))
        assert isinstance(rest.source, Numbers)
        assert all(chunk in whole.source.asked for chunk in rest.source.asked)
        assert all(len(chunk) == 16 and chunk[0] % 16 == 0 for chunk in rest.source.asked)


def test_refusals() -> None:
    with pytest.raises(CheckpointError, match="loader state has seed 5, this run has 6; resume with the same seed"):
        loader(LoaderState(3, 5), seed=6)
    with pytest.raises(DataError, match="does not fit a window of 8; raise the length"):
        list(itertools.islice(loader(length=8), 9))
