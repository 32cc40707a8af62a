"""Every benchmark runs at its smallest size and gives the table that docs/design.md section 6 promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_retrieval(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks/retrieval.py", "--n", "2000", "--index", "ivf", "--threads", "1"]
    ran = subprocess.run(
        [*command, "--work", tmp_path, "--json"], capture_output=True, text=True, timeout=110, env={**os.environ}
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    for row in report["rows"]:
        assert set(row) == {"name", "ours", "peer", "ratio", "unit"} and row["ratio"] > 0, row
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["recall@2 against exact"]["ours"] > 0.9
    assert rows["bytes a vector in the index"]["peer"] == 2048
    assert report["n"] == 2000 and report["open_s"] < 2 and report["build"]["index"]["kind"] == "ivf"
    assert report["build"]["peak_mb"] > 0
