"""The edge of a model's world: what it was never shown is told, not refused, and other spellings are taken.

A bundle says what it knows in `about.world` of its config.json; one that says nothing knows no edge:

    says            in a few words            "scenes of coloured shapes"
    words           all of them, in small letters
    spellings       other spellings: {"gray": "grey"}
    picture_error   mean error of colour, 0 to 1, that pictures of its world have after the image tokenizer, at most
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from cm3 import files
from cm3.document import Document, Image, Text
from cm3.tokens.image import ImageTokenizer

SAID = "said"
"""Name in a document's meta of the words that are the user's, where others stand beside them."""
WORDS_SHOWN, LONGEST = 6, 40
"""So many words are named at most, and so much of each."""
_QUOTED = re.compile(r'("[^"]*")')
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[^\x00-\x7f]")
"""Letters and digits of any script; a sign outside ASCII stands for a word."""


@dataclass(frozen=True)
class World:
    """The words and pictures that a bundle says it knows.

    Words that stand in double quotes are to be drawn, and any will do.
    """

    says: str
    words: tuple[str, ...]
    spellings: dict[str, str] = field(default_factory=dict)
    picture_error: float | None = None

    @classmethod
    def of(cls, about: Mapping[str, Any], name: str) -> World | None:
        """Read that of a bundle, None where it says nothing. Raises `CheckpointError` for anything but the above."""
        return files.build(cls, about["world"], f"bundle {name!r}: about.world") if "world" in about else None

    def take(self, text: str) -> str:
        """Return a text with known words as they were trained: small letters, and the spelling that is known."""

        def known(found: re.Match[str]) -> str:
            word = found[0].lower()
            word = self.spellings.get(word, word)
            return word if word in self._known else found[0]

        return "".join(
            piece if i % 2 else _WORD.sub(known, piece) for i, piece in enumerate(_QUOTED.split(text))
        )  # the pieces with odd numbers are the quoted ones

    def take_document(self, document: Document) -> Document:
        """Return a document with its texts taken, unless it says itself which words are the user's."""
        if SAID in document.meta:
            return document
        parts = tuple(Text(self.take(p.text)) if isinstance(p, Text) else p for p in document.parts)
        return replace(document, parts=parts)

    def unknown(self, text: str, also: Iterable[str] = ()) -> list[str]:
        """Return the words of a text that are neither known nor in the texts `also`, each once."""
        told = {word for other in also for word in _WORD.findall(other.lower())}
        words = _WORD.findall(_QUOTED.sub(" ", self.take(text)))
        return list(dict.fromkeys(w for w in words if w not in self._known and w.lower() not in told))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.words)


@dataclass(frozen=True)
class Doubts:
    """The warnings about one prompt; worked out when they are asked for, as pictures take time."""

    world: World
    image: ImageTokenizer
    name: str
    prompt: Document
    read: tuple[Document, ...] = ()
    """Documents that were read before it: their words are known."""
    look: bool = True
    """Whether its pictures are to be of the world; control images are not."""

    @cached_property
    def told(self) -> tuple[str, ...]:
        """Return a line for words, and one for pictures, where there is something to tell."""
        lines = []
        if words := self.world.unknown(str(self.prompt.meta.get(SAID, _text(self.prompt))), map(_text, self.read)):
            named = ", ".join(repr(w if len(w) <= LONGEST else f"{w[:LONGEST]}...") for w in words[:WORDS_SHOWN])
            more = f" and {len(words) - WORDS_SHOWN} more" if len(words) > WORDS_SHOWN else ""
            lines.append(f"model {self.name!r} does not know {named}{more}; it knows {self.world.says}")
        limit = self.world.picture_error
        if self.look and limit is not None and self.prompt.images:
            if (worst := max(errors(self.image, self.prompt.images))) > limit:
                lines.append(
                    f"model {self.name!r} was shown no such picture: its codes keep the colours to {worst:.3f}, those "
                    f"of its world to {limit:.3f}; it knows {self.world.says}"
                )
        return tuple(lines)


def errors(tokenizer: ImageTokenizer, pictures: Sequence[Image]) -> list[float]:
    """Return how far each picture, as the model sees it, is from what its codes give: the mean over pixels, 0 to 1."""
    seen = [tokenizer.preprocess(p.pixels) for p in pictures]
    again = tokenizer.decode(tokenizer.encode(seen))
    return [
        float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean() / 255)
        for a, b in zip(seen, again, strict=True)
    ]


def _text(document: Document) -> str:
    """Return all texts, with a gap between them."""
    return " ".join(p.text for p in document.parts if isinstance(p, Text))
