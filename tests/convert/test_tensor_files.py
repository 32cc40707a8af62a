"""One mapping of tensors over files of any kind; what is wrong with them is one error."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pieces import same_bytes
from safetensors.torch import load_file, save_file
from torch import Tensor

from cm3.convert import mapped
from cm3.convert.tensor_files import SAFETENSORS, TensorFiles
from cm3.errors import CheckpointError


def drawn(*names: str) -> dict[str, Tensor]:
    """Draw a small tensor for each name."""
    g = torch.Generator().manual_seed(len(names))
    return {name: torch.randn(2, 3, generator=g).bfloat16() for name in names}


def refusal(path: Path) -> str:
    """Open what is wrong, and return the error: one line."""
    with pytest.raises(CheckpointError) as told:
        TensorFiles.open(path)
    assert "\n" not in str(told.value)
    return str(told.value)


def indexed(folder: Path, shards: dict[str, dict[str, Tensor]], **more: str) -> Path:
    """Write shards and their index, as transformers does."""
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    index = {name: file for file, tensors in shards.items() for name in tensors} | more
    page = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(page))
    return folder


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_safetensors_are_read_as_their_library_reads_them(tmp_path: Path) -> None:
    saved = {name: torch.arange(6).to(dtype).reshape(2, 3) for name, dtype in SAFETENSORS.items()}
    saved |= {"empty": torch.empty(0, 3), "scalar": torch.tensor(2.5)}
    save_file(saved, tmp_path / "a.safetensors", {"format": "pt"})
    files = TensorFiles.open(tmp_path / "a.safetensors")
    reference = load_file(tmp_path / "a.safetensors")
    assert set(files) == set(reference) and files.ranks == 1
    assert all(same_bytes(files.read(name), tensor) for name, tensor in reference.items())
    assert files["scalar"] == ((), torch.float32, "a.safetensors")
    assert files.bytes == sum(t.nbytes for t in saved.values())
    assert files.shards[0].metadata == {"format": "pt"}


def header(page: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Build a safetensors file of any header."""
    text = page if isinstance(page, bytes) else json.dumps(page).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def test_numbers_that_lie_at_odd_bytes_are_read(tmp_path: Path) -> None:
    page = {"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
    for pad in range(5):
        data = torch.arange(3.0).numpy().tobytes()
        (tmp_path / "a").write_bytes(header(json.dumps(page).encode() + b" " * pad, data))
        assert TensorFiles.open(tmp_path / "a").read("w").tolist() == [0, 1, 2]


def tensor(start: Any = 0, stop: Any = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    """Return an entry of a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ({"w": tensor(stop=12)}, "'w' has 12 bytes, and its shape .2. in F32 takes 8"),
        ({"w": tensor(8, 0)}, "'w' has -8 bytes"),
        ({"w": tensor(shape=[-2])}, "'w' has no number type, shape and place"),
        ({"w": tensor(shape=[2.0])}, "'w' has no number type, shape and place"),
        ({"w": tensor(shape=[True, 2])}, "'w' has no number type, shape and place"),
        ({"w": tensor(shape=[1 << 61, 1 << 61])}, "'w' has 8 bytes, and its shape"),
        ({"w": tensor(shape=None)}, "'w' has no number type, shape and place"),
        ({"w": tensor(dtype="F6")}, "'w' is of the number type 'F6'"),
        ({"w": tensor(dtype=["F32"])}, "'w' is of the number type"),
        ({"w": {"dtype": "F32"}}, "'w' has no number type, shape and place"),
        ({"w": []}, "'w' has no number type, shape and place"),
        ({"w": tensor(), "x": tensor()}, "'x' begins at byte 0 of the data, where the one before it ends at 8"),
        ({"w": tensor(4, 12)}, "'w' begins at byte 4 .*; is cut short: its header tells of 12 bytes"),
        ({"w": tensor(0, 16, [4])}, "is cut short: its header tells of 16 bytes of tensors, and there are 8"),
        ({"w": tensor(0, 4, [1])}, "has 4 bytes that no tensor has"),
        ({"w": tensor(stop=1 << 61, shape=[1 << 59])}, "is cut short: its header tells of"),
        ({"a": tensor(shape=[3]), "b": tensor(8, 9), "c": tensor(dtype="X")}, "'a' has.*; 'b' has.*; 'c' is of"),
        (b'{"w": ', "header.* is not readable JSON"),
        (b"{" * 9, "header.* is not readable JSON"),
        (b'{"a":' * 100_000, "header.* is nested too deep"),
    ],
)
def test_a_header_that_lies_is_one_error(tmp_path: Path, page: Any, told: str) -> None:
    (tmp_path / "a").write_bytes(header(page, bytes(8)))
    assert re.search(told, refusal(tmp_path / "a"))


@pytest.mark.parametrize("length", [0, 1, 99, 1 << 20, 1 << 63, (1 << 64) - 1])
def test_a_length_that_lies_is_one_error(tmp_path: Path, length: int) -> None:
    (tmp_path / "a").write_bytes(header({"w": tensor()}, bytes(8), length))
    refusal(tmp_path / "a")


def test_a_file_cut_short_anywhere_is_one_error(tmp_path: Path) -> None:
    save_file(drawn("a", "b"), tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        (tmp_path / "a.safetensors").write_bytes(whole[:length])
        refusal(tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth"])
def test_a_folder_with_one_file(tmp_path: Path, suffix: str) -> None:
    saved = drawn("a", "b")
    (save_file if suffix == ".safetensors" else torch.save)(saved, tmp_path / f"model{suffix}")
    (tmp_path / "config.json").write_text("{}")
    files = TensorFiles.open(tmp_path)
    assert all(same_bytes(files.read(name), tensor) for name, tensor in saved.items())


def test_a_name_says_nothing_of_the_kind(tmp_path: Path) -> None:
    saved = drawn("a")
    torch.save(saved, tmp_path / "a.safetensors")
    save_file(saved, tmp_path / "a.bin")
    kinds = [TensorFiles.open(tmp_path / name).shards[0].kind for name in ("a.safetensors", "a.bin")]
    assert kinds == ["pickle", "safetensors"]


@pytest.mark.parametrize("index", [True, False])
def test_shards_with_and_without_an_index(tmp_path: Path, index: bool) -> None:
    first, second = drawn("a", "b"), drawn("c", "d", "e")
    indexed(tmp_path, {ONE: first, TWO: second})
    if not index:
        (tmp_path / "model.safetensors.index.json").unlink()
    files = TensorFiles.open(tmp_path)
    assert all(same_bytes(files.read(name), tensor) for name, tensor in (first | second).items())
    assert len(files) == 5 and files["a"].shard == ONE and files["d"].shard == TWO


def test_shards_of_the_old_kind_with_an_index(tmp_path: Path) -> None:
    torch.save(drawn("a"), tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save(drawn("b", "c"), tmp_path / "pytorch_model-00002-of-00002.bin")
    index = {"a": "pytorch_model-00001-of-00002.bin"} | dict.fromkeys("bc", "pytorch_model-00002-of-00002.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    assert set(TensorFiles.open(tmp_path)) == {"a", "b", "c"}


@pytest.mark.parametrize("index", [True, False])
def test_a_shard_that_is_missing_is_named(tmp_path: Path, index: bool) -> None:
    indexed(tmp_path, {ONE: drawn("a", "b"), TWO: drawn("c")})
    (tmp_path / TWO).unlink()
    if not index:
        (tmp_path / "model.safetensors.index.json").unlink()
    assert f"{TWO} is missing" in refusal(tmp_path)


def test_a_shard_of_another_model_and_one_cut_short_are_one_error(tmp_path: Path) -> None:
    indexed(tmp_path, {ONE: drawn("a", "b"), TWO: drawn("c")})
    save_file(drawn("a", "x"), tmp_path / ONE)
    (tmp_path / TWO).write_bytes((tmp_path / TWO).read_bytes()[:-1])
    told = refusal(tmp_path)
    assert f"{ONE} lacks b, which the index says it has" in told
    assert f"{ONE} has x, of which the index says nothing" in told
    assert f"{TWO} is cut short" in told


def test_shards_that_hold_some_names_twice_are_not_of_one_model(tmp_path: Path) -> None:
    save_file(drawn("a", "b", "c"), tmp_path / ONE)
    save_file(drawn("c", "d", "e"), tmp_path / TWO)
    assert "1 tensors are in two files: c" in refusal(tmp_path)


def test_an_index_cannot_lead_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file(drawn("x"), tmp_path / "x.safetensors")
    indexed(tmp_path / "in", {ONE: drawn("a")}, x="../x.safetensors")
    assert "leads outside" in refusal(tmp_path / "in")


@pytest.mark.parametrize(
    "page", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}', "{"]
)
def test_an_index_that_is_none_is_one_error(tmp_path: Path, page: str) -> None:
    indexed(tmp_path, {ONE: drawn("a")})
    (tmp_path / "model.safetensors.index.json").write_text(page)
    refusal(tmp_path)


def test_ranks_hold_the_same_names_each(tmp_path: Path) -> None:
    ranks = [drawn("a", "b"), {name: tensor + 1 for name, tensor in drawn("a", "b").items()}]
    for rank, tensors in enumerate(ranks):
        torch.save(tensors | {"rope.freqs": None}, tmp_path / f"consolidated.{rank:02}.pth")
    files = TensorFiles.open(tmp_path)
    assert files.ranks == 2 and len(files) == 2 and files.shape("a", 1) == (2, 3)
    for rank, tensors in enumerate(ranks):
        assert all(same_bytes(files.read(name, rank), tensor) for name, tensor in tensors.items())
    with pytest.raises(CheckpointError, match="has no rank 2 of 2"):
        files.read("a", 2)


def test_a_rank_that_is_missing_and_one_that_lacks_a_tensor_are_named(tmp_path: Path) -> None:
    for rank in (0, 1, 3):
        torch.save(drawn("a", "b", "c"), tmp_path / f"consolidated.{rank:02}.pth")
    assert "consolidated.02.pth is missing" in refusal(tmp_path)
    torch.save(drawn("a", "b"), tmp_path / "consolidated.02.pth")
    assert "consolidated.02.pth lacks c, which other files have" in refusal(tmp_path)


@pytest.mark.parametrize("index", [True, False])
def test_a_file_that_is_no_weights_is_one_error(tmp_path: Path, index: bool) -> None:
    assert "has no file of weights" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / "none")
    (tmp_path / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "Git LFS" in refusal(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_text("<html>")
    told = refusal(tmp_path)
    assert "a.safetensors is a pointer of Git LFS" in told and "b.safetensors is no safetensors" in told


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs are of Unix")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    assert "is no file" in refusal(tmp_path / "a.safetensors")


def test_a_file_larger_than_memory_is_opened_and_read_in_part(tmp_path: Path) -> None:
    size = 1 << 40
    page = json.dumps({"large": tensor(0, size, [size // 4]), "w": tensor(size, size + 8)}).encode()
    page += b" " * (-len(page) % 8)
    with open(tmp_path / "a.safetensors", "wb") as file:
        file.write(header(page))
        try:
            file.truncate(file.tell() + size + 8)
        except OSError:
            pytest.skip("this disk has no files with holes of that size")
        file.seek(-8, os.SEEK_END)
        file.write(torch.tensor([1.5, 2.5]).numpy().tobytes())
    files = TensorFiles.open(tmp_path / "a.safetensors")
    assert files.read("w").tolist() == [1.5, 2.5] and float(files.read("large")[-1]) == 0


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="where Linux tells the memory of a mapping")
def test_memory_of_what_was_read_is_let_go_and_its_numbers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_HELD", 1 << 21)
    saved = {f"w{i}": torch.full((1 << 18,), float(i)) for i in range(16)}  # 1 MiB each
    save_file(saved, tmp_path / "many.safetensors")
    files = TensorFiles.open(tmp_path / "many.safetensors")
    first = files.read("w0")
    for i in range(16):
        assert float(files.read(f"w{i}").double().sum()) == i * 2**18
        maps = Path("/proc/self/smaps").read_text().split("many.safetensors\n")[1:]
        assert sum(int(re.search(r"^Rss: +(\d+) kB", text, re.MULTILINE)[1]) for text in maps) < 4 << 10
    assert float(first.sum()) == 0
