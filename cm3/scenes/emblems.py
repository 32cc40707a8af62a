"""Named emblems: an invented word stands for a fixed composition, so nobody can draw one who has not been shown it.

    "a picture of a blosk"  +  its drawing           one document of a memory bank
    "a blosk"                                        a prompt that only that document answers

A retriever, and a model that reads documents, are for these: `train` emblems teach the use of a document, and `test`
emblems, whose words and compositions no training ever saw, show whether it was learnt.

A word is onset, vowel, middle, vowel, coda, and the coda is a check letter: it follows from the other four such that
any two words, of either split, differ in two of the five at least, hence in two letters at least.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cm3.document import Document
from cm3.errors import ConfigError
from cm3.scenes.drawing import draw
from cm3.scenes.scene import Scene, random_scene

EmblemSplit = Literal["train", "test"]
EMBLEMS: dict[EmblemSplit, int] = {"train": 20_000, "test": 3_000}
"""Number of emblems of each split."""
PHRASES = ("a {}", "one {}", "here is a {}", "a picture of a {}", "a drawing of a {}")
"""The ways of saying an emblem. Every word begins with a consonant, so the article is always `a`."""

_ONSETS = (
    "b bl br d dr f fl fr g gl gr h j k kl kr l m n p pl pr r s sk sl sm sn sp st sw t tr v w y z".split()
)  # fmt: skip
_VOWELS = "a e i o u".split()
_MIDDLES = "b d f g k l m n p r s t v z lb ld lm mb mp nd nk nt rb rd rk rl rm rn rt sk st".split()
_CODAS = (
    "b d f g k l m n p r s t v x z sh ch th sk sp st ft lt lk ld lm lp mp nd nk nt ng rb rd rk rn rp".split()
)  # fmt: skip
_UNFIT = re.compile("fag|fuk|kunt|kok|dik|slut|nig|rap|naz|spast|[aeiou][lnrst]$|(ed|ing|ish|est|ent|and|ard)$")
"""Letters that would insult, and the endings under which most words that mean something would be."""
_ORDER = 0x0E3B1E3
"""Seed of the order of the words, and of their compositions. Another one makes other emblems."""


@dataclass(frozen=True)
class Emblem:
    """A word and what it stands for."""

    word: str
    scene: Scene


def word_of(index: int, split: EmblemSplit) -> str:
    """Return the word of emblem `index` of a split. Raises as `emblem` does."""
    if split not in EMBLEMS:
        raise ConfigError(f"split={split!r}: emblems have the splits {' and '.join(EMBLEMS)}")
    if not 0 <= index < EMBLEMS[split]:
        raise ConfigError(f"emblem index={index}: {split} has 0 to {EMBLEMS[split] - 1}")
    return _words()[index if split == "test" else EMBLEMS["test"] + index]


def emblem(index: int, split: EmblemSplit) -> Emblem:
    """Return emblem `index` of a split: two or three objects on a background, of the split of the same name of scenes.

    A pure function; no word is used twice. Raises `ConfigError` for an unknown split or an index outside
    0..`EMBLEMS[split]` - 1.
    """
    word = word_of(index, split)
    rng = np.random.default_rng([_ORDER, get_args(EmblemSplit).index(split), index])
    return Emblem(word, random_scene(rng, split, objects=int(rng.integers(2, 4))))


def say(emblem: Emblem, rng: np.random.Generator) -> str:
    """Name an emblem in one of the `PHRASES`, uniformly: "a picture of a blosk"."""
    return PHRASES[int(rng.integers(len(PHRASES)))].format(emblem.word)


def parse_emblem(text: str) -> str | None:
    """Return the emblem's word that a phrase of `say` names; None for any other text. Runs of spaces do not matter."""
    *before, word = text.split() or [""]
    return word if word in _places() and " ".join([*before, "{}"]) in PHRASES else None


def place_of(word: str) -> tuple[EmblemSplit, int]:
    """Return split and index of an emblem's word. Raises `ConfigError` for a word that is none."""
    if word not in _places():
        raise ConfigError(f"emblem {word!r}: is not the word of an emblem; cm3.scenes.emblems.emblem gives some")
    at = _places()[word]
    return ("test", at) if at < EMBLEMS["test"] else ("train", at - EMBLEMS["test"])


def emblem_document(index: int, split: EmblemSplit, size: int, seed: int) -> Document:
    """Return a phrase that names an emblem, and its drawing of `size` pixels: `Document` "emblem/<split>/<index>".

    `seed` draws the phrase and the small shifts of the objects; what the picture shows is the emblem's, always.
    """
    this = emblem(index, split)
    rng = np.random.default_rng([seed, get_args(EmblemSplit).index(split), index, _ORDER])
    text = say(this, rng)
    picture = draw(this.scene, size, rng)
    return Document.of(text, picture, id=f"emblem/{split}/{index}", source=f"emblems/{split}", license="MIT")


@functools.cache
def _words() -> tuple[str, ...]:
    """Return every word in the order of use: those of test, then those of train, then some that nobody uses."""
    shape = (len(_ONSETS), len(_VOWELS), len(_MIDDLES), len(_VOWELS))
    words = []
    for number in np.random.default_rng(_ORDER).permutation(int(np.prod(shape))):
        o, a, m, b = (int(i) for i in np.unravel_index(number, shape))
        # Each term alone takes as many values as its part has, so a change of one part changes the coda.
        coda = _CODAS[(o + a + m + 5 * b) % len(_CODAS)]
        word = _ONSETS[o] + _VOWELS[a] + _MIDDLES[m] + _VOWELS[b] + coda
        if not _UNFIT.search(word):
            words.append(word)
    return tuple(words)


@functools.cache
def _places() -> dict[str, int]:
    """Map word -> place in `_words`, for those that stand for something."""
    return {word: at for at, word in enumerate(_words()[: sum(EMBLEMS.values())])}
