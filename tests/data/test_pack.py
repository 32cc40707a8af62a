"""Packing: whole documents only, each a small world of its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3.data.mask import MaskLaw, cm3_mask, cm3_unmask
from cm3.data.pack import Packer, pack
from cm3.errors import ConfigError, DataError
from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=16, masks=8, reserved=0)


def some(length: int, seed: int) -> Tokens:
    """`</s> ids </s>` of a length, cells wherever there is an image code."""
    ids = np.random.default_rng(seed).integers(VOCAB.text_start, VOCAB.size, length)
    ids[0] = ids[-1] = VOCAB.eos
    return Tokens.of(ids, np.where(VOCAB.is_image(ids), 1 + np.arange(length), 0))


@given(st.lists(st.integers(2, 16), max_size=20), st.integers(1, 4))
def test_every_document_stands_whole_and_alone(lengths: list[int], windows: int) -> None:
    documents = [some(n, i) for i, n in enumerate(lengths)]
    batch, taken = pack(documents, windows, 16, VOCAB)
    assert all(a.shape == (windows, 16) for a in batch)
    assert [a.dtype for a in batch] == [np.int64] * 5 + [np.float32]
    found = []
    for row in range(windows):
        numbers = batch.documents[row]
        present = numbers[numbers > 0]
        # 1, 2, ... side by side, then padding.
        assert (np.diff(present) >= 0).all() and set(present) == set(range(1, 1 + len(set(present))))
        assert (numbers[len(present) :] == 0).all()
        pad = numbers == 0
        assert (batch.ids[row, pad] == VOCAB.pad).all() and not batch.cells[row, pad].any()
        assert not batch.weights[row, pad].any()
        for number in sorted(set(present.tolist())):
            at = numbers == number
            ids, weights = batch.ids[row, at], batch.weights[row, at]
            found.append((ids.tolist(), batch.cells[row, at].tolist()))
            assert batch.positions[row, at].tolist() == list(range(len(ids)))
            # The next token of the same document; the last one predicts nothing.
            assert batch.targets[row, at][:-1].tolist() == ids[1:].tolist()
            assert weights.tolist() == [1.0] * (len(ids) - 1) + [0.0]
    assert sorted(found) == sorted((d.ids.tolist(), d.cells.tolist()) for d in documents[:taken])
    assert batch.fill == pytest.approx(sum(lengths[:taken]) / (windows * 16))
    if taken < len(documents):
        # The first that was left out fits nowhere.
        assert (16 - (batch.documents > 0).sum(1) < lengths[taken]).all()


def test_first_fit_fills_the_gaps() -> None:
    batch, taken = pack([some(n, n) for n in (10, 9, 6, 7)], 2, 16, VOCAB)
    assert taken == 4 and batch.fill == 1.0
    assert [sorted(set(row)) for row in batch.documents.tolist()] == [[1, 2], [1, 2]]


def test_the_masked_tail_is_never_cut() -> None:
    """Masking goes before packing: what is packed of a masked document can be unmasked."""
    rng, law = np.random.default_rng(0), MaskLaw(rate=2.0)
    plain = [some(int(n), i) for i, n in enumerate(rng.integers(4, 20, 30))]
    batch, taken = pack((cm3_mask(t, VOCAB, law, rng) for t in plain), 4, 64, VOCAB)
    assert taken > 8
    whole = []
    for row in range(4):
        for number in range(1, batch.documents[row].max() + 1):
            at = batch.documents[row] == number
            whole.append(cm3_unmask(Tokens.of(batch.ids[row, at], batch.cells[row, at]), VOCAB).ids.tolist())
    assert sorted(whole) == sorted(t.ids.tolist() for t in plain[:taken])


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="windows=0 must be at least 1 and length=8"):
        Packer(0, 8, VOCAB)
    with pytest.raises(ConfigError, match="length=1 at least 2"):
        Packer(1, 1, VOCAB)
    with pytest.raises(DataError, match="a document of 9 tokens does not fit a window of 8; raise the length"):
        Packer(1, 8, VOCAB).add(some(9, 0))


def test_the_tail_weighs_what_the_law_says() -> None:
    source = Tokens.of([VOCAB.eos, VOCAB.text_start, VOCAB.mask(0), VOCAB.eos])
    tail = Tokens.of([VOCAB.mask(0), VOCAB.text_start + 1, VOCAB.eoss])
    packer = Packer(1, 16, VOCAB, tail_weight=4.0)
    assert packer.add(Tokens.concat([source, tail])) and packer.add(some(5, 0))
    weights = packer.batch().weights[0]
    # Targets: three in the source, then `<mask:0>`, the span and its end; a document without a tail weighs 1.
    assert weights[:7].tolist() == [1, 1, 1, 4, 4, 4, 0]
    assert weights[7:12].tolist() == [1, 1, 1, 1, 0]
    assert not weights[12:].any()
