"""Statistics are the same however they come in; the distance equals the formula; files are read with care."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from cm3.errors import DataError
from cm3.score.frechet import BLOCK, Gaussian, Statistics, frechet


def vectors(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / d**0.5 + rng.standard_normal(d)).astype(
        np.float32
    )


def of(rows: np.ndarray) -> Gaussian:
    statistics = Statistics(rows.shape[1])
    statistics.add(rows)
    return statistics.gaussian()


def formula(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, by numpy's covariance and scipy's root of the matrix."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t).real
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s + t - 2 * root))


@pytest.mark.parametrize(("n", "m", "d"), [(500, 300, 16), (70, 90, 64), (2000, 1500, 2), (50, 60, 1)])
def test_equals_the_formula(n: int, m: int, d: int) -> None:
    a, b = vectors(n, d, 1), vectors(m, d, 2)
    if d == 1:
        want = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    else:
        want = formula(a, b)
    assert frechet(of(a), of(b)) == pytest.approx(want, rel=1e-3)
    assert frechet(of(a), of(b)) == pytest.approx(frechet(of(b), of(a)), rel=1e-6)


def test_equals_the_formula_where_covariances_have_not_full_rank() -> None:
    """There the trace of the root is the sum of the singular values of A B^T, without any covariance."""
    a, b = vectors(20, 64, 1).astype(np.float64), vectors(30, 64, 2).astype(np.float64)
    x, y = a - a.mean(0), b - b.mean(0)
    crossed = np.linalg.svd(x @ y.T, compute_uv=False).sum() / (19 * 29) ** 0.5
    want = np.square(a.mean(0) - b.mean(0)).sum() + np.square(x).sum() / 19 + np.square(y).sum() / 29 - 2 * crossed
    assert frechet(of(a), of(b)) == pytest.approx(want, rel=1e-6)


def test_is_zero_between_equals_and_the_shift_of_a_shift() -> None:
    a = vectors(400, 12, 3)
    assert frechet(of(a), of(a)) == pytest.approx(0, abs=1e-6)
    assert frechet(of(a), of(a + 2)) == pytest.approx(12 * 4, rel=1e-4)
    still = np.ones((5, 3), dtype=np.float32)  # no variance at all
    assert frechet(of(still), of(still * 3)) == pytest.approx(12)


def test_batches_change_nothing_and_shards_nothing_but_rounding() -> None:
    rows = vectors(2 * BLOCK + 77, 9, 4) + 1000  # far from 0, where a sum of squares would lose its digits
    whole = of(rows)
    np.testing.assert_allclose(whole.mu, rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.sigma, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-9)
    assert whole.n == len(rows)
    for batch in (1, 7, 64):
        statistics = Statistics(9)
        for at in range(0, len(rows), batch):
            statistics.add(rows[at : at + batch])
        again = statistics.gaussian()
        assert np.array_equal(again.mu, whole.mu) and np.array_equal(again.sigma, whole.sigma), batch
    parts = [Statistics(9) for _ in range(4)]
    for part, some in zip(parts, (rows[:3], rows[3:600], rows[:0], rows[600:]), strict=True):
        part.add(some)
        if part is not parts[0]:
            parts[0].merge(part)
    np.testing.assert_allclose(parts[0].gaussian().sigma, whole.sigma, rtol=1e-9)
    assert parts[0].n == len(rows)


def test_bad_vectors_are_refused() -> None:
    statistics = Statistics(3)
    with pytest.raises(DataError, match=r"vectors of shape \(2, 4\): must be \(n, 3\)"):
        statistics.add(np.zeros((2, 4)))
    with pytest.raises(DataError, match="values that are not finite"):
        statistics.add(np.full((1, 3), np.nan))
    statistics.add(np.zeros((1, 3)))
    with pytest.raises(DataError, match="statistics of 1 pictures: a covariance needs two"):
        statistics.gaussian()
    with pytest.raises(DataError, match="do not merge"):
        statistics.merge(Statistics(4))
    with pytest.raises(DataError, match="of 3 and of 4 dimensions: are of different features"):
        frechet(of(vectors(9, 3, 0)), of(vectors(9, 4, 0)))


def test_numbers_that_no_distance_can_be_of_are_refused() -> None:
    usual = Gaussian(np.zeros(3), np.eye(3))
    for other in (Gaussian(np.full(3, 1e300), np.eye(3)), Gaussian(np.zeros(3), 1e300 * np.eye(3))):
        for pair in ((usual, other), (other, usual)):
            with pytest.raises(DataError, match=r"statistics: hold numbers above 1e\+100"):
                frechet(*pair)


def test_a_file_comes_back_and_others_read_it(tmp_path: Path) -> None:
    made = of(vectors(40, 5, 6))
    Gaussian(made.mu, made.sigma, made.n, {"features": "f", "size": None}).save(tmp_path / "a.npz")
    back = Gaussian.load(tmp_path / "a.npz")
    assert np.array_equal(back.mu, made.mu) and np.array_equal(back.sigma, made.sigma)
    assert back.n == 40 and back.settings == {"features": "f", "size": None}
    with np.load(tmp_path / "a.npz") as file:  # as pytorch-fid does
        assert np.array_equal(file["mu"][:], made.mu) and np.array_equal(file["sigma"][:], made.sigma)
    np.savez_compressed(tmp_path / "theirs.npz", mu=made.mu.astype(np.float32), sigma=made.sigma)
    theirs = Gaussian.load(tmp_path / "theirs.npz")
    assert theirs.n is None and theirs.settings == {} and theirs.mu.dtype == np.float64


class Harm:
    """An object that leaves a file where its pickle is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_bad_files_are_named_and_nothing_is_run(tmp_path: Path) -> None:
    eye, path = np.eye(3), tmp_path / "bad.npz"
    harm = np.empty(3, dtype=object)
    harm[:] = [Harm(tmp_path / "harm")] * 3
    for arrays, told in (
        ({"mu": np.zeros(3)}, "holds no 'sigma'"),
        ({"mu": harm, "sigma": eye}, "cannot be loaded|is no readable .npz"),
        ({"mu": np.zeros(4), "sigma": eye}, r"mu is \(4,\) and sigma \(3, 3\)"),
        ({"mu": np.zeros((3, 1)), "sigma": eye}, "of other dimensions"),
        ({"mu": np.zeros(3), "sigma": np.zeros((9, 9))}, r"sigma is float64 \(9, 9\), more than \(3, 3\)"),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.inf)}, "values that are not finite"),
        ({"mu": np.arange(3), "sigma": eye}, "mu holds int64"),
        ({"mu": np.zeros(3), "sigma": eye + np.eye(3, k=1)}, "is no covariance"),
        ({"mu": np.zeros(3), "sigma": -eye}, "is no covariance"),
        ({"mu": np.zeros(3), "sigma": eye, "n": np.array(1)}, "n is 1, must be"),
        ({"mu": np.zeros(3), "sigma": eye, "settings": np.array("[")}, "settings: is not readable JSON"),
        ({"mu": np.zeros(3), "sigma": eye, "settings": np.array("[]")}, "settings is no JSON object"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=told):
            Gaussian.load(path)
    assert not (tmp_path / "harm").exists()
    path.write_bytes(b"PK torn")
    with pytest.raises(DataError, match="is no readable .npz"):
        Gaussian.load(path)
    with pytest.raises(DataError, match="no such file"):
        Gaussian.load(tmp_path / "none.npz")
