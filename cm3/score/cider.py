"""CIDEr-D and CIDEr of captions: Vedantam, Zitnick and Parikh 2015 (arXiv 1411.5726), section 5.

Every published "CIDEr" on COCO is CIDEr-D, which clips counts and punishes other lengths; plain CIDEr does neither.
Where the paper and its authors' program differ the program holds: words are not stemmed, the length of a text is its
number of pairs of words, and the idf is that of the references of the pictures that are scored, so that a figure holds
for its own set of references and for no other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cm3.errors import DataError
from cm3.score.ngrams import ORDERS, Pairs
from cm3.score.ptb import tokenize

SIGMA, SCALE = 6.0, 10.0
"""The width of CIDEr-D's penalty of length, in words, and the factor of the mean over orders and references."""

Floats = npt.NDArray[np.float64]


def cider(given: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return CIDEr-D of a caption for each of n pictures by the picture's own references, 0..10; their mean is the
    figure.

    Captions are texts and read by `cm3.score.ptb`. A caption shorter than four words has no n-gram of the higher orders
    and cannot reach 10. Raises `DataError` for fewer than two pictures, which give an idf of 0 throughout, for a
    picture without a reference, and for other numbers of captions and pictures.
    """
    if len(given) != len(references):
        raise DataError(f"cider: {len(given)} captions for {len(references)} pictures; give one for each")
    if lacking := [number for number, some in enumerate(references) if not some]:
        raise DataError(f"cider: picture {lacking[0]} has no reference; leave it out")
    words = iter(tokenize([text for some in references for text in some]))
    pairs = Pairs(tokenize(given), [[next(words) for _ in some] for some in references])
    return ciders(pairs)[0].tolist()


def ciders(pairs: Pairs) -> tuple[Floats, Floats]:
    """Return CIDEr-D and CIDEr of each picture, 0..10. Raises `DataError` for fewer than two pictures."""
    pictures, picture = len(pairs.references), pairs.picture
    if pictures < 2:
        raise DataError(
            f"cider: there is {pictures} picture, must be at least 2, for words that all pictures share count nothing; "
            "give more"
        )
    clipped, plain = np.zeros(len(picture)), np.zeros(len(picture))
    for order in pairs.orders:
        idf = math.log(pictures) - np.log(np.maximum(order.having, 1))
        given, theirs = order.given.times * idf[order.given.gram], order.reference.times * idf[order.reference.gram]
        norms = np.sqrt(np.bincount(order.given.text, given**2, pictures))[picture]
        norms *= np.sqrt(np.bincount(order.reference.text, theirs**2, len(picture)))
        norms[norms == 0] = 1.0  # then the products are 0
        shared = np.flatnonzero(order.shared >= 0)
        ours, theirs, text = given[order.shared[shared]], theirs[shared], order.reference.text[shared]
        clipped += np.bincount(text, np.minimum(ours, theirs) * theirs, len(picture)) / norms
        plain += np.bincount(text, ours * theirs, len(picture)) / norms
    ours, theirs = (np.maximum(lengths - 1, 0) for lengths in pairs.lengths())
    clipped *= np.exp(-((ours[picture] - theirs) ** 2) / (2 * SIGMA**2))
    counts = np.bincount(picture, minlength=pictures)
    return (
        np.bincount(picture, clipped, pictures) / counts / ORDERS * SCALE,
        np.bincount(picture, plain, pictures) / counts / ORDERS * SCALE,
    )
