"""`cm3 generate --tp`: processes of torchrun that share one model write what one process writes, and only once."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from batch_parts import LINES, command, written
from command import Cm3
from forks import forks
from store_parts import contents

ROOT = Path(__file__).parents[2]
BAD = {"prompt": "a", "guidance": 1e9}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory, picture: Path) -> Path:
    """All kinds of lines, one of them bad, and the picture that they name."""
    folder = tmp_path_factory.mktemp("prompts")
    shutil.copyfile(picture, folder / "in.png")
    return written(folder / "prompts.jsonl", [*LINES[:2], BAD, *LINES[2:]])


def together(processes: int, *args: str | Path) -> list[int | None]:
    """Give a command to so many processes that meet; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    all_: list[Any] = []
    for rank in range(processes):
        env = {"RANK": str(rank), "LOCAL_RANK": str(rank), **place}
        all_.append(forks().Process(target=command, args=args, kwargs={"env": env}))
        all_[-1].start()
    for process in all_:
        process.join()
    return [process.exitcode for process in all_]


def alike(found: Path, wanted: Path) -> None:
    """The same pictures and words, with scores up to rounding, in two folders of lines."""
    pictures = {name: data for name, data in contents(wanted).items() if name.endswith(".png")}
    assert pictures and {n: d for n, d in contents(found).items() if n.endswith(".png")} == pictures
    lines, others = (
        [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()] for folder in (found, wanted)
    )
    for line, other in zip(lines, others, strict=True):
        assert line.pop("scores", []) == pytest.approx(other.pop("scores", []), abs=1e-3)
        assert line == other


def test_a_file_of_prompts_with_a_model_in_two_shares(cm3: Cm3, prompts: Path, tiny: Path, tmp_path: Path) -> None:
    args = ("generate", "--prompts", prompts, "--model", tiny, "--unit", "4", "--out")
    assert cm3(*args, tmp_path / "one").code == 2, "of the bad line"
    assert together(2, *args, tmp_path / "two", "--tp", "2") == [2, 0], "one of them speaks"
    alike(tmp_path / "two", tmp_path / "one")
    shutil.rmtree(tmp_path / "two/000001")
    before = contents(tmp_path / "two")
    assert together(2, *args, tmp_path / "two", "--tp", "2") == [2, 0]
    alike(tmp_path / "two", tmp_path / "one")
    assert before.items() <= contents(tmp_path / "two").items(), "only what was not there is drawn"
    told = cm3(*args, tmp_path / "two").refusal
    assert "was begun with another tp: 2, now None" in told


@pytest.mark.slow
def test_two_models_of_two_shares_each_divide_the_lines(cm3: Cm3, prompts: Path, tiny: Path, tmp_path: Path) -> None:
    args = ("generate", "--prompts", prompts, "--model", tiny, "--unit", "2", "--out")
    assert cm3(*args, tmp_path / "one").code == 2
    found = together(4, *args, tmp_path / "four", "--tp", "2")
    assert sorted(found) == [0, 0, 0, 2] and found[1] == found[3] == 0
    alike(tmp_path / "four", tmp_path / "one")


@pytest.mark.slow
def test_torchrun_draws_a_prompt_with_a_model_in_two_shares(cm3: Cm3, tiny: Path, tmp_path: Path) -> None:
    asked = ["generate", "a red circle", "--n", "2", "--guidance", "2", "--model", str(tiny), "--json"]
    one = cm3(*asked, "--out", tmp_path / "one").json
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "cm3"]
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    shared = ["--tp", "2", "--out", str(tmp_path / "two")]
    ran = subprocess.run([*run, *asked, *shared], env=os.environ | env, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    (told,) = (json.loads(line) for line in ran.stdout.splitlines())
    assert told["scores"] == pytest.approx(one["scores"], abs=1e-3)
    for mine, other in zip(told["files"], one["files"], strict=True):
        with PIL.Image.open(mine) as picture, PIL.Image.open(other) as wanted:
            assert np.array_equal(np.asarray(picture), np.asarray(wanted))
    assert len(list((tmp_path / "two").iterdir())) == 2


REFUSED: dict[str, tuple[int, list[str], str]] = {
    "no torchrun": (1, ["a circle", "--tp", "2"], "mesh.tp=2: does not divide the 1 processes; change it, or torchrun"),
    "no torchrun for lines": (1, ["--prompts", "p.jsonl", "--tp", "2"], "mesh.tp=2: does not divide the 1 processes"),
    "too few": (3, ["--prompts", "p.jsonl", "--tp", "2"], "mesh.tp=2: does not divide the 3 processes"),
    "none": (1, ["a circle", "--tp", "0"], "--tp 0: must be at least 1"),
    "all draw the same": (2, ["a circle"], "--tp 1: torchrun started 2 processes for one prompt; give --tp 2, that"),
    "some do": (4, ["a circle", "--tp", "2"], "--tp 2: torchrun started 4 processes for one prompt; give --tp 4"),
    "int8": (2, ["a circle", "--tp", "2", "--dtype", "int8"], "dtype='int8': is decoded by one process; leave tp=2"),
    "a cluster": (2, ["--prompts", "p.jsonl", "--tp", "2", "--cluster", "local"], "--cluster and torchrun: either"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_shared_is_refused_before_any_waits(
    cm3: Cm3, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    written(tmp_path / "p.jsonl", [{"prompt": "a"}])
    processes, args, told = REFUSED[what]
    if processes > 1:
        place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
        for name, value in place.items():
            monkeypatch.setenv(name, str(value))
    ran = cm3("generate", *args, "--model", tiny)
    assert re.match(re.escape(told), ran.refusal), ran.refusal
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_split_is_refused_by_all(tiny: Path, tmp_path: Path) -> None:
    """It has two heads."""
    assert together(3, "generate", "a circle", "--model", tiny, "--out", tmp_path / "out", "--tp", "3") == [2, 2, 2]
    assert not (tmp_path / "out").exists()
