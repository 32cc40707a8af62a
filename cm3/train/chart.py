"""The logs of runs as curves: a sheet with a panel for each number, a line in it for each run.

out/log.jsonl --read_log--> {"loss": [(step, value), ...], ...} --chart--> picture
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from cm3.errors import ConfigError, did_you_mean
from cm3.train.track import numbers, read_lines

Curve = list[tuple[float, float]]
Curves = dict[str, Curve]
SHOWN = (
    "loss", "val_loss", "loss_text", "loss_image", "loss_special", "grad_norm", "output_norm", "lr", "tokens_per_s",
    "mfu", "data_wait", "memory_gb",
)  # fmt: skip
"""What is drawn where nothing is asked for, of what there is."""
COLOURS = ("#2a6fdb", "#d1495b", "#2e8b57", "#b8860b", "#7d4cdb", "#1b1c22")
INK, FAINT, PAPER = "#1b1c22", "#d9dae2", "#ffffff"
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 520, 280, 64, 34, 14, 28
COLUMNS = 3


def read_log(out: str | Path) -> Curves:
    """Each number of a run's log over the steps, in order.

    Raises `ConfigError` for a folder without a log.
    """
    path = Path(out) / "log.jsonl"
    if not path.is_file():
        raise ConfigError(f"run {str(out)!r}: has no log.jsonl; give a folder that `cm3 train` wrote to")
    curves: Curves = {}
    for record in read_lines(path):
        for name, value in numbers(record).items():
            curves.setdefault(name, []).append((record["step"], value))
    return curves


def chart(runs: Mapping[str, Curves], names: Sequence[str] = ()) -> PIL.Image.Image:
    """A sheet of the numbers `names`, by default the usual ones, of runs by their label.

    Raises `ConfigError` for a name that no run has, and where there is nothing to draw.
    """
    known = sorted({name for curves in runs.values() for name in curves})
    for name in names:
        if name not in known:
            raise ConfigError(f"names: no log has {name!r}.{did_you_mean(name, known)} They have {', '.join(known)}")
    shown = list(names) or [name for name in SHOWN if name in known]
    if not shown:
        raise ConfigError("runs: their logs have no numbers yet; wait for the first line")
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    picture = PIL.Image.new("RGB", (columns * WIDTH, rows * HEIGHT + TOP), PAPER)
    draw = PIL.ImageDraw.Draw(picture)
    at = 12
    for label, colour in zip(runs, _colours(len(runs)), strict=True):
        draw.text((at, 8), label, fill=colour, font=_font(15))
        at += int(draw.textlength(label, font=_font(15))) + 24
    for i, name in enumerate(shown):
        curves = [run.get(name, []) for run in runs.values()]
        _panel(draw, (i % columns * WIDTH, TOP + i // columns * HEIGHT), name, curves)
    return picture


def _panel(draw: PIL.ImageDraw.ImageDraw, corner: tuple[int, int], name: str, curves: list[Curve]) -> None:
    x0, y0 = corner[0] + LEFT, corner[1] + TOP
    x1, y1 = corner[0] + WIDTH - RIGHT, corner[1] + HEIGHT - BOTTOM
    points = [p for curve in curves for p in curve]
    steps, values = [p[0] for p in points], [p[1] for p in points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    room = (high - low or abs(high) or 1) * 0.05
    low, high = low - room, high + room

    def place(step: float, value: float) -> tuple[float, float]:
        return x0 + (step - first) / ((last - first) or 1) * (x1 - x0), y1 - (value - low) / (high - low) * (y1 - y0)

    draw.text((x0, corner[1] + 10), name, fill=INK, font=_font(15))
    for value in _ticks(low, high):
        y = place(first, value)[1]
        draw.line([(x0, y), (x1, y)], fill=FAINT)
        draw.text((x0 - 6, y), f"{value:.4g}", fill=INK, font=_font(11), anchor="rm")
    for step in _ticks(first, last):
        draw.text((place(step, low)[0], y1 + 6), f"{step:g}", fill=INK, font=_font(11), anchor="ma")
    draw.line([(x0, y0), (x0, y1), (x1, y1)], fill=INK)
    for curve, colour in zip(curves, _colours(len(curves)), strict=True):
        line = [place(*p) for p in curve]
        if len(line) > 1:
            draw.line(line, fill=colour, width=2, joint="curve")
        elif line:
            draw.ellipse([(line[0][0] - 2, line[0][1] - 2), (line[0][0] + 2, line[0][1] + 2)], fill=colour)


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high: 1, 2 or 5 times a power of ten apart."""
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    apart = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))
    return [apart * i for i in range(math.ceil(low / apart), math.floor(high / apart) + 1)]


def _colours(number: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(number)]


def _font(size: int) -> PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont:
    return PIL.ImageFont.load_default(size)
