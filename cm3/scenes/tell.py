"""Long descriptions: a paragraph that names everything in a scene, and reads back as exactly that scene.

    the picture shows three objects on a mint ground. a small red circle stands at the top left. to its right there is
    a large blue star. nothing stands at the bottom left. at the bottom right there is a small red square. the blue star
    is above the red square. the number of red objects is two.

Lower case like the captions, a full stop after each sentence. "Its" and "it" are the object of the sentence before.
Relations and counts say again what follows from the rest; a paragraph that contradicts itself is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cm3.errors import DataError
from cm3.scenes.phrases import NUMBERS, RELATION_WORDS, Which, pick, pointing, read, the_one, whole, wordings
from cm3.scenes.scene import PLACES, Object, Scene

OPENINGS = wordings(
    ground=(
        "the picture shows {objects} on a {background} ground",
        "this is a picture of {objects} on a {background} background",
    )
)
SENTENCES = wordings(
    placed=("at the {place} there is {a}", "{a} stands at the {place}", "the {place} holds {a}"),
    beside=("{side} there is {a}", "{side} stands {a}"),
    empty=("nothing stands at the {place}", "the {place} is empty"),
    related=("{the1} is {relation} {the2}",),
    tally=("the number of {many} is {number}", "{number} is the number of {many}"),
)
"""Every wording of each sentence after the opening."""

_SIDES = {"to its left": "left of", "to its right": "right of", "above it": "above", "below it": "below"}


def describe_long(scene: Scene, rng: np.random.Generator) -> str:
    """Return a paragraph that names the ground, each object in full, each empty quarter, and some relations and
    counts."""
    number = f"{NUMBERS[len(scene.objects)]} object{'s' if len(scene.objects) > 1 else ''}"
    said = [_say(OPENINGS, "ground", rng, objects=number, background=scene.background)]
    sides = {(a, b): relation for a, relation, b in scene.relations()}
    before: Object | None = None
    for place in (PLACES[i] for i in rng.permutation(len(PLACES))):
        thing = scene.at(place)
        if thing is None:
            said.append(_say(SENTENCES, "empty", rng, place=place))
            before = None  # "it" is the object of the sentence right before, not of one further back
            continue
        relation = sides.get((thing, before)) if before else None
        if relation and rng.random() < 0.7:
            side = next(words for words, name in _SIDES.items() if name == relation)
            said.append(_say(SENTENCES, "beside", rng, side=side, a=whole(thing)))
        else:
            said.append(_say(SENTENCES, "placed", rng, place=place, a=whole(thing)))
        before = thing
    for a, relation, b in scene.relations():
        first, second = (pointing(scene, o, rng, hide=("place",)) for o in (a, b))
        if first and second and rng.random() < 0.25:
            words = next(words for words, name in RELATION_WORDS.items() if name == relation)
            said.append(_say(SENTENCES, "related", rng, the1=first, relation=words, the2=second))
    thing = pick(rng, scene.objects)
    for name in ("shape", "colour", "size"):
        if rng.random() < 0.4:
            which = Which(**{name: getattr(thing, name)})
            said.append(_say(SENTENCES, "tally", rng, many=which, number=NUMBERS[len(which.among(scene))]))
    return " ".join(f"{sentence}." for sentence in said)


def parse_long(text: str) -> Scene:
    """Return the scene that a paragraph describes.

    Raises `DataError`, naming the sentence, for one that makes no sense, a quarter told twice or not at all, an object
    without size or colour, quarters that are all empty, and a number or a relation that does not agree with the rest.
    """
    sentences = " ".join(text.split()).split(".")
    if len(sentences) < 2 or sentences[-1]:
        raise DataError("description: must end with a full stop; it may be cut off")
    _, opening = read(sentences[0], OPENINGS, "description, sentence 1:")
    objects: dict[str, Object | None] = {}
    claims: list[tuple[str, str, dict[str, Any]]] = []
    before: Object | None = None
    for n, sentence in enumerate(sentences[1:-1], 2):
        where = f"description, sentence {n}:"
        form, values = read(sentence, SENTENCES, where)
        if form in ("related", "tally"):
            claims.append((where, form, values))
            continue
        place = _beside(before, values["side"], where) if form == "beside" else values["place"]
        if place in objects:
            raise DataError(f"{where} the {place} is told twice; tell each quarter once")
        objects[place] = before = _object(place, values["a"], where) if form != "empty" else None
    if missing := [place for place in PLACES if place not in objects]:
        raise DataError(f"description: says nothing of the {missing[0]}; tell all four quarters")
    if not any(objects.values()):
        raise DataError("description: leaves every quarter empty; a scene has one object at least")
    scene = Scene(opening["background"], tuple(o for o in objects.values() if o))
    if len(scene.objects) != NUMBERS.index(opening["objects"].split()[0]):
        raise DataError(f"description: says {opening['objects']} but tells {len(scene.objects)}; make the two agree")
    for where, form, values in claims:
        if not _true(form, values, scene):
            raise DataError(f"{where} contradicts the others")
    return scene


def _say(table: Any, form: str, rng: np.random.Generator, **values: Any) -> str:
    return pick(rng, table[form]).say(values)


def _object(place: str, which: Which, where: str) -> Object:
    if not (which.shape and which.colour and which.size):
        raise DataError(f"{where} {which.a()!r} must be told with size, colour and shape")
    return Object(place, which.shape, which.colour, which.size)


def _beside(it: Object | None, side: str, where: str) -> str:
    """Return the place on a side of the object before."""
    if it is None:
        raise DataError(f"{where} {side!r} follows no object; name the place")
    row, column = it.place.split()
    relation = _SIDES[side]
    place = {
        "left of": f"{row} left",
        "right of": f"{row} right",
        "above": f"top {column}",
        "below": f"bottom {column}",
    }[relation]
    if place == it.place:
        raise DataError(f"{where} nothing can be {side!r} at the {it.place}")
    return place


def _true(form: str, values: dict[str, Any], scene: Scene) -> bool:
    if form == "tally":
        return len(values["many"].among(scene)) == NUMBERS.index(values["number"])
    first, second = the_one(values["the1"], scene), the_one(values["the2"], scene)
    return (first, RELATION_WORDS[values["relation"]], second) in scene.relations()
