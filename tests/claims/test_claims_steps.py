"""Steps of a plan: each once, another setting is another step, a kill loses only what was under way."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cm3.claims.steps import Results, Step, digests, for_statements, left, work
from cm3.claims.verdicts import GUIDED
from cm3.cli.recipe import module_of
from cm3.errors import CheckpointError, ConfigError
from cm3.files import locked

PLAN = module_of(str(Path(__file__).resolve().parents[2] / "recipes/paper.py"))


class Counted:
    """Steps that count how often each is done; "b" needs "a"."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.breaks = ""

    def step(self, name: str, needs: tuple[str, ...] = (), **settings: Any) -> Step:
        def do(folder: Path, results: Results) -> dict[str, Any]:
            if self.breaks == name:
                raise KeyboardInterrupt
            self.done.append(name)
            return {"value": settings.get("n", 0) + sum(results[need]["value"] for need in needs)}

        return Step(name, do, settings, 10.0, needs)

    def plan(self, n: int = 1, m: int = 10) -> list[Step]:
        return [self.step("a", n=n), self.step("b", ("a",), n=m), self.step("c", n=100)]


def test_a_finished_step_is_not_done_again(tmp_path: Path) -> None:
    plan = Counted()
    first = work(plan.plan(), tmp_path)
    assert first["results"] == {"a": {"value": 1}, "b": {"value": 11}, "c": {"value": 100}}
    assert work(plan.plan(), tmp_path)["results"] == first["results"] and plan.done == ["a", "b", "c"]


def test_another_setting_is_another_step_and_so_is_what_needs_it(tmp_path: Path) -> None:
    plan = Counted()
    work(plan.plan(), tmp_path)
    assert work(plan.plan(m=20), tmp_path)["results"]["b"] == {"value": 21}
    assert plan.done == ["a", "b", "c", "b"]
    assert work(plan.plan(n=2), tmp_path)["results"]["b"] == {"value": 12}
    assert plan.done[4:] == ["a", "b"]
    work(plan.plan(), tmp_path)
    assert len(plan.done) == 6, "the first ones are still there"


def test_a_kill_loses_the_step_under_way_alone(tmp_path: Path) -> None:
    plan = Counted()
    plan.breaks = "b"
    with pytest.raises(KeyboardInterrupt):
        work(plan.plan(), tmp_path)
    plan.breaks = ""
    work(plan.plan(), tmp_path)
    assert plan.done == ["a", "b", "c"]


def test_a_step_that_a_signal_stopped_is_no_result(tmp_path: Path) -> None:
    stops = [True]

    def do(folder: Path, results: Results) -> dict[str, Any]:
        return {"stopped": "SIGTERM"} if stops.pop() else {"value": 1}

    stops.insert(0, False)
    assert work([Step("a", do, {}, 1.0)], tmp_path) == {"stopped": "SIGTERM"}
    assert work([Step("a", do, {}, 1.0)], tmp_path)["results"] == {"a": {"value": 1}}


def test_two_processes_do_not_work_in_one_place(tmp_path: Path) -> None:
    with locked(tmp_path / ".lock", "test"), pytest.raises(ConfigError, match="another process is writing"):
        work(Counted().plan(), tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    work(Counted().plan(), tmp_path)
    (record,) = (tmp_path / "steps").glob("b-*.json")
    record.write_text(record.read_text()[:20])
    with pytest.raises(CheckpointError, match=record.name):
        work(Counted().plan(), tmp_path)


def test_a_plan_that_does_not_fit_is_refused() -> None:
    plan = Counted()
    with pytest.raises(ConfigError, match="'a': stands there twice"):
        digests([plan.step("a"), plan.step("a", n=2)])
    with pytest.raises(ConfigError, match="'b': needs 'a', which does not stand before it"):
        digests([plan.step("b", ("a",)), plan.step("a")])


def test_what_is_left_is_priced_by_what_was_taken() -> None:
    steps = Counted().plan()
    assert left(steps, [], {}) == 30
    assert left(steps[1:], steps[:1], {"a": 20.0}) == 40


# -- the plan that ships ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAN.SIZES)
def test_the_plan_is_one_and_its_settings_can_be_kept(name: str) -> None:
    steps = PLAN.plan(name)
    assert digests(steps) == digests(PLAN.plan(name)), "the same every time"
    json.dumps([step.settings for step in steps])
    assert {number for step in steps for number in step.serves} == set(range(1, 8))
    for number in range(1, 8):
        digests(for_statements(steps, [number]))  # whole by itself
    size = PLAN.SIZES[name]
    assert size.middle in size.models and size.each & (size.each - 1) == 0 and size.each >= 8
    assert GUIDED in size.scales and size.scales[0] == 1


def test_the_prices_are_what_is_promised() -> None:
    price = {name: sum(step.seconds for step in PLAN.plan(name)) for name in PLAN.SIZES}
    assert price["full"] < 10 * 3600 and price["reduced"] < 20 * 60


def test_a_setting_that_counts_is_another_step_and_one_that_does_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(PLAN.plan("smallest"))
    size = PLAN.SIZES["smallest"]

    def with_(**changes: Any) -> dict[str, str]:
        monkeypatch.setitem(PLAN.SIZES, "smallest", dataclasses.replace(size, **changes))
        return digests(PLAN.plan("smallest"))

    longer = with_(steps=3)
    assert all(longer[name] != before[name] for name in ("32x1", "32x1-g2.0", "law-none", "tuned-one", "with-0.5-test"))
    assert longer["shipped-1"] == before["shipped-1"]
    tuned = with_(tuning=8)
    assert tuned["32x1-g2.0"] == before["32x1-g2.0"] and tuned["tuned-one"] != before["tuned-one"]
    monkeypatch.setitem(PLAN.SIZES, "smallest", size)
    monkeypatch.setattr(PLAN, "TOKEN", (1.0, 1.0))
    assert digests(PLAN.plan("smallest")) == before, "a price decides nothing"
