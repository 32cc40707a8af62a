"""Questions about a scene, each with one exact answer, and the answer to any question in these wordings.

    "how many circles are there?"                     two         count
    "what colour is the large star?"                  blue        colour   (also of the background)
    "where is the blue star?"                         top left    place
    "is there a red square?"                          no          exists
    "what is above the square?"                       a small red circle     relation
    "are there more circles than squares?"            yes         compare

Left, right, above and below are asked only where they are plain: between two objects of one row or column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cm3.errors import ConfigError, DataError, did_you_mean
from cm3.scenes.phrases import (
    IT,
    NUMBERS,
    RELATION_WORDS,
    Which,
    pick,
    pointing,
    read,
    the_one,
    whole,
    wordings,
)
from cm3.scenes.scene import COLOURS, INVERSE, PLACES, SHAPES, SIZES, Object, Scene

WORDINGS = wordings(
    count=("how many {many} are there?", "how many {many} can you see?", "what is the number of {many}?"),
    colour=("what colour is {the}?", "what is the colour of {the}?", "which colour does {the} have?"),
    background=("what colour is the background?", "what is the colour of the ground?"),
    shape=("what shape is {the}?", "what is the shape of {the}?"),
    size=("how large is {the}?", "what size is {the}?"),
    place=("where is {the}?", "in which quarter is {the}?"),
    exists=("is there {any}?", "do you see {any}?", "are there any {many}?"),
    neighbour=("what is {relation} {the}?", "which object is {relation} {the}?"),
    related=("is {the1} {relation} {the2}?",),
    more=("are there more {many1} than {many2}?",),
    fewer=("are there fewer {many1} than {many2}?",),
    equal=("are there as many {many1} as {many2}?",),
    larger=("is {the1} larger than {the2}?",),
    smaller=("is {the1} smaller than {the2}?",),
    alike=("are {the1} and {the2} of the same {attribute}?", "do {the1} and {the2} have the same {attribute}?"),
)
"""Every wording of each form of question."""
FORMS: dict[str, tuple[str, ...]] = {
    "count": ("count",),
    "colour": ("colour", "background"),
    "shape": ("shape",),
    "size": ("size",),
    "place": ("place",),
    "exists": ("exists",),
    "relation": ("neighbour", "related"),
    "compare": ("more", "fewer", "equal", "larger", "smaller", "alike"),
}
"""Kind of question -> its forms."""
KINDS = tuple(FORMS)
NOTHING = "nothing"
"""The answer where nothing stands on the side that is asked about."""

_TRIES = 200


@dataclass(frozen=True)
class Question:
    """A question of a kind, and its answer."""

    kind: str
    question: str
    answer: str


def random_question(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Question:
    """Return a question about a scene, of a kind (else any, uniformly), and its answer.

    Of questions for yes or no, as many of each as the scene allows. Raises `ConfigError` for an unknown kind, and for
    one that cannot be asked of the scene (where the one of two equal objects is).
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"question kind={kind!r}: must be one of {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    wanted = pick(rng, ("yes", "no"))
    spare = None
    for _ in range(_TRIES):
        named = kind or pick(rng, KINDS)
        form = pick(rng, FORMS[named])
        values = _fill(form, scene, rng)
        if values is None:
            continue
        phrase = pick(rng, WORDINGS[form])
        try:
            answer, _ = _answer(form, {slot: values[slot] for slot in phrase.slots}, scene, None)
        except DataError:
            continue
        question = Question(named, phrase.say(values), answer)
        if answer not in ("yes", "no") or answer == wanted:
            return question
        spare = spare or question
    if spare is None:
        raise ConfigError(f"question kind={kind!r}: cannot be asked of this scene; take another kind")
    return spare


def answer_question(question: str, scene: Scene) -> str:
    """Return the one answer to a question about a scene.

    Raises `DataError` for a question in no known wording, about an object that is not there or not one, or about a
    side where the answer is not plain.
    """
    return follow(question, scene, None)[0]


def follow(question: str, scene: Scene, it: Object | None) -> tuple[str, Object | None]:
    """Return the answer to a question in a talk in which "it" is an object, and what "it" is after that.

    After a question "it" is the one object that the answer names; else, the one that the question is about; else, the
    only one that it counts or finds; and otherwise nothing. Raises as `answer_question` does.
    """
    form, values = read(question, WORDINGS, "question")
    return _answer(form, values, scene, it)


