"""Where the lines of a run's log go.

{"step": 20, "loss": 5.1, ...} -> OUT/log.jsonl
                               -> OUT/tensorboard, a point for each number, if wanted: tensorboard --logdir OUT
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cm3.errors import ConfigError
from cm3.train.checkpoint import Log


class TensorBoard:
    """Writes event files. On resume, points from a step after the checkpoint's are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        """Raises `ConfigError` where TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "track='tensorboard': needs TensorBoard, which is not installed: pip install 'cm3leon[track]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Add the numbers of a line of the log."""
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


class Lines:
    """The lines of a run, written by its main process; the others' go nowhere."""

    def __init__(self, out: Path, step: int, track: str, main: bool) -> None:
        """Raises `ConfigError` as `TensorBoard` does."""
        self._log = Log(out / "log.jsonl", step) if main else None
        self._board = TensorBoard(out / "tensorboard", step) if main and track == "tensorboard" else None

    def write(self, record: dict[str, Any]) -> None:
        """Write a line."""
        short = {name: _short(value) for name, value in record.items()}
        for place in (self._log, self._board):
            if place is not None:
                place.write(short)

    def close(self) -> None:
        """Close the files."""
        if self._board is not None:
            self._board.close()


def _short(value: Any) -> Any:
    """Six decimals, or four digits of what is small."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if abs(value) >= 0.01 else float(f"{value:.4g}")
