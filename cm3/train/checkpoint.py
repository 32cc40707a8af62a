"""Checkpoints of a run: everything that the next step depends on, written so that a kill at any moment loses nothing.

A checkpoint is one file, written beside its place and renamed onto it. Tensors and plain values only: it is read with
`weights_only=True`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from cm3.errors import CheckpointError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises `CheckpointError` for one that is missing or damaged."""
    if not path.exists():
        raise CheckpointError(f"checkpoint {str(path)!r}: no such file; start the run without --resume")
    try:
        state: Any = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {str(path)!r}: damaged ({reason}); delete it and start again") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {str(path)!r}: is no checkpoint of a run; give another out")
    return state


class Log:
    """One JSON object a line. On resume, lines from a step after the checkpoint's are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text("".join(line + "\n" for line in kept))
            os.replace(temporary, path)

    def write(self, record: dict[str, Any]) -> None:
        """Append a record."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _step(line: str) -> float:
    # A half-written last line, left by a kill, belongs to no step and is dropped.
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
