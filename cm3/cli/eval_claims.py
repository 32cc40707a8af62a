"""`cm3 eval claims`: the paper's statements in miniature, from training to a page with verdicts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from cm3.cli.options import Flag, Verb, stopped
from cm3.cli.outputs import check_folder
from cm3.cli.recipe import module_of
from cm3.errors import RequestError, did_you_mean
from cm3.files import read_json, write


@dataclass(frozen=True, kw_only=True)
class EvalClaims(Verb):
    """Test the paper's seven statements in miniature: train small models on the world that ships, measure, judge.

    The plan is recipes/paper.py. Each step is done once, whatever interrupts: the same command goes on where it was.
    `full` takes three quarters of an hour of one core, `reduced` 20 minutes; `smallest` only shows that it works, its
    verdicts say nothing. It ends in OUT/claims.json and a page made of it, with a chart for each statement.

    examples:
      cm3 eval claims --list
      cm3 eval claims --size reduced --out runs/claims
      cm3 eval claims --size full --out runs/claims --page docs/claims.md
      cm3 eval claims --only 1 --out runs/claims
    """

    size: Annotated[str, arg(metavar="full|reduced|smallest")] = "reduced"
    """How large the plan is."""
    only: Annotated[tuple[int, ...], arg(metavar="N...", help_behavior_hint="(default: all)")] = ()
    """Numbers of the statements to test, 1 to 7."""
    out: Annotated[str, arg(metavar="DIR")] = "runs/claims"
    """Where steps, models and claims.json go."""
    page: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: claims.md in OUT)")] = None
    """The page to write; charts go to images/claims beside it."""
    plan: Annotated[str, arg(metavar="PLAN")] = "paper"
    """Recipe file with the plan; the default comes with the package."""
    list: Annotated[Flag, arg(help="Say which steps there are and what they cost, and do nothing.")] = False
    rewrite: Annotated[Flag, arg(help="Write the page again from OUT/claims.json, and do nothing else.")] = False

    def run(self) -> dict[str, Any]:
        """Do what is not done yet, a line a step; then judge, and write the page."""
        from cm3.claims import drawn_world as world
        from cm3.claims.claims_page import check_page, page_of, write_page
        from cm3.claims.steps import for_statements, work
        from cm3.claims.verdicts import STATEMENTS

        out, path = Path(self.out), self.page or Path(self.out, "claims.md")
        check_folder(out)
        check_page(path)
        if self.rewrite:
            page = read_json(out / "claims.json", f"{self.out!r}")
            write_page(page, path)
            return self._told(page, path)
        recipe = module_of(self.plan)
        if self.size not in recipe.SIZES:
            raise RequestError(
                f"--size {self.size}: must be one of {', '.join(recipe.SIZES)}.{did_you_mean(self.size, recipe.SIZES)}"
            )
        if wrong := [number for number in self.only if not 1 <= number <= len(STATEMENTS)]:
            raise RequestError(f"--only {wrong[0]}: must be a statement's number, 1 to {len(STATEMENTS)}")
        numbers = sorted({*self.only}) or range(1, len(STATEMENTS) + 1)
        steps = for_statements(recipe.plan(self.size), numbers)
        if self.list:
            for step in steps:
                print(f"{step.name:<24}{lasts(step.seconds):>14}  statement {', '.join(map(str, step.serves))}")
            print(f"{len(steps)} steps, {lasts(sum(step.seconds for step in steps))} on one core")
            return {"steps": [step.name for step in steps], "seconds": sum(step.seconds for step in steps)}

        def told(name: str, done: int, total: int, spent: float, left: float) -> None:
            if spent:
                print(f"[{done}/{total}] {name:<24}{lasts(spent):>14}   {lasts(left)} left", flush=True)

        made = work(steps, out, told)
        if "stopped" in made:
            return stopped(out)
        page = page_of(made["results"], recipe.SIZES[self.size], numbers, self.size, world.NAME, made["processor_s"])
        write(out / "claims.json", json.dumps(page, indent=1) + "\n")
        write_page(page, path)
        return self._told(page, path)

    def _told(self, page: dict[str, Any], path: Path) -> dict[str, Any]:
        for statement in page["statements"]:
            print(f"{statement['number']}. {statement['title']}: {statement['verdict']}")
        print(path)
        return {"page": str(path), "verdicts": {s["number"]: s["verdict"] for s in page["statements"]}}


def lasts(seconds: float) -> str:
    """Say how long something lasts."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"
