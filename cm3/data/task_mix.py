"""The share of each task in a tuning run: small sources more often, large ones less, within limits.

    sizes  --caps--> what there is --up/down--> repeats 0.3 .. 3 --groups, weights--> shares --> order.Mixture

The paper says "an up/down sampling strategy with a threshold of 3/0.3" (E.1) and no more. Read here as: aim at the
same number of examples from each source, the mean of their sizes, but repeat none more than 3 times and take no less
than 0.3 of any. The authors' code has caps and explicit probabilities beside it (docs/paper.md), and so has this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from cm3.data.order import BLOCK, Mixture
from cm3.errors import ConfigError, DataError


class Realised(NamedTuple):
    """The part of a stream that a source had: documents, their share of it, and how often each of its own came on
    average."""

    documents: int
    share: float
    epochs: float


@dataclass(frozen=True)
class TaskMixture:
    """Shares of named sources. Raises `DataError` for an empty source, `ConfigError` for any other bad value.

    `sizes`: documents of each. `caps`: use no more than so many, the first of its order. `weights`: shares of the
    stream, in 0..1, that are set; what they leave is divided among the others by their sizes. If every source has one,
    they may be in any unit. `groups`: name -> group, such as what a task gives; each group gets the same share of what
    the weights leave, so that no modality drowns the other (docs/paper.md 5.2).
    """

    sizes: Mapping[str, int]
    weights: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    up: float = 3.0
    down: float = 0.3

    def __post_init__(self) -> None:
        if not self.sizes:
            raise DataError("task mixture: has no source; give at least one")
        for name, size in self.sizes.items():
            if size < 1:
                raise DataError(f"task mixture: source {name!r} is empty; leave it out, or check what it is made of")
        for what in ("weights", "caps", "groups"):
            for name in getattr(self, what):
                if name not in self.sizes:
                    raise ConfigError(f"task mixture: {what} names {name!r}; its sources are {', '.join(self.sizes)}")
        for name, cap in self.caps.items():
            if cap < 1:
                raise ConfigError(f"task mixture: the cap of {name!r} is {cap}; must be at least 1")
        if self.groups and (lacks := sorted(self.sizes.keys() - self.groups)):
            raise ConfigError(
                f"task mixture: groups has no {', '.join(map(repr, lacks))}; name the group of each source"
            )
        if not 0 < self.down <= 1 <= self.up:
            raise ConfigError(f"task mixture: up={self.up}, down={self.down}: must be 0 < down <= 1 <= up")
        for name, weight in self.weights.items():
            if not np.isfinite(weight) or weight < 0:
                raise ConfigError(f"task mixture: the weight of {name!r} is {weight}; must be a number of 0 or more")
        total, all_set = sum(self.weights.values()), self.weights.keys() == self.sizes.keys()
        if all_set and total <= 0:
            raise ConfigError(f"task mixture: the weights of {', '.join(self.sizes)} sum to nothing; give one a weight")
        if not all_set and total >= 1:
            raise ConfigError(
                f"task mixture: weights sum to {total:g} and leave nothing for the sources without one; "
                "must sum to less than 1, or name every source"
            )

    @cached_property
    def used(self) -> dict[str, int]:
        """Return the documents of each source that are used: all, or as many as its cap."""
        return {name: min(size, self.caps.get(name, size)) for name, size in self.sizes.items()}

    @cached_property
    def repeats(self) -> dict[str, float]:
        """Return how often a document of each source comes while the sources come once each on average, by sizes
        alone."""
        aim = sum(self.used.values()) / len(self.used)
        return {name: float(np.clip(aim / size, self.down, self.up)) for name, size in self.used.items()}

    @cached_property
    def shares(self) -> dict[str, float]:
        """Return the share of the stream that each source is to have; they sum to 1."""
        if self.weights.keys() == self.sizes.keys():
            total = sum(self.weights.values())
            return {name: self.weights[name] / total for name in self.sizes}
        free = {name: self.used[name] * self.repeats[name] for name in self.sizes if name not in self.weights}
        of_group: dict[str, float] = {}
        for name, amount in free.items():
            group = self.groups.get(name, "")
            of_group[group] = of_group.get(group, 0.0) + amount
        left = (1 - sum(self.weights.values())) / len(of_group)
        return {
            name: self.weights[name]
            if name in self.weights
            else left * free[name] / of_group[self.groups.get(name, "")]
            for name in self.sizes
        }

    def mixture(self, seed: int = 0) -> Mixture:
        """Return the endless stream, sources numbered in the order of `sizes`.

        Raises `ConfigError` for a source whose share is too small to be had, and for a seed out of range.
        """
        for name, share in self.shares.items():
            if 0 < share < 1 / BLOCK:
                raise ConfigError(
                    f"task mixture: the share of {name!r} is {share:.2g}; must be 0 or at least 1 in {BLOCK}: "
                    "give it a weight, or leave it out"
                )
        return Mixture(list(self.used.values()), list(self.shares.values()), seed)

    def realised(self, positions: int, seed: int = 0) -> dict[str, Realised]:
        """Count what the first so many positions of the stream hold."""
        if positions < 1:
            raise ConfigError(f"positions={positions}: must be at least 1")
        mixture = self.mixture(seed)
        blocks, rest = divmod(positions, BLOCK)
        last = mixture.locate(np.arange(blocks * BLOCK, positions)).sources
        counts = blocks * mixture.counts + np.bincount(last, minlength=len(self.sizes))
        return {
            name: Realised(int(count), int(count) / positions, int(count) / self.used[name])
            for name, count in zip(self.sizes, counts, strict=True)
        }
