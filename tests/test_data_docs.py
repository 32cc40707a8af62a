"""docs/data.md is true: its tests and links are there, its formats are all, and its commands run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from cm3.cli.main import main
from cm3.read.find import READERS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/data.md").read_text(encoding="utf-8")


def test_every_promise_names_a_test_that_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 20
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    for file, test in named:
        assert f"def {test}(" in there[file], f"{file}::{test}"
    promises = PAGE.split("## What is promised")[1].split("##")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert rows and all("::test_" in row for row in rows)


def test_every_format_has_a_line_and_no_other() -> None:
    assert re.findall(r"^\| `([a-z0-9_]+):[A-Z/]+` \|", PAGE, re.MULTILINE) == list(READERS)


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) >= 2 and all((ROOT / "docs" / link).is_file() for link in links), links


def test_its_two_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, train = re.findall(r"^    cm3 ((?:prepare|train) \S+:.*)$", PAGE, re.MULTILINE)
    source = prepare.split()[1]
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        picture = PIL.Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        picture.save(tmp_path / f"photos/{i}.png")
        (tmp_path / f"photos/{i}.txt").write_text(f"noise number {i}")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    assert main(prepare.replace(source, "photos").split()) == 0
    small = "--steps 1 --windows 1 --length 600 --sample-every 0 --out runs/out"
    assert main([*train.split(), *small.split()]) == 0
    assert (tmp_path / "runs/out/bundle/config.json").is_file()
