"""Draws follow the distribution, keep to the top-p set, and belong to (seed, draw)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from cm3.engine.sample import LEAST_TEMPERATURE, draw, probabilities, uniform


def columns(scores: np.ndarray, temperature: float, top_p: float, uniforms: np.ndarray) -> np.ndarray:
    n, greedy = len(uniforms), temperature < LEAST_TEMPERATURE
    return draw(
        torch.from_numpy(scores).float().expand(n, -1),
        None if greedy else torch.full((n,), temperature, dtype=torch.float64),
        torch.from_numpy(uniforms),
        torch.full((n,), top_p, dtype=torch.float64) if top_p < 1 else None,
        None,
    ).numpy()


def chances(seeds: list[int], draws: list[int]) -> np.ndarray:
    return uniform(torch.tensor(seeds), torch.tensor(draws)).numpy()


def test_uniforms_are_uniform_over_seeds_and_over_draws() -> None:
    over_draws = chances([7] * 20_000, list(range(20_000)))
    over_seeds = chances(list(range(20_000)), [3] * 20_000)
    for u in (over_draws, over_seeds):
        assert 0 <= u.min() and u.max() < 1
        assert stats.kstest(u, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(over_draws, over_seeds)[0, 1]) < 0.03


def test_uniforms_belong_to_seed_and_draw() -> None:
    together = chances([1, 2, 2**63 - 1], [5, 5, 0])
    assert len(set(together)) == 3
    for value, pair in zip(together, [(1, 5), (2, 5), (2**63 - 1, 0)], strict=True):
        assert chances([pair[0]], [pair[1]])[0] == value


def test_uniforms_are_splitmix64_on_integers_of_any_size() -> None:
    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden, pairs = 0x9E3779B97F4A7C15, [(0, 0), (1, 0), (7, 1023), (2**63 - 1, 5), (2**62 + 12345, 10**6)]
    expected = [(mix((mix((s + golden) % 2**64) + (t + 1) * golden) % 2**64) >> 11) / 2**53 for s, t in pairs]
    assert chances(*map(list, zip(*pairs, strict=True))).tolist() == expected


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
def test_frequencies_match_the_distribution(temperature: float, top_p: float) -> None:
    scores = np.random.default_rng(0).normal(0, 1.5, 12)
    scores[3] = -np.inf
    n = 20_000
    drawn = columns(scores, temperature, top_p, chances([11] * n, list(range(n))))
    p = np.exp(scores / temperature)
    p /= p.sum()
    if top_p < 1:
        order = np.argsort(-p)
        keep = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1]
        p = np.where(np.isin(np.arange(len(p)), keep), p, 0)
        p /= p.sum()
    counts = np.bincount(drawn, minlength=len(p))
    assert (counts[p == 0] == 0).all() and counts[3] == 0
    assert stats.chisquare(counts[p > 0], n * p[p > 0]).pvalue > 1e-3


def test_ends_of_the_unit_interval_never_draw_a_forbidden_id() -> None:
    scores = np.array([-np.inf, 0.0, -np.inf, 1.0, -np.inf])
    ends = np.array([0.0, np.nextafter(1.0, 0.0)])
    assert columns(scores, 1.0, 1.0, ends).tolist() == [1, 3]


def test_greedy_is_argmax_beside_sampled_rows() -> None:
    scores = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (40, 30)))
    greedy = torch.tensor([True, False] * 20)
    u = torch.from_numpy(chances(list(range(40)), [0] * 40))
    ones = torch.ones(40, dtype=torch.float64)
    drawn = draw(scores, ones, u, None, greedy)
    assert drawn[::2].tolist() == scores.argmax(-1)[::2].tolist()
    assert drawn[1::2].tolist() != scores.argmax(-1)[1::2].tolist()
    assert draw(scores, None, u, None, None).tolist() == scores.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [0.0, -0.0, 5e-324, 1e-310, 2.3e-308, 1e-9, 9.9e-7])
def test_a_tiny_temperature_takes_the_likeliest_and_never_a_forbidden_one(temperature: float) -> None:
    scores = np.array([9.0, 1.0, 8.0, -np.inf])
    ends = np.array([0.0, 0.3, np.nextafter(1.0, 0.0)])
    assert columns(scores, temperature, 1.0, ends).tolist() == [0, 0, 0]
    for large in (scores * 1e30, scores * -1e30 - 1e32):
        best = int(np.where(np.isfinite(large), large, -np.inf).argmax())
        large[3] = -np.inf
        assert columns(large, temperature, 1.0, ends).tolist() == [best] * 3


def test_top_p_keeps_the_smallest_set_and_at_least_one() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.25, 0.15]]).log().expand(4, -1)
    top_p = torch.tensor([1e-9, 0.5, 0.7, 1.0], dtype=torch.float64)
    kept = probabilities(scores, torch.ones(4), top_p) > 0
    # 0.5 alone reaches 0.5 up to float32 rounding of its logarithm, hence "at most two" there.
    assert kept[0].tolist() == [False, True, False, False]
    assert kept[1].sum() <= 2
    assert kept[2].tolist() == [False, True, True, False]
    assert kept[3].all()


def test_rows_without_a_distribution_are_marked() -> None:
    scores = torch.tensor([[0.0, float("nan")], [float("-inf")] * 2, [0.0, 1.0]])
    for temperature in (None, torch.ones(3)):
        drawn = draw(scores, temperature, torch.full((3,), 0.9, dtype=torch.float64), None, None)
        assert drawn.tolist() == [-1, -1, 1]
