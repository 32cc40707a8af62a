"""Questions about a sheet, each with one exact answer of one to three words, and the answer to any question in these
wordings.

    "what is at the top left?"               panda       kind
    "where is the panda?"                    top left    place
    "how large is the panda?"                large       size
    "how many animals are there?"            two         count
    "is there a taxi?"                       no          exists
    "what is above the panda?"               nothing     relation
    "what colour is the ground?"             mint        colour      (also of shapes)

Stickers are named so that one is meant and nobody can take another for it. Left, right, above and below are asked only
where they are plain: within one row or column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cm3.errors import ConfigError, DataError, did_you_mean
from cm3.stickers.phrases import (
    ANY,
    GROUP_WORDS,
    IT,
    NUMBERS,
    RELATION_WORDS,
    Which,
    at,
    pointing,
    read,
    say,
    the_one,
    wordings,
)
from cm3.stickers.world import PLACES, SIZES, Sheet, Sticker, pick, random_kind

WORDINGS = wordings(
    kind=("what is {where}?", "which sticker is {where}?"),
    member=("which {group} is there?", "what {group} do you see?"),
    place=("where is {the}?",),
    size=("how large is {the}?", "what size is {the}?"),
    count=("how many {many} are there?", "how many {many} do you see?"),
    exists=("is there {a}?", "do you see {a}?"),
    neighbour=("what is {relation} {the}?", "which sticker is {relation} {the}?"),
    ground=("what colour is the ground?",),
    colour=("what colour is {the}?",),
)
"""Every wording of each form of question."""
FORMS: dict[str, tuple[str, ...]] = {
    "kind": ("kind", "kind", "member"),
    "place": ("place",),
    "size": ("size",),
    "count": ("count",),
    "exists": ("exists",),
    "relation": ("neighbour",),
    "colour": ("ground", "colour"),
}
"""Kind of question -> its forms; one that stands twice is asked twice as often."""
QUESTIONS = tuple(FORMS)
"""The kinds of question."""
NOTHING = "nothing"
"""The answer where nothing stands at the place, or on the side, that is asked about."""
GROUPS_ASKED = tuple(one for one, _ in GROUP_WORDS.values() if one != "object")
"""Groups as they are said; anything may be called an object, so nobody is asked for those."""
_SIDES = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
_TRIES = 100


@dataclass(frozen=True)
class Question:
    """A question of a kind, and its answer."""

    kind: str
    question: str
    answer: str


def random_question(sheet: Sheet, rng: np.random.Generator, kind: str | None = None) -> Question:
    """Return a question about a sheet, of a kind (else any, uniformly), and its answer.

    As many answers are yes as no. Raises `ConfigError` for an unknown kind, and for one that cannot be asked of the
    sheet (where the one of two equal stickers is).
    """
    if kind is not None and kind not in FORMS:
        hint = did_you_mean(kind, FORMS)
        raise ConfigError(f"question kind={kind!r:.60}: must be one of {', '.join(FORMS)}.{hint}")
    for _ in range(_TRIES):
        named = kind or pick(rng, QUESTIONS)
        form = pick(rng, FORMS[named])
        values = _fill(form, sheet, rng)
        if values is None:
            continue
        try:
            answer, _ = _answer(form, values, sheet, None)
        except DataError:
            continue  # a side where the answer is not plain
        return Question(named, say(WORDINGS, form, rng, **values), answer)
    raise ConfigError(f"question kind={kind!r}: cannot be asked of this sheet; take another kind")


def follow(question: str, sheet: Sheet, it: Sticker | None = None) -> tuple[str, Sticker | None]:
    """Return the one answer to a question in a talk in which "it" is a sticker, if any, and what "it" is after that.

    After a question "it" is the one sticker that the answer names; else, the one that the question is about; else, the
    only one that it counts or finds; and otherwise nothing.

    Raises `DataError` for a question in no known wording, about a sticker that is not there or not one, or about a side
    where the answer is not plain.
    """
    form, values = read(question, WORDINGS, "question")
    return _answer(form, values, sheet, it)


def about_it(sheet: Sheet, it: Sticker) -> list[tuple[str, str]]:
    """Return every question about "it" that has a plain answer, as (form or relation, question)."""
    forms = ("place", "size", "colour") if it.about.colour else ("place", "size")
    asked = [(form, WORDINGS[form][0].say({"the": IT})) for form in forms]
    for relation, words in RELATION_WORDS.items():
        try:
            _neighbour(sheet, it, relation)
        except DataError:
            continue
        asked.append((relation, WORDINGS["neighbour"][0].say({"relation": words, "the": IT})))
    return asked


def _answer(form: str, values: dict[str, Any], sheet: Sheet, it: Sticker | None) -> tuple[str, Sticker | None]:
    if form == "ground":
        return sheet.ground, None
    if form == "kind":
        thing = next((s for s in sheet.stickers if at(s.place) == values["where"]), None)
        return (thing.kind if thing else NOTHING), thing
    if form == "member":
        thing = the_one(Which(values["group"]), sheet)
        return thing.kind, thing
    if form in ("count", "exists"):
        found = values["many" if form == "count" else "a"].among(sheet)
        answer = NUMBERS[len(found)] if form == "count" else "yes" if found else "no"
        return answer, found[0] if len(found) == 1 else None
    thing = the_one(values["the"], sheet, it)
    if form == "neighbour":
        relation = next(name for name, words in RELATION_WORDS.items() if words == values["relation"])
        other = _neighbour(sheet, thing, relation)
        return (other.kind, other) if other else (NOTHING, thing)
    if form == "colour" and not thing.about.colour:
        raise DataError(f"question: a {thing.kind} has more than one colour; ask for that of a shape or of the ground")
    return thing.about.colour if form == "colour" else getattr(thing, form), thing


def _neighbour(sheet: Sheet, thing: Sticker, relation: str) -> Sticker | None:
    """Find the neighbour on that side of a sticker, in its row or column; none where the whole side is empty.

    Raises `DataError` where something stands on that side in the other row or column only.
    """
    for other, held, one in sheet.relations():
        if one == thing and held == relation:
            return other
    side = _SIDES[relation]
    if side not in thing.place and any(side in s.place for s in sheet.stickers):
        raise DataError(
            f"question: {relation} the {thing.place} stands something in another row or column; ask by place"
        )
    return None


def _fill(form: str, sheet: Sheet, rng: np.random.Generator) -> dict[str, Any] | None:
    """Return values for the slots of a form, or None where this draw has none."""
    if form == "ground":
        return {}
    if form == "kind":
        shown = [s.place for s in sheet.stickers]
        return {"where": at(pick(rng, shown if rng.random() < 0.9 else PLACES))}
    if form == "member":
        group = pick(rng, GROUPS_ASKED)
        return {"group": group} if len(Which(group).among(sheet)) == 1 else None
    if form == "count":
        which = _counted(sheet, rng)
        return {"many": which} if which.clear(sheet) else None
    if form == "exists":
        wanted = bool(rng.random() < 0.5)
        options = [_counted(sheet, rng) for _ in range(16)]
        found = [w for w in options if w.name != ANY and w.clear(sheet) and bool(w.among(sheet)) == wanted]
        return {"a": found[0]} if found else None
    thing = sheet.stickers[int(rng.integers(len(sheet.stickers)))]
    relation = pick(rng, tuple(RELATION_WORDS))
    if form == "neighbour" and sheet.relations() and rng.random() < 0.8:
        _, relation, thing = sheet.relations()[int(rng.integers(len(sheet.relations())))]
    if form == "colour" and not thing.about.colour:
        return None
    which_one = pointing(sheet, thing, rng, hide=form)
    return {"the": which_one, "relation": RELATION_WORDS[relation]} if which_one else None


def _counted(sheet: Sheet, rng: np.random.Generator) -> Which:
    """Return a description of stickers: any, a size, a group, or a kind, which half of the time is not there."""
    chance = rng.random()
    if chance < 0.2:
        return Which()
    if chance < 0.3:
        return Which(ANY, pick(rng, SIZES))
    if chance < 0.6:
        return Which(pick(rng, GROUPS_ASKED))
    kind = sheet.stickers[int(rng.integers(len(sheet.stickers)))].kind if chance < 0.85 else random_kind(rng)
    return Which(kind, pick(rng, SIZES) if rng.random() < 0.15 else None)
