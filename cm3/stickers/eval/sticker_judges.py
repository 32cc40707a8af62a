"""Verdicts on what a model drew or said of a sheet, and shares over many of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import PIL.Image

from cm3.errors import DataError
from cm3.picture import as_jpeg
from cm3.stickers.sentences import describe, holds, parse
from cm3.stickers.verify import compare, read, why_not
from cm3.stickers.wishes import Wish
from cm3.stickers.world import Sheet, Split

Progress = Callable[[str, int, int], None]
"""Called with the task, how many of its cases are done, and how many there are."""
MISSED = 8
"""How many misses a report tells of each task."""
PARTS = ("kinds", "sizes", "places", "ground", "count")
"""Parts of a verdict on a picture (`cm3.stickers.verify.Verdict`)."""


@dataclass(frozen=True)
class Plan:
    """The way to measure a task: the number of cases, their seed and split, and settings of sampling."""

    n: int
    seed: int
    batch: int
    split: Split
    sampling: Mapping[str, Any]
    progress: Progress | None = None
    jpeg: int | None = None
    own_words: bool = False

    def given(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """Return a picture as it is given where the answer is words."""
        return picture if self.jpeg is None else as_jpeg(picture, self.jpeg)

    def tell(self, task: str, done: int, total: int | None = None) -> None:
        """Call `progress`, where there is one, with so many cases done."""
        if self.progress is not None:
            self.progress(task, done, total or self.n)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case.

    `why` is what is wrong, or "" where all is right; `number` that of stickers; `kind` what figures are told apart by;
    `shares` are in 0..1.
    """

    asked: str
    why: str
    number: int
    kind: str = ""
    shares: dict[str, float] = field(default_factory=dict)


def judge_picture(picture: PIL.Image.Image | None, caption: str, sheet: Sheet, kind: str = "") -> Outcome:
    """Judge a picture by what a caption of a sheet says. The parts are those that `kind`, its style, leaves not open:
    a pair leaves row or column open, and `loose` all but the number.

    None is no picture at all, and wrong.
    """
    number = len(sheet.stickers)
    if picture is None:
        return Outcome(caption, "no picture was made", number, kind, dict.fromkeys(("readable", *PARTS), 0.0))
    reading = read(picture)
    told = compare(reading, sheet)
    right = not why_not(parse(caption), reading)
    names = {"pair": ("ground", "count"), "loose": ("count",)}.get(kind, PARTS)
    shares = {"readable": float(reading.sheet is not None), **{name: getattr(told, name) for name in names}}
    return Outcome(caption, "" if right else told.why, number, kind, shares)


def judge_wish(picture: PIL.Image.Image | None, wish: Wish) -> Outcome:
    """Judge a picture by whether it grants a wish, which leaves all but the number open. None is no picture at all."""
    number = len(wish.wants)
    if picture is None:
        return Outcome(wish.text, "no picture was made", number, "wish", {"readable": 0.0, "count": 0.0})
    reading = read(picture)
    why = "; ".join(reading.problems) if reading.sheet is None else wish.why_not(reading.sheet)
    shares = {"readable": float(reading.sheet is not None), "count": float(len(reading.seen) == number)}
    return Outcome(wish.text, why, number, "wish", shares)


def judge_text(said: str, sheet: Sheet, kind: str = "") -> Outcome:
    """Judge words by whether they are exactly and completely true of a sheet; words of another form are wrong."""
    number = len(sheet.stickers)
    try:
        statement = parse(said)
    except DataError as error:
        nothing = dict.fromkeys(("readable", "kinds", "ground", "count"), 0.0)
        return Outcome(in_words(sheet), f"{said!r:.200}: {error}", number, kind, nothing)
    wanted, named = Counter(s.kind for s in sheet.stickers), Counter(m.kind or "" for m in statement.mentions)
    shares = {
        "readable": 1.0,
        "kinds": (wanted & named).total() / number,
        "ground": float(statement.ground == sheet.ground),
        "count": float(len(statement.mentions) == number),
    }
    why = holds(statement, sheet).why
    return Outcome(in_words(sheet), why and f"{said!r:.200}: {why}", number, kind, shares)


def in_words(sheet: Sheet) -> str:
    """Return the caption that names every sticker with its place, in reading order; the same for every call."""
    return describe(sheet, np.random.default_rng(0), in_order=True, style="places")


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the share of outcomes that are right, in all and by number of stickers, and the mean of every share."""
    shares: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        shares["exact"].append(not outcome.why)
    for outcome in sorted(outcomes, key=lambda o: o.number):
        shares[f"exact_{outcome.number}"].append(not outcome.why)
    for outcome in outcomes:
        for name, value in outcome.shares.items():
            shares[name].append(value)
    return means(shares)


def details_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the share that is right by kind, and the first misses in words."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(not outcome.why)
    missed = ({"asked": o.asked, "why": o.why} for o in outcomes if o.why)
    return {"by_kind": dict(sorted(means(kinds).items())), "missed": list(islice(missed, MISSED))}


def means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean of each list of values, none of them empty."""
    return {name: float(np.mean(some)) for name, some in values.items()}
