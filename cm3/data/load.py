"""Order, position and batches: the loader that training reads from.

A source is a pure function from a number to a document's tokens. The loader walks the numbers from 0, masks each
document with a generator of its own, and packs. So its whole state is one integer, and a loader made with that state
continues with the very next batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from cm3.data.mask import MaskLaw, cm3_mask
from cm3.data.pack import Batch, Packer
from cm3.errors import CheckpointError
from cm3.vocab import Tokens, Vocab


class Source(Protocol):
    """Documents by number. Asked for the same numbers, it must give the same tokens."""

    def tokens(self, indices: Sequence[int]) -> list[Tokens]:
        """Tokens of these documents, unmasked, each `</s> ... </s>`."""
        ...


class LoaderState(NamedTuple):
    """Where a loader stands: documents taken so far, and the seed that it must continue with."""

    next: int
    seed: int


class Loader:
    """Yields (batch, state): the state to save with what was learned from the batch."""

    def __init__(
        self,
        source: Source,
        vocab: Vocab,
        law: MaskLaw,
        *,
        windows: int,
        length: int,
        seed: int,
        state: LoaderState | None = None,
        ahead: int = 64,
    ) -> None:
        """`windows` of `length` tokens a batch; `ahead` documents are asked of the source at once.

        Raises `CheckpointError` for a state that was made with another seed.
        """
        if state is not None and state.seed != seed:
            raise CheckpointError(f"loader state has seed {state.seed}, this run has {seed}; resume with the same seed")
        self.source, self.vocab, self.law = source, vocab, law
        self.windows, self.length, self.seed, self.ahead = windows, length, seed, ahead
        self.next = state.next if state is not None else 0

    def __iter__(self) -> Iterator[tuple[Batch, LoaderState]]:
        """Without end."""
        ready: dict[int, Tokens] = {}
        while True:
            packer = Packer(self.windows, self.length, self.vocab, self.law.tail_weight)
            while True:
                if self.next not in ready:
                    # Chunks start at multiples of `ahead`, so a resumed run asks for the very same ones: an image
                    # tokenizer may round differently in another batch.
                    start = self.next - self.next % self.ahead
                    wanted = range(start, start + self.ahead)
                    ready = dict(zip(wanted, self.source.tokens(wanted), strict=True))
                rng = np.random.default_rng([self.seed, 0xC3, self.next])
                if not packer.add(cm3_mask(ready[self.next], self.vocab, self.law, rng)):
                    break
                self.next += 1
            yield packer.batch(), LoaderState(self.next, self.seed)
