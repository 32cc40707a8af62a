"""Results of a plan -> one page of plain values, claims.json -> a page for people, with a chart for each statement.

The page for people is made of claims.json alone, so that it can be written again, elsewhere, without the models.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm3.claims.verdicts import DRAWS, FAILS, HOLDS, OPEN, STATEMENTS, Results
from cm3.errors import ConfigError
from cm3.files import write
from cm3.score.result_file import hardware, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "<!-- made by cm3 eval claims -->"
"""First line of a page that may be written over."""


def page_of(results: Results, size: Any, numbers: Sequence[int], name: str, world: str, cost: float) -> dict[str, Any]:
    """Return the page of plain values: the verdicts, what they rest on, and what was run where.

    `size` is the plan's, called `name`; `cost` its processor seconds.
    """
    statements = []
    for number in numbers:
        statement = STATEMENTS[number - 1]
        found = statement.judge(results, size)
        comparisons = [dataclasses.asdict(c) | {"verdict": c.verdict} for c in found.comparisons]
        made = dataclasses.asdict(found) | {"comparisons": comparisons, "verdict": found.verdict, "number": number}
        statements.append(made | {f: getattr(statement, f) for f in ("title", "paper", "here", "rule")})
    return {
        "size": name,
        "plan": dataclasses.asdict(size),
        "world": world,
        "processor_seconds": round(cost),
        "versions": versions(),
        "machine": hardware(),
        "statements": statements,
    }


def check_page(path: Path) -> None:
    """Raise `ConfigError` where a page would be written over what is none of ours."""
    if path.is_dir() or (path.exists() and not path.read_bytes().startswith(MARK.encode())):
        raise ConfigError(f"page {str(path)!r}: is there, and is none that cm3 eval claims wrote; give another name")


def write_page(page: Mapping[str, Any], path: Path) -> None:
    """Write the page for people, and its charts beside it, in images/claims/. Raises as `check_page` does."""
    check_page(path)
    charts = path.parent / "images" / "claims"
    for statement in page["statements"]:
        drawn, picture = chart(statement), io.BytesIO()
        drawn.savefig(picture, format="png", metadata={"made": "cm3 sheet"})
        write(charts / f"{statement['number']}.png", picture.getvalue())
    write(path, "\n".join(_text(page)))


def chart(statement: Mapping[str, Any]) -> Figure:
    """Draw a statement's curves, with the intervals of their points."""
    try:
        from matplotlib.figure import Figure  # draws into memory; pyplot would look for a screen
    except ImportError as error:
        raise ConfigError("a chart needs matplotlib, which is not installed: pip install matplotlib") from error
    made = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    panel = made.subplots()
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(statement["y"], loc="left", fontsize="medium")
    panel.set_xlabel(statement["x"])
    for line in statement["lines"]:
        x, y, low, high = ([point[i] for point in line["points"]] for i in range(4))
        (drawn,) = panel.plot(x, y, label=line["label"], marker="." if len(x) < 20 else None)
        panel.fill_between(x, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    if statement["log"]:
        panel.set_xscale("log")
    ticks = sorted({point[0] for line in statement["lines"] for point in line["points"]})
    if len(ticks) < 10:
        panel.set_xticks(ticks, statement["places"] or [f"{tick:.3g}" for tick in ticks])
        panel.minorticks_off()
    panel.legend(frameon=False, fontsize="small")
    return made


def _text(page: Mapping[str, Any]) -> list[str]:
    """Return the lines of the page for people."""
    plan, made = page["plan"], page["statements"]
    verdicts = [statement["verdict"] for statement in made]
    models = ", ".join(f"{name} ({shape[1]} deep, {shape[0]} wide)" for name, shape in plan["models"].items())
    command = f"cm3 eval claims --size {page['size']}"
    seen = plan["steps"] * plan["windows"] * 512
    lines = [
        MARK,
        "# The paper's statements, in miniature",
        "",
        '"Scaling Autoregressive Multi-Modal Models: Pretraining and Instruction Tuning" (arXiv 2309.02591) makes '
        "seven statements that can be tested without its data. This page tests them with small models on a drawn "
        "world, whose pictures can be read back exactly, by rules that were written down beforehand. It says nothing "
        "of the paper's own models: a statement that fails here may hold there, and the other way round.",
        "",
        f"    {command} --page docs/claims.md",
        "",
        f"{verdicts.count(HOLDS)} hold, {verdicts.count(FAILS)} do not, {verdicts.count(OPEN)} cannot be told at this "
        "size.",
        "",
        *_table(
            ("", "statement", "verdict"),
            [[str(s["number"]), f"[{s['title']}](#{_anchor(s)})", f"**{s['verdict']}**"] for s in made],
        ),
        "",
        f"**What was run.** The plan `{page['size']}` of `recipes/paper.py`, on the world `{page['world']}`: models "
        f"{models}, each from nothing on {seen / 1e6:.2f}M tokens of captioned pictures (8 x 8 codes, "
        f"{_objects(plan['objects'])}), tuned on {plan['tuning'] * plan['windows'] * 512 / 1e6:.2f}M more where a "
        f"statement needs it; the middle one is {plan['middle']}. {page['processor_seconds'] / 3600:.1f} processor "
        f"hours ({page['machine']['processor']}, {', '.join(page['machine']['flags']) or 'plain'}, "
        f"{page['machine']['threads']} thread), torch {page['versions']['torch']}, cm3 {page['versions']['cm3']}.",
        "",
        "**What is measured.** The paper has FID. Here each picture is read back by measuring its pixels. An object "
        "has four parts, that something stands in its place, of its shape, its colour and its size; `parts right` is "
        "the share of them, an object too many counting as one with none. `exactly right`: all objects and the ground, "
        "and nothing else. Numbers in parentheses are 95% intervals.",
        "",
        "**How it is judged.** A number decides where its interval, percentiles of a paired bootstrap of "
        f"{DRAWS:,} draws over the same cases, lies wholly on one side of its margin. All numbers of a statement have "
        "to hold; one that fails is enough for `does not hold`; else it `cannot be told at this size`. The rules are "
        "in `cm3/claims/verdicts.py`. **What they leave out:** each model was trained once, with one seed, so what "
        "another seed of training would give is in no interval; and seven statements are judged at 95% each.",
    ]
    for statement in made:
        lines += [
            "",
            f"## {statement['number']}. {statement['title']}",
            "",
            f"**{statement['verdict'][0].upper()}{statement['verdict'][1:]}.**",
            "",
            f"- In the paper: {statement['paper']}",
            f"- Here: {statement['here']}",
            f"- The rule: {statement['rule']}",
            "",
            *_table(
                ("number that decides", "value", "95% interval", "has to be", "verdict"),
                [_decides(comparison) for comparison in statement["comparisons"]],
            ),
            "",
            *_table(statement["header"], statement["rows"]),
            "",
            *[line for note in statement["notes"] for line in (note, "")],
            f"![{statement['title']}](images/claims/{statement['number']}.png)",
            "",
            f"    {command} --only {statement['number']}",
        ]
    return [*lines, ""]


def _decides(c: Mapping[str, Any]) -> list[str]:
    rule = f"within {c['margin']:.2g}" if c["way"] == "same" else f"over {0 - c['margin']:g}"
    says = f"premise: {c['says']}" if c["premise"] else c["says"]
    return [says, f"{c['value']:+.3f}", f"{c['low']:+.3f} to {c['high']:+.3f}", rule, c["verdict"]]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _anchor(statement: Mapping[str, Any]) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    words = f"{statement['number']}. {statement['title']}".lower()
    return "".join(c for c in words if c.isalnum() or c in " -").replace(" ", "-")


def _objects(shares: Sequence[float]) -> str:
    names = ("one object", "two objects", "three objects", "four objects")
    shown = [f"{name} in {share:.0%}" for name, share in zip(names, shares, strict=False) if share]
    return names[0] if len(shares) == 1 else ", ".join(shown)
