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
where they lie outside of what is searched. The next trial is chosen by the tree-structured Parzen estimator (Bergstra
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

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
LEFT = "stopped by a signal; the next sweep goes on with it"
"""The reason of a trial that is unfinished. Optuna has it as failed while it waits to be taken up again."""
NUMBER = "number"
"""Our number of a trial in Optuna: one that is taken up again is another trial there."""

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
    """The network that is trained, in words; a folder belongs to one."""
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


def sweep(config: SweepConfig, train: TrainTrial, told: Callable[[Result], None] = lambda result: None) -> list[Result]:
    """Train until there are `trials` that are done or stopped; a failed one is not tried again. All, best first.

    One whose process was stopped by a signal is left to the next sweep, which goes on with it. Calls `told` with each
    trial that ends. Interrupted, it stops the trials under way; the next sweep in the folder continues them.

    Raises `ConfigError` where Optuna is missing, the folder is another sweep's, one is at work in it, nothing but
    failures comes, or no trial logs the metric.
    """
    running: list[_Trial] = []
    with locked(Path(config.out, "lock"), f"sweep in {config.out!r}"), _opened(config) as study:
        tried = _Tried(study, config)
        tried.queue()
        ended = sum(r.state in GOOD for r in tried.results().values())
        left, good, failures = config.trials - ended, ended > 0, 0
        try:
            while True:
                while left > 0 and len(running) < config.jobs and (trial := tried.ask()) is not None:
                    left -= 1
                    values = {axis.name: axis.suggest(trial) for axis in config.space}
                    if tried.known(trial):
                        told(tried.write()[_number(trial)])
                    else:
                        running.append(_Trial(trial, config, train, values))
                if not running:
                    return ranked(list(tried.results().values()))
                connection.wait([one.process.sentinel for one in running], POLL)
                for one in [one for one in running if one.follow()]:
                    running.remove(one)
                    result = tried.write()[_number(one.trial)]
                    told(result)
                    good, failures = good or result.state in GOOD, failures + (result.state == "failed")
                    if failures and not good and (failures == 3 or not (running or left > 0)):
                        raise ConfigError(
                            f"recipe {config.recipe!r}: every trial failed, the last with: {result.reason} "
                            f"({one.folder / 'output.txt'}); mend that and start the sweep again"
                        )
        finally:
            for one in running:
                one.stop()
            tried.write()


@contextlib.contextmanager
def _opened(config: SweepConfig) -> Iterator[Any]:
    """Open Optuna's study of a sweep, which is locked, or begin it."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("a sweep needs Optuna, which is not installed: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = Path(config.out, "study.db").resolve()
    pruner = optuna.pruners.SuccessiveHalvingPruner(config.grace or math.ceil(config.steps / 9), REDUCTION)
    try:
        _check_study(path)
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        study = optuna.create_study(study_name="sweep", storage=storage, pruner=pruner, load_if_exists=True)
        there = study.user_attrs.get("sweep")
    except Exception as error:  # SQLAlchemy raises many kinds for a file that is no database
        if (full := disk_error(error, path)) is not None:
            raise full from error
        raise ConfigError(
            f"out={config.out!r}: study.db can not be read ({said(error)}); give another --out"
        ) from error
    try:
        if there is None:
            study.set_user_attr("sweep", config.identity())
        elif other := [name for name, value in config.identity().items() if there.get(name) != value]:
            raise ConfigError(
                f"out={config.out!r}: holds a sweep with another {', '.join(other)}; give another --out, or the same"
            )
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


class _Tried:
    """The trials of a study: those that are to come, and what came of the others."""

    def __init__(self, study: Any, config: SweepConfig) -> None:
        self.study, self.config = study, config
        counted = [values for axis in config.space if (values := axis.all()) is not None]
        self.few = len(counted) == len(config.space) and math.prod(map(len, counted)) <= config.trials

    def trials(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False)

    def queue(self) -> None:
        """Queue what is settled: unfinished and failed trials, the recipe's own settings, all combinations if few."""
        import optuna

        last = {_number(t): t for t in self.trials() if t.state.name != "WAITING" or NUMBER in t.user_attrs}
        for number, t in last.items():
            if t.state.name == "RUNNING":
                self.study.tell(t.number, state=optuna.trial.TrialState.FAIL)
            if t.state.name in ("RUNNING", "FAIL") and len(t.params) == len(self.config.space):
                self.study.enqueue_trial(t.params, user_attrs={NUMBER: number})
        own = {axis.name: axis.own() for axis in self.config.space}
        points = [] if None in own.values() else [own]
        if self.few:
            every = list(itertools.product(*(axis.all() or () for axis in self.config.space)))
            random.Random(self.config.seed).shuffle(every)
            points += [dict(zip(own, point, strict=True)) for point in every]
        for point in points:
            self.study.enqueue_trial(point, skip_if_exists=True)

    def ask(self) -> Any:
        """Return the next trial; None where every combination was tried."""
        import optuna

        trials = self.trials()
        if self.few and all(t.state.name != "WAITING" for t in trials):
            return None
        # Each draw has a seed of its own, so that it does not depend on when the sweep was interrupted.
        number = 1 + max((_number(t) for t in trials if t.state.name != "WAITING"), default=-1)
        self.study.sampler = optuna.samplers.TPESampler(seed=self.config.seed * 100_003 + number)
        trial = self.study.ask()
        if NUMBER not in trial.user_attrs:
            trial.set_user_attr(NUMBER, number)
        return trial

    def known(self, trial: Any) -> bool:
        """Tell whether the same values were tried before; then the trial has that result, at no cost."""
        ended = [t for t in self.trials() if t.state.name in ("COMPLETE", "PRUNED") and t.intermediate_values]
        twin = next((t for t in ended if t.params == trial.params), None)
        if twin is None:
            return False
        step = max(twin.intermediate_values)
        trial.report(twin.intermediate_values[step], step)
        trial.set_user_attr("reason", f"the same as trial {_number(twin)}")
        self.study.tell(trial, twin.value if twin.state.name == "COMPLETE" else None, twin.state)
        return True

    def results(self) -> dict[int, Result]:
        """Return what came of each, by number; one that is taken up again has the place of its first try."""
        found = {_number(t): self._result(t) for t in self.trials() if t.state.name in STATES}
        return dict(sorted(found.items()))

    def write(self) -> dict[int, Result]:
        """Write the results down, and return them."""
        results = self.results()
        lines = "".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in results.values())
        write(Path(self.config.out, "trials.jsonl"), lines)
        return results

    def _result(self, trial: Any) -> Result:
        steps, reason = trial.intermediate_values, trial.user_attrs.get("reason", "")
        value = trial.value if trial.state.name == "COMPLETE" else steps[max(steps)] if steps else None
        values = {a.name: a.read(trial.params[a.name]) for a in self.config.space if a.name in trial.params}
        state = "unfinished" if trial.state.name == "FAIL" and reason in ("", LEFT) else STATES[trial.state.name]
        folder = _folder(self.config, trial)
        return Result(_number(trial), state, value, max(steps, default=0), values, str(folder), reason)


