"""Reasoning: a question, its options, the explanation that leads to the answer, and a check of every step.

    are there more circles than squares?      (yes, no)
    the number of circles is two, and the number of squares is one. two is more than one.        yes

An explanation is a fact about each of the two things that the question names, and what links them. It is right when
the facts are about those things and true of the scene, and the link is true of the facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cm3.errors import ConfigError, DataError
from cm3.scenes.ask import WORDINGS as QUESTIONS
from cm3.scenes.ask import answer_question, random_question
from cm3.scenes.phrases import NUMBERS, Phrase, read, the_one
from cm3.scenes.scene import SIZES, Scene

OPTIONS = ("yes", "no")
"""Answers to every question here."""

_COUNTS = Phrase("the number of {many1} is {number1}, and the number of {many2} is {number2}")
_PLACES = Phrase("{the1} is at the {place1}, and {the2} is at the {place2}")
_SIZES = Phrase("{the1} is {size1}, and {the2} is {size2}")
_COLOURS = Phrase("{the1} is {colour1}, and {the2} is {colour2}")
_SHAPES = Phrase("{the1} is a {shape1}, and {the2} is a {shape2}")
_FACTS = {
    "number": (_COUNTS, Phrase("{number1} is {order} {number2}")),
    "place": (_PLACES, Phrase("the {place1} is {relation} the {place2}")),
    "measure": (_SIZES, Phrase("{size1} is {measure} {size2}")),
    "size": (_SIZES, Phrase("{size1} is {likeness} {size2}")),
    "colour": (_COLOURS, Phrase("{colour1} is {likeness} {colour2}")),
    "shape": (_SHAPES, Phrase("{shape1} is {likeness} {shape2}")),
}
"""A comparison -> the facts about the two things, and the link between them."""
_COMPARED = {
    "more": "number",
    "fewer": "number",
    "equal": "number",
    "related": "place",
    "larger": "measure",
    "smaller": "measure",
}
"""Form of question -> what it compares; `alike` compares the attribute that it names."""


@dataclass(frozen=True)
class Reasoning:
    """A question about a scene, what may be answered, why the answer is what it is, and the answer."""

    question: str
    options: tuple[str, ...]
    explanation: str
    answer: str


def random_reasoning(scene: Scene, rng: np.random.Generator) -> Reasoning:
    """Return a question for yes or no that takes a comparison, with its explanation."""
    while True:
        related = bool(scene.relations()) and rng.random() < 0.3
        try:
            question = random_question(scene, rng, "relation" if related else "compare")
        except ConfigError:
            continue  # objects that no words tell apart stand in a relation that cannot be asked for
        if question.answer in OPTIONS:
            return Reasoning(question.question, OPTIONS, explain(question.question, scene), question.answer)


def explain(question: str, scene: Scene) -> str:
    """Return the explanation of the answer to a question. Raises `DataError` for a question that compares nothing."""
    asked, compared = _asked(question)
    fact, link = _FACTS[compared]
    told = _told(compared, asked, scene)
    return f"{fact.say(asked | told)}. {link.say(told | _link(compared, told))}."


def verify_reasoning(question: str, explanation: str, answer: str, scene: Scene) -> str:
    """Say why an explained answer is wrong, or "" where everything is right.

    Wrong are: sentences in no known wording, facts about other things than the question's, facts that are not true of
    the scene, a link that does not follow from the facts, and an answer that is not the right one.
    Raises `DataError` for a question that is none.
    """
    asked, compared = _asked(question)
    fact, link = _FACTS[compared]
    steps = " ".join(explanation.split()).split(". ")
    facts = fact.read(steps[0]) if len(steps) == 2 else None
    linked = link.read(steps[1].removesuffix(".")) if len(steps) == 2 and steps[1].endswith(".") else None
    if facts is None or linked is None:
        return "the explanation is not a fact about each thing and what links them"
    if any(facts[slot] != asked[slot] for slot in fact.slots if slot in asked):
        return "the facts are about other things than the question"
    told = _told(compared, asked, scene)
    for slot, value in told.items():
        if facts[slot] != value:
            return f"a fact is not true: it says {facts[slot]} for {value}"
    if linked != told | _link(compared, told):
        return "the link does not follow from the facts"
    true = answer_question(question, scene)
    return "" if answer == true else f"the answer is {true}, not {answer}"


def _asked(question: str) -> tuple[dict[str, Any], str]:
    """Return the two things that a question names, by slot, and what it compares."""
    form, values = read(question, QUESTIONS, "question")
    compared = values["attribute"] if form == "alike" else _COMPARED.get(form)
    if compared is None:
        raise DataError(f"question {question!r}: compares nothing, so there is nothing to explain")
    return {slot: which for slot, which in values.items() if slot.endswith(("1", "2"))}, compared


def _told(compared: str, asked: dict[str, Any], scene: Scene) -> dict[str, str]:
    """Return the facts of the two things, by slot of the fact's wording."""
    if compared == "number":
        return {f"number{i}": NUMBERS[len(asked[f"many{i}"].among(scene))] for i in (1, 2)}
    name = "size" if compared == "measure" else compared
    return {f"{name}{i}": getattr(the_one(asked[f"the{i}"], scene), name) for i in (1, 2)}


def _link(compared: str, told: dict[str, str]) -> dict[str, str]:
    """Return the word that links two facts."""
    first, second = told.values()
    if compared == "number":
        a, b = NUMBERS.index(first), NUMBERS.index(second)
        return {"order": "more than" if a > b else "less than" if a < b else "equal to"}
    if compared == "measure":
        a, b = SIZES.index(first), SIZES.index(second)
        return {"measure": "larger than" if a > b else "smaller than" if a < b else "equal to"}
    if compared != "place":
        return {"likeness": "the same as" if first == second else "different from"}
    row, column = (first.split()[i] != second.split()[i] for i in (0, 1))
    if row == column:
        raise DataError(f"question: the {first} and the {second} are not in one row or column")
    if row:
        return {"relation": "above" if first.startswith("top") else "below"}
    return {"relation": "to the left of" if first.endswith("left") else "to the right of"}
