"""Scene <-> sentence, with exact meaning: every sentence says something that is either true of a scene or not.

`describe` says a true sentence about a scene, `parse` reads any sentence of the same grammar into a `Statement`, and
`holds` decides whether a statement is exactly and completely true of a scene. Training captions, prompts and the
evaluation all go through these three, so a caption that a model writes is judged by what it means, not by its words.

    sentence = [ground ","] [number "objects" [ground] ":"] body [[","] ground]         (one ground, somewhere)
    body     = mention {"," mention} ["and" mention]
             | mention RELATION mention
             | mention "," "with" other {"," other} ["and" other]                       ("it" is the first mention)
    mention  = a|an [SIZE] COLOUR SHAPE ["at" "the" PLACE]
    other    = mention | mention "to" "its" left|right | mention above|below "it"
    ground   = "on" a BACKGROUND background|ground
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace

import numpy as np

from cm3.errors import ConfigError, DataError, did_you_mean
from cm3.scenes.scene import BACKGROUNDS, COLOURS, INVERSE, PLACES, SHAPES, SIZES, Object, Scene

STYLES = ("places", "relation", "chain", "count")
"""The ways of saying a scene. `describe` picks uniformly among those that apply: `places` and `count` always,
`relation` to two objects in one row or column, `chain` where some object has a neighbour in its row or column."""

_NUMBERS = ("one", "two", "three", "four")
_RELATION_WORDS = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
_SIDE_WORDS = {"left of": "to its left", "right of": "to its right", "above": "above it", "below": "below it"}


@dataclass(frozen=True)
class Mention:
    """The statement of a sentence on one object; None where it does not say."""

    shape: str
    colour: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Statement:
    """The statement of a sentence: a background, one mention per object, and relations (i, relation, j) between
    mentions."""

    background: str
    mentions: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...] = ()


def styles_of(scene: Scene) -> tuple[str, ...]:
    """Return the styles in which `describe` can say a scene, in the order of `STYLES`."""
    related = bool(scene.relations())
    applies = {"places": True, "relation": related and len(scene.objects) == 2, "chain": related, "count": True}
    return tuple(style for style in STYLES if applies[style])


def describe(scene: Scene, rng: np.random.Generator, style: str | None = None, *, in_order: bool = False) -> str:
    """Say a scene in one sentence: lower case, no full stop, at most 39 words.

    `rng` chooses the style (see `STYLES`) unless one is given, the order of the objects (with `in_order` they come as
    one reads, from the top left to the bottom right), and the wording. Every style tells the whole content but
    `relation`, which leaves the row or column open, and in half of the cases the second object's size. Raises
    `ConfigError` for a style that is unknown or does not apply to the scene.
    """
    known = styles_of(scene)
    if style is None:
        style = known[int(rng.integers(len(known)))]
    if style not in STYLES:
        raise ConfigError(f"style={style!r}: must be one of {', '.join(STYLES)}.{did_you_mean(style, STYLES)}")
    if style not in known:
        raise ConfigError(f"style={style!r}: does not apply to this scene; those that do are {', '.join(known)}")
    order = rng.permutation(len(scene.objects))  # drawn in any case, so that the wording does not depend on it
    things = list(scene.objects) if in_order else [scene.objects[i] for i in order]
    ground = f"on a {scene.background} {'ground' if rng.random() < 0.5 else 'background'}"
    in_front = bool(rng.random() < 0.5)
    if style == "count":
        count = f"{_NUMBERS[len(things) - 1]} object{'s' if len(things) > 1 else ''}"
        body = _join([f"{_thing(o)} at the {o.place}" for o in things])
        return f"{ground}, {count}: {body}" if in_front else f"{count} {ground}: {body}"
    if style == "chain":
        body, pause = _chain(scene, things, rng), ","
    elif style == "relation":
        body, pause = _related(scene, things, bool(rng.random() < 0.5)), ""
    else:
        body, pause = _join([f"{_thing(o)} at the {o.place}" for o in things]), ""
    return f"{ground}, {body}" if in_front else f"{body}{pause} {ground}"


def brief(scene: Scene, rng: np.random.Generator) -> str:
    """Return a true sentence that tells colours, shapes and ground and leaves sizes and places to something else to
    tell."""
    things = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    body = _join([_thing(o, sized=False) for o in things])
    return f"{body} on a {scene.background} {'ground' if rng.random() < 0.5 else 'background'}"


def parse(text: str) -> Statement:
    """Read a sentence of this module's grammar; spaces at the ends and runs of spaces do not matter, all else does.

    Raises `DataError` that names the word where the sentence stops making sense, and what could have stood there.
    """
    return _Reader(text).sentence()


def holds(statement: Statement, scene: Scene) -> bool:
    """Tell whether a statement is exactly and completely true of a scene.

    The background is the same, there are as many mentions as objects, and the mentions can be matched one to one with
    the objects so that each mention and each relation is true (relations as in `Scene.relations`).
    """
    if statement.background != scene.background or len(statement.mentions) != len(scene.objects):
        return False
    related = set(scene.relations())
    return any(
        all(_fits(mention, thing) for mention, thing in zip(statement.mentions, things, strict=True))
        and all((things[i], relation, things[j]) in related for i, relation, j in statement.relations)
        for things in itertools.permutations(scene.objects)
    )


def _fits(mention: Mention, thing: Object) -> bool:
    return (
        (mention.shape, mention.colour) == (thing.shape, thing.colour)
        and mention.size in (None, thing.size)
        and mention.place in (None, thing.place)
    )


def _thing(thing: Object, sized: bool = True) -> str:
    words = f"{thing.size} {thing.colour} {thing.shape}" if sized else f"{thing.colour} {thing.shape}"
    return f"{_article(words)} {words}"


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _related(scene: Scene, things: list[Object], sized: bool) -> str:
    first, second = things
    relation = next(r for a, r, b in scene.relations() if (a, b) == (first, second))
    return f"{_thing(first)} {_RELATION_WORDS[relation]} {_thing(second, sized)}"


def _chain(scene: Scene, things: list[Object], rng: np.random.Generator) -> str:
    """Return the first object with its place, each other one from it where it is a neighbour (one always, the rest 3 in
    4)."""
    sides = {(a, b): relation for a, relation, b in scene.relations()}
    first = next(a for a in things if any((a, b) in sides for b in things))
    items, said = [], False
    for other in things:
        if other is first:
            continue
        relation = sides.get((first, other))
        if relation is not None and (not said or rng.random() < 0.75):
            items.append(f"{_thing(other)} {_SIDE_WORDS[INVERSE[relation]]}")
            said = True
        else:
            items.append(f"{_thing(other)} at the {other.place}")
    return f"{_thing(first)} at the {first.place}, with {_join(items)}"


class _Reader:
    """A recursive-descent reader over the words of one sentence; it looks ahead without going back."""

    def __init__(self, text: str) -> None:
        self.words = re.findall(r"[,:]|[^\s,:]+", text)
        self.at = 0
        plain = " ".join(text.split())
        tidy = re.sub(r" ([,:])", r"\1", " ".join(self.words))
        if plain != tidy:
            split = next((i for i, (a, b) in enumerate(zip(plain, tidy, strict=False)) if a != b), len(tidy))
            raise DataError(f"caption: {plain[:split]!r} has a wrong space after it; write one after , and : only")

    def sentence(self) -> Statement:
        background, number = None, None
        if self.sees("on"):
            background = self.ground()
            self.take(",")
        if self.sees(*_NUMBERS):
            number = _NUMBERS.index(self.take(*_NUMBERS)) + 1
            self.take("object" if number == 1 else "objects")
            if background is None:
                background = self.ground()
            self.take(":")
        mentions, relations, chained = self.body(counted=number is not None)
        if background is None:
            if chained:
                self.take(",")
            background = self.ground()
        if self.at < len(self.words):
            raise self.error("the end")
        if number is not None and number != len(mentions):
            raise DataError(f"caption: says {_NUMBERS[number - 1]} but mentions {len(mentions)}; make the two agree")
        return Statement(background, tuple(mentions), tuple(relations))

    def body(self, counted: bool) -> tuple[list[Mention], list[tuple[int, str, int]], bool]:
        mentions = [self.mention()]
        for relation, words in _RELATION_WORDS.items():
            if not counted and self.sees_all(words):
                self.take_all(words)
                return [*mentions, self.mention()], [(0, relation, 1)], False
        relations: list[tuple[int, str, int]] = []
        chained = not counted and self.sees_all(", with")
        if chained:
            self.take_all(", with")
            mentions.append(self.other(relations, 1))
        # A comma goes on with the list where an article follows, and otherwise is the pause before the ground.
        open_list = False
        while self.sees("and") or self.sees_all(", a") or self.sees_all(", an"):
            last = self.take("and", ",") == "and"
            mentions.append(self.other(relations, len(mentions)) if chained else self.mention())
            open_list = not last
            if last:
                break
        if open_list:
            raise self.error("'and' or ', a'")
        return mentions, relations, chained

    def other(self, relations: list[tuple[int, str, int]], index: int) -> Mention:
        mention = self.mention()
        for relation, words in _SIDE_WORDS.items():
            if mention.place is None and self.sees_all(words):
                self.take_all(words)
                relations.append((index, relation, 0))
                break
        return mention

    def mention(self) -> Mention:
        article = self.take("a", "an")
        if self.at < len(self.words) and article != _article(self.words[self.at]):
            self.at -= 1
            raise self.error(repr(_article(self.words[self.at + 1])))
        size = self.take(*SIZES) if self.sees(*SIZES) else None
        colour = self.take(*COLOURS) if size else self.take(*COLOURS, also=SIZES)
        mention = Mention(self.take(*SHAPES), colour, size)
        if not self.sees("at"):
            return mention
        self.take_all("at the")
        row = self.take(*dict.fromkeys(place.split()[0] for place in PLACES))
        column = self.take(*dict.fromkeys(place.split()[1] for place in PLACES))
        return replace(mention, place=f"{row} {column}")

    def ground(self) -> str:
        self.take_all("on a")
        background = self.take(*BACKGROUNDS)
        self.take("background", "ground")
        return background

    def sees(self, *words: str) -> bool:
        return self.at < len(self.words) and self.words[self.at] in words

    def sees_all(self, phrase: str) -> bool:
        words = phrase.split()
        return self.words[self.at : self.at + len(words)] == words

    def take(self, *words: str, also: tuple[str, ...] = ()) -> str:
        if not self.sees(*words):
            raise self.error(" or ".join(map(repr, (*also, *words))))
        self.at += 1
        return self.words[self.at - 1]

    def take_all(self, phrase: str) -> None:
        for word in phrase.split():
            self.take(word)

    def error(self, expected: str) -> DataError:
        found = repr(self.words[self.at]) if self.at < len(self.words) else "the end"
        return DataError(f"caption: word {self.at + 1} is {found}, expected {expected}")
