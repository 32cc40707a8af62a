"""Draw ids from scores: temperature, top-p, inverse CDF, with chance that belongs to each request.

The random number of draw t of a request is a hash of (seed, t), in integer arithmetic that is the same on every device.
No generator runs through the batch, so a request draws the same ids alone, among others, or admitted late.
Probabilities and their running sum are float64: in float32 the sum over 8,192 codes would shift the borders between ids
by more than rare ids are wide. Nothing here waits for the device: where no row has a setting, its tensor is None.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_TEMPERATURE = 1e-6
"""Below it the most likely id is taken, as at 0: scores divided by less may leave the range of a float."""
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    """Return the finaliser of SplitMix64 (Steele et al. 2014), on the bits of int64, whose products wrap."""
    x = (x ^ _right(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _right(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _right(x, 31)


def _right(x: Tensor, by: int) -> Tensor:
    """Return the bits `by` places to the right, with zeros from the left; `>>` alone repeats the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def uniform(seeds: Tensor, draws: Tensor) -> Tensor:
    """Return one number in [0, 1) for each pair of int64 (seed, draw), float64: SplitMix64 started at a hash of the
    seed."""
    bits = _mix(_mix(seeds + _GOLDEN) + (draws + 1) * _GOLDEN)
    return _right(bits, 11).double() * 2.0**-53


def probabilities(scores: Tensor, temperature: Tensor, top_p: Tensor | None = None) -> Tensor:
    """Return the distribution that is drawn from: softmax(scores / temperature), cut to the top-p set, not
    renormalised.

    `scores` (n, v), -inf where forbidden; `temperature` (n,) >= 1e-6; `top_p` (n,) in (0, 1]. Returns float64 (n, v).
    Top-p keeps an id if the ids more likely than it have less than `top_p` together; equals count in order of id.
    """
    p = (scores.double() / temperature.double()[:, None]).softmax(-1)
    if top_p is not None:
        ordered, order = p.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        drop = (before >= top_p.double()[:, None]) & (top_p < 1)[:, None]
        drop[:, 0] = False
        p = p.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), 0.0)
    return p


def draw(
    scores: Tensor, temperature: Tensor | None, uniforms: Tensor, top_p: Tensor | None, greedy: Tensor | None
) -> Tensor:
    """Return one column for each row of `scores` (n, v).

    `temperature`, `top_p` as above, None where every row is greedy and where none cuts. `uniforms` float64 (n,) in
    [0, 1). `greedy` (n,) bool: rows that take the highest score, None for none of them. Returns int64 (n,); -1 for a
    row whose scores (NaN, infinite) are no distribution.
    """
    if temperature is None:
        drawn = scores.argmax(-1)
    else:
        cdf = probabilities(scores, temperature, top_p).cumsum(-1)
        total = cdf[:, -1:]
        # The first id whose running sum exceeds x; x stays below the total, so an id of probability 0 is never it.
        x = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
        drawn = torch.searchsorted(cdf, x, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)
        if greedy is not None:
            drawn = torch.where(greedy, scores.argmax(-1), drawn)
    return drawn.masked_fill(~scores.amax(-1).isfinite(), -1)
