"""A sweep: many short runs with different settings, the losers stopped early, the best kept.

Optuna holds the trials, chooses what to try, and says who has lost. Each trial is a process of its own that writes
`log.jsonl` and checkpoints into its folder, as every run does; the sweep reads that log. So a trial that runs out of
memory harms nobody, and a sweep that was killed at any moment, whose trials end with it, takes them up again from their
checkpoints.

    out/study.db        Optuna's study: trials, their values, what they reached at which step
    out/trials.jsonl    a line a trial, written anew whenever one ends
    out/trial-0007/     the run itself: log.jsonl, output.txt (what it printed), and what else its recipe writes
    out/lock            held while a sweep is at work here

Trial 0 has the settings that the recipe has already, so the best is never worse than what was there; it is left out
where they lie outside of what is searched. What to try next is chosen by the tree-structured Parzen estimator (Bergstra
et al. 2011); where there are no more combinations than trials, all are tried. Losers are stopped by successive halving
(Li et al. 2020, ASHA): a trial that is not among the best third of those so far when it reaches `grace`, 3 * grace,
9 * grace ... steps ends there.

A trial's value at a step is the mean of what it logged in the tenth of the run before that step, because one batch says
little. With `jobs=1` a sweep is a function of its seed, whether or not it was interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cm3.errors import ConfigError, did_you_mean
from cm3.files import disk_error, locked, said, write
from cm3.train.signals import STOPPED
from cm3.train.track import numbers, read_lines

POLL = 0.2
"""Seconds between two looks at the logs."""
REDUCTION = 3
"""One of so many trials goes on at each rung of the halving."""
PATIENCE = 20
"""Seconds that a trial which is told to end has to save, before it is killed."""
STATES = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "unfinished"}
GOOD = ("done", "stopped")
NUMBER = "number"
"""What Optuna calls our number of a trial: one that is taken up again is another trial there."""

TrainTrial = Callable[[Mapping[str, Any], Path], None]
"""(values, folder) -> a run in the folder, which goes on with what lies there. Called in a process of its own, for
which it can be pickled; where the run fails, or is stopped, it ends that process with the exit code of the command."""


@dataclass(frozen=True)
class Axis:
    """One setting and what it may be: `choices`, or a number from `low` to `high`, whole where both ends are."""

    name: str
    start: Any
    """The recipe's own value."""
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    def suggest(self, trial: Any) -> Any:
        """Return the value of an Optuna trial."""
        if self.choices:
            return self.read(trial.suggest_categorical(self.name, self.words()))
        if isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def words(self) -> list[str]:
        """Return the choices as Optuna holds them, which takes no tuples."""
        return [repr(c) for c in self.choices]

    def read(self, held: Any) -> Any:
        """Return a value of what Optuna holds."""
        return self.choices[self.words().index(held)] if self.choices else held

    def all(self) -> list[Any] | None:
        """Return every value, as Optuna holds it; None where they can not be counted."""
        if self.choices:
            return list(self.words())
        return list(range(self.low, int(self.high) + 1)) if isinstance(self.low, int) else None

    def own(self) -> Any:
        """Return the recipe's value, as Optuna holds it, or None where it is outside.

        A single choice is set for all trials.
        """
        if len(self.choices) == 1:
            return self.words()[0]
        if self.choices:
            return next((repr(c) for c in self.choices if c == self.start), None)
        return self.start if isinstance(self.start, int | float) and self.low <= self.start <= self.high else None


