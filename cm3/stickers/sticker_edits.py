"""Edits of a sheet: one change, the words that ask for it, and the sheet that it leads to.

    add       "add a large yellow star at the top right"     resize    "make the panda larger"
    remove    "remove the panda"                             ground    "change the ground to mint"
    replace   "replace the panda with a taxi"                recolour  "paint the star green"
    move      "move the panda to the bottom left"

An edit names a sticker so that no other is meant (`cm3.stickers.phrases.pointing`). A replacement is as large as what
it replaces unless its size is said. Both sheets are of one split, so a sheet to be edited or to be reached in testing
is never seen in training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cm3.errors import ConfigError, DataError, did_you_mean
from cm3.stickers.artwork import COLOURS
from cm3.stickers.phrases import a, at, pointing
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
    random_sheet,
    split_of,
)

WORDINGS: dict[str, tuple[str, ...]] = {
    "add": ("add {a} {at}", "put {a} {at}"),
    "remove": ("remove {the}", "take {the} away"),
    "replace": ("replace {the} with {a}", "swap {the} for {a}"),
    "move": ("move {the} to the {place}", "bring {the} to the {place}"),
    "resize": ("make {the} {change}", "make {the} {size}"),
    "ground": ("change the ground to {ground}", "make the ground {ground}"),
    "recolour": ("paint {the} {colour}", "make {the} {colour}"),
}
"""Every wording of each kind of edit."""
EDITS = tuple(WORDINGS)
"""The kinds of edit."""
_DRAWN = 100
"""How many stickers are drawn for one sheet to find one that leads to a sheet of the split."""
_TRIES = 200


class Change(NamedTuple):
    """A change of a kind: `old` goes, `new` comes, and the ground turns to `ground`; None where there is no such."""

    kind: str
    old: Sticker | None = None
    new: Sticker | None = None
    ground: str | None = None


@dataclasses.dataclass(frozen=True)
class Edit:
    """A sheet, an instruction, and the sheet that it asks for."""

    kind: str
    before: Sheet
    instruction: str
    after: Sheet


def random_edit(
    rng: np.random.Generator,
    split: Split = "train",
    kind: str | None = None,
    before: Sheet | None = None,
    number: int | None = None,
) -> Edit:
    """Return an edit of a kind (else any, uniformly) whose two sheets are of a split, the first with so many stickers
    where that is given; or it is `before`, the sheet that another edit of that split led to.

    With either, a kind that there is no change of is drawn again. Raises `ConfigError` for an unknown kind, and for a
    sheet that nothing leads from to another one of the split.
    """
    if kind is not None and kind not in EDITS:
        raise ConfigError(f"edit kind={kind!r:.60}: must be one of {', '.join(EDITS)}.{did_you_mean(kind, EDITS)}")
    kind, tries = kind or pick(rng, EDITS), 0
    while True:
        sheet = before or random_sheet(rng, split, number)
        for change in _changes(sheet, kind, rng):
            after = apply(sheet, change)
            if split_of(after) == split:
                return Edit(kind, sheet, say_change(sheet, change, rng), after)
        if before is not None or number is not None:
            kind, tries = pick(rng, EDITS), tries + (before is not None)
        if tries > _TRIES:
            raise ConfigError(f"sheet {sheet.key}: no edit was found that leads to a sheet of split {split!r}")


def apply(sheet: Sheet, change: Change) -> Sheet:
    """Return a sheet after a change.

    Raises `DataError` where what is to go is not there, and `ConfigError` where the change leads to no sheet.
    """
    if change.old is not None and change.old not in sheet.stickers:
        raise DataError(f"sheet {sheet.key}: has no {change.old.size} {change.old.kind} at the {change.old.place}")
    kept = [s for s in sheet.stickers if s != change.old]
    return Sheet(change.ground or sheet.ground, (*kept, *([change.new] if change.new else [])))


def kept_order(before: Sheet, after: Sheet) -> list[int]:
    """Return the indices of the stickers after a change in the order of those before: what comes is in the place of
    what goes, or last."""
    come = [i for i, s in enumerate(after.stickers) if s not in before.stickers]
    order: list[int] = []
    for s in before.stickers:
        if s in after.stickers:
            order.append(after.stickers.index(s))
        elif come:
            order.append(come.pop())
    return [*order, *come]


def say_change(sheet: Sheet, change: Change, rng: np.random.Generator) -> str:
    """Return a change of a sheet in words. Raises `DataError` for a sticker that no words tell from the others."""
    said = slots_of(sheet, change, rng)
    return pick(rng, WORDINGS[change.kind]).format(**said)


def slots_of(sheet: Sheet, change: Change, rng: np.random.Generator) -> dict[str, str]:
    """Return the words of a change of a sheet by the slots of wordings, those alone that it fills.

    Raises `DataError` for a sticker that no words tell from the others.
    """
    _, old, new, ground = change
    said = {"ground": ground} if ground else {}
    if old:
        which = pointing(sheet, old, rng)
        if which is None:
            raise DataError(f"sheet {sheet.key}: no words tell the {old.kind} {at(old.place)} from the others")
        said["the"] = which.the()
    if new:
        said["a"] = a(new.kind if old and old.size == new.size else f"{new.size} {new.kind}")
        said |= {"place": new.place, "at": at(new.place), "size": new.size, "colour": new.about.colour}
        said["change"] = "larger" if new.size == "large" else "smaller"
    return said


def _changes(sheet: Sheet, kind: str, rng: np.random.Generator) -> Iterator[Change]:
    """Yield the changes of a kind in any order; of those that bring a sticker, some."""
    kinds = [s.kind for s in sheet.stickers]
    plain = [s for s in sheet.stickers if pointing(sheet, s, rng)]
    alone = len(kinds) == 1
    free = [place for place in (PLACES if alone else QUARTERS) if sheet.at(place) is None]
    if kind in ("add", "replace"):
        places = [place for place in free if place in QUARTERS and sheet.at("middle") is None]
        for _ in range(_DRAWN if (places if kind == "add" else plain) else 0):
            name, size = random_kind(rng), pick(rng, SIZES)
            if name in kinds:
                continue
            if kind == "add":
                yield Change(kind, None, Sticker(pick(rng, places), name, size))
            else:
                old = plain[int(rng.integers(len(plain)))]
                yield Change(kind, old, Sticker(old.place, name, size))
        return
    found: list[Change] = []
    if kind == "ground":
        found = [Change(kind, ground=ground) for ground in GROUNDS if ground != sheet.ground]
    for s in plain:
        if kind == "remove" and not alone:
            found.append(Change(kind, s))
        elif kind == "move":
            found += [Change(kind, s, dataclasses.replace(s, place=place)) for place in free]
        elif kind == "resize":
            found += [Change(kind, s, dataclasses.replace(s, size=size)) for size in SIZES if size != s.size]
        elif kind == "recolour" and s.about.shape:
            names = [f"{colour} {s.about.shape}" for colour in COLOURS if colour != s.about.colour]
            found += [Change(kind, s, dataclasses.replace(s, kind=name)) for name in names if name not in kinds]
    yield from (found[i] for i in rng.permutation(len(found)))
