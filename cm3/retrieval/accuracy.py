"""Shares of how often a search finds the right thing: shares found first, and among the first five."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cm3.errors import DataError


def retrieval_accuracy(queries: np.ndarray, bank: np.ndarray, right: Sequence[int]) -> dict[str, float]:
    """Return shares of queries (q, w) whose right row of a bank (n, w) is first, and among five, by inner product.

    A row that scores the same as the right one stands before it. Raises `DataError` where there is no query.
    """
    if not len(queries):
        raise DataError("retrieval accuracy: there are no queries; give at least one")
    scores = queries @ bank.T
    place = (scores >= scores[np.arange(len(queries)), np.asarray(right)][:, None]).sum(1)
    return {"recall_1": float((place <= 1).mean()), "recall_5": float((place <= 5).mean())}


def among_hundred(name: str, queries: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """Return shares found, over queries (n, w), each against the hundred images (n, w) that it stands among."""
    groups = [slice(at, at + 100) for at in range(0, len(queries), 100)]
    found = [retrieval_accuracy(queries[g], images[g], range(len(queries[g]))) for g in groups]
    sizes = [len(queries[g]) for g in groups]
    return {f"{name}_{key}": float(np.average([f[key] for f in found], weights=sizes)) for key in found[0]}
