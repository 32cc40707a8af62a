"""`cm3 chart`: what a log says stands in the picture where it should; what is wrong is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from command import Cm3

from cm3.cli.chart import figure, read_log
from cm3.errors import ConfigError

pytest.importorskip("matplotlib")


def log(out: Path, lines: list[dict[str, float]]) -> Path:
    out.mkdir(parents=True)
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "lo')
    return out


def test_a_log_becomes_a_picture(cm3: Cm3, tmp_path: Path) -> None:
    falling = log(tmp_path / "a", [{"step": s, "loss": 5.0 - s, "note": "x", "learnt": True} for s in range(1, 5)])  # type: ignore[dict-item]
    rising = log(tmp_path / "b", [{"step": s, "loss": 1.0 + s, "lr": 1e-3} for s in range(1, 4)])
    runs = {"a": read_log(falling), "b": read_log(rising)}
    assert runs["a"] == {"loss": [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]}
    made = cm3("chart", falling, rising, "--names", "loss", "--out", "x/both.png", "--json")
    assert made.code == 0 and made.json == {"out": "x/both.png"}
    from matplotlib.colors import to_rgb

    drawn = figure(runs)
    assert [panel.get_title(loc="left") for panel in drawn.axes] == ["loss", "lr"]
    for panel, name in zip(drawn.axes, ("loss", "lr"), strict=True):
        for line, run in zip(panel.get_lines(), runs.values(), strict=True):
            assert [tuple(p) for p in line.get_xydata()] == run.get(name, [])
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["a", "b"]
    # The same command given again replaces its own picture, and each line is in it.
    first = Path("x/both.png").read_bytes()
    assert cm3("chart", falling, rising, "--names", "loss", "--out", "x/both.png").code == 0
    assert Path("x/both.png").read_bytes() == first
    with PIL.Image.open("x/both.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for line in drawn.axes[0].get_lines():
        wanted = np.round(np.array(to_rgb(line.get_color())) * 255)
        assert (pixels == wanted).all(1).sum() > 100


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="which is not installed: pip install matplotlib"):
        figure({"a": {"loss": [(1, 2.0)]}})


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
        figure({"a": {}})