class _Trial:
    """A trial under way: its process, and what its log says to Optuna. `follow` it until it ends, or `stop` it."""

    def __init__(self, trial: Any, config: SweepConfig, train: TrainTrial, values: Mapping[str, Any]) -> None:
        self.trial, self.config, self.folder = trial, config, _folder(config, trial)
        self.last, self.size = (0, 0.0), -1
        """(step, value) that Optuna knows, and the bytes of the log that were read."""
        self.folder.mkdir(exist_ok=True)
        self.process = multiprocessing.get_context("spawn").Process(target=_run, args=(train, values, self.folder))
        self.process.start()

    def follow(self) -> bool:
        """Tell Optuna what is new. Returns whether the trial has ended, by itself or because it has lost.

        One that a signal stopped stays unfinished there, and is continued by the next sweep.
        """
        code, log = self.process.exitcode, self.folder / "log.jsonl"  # in this order: the log is whole then
        size = log.stat().st_size if log.exists() else 0
        if code is None and size == self.size:
            return False
        self.size, lines, metric, steps = size, read_lines(log), self.config.metric, self.config.steps
        curve = [(int(r["step"]), float(r[metric])) for r in lines if metric in numbers(r)]
        for step in [step for step, _ in curve if step > self.last[0]]:
            near = [value for at, value in curve if step - steps / 10 < at <= step]
            self.last = step, sum(near) / len(near)
            self.trial.report(self.last[1], step)
            if step < steps and self.trial.should_prune():
                self.stop()
                return self._end("PRUNED")
        if code is None:
            return False
        if code == STOPPED:
            self.trial.set_user_attr("reason", LEFT)
            return True
        if code:
            self.trial.set_user_attr("reason", _last_words(self.folder / "output.txt") or f"exit code {code}")
            return self._end("FAIL")
        if not curve:
            known = sorted({name for line in lines for name in line})
            raise ConfigError(
                f"metric {metric!r}: no line of {log} has a number of that name."
                f"{did_you_mean(metric, known)} It has {', '.join(known) or 'no lines'}"
            )
        return self._end("COMPLETE", self.last[1])

    def stop(self) -> None:
        """End the process: it may save first, but not for long. Its checkpoint is whole at any moment."""
        self.process.terminate()
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()

    def _end(self, state: str, value: float | None = None) -> bool:
        import optuna

        self.trial.study.tell(self.trial, value, optuna.trial.TrialState[state])
        return True


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


def _number(trial: Any) -> int:
    """Return the number of a trial: of its folder, and of the first try of one that is taken up again."""
    return int(trial.user_attrs.get(NUMBER, trial.number))


def _folder(config: SweepConfig, trial: Any) -> Path:
    return Path(config.out, f"trial-{_number(trial):04d}")


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
