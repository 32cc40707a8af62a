"""Tasks that give a text: captions, long descriptions, answers, reasoning and dialogue."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from cm3.document import Document, Image
from cm3.errors import DataError, RequestError
from cm3.tasks.task import ANY, Find, Task, View, needed, picture_of, words
from cm3.tasks.template import Template

LETTERS = string.ascii_uppercase
"""Names of the choices of a question."""
NO_CONTEXT = "N/A"
"""A ScienceQA question's context where it has none, as its owners' own prompts say."""


def _described(task: str) -> Find:
    def find(document: Document, view: View) -> list[dict[str, str | Image]]:
        return [{"caption": words(document.text, document, task), "image": picture_of(document, task)}]

    return find


def _answered(task: str) -> Find:
    def find(document: Document, view: View) -> list[dict[str, str | Image]]:
        image = picture_of(document, task)
        question = words(needed(document, "question", str, task), document, task)
        answer = document.meta.get("multiple_choice_answer") or document.meta.get("answer")
        if not isinstance(answer, str):
            answers = needed(document, "answers", list, task)
            if not answers or not all(isinstance(a, str) for a in answers):
                raise DataError(f"document {document.id!r}: 'answers' must be at least one text, got {answers!r:.40}")
            from cm3.read.questions import most_common  # no reader is loaded with a model

            answer = most_common(answers)
        return [{"question": question, "answer": words(answer, document, task), "image": image}]

    return find


def _science(document: Document, view: View) -> list[dict[str, str | Image]]:
    from cm3.read.questions import check_choices  # no reader is loaded with a model

    if not document.images:  # half of the problems; Table 5 has those with a picture
        return []
    choices, answer = needed(document, "choices", list, "scienceqa"), needed(document, "answer", int, "scienceqa")
    check_choices(choices, f"document {document.id!r}")
    if not 0 <= answer < len(choices):
        raise DataError(f"document {document.id!r}: answer {answer} is none of its {len(choices)} choices")
    hint, solution = (_maybe(document, name) for name in ("hint", "solution"))
    values: dict[str, str | Image] = {
        "question": words(needed(document, "question", str, "scienceqa"), document, "scienceqa"),
        "context": hint or NO_CONTEXT,
        "choices_text": lettered(choices),
        "answer": f"({LETTERS[answer]})",
        "image": document.images[0],
    }
    if solution:
        values["explanation"] = solution
    return [values]


def _maybe(document: Document, name: str) -> str:
    """Return a text of the meta that need not be there."""
    value = document.meta.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(f"document {document.id!r}: {name!r} is {value!r:.40}, must be a text or left out; mend it")
    return (value or "").strip()


def lettered(choices: Sequence[str]) -> str:
    """Write choices as figure 7 has them: "(A) shiny (B) salty"."""
    return " ".join(f"({letter}) {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=False))


def _asked_science(request: dict[str, Any]) -> dict[str, Any]:
    """Take `choices`, texts, as `choices_text`; a `context` that is not given is none."""
    if "choices" in request:
        choices = request.pop("choices")
        texts = isinstance(choices, list | tuple) and all(isinstance(c, str) and c.strip() for c in choices)
        if not texts or not 2 <= len(choices) <= len(LETTERS):
            raise RequestError(
                f"task 'scienceqa': 'choices' must be at least two texts, {len(LETTERS)} at most, got {choices!r:.60}"
            )
        request["choices_text"] = lettered(choices)
    return {"context": NO_CONTEXT} | request


def _dialogue(document: Document, view: View) -> list[dict[str, str | Image]]:
    image = picture_of(document, "visdial")
    # In JSON lines a caption beside a picture is the document's text.
    caption = needed(document, "caption", str, "visdial") if "caption" in document.meta else document.text
    caption = words(caption, document, "visdial")
    made: list[dict[str, str | Image]] = []
    turns: list[tuple[str, str]] = []
    for number, turn in enumerate(needed(document, "dialog", list, "visdial")):
        if isinstance(turn, list | tuple) and len(turn) == 2 and turn[1] is None:  # the last of the test split
            break
        if not _is_turn(turn):
            raise DataError(
                f"document {document.id!r}: turn {number} of 'dialog' is {turn!r:.60}, must be a question and its "
                "answer, two texts; mend it"
            )
        question, answer = turn
        made.append({"history": history(caption, turns), "question": question, "answer": answer, "image": image})
        turns.append((question, answer))
    return made


def history(caption: str, turns: Sequence[tuple[str, str]]) -> str:
    """Write what was said before a question: the caption, and a line for each turn."""
    return "\n".join([caption, *(f"Question: {question} Answer: {answer}." for question, answer in turns)])


def _is_turn(turn: Any) -> bool:
    """Tell whether it is a question and its answer."""
    return isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(t, str) and t.strip() for t in turn)


def _asked_dialogue(request: dict[str, Any]) -> dict[str, Any]:
    """Take `caption` and `turns`, [(question, answer), ...], as `history`."""
    if "caption" in request:
        caption, turns = request.pop("caption"), request.pop("turns", ())
        if not isinstance(caption, str) or not caption.strip():
            raise RequestError(f"task 'visdial': 'caption' must be a text that is not empty, got {caption!r:.40}")
        if not isinstance(turns, list | tuple) or not all(map(_is_turn, turns)):
            raise RequestError(
                f"task 'visdial': 'turns' must be pairs of a question and its answer, two texts, got {turns!r:.60}"
            )
        request["history"] = history(caption, turns)
    return request


def _long(*orders: str) -> tuple[Template, ...]:
    return tuple(Template(f"{order} {{caption}} <break> {{image}}") for order in orders)


_CAPTION = (
    Template("{caption} <break> {image}"),
    Template("Describe the given picture. {caption} <break> {image}"),
    Template("Describe the given image. {caption} <break> {image}", "figures 5 and 16"),
)
_QUESTION = (
    Template("Question: {question} Answer: {answer}. <break> {image}"),
    Template("Question: {question} [newline] {answer} <break> {image}"),
    Template("Question: {question} The answer is {answer}. <break> {image}"),
)
_SCIENCE = "Question: {question} [newline] Context: {context} [newline] Options: {choices_text} [newline] Answer: "
_DETAIL = "Describe the given picture in very detail."
_OBJECTS = "Describe all the objects in the given image in very detail."
_CAPTION_LONG = "Generate a long caption for the given image."
_NARRATION = "Generate a long narration of what is happening in the given image."


def _asks(name: str, number: int) -> Task:
    return Task(name, _QUESTION, ("answer",), _answered(name), (name, *ANY), number)


def _describes(name: str, templates: tuple[Template, ...], number: int, *more: str) -> Task:
    kinds = (name.removesuffix("_captions"), *more)
    return Task(name, templates, ("caption",), _described(name), (*kinds, *ANY), number)


TASKS = (
    _describes("coco_captions", _CAPTION, 591_000, "coco_karpathy"),
    _describes("flickr30k", _CAPTION, 144_000),
    _describes("image_paragraph", _long(_DETAIL, _OBJECTS, _CAPTION_LONG), 14_000),
    _describes("localized_narratives", _long(_DETAIL, _NARRATION, _CAPTION_LONG), 164_000),
    _asks("vqa2", 1_300_000),
    _asks("vizwiz", 92_000),
    _asks("okvqa", 26_000),
    Task(
        "scienceqa",
        (
            Template(_SCIENCE + "{answer}. <break> {image}"),
            Template(_SCIENCE + "Let's think step-by-step: {explanation} So the answer is {answer}. <break> {image}"),
        ),
        ("explanation", "answer"),
        _science,
        ("scienceqa", *ANY),
        6_000,
        ask=_asked_science,
    ),
    Task(
        "visdial",
        (Template("{history} [newline] Question: {question} Answer: {answer}. <break> {image}", "ours"),),
        ("answer",),
        _dialogue,
        ("visdial", *ANY),
        ask=_asked_dialogue,
    ),
)
"""In the order of Table 5; `visdial` is ours."""
