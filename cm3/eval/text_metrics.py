"""Metrics of texts against those of people: the accuracy of VQA, and CIDEr-D of captions.

    vqa_accuracy("two", ten answers)       Antol et al. 2015, section 3.3, and the owners' vqaEval.py
    cider(captions, references)            Vedantam et al. 2015, section 5 (CIDEr-D), and the owners' ciderD_scorer.py

Both are written anew from these definitions; where the owners' programs and papers differ, the programs hold, as every
published figure is theirs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from cm3.errors import DataError

AGREED = 3
"""People of those left who must have given an answer for it to be wholly right."""
FEWEST = AGREED + 1
"""Least answers to a question: of fewer, what all of them said would not be wholly right with one of them left out."""
ORDERS, SIGMA, SCALE = 4, 6.0, 10.0
"""CIDEr-D: the longest n-gram, the width of the penalty of length in words, and what the mean is multiplied with."""

_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = ("a", "an", "the")
_NUMBERS = dict(zip("zero one two three four five six seven eight nine ten".split(), map(str, range(11)), strict=True))
_NUMBERS["none"] = "0"
# Contractions that the owners mend where one apostrophe is missing: "dont", "couldnt've", "couldn'tve".
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're "
    "you've"
).split()
_MENDED = {word[:i] + word[i + 1 :]: word for word in _CONTRACTIONS for i, c in enumerate(word) if c == "'"}
_MENDED["somebody'd"] = "somebodyd"  # so in the owners' table, the other way round
_GROUPED = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_WORD = re.compile(r"\w+(?:'\w+)*")


def normal_answer(text: str) -> str:
    """Return an answer as the VQA evaluation compares it.

    Lower case; no full stop but before a digit; numbers to ten and "none" as digits; no articles; missing apostrophes
    of contractions put in. A sign of ; / [ ] " { } ( ) = + \\ _ - > < @ ` , ? ! is left out where it stands beside a
    space anywhere in the text, or where the text has a comma between digits; elsewhere it becomes a space. Apostrophes
    and colons stay.
    """
    text = _flat(text)
    grouped, plain = _GROUPED.search(text) is not None, text
    for sign in _SIGNS:
        beside = f"{sign} " in text or f" {sign}" in text
        plain = plain.replace(sign, "" if beside or grouped else " ")
    plain = _PERIOD.sub("", plain, count=32)  # the owners' program stops there
    words = [_NUMBERS.get(word, word) for word in plain.lower().split()]
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(given: str, answers: Sequence[str]) -> float:
    """Score an answer, 0..1, by those that people gave: min(who gave it / 3, 1), each of them left out in turn.

    The mean over these subsets of n - 1 people, so 0, 0.3, 0.6, 0.9 and 1 for an answer of 0 to 4 of ten. As in the
    owners' program answers are compared by `normal_answer`, but where all people gave the very same text: there the
    answer must be that text. Raises `DataError` for fewer than four answers, of which the common one could not be
    right.
    """
    if len(answers) < FEWEST:
        raise DataError(
            f"answers: {len(answers)} of them, must be at least {FEWEST}, for with one left out {AGREED} must agree; "
            "give those of more people, or one alone as 'answer'"
        )
    given, people = _flat(given), [_flat(answer) for answer in answers]
    if len(set(people)) > 1:
        given, people = normal_answer(given), [normal_answer(answer) for answer in people]
    same = [answer == given for answer in people]
    return sum(min((sum(same) - one) / AGREED, 1.0) for one in same) / len(same)


def caption_words(text: str) -> list[str]:
    """Return the words of a caption in lower case: runs of letters, digits and `_`, with apostrophes inside, and no
    signs."""
    return _WORD.findall(text.lower())


def cider(given: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return CIDEr-D of a caption for each of n pictures by the picture's own references, 0..10; their mean is the
    figure.

    For n-grams of 1 to 4 words: the cosine of the vectors of tf-idf, each number of the caption's clipped at the
    reference's, times exp(-(difference of lengths)^2 / 72); the mean over orders and references, times 10. The idf of
    an n-gram is log(n / pictures that have it in any reference), so 0 for what all have: a figure holds for its own set
    of references and for no other. A caption shorter than four words has no n-gram of the higher orders and cannot
    reach 10.

    The owners' scorer is fed by the PTB tokenizer of Stanford's CoreNLP, a Java program, which parts "dog's" in two and
    keeps "black-and-white" whole; here the words are `caption_words`. On captions the two differ little, and yet a
    published figure is only compared with one of the same tokenizer. Raises `DataError` for fewer than two pictures,
    which give an idf of 0 throughout, for a picture without a reference, and for other numbers of captions and
    pictures.
    """
    if len(given) != len(references):
        raise DataError(f"cider: {len(given)} captions for {len(references)} pictures; give one for each")
    if len(references) < 2:
        raise DataError(
            f"cider: there is {len(references)} picture, must be at least 2, for words that all pictures share count "
            "nothing; give more"
        )
    if lacking := [number for number, some in enumerate(references) if not some]:
        raise DataError(f"cider: picture {lacking[0]} has no reference; leave it out")
    counted = [[_grams(text) for text in some] for some in references]
    having = Counter(gram for some in counted for gram in set().union(*some))
    idf = {gram: math.log(len(references) / number) for gram, number in having.items()}
    unseen = math.log(len(references))
    scores = []
    for caption, some in zip(given, counted, strict=True):
        ours = _Weighed(_grams(caption), idf, unseen)
        scores.append(SCALE * sum(ours.like(_Weighed(grams, idf, unseen)) for grams in some) / len(some))
    return scores


Grams = Counter[tuple[str, ...]]


class _Weighed:
    """A text's n-grams of each order by their weights, with the norms, and its length."""

    def __init__(self, grams: Grams, idf: Mapping[tuple[str, ...], float], unseen: float) -> None:
        self.orders: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
        for gram, number in grams.items():
            self.orders[len(gram) - 1][gram] = number * idf.get(gram, unseen)
        self.norms = [math.sqrt(sum(weight**2 for weight in order.values())) for order in self.orders]
        # The owners count the pairs of words, one fewer than words, of all texts but the empty one.
        self.length = sum(number for gram, number in grams.items() if len(gram) == 2)

    def like(self, reference: _Weighed) -> float:
        """Return the clipped cosine with a reference, less a penalty for length: the mean over the orders, 0..1."""
        total = 0.0
        for ours, theirs, *norms in zip(self.orders, reference.orders, self.norms, reference.norms, strict=True):
            if all(norms):
                both = [(weight, theirs[gram]) for gram, weight in ours.items() if gram in theirs]
                total += sum(min(a, b) * b for a, b in both) / (norms[0] * norms[1])
        return total / ORDERS * math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2))


def _grams(text: str) -> Grams:
    """Count each n-gram of 1 to 4 words in a text."""
    words = caption_words(text)
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


def _flat(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
