"""`cm3 chart RUN...`: the logs of runs as curves, drawn by matplotlib.

out/log.jsonl --read_log--> {"loss": [(step, value), ...], ...} --figure--> a panel for each number, a line for each run
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import Verb
from cm3.cli.outputs import SHEET, check_sheet
from cm3.errors import ConfigError, RequestError, did_you_mean
from cm3.files import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = dict[str, list[tuple[float, float]]]
SHOWN = (
    "loss", "val_loss", "loss_text", "loss_image", "loss_special", "grad_norm", "output_norm", "lr", "tokens_per_s",
    "mfu", "data_wait", "memory_gb",
)  # fmt: skip
"""The numbers that are drawn where none is asked for, of those that are there."""


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
    """Numbers of log.jsonl to draw."""
    out: Annotated[str, arg(metavar="FILE")] = "chart.png"
    """The picture to write."""

    def run(self) -> dict[str, Any]:
        """Write it."""
        if not self.runs:
            raise RequestError("no run; give folders that `cm3 train` wrote to")
        check_sheet(Path(self.out), "--out")
        drawn, picture = figure({run: read_log(run) for run in self.runs}, self.names), io.BytesIO()
        drawn.savefig(picture, format="png", metadata=SHEET)
        write(self.out, picture.getvalue())
        print(self.out)
        return {"out": self.out}


def read_log(out: str | Path) -> Curves:
    """Return each number of a run's log over the steps, in order.

    Raises `ConfigError` for a folder without a log.
    """
    from cm3.train.track import numbers, read_lines

    path = Path(out) / "log.jsonl"
    if not path.is_file():
        raise ConfigError(f"run {str(out)!r}: has no log.jsonl; give a folder that `cm3 train` wrote to")
    curves: Curves = {}
    for record in read_lines(path):
        for name, value in numbers(record).items():
            curves.setdefault(name, []).append((record["step"], value))
    return curves


def figure(runs: Mapping[str, Curves], names: Sequence[str] = ()) -> Figure:
    """Draw the numbers `names`, by default the usual ones, of runs by their label.

    Raises `ConfigError` for a name that no run has, where there is nothing to draw, and without matplotlib.
    """
    known = sorted({name for curves in runs.values() for name in curves})
    for name in names:
        if name not in known:
            raise ConfigError(f"names: no log has {name!r}.{did_you_mean(name, known)} They have {', '.join(known)}")
    shown = list(names) or [name for name in SHOWN if name in known]
    if not shown:
        raise ConfigError("runs: their logs have no numbers yet; wait for the first line")
    try:
        from matplotlib.figure import Figure  # draws into memory; pyplot would look for a screen
    except ImportError as error:
        raise ConfigError("a chart needs matplotlib, which is not installed: pip install matplotlib") from error
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    made = Figure(figsize=(5.2 * columns, 2.9 * rows + 0.3 * len(runs)), dpi=100, layout="constrained")
    panels = made.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels[len(shown) :]:
        panel.remove()
    for panel, name in zip(panels, shown, strict=False):
        panel.set_title(name, loc="left", fontsize="medium")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        for label, curves in runs.items():
            points = curves.get(name, [])
            panel.plot(*([p[i] for p in points] for i in (0, 1)), label=label, marker="." * (len(points) == 1))
    made.legend(*made.axes[0].get_legend_handles_labels(), loc="outside upper left", frameon=False)
    return made
