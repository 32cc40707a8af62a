"""The Frechet distance of two sets of vectors, and their statistics: streamed, merged, kept in a file.

    d^2 = |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2))       Heusel et al. 2017, arXiv:1706.08500

A file of statistics is as pytorch-fid writes it, a .npz of `mu` (d,) and `sigma` (d, d), which other tools read; ours
has also `n`, the number of vectors, and `settings`, a JSON text of the features that they are.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cm3.errors import DataError
from cm3.files import parse_json, said, write

BLOCK = 512
"""Vectors that are taken into the sums at a time, whatever the batches are that they come in."""
WIDEST = 16384
"""Most dimensions of statistics that are read: their covariance takes 2 GiB."""
LARGEST = 1e100
"""Most that a mean or a covariance may hold: the distance takes products of two of them."""


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of vectors, float64."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int | None = None
    """Number of the vectors; None where a file does not say it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All that decides a vector (`cm3.score.features`); empty where a file does not say it."""

    def save(self, path: str | Path) -> None:
        """Write it as a .npz. Raises `DiskError` where that cannot be."""
        made = io.BytesIO()
        arrays = {"mu": self.mu, "sigma": self.sigma, "settings": np.array(json.dumps(dict(self.settings)))}
        np.savez_compressed(made, allow_pickle=False, **arrays, **({} if self.n is None else {"n": np.array(self.n)}))
        write(path, made.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Gaussian:
        """Read a .npz, of ours or of pytorch-fid. No pickle is run.

        Raises `DataError` for a file that is missing, is no .npz, or whose mean and covariance are none.
        """
        what = f"statistics {str(path)!r}"
        try:
            with zipfile.ZipFile(path) as file:
                names = {name.removesuffix(".npy") for name in file.namelist()}
                mu = _array(file, "mu", names, what, (WIDEST,))
                sigma = _array(file, "sigma", names, what, (len(mu), len(mu)))
                n = _array(file, "n", names, what, ()) if "n" in names else None
                told = _array(file, "settings", names, what, ()) if "settings" in names else None
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{what}: no such file; check the path") from error
        except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged file
            raise DataError(f"{what}: is no readable .npz ({said(error)}); make it again") from error
        mu, sigma = _numbers(mu, "mu", what), _numbers(sigma, "sigma", what)
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or not len(mu):
            raise DataError(f"{what}: mu is {mu.shape} and sigma {sigma.shape}, must be (d,) and (d, d); make it again")
        slack = 1e-6 * max(float(np.abs(sigma).max()), 1e-300)
        if float(np.abs(sigma - sigma.T).max()) > slack or float(np.diagonal(sigma).min()) < -slack:
            raise DataError(f"{what}: sigma is no covariance, symmetric and without negative variances; make it again")
        if n is not None and (n.dtype.kind not in "iu" or int(n) < 2):
            raise DataError(f"{what}: n is {n}, must be a whole number from 2 on; make it again")
        settings = parse_json(str(told), f"{what}: settings") if told is not None and told.dtype.kind == "U" else {}
        if not isinstance(settings, dict):
            raise DataError(f"{what}: settings is no JSON object; make it again")
        return cls(mu, sigma, None if n is None else int(n), settings)


def _array(file: zipfile.ZipFile, name: str, names: set[str], what: str, most: tuple[int, ...]) -> np.ndarray:
    """Read an array whose header promises no more than `most`, so that no file asks for all memory."""
    if name not in names:
        raise DataError(f"{what}: holds no {name!r}; give a .npz as pytorch-fid or --save-stats writes it")
    with file.open(f"{name}.npy") as part:
        version = np.lib.format.read_magic(part)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(part)
    bound = 1 << 20 if dtype.kind == "U" else 16  # bytes of an item: of the text of settings, of a number
    if len(shape) != len(most) or any(s > m for s, m in zip(shape, most, strict=True)) or dtype.itemsize > bound:
        raise DataError(f"{what}: {name} is {dtype} {shape}, more than {most} or of other dimensions; make it again")
    with file.open(f"{name}.npy") as part:
        return np.lib.format.read_array(part, allow_pickle=False)


def _numbers(values: np.ndarray, name: str, what: str) -> np.ndarray:
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise DataError(f"{what}: {name} holds {values.dtype} or values that are not finite; make it again")
    return values.astype(np.float64)


class Statistics:
    """Running mean and covariance of vectors, in float64 and in memory of 2 d^2 numbers, however many come.

    The same vectors in the same order give the same numbers, to the bit, in batches of any size.
    """

    def __init__(self, width: int) -> None:
        self.width, self.n = width, 0
        self._mean, self._scatter = np.zeros(width), np.zeros((width, width))  # of those taken in
        self._waiting, self._held = np.zeros((BLOCK, width)), 0

    def add(self, rows: np.ndarray) -> None:
        """Take vectors (n, width). Raises `DataError` for another shape, and for values that are not finite."""
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise DataError(f"vectors of shape {rows.shape}: must be (n, {self.width})")
        if not np.isfinite(rows).all():
            raise DataError("vectors with values that are not finite have no mean; leave them out")
        at = 0
        while at < len(rows):
            some = rows[at : at + BLOCK - self._held]
            self._waiting[self._held : self._held + len(some)] = some
            self._held, at = self._held + len(some), at + len(some)
            if self._held == BLOCK:
                self._take_in()

    def merge(self, other: Statistics) -> None:
        """Take all that another has been given: of shards, the same as of the whole up to rounding."""
        if other.width != self.width:
            raise DataError(f"statistics of {other.width} dimensions: do not merge with {self.width}")
        self._take_in()
        other._take_in()
        self._join(other.n, other._mean, other._scatter)

    def gaussian(self, settings: Mapping[str, Any] | None = None) -> Gaussian:
        """Return mean and covariance, over n - 1. Raises `DataError` for fewer than two vectors."""
        self._take_in()
        if self.n < 2:
            raise DataError(f"statistics of {self.n} pictures: a covariance needs two at least")
        return Gaussian(self._mean.copy(), self._scatter / (self.n - 1), self.n, settings or {})

    def _take_in(self) -> None:
        if not self._held:
            return
        rows, self._held = self._waiting[: self._held], 0
        mean = rows.mean(0)
        rows = rows - mean
        self._join(len(rows), mean, rows.T @ rows)

    def _join(self, n: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        """Join the sums of squares about two means (Chan, Golub and LeVeque 1979)."""
        if not n:
            return
        apart, total = mean - self._mean, self.n + n
        self._scatter += scatter
        self._scatter += np.outer(apart, apart) * (self.n * n / total)
        self._mean += apart * (n / total)
        self.n = total


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Return the squared Frechet distance.

    Raises `DataError` for different dimensions, and for numbers that are too large.

    The trace of the square root of S_a S_b, whose eigenvalues are those of the symmetric R^T S_b R with S_a = R R^T, is
    the sum of the roots of these: real also where a covariance has not full rank.
    """
    if len(a.mu) != len(b.mu):
        raise DataError(f"statistics of {len(a.mu)} and of {len(b.mu)} dimensions: are of different features")
    if max(float(np.abs(part).max()) for one in (a, b) for part in (one.mu, one.sigma)) > LARGEST:
        raise DataError(f"statistics: hold numbers above {LARGEST:g}, which are of no features; make them again")
    values, vectors = np.linalg.eigh(a.sigma)
    kept = values > max(float(values[-1]), 0.0) * len(values) * np.finfo(np.float64).eps
    root = vectors[:, kept] * np.sqrt(values[kept])
    within = root.T @ b.sigma @ root
    crossed = np.sqrt(np.linalg.eigvalsh((within + within.T) / 2).clip(0)).sum() if kept.any() else 0.0
    apart = a.mu - b.mu
    return max(0.0, float(apart @ apart + np.trace(a.sigma) + np.trace(b.sigma) - 2 * crossed))
