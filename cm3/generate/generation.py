"""The outcome of a prompt, and the documents that it drew on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image

from cm3.document import Document, Gap, Image, Text
from cm3.engine.request import Result
from cm3.errors import RequestError
from cm3.generate.known_world import Doubts
from cm3.retrieval import live
from cm3.retrieval.select import Retrieved
from cm3.sequence.holes import Prompt
from cm3.tokens.codec import Codec


def spans_of(prompt: Prompt, result: Result) -> list[np.ndarray]:
    """Return the ids that fill each hole; of an interleaved one, all that was written."""
    if prompt.interleaved:
        return [result.tokens.ids]
    return [span.ids for span in result.spans]


def number_given(document: Document) -> int:
    """Count the parts before the gap that a document ends in; empty texts are left out."""
    return sum(part != Text("") for part in document.parts[:-1])


def filled_parts(
    document: Document, done: Document, prompt: Prompt, spans: Sequence[np.ndarray], codec: Codec
) -> tuple[Text | Image, ...]:
    """Return the part that fills each `Gap` of a document, and all those of an interleaved one; `done` has them."""
    if document.interleaved:
        return tuple(part for part in done.parts[number_given(document) :] if not isinstance(part, Gap))
    pictures = iter(done.images)
    found: list[Text | Image] = []
    for at, part in enumerate(document.parts):
        picture = None if isinstance(part, Text) or part == Gap("text") else next(pictures)
        if isinstance(part, Gap):
            mask = next(h.mask for h in prompt.holes if h.part == at)
            words = (spans[mask] - codec.vocab.text_start).tolist()
            found.append(picture or Text(codec.text.decode(words)))
    return tuple(found)


@dataclass(frozen=True)
class Generation:
    """The outcome of one prompt: `documents`, the prompt with its holes filled, one for each of the `n` asked for.

    `scores`: for each, the log-probability of what was written (nats, unguided), to rank by. `filled`: for each, what
    was written in the prompt's `Gap`s, in their order, a text just as it came; of an interleaved one, all its parts.
    `retrieved`: the documents that were read before the prompt, in their order; `left_out`: those found too, for which
    the context had no room. `cut`: for each, whether a text was ended by its limit. `thoughts`: for each, what was
    thought before it, empty where nothing was; `prompt` and `documents` are without it.
    """

    documents: tuple[Document, ...]
    scores: tuple[float, ...]
    prompt: Document
    filled: tuple[tuple[Text | Image, ...], ...] = ()
    retrieved: tuple[Retrieved, ...] = ()
    left_out: tuple[Retrieved, ...] = ()
    doubts: Doubts | None = field(default=None, repr=False, compare=False)
    cut: tuple[bool, ...] = ()
    thoughts: tuple[str, ...] = ()

    @property
    def document(self) -> Document:
        """Return the first document."""
        return self.documents[0]

    @property
    def images(self) -> list[PIL.Image.Image]:
        """Return the last picture of each document. Raises `RequestError` where there is none."""
        if not self.document.images:
            raise RequestError("this generation holds text only; ask for a picture with a prompt that ends in words")
        return [d.images[-1].pixels for d in self.documents]

    @property
    def image(self) -> PIL.Image.Image:
        """Return the last picture of the first document."""
        return self.images[0]

    @property
    def texts(self) -> list[str]:
        """Return the whole text of each document."""
        return [d.text.strip() for d in self.documents]

    @property
    def text(self) -> str:
        """Return the whole text of the first document."""
        return self.texts[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a line for the words and pictures that the model was never shown (`cm3.generate.known_world`)."""
        return () if self.doubts is None else self.doubts.told

    @property
    def attribution(self) -> list[dict[str, Any]]:
        """List the documents that were drawn on, ready for JSON: id, score, by, source, license and text of each
        retrieved document."""
        return live.attribution(self.retrieved)
