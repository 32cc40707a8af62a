"""N-grams of many captions counted at once, for scores that compare a caption with the references of its picture.

    words of the captions given, words of the references --count--> for each order, who has which n-gram how often

A caption is a tuple of words; arrays hold whole numbers. A row is one n-gram of one text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt

from cm3.score.ptb import Words

Integers = npt.NDArray[np.int64]

ORDERS = 4
"""The longest n-gram of all scores here."""


@dataclass(frozen=True)
class Rows:
    """The n-grams of one order of some texts, in the order of the texts."""

    text: Integers
    """Number of the text that a row is of."""
    gram: Integers
    """Number of the n-gram."""
    times: Integers
    """How often the text has it, at least 1."""


@dataclass(frozen=True)
class Order:
    """The n-grams of one order, of the captions given and of their references."""

    given: Rows
    reference: Rows
    having: Integers
    """N-gram -> pictures of which a reference has it."""
    shared: Integers
    """Row of `reference` -> row of `given` with that n-gram of the caption of the same picture, or -1."""


@dataclass(frozen=True)
class Pairs:
    """Captions for n pictures with the references of each, as words."""

    given: Sequence[Words]
    references: Sequence[Sequence[Words]]

    @property
    def picture(self) -> Integers:
        """Reference -> number of its picture."""
        return np.repeat(np.arange(len(self.references)), [len(some) for some in self.references])

    def lengths(self) -> tuple[Integers, Integers]:
        """Return the numbers of words of the captions given, and of the references."""
        given = np.array([len(words) for words in self.given], dtype=np.int64)
        return given, np.array([len(words) for some in self.references for words in some], dtype=np.int64)

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """The n-grams of one word, of two, to `ORDERS`."""
        return tuple(self._orders())

    def _orders(self) -> Iterator[Order]:
        texts = [*self.given, *chain.from_iterable(self.references)]
        known: dict[str, int] = {}
        words = np.array([known.setdefault(word, len(known)) for text in texts for word in text], dtype=np.int64)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        text = np.repeat(np.arange(len(texts)), lengths)
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the text's end
        gram, kinds = words, max(len(known), 1)
        picture = self.picture
        for order in range(1, ORDERS + 1):
            if order > 1:
                # An n-gram is that without its last word, and the last word: so numbers stay small.
                starts = np.flatnonzero(left >= order)
                longer = gram[starts] * max(len(known), 1) + words[starts + order - 1]
                found, numbers = np.unique(longer, return_inverse=True)
                gram, kinds = np.full(len(words), -1), max(len(found), 1)
                gram[starts] = numbers
            there = gram >= 0
            rows, times = np.unique(text[there] * kinds + gram[there], return_counts=True)
            split = int(np.searchsorted(rows, len(self.given) * kinds))
            given = Rows(rows[:split] // kinds, rows[:split] % kinds, times[:split])
            rest = rows[split:] - len(self.given) * kinds
            reference = Rows(rest // kinds, rest % kinds, times[split:])
            keys = picture[reference.text] * kinds + reference.gram
            having = np.bincount(np.unique(keys) % kinds, minlength=kinds)
            at = np.searchsorted(rows[:split], keys)
            same = np.append(rows[:split], -1)[at] == keys
            yield Order(given, reference, having, np.where(same, at, -1))
