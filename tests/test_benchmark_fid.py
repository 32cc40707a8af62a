"""The benchmark of FID's statistics runs at a small size, and both sides get the same."""

from __future__ import annotations

import json
from pathlib import Path

from forks import python

ROOT = Path(__file__).resolve().parents[1]


def test_evaluate_fid() -> None:
    command = [ROOT / "benchmarks/evaluate_fid.py", "--n", "3000", "--width", "48", "--json"]
    ran = python(*command, timeout=110)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert all(set(row) == {"name", "ours", "peer", "ratio", "unit"} and row["ratio"] > 0 for row in report["rows"])
    assert [row["unit"] for row in report["rows"]] == ["s", "MB", "s"]
    assert report["differ"]["covariance"] < 1e-6 and report["differ"]["distance"] < 1e-3
    assert report["rows"][1]["ratio"] > 1, "memory does not grow with the number of vectors"
    ran = python(*command, "--n", "1", timeout=110)
    assert ran.returncode == 2 and "must be at least 2 vectors" in ran.stderr
