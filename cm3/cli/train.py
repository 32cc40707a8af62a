"""`cm3 train RECIPE`: run a recipe, with any of its settings replaced on the command line."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_type_hints

from tyro.conf import Positional, Suppress, arg

from cm3.cli.options import HERE, Common, Flag, Verb
from cm3.cli.parse import HELP, names_of, parse
from cm3.cli.recipe import config_of, find
from cm3.errors import ConfigError

Resume = Annotated[Flag, arg(help="Go on from the last checkpoint in the run's folder, where there is one.")]


@dataclass(frozen=True, kw_only=True)
class Train(Verb):
    """Run a recipe: a Python function that returns the settings of a run.

    A run writes its log, samples and checkpoints below its `out`; killed, it goes on from its last checkpoint with
    --resume, as if it had never stopped. On SIGTERM or Ctrl-C it is saved first, and the exit code is 75. Every setting
    can be replaced by its dotted name. Under torchrun the processes share the work, and any number of them may go on
    from a checkpoint.

    examples:
      cm3 train scenes:pretrain --help
      cm3 train scenes:pretrain --optim.lr 3e-4 --steps 500 --out runs/try
      cm3 train recipes/scenes.py:pretrain --resume
      torchrun --nproc-per-node 8 -m cm3 train recipes/pretrain.py:cm3leon_350m
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """path/to/file.py:FUNCTION, NAME:FUNCTION of those that come with the package (scenes:pretrain), or
    module:FUNCTION; its --help tells its price, its promise and its settings."""
    resume: Resume = False
    config: Suppress[Any] = None

    @classmethod
    def parse(cls, args: Sequence[str], prog: str) -> Self:
        """Load the recipe that comes first, then read the rest against its settings."""
        if not args or args[0].startswith("-"):
            if not any(a in HELP for a in args):
                raise ConfigError(f"no recipe; write {prog} path/to/file.py:FUNCTION, and the options after it")
            return super().parse(args, prog)
        spec, *rest = args
        recipe = find(spec)
        config = config_of(spec, recipe)
        # A setting of the recipe that is called like an option of ours is the recipe's (its threads, its out).
        taken = list(names_of(config))
        ours = {f.name: f for f in dataclasses.fields(Common) if f.name not in taken}
        hints = get_type_hints(Common, include_extras=True)
        form = dataclasses.make_dataclass(
            "Run",
            [
                ("config", Annotated[type(config), HERE], dataclasses.field(default=config)),
                ("resume", Resume, dataclasses.field(default=False)),
                *((name, hints[name], f) for name, f in ours.items()),
            ],
            frozen=True,
        )
        told = inspect.getdoc(recipe) or "This recipe has no docstring: it states neither price nor promise."
        told = re.sub(r"\n+(?=[a-z]+: )", "\n\n", told)  # a line "price: ..." stands by itself, help joins the rest
        names = [*taken, "resume", *ours]
        run: Any = parse(form, rest, prog=f"{prog} {spec}", description=told, names=names)
        common = Common(**{name: getattr(run, name) for name in ours})
        return cls(recipe=spec, resume=run.resume, config=run.config, common=common)

    def run(self) -> dict[str, Any]:
        """Train; prints what came out. Of many processes, the first one prints."""
        result = dict(self.config.run(progress=True, resume=self.resume) or {})
        if os.environ.get("RANK", "0") == "0":
            for name, value in result.items():
                print(f"{name}: {value}")
            if "stopped" in result:
                told = f"stopped by {result['stopped']} at step {result['step']}, which is saved"
                print(f"cm3: {told}; go on with the same command and --resume", file=sys.stderr)
        return result
