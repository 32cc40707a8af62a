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
from cm3.cli.recipe import Recipe, config_of, find
from cm3.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RecipeVerb(Verb):
    """A verb that takes a recipe first, and then any of its settings by dotted name among its own options."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """path/to/file.py:FUNCTION, NAME:FUNCTION of those that come with the package (scenes:pretrain), or
    module:FUNCTION; its --help tells its price, its promise and its settings."""
    config: Suppress[Any] = None

    @classmethod
    def parse(cls, args: Sequence[str], prog: str) -> Self:
        """Load the recipe that comes first, then read the rest against its settings and the verb's own options."""
        if not args or args[0].startswith("-"):
            if not any(a in HELP for a in args):
                raise ConfigError(f"no recipe; write {prog} path/to/file.py:FUNCTION, and the options after it")
            return super().parse(args, prog)
        spec, *rest = args
        recipe = find(spec)
        config = cls.check(spec, config_of(spec, recipe))
        own, common = get_type_hints(cls, include_extras=True), get_type_hints(Common, include_extras=True)
        # A setting of the recipe that is called like a common option is the recipe's (its threads, its out).
        taken = list(names_of(config))
        mine = [f for f in dataclasses.fields(cls) if f.name not in ("recipe", "config", "common")]
        shared = [f for f in dataclasses.fields(Common) if f.name not in taken]
        form = dataclasses.make_dataclass(
            "Run",
            [
                *((f.name, own[f.name], dataclasses.field(default=f.default)) for f in mine),
                ("config", Annotated[type(config), HERE], dataclasses.field(default=config)),
                *((f.name, common[f.name], dataclasses.field(default=f.default)) for f in shared),
            ],
            frozen=True,
        )
        run: Any = parse(form, rest, prog=f"{prog} {spec}", description=cls.about(recipe))
        found = {f.name: getattr(run, f.name) for f in mine}
        shared_ = Common(**{f.name: getattr(run, f.name) for f in shared})
        made = run.config
        if hasattr(made, "given_init"):
            made = made.given_init(config)
        return cls(recipe=spec, config=made, common=shared_, **found)

    @classmethod
    def check(cls, spec: str, config: Any) -> Any:
        """Return the settings of a recipe, or raise `RequestError` for those of no use to the verb."""
        return config

    @classmethod
    def about(cls, recipe: Recipe) -> str:
        """Return what --help says above the options of a recipe."""
        return inspect.getdoc(cls) or ""


@dataclass(frozen=True, kw_only=True)
class Train(RecipeVerb):
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

    resume: Annotated[Flag, arg(help="Go on from the last checkpoint in the run's folder, where there is one.")] = False

    @classmethod
    def about(cls, recipe: Recipe) -> str:
        """Return the recipe's docstring."""
        told = inspect.getdoc(recipe) or "This recipe has no docstring: it states neither price nor promise."
        return re.sub(r"\n+(?=[a-z]+: )", "\n\n", told)  # a line "price: ..." stands by itself, help joins the rest

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