@dataclass(frozen=True)
class SweepConfig:
    """A sweep. Raises `ConfigError` for a value out of range."""

    out: str
    recipe: str
    """What is trained, in words; a folder belongs to one."""
    space: tuple[Axis, ...]
    steps: int
    """Steps of a trial that is not stopped."""
    metric: str = "loss"
    """The number of the log that is to be small."""
    trials: int = 20
    seed: int = 0
    jobs: int = 1
    """Trials at a time."""
    grace: int = 0
    """Steps that every trial gets; 0 is a ninth of `steps`."""

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("trials", 1), ("jobs", 1), ("grace", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least {low}")
        if not self.space:
            raise ConfigError("search='': must name at least one setting, such as optim.lr=1e-4..3e-3")
        names = [a.name for a in self.space]
        if twice := [n for i, n in enumerate(names) if n in names[:i]]:
            raise ConfigError(f"search {twice[0]!r}: must be given once; list its choices with commas")

    def identity(self) -> dict[str, Any]:
        """Return what may not change between two sweeps in one folder; more trials or jobs may."""
        space = {a.name: [a.words(), repr(a.low), repr(a.high), a.log] for a in self.space}
        kept = {name: getattr(self, name) for name in ("recipe", "steps", "metric", "seed", "grace")}
        return json.loads(json.dumps(kept | {"search": space}))


@dataclass(frozen=True)
class Result:
    """A trial: done, stopped, failed or unfinished; `value` is what it reached at `step`, None for nothing."""

    trial: int
    state: str
    value: float | None
    step: int
    values: dict[str, Any]
    out: str
    reason: str = ""


def ranked(results: Sequence[Result]) -> list[Result]:
    """Sort, best first: those that were finished by value, then the stopped by how far they came, then the rest."""
    order = list(STATES.values())

    def key(r: Result) -> tuple[float, ...]:
        value = math.inf if r.value is None else r.value
        return (order.index(r.state), -r.step if r.state == "stopped" else 0, value, r.trial)

    return sorted(results, key=key)


class Sweep:
    """A sweep in its folder; use it in a `with`. `run` does it all."""

    def __init__(self, config: SweepConfig, train: TrainTrial) -> None:
        """Raises `ConfigError` where Optuna is missing, the folder is another sweep's, or one is at work in it."""
        try:
            import optuna
        except ImportError as error:
            raise ConfigError("a sweep needs Optuna, which is not installed: pip install optuna") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config, self.train, self.out = config, train, Path(config.out)
        path = (self.out / "study.db").resolve()
        counted = [values for a in config.space if (values := a.all()) is not None]
        self._few = len(counted) == len(config.space) and math.prod(map(len, counted)) <= config.trials
        self._held = contextlib.ExitStack()
        self._held.enter_context(locked(self.out / "lock", f"sweep in {config.out!r}"))
        try:
            _check_study(path)
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            self._held.callback(storage.engine.dispose)
            self._held.callback(storage.remove_session)
            pruner = optuna.pruners.SuccessiveHalvingPruner(config.grace or math.ceil(config.steps / 9), REDUCTION)
            self.study = optuna.create_study(study_name="sweep", storage=storage, pruner=pruner, load_if_exists=True)
            there = self.study.user_attrs.get("sweep")
        except Exception as error:  # SQLAlchemy raises many kinds for a file that is no database
            self.close()
            if (full := disk_error(error, path)) is not None:
                raise full from error
            raise ConfigError(
                f"out={config.out!r}: study.db can not be read ({said(error)}); give another --out"
            ) from error
        if there is None:
            self.study.set_user_attr("sweep", config.identity())
        elif other := [name for name, value in config.identity().items() if there.get(name) != value]:
            self.close()
            raise ConfigError(
                f"out={config.out!r}: holds a sweep with another {', '.join(other)}; give another --out, or the same"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._held.close()

    def run(self, told: Callable[[Result], None] = lambda result: None) -> list[Result]:
        """Train until there are `trials` that are done or stopped; a failed one is not tried again. All, best first.

        One whose process was stopped by a signal is left to the next sweep, which goes on with it.

        Calls `told` with each trial that ends. Raises `ConfigError` where nothing but failures comes, or where no trial
        logs the metric. Interrupted, it stops the trials under way; the next sweep in the folder continues them.
        """
        self._queue()
        ended = sum(r.state in GOOD for r in self.results())
        left, good, failures = self.config.trials - ended, ended > 0, 0
        running: list[_Trial] = []
        try:
            while True:
                while left > 0 and len(running) < self.config.jobs and (trial := self._ask()) is not None:
                    left -= 1
                    values = {axis.name: axis.suggest(trial) for axis in self.config.space}
                    if self._known(trial):
                        told(self._write()[_key(trial)])
                    else:
                        folder = self._folder(_key(trial))
                        running.append(_Trial(trial, folder, self.config, self.train, values))
                if not running:
                    return ranked(self.results())
                connection.wait([one.process.sentinel for one in running], POLL)
                for one in [one for one in running if one.follow()]:
                    running.remove(one)
                    result = self._write()[_key(one.trial)]
                    told(result)
                    good, failures = good or result.state in GOOD, failures + (result.state == "failed")
                    if failures and not good and (failures == 3 or not (running or left > 0)):
                        raise ConfigError(
                            f"recipe {self.config.recipe!r}: every trial failed, the last with: {result.reason} "
                            f"({one.folder / 'output.txt'}); mend that and start the sweep again"
                        )
        finally:
            for one in running:
                one.stop()
            self._write()

    def results(self) -> list[Result]:
        """Return every trial, by number."""
        found = {}
        for t in self._trials():
            if t.state.name in STATES:
                found[_key(t)] = self._result(t)  # one that was taken up again has the place of its first try
        return [found[key] for key in sorted(found)]

    def _trials(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False)

    def _queue(self) -> None:
        """Queue what is settled: unfinished and failed trials, the recipe's own settings, all combinations if few."""
        import optuna

        trials = self._trials()
        last = {_key(t): t for t in trials if t.state.name != "WAITING" or NUMBER in t.user_attrs}
        for key, t in last.items():
            if t.state.name == "RUNNING":
                self.study.tell(t.number, state=optuna.trial.TrialState.FAIL)
            if t.state.name in ("RUNNING", "FAIL") and len(t.params) == len(self.config.space):
                self.study.enqueue_trial(t.params, user_attrs={NUMBER: key})
        own = {a.name: a.own() for a in self.config.space}
        points = [] if None in own.values() else [own]
        if self._few:
            every = [
                dict(zip(own, p, strict=True)) for p in itertools.product(*(a.all() or () for a in self.config.space))
            ]
            random.Random(self.config.seed).shuffle(every)
            points += every
        for point in points:
            self.study.enqueue_trial(point, skip_if_exists=True)

    def _ask(self) -> Any:
        """Return the next trial; None where every combination was tried."""
        import optuna

        trials = self._trials()
        if self._few and all(t.state.name != "WAITING" for t in trials):
            return None
        # Each draw has a seed of its own, so that it does not depend on when the sweep was interrupted.
        number = 1 + max((_key(t) for t in trials if t.state.name != "WAITING"), default=-1)
        self.study.sampler = optuna.samplers.TPESampler(seed=self.config.seed * 100_003 + number)
        trial = self.study.ask()
        if NUMBER not in trial.user_attrs:
            trial.set_user_attr(NUMBER, number)
        return trial

    def _known(self, trial: Any) -> bool:
        """Whether the same values were tried before; then the trial has that result, at no cost."""
        ended = [t for t in self._trials() if t.state.name in ("COMPLETE", "PRUNED") and t.intermediate_values]
        twin = next((t for t in ended if t.params == trial.params), None)
        if twin is None:
            return False
        step = max(twin.intermediate_values)
        trial.report(twin.intermediate_values[step], step)
        trial.set_user_attr("reason", f"the same as trial {_key(twin)}")
        self.study.tell(trial, twin.value if twin.state.name == "COMPLETE" else None, twin.state)
        return True

    def _result(self, trial: Any) -> Result:
        steps, reason = trial.intermediate_values, trial.user_attrs.get("reason", "")
        value = trial.value if trial.state.name == "COMPLETE" else steps[max(steps)] if steps else None
        values = {a.name: a.read(trial.params[a.name]) for a in self.config.space if a.name in trial.params}
        state = STATES[trial.state.name] if reason or trial.state.name != "FAIL" else "unfinished"
        folder = str(self._folder(_key(trial)))
        return Result(_key(trial), state, value, max(steps, default=0), values, folder, reason)

    def _folder(self, number: int) -> Path:
        return self.out / f"trial-{number:04d}"

    def _write(self) -> dict[int, Result]:
        results = self.results()
        write(self.out / "trials.jsonl", "".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in results))
        return {r.trial: r for r in results}


class _Trial:
    """A trial under way: its process, and what its log says to Optuna. `follow` it until it ends, or `stop` it."""

    def __init__(
        self, trial: Any, folder: Path, config: SweepConfig, train: TrainTrial, values: Mapping[str, Any]
    ) -> None:
        self.trial, self.folder, self.config, self.last, self.size = trial, folder, config, 0, -1
        folder.mkdir(exist_ok=True)
        self.process = multiprocessing.get_context("spawn").Process(target=_run, args=(train, values, folder))
        self.process.start()

    def follow(self) -> bool:
        """Tell Optuna what is new. Returns whether the trial has ended, by itself or because it has lost.

        One that a signal stopped stays unfinished there, and is continued by the next sweep.
        """
        code, log = self.process.exitcode, self.folder / "log.jsonl"  # in this order: the log is whole then
        size = log.stat().st_size if log.exists() else 0
        if code is None and size == self.size:
            return False
        self.size, lines = size, read_lines(log)
        curve = self._curve(lines)
        for step, value in curve:
            if step > self.last:
                self.last = step
                self.trial.report(value, step)
                if step < self.config.steps and self.trial.should_prune():
                    self.stop()
                    return self._end("PRUNED")
        if code is None:
            return False
        if code == STOPPED:
            self.trial.set_user_attr("reason", "stopped by a signal; the next sweep goes on with it")
            return True
        if code:
            return self._end("FAIL", reason=_last_words(self.folder / "output.txt") or f"exit code {code}")
        if not curve:
            known = sorted({name for line in lines for name in line})
            raise ConfigError(
                f"metric {self.config.metric!r}: no line of {log} has a number of that name."
                f"{did_you_mean(self.config.metric, known)} It has {', '.join(known) or 'no lines'}"
            )
        return self._end("COMPLETE", curve[-1][1])

    def stop(self) -> None:
        """End the process: it may save first, but not for long. Its checkpoint is whole at any moment."""
        self.process.terminate()
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()

    def _end(self, state: str, value: float | None = None, reason: str = "") -> bool:
        import optuna

        if reason:
            self.trial.set_user_attr("reason", reason)
        self.trial.study.tell(self.trial, value, optuna.trial.TrialState[state])
        return True

    def _curve(self, lines: list[dict[str, Any]]) -> list[tuple[int, float]]:
        """Return (step, mean of the tenth of the run before it) for each line that has the metric."""
        told = [(int(r["step"]), float(r[self.config.metric])) for r in lines if self.config.metric in numbers(r)]
        curve, first, total = [], 0, 0.0
        for i, (step, value) in enumerate(told):
            total += value
            while told[first][0] <= step - self.config.steps / 10:
                total -= told[first][1]
                first += 1
            curve.append((step, total / (i + 1 - first)))
        return curve


def _run(train: TrainTrial, values: Mapping[str, Any], folder: Path) -> None:
    """Run a trial, in a process of its own that is told to end when the sweep does, however that ends."""
    sweep = multiprocessing.parent_process()
    assert sweep is not None

    def end_with_it() -> None:
        connection.wait([sweep.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_it, daemon=True).start()
    with (folder / "output.txt").open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    train(values, folder)


def _key(trial: Any) -> int:
    """Return the number of a trial: of its folder, and of the first try of one that is taken up again."""
    return int(trial.user_attrs.get(NUMBER, trial.number))


def _check_study(path: Path) -> None:
    """Raise `ValueError` for a file that is another's: opened, it would be given tables of a study."""
    if path.exists() and path.stat().st_size:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as file:
            names = {name for (name,) in file.execute("select name from sqlite_master where type = 'table'")}
        if names and "studies" not in names:
            raise ValueError("it is a database of something else")


def _last_words(path: Path) -> str:
    """Return what a command that failed said last: the error of its JSON object, else its last line."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    try:
        return str(json.loads(lines[-1])["error"])
    except (ValueError, KeyError, TypeError, IndexError):
        return lines[-1].strip()[-300:] if lines else ""
