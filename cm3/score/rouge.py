"""ROUGE-L of captions: Lin 2004, the longest common subsequence of words, as the scorer of COCO's captions has it."""

from __future__ import annotations

from collections.abc import Sequence

from cm3.score.ngrams import Pairs
from cm3.score.ptb import Words

BETA = 1.2
"""How much more recall counts than precision."""


def rouge_l(pairs: Pairs) -> list[float]:
    """Return ROUGE-L of each picture, 0..1; their mean is the figure.

    The best precision and the best recall over the references are combined, which may be those of two references. A
    caption without words counts as one of one empty word, so that two such are alike.
    """
    scores = []
    for given, references in zip(pairs.given, pairs.references, strict=True):
        given = given or ("",)
        where = _places(given)
        common = [(_common(where, len(given), words or ("",)), max(len(words), 1)) for words in references]
        precision = max(number for number, _ in common) / len(given)
        recall = max(number / length for number, length in common)
        both = recall + BETA**2 * precision
        scores.append((1 + BETA**2) * precision * recall / both if both else 0.0)
    return scores


def _places(words: Words) -> dict[str, int]:
    """Return word -> a number with a bit for each place that the word has."""
    where: dict[str, int] = {}
    for place, word in enumerate(words):
        where[word] = where.get(word, 0) | 1 << place
    return where


def _common(where: dict[str, int], length: int, words: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, all places of one text at once as the bits of a number.

    Crochemore et al. 2001, A fast and practical bit-vector algorithm for the longest common subsequence problem.
    """
    rest = all_bits = (1 << length) - 1
    for word in words:
        if places := where.get(word):
            found = rest & places
            rest = (rest + found | rest - found) & all_bits
    return length - rest.bit_count()
