"""Wishes: sheets asked for in many wordings, as people type them.

    two cats                                        a lion on the left and an owl on the right, blue background
    draw me a dog next to a cat                     top left: a pizza, bottom right: a donut

Captions have one grammar, which is said and read (cm3/stickers/sentences.py). Wishes are only said: each comes with
what it asks for, which a sheet grants or not, and with a sheet that does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cm3.errors import ConfigError
from cm3.stickers.artwork import KINDS
from cm3.stickers.phrases import NUMBERS, a, at, listed
from cm3.stickers.world import (
    GROUNDS,
    PLACES,
    QUARTERS,
    SIZES,
    Sheet,
    Split,
    Sticker,
    pick,
    random_kind,
    split_of,
)

LEADS = ("draw", "draw me", "please draw", "paint", "show me", "give me", "i want", "make", "create") + tuple(
    f"{article}{picture} of" for article in ("a ", "") for picture in ("picture", "drawing")
)
"""Words before what is asked for."""
COLOURED = {
    "blue": ("sky", "navy"),
    "light blue": ("sky",),
    "dark blue": ("navy",),
    "green": ("mint",),
    "purple": ("lilac",),
    "violet": ("lilac",),
    "yellow": ("sand",),
}
"""Colours as people name them -> the grounds that are so."""
_ON = ("on a {} ground", "on {}", "on a {} ground", "with a {} ground", "{} ground")
_AT = ("at the {}", "{}", "in the {}", "in the {} corner", "at the {} corner", "on the {}")
_SIDES = (
    ("left", "right", ("on the {}", "{}", "on the {} side", "at the {}")),
    ("top", "bottom", ("at the {}", "on the {}")),
)
_BESIDE = ("{} next to {}", "{} beside {}", "{} and {} side by side", "{} and {} next to each other")
RELATED = {
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "underneath", "beneath"),
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
}
"""Relations as people name them."""
_PARTS = {
    2: ((2,), (2,), (1, 1)),
    3: ((3,), (3,), (2, 1), (1, 2), (1, 1, 1)),
    4: ((4,), (4,), (2, 2), (3, 1), (1, 3), (2, 1, 1), (1, 2, 1), (1, 1, 2)),
}


@dataclass(frozen=True)
class Want:
    """One sticker that is asked for; None is any size."""

    kind: str
    size: str | None = None
    places: tuple[str, ...] = PLACES


@dataclass(frozen=True)
class Wish:
    """Some words, and what they ask for: a ground among some, each of these stickers, and relations between them, each
    as (i, any of these, j)."""

    text: str
    grounds: tuple[str, ...]
    wants: tuple[Want, ...]
    relations: tuple[tuple[int, tuple[str, ...], int], ...] = ()

    def why_not(self, sheet: Sheet) -> str:
        """Say what a sheet has otherwise than asked, or "" where it grants all."""
        if sheet.ground not in self.grounds:
            return f"the ground is {sheet.ground}, not {' or '.join(self.grounds)}"
        if len(sheet.stickers) != len(self.wants):
            return f"there are {len(sheet.stickers)} stickers, not {len(self.wants)}"
        related = set(sheet.relations())
        why = ""
        for things in itertools.permutations(sheet.stickers):
            wrong = next((w for want, s in zip(self.wants, things, strict=True) if (w := _wrong(want, s))), "")
            for i, any_of, j in self.relations:
                if not wrong and not any((things[i], name, things[j]) in related for name in any_of):
                    wrong = f"the {things[i].kind} is not {' or '.join(any_of)} the {things[j].kind}"
            if not wrong:
                return ""
            if not why or _kinds(self.wants, things):
                why = wrong
        return why


def random_wish(rng: np.random.Generator, split: Split, number: int) -> tuple[Wish, Sheet, tuple[int, ...]]:
    """Return a wish for so many stickers, a sheet of a split that grants it, and the order in which its stickers are
    named.

    Raises `ConfigError` for a number out of range.
    """
    if number not in _FORMS:
        raise ConfigError(f"number={number}: must be 1 to {len(QUARTERS)} stickers")
    while True:
        body, wants, things, relations = _FORMS[number][int(rng.integers(len(_FORMS[number])))](rng, number)
        ground = pick(rng, tuple(GROUNDS))
        sheet = Sheet(ground, tuple(things))
        if split_of(sheet) == split:
            break
    text = body
    grounds: tuple[str, ...] = tuple(GROUNDS)
    if rng.random() < 0.5:
        names = [(ground, (ground,))] * 3 + [(name, of) for name, of in COLOURED.items() if ground in of]
        name, grounds = names[int(rng.integers(len(names)))]
        said = pick(rng, _ON).format(name)
        comma = "," if said.startswith(name) or rng.random() < 0.3 else ""
        text = f"{body}{comma} {said}"
    if rng.random() < 0.25:
        text = f"{pick(rng, LEADS)} {text}"
    if rng.random() < 0.1:
        text = f"{text}."
    order = tuple(sheet.stickers.index(thing) for thing in things)
    return Wish(text, grounds, tuple(wants), tuple(relations)), sheet, order


_Asked = tuple[str, list[Want], list[Sticker], list[tuple[int, tuple[str, ...], int]]]
"""Words, what they ask for, stickers that grant it in the order of the words, and relations."""


def _wrong(want: Want, sticker: Sticker) -> str:
    if want.kind != sticker.kind:
        return f"there is {a(sticker.kind)} and no {want.kind}"
    if sticker.place not in want.places:
        return f"the {sticker.kind} is {at(sticker.place)}, not {' or '.join(map(at, want.places))}"
    return "" if want.size in (None, sticker.size) else f"the {sticker.kind} is {sticker.size}, not {want.size}"


def _kinds(wants: Sequence[Want], things: Sequence[Sticker]) -> bool:
    return all(want.kind == thing.kind for want, thing in zip(wants, things, strict=True))


def _places(rng: np.random.Generator, number: int) -> list[str]:
    return [QUARTERS[i] for i in rng.permutation(len(QUARTERS))[:number]]


def _sized(rng: np.random.Generator, number: int) -> tuple[list[str], list[str | None]]:
    """Return sizes, and those that are said: all or none."""
    sizes = [pick(rng, SIZES) for _ in range(number)]
    return sizes, list(sizes) if rng.random() < 0.4 else [None] * number


def _name(size: str | None, kind: str, bare: bool = False) -> str:
    name = f"{size} {kind}" if size else kind
    return name if bare else a(name)


def _one(rng: np.random.Generator, number: int) -> _Asked:
    """Return a wish for one sticker, which is in the middle where no place is said."""
    kind, (sizes, said), bare = random_kind(rng), _sized(rng, 1), rng.random() < 0.3
    name = _name(said[0], kind, bare)
    place = pick(rng, PLACES) if rng.random() < 0.5 else "middle"
    body, placed = name, True
    if place != "middle":
        body = f"{name} {pick(rng, _AT).format(place)}"
    elif rng.random() < 0.3:
        body = f"{name} {pick(rng, ('in the middle', 'at the middle'))}"
    else:
        placed = False
    return body, [Want(kind, said[0], (place,) if placed else PLACES)], [Sticker(place, kind, sizes[0])], []


def _listed(rng: np.random.Generator, number: int) -> _Asked:
    """Return a wish for several by name, with or without their places."""
    kinds, places = [random_kind(rng) for _ in range(number)], _places(rng, number)
    sizes, said = _sized(rng, number)
    bare, placed = rng.random() < 0.35, rng.random() < 0.5
    names = [_name(size, kind, bare) for size, kind in zip(said, kinds, strict=True)]
    if placed:
        where, chance = pick(rng, _AT), rng.random()
        spots = [where.format(place) for place in places]
        order = "{1}: {0}" if chance < 0.2 else "{1} {0}" if chance < 0.4 else "{0} {1}"
        names = [order.format(name, spot) for name, spot in zip(names, spots, strict=True)]
    chance = rng.random()
    body = listed(names) if chance < 0.6 else ", ".join(names) if chance < 0.85 else " and ".join(names)
    wants = [Want(k, s, (p,) if placed else PLACES) for k, s, p in zip(kinds, said, places, strict=True)]
    return body, wants, [Sticker(p, k, s) for p, k, s in zip(places, kinds, sizes, strict=True)], []


def _counted(rng: np.random.Generator, number: int) -> _Asked:
    """Return a wish for some of a kind by their number, "two cats and a dog", or for one in each corner."""
    parts = _PARTS[number][int(rng.integers(len(_PARTS[number])))]
    kinds = [random_kind(rng) for _ in parts]
    sizes, said = _sized(rng, len(parts))
    corners = parts == (4,) and rng.random() < 0.4
    names, wants, things = [], [], []
    places = _places(rng, number)
    for part, kind, size, told in zip(parts, kinds, sizes, said, strict=True):
        many = KINDS[kind].plural
        names.append(f"{NUMBERS[part]} {f'{told} {many}' if told else many}" if part > 1 else _name(told, kind))
        for _ in range(part):
            wants.append(Want(kind, told))
            things.append(Sticker(places.pop(), kind, told or (size if corners else pick(rng, SIZES))))
    body = listed(names) if rng.random() < 0.8 else " and ".join(names)
    if corners:
        each = pick(rng, ("in each corner", "in every corner"))
        body = f"{_name(said[0], kinds[0])} {each}" if rng.random() < 0.7 else f"{body}, one {each}"
    return body, wants, things, []


def _sided(rng: np.random.Generator, number: int) -> _Asked:
    """Return a wish for two of which only sides are said; they stand in one row or column."""
    first, second, ways = _SIDES[int(rng.integers(len(_SIDES)))]
    way, other = pick(rng, ways), pick(rng, ("top", "bottom") if first == "left" else ("left", "right"))
    sides = [first, second] if rng.random() < 0.5 else [second, first]
    kinds, (sizes, said) = [random_kind(rng), random_kind(rng)], _sized(rng, 2)
    names = [f"{_name(t, k)} {way.format(side)}" for t, k, side in zip(said, kinds, sides, strict=True)]
    within = [tuple(p for p in QUARTERS if side in p.split()) for side in sides]
    things = [
        Sticker(next(p for p in places if other in p.split()), k, s)
        for places, k, s in zip(within, kinds, sizes, strict=True)
    ]
    wants = [Want(k, t, places) for k, t, places in zip(kinds, said, within, strict=True)]
    return pick(rng, (" and ", ", ")).join(names), wants, things, []


def _related(rng: np.random.Generator, number: int) -> _Asked:
    """Return a wish for two, one told from the other."""
    sheet_places = _places(rng, 1)
    row, column = sheet_places[0].split()
    kinds, (sizes, said) = [random_kind(rng), random_kind(rng)], _sized(rng, 2)
    names = [_name(t, k) for t, k in zip(said, kinds, strict=True)]
    beside = rng.random() < 0.4
    if beside or rng.random() < 0.4:
        other = f"{row} {'right' if column == 'left' else 'left'}"
        relation = "left of" if column == "left" else "right of"
    else:
        other = f"{'bottom' if row == 'top' else 'top'} {column}"
        relation = "above" if row == "top" else "below"
    any_of = ("left of", "right of") if beside else (relation,)
    body = pick(rng, _BESIDE).format(*names) if beside else f"{names[0]} {pick(rng, RELATED[relation])} {names[1]}"
    things = [Sticker(p, k, s) for p, k, s in zip((sheet_places[0], other), kinds, sizes, strict=True)]
    return body, [Want(k, t) for k, t in zip(kinds, said, strict=True)], things, [(0, any_of, 1)]


_FORMS: dict[int, tuple[Callable[[np.random.Generator, int], _Asked], ...]] = {
    1: (_one,),
    2: (_listed, _counted, _sided, _related, _related),
    3: (_listed, _counted),
    4: (_listed, _counted),
}
