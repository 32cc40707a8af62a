"""A loss that jumps, or is not finite: what counts as one, and which documents were in the batch.

spike: not finite, or over mean + `sigma` standard deviations of the last `HISTORY` losses that were none
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

from cm3.data.lanes import LoaderState

HISTORY = 100
ENOUGH = 20
"""Losses before which none is a spike unless it is not finite."""
IN_A_ROW = 10
"""Batches that may be skipped one after the other: after so many it is the model, not the data."""


class Spikes:
    """Judges losses; `state` is what a checkpoint keeps, so that a resumed run judges alike.

    `learnt`: spikes are learnt from all the same, and so remembered; none of them stands in a row of skipped ones.
    """

    def __init__(self, sigma: float, learnt: bool, state: dict[str, Any] | None = None) -> None:
        known = state or {"recent": [], "count": 0, "row": 0}
        self.sigma, self.learnt = sigma, learnt
        self.recent: deque[float] = deque(known["recent"], HISTORY)
        self.count, self.row = int(known["count"]), int(known["row"])

    @property
    def state(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"recent": list(self.recent), "count": self.count, "row": self.row}

    @property
    def limit(self) -> float:
        """Return the largest loss that is no spike."""
        n = len(self.recent)
        if n < ENOUGH or not self.sigma:
            return math.inf
        mean = sum(self.recent) / n
        return mean + self.sigma * math.sqrt(sum((x - mean) ** 2 for x in self.recent) / n)

    def judge(self, loss: float, norm: float) -> str:
        """Say what is wrong with a step of this loss and gradient norm; empty for nothing."""
        finite, limit = math.isfinite(loss) and math.isfinite(norm), self.limit
        if not finite:
            spike = f"the loss is {loss:.4g}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
        else:
            spike = f"the loss is {loss:.4g}, over {limit:.4g}" if loss > limit else ""
        if finite and (self.learnt or not spike):
            self.recent.append(loss)
        self.count, self.row = self.count + bool(spike), self.row + 1 if spike and not self.learnt else 0
        return spike


def packed(before: LoaderState, after: LoaderState) -> list[int]:
    """Return the positions in the source of the documents in the batch between two states of a rank's loader."""
    found: list[int] = []
    for lane, (next, waiting) in after.lanes.items():
        old = before.lanes[lane]
        taken = {*old.waiting, *range(old.next, next, before.windows)}
        found += sorted(taken - set(waiting))
    return found


def named(positions: Iterable[int], most: int = 12) -> str:
    """Return the first of them, in words."""
    all_ = sorted(positions)
    more = f" and {len(all_) - most} more" if len(all_) > most else ""
    return f"{', '.join(map(str, all_[:most]))}{more}"
