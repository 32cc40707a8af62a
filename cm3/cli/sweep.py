"""`cm3 sweep RECIPE`: search settings of a recipe. It ends in the options that won."""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from cm3.cli.options import Verb, at_least
from cm3.cli.outputs import check_folder
from cm3.cli.parse import names_of, near_name
from cm3.cli.recipe import config_of, find
from cm3.cli.train import Train
from cm3.errors import Cm3Error, RequestError
from cm3.train.sweep import Axis, Result, SweepConfig, sweep

OURS = ("out", "steps", "resume")
"""Settings of a run that a sweep gives to its trials itself."""


@dataclass(frozen=True, kw_only=True)
class Sweep(Verb):
    """Search settings of a recipe: many runs with different values, the losers stopped early.

    A range A..B is searched on a logarithmic scale where both ends are over 0 and at least ten times apart; `log:A..B`
    and `lin:A..B` say which. Whole numbers stay whole. A,B,C are choices; a setting of several values takes them with
    spaces ("optim.betas=0.9 0.95,0.9 0.98"), and a single choice is simply set. Killed, a sweep goes on when the same
    command is given again. It ends in a table, best first, and in the command that trains with the best values.

    examples:
      cm3 sweep recipes/scenes.py:pretrain --search optim.lr=1e-4..3e-3 --search windows=4,8,16 --steps 300
      cm3 sweep recipes/scenes.py:pretrain --search optim.lr=1e-4..3e-3 --trials 40 --jobs 2 --metric val_loss
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """path/to/file.py:FUNCTION or module:FUNCTION."""
    search: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUES")] = ()
    """A setting by its dotted name, and what to try: a range A..B or choices A,B,C. Give it once for each setting."""
    trials: Annotated[int, arg(metavar="N")] = 20
    """Trials in all, those that are stopped early among them."""
    metric: Annotated[str, arg(metavar="NAME")] = "loss"
    """Figure of the log to make small, such as loss, loss_image or val_loss; the mean of the last tenth of the run."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """Steps of a trial that is not stopped."""
    grace: Annotated[int, arg(metavar="N", help_behavior_hint="(default: a ninth of the steps)")] = 0
    """Steps that every trial gets before it can be stopped; at least the warm-up is wise."""
    out: Annotated[str, arg(metavar="DIR")] = "runs/sweep"
    """Folder of the sweep."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """The same seed tries the same values, with one job."""
    jobs: Annotated[int, arg(metavar="N")] = 1
    """Trials at a time on this machine, each with --threads of its own."""

    def run(self) -> dict[str, Any]:
        """Sweep; prints each trial that ends, and at last a table, best first."""
        at_least(1, trials=self.trials, jobs=self.jobs, steps=1 if self.steps is None else self.steps)
        at_least(0, grace=self.grace)
        check_folder(Path(self.out))
        if not self.search:
            raise RequestError("no --search; give at least one, such as --search optim.lr=1e-4..3e-3")
        config = config_of(self.recipe, find(self.recipe))
        for name in ("steps", "out"):
            if name not in names_of(config):
                raise RequestError(
                    f"recipe {self.recipe!r}: its run has no {name!r}, which a sweep sets for each trial"
                )
        space = tuple(axis(text, self.recipe, config) for text in self.search)
        steps = config.steps if self.steps is None else self.steps
        settings = SweepConfig(
            self.out, self.recipe, space, steps, self.metric, self.trials, self.seed, self.jobs, self.grace
        )
        results = sweep(
            settings,
            partial(train_trial, self.recipe, steps),
            lambda result: print(f"trial {result.trial}: {_line(result)}", flush=True),
        )
        print(f"\n{len(results)} trials, best first by {self.metric} ({self.out}/trials.jsonl):")
        for result in results:
            print(f"  trial {result.trial:<4} {_line(result)}")
        made: dict[str, Any] = {"out": self.out, "trials": [dataclasses.asdict(r) for r in results]}
        if results and results[0].state == "done":
            options = [word for name, value in results[0].values.items() for word in option(name, value)]
            made |= {"best": made["trials"][0], "options": options}
            print(f"train with the best: {shlex.join(['cm3', 'train', self.recipe, *options])}")
        return made


def train_trial(recipe: str, steps: int, values: Mapping[str, Any], folder: Path) -> None:
    """Train with these values in a folder, from its last checkpoint if it has one; ends the process."""
    from cm3.cli.main import main

    words = [word for name, value in values.items() for word in option(name, value)]
    sys.exit(main(["train", recipe, *words, f"--steps={steps}", f"--out={folder}", "--resume", "--json"]))


def axis(text: str, recipe: str, config: Any) -> Axis:
    """Return what one --search says, its values read as `cm3 train` reads them.

    Raises `RequestError` for those that it refuses.
    """
    name, equals, values = text.partition("=")
    where, name = f"--search {text}", name.strip().removeprefix("--").replace("-", "_")
    if not equals:
        raise RequestError(f"{where}: must be NAME=A..B or NAME=A,B,C, such as optim.lr=1e-4..3e-3")
    known = sorted(names_of(config))
    if name in OURS:
        raise RequestError(f"{where}: {name} is the same for all trials; give --{name}")
    if name not in known:
        raise RequestError(
            f"{where}: the recipe has no setting {name!r}.{near_name(name, known)} See cm3 train {recipe} --help"
        )
    start = _get(config, name)
    several, plain = isinstance(start, tuple | list), isinstance(start, str)
    if not (values.strip() or several or plain):
        raise RequestError(f"{where}: has no value; must be NAME=A..B or NAME=A,B,C")

    def read(word: str) -> Any:
        if isinstance(start, bool):
            if word not in ("true", "false"):
                raise RequestError(f"{where}: {word!r} must be true or false")
            return word == "true"
        words = [f"--{name}", *word.split()] if several else [f"--{name}={word}"]
        try:
            return _get(Train.parse([recipe, *words], "cm3 train").config, name)
        except Cm3Error as error:
            raise RequestError(f"{where}: {error}") from error

    kind, colon, ends = values.partition(":")
    if not (colon and kind in ("lin", "log")):
        kind, ends = "", values
    low, dots, high = (part.strip() for part in ends.partition(".."))
    # A path may have dots as well: a range is of a number, or is said to be one, or has two numbers as its ends.
    numeric = isinstance(start, int | float) and not isinstance(start, bool)
    if not (dots and (kind or numeric or (_number(low) and _number(high) and not plain))):
        if kind:
            raise RequestError(f"{where}: {kind}: is for a range, {kind}:A..B")
        choices = tuple(read(word.strip()) for word in values.split(","))
        if twice := [c for i, c in enumerate(choices) if c in choices[:i]]:
            raise RequestError(f"{where}: {twice[0]!r} stands there twice")
        return Axis(name, start, choices)
    a, b = read(low), read(high)
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (a, b)):
        raise RequestError(f"{where}: a range is of numbers; list the choices, NAME=A,B,C")
    if not a < b:
        raise RequestError(f"{where}: must begin below its end")
    if kind == "log" and a <= 0:
        raise RequestError(f"{where}: a logarithmic range must begin above 0; write lin:{ends}")
    whole = isinstance(a, int) and isinstance(b, int)
    log = kind == "log" or (kind == "" and not whole and a > 0 and b / a >= 10)
    return Axis(name, start, (), a if whole else float(a), b if whole else float(b), log)


def _number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def option(name: str, value: Any) -> list[str]:
    """Return the words that give a setting its value on the command line."""
    if isinstance(value, bool):
        *groups, last = name.split(".")
        return [f"--{name}" if value else f"--{'.'.join([*groups, f'no-{last}'])}"]
    if isinstance(value, tuple | list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]


def _get(config: Any, name: str) -> Any:
    return reduce(getattr, name.split("."), config)


def _line(result: Result) -> str:
    value = "-" if result.value is None else f"{result.value:.5g}"
    settings = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in result.values.items())
    return (
        f"{value:<9} {result.state:<10} step {result.step:<7} {settings}{f'  ({result.reason})' * bool(result.reason)}"
    )
