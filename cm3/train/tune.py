"""A sweep: many short runs with different settings, the losers stopped early, the best kept.

Each trial is a process of its own that writes `log.jsonl` and checkpoints into its folder, as every run does, and the
sweep only reads that log. So a trial that runs out of memory harms nobody, and a sweep that was killed at any moment
goes on where it was: trials under way continue from their checkpoints.

    out/study.db        what Optuna knows: trials, their values, what they reached at which step
    out/trials.jsonl    a line a trial, written anew whenever one ends
    out/trial-0007/     the run itself: log.jsonl, output.txt (what it printed), and what else its recipe writes
    out/lock            held while a sweep is at work here

Trial 0 has the settings that the recipe has already, so the best is never worse than what was there; it is left out
where they lie outside of what is searched. What to try next is Optuna's choice, by its tree-structured Parzen estimator
(Bergstra et al. 2011); where there are no more combinations than trials, all are tried. Losers are stopped by
successive halving (Li et al. 2020, ASHA): a trial that is not among the best third of those so far when it reaches
`grace`, 3 * grace, 9 * grace ... steps ends there.

A trial's value at a step is the mean of what it logged in the tenth of the run before that step, because one batch says
little. With `jobs=1` a sweep is a function of its seed, whether or not it was interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cm3.errors import ConfigError
from cm3.files import disk_error, locked, said, write
from cm3.train.trial import REDUCTION, Command, Law, TrialRun

POLL = 0.2
"""Seconds between two looks at the logs."""
STATES = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "unfinished"}
GOOD = ("done", "stopped")


@dataclass(frozen=True)
class Axis:
    """One setting and what it may be: `choices`, or a number from `low` to `high`, whole where both ends are."""

    name: str
    start: Any
    """What the recipe has."""
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    def suggest(self, trial: Any) -> Any:
        """The value of an Optuna trial."""
        if self.choices:
            words = self.words()
            return self.choices[words.index(trial.suggest_categorical(self.name, words))]
        if isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def words(self) -> list[str]:
        """The choices as Optuna holds them, which takes no tuples."""
        return [repr(c) for c in self.choices]

    def all(self) -> list[Any] | None:
        """Every value, as Optuna holds it; None where they can not be counted."""
        if self.choices:
            return list(self.words())
        return list(range(self.low, int(self.high) + 1)) if isinstance(self.low, int) else None

    def own(self) -> Any:
        """The recipe's value, as Optuna holds it; None where it is outside. A single choice is set for all trials."""
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
    """What of the log is to be small."""
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
        """What may not change between two sweeps in one folder; more trials or jobs may."""
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
    """Best first: those that were finished by value, then the stopped by how far they came, then the rest."""
    order = list(STATES.values())

    def key(r: Result) -> tuple[float, ...]:
        value = math.inf if r.value is None else r.value
        return (order.index(r.state), -r.step if r.state == "stopped" else 0, value, r.trial)

    return sorted(results, key=key)


def replaced(config: Any, values: Mapping[str, Any]) -> Any:
    """A config with fields replaced by dotted name: `replaced(run, {"optim.lr": 3e-4})`."""
    for name, value in values.items():
        head, _, rest = name.partition(".")
        new = replaced(getattr(config, head), {rest: value}) if rest else value
        config = dataclasses.replace(config, **{head: new})
    return config


def _check_study(path: Path) -> None:
    """Raise `ValueError` for a file that is another's: opened, it would be given tables of a study."""
    if path.exists() and path.stat().st_size:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as file:
            names = {name for (name,) in file.execute("select name from sqlite_master where type = 'table'")}
        if names and "studies" not in names:
            raise ValueError("it is a database of something else")


