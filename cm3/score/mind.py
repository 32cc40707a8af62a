"""MIND, the Monge Inception Distance (Berthet et al. 2026, arXiv:2605.06797): sliced transport between features.

    MIND = 3 d / (M n) sum_i sum_j (sorted(u_i . x)_j - sorted(u_i . y)_j)^2

over M directions u_i of length one, drawn evenly, and the same number n of vectors of d dimensions on both sides. It
needs fewer pictures than FID, and sees more than mean and covariance. Directions, and which vectors of the larger side
are taken, are drawn as torch-fidelity draws them, so that the same seed gives the same number.
"""

from __future__ import annotations

import numpy as np
import torch

from cm3.errors import DataError, whole_number

DIRECTIONS = 1000
SEED = 2020
"""The defaults of torch-fidelity."""
_SOME = 128


def mind(a: np.ndarray, b: np.ndarray, directions: int = DIRECTIONS, seed: int = SEED) -> float:
    """Return MIND of vectors (n, d) and (m, d); of the larger set min(n, m) are drawn.

    Raises `DataError` for sets without vectors or of different dimensions, `ConfigError` for no direction.
    """
    whole_number("directions", directions)
    whole_number("seed", seed, 0, (1 << 63) - 1)
    if not len(a) or not len(b) or a.shape[1:] != b.shape[1:]:
        raise DataError(f"vectors {a.shape} and {b.shape}: must be some on both sides, of the same dimensions")
    drawn = torch.Generator().manual_seed(seed)
    n = min(len(a), len(b))
    x, y = (torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)) for rows in (a, b))
    x, y = (rows if len(rows) == n else rows[torch.randperm(len(rows), generator=drawn)[:n]] for rows in (x, y))
    along = torch.randn(directions, x.shape[1], generator=drawn)
    along /= along.norm(dim=1, keepdim=True).clamp_min(1e-12)
    total = 0.0
    for some in along.split(_SOME):
        apart = (x @ some.T).sort(0).values - (y @ some.T).sort(0).values
        total += float(apart.double().square().mean(0).sum())
    return 3 * x.shape[1] * total / directions
