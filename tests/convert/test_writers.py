"""Files that are written tensor by tensor are those that the libraries write, whole or not there."""

from __future__ import annotations

import threading
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pieces import Piece, pieces_of, same_bytes
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from cm3.convert.tensor_files import TensorFiles
from cm3.convert.writers import write_pickled, write_safetensors
from cm3.errors import CheckpointError, DiskError
from cm3.files import sha256

WRITERS = pytest.mark.parametrize("write", [write_safetensors, write_pickled])
Writer = Callable[..., Any]


def of_many_kinds() -> dict[str, Tensor]:
    """Tensors of many number types, shapes and strides."""
    base = torch.arange(24.0).reshape(4, 6)
    made = {
        str(kind): base.to(kind) for kind in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool)
    }
    made |= {"turned": base.t(), "steps": base[1:, ::2], "same": base, "wide": base[:1].expand(3, 6)}
    return made | {"empty": torch.empty(0, 4), "scalar": torch.tensor(2.5), "odd": torch.ones(3, dtype=torch.uint8)}


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("group", ["", "state_dict"])
def test_torch_reads_what_is_written_safely_and_memory_mapped(tmp_path: Path, mmap: bool, group: str) -> None:
    saved, path = of_many_kinds(), tmp_path / "consolidated.00.pth"
    sizes: list[int] = []
    facts = write_pickled(path, pieces_of(saved), sizes.append, group=group)
    found = torch.load(path, weights_only=True, mmap=mmap)
    found = found[group] if group else found
    assert list(found) == list(saved) and all(same_bytes(found[name], saved[name]) for name in saved)
    assert sizes == [t.nbytes if name != "wide" else 72 for name, t in saved.items()]
    assert facts.sha256 == sha256(path) and facts.bytes == path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    assert all(t.start % 64 == 0 for t in TensorFiles.open(path).shards[0].tensors.values())


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    saved, path = of_many_kinds(), tmp_path / "model.safetensors"
    facts = write_safetensors(path, pieces_of(saved))
    found = load_file(path)
    assert found.keys() == saved.keys() and all(same_bytes(found[name], saved[name]) for name in saved)
    assert facts.sha256 == sha256(path) and facts.bytes == path.stat().st_size
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    tensors = TensorFiles.open(path).shards[0].tensors
    assert all(t.start % t.dtype.itemsize == 0 for t in tensors.values())
    of_one_width = [name for name in tensors if tensors[name].dtype.itemsize == 4]
    assert of_one_width == [name for name in saved if saved[name].element_size() == 4]


@WRITERS
def test_the_same_weights_make_the_same_file(tmp_path: Path, write: Writer) -> None:
    paths = [tmp_path / name / "a.bin" for name in ("one", "two")]
    assert len({write(path, pieces_of(of_many_kinds())) for path in paths}) == 1
    assert paths[0].read_bytes() == paths[1].read_bytes()


@WRITERS
def test_no_more_than_two_tensors_are_held(tmp_path: Path, write: Writer) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def make() -> Tensor:
        assert sum(ref() is not None for ref in alive) <= 1  # the one that is being written
        tensor = torch.ones(1000)
        alive.append(weakref.ref(tensor))
        return tensor

    write(tmp_path / "a", [Piece(str(i), (1000,), torch.float32, make) for i in range(5)])
    assert len(alive) == 5


@WRITERS
def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, write: Writer) -> None:
    def fail() -> Tensor:
        raise CheckpointError("the source is gone")

    pieces = pieces_of({"w": torch.ones(3)})
    write(tmp_path / "a", pieces)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(CheckpointError, match="the source is gone"):
        write(tmp_path / "a", [*pieces, Piece("x", (1,), torch.float32, fail)])
    assert (tmp_path / "a").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        write(tmp_path / "file" / "a", pieces)


@WRITERS
def test_where_writing_ends_early_the_tensor_ahead_is_waited_for(tmp_path: Path, write: Writer) -> None:
    begun, go, made = threading.Event(), threading.Event(), list[str]()

    def ahead() -> Tensor:
        begun.set()
        assert go.wait(60)
        made.append("ahead")
        return torch.ones(1)

    def stop(size: int) -> None:
        assert begun.wait(60)  # it is being made while this one was written
        go.set()
        raise KeyboardInterrupt

    first = Piece("w", (1,), torch.float32, lambda: torch.ones(1))
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", [first, *(Piece(name, (1,), torch.float32, ahead) for name in "xyz")], stop)
    assert made == ["ahead"] and threading.active_count() == before and not list(tmp_path.iterdir())


@WRITERS
def test_what_cannot_be_written_is_refused_before_a_byte(tmp_path: Path, write: Writer) -> None:
    one = Piece("w", (1,), torch.float32, lambda: torch.ones(1))
    odd = Piece("q", (1,), torch.complex128 if write is write_safetensors else torch.uint16, lambda: torch.ones(1))
    with pytest.raises(CheckpointError, match="w twice; torch.* has no place in the format"):
        write(tmp_path / "a", [one, one, odd])
    assert not list(tmp_path.iterdir())


@WRITERS
@pytest.mark.parametrize("made", [torch.ones(2), torch.ones(1, dtype=torch.float64)])
def test_a_tensor_other_than_planned_is_refused(tmp_path: Path, write: Writer, made: Tensor) -> None:
    with pytest.raises(CheckpointError, match="w: is .* where .* was planned"):
        write(tmp_path / "a", [Piece("w", (1,), torch.float32, lambda: made)])
    assert not list(tmp_path.iterdir())
