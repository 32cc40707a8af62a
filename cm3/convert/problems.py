"""One error for all that is wrong with a stranger's weights, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cm3.errors import CheckpointError

MOST = 8
"""Findings of one kind that are written out."""


def some(names: Sequence[object], most: int = MOST) -> str:
    """Join names with commas; of many the first, and a count of the others."""
    shown = ", ".join(f"{name!s:.120}" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def refuse(where: str | Path, wrong: Sequence[str]) -> None:
    """Raise `CheckpointError` that lists all that is wrong, where anything is."""
    if wrong:
        more = f"; and {len(wrong) - 2 * MOST} more" if len(wrong) > 2 * MOST else ""
        told = "; ".join(" ".join(line.split()) for line in wrong[: 2 * MOST])
        raise CheckpointError(f"{str(where)!r}: {told}{more}")
