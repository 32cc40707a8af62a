"""Intervals against their definition, and against what is known of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cm3.score import bootstrap
from cm3.score.bootstrap import difference, intervals


def by_id(values: list[float]) -> dict[str, float]:
    return {f"{number:04d}": value for number, value in enumerate(values)}


def test_an_interval_is_the_percentiles_of_the_means_of_draws() -> None:
    values = [float(v) for v in np.random.default_rng(1).gamma(2, size=60)]
    low, high = intervals({"a": by_id(values)}, draws=400, seed=5)["a"] or (0, 0)
    rng = np.random.default_rng(5)
    means = sorted(math.fsum(values[i] for i in rng.integers(0, 60, 60)) / 60 for _ in range(400))

    def percentile(share: float) -> float:
        place = share * 399
        below = int(place)
        return means[below] + (place - below) * (means[below + 1] - means[below])

    assert low == pytest.approx(percentile(0.025), rel=1e-12) and high == pytest.approx(percentile(0.975), rel=1e-12)


def test_an_interval_of_a_share_has_the_quantiles_of_the_binomial_law() -> None:
    n, share = 400, 0.3
    low, high = intervals({"a": by_id([1.0] * 120 + [0.0] * 280)})["a"] or (0, 0)
    law = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    below = [next(k for k in range(n) if sum(law[: k + 1]) >= at) / n for at in (0.025, 0.975)]
    assert (low, high) == pytest.approx(below, abs=0.0051)


def test_drawing_levels_is_drawing_items(monkeypatch: pytest.MonkeyPatch) -> None:
    values = by_id([0.0, 0.3, 0.6, 0.9, 1.0] * 30 + [1.0] * 70)
    by_level = intervals({"a": values})["a"]
    monkeypatch.setattr(bootstrap, "LEVELS", 0)
    assert by_level == pytest.approx(intervals({"a": values})["a"], abs=0.003)


def test_an_interval_is_as_wide_as_the_normal_law_says() -> None:
    values = [float(v) for v in np.random.default_rng(2).normal(3, 2, size=2000)]
    low, high = intervals({"a": by_id(values)})["a"] or (0, 0)
    half = 1.96 * float(np.std(values)) / math.sqrt(2000)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert (high + low) / 2 == pytest.approx(float(np.mean(values)), abs=half / 10)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(200):
        low, high = intervals({"a": by_id(list(map(float, rng.random(50))))}, draws=300)["a"] or (0, 0)
        held += low <= 0.5 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_an_interval_depends_on_nothing_but_its_values() -> None:
    values, other = by_id([0.1, 0.7, 0.3, 0.9, 0.2] * 8), by_id([1.0, 0.0] * 20)
    alone = intervals({"a": values})["a"]
    assert alone == intervals({"b": other, "a": dict(reversed(values.items())), "c": by_id([1.0] * 7)})["a"]
    assert alone != intervals({"a": values}, seed=1)["a"]


def test_memory_is_bounded_and_the_step_says_nothing_about_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    values = by_id([float(v) for v in np.random.default_rng(4).random(300)])
    whole = intervals({"a": values}, draws=1000)["a"] or (0, 0)
    monkeypatch.setattr(bootstrap, "_CELLS", 1000)
    assert intervals({"a": values}, draws=1000)["a"] == pytest.approx(whole, rel=1e-12)


def test_one_item_has_no_interval_and_equal_items_one_of_no_width() -> None:
    found = intervals({"one": {"1": 0.5}, "same": by_id([0.25] * 20)})
    assert found == {"one": None, "same": (0.25, 0.25)}


def test_pairs_tell_a_small_difference_that_two_intervals_would_not() -> None:
    a = by_id([float(v) for v in np.random.default_rng(6).random(200)])
    b = {id: value + 0.01 + 0.001 * (int(id) % 3) for id, value in a.items()}
    apart = intervals({"a": a, "b": b})
    assert (apart["a"] or (0, 0))[1] > (apart["b"] or (0, 0))[0]  # the two overlap
    found = difference(a, b)
    assert found and found.interval and found.noise is False
    assert found.interval[0] < found.difference < found.interval[1] and found.difference == pytest.approx(
        0.011, abs=1e-4
    )
    back = difference(b, a)
    assert back and back.interval == pytest.approx((-found.interval[1], -found.interval[0]), abs=1e-3)


def test_noise_is_called_noise() -> None:
    rng = np.random.default_rng(7)
    a, b = (by_id(list(map(float, rng.random(300)))) for _ in range(2))
    found = difference(a, b)
    assert found and found.noise is True
    same = difference(a, a)
    assert same and same.noise is True and same.interval == (0.0, 0.0)


def test_only_common_items_count() -> None:
    found = difference({"1": 0.0, "2": 1.0, "x": 9.0}, {"2": 2.0, "1": 0.5, "y": 7.0})
    assert found and (found.n, found.a, found.b, found.difference) == (2, 0.5, 1.25, 0.75)
    assert difference({"1": 0.0}, {"2": 0.0}) is None
    one = difference({"1": 0.0}, {"1": 1.0})
    assert one and one.interval is None and one.noise is None
