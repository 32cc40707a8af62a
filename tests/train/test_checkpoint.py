"""Checkpoints: atomic, read without running anything, and refused in one line when damaged."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from cm3.errors import CheckpointError
from cm3.train.checkpoint import Log, load, save


def test_a_checkpoint_comes_back_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "checkpoint.pt"
    for step in (1, 2):
        save(path, {"step": step, "model": {"w": torch.arange(3.0)}, "loader": (4, 5)})
    state = load(path)
    assert (
        state["step"] == 2 and torch.equal(state["model"]["w"], torch.arange(3.0)) and tuple(state["loader"]) == (4, 5)
    )
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_save_that_fails_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save(path, {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        save(path, {"step": 2, "what": lambda: None})
    assert load(path)["step"] == 1 and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


class Evil:
    """Runs code where a pickle is read carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "read")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(
        CheckpointError, match="checkpoint '.*checkpoint.pt': no such file; start the run without --resume"
    ):
        load(path)
    save(path, {"step": 1, "w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"damaged \(.*\); delete it and start again"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)
    torch.save(torch.zeros(2), path)
    with pytest.raises(CheckpointError, match="is no checkpoint of a run; give another out"):
        load(path)
    torch.save(Evil(tmp_path / "ran"), path)
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)
    assert not (tmp_path / "ran").exists()


def test_the_log_drops_what_comes_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run" / "log.jsonl"
    log = Log(path, 0)
    for step in (10, 20, 21, 30):
        log.write({"step": step, "loss": 1.5})
    with path.open("a") as file:
        file.write('7\n{"loss": 3}\n{"step": 4')
    again = Log(path, 20)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]
    again.write({"step": 30})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30]
    # A whole line that lost only its newline is kept.
    path.write_text(path.read_text().rstrip("\n"))
    Log(path, 30).write({"step": 40})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30, 40]
