"""Jacobi decoding: several codes of a request drawn in one pass, the same codes that plain decoding draws.

    reads    last code | guess 1   guess 2   guess 3        a window of 4 tokens, in every stream of the request
    draws    code 1    | code 2    code 3    code 4         draw t with its own random number u(seed, t)
    keeps    code 1, then code 2 if guess 1 was code 1, then code 3 if guess 2 was code 2 besides, ...
    guesses  what was drawn and not kept; at the end of the window the code above in the grid

Why the codes are those of plain decoding: there code t is a function f(codes before it, u(seed, t)) of what is before
it and of a random number that belongs to (seed, t). A window draws f(guesses before it, u(seed, t)) at every place. The
first place has no guess before it, so its code is right. A place whose guesses before it all equal the codes drawn
there had the right codes before it, so its code is right too; these are kept, and no other. By induction every code
that is kept is the one that plain decoding draws, whatever the guesses, the window, and the rest of the batch. Hence it
is distributed as in plain decoding, given what is before it, under guidance, plausibility, top-p and any temperature: f
is all of these. Only rounding differs, as it does between batches of different sizes.

This is Jacobi's iteration on the equations code t = f(codes before t, u(t)), and speculative Jacobi decoding (Teng et
al. 2024, arXiv 2410.01699) with a coupling of each pass with the next (So et al. 2025, arXiv 2510.24211): as u(t)
stays, a place draws the same code again unless its distribution moved across u(t). So what is drawn behind the first
wrong guess is a good guess for the next pass (adaptive continuation). Maximal and Gumbel couplings kept about as much
(docs/speed.md), and would give other codes than plain decoding.

A wider pass takes longer. With "auto" the width is the one that promises most codes for the time, by a law of the cost
of a pass and by how many codes the requests had of their passes so far. Nothing is timed: the width follows from the
rows and from what was drawn, so the same requests give the same bytes, whatever else the machine does.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cm3.engine.grammar import Codes, Cursor, Step
from cm3.errors import ConfigError, shown, whole_number
from cm3.model.decoder import Decoder
from cm3.vocab import Vocab

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Windows that are chosen from, in tokens a row."""
MOST = 1024
"""Widest window that may be asked for."""
_PASS = 20
"""Cost of a pass, in tokens, beside one for each row and one for each token of a row. 14 to 29 was measured
(docs/decisions/0021-parallel-decoding.md)."""
_WORTH = 1.1
"""Codes for the cost, in those of plain decoding, that a window has to promise: to lay one out is not counted."""
_AGAIN = 32
"""Passes after which it is asked anew whether a window pays, where none did."""
_FEW, _USUAL = 5.0, 8
"""Codes that an endless window is taken to keep at first, 3.8 to 6 being measured (docs/speed.md), and the places of
the passes that are taken to have told so."""
_GRID = np.geomspace(1, 1024, 200)
_MEMORY = 0.95
"""Weight of the past when a pass is added to what a request had of its passes."""


def _kept(places: Any, most: Any) -> Any:
    """Return the codes that a pass keeps of so many places: within 4% of what was measured from 4 places to 64."""
    return 1 + (most - 1) * (1 - np.exp((1 - places) / (2 * most)))


class Pace:
    """The codes that passes of a request keep, by what an endless window would keep, which is learnt."""

    def __init__(self) -> None:
        self._kept, self._places = self._prior = float(_kept(_USUAL, _FEW)), float(_USUAL)
        self._most: float | None = None

    @property
    def most(self) -> float:
        """Return the codes that an endless window would keep."""
        if self._most is None:
            self._most = float(np.interp(self._kept, _kept(self._places, _GRID), _GRID))
        return self._most

    def add(self, places: int, kept: int) -> None:
        """Take a pass into account. One of a single place says nothing, and lets what was learnt fade."""
        new = (kept, places) if places > 1 else self._prior
        self._kept += (1 - _MEMORY) * (new[0] - self._kept)
        self._places += (1 - _MEMORY) * (new[1] - self._places)
        self._most = None


def check_parallel(setting: int | str) -> int | str:
    """Return the setting of a window, "auto" or a number. Raises ConfigError for another."""
    if isinstance(setting, str):
        if setting != "auto":
            raise ConfigError(f"parallel={shown(setting)}: must be 'auto', or a number of codes from 0 to {MOST}")
        return setting
    return whole_number("parallel", setting, 0, MOST)


