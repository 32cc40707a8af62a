"""A bundle that carries a memory bank and its encoder: folders that come along whole, checked like all the rest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny_model
import torch
from huggingface_hub.utils import filter_repo_objects

from cm3.errors import CheckpointError, ConfigError
from cm3.model import bundle

ENCODER = {"config.json": b"{}", "weights.safetensors": b"\x00\x01"}
MEMORY = {"bank.json": b'{"a": 1}', "shard-0/index.faiss": b"vectors", "shard-0/pictures/0.f32": b"pictures"}
INSIDE = sorted([*(f"encoder/{n}" for n in ENCODER), *(f"memory/{n}" for n in MEMORY)])


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    encoder, memory = folder(tmp_path / "e", ENCODER), folder(tmp_path / "m", MEMORY)
    (memory / ".lock").touch()  # of a process that writes: no part of what is kept
    made = dataclasses.replace(tiny_model.bundle(), encoder=encoder, memory=memory)
    bundle.save(made, tmp_path / "tiny", torch.float32)
    return tmp_path / "tiny"


def contents(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_both_folders_come_back_byte_for_byte(saved: Path) -> None:
    got = bundle.load(saved)
    assert got.encoder == saved / "encoder" and got.memory == saved / "memory"
    assert contents(got.encoder) == ENCODER and contents(got.memory) == MEMORY
    files = json.loads((saved / "config.json").read_text())["files"]
    assert sorted(files) == sorted([*bundle.FILES, *INSIDE])
    assert (saved / "memory/shard-0").stat().st_mode & 0o777 == 0o755
    assert (saved / "memory/bank.json").stat().st_mode & 0o777 == 0o644


def test_a_bundle_with_a_bank_alone(tmp_path: Path) -> None:
    memory = folder(tmp_path / "m", MEMORY)
    bundle.save(dataclasses.replace(tiny_model.bundle(), memory=memory), tmp_path / "tiny", torch.float32)
    got = bundle.load(tmp_path / "tiny")
    assert got.memory is not None and got.encoder is None
    assert not (tmp_path / "tiny" / "encoder").exists()


def test_saving_over_itself_keeps_everything_and_saving_without_leaves_nothing(saved: Path) -> None:
    before, loaded = contents(saved), bundle.load(saved)
    bundle.save(loaded, saved, torch.float32)
    assert contents(saved) == before
    bundle.save(dataclasses.replace(bundle.load(saved), encoder=None, memory=None), saved, torch.float32)
    got = bundle.load(saved)
    assert got.encoder is None and got.memory is None
    assert sorted(contents(saved)) == sorted(["config.json", *bundle.FILES])


@pytest.mark.parametrize("name", INSIDE)
def test_a_file_that_is_missing_or_altered_is_named(saved: Path, name: str) -> None:
    path = saved / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=f"bundle '.*tiny': {name} was altered .*checksum.*; restore it"):
        bundle.load(saved)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"bundle '.*tiny': {name} is missing; restore it"):
        bundle.load(saved)


@pytest.mark.parametrize(
    "name", ["memory/../../secret", "../secret", "/etc/hosts", "other/file", "notes.txt", "memory"]
)
def test_nothing_outside_its_folders_is_read(saved: Path, name: str) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    config["files"][name] = "0"
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config.json lists .*; a bundle holds decoder.safetensors, .*restore it"):
        bundle.load(saved)


@pytest.mark.parametrize("what", ["encoder", "memory"])
@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_what_is_no_folder_with_files_is_refused_and_nothing_written(tmp_path: Path, what: str, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.touch()
    made = dataclasses.replace(tiny_model.bundle(), **{what: path})
    with pytest.raises(ConfigError, match=f"bundle.{what}='.*it': must be a folder with files in it; leave it None"):
        bundle.save(made, tmp_path / "new", torch.float32)
    assert [p.name for p in tmp_path.iterdir()] == ([] if kind == "missing" else ["it"])


def test_the_hub_gives_all_of_it_and_nothing_else(saved: Path) -> None:
    there = [*contents(saved), "README.md", "optimizer.pt", "encoder/pytorch_model.bin", "memory/a/run.py"]
    assert sorted(filter_repo_objects(there, allow_patterns=list(bundle.PATTERNS))) == sorted(contents(saved))


def test_it_may_be_moved(saved: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(saved, tmp_path / "elsewhere"))
    assert bundle.load(moved).memory == moved / "memory"


@pytest.mark.parametrize(
    "name", ["encoder/model.pt", "memory/run.py", "memory/a/b/c/d/e.json", "memory/-x.json", "memory/a"]
)
def test_names_that_no_bundle_has_are_refused_on_both_ways(saved: Path, tmp_path: Path, name: str) -> None:
    top, _, rest = name.partition("/")
    path = folder(tmp_path / "more", {"config.json": b"{}", rest: b"x"})
    with pytest.raises(
        ConfigError, match=f"bundle.{top}='.*more': holds .*{Path(name).name}.*files of plain names; take"
    ):
        bundle.save(dataclasses.replace(tiny_model.bundle(), **{top: path}), tmp_path / "new", torch.float32)
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))
    config = json.loads((saved / "config.json").read_text())
    config["files"][name] = "0" * 64
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config.json lists .*; a bundle holds"):
        bundle.load(saved)


def test_a_link_in_a_folder_does_not_take_what_lies_outside_along(tmp_path: Path) -> None:
    memory = folder(tmp_path / "m", MEMORY)
    (tmp_path / "secret.json").write_text("secret")
    (memory / "more.json").symlink_to("../secret.json")
    with pytest.raises(ConfigError, match="bundle.memory: 'more.json' is a link that leads outside"):
        bundle.save(dataclasses.replace(tiny_model.bundle(), memory=memory), tmp_path / "new", torch.float32)
    assert not (tmp_path / "new").exists()


def test_a_link_that_leads_out_of_a_bundle_is_not_followed(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes((saved / INSIDE[0]).read_bytes())
    (saved / INSIDE[0]).unlink()
    (saved / INSIDE[0]).symlink_to("../../secret")
    with pytest.raises(CheckpointError, match=f"'{INSIDE[0]}' is a link that leads outside"):
        bundle.load(saved)


def test_a_bundle_that_was_replaced_gives_no_documents_of_the_other(saved: Path, tmp_path: Path) -> None:
    loaded, again = bundle.load(saved), bundle.load(saved)
    assert loaded.memory is not None
    loaded.check_folder(loaded.memory)
    other = dataclasses.replace(tiny_model.bundle(), memory=folder(tmp_path / "n", {"bank.json": b"other"}))
    bundle.save(other, saved, torch.float32)
    for name in ("encoder", "memory"):
        with pytest.raises(CheckpointError, match=f"was replaced after it was loaded and has another {name}; load it"):
            loaded.check_folder(saved / name)
    with pytest.raises(CheckpointError, match="has another encoder; load it again"):
        bundle.save(again, tmp_path / "copy", torch.float32)
    assert not (tmp_path / "copy").exists()
    loaded.check_folder(tmp_path / "n")  # a bank of the user's own
