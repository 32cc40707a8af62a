"""A document and its neighbours as one sequence: what retrieval adds to a training example.

    </s> (text <break> image <break>)*K text <break> image </s>

Paper B.1 and the authors' code (docs/paper.md 1.4): borders between documents are `<break>` like those within, one
`</s>` stands at each end, and every token weighs 1. Masking comes after, so spans are drawn in documents and query
alike; packing after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cm3.errors import ConfigError, DataError
from cm3.vocab import Tokens, Vocab


@dataclass(frozen=True)
class AugmentLaw:
    """How many documents an example gets. Raises `ConfigError` for shares that are none."""

    shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    """Share of the examples with 0, 1, 2, 3 documents; those with 0 keep generation without any in distribution."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.shares) <= 4:
            raise ConfigError(f"augment.shares={self.shares}: must be 1 to 4 numbers, for 0, 1, 2, 3 documents")
        if any(not 0 <= s <= 1 for s in self.shares) or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(f"augment.shares={self.shares}: are shares, must be in 0..1 and add up to 1")

    def draw(self, rng: np.random.Generator) -> int:
        """A number of documents."""
        # The last share takes what rounding leaves.
        return int(np.searchsorted(np.cumsum(self.shares[:-1]), rng.random(), side="right"))


def with_documents(query: Tokens, documents: Sequence[Tokens], vocab: Vocab, length: int | None = None) -> Tokens:
    """Put documents before a query, each of them a whole `</s> ... </s>`; cells travel with their ids.

    Where the sequence would be longer than `length`, those of `fitting` are put. Without documents the result is the
    query. Raises `DataError` for a sequence that is not one whole document without masks, and for a query that alone
    is longer than `length`.
    """
    for name, tokens in (("query", query), *((f"document {i}", d) for i, d in enumerate(documents))):
        _check(name, tokens, vocab)
    kept = fitting(query, documents, length) if length is not None else documents
    pieces = [query.slice(0, 1)]
    for document in kept:
        pieces += [document.slice(1, document.length - 1), Tokens.of([vocab.brk])]
    return Tokens.concat([*pieces, query.slice(1, query.length)])


def fitting(query: Tokens, documents: Sequence[Tokens], length: int) -> list[Tokens]:
    """The last documents for which there is room before a query in `length` tokens: none is cut, the first ones go.

    Raises `DataError` for a query that alone is longer.
    """
    room = length - query.length
    if room < 0:
        raise DataError(f"augment: a query of {query.length} tokens does not fit {length}; raise the length")
    kept: list[Tokens] = []
    for document in reversed(documents):
        # Two `</s>` go and one `<break>` comes.
        room -= document.length - 1
        if room < 0:
            break
        kept.append(document)
    return kept[::-1]


def _check(name: str, tokens: Tokens, vocab: Vocab) -> None:
    borders = np.flatnonzero(tokens.ids == vocab.eos).tolist()
    if tokens.length < 3 or borders != [0, tokens.length - 1]:
        raise DataError(
            f"augment, {name}: must be one whole document, </s> at both ends and nowhere else, and a part between"
        )
    if bool(vocab.is_mask(tokens.ids).any()):
        raise DataError(f"augment, {name}: holds <mask> tokens; put documents before a query first, mask afterwards")
