"""Documents by hand, the reference for everything in tests/sequence."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=40, masks=8, reserved=2)
PARTS = st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=5)
"""Parts of one document, for `document`."""


def document(*parts: int, vocab: Vocab = VOCAB, seed: int = 0) -> Tokens:
    """`</s> part <break> part ... </s>`: n > 0 is n words, n < 0 a picture of -n codes, 0 an inner border."""
    rng = np.random.default_rng(seed)
    pieces = [Tokens.of([vocab.eos])]
    for i, part in enumerate(parts):
        if part == 0:
            pieces.append(Tokens.of([vocab.eos, vocab.eos]))
            continue
        if i and parts[i - 1] != 0:
            pieces.append(Tokens.of([vocab.brk]))
        low, high = (vocab.text_start, vocab.image_start) if part > 0 else (vocab.image_start, vocab.size)
        cells = None if part > 0 else range(1, 1 - part)
        pieces.append(Tokens.of(rng.integers(low, high, abs(part)), cells))
    return Tokens.concat([*pieces, Tokens.of([vocab.eos])])


def same(a: Tokens, b: Tokens) -> bool:
    """Whether ids and cells are equal, and of one type."""
    return (
        a.ids.dtype == b.ids.dtype
        and a.cells.dtype == b.cells.dtype
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.cells, b.cells)
    )
