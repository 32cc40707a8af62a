"""Sheet <-> sentence, with exact meaning: every sentence says something that is either true of a sheet or not.

`describe` says a true sentence about a sheet, `parse` reads any sentence of the same grammar into a `Statement`, and
`holds` decides whether a statement is true of a sheet and names all its stickers. Captions, prompts and measurements go
through these three, so a caption that a model writes is judged by its meaning, not by its words.

    sentence = [ground ","] mention {","|"and" mention} [[","] ground]
    mention  = a|another [SIZE] KIND [where]
    where    = "at the" QUARTER | "in the middle" | RELATION "it" | RELATION "the" KIND | RELATION mention
    ground   = "on a" GROUND "ground"

"It" is the only sticker named so far, "the KIND" one that was named before. One sticker alone without a place is in the
middle: "a large panda on a mint ground". "Somewhere" takes that back: "a panda somewhere on a mint ground".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from cm3.errors import ConfigError, DataError, did_you_mean
from cm3.stickers.artwork import KINDS
from cm3.stickers.phrases import ANY, RELATION_WORDS, a, at, listed, tidy
from cm3.stickers.world import GROUNDS, PLACES, SIZES, Sheet, Sticker, by_share

STYLES = {"places": 4, "relations": 4, "pair": 1, "alone": 4}
"""The ways of saying a sheet, each with its weight where it applies.

    places      every sticker with its place
    relations   stickers that neighbour one named before are told from that one, the others with their place
    pair        two neighbours, one from the other; their row or column is left open
    alone       one in the middle, without a place
"""
FRONT = 0.3
"""Share of sentences that begin with the ground."""


@dataclass(frozen=True)
class Mention:
    """One sticker as a sentence tells it; None where it does not say."""

    kind: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Statement:
    """A sentence by its meaning: a ground or None, a mention of each sticker, and relations (i, relation, j) between
    mentions."""

    ground: str | None
    mentions: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...] = ()


@dataclass(frozen=True)
class Truth:
    """The truth of a statement; `why` is the first thing that is wrong, and empty where it holds."""

    why: str = ""

    def __bool__(self) -> bool:
        """Tell whether it holds."""
        return not self.why


def styles_of(sheet: Sheet) -> tuple[str, ...]:
    """Return the styles in which `describe` can say a sheet, in the order of `STYLES`."""
    related = bool(sheet.relations())
    applies = {
        "places": True,
        "relations": related,
        "pair": related and len(sheet.stickers) == 2,
        "alone": sheet.stickers[0].place == "middle",
    }
    return tuple(style for style in STYLES if applies[style])


def describe(
    sheet: Sheet,
    rng: np.random.Generator,
    in_order: bool = False,
    style: str | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    order: Sequence[int] | None = None,
) -> str:
    """Say a sheet in one sentence: lower case, no full stop, 7 to 50 words.

    `rng` chooses the style (see `STYLES`) unless one is given, the order of the stickers (with `in_order` that of
    `PLACES`) unless `order` gives it, and where the ground is told. Every style but `pair` tells the whole content.
    `names` has other names for kinds. Raises `ConfigError` for a style that is unknown or does not apply to the sheet.
    """
    known = styles_of(sheet)
    if style is None:
        style = known[by_share(rng, [STYLES[s] for s in known])]
    if style not in STYLES:
        raise ConfigError(f"style={style!r:.60}: must be one of {', '.join(STYLES)}.{did_you_mean(style, STYLES)}")
    if style not in known:
        raise ConfigError(f"style={style!r}: does not apply to this sheet; those that do are {', '.join(known)}")
    drawn = rng.permutation(len(sheet.stickers))  # in any case, so that the wording does not depend on it
    things = list(sheet.stickers) if in_order else [sheet.stickers[i] for i in (drawn if order is None else order)]
    whats = [f"{s.size} {names.get(s.kind, s.kind)}" for s in things]
    named = [f"another {what}" if what in whats[:i] else a(what) for i, what in enumerate(whats)]
    sides = {(first, second): RELATION_WORDS[relation] for first, relation, second in sheet.relations()}
    if style == "alone":
        body = named[0]
    elif style == "pair":
        body = f"{named[0]} {sides[things[0], things[1]]} {named[1]}"
    elif style == "places":
        body = listed([f"{name} {at(s.place)}" for name, s in zip(named, things, strict=True)])
    else:
        body = listed(
            [f"{name} {where}" for name, where in zip(named, _wheres(things, sides, rng, names), strict=True)]
        )
    ground = f"on a {sheet.ground} ground"
    if rng.random() < FRONT:
        return f"{ground}, {body}"
    return f"{body} {ground}" if style == "alone" else f"{body}, {ground}"


def outright(sheet: Sheet, order: Sequence[int] | None = None, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Say all of a sheet, always in the same words: each sticker with its place, the ground last; stickers in the order
    of `PLACES`, or in that given."""
    things = [sheet.stickers[i] for i in (range(len(sheet.stickers)) if order is None else order)]
    whats = [f"{s.size} {names.get(s.kind, s.kind)}" for s in things]
    named = [f"another {what}" if what in whats[:i] else a(what) for i, what in enumerate(whats)]
    said = [f"{name} {at(s.place)}" for name, s in zip(named, things, strict=True)]
    return f"{listed(said)}, on a {sheet.ground} ground"


