"""The trials of damaged stores run, and nothing in them is wrong; docs/reliability.md has the counts of many more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(number: int) -> dict[str, dict[str, int]]:
    command = [
        sys.executable,
        ROOT / "benchmarks/reliability_store.py",
        "--trials",
        str(number),
        "--seed",
        "5",
        "--json",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    kinds: dict[str, dict[str, int]] = json.loads(ran.stdout.splitlines()[-1])["kinds"]
    return kinds


def check(kinds: dict[str, dict[str, int]]) -> None:
    for kind, found in kinds.items():
        assert found["told"] + found["elsewhere"] + found["right"] == found["trials"] > 0, (kind, found)
        assert not any(found[bad] for bad in ("wrong", "raw", "hang", "touched"))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_few_damages_are_told_or_give_the_right_data() -> None:
    check(run(26))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_damages_are_told_or_give_the_right_data() -> None:
    kinds = run(1000)
    check(kinds)
    assert sum(found["told"] for found in kinds.values()) > 400
