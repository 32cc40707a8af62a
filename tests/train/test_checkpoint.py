"""Checkpoints: whole or not there, checked before they are read, and the last good one outlives what goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cm3.errors import CheckpointError, DivergedError
from cm3.parallel import Mesh
from cm3.train.checkpoint import Checkpoints, last, steps
from cm3.train.track import Log, finite, numbers, read_lines


def at(folder: Path, **changes: int) -> Checkpoints:
    """The checkpoints of a run of one process."""
    return Checkpoints(folder, Mesh((1, 1, 1), 0, torch.device("cpu"), None), **changes)


def tensors(seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"model.w": torch.randn(40, 30, generator=g), "step": torch.tensor(float(seed)), "rng": g.get_state()}


def saved(folder: Path, *numbers: int, **changes: int) -> Checkpoints:
    """With checkpoints of these steps, each of the tensors of that seed."""
    found = at(folder, **changes)
    for number in numbers:
        found.save(number, tensors(number), {"loader": [number], "rate": 0.1})
    found.wait()
    return found


def same(folder: Path, step: int) -> bool:
    """Whether the checkpoint of a step is read back as it was saved."""
    number, state = at(folder).read(step)
    blank = {name: torch.zeros_like(t) for name, t in tensors(0).items()}
    at(folder).restore(number, blank)
    return state == {"format": 1, "step": step, "loader": [step], "rate": 0.1} and all(
        torch.equal(blank[name], t) for name, t in tensors(step).items()
    )


def test_a_checkpoint_comes_back_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    assert at(folder).latest() is None and last(tmp_path / "run") is None
    saved(folder, 3, 12)
    assert at(folder).latest() == 12 == last(tmp_path / "run") and same(folder, 3) and same(folder, 12)
    assert sorted(p.name for p in folder.iterdir()) == ["00000003", "00000012"]
    names = sorted(p.name for p in (folder / "00000012").iterdir())
    assert names == ["manifest.json", "shard-00001-model-00001-of-00001.safetensors", "state.json"]


def test_what_is_saved_is_what_was_there_when_save_was_called(tmp_path: Path) -> None:
    found, now = at(tmp_path), tensors(5)
    found.save(5, now, {"loader": [5], "rate": 0.1})
    for tensor in now.values():
        tensor.zero_()
    found.wait()
    assert same(tmp_path, 5)


def test_nothing_is_a_pickle(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    for path in (tmp_path / "00000001").iterdir():
        assert load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


def test_the_newest_and_milestones_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30, 40, 50, 60, keep=2, milestone=30)
    assert sorted(steps(tmp_path)) == [30, 50, 60]
    saved(tmp_path, 70, keep=1)
    assert sorted(steps(tmp_path)) == [70]
    # Saved twice: the second.
    saved(tmp_path, 70)
    assert same(tmp_path, 70)


def test_what_a_kill_left_half_written_is_not_seen_and_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    shutil.copytree(tmp_path / "00000001", tmp_path / ".00000009")
    assert at(tmp_path).latest() == 1 and last(tmp_path.parent) is None
    shutil.copytree(tmp_path / "00000001", tmp_path / ".00000004.old")
    # What others leave in a folder stays.
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / ".snapshot").mkdir()
    saved(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".DS_Store", ".snapshot", "00000001", "00000002"]


def test_a_manifest_has_what_was_written_and_not_what_a_listing_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing on NFS may lack files for a moment; one that is not there for him who wrote it fails the save."""
    everything = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: (p for p in everything(path) if p.suffix != ".safetensors"))
    saved(tmp_path, 1)
    manifest = json.loads((tmp_path / "00000001" / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["shard-00001-model-00001-of-00001.safetensors", "state.json"]
    monkeypatch.setattr("cm3.train.checkpoint._digest", lambda path: path.with_name("gone").stat())
    with pytest.raises(CheckpointError, match="00000002': can not be written .*No such file.*; the one of step 1 is"):
        saved(tmp_path, 2)


@pytest.mark.parametrize("name", ["state.json", "shard-00001-model-00001-of-00001.safetensors", "manifest.json"])
def test_a_file_that_is_missing_or_altered_is_named(tmp_path: Path, name: str) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "00000002" / name
    good = path.read_bytes()
    spoiled = bytes([*good[:-9], good[-9] ^ 1, *good[-8:]]) if name != "manifest.json" else b"{"
    for content in (None, good[:-1] if name != "manifest.json" else b"[]", spoiled):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        told = rf"00000002': {name} (is missing|was altered|cannot be read).*; restore it, or delete .* from step 1"
        with pytest.raises(CheckpointError, match=told):
            at(tmp_path).read()
    path.write_bytes(good)
    assert same(tmp_path, 2)
    shutil.rmtree(tmp_path / "00000001")
    path.unlink()
    with pytest.raises(CheckpointError, match="delete that folder to start again"):
        at(tmp_path).read()


def test_a_file_too_many_is_named(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    shard = tmp_path / "00000001" / "shard-00001-model-00001-of-00001.safetensors"
    shutil.copyfile(shard, shard.with_name("shard-00002-model-00001-of-00001.safetensors"))
    with pytest.raises(CheckpointError, match="shard-00002.* is not one of its files"):
        at(tmp_path).read()


def test_another_format_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    path = tmp_path / "00000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(CheckpointError, match="is of format 2, this version reads 1"):
        at(tmp_path).read()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is none; start the run without --resume"):
        at(tmp_path).read()
    found = saved(tmp_path, 1)
    for wrong, told in (({"x": torch.zeros(2)}, "x"), ({"model.w": torch.zeros(2, 30)}, "model.w")):
        with pytest.raises(CheckpointError, match=f"does not fit this run .*{told}.*; give the settings that it was"):
            found.restore(1, wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    found, bad = saved(tmp_path, 1), tensors(2) | {"model.w": torch.full((40, 30), value)}
    with pytest.raises(DivergedError, match="step 2: model.w has values that are not finite; .*checkpoint is good"):
        found.save(2, bad, {})
    assert sorted(os.listdir(tmp_path)) == ["00000001"] and same(tmp_path, 1)
    # One that is there all the same, of an earlier version: with checksums that fit.
    [path] = (tmp_path / "00000001").glob("*.safetensors")
    there = load_file(path)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    there["model.w"][3, 4] = value
    save_file(there, path, about)
    manifest = json.loads((tmp_path / "00000001" / "manifest.json").read_text())
    manifest["files"][path.name] = [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
    (tmp_path / "00000001" / "manifest.json").write_text(json.dumps(manifest))
    found.read(1)
    with pytest.raises(CheckpointError, match="00000001': model.w has values that are not finite; restore it"):
        found.restore(1, {name: torch.zeros_like(t) for name, t in tensors(0).items()})


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may become larger than that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1000, 11_000])
def test_a_full_disk_is_named_and_the_last_good_one_is_kept(tmp_path: Path, size: int) -> None:
    """In the middle of the first file, and of the last."""
    found = saved(tmp_path, 1)
    large = tensors(2) if size < 5000 else {"model.w": torch.zeros(2)}
    state = {"loader": list(range(5000))}
    with (
        small_disk(size),
        pytest.raises(
            CheckpointError,
            match=r"00000002': can not be written \(.*the disk is full: File too large\); the one of step 1 is kept",
        ),
    ):
        # The writing goes on beside the caller, so that the disk is small from before it starts until it has ended.
        found.save(2, large, state if size > 5000 else {})
        found._thread.join()  # type: ignore[union-attr]
        found.save(3, tensors(3), {})
    assert sorted(os.listdir(tmp_path)) == ["00000001"] and same(tmp_path, 1)
    found.save(4, tensors(4), {"loader": [4], "rate": 0.1})
    found.wait()
    assert same(tmp_path, 4)


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


def test_a_line_has_no_number_that_json_has_not(tmp_path: Path) -> None:
    record = {"step": 1, "loss": float("nan"), "norm": float("inf"), "lr": 0.5, "learnt": True, "spike": "nan"}
    assert finite(record) == {"step": 1, "lr": 0.5, "learnt": True, "spike": "nan"} and numbers(record) == {"lr": 0.5}
    path = tmp_path / "log.jsonl"
    assert read_lines(path) == []
    Log(path, 0).write(record)
    assert path.read_text() == '{"step": 1, "lr": 0.5, "learnt": true, "spike": "nan"}\n'
    with path.open("a") as file:
        file.write('{"step": true}\n{"step": "x"}\n[1]\n' + "[" * 100_000 + '\n{"step": 2, "l')
    with path.open("ab") as raw:
        raw.write(b"\xff")
    assert read_lines(path) == [finite(record)]
