"""One trial of a sweep: a process that trains, and what its log says to Optuna.

The process holds the trial's lock as long as it lives, by a file that it inherits. So where a sweep was killed and its
trial was not, the next sweep notices, ends it, and goes on from its checkpoint; no trial is ever trained twice at once.

    trial-0007/lock         held by the process; its number
    trial-0007/log.jsonl    the run's own, read and never written here
    trial-0007/output.txt   what the command printed
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from cm3.errors import Cm3Error, ConfigError, did_you_mean
from cm3.train.signals import STOPPED
from cm3.train.track import numbers, read_lines

Command = Callable[[Mapping[str, Any], Path, bool], Sequence[str]]
"""(values, folder, whether to go on) -> the words that run a trial. Raises `Cm3Error` for values that do not fit."""
REDUCTION = 3
"""One of so many trials goes on at each rung of the halving."""


class Law(NamedTuple):
    """What is read from a log, and at which steps a trial is compared with the others."""

    metric: str
    steps: int
    grace: int

    def rungs(self, step: int) -> int:
        """How many rungs a trial has reached at `step`: they are at grace, grace * REDUCTION, ..."""
        count = 0
        while self.grace * REDUCTION**count <= step:
            count += 1
        return count


def hold(path: Path) -> IO[str] | None:
    """Take a lock, held as long as any process has the file open; None where another has it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    file.truncate(0)
    return file


class TrialRun:
    """A trial under way. `follow` it until it has ended, or `stop` it."""

    def __init__(self, trial: Any, folder: Path, values: Mapping[str, Any], command: Command, law: Law) -> None:
        """Start the process of an Optuna trial, or go on with one that was started in `folder` before.

        Raises `ConfigError` where a process that is left of it can not be ended.
        """
        self.trial, self.folder, self.law = trial, folder, law
        self.process: subprocess.Popen[bytes] | None = None
        self.reason, self.size = "", 0
        again = folder.exists()
        folder.mkdir(exist_ok=True)
        self.last = max(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values, default=0)
        # What was reported just before an interruption may not have been judged yet.
        self.lost = 0 < self.last < law.steps and trial.should_prune()
        lock = hold(folder / "lock") or _evict(folder / "lock")
        if self.lost:
            lock.close()
            return
        try:
            words = command(values, folder, again)
        except Cm3Error as error:
            lock.close()
            self.reason = str(error)
            return
        # A bar in a file is a line ten times a second.
        with lock, (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
                env=os.environ | {"TQDM_MININTERVAL": "30"},
            )
            lock.write(str(self.process.pid))

    def follow(self) -> bool:
        """Tell Optuna what is new. Returns whether the process has ended, by itself or because it was stopped.

        One that a signal stopped leaves its trial unfinished.
        """
        if self.process is None:
            return self._end("PRUNED") if self.lost else self._end("FAIL", reason=self.reason)
        code, log = self.process.poll(), self.folder / "log.jsonl"  # in this order: the log is whole then
        size = log.stat().st_size if log.exists() else 0
        if code is None and size == self.size:
            return False
        self.size, lines = size, read_lines(log)
        curve = self._curve(lines)
        for step, value in curve:
            if self.law.rungs(step) > self.law.rungs(self.last):
                self.trial.report(value, step)
                self.last = step
                if step < self.law.steps and self.trial.should_prune():
                    self.stop()
                    return self._end("PRUNED")
        if code is None:
            return False
        if code == STOPPED:
            # Not told to Optuna: a trial that has ended there can not be continued, and this one has a checkpoint.
            self.trial.set_user_attr("reason", "stopped by a signal; the next sweep goes on with it")
            return True
        if code:
            return self._end("FAIL", reason=_last_words(self.folder / "output.txt") or f"exit code {code}")
        if not curve:
            known = sorted({name for line in lines for name in line})
            raise ConfigError(
                f"metric {self.law.metric!r}: no line of {log} has a number of that name."
                f"{did_you_mean(self.law.metric, known)} It has {', '.join(known) or 'no lines'}"
            )
        step, value = curve[-1]
        if step > self.last:
            self.trial.report(value, step)
        return self._end("COMPLETE", value)

    def stop(self) -> None:
        """End the process and what it started, at once: its checkpoint is whole at any moment."""
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _end(self, state: str, value: float | None = None, reason: str = "") -> bool:
        import optuna

        if reason or "reason" in self.trial.user_attrs:
            self.trial.set_user_attr("reason", reason)
        self.trial.study.tell(self.trial, value, optuna.trial.TrialState[state])
        return True

    def _curve(self, lines: list[dict[str, Any]]) -> list[tuple[int, float]]:
        """(step, mean of the tenth of the run before it) for each line that has the metric."""
        metric = self.law.metric
        told = [(int(r["step"]), float(r[metric])) for r in lines if metric in numbers(r)]
        curve, first, total = [], 0, 0.0
        for i, (step, value) in enumerate(told):
            total += value
            while told[first][0] <= step - self.law.steps / 10:
                total -= told[first][1]
                first += 1
            curve.append((step, total / (i + 1 - first)))
        return curve


def _last_words(path: Path) -> str:
    """What a command that failed said last: the error of its JSON object, else its last line."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    try:
        return str(json.loads(lines[-1])["error"])
    except (ValueError, KeyError, TypeError, IndexError):
        return lines[-1].strip()[-300:] if lines else ""


def _evict(path: Path) -> IO[str]:
    """Take the lock of a trial whose process outlived its sweep, by ending that process.

    A process group keeps its number as long as a member lives, and one lives: it holds the lock.
    """
    for _ in range(100):
        told = path.read_text()
        if told.isdigit():
            try:
                os.killpg(int(told), signal.SIGKILL)
            except ProcessLookupError:  # it ended by itself just now
                pass
        time.sleep(0.1)
        if file := hold(path):
            return file
    raise ConfigError(f"{path}: a process that an earlier sweep left holds it; end that process and start again")