def brief(sheet: Sheet, rng: np.random.Generator) -> str:
    """Return a true sentence that tells kinds and ground, and leaves sizes and places to something else to tell."""
    things = [sheet.stickers[i] for i in rng.permutation(len(sheet.stickers))]
    kinds = [s.kind for s in things]
    body = listed([f"another {kind}" if kind in kinds[:i] else a(kind) for i, kind in enumerate(kinds)])
    return f"{body}{' somewhere' if len(things) == 1 else ''} on a {sheet.ground} ground"


def loosely(sheet: Sheet, rng: np.random.Generator, order: Sequence[int] | None = None) -> str:
    """Say a sheet as one types a sentence: a true one that leaves sizes, places or the ground open.

    Each of the three is told half of the time, sizes and places of all stickers or of none; two neighbours may be told
    one from the other. One alone says its place unless it is in the middle, where "a panda" has it. The stickers come
    in the order given, or in any.
    """
    drawn = rng.permutation(len(sheet.stickers))
    things = [sheet.stickers[i] for i in (drawn if order is None else order)]
    sizes, places, ground = rng.random(3) < 0.5
    whats = [f"{s.size} {s.kind}" if sizes else s.kind for s in things]
    named = [f"another {what}" if what in whats[:i] else a(what) for i, what in enumerate(whats)]
    sides = {(first, second): RELATION_WORDS[relation] for first, relation, second in sheet.relations()}
    if len(things) == 2 and tuple(things) in sides and rng.random() < 0.4:
        body = f"{named[0]} {sides[things[0], things[1]]} {named[1]}"
    elif things[0].place != "middle" and (places or len(things) == 1):
        body = listed([f"{name} {at(s.place)}" for name, s in zip(named, things, strict=True)])
    else:
        body = listed(named)
    return f"{body} on a {sheet.ground} ground" if ground else body


def parse(text: str) -> Statement:
    """Read a sentence of this module's grammar.

    Capitals, a full stop at the end, commas, articles and the spellings of `SPELLINGS` do not matter; sizes, places and
    the ground may be missing. Raises `DataError` that names the word where the sentence stops making sense, and what
    could have stood there.
    """
    return _Reader(text).sentence()


def holds(statement: Statement, sheet: Sheet) -> Truth:
    """Decide whether a statement is true of a sheet and names every sticker of it.

    The ground is the same, there are as many mentions as stickers, and the mentions can be matched one to one with the
    stickers so that each mention and each relation is true (relations as in `Sheet.relations`).
    """
    if statement.ground not in (None, sheet.ground):
        return Truth(f"the ground is {sheet.ground}, not {statement.ground}")
    if len(statement.mentions) != len(sheet.stickers):
        return Truth(f"there are {len(sheet.stickers)} stickers, not {len(statement.mentions)}")
    related = set(sheet.relations())
    best, why = -1, ""
    for things in itertools.permutations(sheet.stickers):
        wrong = [_wrong(mention, thing) for mention, thing in zip(statement.mentions, things, strict=True)]
        wrong += [
            ""
            if (things[i], relation, things[j]) in related
            else f"the {things[i].kind} is not {relation} the {things[j].kind}"
            for i, relation, j in statement.relations
        ]
        right = sum(not w for w in wrong)
        if right == len(wrong):
            return Truth()
        # the closest match tells most; kinds come first, since a sticker of another kind is another sticker
        kinds = sum(m.kind in (None, s.kind) for m, s in zip(statement.mentions, things, strict=True))
        if kinds * 100 + right > best:
            best, why = kinds * 100 + right, next(w for w in wrong if w)
    return Truth(why)


def _wheres(
    things: Sequence[Sticker],
    sides: dict[tuple[Sticker, Sticker], str],
    rng: np.random.Generator,
    names: Mapping[str, str],
) -> list[str]:
    """Return where each sticker is: from one named before where that can be said (one always, the rest 3 in 4), else
    its place."""
    wheres = [at(things[0].place)]
    said = False
    for i, thing in enumerate(things[1:], 1):
        before = things[:i]
        kinds = [s.kind for s in before]
        options = [
            f"{sides[thing, other]} {'it' if i == 1 else f'the {names.get(other.kind, other.kind)}'}"
            for other in before
            if (thing, other) in sides and kinds.count(other.kind) == 1
        ]
        if options and (not said or rng.random() < 0.75):
            wheres.append(options[int(rng.integers(len(options)))])
            said = True
        else:
            wheres.append(at(thing.place))
    return wheres


