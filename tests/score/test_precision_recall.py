"""Improved precision and recall equal the definition, and MIND its own; both know equal and distant sets."""

from __future__ import annotations

import numpy as np
import pytest

from cm3.errors import ConfigError, DataError
from cm3.score.mind import mind
from cm3.score.precision_recall import precision_recall


def by_hand(of: np.ndarray, points: np.ndarray, k: int) -> list[bool]:
    """Whether each point lies in a ball around one of `of` that reaches its k-th nearest other."""
    reach = [sorted(float(np.linalg.norm(a - b)) for j, b in enumerate(of) if j != i)[k - 1] for i, a in enumerate(of)]
    return [any(float(np.linalg.norm(p - a)) <= r for a, r in zip(of, reach, strict=True)) for p in points]


@pytest.mark.parametrize("k", [1, 3])
def test_equals_the_definition(k: int) -> None:
    rng = np.random.default_rng(k)
    made, true = rng.standard_normal((60, 3)) + [50, 50, 51.5], rng.standard_normal((45, 3)) + 50
    inside, covered = precision_recall(made.astype(np.float32), true.astype(np.float32), k)
    assert inside.tolist() == by_hand(true.astype(np.float32), made.astype(np.float32), k)
    assert covered.tolist() == by_hand(made.astype(np.float32), true.astype(np.float32), k)
    assert 0 < inside.mean() < 1 and 0 < covered.mean() < 1


def test_tells_which_is_which() -> None:
    """Predictions of one kind out of two: all of them right, half of what there is."""
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((50, 4)), rng.standard_normal((50, 4)) + 100
    inside, covered = precision_recall(one, np.concatenate([one, two]))
    assert inside.mean() == 1.0 and covered.mean() == 0.5


def test_a_set_against_itself_also_where_all_are_the_same() -> None:
    rng = np.random.default_rng(0)
    for rows in (rng.standard_normal((700, 8)), np.full((9, 8), 123.456)):
        inside, covered = precision_recall(rows, rows)
        assert inside.all() and covered.all()
    inside, covered = precision_recall(rng.standard_normal((9, 8)), rng.standard_normal((9, 8)) + 1e3)
    assert not inside.any() and not covered.any()


def test_too_few_are_refused() -> None:
    rows = np.zeros((3, 2))
    with pytest.raises(DataError, match="predictions of 3 pictures: precision and recall with k=3 need more than 3"):
        precision_recall(rows, np.zeros((9, 2)))
    with pytest.raises(DataError, match="reference of 3 pictures"):
        precision_recall(np.zeros((9, 2)), rows)
    with pytest.raises(ConfigError, match="k=0"):
        precision_recall(rows, rows, 0)


def test_mind_of_a_shift_is_three_times_its_square() -> None:
    """Each direction sees the square of the shift along it, on average one d-th of the whole."""
    rng = np.random.default_rng(0)
    x, shift = rng.standard_normal((50, 6)), np.array([1.0, -2, 0, 0.5, 3, 0])
    want = 3 * float(shift @ shift)
    assert mind(x, x + shift, 5000) == pytest.approx(want, rel=0.1)
    assert mind(x, x + shift) == pytest.approx(want, rel=0.2)
    assert mind(x, (x + shift)[::-1]) == pytest.approx(mind(x, x + shift), rel=1e-4), "the order of pictures is nothing"
    assert mind(x, x[::-1]) == pytest.approx(0, abs=1e-9)


def test_mind_of_stretched_normals_is_what_theory_says() -> None:
    """Along u, normals of deviations s and t are |s - t| apart: of N(0, I) and N(0, 4 I) it is 3 d."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((4000, 5)), 2 * rng.standard_normal((3000, 5))
    assert mind(x, y, 100) == pytest.approx(3 * 5, rel=0.2)
    assert mind(x, y, 100) == mind(x, y, 100) != mind(x, y, 100, seed=1)


def test_mind_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(DataError, match="of the same dimensions"):
        mind(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(DataError, match="some on both sides"):
        mind(np.zeros((0, 2)), np.zeros((3, 2)))
    with pytest.raises(ConfigError, match="directions=0"):
        mind(np.zeros((3, 2)), np.zeros((3, 2)), 0)


def test_both_equal_torch_fidelity() -> None:
    """Figures of torch-fidelity 0.4 with MIND (its commit of 11 May 2026), given the same vectors."""
    rng = np.random.default_rng(0)
    made = rng.standard_normal((900, 64)).astype(np.float32)
    true = (rng.standard_normal((700, 64)) * 0.9 + 0.1).astype(np.float32)
    assert mind(made, true) == pytest.approx(5.5970517, rel=1e-4)
    inside, covered = precision_recall(made, true)
    assert inside.mean() == pytest.approx(0.2411111, abs=1e-3)
    assert covered.mean() == pytest.approx(0.9028571, abs=1e-3)
