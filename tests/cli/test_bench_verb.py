"""`cm3 bench decode`: the table for a person, the rows for a machine, refusals of one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from command import Cm3

from cm3.cli.bench import PICTURE, measure_model
from cm3.errors import ConfigError


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_quick_look(cm3: Cm3) -> None:
    done = cm3("bench", "decode", "--shape", "test", "--quick", "--threads", "1", "--json")
    assert done.code == 0 and done.json["new"] == 16 and done.json["threads"] == 1
    rows = {row["name"]: row for row in done.json["rows"]}
    assert rows["test; one; float32"]["ours"] > 0 and rows["test; one; float32"]["clock"] == "processor"
    assert any(line.startswith("test; one; float32") for line in done.err.splitlines()), "the table"
    assert done.json["streaming_gb_s"]["float32"] > 0 and done.json["torch"] == torch.__version__


@pytest.mark.slow
def test_a_trained_model_draws_in_windows(cm3: Cm3) -> None:
    done = cm3("bench", "decode", "--model", "scenes", "--quick", "--threads", "1", "--json")
    plain, fixed, auto = done.json["rows"]
    assert done.code == 0 and plain["name"] == "scenes; one; one by one" and plain["passes"] == 64
    assert fixed["fewer_passes"] > 1.5 and fixed["same"] == auto["same"] == 1
    assert any("16: " in line and "times fewer" in line for line in done.err.splitlines())


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ConfigError, match="^rounds=0: must be an integer"):
        measure_model("scenes", PICTURE, 0, "cpu")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--shape", "9m"], "shape='9m': must be one of test, 10m, 85m, 350m, 760m, 7b."),
        (["--device", "nowhere"], "device='nowhere': cannot be used"),
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--model", "nowhere"], "nowhere"),
        (["--model", "scenes", "--shape", "10m"], "--shape 10m: has random weights, and --model scenes its own; give"),
        (["--say", "a dog"], "--say: is for --model; give that, or leave it out"),
        (["--new", "4"], "--new: no such option"),
    ],
)
def test_refusals_are_one_line(cm3: Cm3, args: list[str], told: str) -> None:
    assert told in cm3("bench", "decode", *args).refusal
