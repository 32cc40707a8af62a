"""A prompt that is laid out for the engine, and not yet drawn."""

from __future__ import annotations

from typing import NamedTuple

from cm3.document import Document
from cm3.engine.request import Request
from cm3.retrieval import live
from cm3.sequence.holes import Prompt


class Prepared(NamedTuple):
    """A prompt that is laid out for `CM3Leon.make`: its candidates are so many requests to the engine."""

    document: Document
    prompt: Prompt
    context: live.Context
    requests: tuple[Request, ...]
    kind: str | None
