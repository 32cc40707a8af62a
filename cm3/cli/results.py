"""The end of every verb that scores: where a result is kept, and its figures as lines."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm3.cli.outputs import check_folder, line
from cm3.errors import RequestError

if TYPE_CHECKING:
    from cm3.score.result import Result


def check_file(path: Path | None, option: str) -> None:
    """Raise `RequestError` where a file cannot be written. None is no file, and passes."""
    if path is None:
        return
    if path.is_dir():
        raise RequestError(f"{option} {path}: is a folder; give a file in it")
    check_folder(path.parent, option)


def check_result_file(path: Path | None, option: str = "--out", kind: str = "cm3-result") -> None:
    """Raise `RequestError` where a result cannot be written, or would replace anything but a result of ours.

    To be called before the work starts. None is no file, and passes.
    """
    check_file(path, option)
    if path is not None and os.path.lexists(path):
        try:
            ours = f'"kind": "{kind}"' in path.read_bytes()[:100].decode("utf-8", "replace")
        except OSError:
            ours = False
        if not ours:
            raise RequestError(f"{option} {path}: is there, and is no {kind} that cm3 wrote; give another name")


def keep(
    out: Path | None,
    result: Result,
    suite: str,
    version: int,
    references: Mapping[str, str | Path],
    predictions: Mapping[str, str | Path],
    began: float,
    **more: Any,
) -> dict[str, Any]:
    """Return the page of a result (`cm3.score.result_file.manifest`), and write it to `out` where that is given.

    `began`: `time.perf_counter()` at the start.
    """
    from cm3.score.result_file import manifest, write_result

    page = manifest(result, suite, version, references, predictions, time.perf_counter() - began, **more)
    if out is not None:
        write_result(out, page)
    return page


def lines(page: Mapping[str, Any]) -> list[str]:
    """Return the figures of a page as aligned lines, with their intervals, and then its warnings."""
    wide = max(map(len, page["figures"]), default=0) + 2
    told = []
    for name, value in page["figures"].items():
        ends = page["intervals"][name]
        told.append(f"{name:<{wide}}{number(value):>9}  {'' if ends is None else interval(ends)}".rstrip())
    return [line(one) for one in (*told, *(f"warning: {warning}" for warning in page["warnings"]))]


def number(value: float, sign: str = "") -> str:
    """Return a figure, with four digits after the point, or in the scientific way where it is smaller than those."""
    return f"{value:{sign}.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:{sign}.2e}"


def interval(ends: tuple[float, float] | list[float], sign: str = "") -> str:
    """Return an interval as `[0.5912, 0.6087]`."""
    return f"[{number(ends[0], sign)}, {number(ends[1], sign)}]"
