"""One error for all that is wrong with a stranger's weights, in one line; and what has to be told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
        # The error of a part begins with the same place.
        told = "; ".join(
            " ".join(line.removeprefix(f"{str(where)!r}: ").removeprefix(f"{where}: ").split())
            for line in wrong[: 2 * MOST]
        )
        raise CheckpointError(f"{str(where)!r}: {told}{more}")


def told_of(converted: Mapping[str, Any]) -> list[str]:
    """Return what whoever converts has to know, a line each, of `about.converted`, which may say anything."""
    told = []
    parts = [part for part in (converted, converted.get("image_tokenizer")) if isinstance(part, Mapping)]
    lists = [names for part in parts if isinstance(names := part.get("skipped"), list)]
    if left := sorted({str(name) for names in lists for name in names}):
        told.append(f"left out of pickled files, and never run: {some(left)}")
    averaged = converted.get("averaged")
    many, apart = (averaged.get("norms"), averaged.get("apart")) if isinstance(averaged, Mapping) else (0, 0.0)
    if isinstance(many, int) and many > 0 and isinstance(apart, float):
        told.append(
            f"{many} norm{'s differ' if many > 1 else ' differs'} between Meta's files, by up to {apart:.1e} of their "
            "largest number; their mean was taken, which does not go back bit for bit"
        )
    return told
