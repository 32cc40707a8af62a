"""Shown things: a drawing under an invented name, which nobody can draw who has not been shown it.

    "a large blosken on a mint ground"  +  its picture          a document
    "a large blosken at the top left, on a sky ground"          a prompt that only that document answers

Name and drawing are drawn anew for each example, so that no name can be learnt by heart: the document before the prompt
says what it stands for there and nowhere else. Kinds that are trained on are shown so too, under their own name or
as if they were unknown.

A name has two to four syllables, and 4 to 11 letters, and is no word of the stickers' language. It may begin as one
does: an encoder that reads words by their letters is to tell such names apart as well, for a kind that no training saw
is a name like any other.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np

from cm3.errors import ConfigError
from cm3.stickers.artwork import KINDS, OTHERS, SIDE, other, sprite
from cm3.stickers.phrases import SPELLINGS
from cm3.stickers.world import GROUNDS, PLACES, SIZES, random_kind

NAMES = 20_000
"""Invented names."""
KEPT = 50
"""Of the drawings without a name, the last so many are shown in no training, so that copying can be measured."""
TILE = 16
"""Side of the tiles that a shuffled drawing is cut into, in pixels."""

_ONSETS = ["", *"b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r".split()]
_ONSETS += "s sh sk sl sm sn sp st sw t th tr v w y z".split()
_VOWELS = "a a e e i i o o u u ai ea ee oo".split()
_MIDDLES = (
    "b c ck d dg f g gn k l ll m n nn p pp r rr s ss t tt v x z ld lm lt mb mp nd nk nt rb rd rk rm rn rt st".split()
)
_CODAS = ["", "", *"b c ck d f g k l ll m n p r s sh ss t v x z ch th sk sp ft lk lp mp nd nk nt rb rk rn rp".split()]
_UNFIT = re.compile("fag|fuk|kunt|kok|dik|slut|nig|rap|naz|spast|^.{0,3}$|(ed|ing|ish|est|ent|er)$")
"""Letters that would insult, and how most words that mean something end."""
_ORDER = 0x0E3B1E4
"""Seed of the names. Another one makes other names."""


@dataclass(frozen=True)
class Shown:
    """A name and what it stands for: a drawing without a name, by its number, or a kind, by its own name.

    `tiles` puts the drawing's tiles of 16 pixels in another order, which is the seed: what drawings usually look like
    then tells nothing, and whoever is to draw it has to look at each cell of the document.
    """

    name: str
    of: int | str
    tiles: int | None = None

    @property
    def drawing(self) -> np.ndarray:
        """Return the drawing, (96, 96, 4) uint8 RGBA."""
        pixels = sprite(self.of) if isinstance(self.of, str) else other(self.of)
        if self.tiles is None:
            return pixels
        each = SIDE // TILE
        cut = pixels.reshape(each, TILE, each, TILE, 4).swapaxes(1, 2).reshape(-1, TILE, TILE, 4)
        cut = np.random.default_rng(self.tiles).permutation(cut)
        return cut.reshape(each, each, TILE, TILE, 4).swapaxes(1, 2).reshape(SIDE, SIDE, 4)

    @property
    def kind(self) -> str | None:
        """Return the kind whose drawing it is, if it is one's."""
        return self.of if isinstance(self.of, str) else None


@dataclass(frozen=True)
class ShownLaw:
    """The law by which things are shown. Raises `ConfigError` for a value out of range."""

    kinds: float = 0.3
    """Share of kinds that are trained on; the others are drawings without a name."""
    unknown: float = 0.5
    """Of those kinds, with an invented name as if they were unknown; the others keep their own."""
    shuffled: float = 0.2
    """Share of drawings with their tiles in another order; never of one under its own name."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("kinds", "unknown", "shuffled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"shown.{name}={getattr(self, name)}: is a share, must be in 0..1")


def name_of(number: int) -> str:
    """Return the invented name of a number. Raises `ConfigError` for one outside 0..`NAMES` - 1."""
    if not 0 <= number < NAMES:
        raise ConfigError(f"name number={number}: must be 0 to {NAMES - 1}")
    return _names()[number]


def random_shown(rng: np.random.Generator, law: ShownLaw | None = None, *, kept: bool = False) -> Shown:
    """Draw a thing to show; with `kept` a drawing that is shown in no training."""
    law = law or ShownLaw()
    name = name_of(int(rng.integers(NAMES)))
    kind, unknown, shuffled = (rng.random() < share for share in (law.kinds, law.unknown, law.shuffled))
    tiles = int(rng.integers(2**31)) if shuffled else None
    if kept:
        return Shown(name, OTHERS - KEPT + int(rng.integers(KEPT)))
    if not kind:
        return Shown(name, int(rng.integers(OTHERS - KEPT)), tiles)
    of = random_kind(rng)
    return Shown(name, of, tiles) if unknown else Shown(of, of)


@functools.cache
def _names() -> tuple[str, ...]:
    words = " ".join([*KINDS, *(kind.plural for kind in KINDS.values()), *SPELLINGS, *SPELLINGS.values()]).split()
    known = {*words, *GROUNDS, *SIZES, *" ".join(PLACES).split(), "ground", "sticker"}
    rng = np.random.default_rng(_ORDER)
    found: dict[str, None] = {}
    while len(found) < NAMES:
        parts = [_ONSETS, _VOWELS, *[_MIDDLES, _VOWELS] * int(rng.integers(1, 4)), _CODAS]
        word = "".join(part[int(rng.integers(len(part)))] for part in parts)
        if len(word) <= 11 and word not in known and not _UNFIT.search(word):
            found[word] = None
    return tuple(found)