def _wrong(mention: Mention, sticker: Sticker) -> str:
    if mention.kind not in (None, sticker.kind):
        return f"there is no {mention.kind}; there is {a(sticker.kind)} {at(sticker.place)}"
    if mention.place not in (None, sticker.place):
        return f"the {sticker.kind} is {at(sticker.place)}, not {at(str(mention.place))}"
    if mention.size not in (None, sticker.size):
        return f"the {sticker.kind} is {sticker.size}, not {mention.size}"
    return ""


_KINDS = {tuple(name.split()): name for name in (*KINDS, ANY)}
_LONGEST = max(map(len, _KINDS))
_ARTICLES = ("a", "an", "another", "one", "the")
_RELATIONS = {tuple(words.split()): name for name, words in RELATION_WORDS.items()}


class _Reader:
    """A recursive-descent reader over the words of one sentence."""

    def __init__(self, text: str) -> None:
        self.words = re.findall(r"[,:;.]|[^\s,:;.]+", tidy(text).removesuffix("."))
        self.at = 0
        self.mentions: list[Mention] = []
        self.relations: list[tuple[int, str, int]] = []

    def sentence(self) -> Statement:
        ground = None
        if self.sees("on"):
            ground = self.ground()
            self.skip(",", ":")
        self.mention()
        free = self.sees("somewhere")
        self.skip("somewhere")
        while self.at < len(self.words) and not (self.sees("on") or (self.sees(",") and self.sees("on", ahead=1))):
            if not self.sees(",", "and", "with"):
                raise self.error("',' or 'and' or 'on'" if ground is None else "',' or 'and' or the end")
            self.skip(",")
            self.skip("and", "with")
            self.mention()
        if ground is None and self.at < len(self.words):
            self.skip(",")
            ground = self.ground()
        if self.at < len(self.words):
            raise self.error("the end")
        if len(self.mentions) == 1 and self.mentions[0].place is None and not free:
            self.mentions[0] = replace(self.mentions[0], place="middle")
        return Statement(ground, tuple(self.mentions), tuple(self.relations))

    def mention(self) -> None:
        self.take(*_ARTICLES)
        size, kind = self.what()
        index = len(self.mentions)
        self.mentions.append(Mention(kind, size))
        if self.sees("at", "in"):
            self.take("at", "in")
            self.take("the")
            place = next((p for p in PLACES if self.words[self.at : self.at + len(p.split())] == p.split()), None)
            if place is None:
                raise self.error(" or ".join(map(repr, PLACES)))
            self.at += len(place.split())
            self.mentions[index] = replace(self.mentions[index], place=place)
            return
        relation = self.relation()
        if relation is None:
            return
        if self.sees("it"):
            if index != 1:
                said = "no sticker was named before it" if index == 0 else f"{index} stickers were named before it"
                raise DataError(f"caption: word {self.number(self.at)} is 'it', but {said}; name the one that is meant")
            self.at += 1
            self.relations.append((1, relation, 0))
            return
        if self.sees("the"):
            start = self.at
            self.at += 1
            size, kind = self.what()
            found = [
                i for i, m in enumerate(self.mentions[:index]) if kind in (None, m.kind) and size in (None, m.size)
            ]
            if len(found) > 1:
                raise DataError(
                    f"caption: word {self.number(start)}: 'the {kind or ANY}' fits {len(found)} stickers named before; "
                    "give the place instead"
                )
            if found:
                self.relations.append((index, relation, found[0]))
                return
            self.at = start
        self.relations.append((index, relation, len(self.mentions)))
        self.mention()

    def what(self) -> tuple[str | None, str | None]:
        size = None
        if self.sees(*SIZES):
            size = self.take(*SIZES)
        for length in range(_LONGEST, 0, -1):
            kind = _KINDS.get(tuple(self.words[self.at : self.at + length]))
            if kind is not None:
                self.at += length
                return size, None if kind == ANY else kind
        word = self.words[self.at] if self.at < len(self.words) else ""
        raise self.error(f"{'a kind' if size else 'a size or a kind'} of sticker.{did_you_mean(word, KINDS)}")

    def relation(self) -> str | None:
        for words, name in _RELATIONS.items():
            if tuple(self.words[self.at : self.at + len(words)]) == words:
                self.at += len(words)
                return name
        return None

    def ground(self) -> str:
        self.take("on")
        self.take("a", "the")
        ground = self.take(*GROUNDS)
        self.take("ground")
        return ground

    def sees(self, *words: str, ahead: int = 0) -> bool:
        return self.at + ahead < len(self.words) and self.words[self.at + ahead] in words

    def skip(self, *words: str) -> None:
        self.at += self.sees(*words)

    def take(self, *words: str) -> str:
        if not self.sees(*words):
            raise self.error(" or ".join(map(repr, words)))
        self.at += 1
        return self.words[self.at - 1]

    def number(self, at: int) -> int:
        """Count the words up to a position, from 1; signs are none."""
        return 1 + sum(word.isalnum() for word in self.words[:at])

    def error(self, expected: str) -> DataError:
        found = f"{self.words[self.at]!r:.40}" if self.at < len(self.words) else "the end"
        return DataError(f"caption: word {self.number(self.at)} is {found}, expected {expected}")
