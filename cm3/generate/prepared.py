"""A prompt that is laid out for the engine, and not yet drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cm3.document import Document
from cm3.engine.request import Request
from cm3.retrieval import live
from cm3.sequence.holes import Prompt


class Prepared(NamedTuple):
    """A prompt that is laid out for `CM3Leon.make`: its candidates are so many requests to the engine.

    thinking: what is to be thought first, None where nothing is. thought: what was. said: the document as the user
    gave it, and its prompt, where the thought has changed it: the holes are the same.
    """

    document: Document
    prompt: Prompt
    context: live.Context
    requests: tuple[Request, ...]
    kind: str | None
    thinking: Thinking | None = None
    thought: str = ""
    said: tuple[Document, Prompt] | None = None

    @property
    def asked(self) -> tuple[Document, Prompt]:
        """Return the document as the user gave it, and its prompt."""
        return self.said or (self.document, self.prompt)


class Thinking(NamedTuple):
    """A thought before an answer (cm3/tasks/thought.py): `asked` is laid out like any prompt, and `then` takes what it
    gave and returns what is to be drawn with it."""

    asked: Prepared
    then: Callable[[str], Prepared]
