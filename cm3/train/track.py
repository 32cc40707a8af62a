"""Trackers, which take the lines of a run's log, and a reader of the log.

{"step": 20, "loss": 5.1, ...} -> OUT/log.jsonl --read_lines--> cm3 chart, cm3 sweep, a run that is resumed
                               -> one tracker, if wanted:
                                  OUT/tensorboard, a point for each number: tensorboard --logdir OUT
                                  Weights & Biases, as the environment says: WANDB_MODE=offline, WANDB_PROJECT=...
"""

from __future__ import annotations

import importlib
import json
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cm3.errors import ConfigError, DataError
from cm3.files import is_number, on_disk, parse_json, said, write


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log, in order; none where there is no file.

    A line that is half written, by a run that is under way or was killed, is none, nor is one without its step.
    """
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            record = parse_json(line, "line", nan=True)
        except DataError:
            continue
        if isinstance(record, dict) and is_number(record.get("step")):
            found.append(record)
    return found


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a record, which can be drawn over the steps. A truth value is none."""
    return {name: value for name, value in record.items() if name != "step" and is_number(value)}


def finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without the numbers that JSON has no word for."""
    return {name: value for name, value in record.items() if not isinstance(value, float) or math.isfinite(value)}


class Log:
    """One JSON object a line. On resume, lines from a step after the checkpoint's are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        with on_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [record for record in read_lines(path) if record["step"] <= step]
            write(path, "".join(json.dumps(finite(record)) + "\n" for record in kept))

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record, without what is not finite. Raises `DiskError`."""
        with on_disk(self.path), self.path.open("a") as file:
            file.write(json.dumps(finite(record)) + "\n")


class Tracker(Protocol):
    """A tracker takes the lines of a log, made by `(out, step, settings)` on the main process."""

    def write(self, record: dict[str, Any]) -> None:
        """Take a line."""

    def close(self) -> None:
        """Close the tracker."""


class TensorBoard:
    """Writes event files. On resume, points from a step after the checkpoint's are hidden."""

    def __init__(self, out: Path, step: int, about: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where TensorBoard is not installed."""
        check_tracker("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._folder = out / "tensorboard"
        with on_disk(self._folder):
            self._writer = SummaryWriter(str(self._folder), purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Add the numbers of a line of the log. Raises `DiskError`."""
        with on_disk(self._folder):
            for name, value in numbers(record).items():
                self._writer.add_scalar(name, value, record["step"])
            self._writer.flush()

    def close(self) -> None:
        """Close the files. Raises `DiskError`."""
        with on_disk(self._folder):
            self._writer.close()


class WandB:
    """A run at Weights & Biases, with the settings; the same one on resume, its id in `out/wandb.id`."""

    def __init__(self, out: Path, step: int, about: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where the library is not installed, and for what it says of account or network."""
        check_tracker("wandb")
        import wandb

        known = out / "wandb.id"
        again = bool(step and known.exists())
        name = known.read_text().strip() if again else uuid.uuid4().hex[:12]
        try:
            self._run = wandb.init(id=name, resume="allow", name=out.name, dir=str(out), config=dict(about))
        except (wandb.Error, OSError) as error:
            raise ConfigError(
                f"track='wandb': {said(error)}; log in with `wandb login`, or set WANDB_MODE=offline"
            ) from error
        if not again:
            write(known, name + "\n")
        # Its own counter never goes back, as a run that was killed does.
        self._run.define_metric("*", step_metric="step")

    def write(self, record: dict[str, Any]) -> None:
        """Add the numbers of a line of the log."""
        self._run.log({"step": record["step"], **numbers(record)})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


LIBRARIES = {
    "tensorboard": ("torch.utils.tensorboard", "TensorBoard"),
    "wandb": ("wandb", "wandb"),
}
"""Of each: the module that is imported, and its name. pip installs both by the name of the tracker."""
TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}


def check_tracker(track: str) -> None:
    """Raise `ConfigError` where the library of a tracker is not installed; no tracker needs none."""
    if track:
        module, name = LIBRARIES[track]
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"track={track!r}: needs {name}, which is not installed: pip install {track}") from error


class Lines:
    """The lines of a run, written by its main process; the others' go nowhere."""

    def __init__(
        self,
        out: Path,
        step: int,
        track: str,
        main: bool,
        about: Mapping[str, Any],
    ) -> None:
        """Raise `ConfigError` as the trackers do."""
        self._log = Log(out / "log.jsonl", step) if main else None
        self._tracker: Tracker | None = TRACKERS[track](out, step, about) if main and track else None  # type: ignore[call-arg]

    def write(self, record: dict[str, Any]) -> None:
        """Write a line."""
        short = {name: _short(value) for name, value in record.items()}
        for place in (self._log, self._tracker):
            if place is not None:
                place.write(short)

    def close(self) -> None:
        """Close the files."""
        if self._tracker is not None:
            self._tracker.close()


def _short(value: Any) -> Any:
    """Write six decimals, or four digits of what is small."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if abs(value) >= 0.01 else float(f"{value:.4g}")