def _answer(form: str, values: dict[str, Any], scene: Scene, it: Object | None) -> tuple[str, Object | None]:
    if form == "background":
        return scene.background, None
    if form in ("count", "exists"):
        found = (values.get("many") or values["any"]).among(scene)
        answer = NUMBERS[len(found)] if form == "count" else _yes(bool(found))
        return answer, found[0] if len(found) == 1 else None
    if form in ("more", "fewer", "equal"):
        a, b = (len(values[slot].among(scene)) for slot in ("many1", "many2"))
        return _yes({"more": a > b, "fewer": a < b, "equal": a == b}[form]), None
    if "the" in values:
        thing = the_one(values["the"], scene, it)
        if form == "neighbour":
            other = _neighbour(scene, thing, RELATION_WORDS[values["relation"]])
            return (whole(other).a(), other) if other else (NOTHING, thing)
        return getattr(thing, form), thing
    first, second = (the_one(values[slot], scene, it) for slot in ("the1", "the2"))
    if first == second:
        raise DataError(f"question: {values['the1'].the()!r} and {values['the2'].the()!r} are one object; name two")
    if form == "related":
        found_relations = [r for a, r, b in scene.relations() if (a, b) == (first, second)]
        asked = RELATION_WORDS[values["relation"]]
        if not found_relations or found_relations[0] not in (asked, INVERSE[asked]):
            raise DataError(f"question: the {first.place} and the {second.place} are not in one row or column for that")
        return _yes(found_relations[0] == asked), first
    if form == "alike":
        return _yes(getattr(first, values["attribute"]) == getattr(second, values["attribute"])), first
    larger, smaller = (first, second) if form == "larger" else (second, first)
    return _yes((larger.size, smaller.size) == ("large", "small")), first


def _neighbour(scene: Scene, thing: Object, relation: str) -> Object | None:
    """Find the neighbour on that side of an object, in its row or column; none where the whole side is empty.

    Raises `DataError` where something stands on that side in the other row or column only.
    """
    for a, held, b in scene.relations():
        if b == thing and held == relation:
            return a
    side = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}[relation]
    if side not in thing.place and any(side in o.place for o in scene.objects):
        raise DataError(f"question: what is {relation} the {thing.place} stands in another row or column; ask by place")
    return None


def _fill(form: str, scene: Scene, rng: np.random.Generator) -> dict[str, Any] | None:
    """Return values for the slots of a form, or None where this draw has none."""
    if form in ("more", "fewer", "equal"):
        first, second = _group(scene, rng), _group(scene, rng)
        return None if first == second else {"many1": first, "many2": second}
    if form in ("count", "exists"):
        which = _group(scene, rng)
        placed = Which(which.shape, which.colour, which.size, pick(rng, PLACES) if rng.random() < 0.25 else None)
        return {"many": which, "any": placed}
    if form == "background":
        return {}
    relation = pick(rng, tuple(RELATION_WORDS))
    attribute = pick(rng, ("shape", "colour", "size"))
    hidden = {"alike": (attribute,), "larger": ("size",), "smaller": ("size",)}.get(form, (form,))
    if form in ("neighbour", "related"):
        hidden = ("place",)
    things = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    slots = ("the1", "the2") if form in ("related", "larger", "smaller", "alike") else ("the",)
    if len(things) < len(slots):
        return None
    values: dict[str, Any] = {"relation": relation, "attribute": attribute}
    for slot, thing in zip(slots, things, strict=False):
        which_one = pointing(scene, thing, rng, hide=hidden)
        if which_one is None:
            return None
        values[slot] = which_one
    return values


def _group(scene: Scene, rng: np.random.Generator) -> Which:
    """Return a description of objects by one or two of shape, colour, size, or none of them; two in three fit some
    object."""
    thing = pick(rng, scene.objects)
    if rng.random() < 1 / 3:
        thing = Object(thing.place, pick(rng, SHAPES), pick(rng, tuple(COLOURS)), pick(rng, SIZES))
    names = pick(rng, ((), ("shape",), ("shape",), ("colour",), ("size",), ("colour", "shape"), ("size", "shape")))
    return Which(**{name: getattr(thing, name) for name in names})


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def about_it(scene: Scene, it: Object, rng: np.random.Generator) -> tuple[str, str]:
    """Return a question about "it", as (form, question): an attribute, a neighbour, or a comparison with another
    object."""
    form = pick(rng, ("colour", "shape", "size", "place", "neighbour", "neighbour", "related", "larger", "smaller"))
    values: dict[str, Any] = {"the": IT, "the1": IT, "relation": pick(rng, tuple(RELATION_WORDS))}
    others = [o for o in scene.objects if o != it]
    if form in ("related", "larger", "smaller"):
        other = pointing(scene, pick(rng, others), rng, hide=("place", "size")) if others else None
        if other is None:
            form = "colour"
        else:
            values["the2"] = other
    return form, WORDINGS[form][0].say(values)
