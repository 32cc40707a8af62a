"""BLEU-1 to BLEU-4 of captions: Papineni et al. 2002, with the length of the reference that is nearest.

As the scorer of COCO's captions has it: clipped counts and lengths are summed over all pictures, of two references as
near the shorter one counts, and no figure is the mean of the captions' own.
"""

from __future__ import annotations

import math

import numpy as np

from cm3.score.ngrams import Pairs

_SMALL, _TINY = 1e-9, 1e-15
"""Added by the reference scorer to counts, so that nothing is divided by 0."""


def bleu(pairs: Pairs) -> tuple[float, float, float, float]:
    """Return BLEU with n-grams to one, two, three and four words, each 0..1."""
    ours, theirs = pairs.lengths()
    starts = np.cumsum([0, *(len(some) for some in pairs.references[:-1])])
    far = np.abs(theirs - ours[pairs.picture])
    widest = int(theirs.max(initial=0)) + 1
    nearest = np.minimum.reduceat(far * widest + theirs, starts) % widest
    ratio = (int(ours.sum()) + _TINY) / (int(nearest.sum()) + _SMALL)
    short = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    figures, product = [], 1.0
    for number, order in enumerate(pairs.orders, 1):
        most = np.zeros(len(order.given.times), dtype=np.int64)
        shared = order.shared >= 0
        np.maximum.at(most, order.shared[shared], order.reference.times[shared])
        right = int(np.minimum(most, order.given.times).sum())
        product *= (right + _TINY) / (int(np.maximum(ours - number + 1, 0).sum()) + _SMALL)
        figures.append(float(product ** (1 / number)) * short)
    one, two, three, four = figures
    return one, two, three, four
