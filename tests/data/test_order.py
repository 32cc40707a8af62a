"""The order of documents: bijections without a table, and shares that are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.data.order import BLOCK, Mixture, Permutation
from cm3.errors import ConfigError, DataError


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_a_permutation_is_a_bijection(n: int, key: int) -> None:
    out = Permutation(n, [key])(np.arange(n))
    assert out.dtype == np.int64 and np.array_equal(np.sort(out), np.arange(n))


def test_every_small_permutation_is_a_bijection() -> None:
    for n in range(1, 200):
        assert np.array_equal(np.sort(Permutation(n, [7])(np.arange(n))), np.arange(n))


def test_a_permutation_of_billions_costs_what_is_asked_of_it() -> None:
    n = 3_000_000_019
    some = np.arange(n - 50_000, n)
    out = Permutation(n, [1, 2, 3])(some)
    assert len(np.unique(out)) == len(some) and 0 <= out.min() and out.max() < n
    # It scatters: neighbours land anywhere.
    assert np.abs(np.diff(out)).mean() == pytest.approx(n / 3, rel=0.05)


def test_the_key_alone_decides() -> None:
    numbers = np.arange(1000)
    first = Permutation(1000, [4, 0, 1])(numbers)
    assert np.array_equal(first, Permutation(1000, [4, 0, 1])(numbers))
    assert first[:6].tolist() == Permutation(1000, [4, 0, 1])([0, 1, 2, 3, 4, 5]).tolist()
    others = [Permutation(1000, key)(numbers) for key in ([4, 0, 2], [4, 1, 1], [5, 0, 1], [4, 0])]
    assert all((first == other).mean() < 0.02 for other in others)


def test_the_bytes_of_an_order_are_settled() -> None:
    """A run that is resumed by a later version must find the same order."""
    assert Permutation(10, [1, 2])(np.arange(10)).tolist() == [5, 4, 0, 3, 8, 2, 9, 7, 6, 1]
    places = Mixture([5, 3], [3, 2], seed=9).locate(range(12))
    assert places.sources.tolist() == [0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    assert places.indices.tolist() == [1, 1, 2, 0, 4, 3, 0, 2, 1, 4, 0, 2]


@pytest.mark.parametrize("n", [7, 30, 101])
def test_every_number_goes_everywhere_alike(n: int) -> None:
    keys = 2000
    found = np.array([Permutation(n, [3, k])([0, n // 2]) for k in range(keys)])
    for column in found.T:
        counts = np.bincount(column, minlength=n)
        chi = float(((counts - keys / n) ** 2).sum() / (keys / n))
        assert chi < n - 1 + 5 * np.sqrt(2 * (n - 1))


def test_a_permutation_refuses() -> None:
    with pytest.raises(DataError, match="permutation of 0: must be of at least 1"):
        Permutation(0, [1])
    for wrong in (-1, 10):
        with pytest.raises(IndexError, match="takes numbers 0 to 9"):
            Permutation(10, [1])([wrong])


WEIGHTS = [(1.0,), (0.5, 0.5), (0.7, 0.2, 0.1), (1.0, 1.0, 1.0), (3.0, 0.0, 1.0), (1.0, 1000.0)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_shares_are_exact_in_a_block_and_close_everywhere(weights: tuple[float, ...]) -> None:
    mixture = Mixture([40_000] * len(weights), weights, seed=2)
    want = np.asarray(weights) / sum(weights)
    assert sum(mixture.shares) == pytest.approx(1) and np.abs(np.asarray(mixture.shares) - want).max() < 1 / BLOCK
    for block in (0, 3):
        sources = mixture.locate(np.arange(block * BLOCK, (block + 1) * BLOCK)).sources
        assert np.bincount(sources, minlength=len(weights)).tolist() == mixture.counts.tolist()
        for stop in (1, 10, 137, 1000, 31_415):
            counts = np.bincount(sources[:stop], minlength=len(weights))
            assert np.abs(counts - stop * want).max() <= len(weights)


def test_every_document_comes_once_an_epoch_and_in_another_order_each() -> None:
    lengths = [37, 400]
    places = Mixture(lengths, [2.0, 1.0], seed=5).locate(np.arange(6000))
    for source, n in enumerate(lengths):
        mine = places.sources == source
        epochs, indices = places.epochs[mine], places.indices[mine]
        assert (np.diff(epochs) >= 0).all() and epochs[0] == 0
        orders = [indices[epochs == e].tolist() for e in range(int(epochs.max()))]
        assert len(orders) >= 4 and all(sorted(order) == list(range(n)) for order in orders)
        assert len({tuple(order) for order in orders}) == len(orders)


def test_without_weights_every_document_is_as_frequent() -> None:
    mixture = Mixture([100, 300])
    assert mixture.shares == (0.25, 0.75)
    places = mixture.locate(np.arange(400))
    # Both epochs end together, but for a place or two.
    assert len(set(zip(places.sources.tolist(), places.indices.tolist(), strict=True))) >= 398


def test_positions_can_be_asked_for_in_any_order() -> None:
    asked = np.random.default_rng(0).integers(0, 3 * BLOCK, 500)
    whole, again = Mixture([11, 7000], [1, 2], seed=1), Mixture([11, 7000], [1, 2], seed=1)
    together = whole.locate(asked)
    for i in (0, 17, 499):
        one = again.locate([int(asked[i])])
        assert [int(a[0]) for a in one] == [int(a[i]) for a in together]
    other = Mixture([11, 7000], [1, 2], seed=4).locate(asked)
    assert (other.indices != together.indices).mean() > 0.5 and (other.sources != together.sources).any()


@pytest.mark.parametrize(
    ("lengths", "weights", "kind", "message"),
    [
        ([], [], DataError, "mixture: has no source; give at least one"),
        ([4, 0], [], DataError, "mixture: source 1 has no document; leave it out"),
        ([4, 4], [1.0], ConfigError, r"weights=\(1.0,\): are 1, must be one for each of 2"),
        ([4, 4], [1.0, -1.0], ConfigError, "must be numbers of 0 or more that sum to more than 0"),
        ([4, 4], [0.0, 0.0], ConfigError, "must be numbers of 0 or more that sum to more than 0"),
        ([4, 4], [1.0, float("nan")], ConfigError, "must be numbers of 0 or more"),
        ([4, 4], [1.0, 1e-6], ConfigError, "source 1 has a share of 1e-06, must be 0 or at least 1 in 100000"),
    ],
)
def test_a_mixture_refuses(lengths: list[int], weights: list[float], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Mixture(lengths, weights)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_have_a_range(seed: int) -> None:
    assert Mixture([3], seed=2**63 - 1).locate([5]).epochs.tolist() == [1]
    with pytest.raises(ConfigError, match=rf"seed={seed}: must be in 0\.\."):
        Mixture([3], seed=seed)
