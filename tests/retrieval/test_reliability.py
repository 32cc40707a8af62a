"""The trials of benchmarks/reliability_bank.py at their smallest size (docs/reliability.md has its counts)."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

from cm3.retrieval.memory import Memory

PATH = Path(__file__).resolve().parents[2] / "benchmarks/reliability_bank.py"


@pytest.fixture(scope="module")
def trials() -> Any:
    spec = importlib.util.spec_from_file_location("reliability_bank", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_damage_is_told_or_without_effect(trials: Any, tmp_path: Path) -> None:
    bad: list[str] = []
    counts = trials.damaged(tmp_path, 18, 7, bad)
    assert bad == [] and all(sum(found.values()) == 3 for found in counts.values())
    assert sum(found["told"] for found in counts.values()) > 9


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "full"])
def test_what_is_stopped_is_whole(trials: Any, tmp_path: Path, how: str) -> None:
    bad: list[str] = []
    counts = trials.stopped(tmp_path, 5, 7, how, bad)
    assert bad == [] and all(found["whole"] == 1 for found in counts.values())


def test_the_trials_see_what_they_look_for(trials: Any, tmp_path: Path) -> None:
    """Another answer is seen, a crash, an error of another kind, and a look outside."""
    good = trials.good_banks(tmp_path)[1]
    trials.one_thread()  # as in the processes below: scores come out in other bits on another number
    want = trials.answers(Memory.open(good))
    (outside := tmp_path / "outside").mkdir()
    assert trials.child(lambda: trials.use(good, want, outside)) == "right"
    assert trials.child(lambda: trials.use(good, want, outside)) == "wrong", "the first use added and deleted"
    assert trials.child(lambda: 1 // 0).startswith("raw ZeroDivisionError")
    assert trials.child(lambda: trials.os._exit(3)) == "raw end of the process"
    assert trials.child(lambda: trials.signal.pause(), seconds=0.5) == "hung"

    def looks() -> str:
        (outside / "file").write_text("")
        return trials.use(good, want, outside)

    before = trials.state(outside)
    assert trials.child(looks) == "wrong" and trials.state(outside) != before
    assert trials.child(lambda: trials.use(good, want, good)).startswith("touched "), "as the bank lies there itself"
    for kind, damage in trials.KINDS.items():
        copy = Path(trials.shutil.copytree(good, tmp_path / kind))
        before = trials.state(copy)
        damage(copy, [tmp_path / "one"], outside, random.Random(3))
        assert trials.state(copy) != before, kind
        for path in outside.iterdir():
            path.unlink()
