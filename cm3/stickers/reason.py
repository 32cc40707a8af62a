"""Reasoning: a question, its options, the steps that lead to the answer, and a check of every step.

    which is larger, the panda or the taxi?       (the panda, the taxi, neither)
    at the top left is a large panda. at the bottom left is a small taxi. large is larger than small.     the panda

    are there more animals or more vehicles?      (animals, vehicles, neither)
    at the top left is a panda, an animal. at the top right is an owl, an animal. animals: two. vehicles: zero. two is
    more than zero.                               animals

The steps look at each sticker that the question is about, in reading order, and then compare. There is one right
explanation of each question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cm3.errors import DataError
from cm3.stickers.ask import GROUPS_ASKED
from cm3.stickers.phrases import ANY, NUMBERS, Which, a, at, pointing, read, the_one, tidy, wordings
from cm3.stickers.world import PLACES, SIZES, Sheet, Sticker, pick, random_kind

WORDINGS = wordings(
    two=("which is {order}, {the1} or {the2}?",),
    more=("are there more {many1} or more {many2}?",),
    fewer=("are there fewer {many1} or fewer {many2}?",),
)
NEITHER = "neither"
"""The answer where the two are equal; always the last option."""
_ORDERS = {
    "larger": ("large", "small"),
    "smaller": ("small", "large"),
    "higher": ("top", "bottom"),
    "lower": ("bottom", "top"),
    "further left": ("left", "right"),
    "further right": ("right", "left"),
}
"""Order -> what has more of it, and what less."""

_WHERE = {"top": "at the top", "bottom": "at the bottom", "left": "on the left", "right": "on the right"}


@dataclass(frozen=True)
class Reasoning:
    """A question about a sheet, what may be answered, why the answer is what it is, and the answer."""

    question: str
    options: tuple[str, ...]
    explanation: str
    answer: str


def random_reasoning(sheet: Sheet, rng: np.random.Generator) -> Reasoning:
    """Return a question that takes a comparison, with its options and its explanation."""
    while True:
        form = pick(rng, ("two", "two", "more", "fewer"))
        values = _two(sheet, rng) if form == "two" else _number(sheet, rng)
        if values is not None:
            return answer_reasoning(WORDINGS[form][0].say(values), sheet)


def answer_reasoning(question: str, sheet: Sheet) -> Reasoning:
    """Return a question with its options, its explanation and its answer.

    Raises `DataError` for a question in no known wording or about a sticker that is not there or not one.
    """
    form, values = read(question, WORDINGS, "question")
    compared = _compare_two(values, sheet) if form == "two" else _compare_numbers(form, values, sheet)
    options, looks, conclusions, best = compared
    ordered = [text for _, text in sorted(looks, key=lambda look: PLACES.index(look[0].place))]
    explanation = " ".join(f"{step}." for step in (*ordered, *conclusions))
    answer = NEITHER if best is None else options[best]
    return Reasoning(tidy(question), (*options, NEITHER), explanation, answer)


def verify_reasoning(question: str, explanation: str, answer: str, sheet: Sheet) -> str:
    """Say why an explained answer is wrong, or "" where everything is right.

    Wrong are: a step that is another than the right one, too few or too many steps, and an answer that is not the right
    one. Raises `DataError` for a question that is none.
    """
    right = answer_reasoning(question, sheet)
    steps, true = tidy(explanation).split(". "), right.explanation.split(". ")
    for number, (step, truth) in enumerate(zip(steps, true, strict=False), 1):
        if step != truth:
            return f"step {number} is {step!r:.80}, not {truth!r}"
    if len(steps) != len(true):
        return f"there are {len(steps)} steps, not {len(true)}"
    return "" if answer == right.answer else f"the answer is {right.answer}, not {answer}"


_Compared = tuple[tuple[str, str], list[tuple[Sticker, str]], list[str], int | None]
"""The two options, what is seen at each sticker, the steps after that, and which option is right, if one is."""


def _compare_two(values: dict[str, Any], sheet: Sheet) -> _Compared:
    things = [the_one(values[slot], sheet) for slot in ("the1", "the2")]
    if things[0] == things[1]:
        raise DataError(f"question: {values['the1'].the()!r} and {values['the2'].the()!r} are one sticker; name two")
    order = values["order"]
    more, less = _ORDERS[order]
    has = [more if more in (s.size, *s.place.split()) else less for s in things]
    sized = more in SIZES
    looks = [(s, f"{at(s.place)} is {a(f'{s.size} {s.kind}' if sized else s.kind)}") for s in things]
    options = (values["the1"].the(), values["the2"].the())
    if has[0] == has[1]:
        return options, looks, [f"both are {_WHERE.get(has[0], has[0])}"], None
    return options, looks, [f"{more} is {order} than {less}"], has.index(more)


def _compare_numbers(measure: str, values: dict[str, Any], sheet: Sheet) -> _Compared:
    both = [values[slot] for slot in ("many1", "many2")]
    if both[0] == both[1]:
        raise DataError(f"question: {both[0].many()!r} are compared with themselves; name two groups")
    looks: dict[Sticker, str] = {}
    for which in both:
        for s in which.among(sheet):
            seen = f"{at(s.place)} is {a(f'{s.size} {s.kind}' if which.size else s.kind)}"
            looks[s] = f"{seen}, {a(which.name)}" if which.name not in (ANY, s.kind) else seen
    counts = [len(which.among(sheet)) for which in both]
    said = [f"{which.many()}: {NUMBERS[count]}" for which, count in zip(both, counts, strict=True)]
    first, second = (NUMBERS[count] for count in counts)
    options = (both[0].many(), both[1].many())
    if counts[0] == counts[1]:
        return options, list(looks.items()), [*said, f"both are {first}"], None
    word = "more" if counts[0] > counts[1] else "fewer"
    return options, list(looks.items()), [*said, f"{first} is {word} than {second}"], int(word != measure)


def _two(sheet: Sheet, rng: np.random.Generator) -> dict[str, Any] | None:
    if len(sheet.stickers) < 2:
        return None
    order = pick(rng, tuple(_ORDERS))
    hide = "size" if order in ("larger", "smaller") else ""
    first, second = (pointing(sheet, sheet.stickers[i], rng, hide) for i in rng.permutation(len(sheet.stickers))[:2])
    return {"order": order, "the1": first, "the2": second} if first and second else None


def _number(sheet: Sheet, rng: np.random.Generator) -> dict[str, Any] | None:
    """Return two groups, or both sizes, or two kinds; one at least is on the sheet."""
    chance = rng.random()
    if chance < 0.2:
        both = [Which(ANY, size) for size in SIZES]
    elif chance < 0.85:
        both = [Which(group) for group in GROUPS_ASKED]
    else:
        both = [Which(s.kind) for s in sheet.stickers] + [Which(random_kind(rng))]
    first, second = (both[i] for i in rng.permutation(len(both))[:2])
    there = first.among(sheet) or second.among(sheet)
    if first == second or not there or not (first.clear(sheet) and second.clear(sheet)):
        return None
    return {"many1": first, "many2": second}
