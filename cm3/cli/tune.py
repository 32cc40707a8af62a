"""`cm3 tune RECIPE`: search settings of a recipe. Its result is a recipe too."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from cm3.cli.files import check_folder
from cm3.cli.options import Verb, at_least
from cm3.cli.parse import names_of
from cm3.cli.recipe import config_of, find
from cm3.cli.train import Train
from cm3.errors import Cm3Error, RequestError, did_you_mean
from cm3.files import write
from cm3.train.tune import Axis, Result, Sweep, SweepConfig, ranked

OURS = ("out", "steps", "resume")
"""Settings of a run that a sweep gives to its trials itself."""


@dataclass(frozen=True, kw_only=True)
class Tune(Verb):
    """Search settings of a recipe: many runs with different values, the losers stopped early.

    A range A..B is searched on a logarithmic scale where both ends are over 0 and at least ten times apart; `log:A..B`
    and `lin:A..B` say which. Whole numbers stay whole. A,B,C are choices; a setting of several values takes them with
    spaces ("optim.betas=0.9 0.95,0.9 0.98"), and a single choice is simply set. Killed, a sweep goes on when the same
    command is given again. It writes OUT/trials.jsonl, and OUT/best.py: the recipe with the best values in it.

    examples:
      cm3 tune recipes/scenes.py:pretrain --search optim.lr=1e-4..3e-3 --search windows=4,8,16 --steps 300
      cm3 train runs/tune/best.py:best
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """path/to/file.py:FUNCTION or module:FUNCTION."""
    search: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUES")] = ()
    """A setting by its dotted name, and what to try: a range A..B or choices A,B,C. Give it once for each setting."""
    trials: Annotated[int, arg(metavar="N")] = 20
    """Trials in all, those that are stopped early among them."""
    metric: Annotated[str, arg(metavar="NAME")] = "loss"
    """What of the log is to be small, such as loss, loss_image or val_loss; the mean of the last tenth of the run."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """Steps of a trial that is not stopped."""
    grace: Annotated[int, arg(metavar="N", help_behavior_hint="(default: a ninth of the steps)")] = 0
    """Steps that every trial gets before it can be stopped; at least the warm-up is wise."""
    out: Annotated[str, arg(metavar="DIR")] = "runs/tune"
    """Folder of the sweep."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """The same seed tries the same values, with one job."""
    jobs: Annotated[int, arg(metavar="N")] = 1
    """Trials at a time on this machine, each with --threads of its own."""

    def run(self) -> dict[str, Any]:
        """Sweep; prints each trial that ends, and at last a table, best first."""
        at_least(1, trials=self.trials, jobs=self.jobs)
        at_least(0, grace=self.grace)
        if self.steps is not None:
            at_least(1, steps=self.steps)
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
        sweep = SweepConfig(
            self.out, self.recipe, space, steps, self.metric, self.trials, self.seed, self.jobs, self.grace
        )

        def command(values: Mapping[str, Any], folder: Path, again: bool) -> list[str]:
            words = [w for name, value in values.items() for w in option(name, value)]
            words += [f"--steps={steps}", f"--out={folder}"]
            Train.parse([self.recipe, *words], "cm3 train")  # values may fit each by itself and not together
            return [sys.executable, "-m", "cm3", "train", self.recipe, *words, "--json", *["--resume"] * again]

        def told(result: Result) -> None:
            print(f"trial {result.trial}: {_line(result)}", flush=True)
            self._write_best(at_work.results())

        with Sweep(sweep, command) as at_work:
            results = at_work.run(told)
        self._write_best(results)
        print(f"\n{len(results)} trials, best first by {self.metric} ({self.out}/trials.jsonl):")
        for result in results:
            print(f"  trial {result.trial:<4} {_line(result)}")
        made: dict[str, Any] = {"out": self.out, "trials": [dataclasses.asdict(r) for r in results]}
        if results and results[0].state == "done":
            made["best"] = made["trials"][0]
            made["recipe"] = f"{self.out}/best.py:best"
            print(f"train with the best: cm3 train {shlex.quote(made['recipe'])}")
        return made

    def _write_best(self, results: Sequence[Result]) -> None:
        best = ranked(results)[0]
        if best.state != "done":
            return
        out = Path(self.out)
        place, _, name = self.recipe.rpartition(":")
        spec = repr(self.recipe)
        if place.endswith(".py"):
            # Relative, so that a tree that holds both can be moved.
            spec = f'f"{{Path(__file__).parent}}/{os.path.relpath(place, out)}:{name}"'
        told = inspect.getdoc(find(self.recipe)) or ""
        head = told.splitlines()[0].replace("\\", "").replace('"', "'") if told else "A run of the recipe below."
        values = best.values | {"out": str(out / "best")}
        lines = "".join(f"        {key!r}: {value!r},\n" for key, value in values.items())
        text = f'''"""The best of {len(results)} trials of {self.recipe}: written by cm3 tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cm3.cli.recipe import find
from cm3.train.tune import replaced

FOUND = {{"trial": {best.trial}, {self.metric!r}: {best.value!r}, "steps": {best.step}}}


def best() -> Any:
    """{head}

    With the values of trial {best.trial}, which reached {self.metric} {best.value:.6g} in {best.step} steps.
    """
    values = {{
{lines}    }}
    return replaced(find({spec})(), values)
'''
        write(out / "best.py", text.encode())


def axis(text: str, recipe: str, config: Any) -> Axis:
    """What one --search says, its values read as `cm3 train` reads them. Raises `RequestError` for those it refuses."""
    name, equals, values = text.partition("=")
    where, name = f"--search {text}", name.strip().removeprefix("--").replace("-", "_")
    if not equals:
        raise RequestError(f"{where}: must be NAME=A..B or NAME=A,B,C, such as optim.lr=1e-4..3e-3")
    known = sorted(names_of(config))
    if name in OURS:
        raise RequestError(f"{where}: {name} is the same for all trials; give --{name}")
    if name not in known:
        inside = [k for k in known if k.split(".")[-1] == name.split(".")[-1]]
        near = did_you_mean(name, known) or (f" Did you mean {inside[0]!r}?" if inside else "")
        raise RequestError(f"{where}: the recipe has no setting {name!r}.{near} See cm3 train {recipe} --help")
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
    """The words that give a setting its value on the command line."""
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
