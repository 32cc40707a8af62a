"""The trials of damaged stores run, and nothing in them is wrong; docs/reliability.md has the counts of thousands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forks import python

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_damages_are_told_or_give_the_right_data() -> None:
    ran = python(ROOT / "benchmarks/reliability_store.py", "--trials", 200, "--seed", 5, "--json", timeout=600)
    assert ran.returncode == 0, ran.stderr
    kinds: dict[str, dict[str, int]] = json.loads(ran.stdout.splitlines()[-1])["kinds"]
    for kind, found in kinds.items():
        assert found["told"] + found["elsewhere"] + found["right"] == found["trials"] > 0, (kind, found)
        assert not any(found[bad] for bad in ("wrong", "raw", "hang", "touched"))
    assert sum(found["told"] for found in kinds.values()) > 80
