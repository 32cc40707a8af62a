"""The outcome of a prompt, and the documents that it drew on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import PIL.Image

from cm3.document import Document, Image, Text
from cm3.errors import RequestError
from cm3.generate.known_world import Doubts
from cm3.retrieval import live
from cm3.retrieval.select import Retrieved


@dataclass(frozen=True)
class Generation:
    """The outcome of one prompt: `documents`, the prompt with its holes filled, one for each of the `n` asked for.

    `scores`: for each, the log-probability of what was written (nats, unguided), to rank by. `filled`: for each, what
    was written in the prompt's `Gap`s, in their order, a text just as it came. `retrieved`: the documents that were
    read before the prompt, in their order; `left_out`: those found too, for which the context had no room.
    """

    documents: tuple[Document, ...]
    scores: tuple[float, ...]
    prompt: Document
    filled: tuple[tuple[Text | Image, ...], ...] = ()
    retrieved: tuple[Retrieved, ...] = ()
    left_out: tuple[Retrieved, ...] = ()
    doubts: Doubts | None = field(default=None, repr=False, compare=False)

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
