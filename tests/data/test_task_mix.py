"""How much of each task: the paper's thresholds, set weights, caps, equal groups, and what a stream then holds."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cm3.data.task_mix import TaskMixture
from cm3.errors import ConfigError, DataError
from cm3.tasks import TASKS

PAPER = {name: task.examples_in_paper for name, task in TASKS.items() if task.examples_in_paper}
NAMES = st.lists(st.integers(1, 10**7), min_size=1, max_size=9).map(
    lambda sizes: dict(zip("abcdefghi", sizes, strict=False))
)


@given(NAMES)
def test_no_document_comes_more_than_ten_times_as_often_as_another(sizes: dict[str, int]) -> None:
    mix = TaskMixture(sizes)
    assert sum(mix.shares.values()) == pytest.approx(1)
    assert all(0.3 <= r <= 3 for r in mix.repeats.values())
    mean = sum(sizes.values()) / len(sizes)
    for name, size in sizes.items():
        assert mix.repeats[name] == pytest.approx(min(max(mean / size, 0.3), 3))
    often = [mix.shares[n] / sizes[n] / mix.repeats[n] for n in sizes]  # shares go by size times repeats
    assert max(often) == pytest.approx(min(often))


def test_the_papers_table() -> None:
    mix = TaskMixture(PAPER)
    assert len(PAPER) == 18 and sum(PAPER.values()) == 11_406_000
    assert mix.repeats["boxes"] == 0.3 and mix.repeats["scienceqa"] == 3 and 0.3 < mix.repeats["canny"] < 1
    assert mix.shares["boxes"] == pytest.approx(0.1029, abs=1e-4)  # 900k of 8,748k
    counted = mix.realised(250_000)
    assert sum(r.documents for r in counted.values()) == 250_000
    for name, one in counted.items():
        assert one.share == pytest.approx(mix.shares[name], abs=1e-4)
        assert one.epochs == pytest.approx(one.documents / PAPER[name])


@settings(max_examples=10)
@given(
    NAMES.filter(lambda sizes: len(sizes) > 2), st.one_of(st.just(0.0), st.floats(0.001, 0.9)), st.integers(1, 20_000)
)
def test_a_set_weight_is_had_and_the_rest_keep_their_proportions(
    sizes: dict[str, int], weight: float, positions: int
) -> None:
    mix = TaskMixture(sizes, {"b": weight})
    assert mix.shares["b"] == weight and sum(mix.shares.values()) == pytest.approx(1)
    often = [mix.shares[n] / sizes[n] / mix.repeats[n] for n in sizes if n != "b"]
    assert max(often) == pytest.approx(min(often))
    counts = TaskMixture(dict.fromkeys("xyz", 5), {"y": weight}).realised(positions)
    assert abs(counts["y"].documents - weight * positions) <= 3 + positions / 100_000


def test_every_weight_set_may_be_in_any_unit_and_zero_is_none() -> None:
    mix = TaskMixture({"a": 10, "b": 10, "c": 10}, {"a": 6, "b": 2, "c": 0})
    assert mix.shares == {"a": 0.75, "b": 0.25, "c": 0}
    assert mix.realised(1000)["c"].documents == 0
    assert TaskMixture({"a": 10, "b": 10, "c": 90}, {"c": 0.5}).shares == {"a": 0.25, "b": 0.25, "c": 0.5}


def test_a_cap_uses_the_first_of_a_source() -> None:
    mix = TaskMixture({"a": 1000, "b": 10}, caps={"a": 10})
    assert mix.shares == {"a": 0.5, "b": 0.5} and mix.used == {"a": 10, "b": 10}
    places = mix.mixture().locate(np.arange(400))
    assert set(places.indices[places.sources == 0].tolist()) == set(range(10))
    assert mix.realised(100)["a"].epochs == pytest.approx(5, abs=0.3)


def test_groups_get_the_same_share() -> None:
    outputs = {name: TASKS[name].output for name in PAPER}
    mix = TaskMixture(PAPER, {"vqa2": 0.1}, groups=outputs)
    for output in ("image", "text"):
        share = sum(s for n, s in mix.shares.items() if outputs[n] == output and n != "vqa2")
        assert share == pytest.approx(0.45)


def test_the_same_seed_is_the_same_stream() -> None:
    mix = TaskMixture({"a": 50, "b": 200})
    first, again, other = (mix.mixture(seed).locate(np.arange(500)) for seed in (1, 1, 2))
    assert (first.sources == again.sources).all() and (first.indices == again.indices).all()
    assert (first.indices != other.indices).any()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataError, {"sizes": {}}, "task mixture: has no source"),
        (DataError, {"sizes": {"a": 3, "vqa2": 0}}, "source 'vqa2' is empty; leave it out"),
        (ConfigError, {"weights": {"c": 0.5}}, "weights names 'c'; its sources are a, b"),
        (ConfigError, {"weights": {"a": 0, "b": 0}}, "the weights of a, b sum to nothing"),
        (ConfigError, {"weights": {"a": 1.0}}, "weights sum to 1 and leave nothing for the sources without one"),
        (ConfigError, {"weights": {"a": -0.1}}, "the weight of 'a' is -0.1; must be a number of 0 or more"),
        (ConfigError, {"weights": {"a": float("nan")}}, "the weight of 'a' is nan"),
        (ConfigError, {"caps": {"a": 0}}, "the cap of 'a' is 0; must be at least 1"),
        (ConfigError, {"groups": {"a": "text"}}, "groups has no 'b'; name the group of each source"),
        (ConfigError, {"up": 0.5}, "must be 0 < down <= 1 <= up"),
    ],
)
def test_mixtures_that_are_refused(kind: type[Exception], values: dict[str, object], message: str) -> None:
    with pytest.raises(kind) as caught:
        TaskMixture(**{"sizes": {"a": 3, "b": 4}, **values})  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_streams_that_are_refused() -> None:
    with pytest.raises(ConfigError, match="the share of 'a' is 6e-08; must be 0 or at least 1 in 100000: give it a"):
        TaskMixture({"a": 1, "b": 10**8}).mixture()
    with pytest.raises(ConfigError, match="positions=0: must be at least 1"):
        TaskMixture({"a": 3}).realised(0)
