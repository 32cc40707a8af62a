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
    """The n-grams of one order of some texts, by n-gram and then by text."""

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
        """Return reference -> number of its picture."""
        return np.repeat(np.arange(len(self.references)), [len(some) for some in self.references])

    def lengths(self) -> tuple[Integers, Integers]:
        """Return the numbers of words of the captions given, and of the references."""
        given = np.array([len(words) for words in self.given], dtype=np.int64)
        return given, np.array([len(words) for some in self.references for words in some], dtype=np.int64)

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """Count the n-grams of one word, of two, to `ORDERS`."""
        return tuple(self._orders())

    def _orders(self) -> Iterator[Order]:
        texts = [*self.given, *chain.from_iterable(self.references)]
        known = {word: number for number, word in enumerate(dict.fromkeys(chain.from_iterable(texts)))}
        words = np.fromiter(map(known.__getitem__, chain.from_iterable(texts)), dtype=np.int64)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        text = np.repeat(np.arange(len(texts)), lengths)
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the text's end
        pictures, picture = len(self.given), self.picture
        gram = np.zeros(len(words), dtype=np.int64)
        for order in range(1, ORDERS + 1):
            starts = np.flatnonzero(left >= order)
            # An n-gram is that without its last word, and the last word: so numbers stay small.
            value, starts = _sorted(gram[starts] * max(len(known), 1) + words[starts + order - 1], starts)
            place = text[starts]  # of one n-gram the texts are in order
            other = np.append(True, value[1:] != value[:-1])[: len(value)]
            number = np.cumsum(other) - 1
            gram[starts] = number
            rows = np.flatnonzero(other | np.append(True, place[1:] != place[:-1])[: len(value)])
            times, place, number = np.diff(np.append(rows, len(value))), place[rows], number[rows]
            ours = place < pictures
            given = Rows(place[ours], number[ours], times[ours])
            reference = Rows(place[~ours] - pictures, number[~ours], times[~ours])
            keys = reference.gram * pictures + picture[reference.text]  # in order, as those of the captions given
            first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
            having = np.bincount(reference.gram[first], minlength=int(other.sum()))
            own = given.gram * pictures + given.text
            at = np.searchsorted(own, keys)
            yield Order(given, reference, having, np.where(np.append(own, -1)[at] == keys, at, -1))


def _sorted(values: Integers, places: Integers) -> tuple[Integers, Integers]:
    """Return values in order with their places, which come in order, of equal values the earlier place first."""
    bits = int(places.max(initial=0)).bit_length()
    if int(values.max(initial=0)) >> (63 - bits):  # too many to go into one number
        by = np.argsort(values, kind="stable")
        return values[by], places[by]
    both = np.sort(values << bits | places)  # ten times as fast
    return both >> bits, both & ((1 << bits) - 1)
