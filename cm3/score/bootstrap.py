"""Intervals of figures: how far they could be off by the choice of items, by the percentile bootstrap.

Items are drawn anew with replacement, as many as there are; the mean of each draw is one figure that other items of the
same kind might have given. 95% of those lie in the interval. Two results on the same items are compared pair by pair:
the interval is of the mean difference of an item, which has none of the spread that both share.

Both hold for means of items alone. FID, corpus BLEU and their like are no means, and have no interval here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Share of the draws inside an interval."""
DRAWS = 10_000
FEW = 30
"""Of fewer items than that an interval is known to be too narrow."""
LEVELS = 32
"""Of values with at most so many levels, as accuracies are, the number of each level is drawn and not each item: the
same law in a hundredth of the time."""
_CELLS = 1 << 21
"""Numbers that are drawn at a time: 16 MB of places and 16 MB of values."""

Interval = tuple[float, float]
"""Its lower and its upper end, in the unit of the figure."""


def intervals(
    items: Mapping[str, Mapping[str, float]], draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval | None]:
    """Return the interval of the mean of each figure's items; None for one of fewer than two.

    An interval depends on the values by id, the seed and the number of draws: not on the order of the items, and not on
    the other figures.
    """
    by_number: dict[int, list[str]] = {}
    for name, values in items.items():
        by_number.setdefault(len(values), []).append(name)
    found: dict[str, Interval | None] = dict.fromkeys(items)
    for number, names in by_number.items():
        if number > 1:
            rows = [np.array([items[name][id] for id in sorted(items[name])], dtype=np.float64) for name in names]
            found.update(zip(names, _of_means(rows, draws, seed), strict=True))
    return found


def _of_means(rows: Sequence[NDArray[np.float64]], draws: int, seed: int) -> list[Interval]:
    """Return the interval of each row's mean. All rows have one length, and share the draws."""
    rng, number = np.random.default_rng(seed), len(rows[0])
    means = np.empty((len(rows), draws))
    many: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for row, of in zip(rows, means, strict=True):
        levels, counts = np.unique(row, return_counts=True)
        if len(levels) > LEVELS:
            many.append((row, of))
        else:
            of[:] = np.random.default_rng(seed).multinomial(number, counts / number, draws) @ levels / number
    step = max(1, _CELLS // number)
    for start in range(0, draws if many else 0, step):
        picked = rng.integers(0, number, (min(step, draws - start), number))
        for row, of in many:
            of[start : start + len(picked)] = row.take(picked).mean(axis=1)
    ends = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return [(float(low), float(high)) for low, high in ends.T]


@dataclass(frozen=True)
class Difference:
    """The difference of a figure between two results, `b - a`, over the items that both have."""

    n: int
    a: float
    b: float
    difference: float
    interval: Interval | None
    """None for fewer than two items."""

    @property
    def noise(self) -> bool | None:
        """Tell whether the difference could as well be none: 0 lies in the interval. None where there is no
        interval."""
        return None if self.interval is None else self.interval[0] <= 0 <= self.interval[1]


def difference(a: Mapping[str, float], b: Mapping[str, float], draws: int = DRAWS, seed: int = 0) -> Difference | None:
    """Return how far the mean of `b` lies over that of `a`, paired by id, over their common ids; None without any."""
    common = sorted(a.keys() & b.keys())
    if not common:
        return None
    of_a, of_b = (np.array([of[id] for id in common], dtype=np.float64) for of in (a, b))
    apart = of_b - of_a
    found = _of_means([apart], draws, seed)[0] if len(common) > 1 else None
    return Difference(len(common), float(of_a.mean()), float(of_b.mean()), float(apart.mean()), found)
