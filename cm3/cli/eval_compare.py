"""`cm3 eval compare A B`: what differs between results of one suite, and what of it is noise."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import Flag, Verb
from cm3.cli.outputs import line
from cm3.cli.results import check_result_file, interval, number
from cm3.errors import RequestError
from cm3.files import write

if TYPE_CHECKING:
    from cm3.score.compare import Comparison

KIND = "cm3-comparison"


@dataclass(frozen=True, kw_only=True)
class EvalCompare(Verb):
    """Compare results of one suite, each with the first, and say where a difference is noise.

    Items are paired by id and drawn anew 10,000 times; 95% of the differences lie in the interval. A figure that is no
    mean of items, such as FID, has none. Results of other suites, versions, references and settings are refused.

    examples:
      cm3 eval compare before.json after.json
      cm3 eval compare base.json a.json b.json --out compared.json
    """

    results: Annotated[Positional[tuple[Path, ...]], arg(metavar="RESULT.json...")]
    """Results, as the verbs of `cm3 eval` write them with --out."""
    anyway: Annotated[Flag, arg(help="Compare results of other settings too; a warning says which.")] = False
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write the comparison here, as JSON."""

    def run(self) -> dict[str, Any]:
        """Compare, print a table for each pair."""
        from cm3.score.bootstrap import DRAWS, LEVEL
        from cm3.score.compare import compare
        from cm3.score.result_file import read_result

        if len(self.results) < 2:
            raise RequestError("results: compare takes two or more; give the files that `cm3 eval ... --out` wrote")
        check_result_file(self.out, kind=KIND)
        pages = [(str(path), read_result(path)) for path in self.results]
        (first, a), others = pages[0], pages[1:]
        found = [(name, compare(a, b, (first, name), anyway=self.anyway)) for name, b in others]
        for name, one in found:
            print("\n".join(table(one, first, name)))
        page = {
            "kind": KIND, "format": 1, "suite": a.suite, "version": a.version, "a": first,
            "bootstrap": {"level": LEVEL, "draws": DRAWS, "seed": 0},
            "others": [{"b": name, **asdict(one)} for name, one in found],
        }  # fmt: skip
        if self.out is not None:
            write(self.out, json.dumps(page, indent=1) + "\n")
        return page


def table(found: Comparison, a: str, b: str) -> list[str]:
    """Return a comparison as aligned lines: figure, a, b, difference, interval, and a verdict in words."""
    from cm3.score.compare import SAID

    told = [("figure", "a", "b", "b - a", "95% interval", "")]
    for name, row in found.figures.items():
        ends = "-" if row.interval is None else interval(row.interval, "+")
        told.append((name, number(row.a), number(row.b), number(row.difference, "+"), ends, SAID[row.verdict]))
    wide = [max(len(cells[i]) for cells in told) for i in range(5)]
    rows = [
        "  ".join([cells[0].ljust(wide[0]), *(cells[i].rjust(wide[i]) for i in range(1, 5)), cells[5]]).rstrip()
        for cells in told
    ]
    return [line(f"a  {a}"), line(f"b  {b}"), *rows, *(line(f"warning: {one}") for one in found.warnings)]
