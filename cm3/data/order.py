"""In what order documents come: every source in its share, every document once an epoch, all of it computed.

    position   0  1  2  3  4  5  6  7 ...        an endless stream
    source     a  a  b  a  c  a  b  a ...        Mixture: shares that are exact in every block of positions
    number     0  1  0  2  0  3  1  4 ...        how many of that source came before
    document   Permutation(n, seed, source, epoch)(number % n), where epoch = number // n

Nothing is shuffled in memory and nothing is remembered: any position can be asked for at any time, on any rank, so
where a run stands is a few positions and no more.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cm3.errors import ConfigError, DataError

BLOCK = 100_000
"""Positions in which every source has its exact share; shares are rounded to one in so many."""
ROUNDS = 8
"""Of the Feistel network. Four settle it for big domains (Luby and Rackoff); small ones want more."""


class Permutation:
    """A bijection on 0 .. n - 1 that its key alone decides, without a table.

    A Feistel network on pairs (left, right) of a by b >= n, each round adding a keyed hash of one half to the other;
    what lands at n or above goes through once more until it lands below ("cycle walking"). a * b is less than
    n + sqrt(n) + 1, so few do.
    """

    def __init__(self, n: int, key: Sequence[int]) -> None:
        """Key it by any integers, each of up to 64 bits. Raises `DataError` for an n below 1."""
        if n < 1:
            raise DataError(f"permutation of {n}: must be of at least 1")
        self.n = n
        self._a = max(int(np.ceil(np.sqrt(n))), 1)
        self._b = -(-n // self._a)
        digest = hashlib.blake2b(b"".join(int(k).to_bytes(8, "little") for k in key), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, "<u8")

    def __call__(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the new place of each number, int64. Raises `IndexError` for one outside 0 .. n - 1."""
        values = np.asarray(numbers, dtype=np.int64)
        if values.size and (int(values.min()) < 0 or int(values.max()) >= self.n):
            raise IndexError(f"permutation of {self.n}: takes numbers 0 to {self.n - 1}")
        out = self._once(values)
        while (outside := np.flatnonzero(out >= self.n)).size:
            out[outside] = self._once(out[outside])
        return out

    def _once(self, values: np.ndarray) -> np.ndarray:
        left, right = np.divmod(values, self._b)
        for i in range(0, ROUNDS, 2):
            left = (left + _hash(right, self._keys[i], self._a)) % self._a
            right = (right + _hash(left, self._keys[i + 1], self._b)) % self._b
        return left * self._b + right


class Places(NamedTuple):
    """Documents of some positions, each array int64 (p,): the source, its epoch, the document."""

    sources: np.ndarray
    epochs: np.ndarray
    indices: np.ndarray


class Mixture:
    """An endless stream over several sources of known lengths, each with its share of the positions.

    In every `BLOCK` positions each source has the same exact number of places, and these stand evenly: at any point of
    a block a source is within a few places of its share. A source that is shorter than its part of the stream begins
    its next epoch, in an order of its own, when all of it has come.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float] = (), seed: int = 0) -> None:
        """Mix sources by `weights`, shares in any unit; none means by length, every document as often as any other.

        Raises `DataError` for no source or an empty one; `ConfigError` for weights of another number, that are negative
        or sum to nothing, for too small a share and for a seed out of range.
        """
        if not 0 <= seed < 2**63:
            raise ConfigError(f"seed={seed}: must be in 0..2**63 - 1")
        if not lengths:
            raise DataError("mixture: has no source; give at least one")
        if min(lengths) < 1:
            raise DataError(f"mixture: source {lengths.index(min(lengths))} has no document; leave it out")
        if weights and len(weights) != len(lengths):
            raise ConfigError(f"weights={tuple(weights)}: are {len(weights)}, must be one for each of {len(lengths)}")
        shares = np.asarray(weights or lengths, dtype=np.float64)
        if not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() <= 0:
            raise ConfigError(f"weights={tuple(weights)}: must be numbers of 0 or more that sum to more than 0")
        exact = shares / shares.sum() * BLOCK
        counts = np.floor(exact).astype(np.int64)
        # Largest remainder: what rounding down leaves goes where it cut off most, the first of equals.
        counts[np.argsort(counts - exact, kind="stable")[: BLOCK - int(counts.sum())]] += 1
        for i in np.flatnonzero((shares > 0) & (counts == 0)):
            raise ConfigError(
                f"weights: source {i} has a share of {exact[i] / BLOCK:.2g}, must be 0 or at least 1 in {BLOCK}; "
                "give it more weight, or leave it out"
            )
        self.lengths, self.seed, self.counts = tuple(lengths), seed, counts
        self._block = functools.lru_cache(maxsize=8)(self._make_block)
        self._order = functools.lru_cache(maxsize=4 * len(lengths))(self._make_order)

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the share of the positions that each source has."""
        return tuple((self.counts / BLOCK).tolist())

    def locate(self, positions: Sequence[int] | np.ndarray) -> Places:
        """Find the documents that stand at these positions, 0 or more, in any order."""
        at = np.asarray(positions, dtype=np.int64)
        blocks, offsets = np.divmod(at, BLOCK)
        sources, numbers = np.zeros_like(at), np.zeros_like(at)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            labels, ranks = self._block(block)
            sources[here], numbers[here] = labels[offsets[here]], ranks[offsets[here]]
        numbers += blocks * self.counts[sources]
        epochs, indices = np.divmod(numbers, np.asarray(self.lengths)[sources])
        for source, epoch in {*zip(sources.tolist(), epochs.tolist(), strict=True)}:
            here = (sources == source) & (epochs == epoch)
            indices[here] = self._order(source, epoch)(indices[here])
        return Places(sources, epochs, indices)

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the source of each position of a block, and how many of that source came before in the block."""
        ranks = np.concatenate([np.arange(c) for c in self.counts])
        labels = np.repeat(np.arange(len(self.counts)), self.counts)
        if len(self.counts) == 1:
            return labels, ranks
        # Place j of the c of a source stands somewhere in the j-th of c equal parts of the block.
        jitter = np.random.default_rng([self.seed, 0x0B10C, block]).random(BLOCK)
        order = np.argsort((ranks + jitter) / self.counts[labels], kind="stable")
        return labels[order], ranks[order]

    def _make_order(self, source: int, epoch: int) -> Permutation:
        return Permutation(self.lengths[source], [self.seed, source, epoch])


def _hash(values: np.ndarray, key: np.uint64, below: int) -> np.ndarray:
    """Return a keyed hash of each value, 0 .. below - 1, int64: the finaliser of splitmix64."""
    x = values.astype(np.uint64) ^ key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(below)).astype(np.int64)
