"""Thinking first: the thought of each prompt is a prompt of its own, and what it gives is laid out as the prompt.

    prompt --with_thoughts--> Prepared with thinking --thought_through--> Prepared, ready for the engine

A server has the thoughts of many prompts written side by side with all else, so preparing a prompt lays its thought out
and does not write it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cm3.document import Document, Image, Text
from cm3.errors import RequestError
from cm3.generate.generation import Generation
from cm3.generate.prepared import Prepared, Thinking
from cm3.tasks.thought import answered_from, before_answer, before_change, before_picture, drawn_from, thinks

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
    it in its form (`cm3.tasks.thought.thinks`). An edit has two.
    Raises `RequestError` for a model of Chameleon's kind.
    """
    forms = {i: form for i, p in enumerate(prepared) if (form := _form(model, p, options.get("think")))}
    if not forms:
        return list(prepared)
    if model.vocab.grammar == "chameleon":
        raise RequestError("think: is for models that fill holes, and this one has no masks; leave it out")
    documents = [_asks(prepared[i].document, form) for i, form in forms.items()]
    laid = dict(zip(forms, _lay_out(model, documents, [seeds[i] for i in forms]), strict=True))

    def go_on(i: int, thought: str) -> Prepared:
        given = prepared[i]
        if model.world is not None and model.world.unknown(thought, [given.document.text]):
            return given  # a name is misspelt
        own: dict[str, Any] = {**options, "think": False}
        if own.get("documents") is not None:
            own["documents"] = [own["documents"][i]]
        made = answered_from if forms[i] == "answer" else drawn_from
        document = replace(given.document, parts=made(given.document.parts, thought))
        some = None if each is None else [each[i]]
        (ready,) = model.prepare([document], seeds=[seeds[i]], each=some, **own)
        return ready._replace(thought=thought, said=given.asked)

    def look(i: int, shown: str) -> Prepared:
        """Return an edit with its second thought, when what its picture shows was said."""
        asks = Document(before_change(prepared[i].document.parts, shown))
        return prepared[i]._replace(thinking=Thinking(_lay_out(model, [asks], [seeds[i]])[0], partial(go_on, i)))

    return [
        p._replace(thinking=Thinking(laid[i], partial(look if forms[i] == "edit" else go_on, i))) if i in forms else p
        for i, p in enumerate(prepared)
    ]


def thought_through(model: CM3Leon, prepared: Sequence[Prepared]) -> list[Prepared]:
    """Return what was prepared with its thoughts thought."""
    ready = list(prepared)
    while asked := [p.thinking.asked for p in ready if p.thinking is not None]:
        thoughts = iter(model.make(asked))
        ready = [p if p.thinking is None else gone_on(p, next(thoughts)) for p in ready]
    return ready


def gone_on(prepared: Prepared, thought: Generation) -> Prepared:
    """Return what is prepared once its thought is there, perhaps the next thought; one is left out that is empty,
    longer than there is room for beside the prompt, or has a word that neither the prompt has nor the model's world."""
    said = thought.filled[0][0]
    assert isinstance(said, Text) and prepared.thinking is not None
    words = said.text.strip()
    if words:
        with suppress(RequestError):  # the prompt alone had room, or it would have been refused before
            return prepared.thinking.then(words)
    return prepared._replace(thinking=None)


def _form(model: CM3Leon, p: Prepared, wanted: bool | None) -> str | None:
    """Return "edit", or what the thought of a prompt comes before; None where none is wanted or has a place."""
    form = thinks(p.document.parts) if p.kind != "thought" else None
    if form is None:
        return None
    drawn = "region" if isinstance(p.document.parts[-1], Image) else "image"
    kind = p.kind or ("text" if form == "answer" else drawn)
    if not (model.recommended.think[kind] if wanted is None else wanted):
        return None
    return "edit" if p.kind == "edit" else form


def _asks(document: Document, form: str) -> Document:
    """Return what asks for the first thought of a prompt."""
    parts = before_picture(document.parts) if form == "picture" else before_answer(document.parts)
    return Document(parts, meta=document.meta)


def _lay_out(model: CM3Leon, documents: Sequence[Document], seeds: Sequence[int]) -> list[Prepared]:
    return model.prepare(documents, seeds=seeds, kind="thought")
