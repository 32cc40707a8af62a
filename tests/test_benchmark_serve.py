"""The benchmarks of serving run at their smallest size, and give their tables."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
from forks import python

ROOT = Path(__file__).resolve().parents[1]


def ran(*more: str, file: str = "serve.py") -> subprocess.CompletedProcess[str]:
    return python(ROOT / "benchmarks" / file, *more, timeout=580)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_serve() -> None:
    found = ran("--quick", "--parts", "mixed", "overhead", "--json")
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout.splitlines()[-1])
    names = ["2 clients, against the engine alone", "one request, against model.generate"]
    assert [row["name"] for row in report["rows"]] == names
    assert all(set(row) == {"name", "ours", "peer", "ratio", "unit"} and row["ratio"] > 0 for row in report["rows"])
    mixed = report["mixed"]["2"]
    assert mixed["rounds"][0]["tokens"] > 5 * 64, "five pictures of 64 codes, and words"
    assert all(0 < mixed["open"][what]["p50_ms"] <= mixed["open"][what]["p99_ms"] for what in mixed["open"])
    assert mixed["open"]["whole"]["n"] == 8 and mixed["open"]["first_rows"]["n"] == 2


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra clip")
def test_texts_against_transformers() -> None:
    found = ran("--quick", "--parts", "text", "--json")
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout.splitlines()[-1])
    (row,) = report["rows"]
    assert row["name"] == "test, 8 clients, text, against transformers serve; float32" and row["ratio"] > 0
    assert report["text"]["float32"]["same_texts"] > 0.5


@pytest.mark.long
@pytest.mark.timeout(600)
def test_endurance() -> None:
    """A tenth of a minute of all that clients may do leaves nothing behind."""
    found = ran("--minutes", "0.1", "--clients", "3", "--checks", "2", "--json", file="serve_endurance.py")
    assert found.returncode == 0, found.stdout + found.stderr
    report = json.loads(found.stdout.splitlines()[-1])
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["good", "leaves", "breaks off", "nonsense", "pictures", "end"]
    assert rows["good"]["tried"] >= 3 and rows["end"] == {"name": "end", "tried": 1, "wrong": 0}
    assert not report["failed"] and not any(row["wrong"] for name, row in rows.items() if name != "pictures")


@pytest.mark.long
def test_what_it_cannot_measure_is_told() -> None:
    found = ran("--clients", "0")
    assert found.returncode == 2 and "--clients, --requests" in found.stderr
    found = ran("--parts", "mixed", "--model", "no-such-model")
    assert found.returncode != 0 and "no-such-model" in found.stderr
    found = ran("--schemathesis", "no-such-program", file="serve_fuzz.py")
    assert found.returncode == 2 and "no-such-program: no such program; pip install" in found.stderr
    found = ran("--minutes", "0", file="serve_endurance.py")
    assert found.returncode == 2 and "--minutes must be above 0" in found.stderr
