"""Pieces of a caption: what is hidden of it, for a model to fill in from the picture or from the rest."""

from __future__ import annotations

import re

import numpy as np

from cm3.document import Gap, Text
from cm3.stickers.artwork import KINDS
from cm3.stickers.world import GROUNDS, PLACES, SIZES, pick

PIECES = ("size", "kind", "place", "ground", "sticker", "words")
"""Pieces to hide of a caption, uniformly among those it has: a size, a kind, a place ("top left"), a ground's name, a
sticker ("a small taxi"), or one to five words in a row, wherever they are."""


def _one_of(names: tuple[str, ...]) -> str:
    return rf"\b({'|'.join(sorted(names, key=len, reverse=True))})\b"


_PIECE = {
    "size": re.compile(_one_of(SIZES)),
    "kind": re.compile(_one_of(tuple(KINDS))),
    "place": re.compile(_one_of(PLACES)),
    "ground": re.compile(rf"{_one_of(tuple(GROUNDS))}(?= ground)"),
    "sticker": re.compile(rf"\b(an?|another) {_one_of(SIZES)} {_one_of(tuple(KINDS))}"),
}


def hide_piece(caption: str, rng: np.random.Generator) -> tuple[str, str, tuple[Text | Gap, ...]]:
    """Return the kind of a piece (see `PIECES`), the piece, and the parts of a caption with a gap in its place."""
    spans = {kind: [m.span() for m in pattern.finditer(caption)] for kind, pattern in _PIECE.items()}
    words = [m.span() for m in re.finditer("[a-z]+", caption)]
    start = int(rng.integers(len(words)))
    stop = min(start + int(rng.integers(1, 6)), len(words))
    spans["words"] = [(words[start][0], words[stop - 1][1])]
    kind = pick(rng, [kind for kind in PIECES if spans[kind]])
    a, b = spans[kind][int(rng.integers(len(spans[kind])))]
    around = (Text(caption[:a]), Gap("text"), Text(caption[b:]))
    return kind, caption[a:b], tuple(part for part in around if part != Text(""))
