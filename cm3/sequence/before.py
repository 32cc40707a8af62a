"""Retrieved documents before an example or a prompt.

    </s> text <break> image <break>  text <break> image <break>  text <break> image </s>
         ------- document ---------  ------- document ---------  ------ query -----
         ---------------- context, put after the first </s> --

Paper B.1 and the authors' code (docs/paper.md 1.4): borders between documents are `<break>` like those within, one
`</s>` stands at each end, and every token weighs 1. Masking comes after, so spans are drawn in documents and query
alike; packing after that.

Where not all have room there are two rules, and none cuts a document. In training (`fitting`) the order is drawn, so
chance says which ones are read: the first ones go until the rest has room. To pass over a long one for the next that is
short would teach from short documents more than need be. At generation (`most_relevant`) the scores are known, and a
user asked for documents: the best are taken, and one that is too long gives way to any that still fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cm3.errors import ConfigError, DataError
from cm3.vocab import Tokens, Vocab


@dataclass(frozen=True)
class AugmentLaw:
    """The shares of examples with no document, one, two and so on. Raises `ConfigError` for shares that are none."""

    shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    """Share of the examples with 0, 1, 2, 3 documents; those with 0 keep generation without any in distribution."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.shares) <= 4:
            raise ConfigError(f"augment.shares={self.shares}: must be 1 to 4 numbers, for 0, 1, 2, 3 documents")
        if any(not 0 <= s <= 1 for s in self.shares) or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(f"augment.shares={self.shares}: are shares, must be in 0..1 and add up to 1")

    def draw(self, rng: np.random.Generator) -> int:
        """Draw a number of documents."""
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
    kept = fitting(query, documents, length, saved(vocab)) if length is not None else documents
    return prepend(context_of(kept, vocab), query)


def context_of(documents: Sequence[Tokens], vocab: Vocab) -> Tokens:
    """Lay out `(document <break>)*` of whole documents, without their `</s>`: each is one token shorter, and two in the
    grammar "chameleon", where no border stands between them."""
    border = Tokens.of([vocab.brk] if vocab.grammar == "cm3" else [])
    return Tokens.concat([piece for d in documents for piece in (d.slice(1, d.length - 1), border)])


def prepend(context: Tokens, sequence: Tokens) -> Tokens:
    """Put a context between the first `</s>` of a sequence and the rest."""
    return Tokens.concat([sequence.slice(0, 1), context, sequence.slice(1, sequence.length)])


def most_relevant(lengths: Sequence[int], scores: Sequence[float], room: int, saved: int = 1) -> list[int]:
    """Choose documents of these lengths for `room` tokens of context: the most relevant, each that still fits.

    Of equal scores, or where none is known (NaN), the earlier comes first. The numbers come back in order. `saved`:
    the tokens that a document loses as context.
    """
    used = []
    for i in sorted(range(len(lengths)), key=lambda i: math.inf if math.isnan(scores[i]) else -scores[i]):
        if lengths[i] - saved <= room:
            used.append(i)
            room -= lengths[i] - saved
    return sorted(used)


def saved(vocab: Vocab) -> int:
    """Return the tokens that a document loses as context: its two ends go, and a border comes in the grammar "cm3"."""
    return 1 if vocab.grammar == "cm3" else 2


def fitting(query: Tokens, documents: Sequence[Tokens], length: int, saved: int = 1) -> list[Tokens]:
    """Choose the last documents that have room before a query in `length` tokens: the first ones go, none is cut.

    `saved` as in `most_relevant`. Raises `DataError` for a query that alone is longer.
    """
    room = length - query.length
    if room < 0:
        raise DataError(f"augment: a query of {query.length} tokens does not fit {length}; raise the length")
    kept: list[Tokens] = []
    for document in reversed(documents):
        room -= document.length - saved
        if room < 0:
            break
        kept.append(document)
    return kept[::-1]


def _check(name: str, tokens: Tokens, vocab: Vocab) -> None:
    borders = np.flatnonzero((tokens.ids == vocab.eos) | (tokens.ids == vocab.opens)).tolist()
    if tokens.length < 3 or borders != [0, tokens.length - 1] or tokens.ids[0] != vocab.opens:
        first = "</s> at both ends" if vocab.opens == vocab.eos else "<s> and </s> at its ends"
        raise DataError(f"augment, {name}: must be one whole document, {first} and nowhere else, and a part between")
    if bool(vocab.is_mask(tokens.ids).any()):
        raise DataError(f"augment, {name}: holds <mask> tokens; put documents before a query first, mask afterwards")
