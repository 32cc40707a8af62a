"""`cm3 chart RUN...`: the logs of runs as curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.files import check_sheet, write_sheet
from cm3.cli.options import Verb
from cm3.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Chart(Verb):
    """Draw the logs of runs, finished or under way, as a picture: a panel for each number, a line for each run.

    examples:
      cm3 chart runs/scenes/pretrain
      cm3 chart runs/a runs/b --names loss_image val_loss --out both.png
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN...")]
    """Folders that `cm3 train` wrote to."""
    names: Annotated[tuple[str, ...], arg(metavar="NAME...", help_behavior_hint="(default: the usual ones)")] = ()
    """Which numbers of log.jsonl."""
    out: Annotated[str, arg(metavar="FILE")] = "chart.png"
    """The picture to write."""

    def run(self) -> dict[str, Any]:
        """Write it."""
        from cm3.train.chart import chart, read_log

        if not self.runs:
            raise RequestError("no run; give folders that `cm3 train` wrote to")
        out = Path(self.out)
        check_sheet(out, "--out")
        write_sheet(out, chart({run: read_log(run) for run in self.runs}, self.names))
        print(self.out)
        return {"out": self.out}
