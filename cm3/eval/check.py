"""Checks of the arguments of every evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from cm3.errors import ConfigError, did_you_mean


def check_run(n: int, batch: int, tasks: Sequence[str], known: Sequence[str]) -> None:
    """Raise `ConfigError` for an n or batch below 1, or a task that is not among those known."""
    for name, value in (("n", n), ("batch", batch)):
        if value < 1:
            raise ConfigError(f"{name}={value}: must be at least 1")
    for task in tasks:
        if task not in known:
            raise ConfigError(f"tasks={task!r}: must be among {', '.join(known)}.{did_you_mean(task, known)}")
