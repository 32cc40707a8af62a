"""A sweep finds the best, stops the losers, and goes on where a kill left it; its trials are real processes.

They run `known_loss.train`, whose loss is known; tests/cli/test_sweep_verb.py sweeps real training.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from known_loss import STEPS, at_once, train

from cm3.errors import ConfigError
from cm3.train.sweep import Axis, Result, SweepConfig, ranked
from cm3.train.sweep import sweep as sweep_

pytest.importorskip("optuna")


def config(out: Path, *space: Axis, **changes: Any) -> SweepConfig:
    base = SweepConfig(str(out), "a recipe", space or (Axis("x", 5.0, (), 0.0, 8.0),), STEPS, trials=6)
    return replace(base, **changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cm3.train.sweep.POLL", 0.02)


def sweep(config: SweepConfig) -> list[Result]:
    told: list[Result] = []
    results = sweep_(config, train, told.append)
    lines = [json.loads(line) for line in (Path(config.out) / "trials.jsonl").read_text().splitlines()]
    assert [r.trial for r in told] and sorted(line["trial"] for line in lines) == sorted(r.trial for r in results)
    return results


def test_a_sweep_starts_at_the_recipe_stops_losers_and_ranks(tmp_path: Path) -> None:
    results = sweep(config(tmp_path))
    assert results == ranked(results) and len(results) == 6
    by_number = {r.trial: r for r in results}
    assert by_number[0].values == {"x": 5.0} and by_number[0].state == "done"
    best = results[0]
    assert best.state == "done" and best.step == STEPS
    # The mean of the last tenth of the run, two steps.
    assert best.value == pytest.approx((best.values["x"] - 2) ** 2 + (1 / STEPS + 1 / (STEPS - 1)) / 2)
    # None that was finished is worse than the first, and the stopped have spent less than a whole run.
    stopped = [r for r in results if r.state == "stopped"]
    assert stopped and all(r.step in (2, 6) for r in stopped)
    assert all(abs(r.values["x"] - 2) >= abs(best.values["x"] - 2) for r in results)
    # Another seed, another sweep; the same seed is in the test of a kill.
    other = sweep(config(tmp_path / "other", seed=1, trials=2))
    assert by_number[1].values not in [r.values for r in other]


def test_all_combinations_where_they_are_few_and_nothing_twice(tmp_path: Path) -> None:
    space = (Axis("x", 7.0, (1.0, 2.5, 4.0)), Axis("n", 2, (), 1, 2))
    results = sweep(config(tmp_path, *space, trials=20, grace=STEPS, jobs=3))
    assert sorted((r.values["x"], r.values["n"]) for r in results) == [(x, n) for x in (1.0, 2.5, 4.0) for n in (1, 2)]
    assert {r.state for r in results} == {"done"} and results[0].values["x"] == 2.5
    # More combinations than trials: what comes up twice is trained once.
    few = sweep(config(tmp_path / "few", Axis("x", 1, (), 1, 5), trials=4))
    same = [r for r in few if r.reason.startswith("the same as trial")]
    distinct = {r.values["x"] for r in few}
    assert len(few) == 4 and len(list((tmp_path / "few").glob("trial-*"))) == len(distinct) == 4 - len(same)


def test_a_setting_with_a_single_choice_is_part_of_the_first_trial(tmp_path: Path) -> None:
    # Set for all trials, it does not make the recipe's other settings lie outside of what is searched.
    [first] = sweep(config(tmp_path, Axis("n", 2, (7,)), Axis("x", 5.0, (), 0.0, 8.0), trials=1))
    assert first.values == {"n": 7, "x": 5.0}


def test_more_trials_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    first = sweep(config(tmp_path, trials=2))
    more = sweep(config(tmp_path, trials=4, jobs=2))
    assert len(more) == 4 and all(r in more for r in first)
    assert sweep_(config(tmp_path, trials=4), at_once) == more
    assert not list(tmp_path.glob("trial-*/trained"))


def test_a_sweep_that_was_killed_goes_on(tmp_path: Path) -> None:
    whole = sweep(config(tmp_path / "whole", trials=4))
    out = tmp_path / "killed"
    # A sweep in a process of its own, whose second trial is slow; killed so that it can not clean up.
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from functools import partial
from pathlib import Path
import test_sweep as t
if __name__ == "__main__":
    t.sweep_(t.config(Path({str(out)!r}), trials=4), partial(t.train, slow=0.3))
"""
    (tmp_path / "killed.py").write_text(code)
    process = subprocess.Popen([sys.executable, str(tmp_path / "killed.py")])
    second = out / "trial-0001"
    try:
        wait(lambda: (second / "log.jsonl").exists())
        with pytest.raises(ConfigError, match="sweep in .*another process is writing to it; wait until it ends"):
            sweep_(config(out, trials=4), train)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait(lambda: not trials_of(second))  # the trial ends with its sweep
    made = len((second / "log.jsonl").read_text().splitlines())
    assert 0 < made < STEPS
    results = sweep(config(out, trials=4))
    assert (second / "starts").read_text() == "++", "it was taken up again"
    steps = [json.loads(line)["step"] for line in (second / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)), "it went on, and did not begin again"
    bare = [[replace(r, out="") for r in found] for found in (results, whole)]
    assert bare[0] == bare[1]


