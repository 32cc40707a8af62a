"""Long descriptions: a paragraph that names everything on a sheet, and reads back as exactly that sheet.

    the picture shows two stickers on a mint ground. at the top left there is a large panda. it is an animal. nothing is
    at the top right. nothing is at the bottom left. at the bottom right there is a small taxi. it is a vehicle. the
    number of large stickers is one. the number of animals is one.

Lower case like the captions, a full stop after each sentence. Places come in reading order, and "it" is the sticker of
the sentence before. Groups, relations and counts say again what follows from the rest; a paragraph that contradicts
itself is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cm3.errors import ConfigError, DataError
from cm3.stickers.ask import GROUPS_ASKED
from cm3.stickers.phrases import ANY, GROUP_WORDS, NUMBERS, RELATION_WORDS, Which, at, pointing, read, the_one, wordings
from cm3.stickers.world import PLACES, QUARTERS, SIZES, Sheet, Sticker

OPENING = wordings(ground=("the picture shows {stickers} on a {ground} ground",))
SENTENCES = wordings(
    placed=("{where} there is {a}",),
    empty=("nothing is {where}",),
    group=("it is {a}",),
    related=("{the1} is {relation} {the2}",),
    tally=("the number of {many} is {number}",),
)
"""The wording of each sentence after the opening."""
_PLACES = {at(place): place for place in PLACES}
_RELATED = 0.5
"""Share of the relations that are told, each one way."""


def describe_long(sheet: Sheet, rng: np.random.Generator) -> str:
    """Return a paragraph that names the ground, each sticker in full with its group, each empty quarter, and some
    relations and counts: 50 to 160 words."""
    number = len(sheet.stickers)
    said = [OPENING["ground"][0].say({"stickers": _stickers(number), "ground": sheet.ground})]
    for place in PLACES:
        thing = sheet.at(place)
        if thing is not None:
            said.append(_say("placed", where=at(place), a=Which(thing.kind, thing.size)))
            said.append(_say("group", a=Which(GROUP_WORDS[thing.about.group][0])))
        elif place in QUARTERS:
            said.append(_say("empty", where=at(place)))
    for a, relation, b in sheet.relations():
        first, second = (pointing(sheet, s, rng) for s in (a, b))
        if relation in ("left of", "above") and first and second and rng.random() < _RELATED:
            said.append(_say("related", the1=first, relation=RELATION_WORDS[relation], the2=second))
    shown = [one for one in GROUPS_ASKED if Which(one).among(sheet)] or list(GROUPS_ASKED)
    tallied = [Which(ANY, SIZES[int(rng.integers(2))]), Which(shown[int(rng.integers(len(shown)))])]
    said += [_say("tally", many=which, number=NUMBERS[len(which.among(sheet))]) for which in tallied]
    return " ".join(f"{sentence}." for sentence in said)


def parse_long(text: str) -> Sheet:
    """Return the sheet that a paragraph describes.

    Raises `DataError`, naming the sentence, for one that makes no sense, a place told twice or a quarter not at all, a
    sticker without its size or kind, places that are all empty, and whatever does not agree with the rest.
    """
    sentences = " ".join(text.split()).split(".")
    if len(sentences) < 2 or sentences[-1]:
        raise DataError("description: must end with a full stop; it may be cut off")
    _, opening = read(sentences[0], OPENING, "description, sentence 1:")
    told: dict[str, Sticker | None] = {}
    claims: list[tuple[str, str, dict[str, Any]]] = []
    before: Sticker | None = None
    for n, sentence in enumerate(sentences[1:-1], 2):
        where = f"description, sentence {n}:"
        form, values = read(sentence, SENTENCES, where)
        if form == "group":
            if before is None:
                raise DataError(f"{where} 'it' follows no sticker; tell the group right after the sticker")
            if values["a"].name != GROUP_WORDS[before.about.group][0]:
                raise DataError(f"{where} contradicts the one before")
        elif form in ("placed", "empty"):
            place = _PLACES[values["where"]]
            if place in told:
                raise DataError(f"{where} the {place} is told twice; tell each place once")
            told[place] = before = _sticker(place, values["a"], where) if form == "placed" else None
        else:
            claims.append((where, form, values))
        if form != "placed":
            before = None
    if missing := [place for place in QUARTERS if place not in told]:
        raise DataError(f"description: says nothing of the {missing[0]}; tell all four quarters")
    stickers = tuple(s for s in told.values() if s)
    if NUMBERS.index(opening["stickers"].split()[0]) != len(stickers):
        raise DataError(f"description: says {opening['stickers']} but tells {len(stickers)}; make the two agree")
    try:
        sheet = Sheet(opening["ground"], stickers)
    except ConfigError as error:
        raise DataError(f"description: tells what is no sheet: {error}") from error
    for where, form, values in claims:
        if not _true(form, values, sheet):
            raise DataError(f"{where} contradicts the others")
    return sheet


def _say(form: str, **values: Any) -> str:
    return SENTENCES[form][0].say(values)


def _stickers(number: int) -> str:
    return f"{NUMBERS[number]} sticker{'' if number == 1 else 's'}"


def _sticker(place: str, which: Which, where: str) -> Sticker:
    try:
        return Sticker(place, which.name, which.size or "")
    except ConfigError as error:
        raise DataError(f"{where} {which.a()!r} must be told with its size and kind") from error


def _true(form: str, values: dict[str, Any], sheet: Sheet) -> bool:
    if form == "tally":
        return len(values["many"].among(sheet)) == NUMBERS.index(values["number"])
    first, second = the_one(values["the1"], sheet), the_one(values["the2"], sheet)
    told = {(a, b, RELATION_WORDS[relation]) for a, relation, b in sheet.relations()}
    return (first, second, values["relation"]) in told
