"""The logits kernel: one function for CFG, double guidance, contrastive decoding and CD-K.

    score = sum over streams of weight * logits            CFG (g, 1 - g); CD (1, -1); double (g, 1 - s_img, s_img - g)
    V     = { y : p_EXP(y) >= alpha * k-th largest p_EXP }  alpha 0: every id; k 1: the rule of Li et al.

Paper section 3.1, equations 1 to 3. CFG on log-probabilities is `log p_EXP + (g - 1)(log p_EXP - log p_AMA)`, and a
constant per vector does not change a softmax, so logits need no normalising here. The caller passes the logits of the
allowed ids only: an id that the grammar forbids must not set the maximum that the plausibility rule compares with.
"""

from __future__ import annotations

import torch
from torch import Tensor


def guide(
    logits: Tensor, weights: Tensor, amateur_temperature: Tensor, alpha: Tensor | None, k: Tensor | None, most: int = 1
) -> Tensor:
    """Combine the streams of each request into one score per allowed id.

    `logits` (n, streams, v): for n requests; stream 0 is the expert, stream 1 the amateur.
    `weights` (n, streams); `amateur_temperature` (n,) > 0, divides the logits of stream 1. `alpha` (n,) in [0, 1], 0
    where there is no plausibility rule, None where no request has one; `k` (n,) int64, 1 to `most` <= v, None is 1.
    Returns (n, v) float32, -inf outside V.
    """
    logits = logits.float()
    expert = logits[:, 0]
    scores = expert * weights[:, :1]
    for i in range(1, logits.shape[1]):
        other = logits[:, i] / amateur_temperature[:, None] if i == 1 else logits[:, i]
        scores = scores + other * weights[:, i : i + 1]
    if alpha is not None:
        largest = expert.topk(most, dim=-1).values
        bar = largest[:, :1] if k is None else largest.gather(1, k[:, None] - 1)
        scores = scores.masked_fill(expert < bar + alpha.log()[:, None], -torch.inf)
    return scores