def trials_of(folder: Path) -> list[int]:
    """Return the processes that hold the file which a trial prints to."""
    found = []
    for place in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            held = os.readlink(place)
        except OSError:
            continue
        if held == str(folder / "output.txt"):
            found.append(int(place.parts[2]))
    return found


def test_interrupted_it_ends_its_trials(tmp_path: Path) -> None:
    def stop(_: Result) -> None:
        raise KeyboardInterrupt

    settings = config(tmp_path, jobs=2, trials=3, grace=1)
    with pytest.raises(KeyboardInterrupt):
        sweep_(settings, partial(train, slow=0.3), stop)
    assert not [pid for folder in tmp_path.glob("trial-*") for pid in trials_of(folder)]
    states = [json.loads(line)["state"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert "unfinished" in states


def test_a_trial_that_fails_says_why_and_the_rest_go_on(tmp_path: Path) -> None:
    results = sweep(config(tmp_path, Axis("x", 1.0, (1.0, 10.0, 3.0)), grace=STEPS))
    assert [r.state for r in results] == ["done", "done", "failed"]
    assert results[-1].reason == "x=10.0: is too much" and results[-1].value is None
    # It is not tried again now, but by the next sweep, which finds the others as they were.
    assert sweep(config(tmp_path, Axis("x", 1.0, (1.0, 10.0, 3.0)), grace=STEPS)) == results
    assert (Path(results[-1].out) / "starts").read_text() == "++"


def test_a_trial_that_a_signal_stopped_is_unfinished_and_continued(tmp_path: Path) -> None:
    space = Axis("x", 1.0, (1.0, 8.5))
    results = sweep(config(tmp_path, space, grace=STEPS))
    assert [(r.state, r.values["x"], r.reason) for r in results] == [
        ("done", 1.0, ""),
        ("unfinished", 8.5, "stopped by a signal; the next sweep goes on with it"),
    ]
    again = sweep(config(tmp_path, space, grace=STEPS))
    assert [(r.state, r.step, r.reason) for r in again] == [("done", STEPS, "")] * 2
    assert (Path(again[1].out) / "starts").read_text() == "++", "it went on, and did not begin again"
    # It alone is no failure.
    [alone] = sweep(config(tmp_path / "alone", Axis("x", 8.5, (8.5,)), grace=STEPS))
    assert alone.state == "unfinished"
    # One that waits to be taken up again has not failed meanwhile.
    two = config(tmp_path / "two", Axis("x", 8.5, (8.5, 8.75)), grace=STEPS)
    assert [r.state for r in sweep(two)] == ["unfinished"] * 2
    written = []
    sweep_(two, train, lambda _: written.append((tmp_path / "two" / "trials.jsonl").read_text().splitlines()))
    assert [[json.loads(line)["state"] for line in lines] for lines in written] == [
        ["done", "unfinished"], ["done", "done"],
    ]  # fmt: skip


def test_nothing_but_failures_stops_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every trial failed, the last with: x=1.*is too much.*mend that and start"):
        sweep(config(tmp_path, Axis("x", 10.0, (), 10.0, 19.0)))
    assert len(list(tmp_path.glob("trial-*"))) == 3


def test_a_metric_that_nobody_logs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metric 'lose': no line of .* Did you mean 'loss'. It has loss, step"):
        sweep(config(tmp_path, metric="lose"))


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    sweep(config(tmp_path, trials=1))
    with pytest.raises(ConfigError, match="holds a sweep with another search; give another --out, or the same"):
        sweep_(config(tmp_path, Axis("x", 5.0, (), 0.0, 9.0)), train)
    with pytest.raises(ConfigError, match="another recipe, metric"):
        sweep_(replace(config(tmp_path), recipe="b", metric="c"), train)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "study.db").write_bytes(b"no database" * 99)
    with pytest.raises(ConfigError, match="study.db can not be read .*; give another --out"):
        sweep_(config(tmp_path / "damaged"), train)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"trials": 0}, "trials=0: must be at least 1"),
        ({"jobs": 0}, "jobs=0: must be at least 1"),
        ({"grace": -1}, "grace=-1: must be at least 0"),
        ({"space": ()}, "must name at least one setting"),
        ({"space": (Axis("x", 1, (1,)), Axis("x", 1, (2,)))}, "search 'x': must be given once"),
    ],
)
def test_settings_of_a_sweep_are_checked(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(tmp_path, **changes)


def test_without_optuna_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install optuna"):
        sweep_(config(tmp_path), train)


def wait(ready: Callable[[], bool], seconds: float = 60) -> None:
    """Until it is so."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
