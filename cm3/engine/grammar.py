"""Grammar: the plan of what a request produces, and the ids that may come next.

    Force(ids)                 these ids, not sampled: `<mask:0>`, `<break>`, `<eoss>`
    Codes(cells)               exactly these image codes, each in its cell of the grid; where a cell is 0, the mark of a
                               row is written and not sampled
    FreeText(limit, end)       text ids until one of `end`; after `limit` text ids the first of `end` is forced
    Choice(ids)                one of these ids
    Interleaved(limit, ...)    text, with a picture of exactly these codes wherever `<break>` is written, until an end

`Interleaved` becomes steps of the other kinds as it goes, so what is drawn in it is drawn as theirs is:

    "chameleon"    FreeText ( <break> Codes <eoss> FreeText )* end          with marks, those of the size behind <break>
    "cm3"          FreeText ( <break> Codes Choice(<break>, end) FreeText )* end

A plan is a tuple of those. A `Cursor` walks one: it says which ids are allowed next, as ranges of the vocabulary (never
a mask of the vocabulary's size), and writes down what was produced. Hence an image is exactly its number of codes, text
ends, and an infilled span closes, whatever the model's logits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cm3.errors import RequestError, shown, whole_number
from cm3.vocab import Tokens, Vocab

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Force:
    """Ids that are written without being sampled; `cells` as in `Tokens`, zeros by default."""

    ids: tuple[int, ...]
    cells: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _make_whole(self, "ids")
        if self.cells is not None:
            _make_whole(self, "cells")
            if len(self.cells) != len(self.ids):
                raise RequestError(
                    f"Force: {len(self.ids)} ids and {len(self.cells)} cells; give one cell an id, or none"
                )


@dataclass(frozen=True)
class Codes:
    """Exactly the image codes of `cells`. As in `Tokens` a cell is 1 + the raster index of a code in its grid; 0 stands
    for the mark behind a row of codes, of a vocabulary with marks."""

    cells: tuple[int, ...]
    guided: bool = True

    def __post_init__(self) -> None:
        _make_whole(self, "cells")
        if not self.cells:
            raise RequestError("Codes(cells=()): name at least one cell to fill")
        if min(self.cells) < 0 or not self.cells[0]:
            raise RequestError(
                f"Codes: cell {min(self.cells)}: cells are 1 + raster index, at least 1, or 0 for a mark behind codes"
            )

    @classmethod
    def image(cls, number: int, guided: bool = True) -> Codes:
        """Return a whole image of `number` codes, in raster order."""
        return cls(tuple(range(1, number + 1)), guided)


@dataclass(frozen=True)
class FreeText:
    """Between `min_tokens` and `limit` text ids, then one of `end`.

    `end` are special ids (`<eoss>`, `<break>`, `</s>`), the first of which is forced when `limit` text ids are there.
    """

    limit: int
    end: tuple[int, ...]
    min_tokens: int = 0
    guided: bool = False

    def __post_init__(self) -> None:
        _make_whole(self, "end")
        for name, low, high in (("limit", 1, None), ("min_tokens", 0, self.limit)):
            number = whole_number(f"FreeText.{name}", getattr(self, name), low, high, RequestError)
            object.__setattr__(self, name, number)
        if not self.end:
            raise RequestError("FreeText(end=()): name at least one id that ends the text, such as <eoss>")


@dataclass(frozen=True)
class Choice:
    """One of `ids`, special ids."""

    ids: tuple[int, ...]
    guided: bool = False

    def __post_init__(self) -> None:
        _make_whole(self, "ids")
        if not self.ids:
            raise RequestError("Choice(ids=()): name at least one id to choose")


@dataclass(frozen=True)
class Interleaved:
    """Words and pictures until one of `end`: at most `limit` text ids and `pictures` pictures of `cells` each, as in
    `Codes`.

    A picture begins wherever `<break>` is drawn; it is not offered where there are `pictures` of them. The first of
    `end` is forced when `limit` text ids are there. `min_tokens` text ids come before all else. `guided` is of the
    pictures; text is not. `behind` are written behind `<break>` without being sampled: the marks of a picture's size.
    In a picture the second stream of a request reads that picture alone behind its prompt, without `<break>` where
    there are marks, and the third reads all pictures and no words.
    """

    limit: int
    end: tuple[int, ...]
    cells: tuple[int, ...]
    pictures: int
    min_tokens: int = 0
    guided: bool = True
    behind: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _make_whole(self, "end")
        _make_whole(self, "behind")
        object.__setattr__(self, "cells", Codes(self.cells).cells)
        for name, low in (("limit", 1), ("pictures", 0), ("min_tokens", 0)):
            number = whole_number(f"Interleaved.{name}", getattr(self, name), low, None, RequestError)
            object.__setattr__(self, name, number)
        if not self.end:
            raise RequestError("Interleaved(end=()): name at least one id that ends it, such as </s>")


Step = Force | Codes | FreeText | Choice | Interleaved
Free = Codes | FreeText | Choice
"""Steps in which ids are drawn."""


def _make_whole(step: Step, name: str) -> None:
    """Set a field of whole numbers to a tuple of them."""
    given = getattr(step, name)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise RequestError(f"{type(step).__name__}.{name}={shown(given)}: must be a tuple of integers")
    where = f"{type(step).__name__}.{name}"
    object.__setattr__(step, name, tuple(whole_number(where, i, -(2**63), 2**63 - 1, RequestError) for i in given))


def size(step: Step) -> int:
    """Return the most tokens that a step writes."""
    if isinstance(step, Force):
        return len(step.ids)
    if isinstance(step, Choice):
        return 1
    if isinstance(step, Interleaved):
        return step.limit + 1 + step.pictures * (len(step.cells) + len(step.behind) + 2)
    return len(step.cells) if isinstance(step, Codes) else step.limit + 1


def fed(plan: tuple[Step, ...]) -> int:
    """Return the most tokens of a plan that the model has to read: all before the last one that is sampled."""
    free = [i for i, step in enumerate(plan) if not isinstance(step, Force)]
    if not free:
        return 0
    last = plan[free[-1]]
    draws = size(last) - 1 if isinstance(last, FreeText | Interleaved) else size(last)
    if isinstance(last, Codes):
        draws -= next(i for i, cell in enumerate(reversed(last.cells)) if cell)  # marks at the end
    return sum(size(step) for step in plan[: free[-1]]) + draws - 1


def check_plan(plan: tuple[Step, ...], vocab: Vocab, grid: tuple[int, int] | None = None) -> None:
    """Raise RequestError where a plan does not fit the vocabulary or the image grid (rows, columns)."""
    if not plan:
        raise RequestError("plan=(): a request needs at least one of Force, Codes, FreeText, Choice, Interleaved")
    for step in plan:
        if not isinstance(step, Step):
            raise RequestError(f"plan: {type(step).__name__} is not one of Force, Codes, FreeText, Choice, Interleaved")
        if isinstance(step, Interleaved) and any(not isinstance(s, Force) for s in plan if s is not step):
            raise RequestError("plan: Interleaved stands with Force alone; ask for the rest in a request of its own")
        for i in step.end if isinstance(step, FreeText | Interleaved) else step.ids if isinstance(step, Choice) else ():
            if not 0 <= i < vocab.text_start:
                name = type(step).__name__
                raise RequestError(f"{name}: end id {i} is not a special id; give one below {vocab.text_start}")
        if isinstance(step, Interleaved) and vocab.brk in step.end:
            raise RequestError("Interleaved: <break> begins a picture, so it cannot be its end; give </s>")
        if isinstance(step, Interleaved) and step.behind != vocab.begins[1:]:
            raise RequestError(f"Interleaved.behind={step.behind}: must be the marks of a size, {vocab.begins[1:]}")
        if isinstance(step, Force):
            for i in step.ids:
                if not 0 <= i < vocab.size:
                    raise RequestError(f"Force: id {i} is outside the vocabulary, 0 to {vocab.size - 1}")
        if isinstance(step, Codes | Interleaved) and vocab.marks is None and not all(step.cells):
            raise RequestError(f"{type(step).__name__}: cell 0 is a mark behind codes, and this vocabulary has none")
        highest = max(getattr(step, "cells", None) or (0,))
        if grid is not None and highest > grid[0] * grid[1]:
            raise RequestError(f"plan: cell {highest} is outside the model's {grid[0]} x {grid[1]} grid of codes")


def ranges_of(step: Free, vocab: Vocab, open_only: bool = False) -> Ranges:
    """Return the allowed ids of a step, as ranges (start, stop); `open_only` leaves out the ids that end a text."""
    if isinstance(step, Codes):
        return ((vocab.image_start, vocab.size),)
    if isinstance(step, Choice):
        return tuple((i, i + 1) for i in sorted(set(step.ids)))
    ends = () if open_only else tuple((i, i + 1) for i in sorted(set(step.end)))
    return (*ends, (vocab.text_start, vocab.image_start))


def ids_at(ranges: Ranges, columns: Tensor) -> Tensor:
    """Return the id of each column, where the columns are the ids of `ranges` in order; -1 stays."""
    ids, before = columns, 0
    for start, stop in ranges:
        ids = torch.where(columns >= before, columns + (start - before), ids)
        before += stop - start
    return ids


def _until_mark(cells: tuple[int, ...], start: int) -> int:
    """Return the place of the next mark in the cells of a picture, or the end."""
    return cells.index(0, start) if 0 in cells[start:] else len(cells)


@dataclass(frozen=True)
class _Rest:
    """The rest of an `Interleaved`, which depends on what ended the step before it."""

    of: Interleaved


class Cursor:
    """A place in a plan, with what was written so far. Forced tokens are written as soon as they are reached.

    `ids` and `cells`: everything produced. `done`: nothing is left to sample. Otherwise `at` is the index in the plan
    of the free step at hand, `ranges` its allowed ids and `cell` the cell of the next token.
    `spans`, `logprobs`, `reasons`: one per free step begun; a span leaves out the id that ended it, a log-probability
    counts that id where it was sampled; that of a picture has its marks. Of an `Interleaved` there is one for each step
    that it became. `picture`: where in `ids` the picture at hand begins, with its `<break>`, or behind that with the
    marks of its size; None where there is none.
    """

    def __init__(self, plan: tuple[Step, ...], vocab: Vocab) -> None:
        self.ids: list[int] = []
        self.cells: list[int] = []
        self.bounds: list[list[int]] = []
        self.logprobs: list[float] = []
        self.reasons: list[str] = []
        self.done = False
        self.cell = 0
        self.ranges: Ranges = ()
        self.picture: int | None = None
        self._stop = 0
        self._steps: list[Step | _Rest] = list(plan)
        self._vocab = vocab
        self.at = -1
        self._next_step()

    @property
    def step(self) -> Free:
        """Return the free step at hand; only while not `done`."""
        step = self._steps[self.at]
        assert isinstance(step, Free)
        return step

    @property
    def tokens(self) -> Tokens:
        """Return everything produced."""
        return Tokens.of(self.ids, self.cells)

    @property
    def spans(self) -> tuple[Tokens, ...]:
        """Return the ids of each free step, without the id that ended it."""
        tokens = self.tokens
        return tuple(tokens.slice(start, stop) for start, stop in self.bounds)

    @property
    def left(self) -> int:
        """Count the ids that can be drawn at most before anything but them is written or other ids are allowed."""
        step, length = self.step, self.bounds[-1][1] - self.bounds[-1][0]
        if isinstance(step, Codes):
            return self._stop - length
        if isinstance(step, Choice):
            return 1
        return (step.min_tokens if length < step.min_tokens else step.limit) - length

    def next_cells(self, count: int) -> tuple[int, ...]:
        """Return the cells of the next `count` <= `left` ids."""
        step, length = self.step, self.bounds[-1][1] - self.bounds[-1][0]
        return step.cells[length : length + count] if isinstance(step, Codes) else (0,) * count

    @property
    def fixed(self) -> bool:
        """Tell whether `left` ids will be drawn whatever they are: no text may end before."""
        return isinstance(self.step, Codes) or (isinstance(self.step, FreeText) and len(self.ranges) == 1)

    def accept(self, token: int, logprob: float = 0.0) -> bool:
        """Write a sampled id, then whatever is forced after it. Returns whether the next id is drawn as this one was:
        from the same ids, with nothing written between."""
        step, before = self.step, (self.at, self.ranges, self._stop)
        assert any(start <= token < stop for start, stop in self.ranges), "an id outside the allowed ranges"
        self._write(token, self.cell)
        self.logprobs[-1] += logprob
        bound = self.bounds[-1]
        if isinstance(step, Codes):
            bound[1] += 1
            while self._stop == bound[1] - bound[0] < len(step.cells):
                self._mark(step, bound)
            length = bound[1] - bound[0]
            if length == len(step.cells):
                self._close("codes")
            else:
                self.cell = step.cells[length]
        elif isinstance(step, Choice) or token < self._vocab.text_start:
            self._close("end")
        else:
            bound[1] += 1
            length = bound[1] - bound[0]
            if length == step.limit:
                self._write(step.end[0], 0)
                self._close("limit")
            elif length == step.min_tokens:
                self.ranges = ranges_of(step, self._vocab)
        return not self.done and (self.at, self.ranges, self._stop) == before

    def _mark(self, step: Codes, bound: list[int]) -> None:
        assert self._vocab.marks is not None, "as check_plan says"
        self._write(self._vocab.marks.row, 0)
        bound[1] += 1
        self._stop = _until_mark(step.cells, bound[1] - bound[0])

    def _close(self, reason: str) -> None:
        self.reasons.append(reason)
        self._next_step()

    def _next_step(self) -> None:
        self.at += 1
        while self.at < len(self._steps):
            step = self._steps[self.at]
            if isinstance(step, Interleaved | _Rest):
                self._steps[self.at : self.at + 1] = self._unfolded(step)
                continue
            if not isinstance(step, Force):
                self.bounds.append([len(self.ids)] * 2)
                self.logprobs.append(0.0)
                self.cell, self.picture = 0, None
                if isinstance(step, Codes):
                    begins = self._vocab.begins
                    self.cell, self._stop = step.cells[0], _until_mark(step.cells, 0)
                    if tuple(self.ids[-len(begins) :]) == begins:
                        self.picture = len(self.ids) - max(1, len(begins) - 1)
                closed = isinstance(step, FreeText) and step.min_tokens > 0
                self.ranges = ranges_of(step, self._vocab, open_only=closed)
                return
            for token, cell in zip(step.ids, step.cells or (0,) * len(step.ids), strict=True):
                self._write(token, cell)
            self.at += 1
        self.done = True

    def _unfolded(self, step: Interleaved | _Rest) -> list[Step | _Rest]:
        """Return the steps that an `Interleaved`, or the rest of one, becomes by what was drawn last."""
        v = self._vocab
        if isinstance(step, Interleaved):
            ends = (*step.end, v.brk) if step.pictures else step.end
            return [FreeText(step.limit, ends, min(step.min_tokens, step.limit)), _Rest(step)]
        whole, drawn = step.of, self._steps[self.at - 1]
        if self.ids[-1] != v.brk:
            return []
        if isinstance(drawn, Choice):
            return [replace(whole, min_tokens=1)]
        start, stop = self.bounds[-1]
        begun, picture = Force(whole.behind), Codes(whole.cells, whole.guided)
        rest = replace(whole, limit=whole.limit - (stop - start), pictures=whole.pictures - 1, min_tokens=0)
        if v.grammar == "chameleon":
            return [begun, picture, Force((v.eoss,)), rest]
        return [begun, picture, Choice((v.brk, *whole.end)), _Rest(rest)]

    def _write(self, token: int, cell: int) -> None:
        self.ids.append(token)
        self.cells.append(cell)
