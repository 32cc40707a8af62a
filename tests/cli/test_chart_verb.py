"""`cm3 chart`: what a log says stands in the picture where it should; what is wrong is one line."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
from command import Cm3

from cm3.errors import ConfigError
from cm3.train.chart import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, chart, read_log


def log(out: Path, lines: list[dict[str, float]]) -> Path:
    out.mkdir(parents=True)
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "lo')
    return out


def coloured(picture: PIL.Image.Image, colour: str) -> list[tuple[int, int]]:
    """Places of the pixels of a colour below the legend."""
    wanted = tuple(bytes.fromhex(colour[1:]))
    w, h = picture.size
    return [(x, y) for x in range(w) for y in range(TOP, h) if picture.getpixel((x, y)) == wanted]


def test_a_log_becomes_a_picture(cm3: Cm3, tmp_path: Path) -> None:
    falling = log(tmp_path / "a", [{"step": s, "loss": 5.0 - s, "note": "x", "learnt": True} for s in range(1, 5)])  # type: ignore[dict-item]
    rising = log(tmp_path / "b", [{"step": s, "loss": 1.0 + s, "lr": 1e-3} for s in range(1, 4)])
    assert read_log(falling) == {"loss": [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]}
    made = cm3("chart", falling, rising, "--names", "loss", "--out", "x/both.png", "--json")
    assert made.code == 0 and made.json == {"out": "x/both.png"}
    with PIL.Image.open("x/both.png") as picture:
        assert picture.size == (WIDTH, HEIGHT + TOP)
        down, up = (coloured(picture.convert("RGB"), c) for c in COLOURS[:2])
    first, last = LEFT, WIDTH - RIGHT
    top, bottom = 2 * TOP, TOP + HEIGHT - BOTTOM
    # The first ends at the right below, where its lowest is a twentieth over the floor; the second two thirds along.
    assert min(down)[0] - first <= 2 and last - max(down)[0] <= 2
    assert min(down)[1] < top + 25 and max(down)[1] > bottom - 25
    assert max(up)[0] == pytest.approx(first + (last - first) * 2 / 3, abs=3) and max(up)[1] < min(up)[1]
    assert chart({"a": read_log(falling), "b": read_log(rising)}).size == (2 * WIDTH, HEIGHT + TOP)


def test_what_is_wrong_with_a_chart_is_one_line(cm3: Cm3, tmp_path: Path) -> None:
    run = log(tmp_path / "a", [{"step": 1, "loss": 1.0}])
    assert "has no log.jsonl; give a folder that `cm3 train` wrote to" in cm3("chart", tmp_path / "none").refusal
    told = cm3("chart", run, "--names", "los").refusal
    assert "no log has 'los'. Did you mean 'loss'?" in told
    assert "no run; give folders" in cm3("chart").refusal
    # The place is looked at before the logs are.
    assert "--out a: is a folder; give a file, such as a/a.png" in cm3(
        "chart", tmp_path / "none", "--out", "a"
    ).refusal  # fmt: skip
    assert "a/log.jsonl' is a file; give a folder" in cm3(
        "chart", tmp_path / "none", "--out", "a/log.jsonl/chart.png"
    ).refusal  # fmt: skip
    with pytest.raises(ConfigError, match="their logs have no numbers yet"):
        chart({"a": {}})
