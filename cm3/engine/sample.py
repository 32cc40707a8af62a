"""Draw ids from scores: temperature, top-p, inverse CDF, with chance that belongs to each request.

The random number of draw t of a request is a hash of (seed, t). No generator runs through the batch, so a request draws
the same ids alone, among others, or admitted late. Probabilities and their running sum are float64: in float32 the sum
over 8,192 codes would shift the borders between ids by more than rare ids are wide.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LEAST_TEMPERATURE = 1e-6
"""Below it the most likely id is taken, as at 0: scores divided by less may leave the range of a float."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """Return the finaliser of SplitMix64 (Steele et al. 2014), on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seeds: list[int], draws: list[int]) -> np.ndarray:
    """Return one number in [0, 1) for each pair (seed, draw), float64 (n,): SplitMix64 started at a hash of the
    seed."""
    seed = np.asarray(seeds, dtype=np.uint64)
    draw = np.asarray(draws, dtype=np.uint64)
    bits = _mix(_mix(seed + _GOLDEN) + (draw + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def probabilities(scores: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """Return the distribution that is drawn from: softmax(scores / temperature), cut to the top-p set, not
    renormalised.

    `scores` (n, v), -inf where forbidden; `temperature` (n,) >= 1e-6; `top_p` (n,) in (0, 1]. Returns float64 (n, v).
    Top-p keeps an id if the ids more likely than it have less than `top_p` together; equals count in order of id.
    """
    p = (scores.double() / temperature.double()[:, None]).softmax(-1)
    if bool((top_p < 1).any()):
        ordered, order = p.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        drop = (before >= top_p.double()[:, None]) & (top_p < 1)[:, None]
        drop[:, 0] = False
        p = p.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), 0.0)
    return p


def draw(scores: Tensor, temperature: Tensor, top_p: Tensor, uniforms: Tensor) -> Tensor:
    """Return one column for each row of `scores` (n, v); where the temperature is below 1e-6, the highest score.

    `uniforms` float64 (n,) in [0, 1). Returns int64 (n,); -1 for a row whose scores (NaN, infinite) are no
    distribution.
    """
    greedy = temperature < LEAST_TEMPERATURE
    best = scores.argmax(-1)
    lost = ~scores.amax(-1).isfinite()
    if bool(greedy.all()):
        return best.masked_fill(lost, -1)
    p = probabilities(scores, temperature.masked_fill(greedy, 1.0), top_p)
    cdf = p.cumsum(-1)
    total = cdf[:, -1:]
    # The first id whose running sum exceeds x; x stays below the total, so an id of probability 0 is never it.
    x = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    drawn = torch.searchsorted(cdf, x, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)
    return torch.where(greedy, best, drawn).masked_fill(lost, -1)
