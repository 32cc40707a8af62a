"""Improved precision and recall of generative models (Kynkaanniemi et al. 2019, arXiv:1904.06991).

A set of vectors spans the union of balls around each, as far as its k-th nearest other. Precision is the share of the
predictions that lie in what the reference spans, recall that of the reference in what the predictions span.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cm3.errors import DataError, whole_number

K = 3
"""The paper's neighbour."""
_ROWS = 256
_NONE = 1e-12
"""Squared distances below this share of the vectors' squared lengths are rounding: the vectors are the same."""


def precision_recall(predictions: np.ndarray, reference: np.ndarray, k: int = K) -> tuple[np.ndarray, np.ndarray]:
    """Return which predictions (n, d) lie in what the reference (m, d) spans, bool (n,), and the reverse, bool (m,).

    Their means are precision and recall. Distances are in float64, a block of rows at a time. Raises `DataError` where
    a set has not more than `k` vectors.
    """
    whole_number("k", k)
    for what, rows in (("predictions", predictions), ("reference", reference)):
        if len(rows) <= k:
            raise DataError(f"{what} of {len(rows)} pictures: precision and recall with k={k} need more than {k}")
    centre = reference.mean(0, dtype=np.float64)  # less rounding where vectors are far from 0
    a, b = predictions - centre, reference - centre
    return _inside(a, b, _reach(b, k)), _inside(b, a, _reach(a, k))


def _reach(rows: np.ndarray, k: int) -> np.ndarray:
    """Return of each vector the squared distance to its k-th nearest other."""
    # The vector itself is at 0, the first of k + 1.
    blocks = (np.partition(block, k, axis=1)[:, k] for block in _squared(rows, rows))
    return np.concatenate(list(blocks))


def _inside(rows: np.ndarray, of: np.ndarray, reach: np.ndarray) -> np.ndarray:
    return np.concatenate([(block <= reach).any(1) for block in _squared(rows, of)])


def _squared(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yield squared distances (rows, m) of a block of `a` from all of `b`."""
    long = np.square(b).sum(1)
    for start in range(0, len(a), _ROWS):
        some = a[start : start + _ROWS]
        lengths = np.square(some).sum(1)[:, None] + long
        found = lengths - 2 * (some @ b.T)
        yield np.where(found < _NONE * lengths, 0.0, found)