class Sweep:
    """A sweep in its folder; use it in a `with`. `run` does it all."""

    def __init__(self, config: SweepConfig, command: Command) -> None:
        """Raises `ConfigError` where Optuna is missing, the folder is another sweep's, or one is at work in it."""
        try:
            import optuna
        except ImportError as error:
            raise ConfigError("a sweep needs Optuna, which is not installed: pip install optuna") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config, self.command, self.out = config, command, Path(config.out)
        self._law = Law(config.metric, config.steps, config.grace or math.ceil(config.steps / REDUCTION**2))
        path = (self.out / "study.db").resolve()
        self._held = contextlib.ExitStack()
        self._held.enter_context(locked(self.out / "lock", f"sweep in {config.out!r}"))
        try:
            _check_study(path)
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            pruner = optuna.pruners.SuccessiveHalvingPruner(self._law.grace, REDUCTION)
            self.study = optuna.create_study(
                study_name="sweep", storage=self._storage, pruner=pruner, load_if_exists=True
            )
            there = self.study.user_attrs.get("sweep")
        except Exception as error:  # SQLAlchemy raises many kinds for a file that is no database
            self._held.close()
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
        self._first = len(self._all())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._storage.remove_session()
        self._storage.engine.dispose()
        self._held.close()

    def run(self, told: Callable[[Result], None] = lambda result: None) -> list[Result]:
        """Train until there are `trials` that are done or stopped; a failed one is not tried again. All, best first.

        One whose process was stopped by a signal is left to the next sweep, which goes on with it.

        Calls `told` with each trial that ends. Raises `ConfigError` where nothing but failures comes, or where no trial
        logs the metric. Interrupted, it stops the trials under way; the next sweep in the folder continues them.
        """
        unfinished = [t.number for t in self._all() if t.state.name == "RUNNING"]
        ended = sum(r.state in GOOD for r in self.results())
        left, good, failures = self.config.trials - ended, ended > 0, 0
        running: list[TrialRun] = []
        try:
            while True:
                while left > 0 and len(running) < self.config.jobs:
                    trial = self._ask(unfinished.pop(0) if unfinished else None)
                    if trial is None:
                        break
                    left -= 1
                    values = {axis.name: axis.suggest(trial) for axis in self.config.space}
                    if self._known(trial):
                        told(self._write()[trial.number])
                        continue
                    running.append(TrialRun(trial, self._folder(trial.number), values, self.command, self._law))
                for run in [run for run in running if run.follow()]:
                    running.remove(run)
                    result = self._write()[run.trial.number]
                    told(result)
                    good, failures = good or result.state in GOOD, failures + (result.state == "failed")
                    if failures and not good and (failures == 3 or not (running or left > 0)):
                        raise ConfigError(
                            f"recipe {self.config.recipe!r}: every trial failed, the last with: {result.reason} "
                            f"({run.folder / 'output.txt'}); mend that and start the sweep again"
                        )
                if not running and (left <= 0 or self._plan() is None):
                    return ranked(self.results())
                time.sleep(POLL if running else 0)
        finally:
            for run in running:
                run.stop()
            self._write()

    def results(self) -> list[Result]:
        """Every trial, by number."""
        return [self._result(t) for t in self._all() if t.state.name in STATES]

    def _all(self) -> list[Any]:
        """Optuna's trials, by number."""
        return self.study.get_trials(deepcopy=False)

    def _ask(self, number: int | None) -> Any:
        """The unfinished trial `number`, or a new one; None where there is nothing left to try."""
        import optuna

        trials = self._all()
        # Each draw has a seed of its own, so that it does not depend on when the sweep was interrupted.
        seed = self.config.seed * 100_003 + (len(trials) if number is None else number)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        if number is not None:
            return optuna.Trial(self.study, trials[number]._trial_id)
        plan = self._plan()
        if plan is None:
            return None
        if plan:
            self.study.enqueue_trial(plan)
        return self.study.ask()

    def _known(self, trial: Any) -> bool:
        """Whether the same values were tried before; then the trial has that result, at no cost."""
        trials = self._all()
        ended = [t for t in trials if t.state.name in ("COMPLETE", "PRUNED") and t.intermediate_values]
        twin = next((t for t in ended if t.params == trials[trial.number].params), None)
        if twin is None:
            return False
        step = max(twin.intermediate_values)
        trial.report(twin.intermediate_values[step], step)
        trial.set_user_attr("reason", f"the same as trial {twin.number}")
        self.study.tell(trial, twin.value if twin.state.name == "COMPLETE" else None, twin.state)
        return True

    def _plan(self) -> dict[str, Any] | None:
        """The next trial where it is settled: {} where Optuna is to draw it, None where none is left."""
        trials = self._all()
        if any(t.state.name == "WAITING" for t in trials):
            return {}
        # One that failed is tried again by the next sweep: its reason may be gone.
        tried = [t.params for t in trials if t.state.name != "FAIL" or t.number >= self._first]
        own = {a.name: a.own() for a in self.config.space}
        if None not in own.values() and own not in tried:
            return own
        ranges = [a.all() for a in self.config.space]
        counted = [r for r in ranges if r is not None]
        if len(counted) < len(ranges) or math.prod(map(len, counted)) > self.config.trials:
            return {}
        points = [dict(zip(own, p, strict=True)) for p in itertools.product(*counted)]
        random.Random(self.config.seed).shuffle(points)
        return next((p for p in points if p not in tried), None)

    def _result(self, trial: Any) -> Result:
        steps = trial.intermediate_values
        value = trial.value if trial.state.name == "COMPLETE" else steps[max(steps)] if steps else None
        values = {}
        for axis in self.config.space:
            if axis.name in trial.params:
                raw = trial.params[axis.name]
                values[axis.name] = axis.choices[axis.words().index(raw)] if axis.choices else raw
        folder, reason = str(self._folder(trial.number)), trial.user_attrs.get("reason", "")
        return Result(trial.number, STATES[trial.state.name], value, max(steps, default=0), values, folder, reason)

    def _folder(self, number: int) -> Path:
        return self.out / f"trial-{number:04d}"

    def _write(self) -> dict[int, Result]:
        results = self.results()
        write(self.out / "trials.jsonl", "".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in results))
        return {r.trial: r for r in results}
