"""A trial of a sweep whose loss is known, (x - 2)^2 + 1 / step; it writes the log of a run, and goes on with one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STEPS = 18


def train(values: Mapping[str, Any], folder: Path, slow: float = 0.0) -> None:
    """Fail over 9; between 8 and 9, be stopped by a signal the first time.

    All trials but the first take `slow` seconds a step.
    """
    x, log, starts = values["x"], folder / "log.jsonl", folder / "starts"
    starts.write_text(starts.read_text() + "+" if starts.exists() else "+")
    if x > 9:
        print("some words")
        print(json.dumps({"error": f"x={x}: is too much"}))
        sys.exit(2)
    at = sum(1 for _ in log.open()) if log.exists() else 0
    for step in range(at + 1, STEPS + 1):
        if 8 < x < 9 and at == 0 and step == 5:
            sys.exit(75)
        time.sleep(0.0 if folder.name == "trial-0000" else slow)
        with log.open("a") as file:
            file.write(json.dumps({"step": step, "loss": (x - 2) ** 2 + 1 / step}) + "\n")


def at_once(values: Mapping[str, Any], folder: Path) -> None:
    """Leave a file for whoever looks whether anything was trained."""
    (folder / "trained").touch()
