"""Thinking first: the thought of each prompt is a prompt of its own, and what it gives is laid out as the prompt.

    prompt --with_thoughts--> Prepared with thinking --thought_through--> Prepared, ready for the engine

A server has the thoughts of many prompts written side by side with all else, so preparing a prompt lays its thought out
and does not write it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cm3.document import Document, Text
from cm3.errors import RequestError
from cm3.generate.generation import Generation
from cm3.generate.known_world import SAID
from cm3.generate.prepared import Prepared, Thinking
from cm3.tasks.thought import answered_from, before_answer, before_picture, drawn_from, thinks

if TYPE_CHECKING:
    from cm3.generate.cm3leon import CM3Leon


def with_thoughts(
    model: CM3Leon,
    prepared: Sequence[Prepared],
    seeds: Sequence[int],
    each: Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any],
) -> list[Prepared]:
    """Return what was prepared with `options`, with the thoughts that are to come first.

    A prompt has one where the option `think` or, in its place, the model's bundle says so, and where there is room for
    it in its form (`cm3.tasks.thought.thinks`); of answers in words those to tasks alone have one.
    """
    asks: list[tuple[int, Document]] = []
    before: dict[int, int] = {}
    for i, p in enumerate(prepared):
        form = thinks(p.document.parts) if p.kind != "thought" else None
        wanted = options.get("think")
        if form == "answer" and p.kind != "answer" and not wanted:
            form = None
        if form and (model.recommended.think[p.kind or "image"] if wanted is None else wanted):
            parts = before_picture(p.document.parts) if form == "picture" else before_answer(p.document.parts)
            before[i] = len(asks)
            asks.append((i, Document(parts, meta=p.document.meta)))
    if not asks:
        return list(prepared)
    laid = model.prepare([document for _, document in asks], seeds=[seeds[i] for i, _ in asks], kind="thought")

    def thinking(i: int) -> Thinking:
        def then(thought: str) -> Prepared:
            own: dict[str, Any] = {**options, "think": False}
            if own.get("documents") is not None:
                own["documents"] = [own["documents"][i]]
            document = _from_thought(prepared[i].document, thought)
            some = None if each is None else [each[i]]
            return model.prepare([document], seeds=[seeds[i]], each=some, **own)[0]._replace(thought=thought)

        return Thinking(laid[before[i]], then)

    return [p._replace(thinking=thinking(i)) if i in before else p for i, p in enumerate(prepared)]


def thought_through(model: CM3Leon, prepared: Sequence[Prepared]) -> list[Prepared]:
    """Return what was prepared with its thoughts thought."""
    asked = [p.thinking.asked for p in prepared if p.thinking is not None]
    thoughts = iter(model.make(asked) if asked else ())
    return [p if p.thinking is None else gone_on(p, next(thoughts)) for p in prepared]


def gone_on(prepared: Prepared, thought: Generation) -> Prepared:
    """Return what is prepared once its thought is there; one that is empty, or longer than there is room for beside
    the prompt, is left out."""
    said = thought.filled[0][0]
    assert isinstance(said, Text) and prepared.thinking is not None
    words = said.text.strip()
    if words:
        with suppress(RequestError):  # the prompt alone had room, or it would have been refused before
            return prepared.thinking.then(words)
    return prepared._replace(thinking=None)


def _from_thought(document: Document, thought: str) -> Document:
    """Return the prompt that a document becomes; it keeps which words are the user's."""
    said = " ".join(part.text for part in document.parts if isinstance(part, Text))
    made = drawn_from if thinks(document.parts) == "picture" else answered_from
    return replace(document, parts=made(document.parts, thought), meta={SAID: said, **document.meta})