class Window:
    """The choice of how many tokens the rows of a pass read. `setting`: "auto", or a width; 0 and 1 are plain."""

    def __init__(self, setting: int | str, decoder: Decoder) -> None:
        """Raise ConfigError for a setting that is none."""
        self._setting, self._decoder, self.hold = check_parallel(setting), decoder, 1

    @property
    def device(self) -> torch.device:
        """Return where the decoder is."""
        return self._decoder.device

    @property
    def columns(self) -> int | None:
        """Return the columns of the decoder's grid of codes, if it has one."""
        grid = self._decoder.config.grid
        return grid[1] if grid else None

    def width(self, jobs: Sequence[Foresight], rows: int) -> int:
        """Return the tokens a row, at least 1, of a pass over `rows` rows in which `jobs` draw; all rows are padded to
        it. `hold` is then the number of passes that it stands for."""
        most = max(job.reach for job in jobs)
        asked = most > 1 and self._setting == "auto" and self._measured
        width = _best(jobs, rows, most) if asked else 1 if self._setting == "auto" else min(most, int(self._setting))
        self.hold = 1 if width > 1 else _AGAIN if asked else 1 << 30
        return max(1, width)

    @property
    def _measured(self) -> bool:
        """Tell whether the law of the cost was measured, and codes are the same to rounding of sums alone: on a
        processor, not in half precision, and not in int8, which rounds what it reads too."""
        return self.device.type == "cpu" and self._decoder.embed.weight.dtype in (torch.float32, torch.float64)


def _best(jobs: Sequence[Foresight], rows: int, most: int) -> int:
    """Return the width, at most `most`, that promises most codes for the cost of a pass."""
    widths = np.array([width for width in WIDTHS if width <= most])
    places = np.minimum(widths[:, None], [job.reach for job in jobs])
    codes = _kept(places, np.array([job.pace.most for job in jobs])).sum(1)
    gain = codes / (_PASS + rows * (1 + widths))
    best = int(gain.argmax())
    return int(widths[best]) if gain[best] >= _WORTH * gain[0] else 1


class Foresight(Cursor):
    """A cursor that guesses codes behind those that were written.

    `guesses`: those that may come next, in order. `pace`: how many came true.
    """

    def __init__(self, plan: tuple[Step, ...], vocab: Vocab) -> None:
        super().__init__(plan, vocab)
        self.guesses: list[int] = []
        self.pace = Pace()

    @property
    def reach(self) -> int:
        """Count the ids that one pass may draw at most: the codes that a step lacks; text is drawn one by one."""
        return self.left if isinstance(self.step, Codes) else 1

    def ahead(self, start: int, stop: int) -> tuple[list[int], list[int]]:
        """Return ids and cells of what was written, and guesses behind it, from `start` to `stop`."""
        ids, cells, guessed = self.ids[start:stop], self.cells[start:stop], stop - len(self.ids)
        if guessed > 0:
            step, drawn = self.step, self.bounds[-1][1] - self.bounds[-1][0]
            assert isinstance(step, Codes)
            ids, cells = ids + self.guesses[:guessed], [*cells, *step.cells[drawn : drawn + guessed]]
        return ids, cells

    def look(self, width: int, columns: int | None) -> int:
        """Return how many guesses a window of `width` codes reads, at most width - 1; makes those that are not there.

        A new guess is the code above it in a grid of `columns`, where the step has that, else the code before it. The
        first code of a step has neither, and is drawn alone.
        """
        step, (start, stop) = self.step, self.bounds[-1]
        number = min(width, self.reach) - 1 if stop > start else 0
        if number > len(self.guesses):
            assert isinstance(step, Codes)
            codes = self.ids[start:stop] + self.guesses
            for source in _sources(step.cells, columns)[len(codes) : stop - start + number]:
                codes.append(codes[source])
            self.guesses = codes[stop - start :]
        return number

    def take(self, drawn: Sequence[float], logprobs: Sequence[float]) -> tuple[int, bool]:
        """Write those of a window's ids that are right; the rest become guesses. Returns how many were written, 0 where
        nothing could be drawn (-1), and whether the next id is drawn as these were (`accept`)."""
        ids = [int(id) for id in itertools.takewhile(lambda id: id >= 0, drawn)]
        if not ids:
            return 0, False
        right = 1
        while right < len(ids) and self.guesses[right - 1] == ids[right - 1]:
            right += 1
        self.guesses = ids[right:] + self.guesses[len(ids) :]
        same = [self.accept(*both) for both in zip(ids[:right], logprobs, strict=False)]
        self.pace.add(len(ids), right)
        return right, same[-1]


@functools.lru_cache(maxsize=64)
def _sources(cells: tuple[int, ...], columns: int | None) -> tuple[int, ...]:
    """Return for each code of a step which one before it to copy; where rows end with a mark, their length is known."""
    columns = cells.index(0) if 0 in cells else columns
    places = {cell: i for i, cell in enumerate(cells)} if columns else {}
    above = [places.get(cell - (columns or 0), i) for i, cell in enumerate(cells)]
    return tuple(source if source < i else i - 1 for i, source in enumerate(above))
