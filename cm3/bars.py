"""Progress bars: one way for all of the package, drawn on a terminal and nowhere else."""

from __future__ import annotations

import sys
from typing import Any


def bar(label: str = "", *, total: int | None = None, done: int = 0, unit: str = "step", wanted: bool = True) -> Any:
    """Return a bar of tqdm on stderr, to be entered; it draws nothing where that is a file, a pipe, or not `wanted`.

    A file would keep every state of the bar, one over the other.
    """
    from tqdm import tqdm

    shown = wanted and sys.stderr is not None and sys.stderr.isatty()
    return tqdm(
        desc=label or None, total=total, initial=done, unit=unit, unit_scale=unit == "B", disable=not shown,
        file=sys.stderr, dynamic_ncols=True, leave=total is not None and unit == "step",
    )  # fmt: skip
