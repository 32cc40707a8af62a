"""Verdicts on planted figures: a rule says holds, does not hold and cannot be told where each is so."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cm3.claims.verdicts import (
    FAILS,
    FEW,
    HOLDS,
    OPEN,
    STATEMENTS,
    Comparison,
    candidates,
    compute,
    fit_note,
    guidance,
    kept,
    kept_mixed,
    masks,
    mixture,
    over,
    power_law,
    retrieval,
    scaling,
    verdict,
)

N = 200
SCALES = (1.0, 1.41, 2.0, 2.83, 4.0, 5.66)
SIZE = SimpleNamespace(models={"a": (8, 1, 1), "b": (16, 1, 1), "c": (32, 1, 1)}, middle="b", scales=SCALES, each=16)


def noisy(mean: float, seed: int, n: int = N, spread: float = 0.1) -> list[float]:
    return list(mean + spread * np.random.default_rng(seed).standard_normal(n))


def hits(share: float, n: int = N) -> list[int]:
    return [int(i < share * n) for i in range(n)]


# -- comparisons ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "way", "margin", "expected"),
    [
        (0.1, 0.3, "more", 0.0, HOLDS), (-0.3, -0.1, "more", 0.0, FAILS), (-0.1, 0.1, "more", 0.0, OPEN),
        (0.0, 0.0, "more", 0.0, OPEN), (-0.04, 0.1, "more", 0.05, HOLDS), (-0.06, 0.1, "more", 0.05, OPEN),
        (-0.3, -0.06, "more", 0.05, FAILS), (-0.4, 0.4, "same", 0.5, HOLDS), (-0.6, 0.4, "same", 0.5, OPEN),
        (0.6, 0.9, "same", 0.5, FAILS), (-0.9, -0.6, "same", 0.5, FAILS), (0.4, 0.6, "same", 0.5, OPEN),
    ],
)  # fmt: skip
def test_an_interval_decides_on_its_side_of_the_margin(
    low: float, high: float, way: Any, margin: float, expected: str
) -> None:
    assert Comparison("x", (low + high) / 2, low, high, N, way, margin).verdict == expected
    assert Comparison("x", (low + high) / 2, low, high, FEW - 1, way, margin).verdict == OPEN, "too few cases"


def test_all_must_hold_one_is_enough_to_fail_and_a_premise_only_opens() -> None:
    holds, fails, unknown = (Comparison("x", 0, low, low + 1, N) for low in (1.0, -2.0, -0.5))
    assert verdict([holds, holds]) == HOLDS
    assert verdict([holds, unknown]) == OPEN
    assert verdict([fails, unknown, holds]) == FAILS
    assert verdict([]) == OPEN
    lacking = Comparison("x", 0, -2.0, -1.0, N, premise=True)
    assert lacking.verdict == OPEN and verdict([lacking, fails]) == verdict([lacking, holds]) == OPEN
    assert verdict([Comparison("x", 2, 1.0, 3.0, N, premise=True), fails]) == FAILS


def test_a_comparison_is_paired() -> None:
    """A difference far smaller than the spread of the cases is told where it is the same in each."""
    spread = noisy(0.5, 1, spread=1.0)
    assert over("x", [v + 0.01 for v in spread], spread).verdict == HOLDS
    assert over("x", noisy(0.51, 2, spread=1.0), spread).verdict == OPEN


def test_an_interval_covers_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(200):
        made = over("x", noisy(0.3, seed, 60, 1.0), [0.0] * 60)
        inside += made.low <= 0.3 <= made.high
    assert 178 <= inside <= 200  # of 190 expected; 3.9 standard deviations


# -- the seven statements ---------------------------------------------------------------------------------------------


def shipped(*shares: float) -> dict[str, Any]:
    found = {f"shipped-{k}": {"parts": noisy(s, k), "exact": hits(s)} for k, s in enumerate(shares)}
    return found | {"found": {"first": hits(0.9)}}


def scaled(best: dict[str, float], height: float = 0.3, n: int = N) -> dict[str, Any]:
    """Scores with their best where it is planted: a parabola over the octaves."""
    return {
        f"{model}-g{s}": {"parts": noisy(0.8 - height * (np.log2(s) - np.log2(at)) ** 2, i * 100 + j, n, 0.05)}
        for i, (model, at) in enumerate(best.items())
        for j, s in enumerate(SCALES)
    }


def lawful(ours: float, published: float, none: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for seed, (of, law, gain) in enumerate(
        [("b", "ours", ours), ("law-published", "published", published), ("law-none", "none", none)]
    ):
        for s in SCALES:
            found[f"{of}-g{s}"] = {"parts": noisy(0.5 + gain * (s == 2.0), 1000 * seed + round(100 * s))}
        found[f"masked-{law}"] = {"whole": hits(0.3)}
    return found


def pools(kind: str) -> dict[str, Any]:
    """Candidates whose fit is their worth, so that the best of many is the best there is.

    "apart": each way is right on one half of the prompts alone, and only now and then there. "alike": each is right now
    and then on all. "flat": nothing is to be gained.
    """
    rng, made = np.random.default_rng(0), {}
    for w, way in enumerate(("top-p", "cd-k")):
        right = rng.random((N, 16)) < {"apart": 0.08, "alike": 0.08, "flat": 0.0}[kind]
        if kind == "apart":
            right &= (np.arange(N)[:, None] % 2) == w
        parts = np.where(right, 1.0, 0.2)
        for first in (0, N // 2):
            some = parts[first : first + N // 2]
            made[f"{way}-{first}"] = {"fit": (some + 1e-3 * rng.random(some.shape)).tolist(), "parts": some.tolist()}
    return made


def sizes(*losses: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, (model, loss) in enumerate(zip(SIZE.models, losses, strict=True)):
        found[f"loss-{model}"] = {"image": noisy(loss, i)}
        found[model] = {"parameters": 10**5 * 4**i, "tokens": 10**6}
    return found


def tuned(before: tuple[float, float], mixed: tuple[float, float], one: tuple[float, float]) -> dict[str, Any]:
    return {
        f"{of}-{kind}": {"exact": hits(share)}
        for kind, shares in (("before", before), ("mixture", mixed), ("one", one))
        for of, share in zip(("answers", "captions"), shares, strict=True)
    }


def budgets(with_: tuple[float, ...], without: tuple[float, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for k, (kind, shares) in enumerate((("with", with_), ("without", without))):
        for i, (budget, share) in enumerate(zip((0.25, 0.5, 1.0), shares, strict=True)):
            found[f"{kind}-{budget}"] = {"parameters": 10**6, "tokens": round(10**6 * budget)}
            for split in ("train", "test"):
                found[f"{kind}-{budget}-{split}"] = {"parts": noisy(share, 10 * k + i)}
    return found


PLANTED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (retrieval, shipped(0.2, 0.7, 0.9), HOLDS),
    (retrieval, shipped(0.2, 0.9, 0.7), FAILS),
    (retrieval, shipped(0.2, 0.9, 0.9), OPEN),
    (guidance, scaled({"a": 2.0, "b": 2.0, "c": 2.0}), HOLDS),
    (guidance, scaled({"a": 1.41, "b": 1.41, "c": 5.66}), FAILS),
    (guidance, scaled({"a": 2.0, "b": 2.0, "c": 2.0}, height=0.0), OPEN),
    (masks, lawful(0.2, 0.0, 0.0), HOLDS),
    (masks, lawful(0.1, 0.0, 0.3), FAILS),
    (masks, lawful(0.2, 0.2, 0.0), OPEN),
    (candidates, pools("apart"), HOLDS),
    (candidates, pools("alike"), OPEN),
    (candidates, pools("flat"), OPEN),
    (scaling, sizes(3.0, 2.5, 2.2), HOLDS),
    (scaling, sizes(3.0, 2.5, 2.7), FAILS),
    (scaling, sizes(3.0, 2.5, 2.5), OPEN),
    (mixture, tuned((0.2, 0.9), (0.8, 0.9), (0.8, 0.1)), HOLDS),
    (mixture, tuned((0.2, 0.9), (0.8, 0.5), (0.8, 0.1)), FAILS),
    (mixture, tuned((0.2, 0.9), (0.5, 0.9), (0.8, 0.1)), FAILS),
    (mixture, tuned((0.2, 0.0), (0.8, 0.0), (0.8, 0.0)), OPEN),
    (mixture, tuned((0.5, 0.9), (0.5, 0.9), (0.5, 0.9)), OPEN),
    (compute, budgets((0.5, 0.8, 0.9), (0.2, 0.3, 0.4)), HOLDS),
    (compute, budgets((0.2, 0.3, 0.4), (0.5, 0.8, 0.9)), FAILS),
    (compute, budgets((0.2, 0.4, 0.6), (0.2, 0.3, 0.4)), OPEN),
]


@pytest.mark.parametrize(("judge", "results", "expected"), PLANTED)
def test_planted_figures_get_the_verdict_that_is_theirs(
    judge: Callable[..., Any], results: dict[str, Any], expected: str
) -> None:
    found = judge(results, SIZE)
    assert found.verdict == expected, [(c.says, c.value, c.low, c.high, c.verdict) for c in found.comparisons]
    assert found.lines and all(len(row) == len(found.header) for row in found.rows)


def test_every_statement_was_planted_to_hold_and_not_to_be_told() -> None:
    for statement in STATEMENTS:
        assert {HOLDS, OPEN} <= {expected for judge, _, expected in PLANTED if judge is statement.judge}


def test_ties_tell_nothing_of_the_best_scale() -> None:
    """Models that draw nothing right at any scale would otherwise have their best, the first, in common."""
    dead = {name: {"parts": [0.0] * N} for name in scaled({"a": 1.0, "b": 1.0, "c": 1.0})}
    assert guidance(dead, SIZE).verdict == OPEN


# -- candidates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_what_is_kept_is_the_mean_over_every_choice(number: int) -> None:
    rng = np.random.default_rng(3)
    fit, value = rng.random(5), rng.random(5)
    every = [value[max(some, key=lambda i: fit[i])] for some in itertools.combinations(range(5), number)]
    assert kept(fit, value, number) == pytest.approx(np.mean(every))


@pytest.mark.parametrize("number", [2, 4, 6])
def test_what_is_kept_of_two_ways_is_the_mean_over_every_choice_of_both(number: int) -> None:
    rng = np.random.default_rng(4)
    (f, v), (g, w) = ((rng.random(n), rng.random(n)) for n in (5, 4))
    every = [
        max([(f[i], v[i]) for i in some] + [(g[j], w[j]) for j in others])[1]
        for some in itertools.combinations(range(5), number // 2)
        for others in itertools.combinations(range(4), number // 2)
    ]
    assert kept_mixed((f, v), (g, w), number) == pytest.approx(np.mean(every))


# -- the fit ----------------------------------------------------------------------------------------------------------

COUNTS = [10**5 * 3.0**i for i in range(5)]


def test_a_power_law_is_found_again() -> None:
    for planted in ((1.2, 40.0, 0.3), (0.0, 9.0, 0.1)):
        losses = [planted[0] + planted[1] * c ** -planted[2] for c in COUNTS]
        found = power_law(COUNTS, losses, True)
        again = [found[0] + found[1] * c ** -found[2] for c in COUNTS]
        assert again == pytest.approx(losses, rel=2e-3)
        assert found[2] == pytest.approx(planted[2], rel=0.1)


def test_an_irreducible_term_is_told_only_where_it_can_be() -> None:
    def rows(floor: float, spread: float, counts: list[float]) -> list[list[float]]:
        shared = np.random.default_rng(0).standard_normal(N)  # documents differ, alike for all sizes
        own = np.random.default_rng(1).standard_normal((len(counts), N))
        return [list(floor + 400 * c**-0.5 + 0.02 * shared + spread * o) for c, o in zip(counts, own, strict=True)]

    fitted, note = fit_note(COUNTS, rows(1.5, 0.01, COUNTS))
    assert fitted is not None and fitted[0] == pytest.approx(1.5, abs=0.1) and "irreducible term is" in note
    fitted, note = fit_note(COUNTS, rows(0.0, 0.5, COUNTS))
    assert fitted is not None and fitted[0] == 0 and "cannot be told" in note
    fitted, note = fit_note(COUNTS[:3], rows(1.5, 0.01, COUNTS[:3]))
    assert fitted is not None and fitted[0] == 0 and "3 sizes are too few" in note
    fitted, note = fit_note(COUNTS, [[1.0 + 0.1 * i] * N for i in range(5)])
    assert fitted is None and "No falling power law" in note
