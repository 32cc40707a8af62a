"""Files of torch.save are read as torch reads them, and nothing in them is ever run."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3.convert.pickles import Stored, read_pickled
from cm3.convert.tensor_files import TensorFiles
from cm3.errors import CheckpointError

FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])


def every_kind() -> dict[str, torch.Tensor]:
    """Tensors of every number type, and views of all sorts."""
    g = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=g)
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]
    kinds += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
    made = {str(kind): (10 * torch.randn(3, 5, generator=g)).to(kind) for kind in kinds}
    made |= {str(k): torch.arange(6).to(k) for k in (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn)}
    made |= {"base": base, "same": base, "rows": base[2:4], "columns": base[:, 3:5], "turned": base.t()}
    made |= {"steps": base[::2, 1::3], "wide": torch.tensor([1.5]).expand(7), "scalar": torch.tensor(2.5)}
    made |= {"empty": torch.empty(0, 4), "parameter": torch.nn.Parameter(base.clone())}
    return made


@FORMATS
def test_tensors_are_those_that_torch_reads(tmp_path: Path, new: bool) -> None:
    saved = every_kind()
    if not new:  # torch writes the later number types in its old format and cannot read them
        saved = {
            n: t
            for n, t in saved.items()
            if not n.startswith(("torch.uint16", "torch.uint32", "torch.uint64", "torch.float8"))
        }
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    reference = torch.load(tmp_path / "a.pt", weights_only=True)
    files = TensorFiles.open(tmp_path / "a.pt")
    assert list(files) == list(saved)
    for name, wanted in reference.items():
        found = files.read(name)
        assert files[name] == (tuple(wanted.shape), wanted.dtype, "a.pt")
        assert found.dtype == wanted.dtype and found.stride() == wanted.stride()
        # float8 has no comparison: its bytes are compared.
        as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (found, wanted.detach())]
        assert torch.equal(*as_bytes), name
    stored = read_pickled(tmp_path / "a.pt").tree
    assert stored["base"].storage == stored["rows"].storage != stored["scalar"].storage


@FORMATS
def test_a_tensor_lies_in_the_file_and_writing_to_it_changes_no_file(tmp_path: Path, new: bool) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    before = (tmp_path / "a.pt").read_bytes()
    read = TensorFiles.open(tmp_path / "a.pt").read("w")  # the file is held by the tensor alone
    read += 1
    assert float(read.sum()) == 1000
    assert (tmp_path / "a.pt").read_bytes() == before


class Callback:
    """An object of a training program, with a tensor in it."""

    def __init__(self) -> None:
        self.best = torch.ones(3)

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("an object of the file was made")


class Keyed(Callback):
    """One that is made by arguments, and filled as dictionary and list."""

    def __reduce__(self) -> Any:
        return Keyed, (1, "two"), {"best": self.best}, iter([1, 2]), iter([("k", "v")])


@FORMATS
def test_a_lightning_checkpoint_gives_its_weights_and_says_what_it_left_out(tmp_path: Path, new: bool) -> None:
    saved = {
        "epoch": 3,
        "state_dict": collections.OrderedDict(a=torch.ones(2), b=torch.zeros(3), c=None),
        "callbacks": {"ModelCheckpoint": Callback(), Callback: {"dirpath": Path("x"), "best": torch.ones(9)}},
        "hyper_parameters": argparse.Namespace(lr=1e-3, keys={1, 2}),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(4)}}}],
        "more": [Keyed(), slice(1, 2)],
    }
    saved["state_dict"]._metadata = {"": {"version": 1}}  # as nn.Module.state_dict has it
    torch.save(saved, tmp_path / "last.ckpt", _use_new_zipfile_serialization=new)
    files = TensorFiles.open(tmp_path / "last.ckpt")
    assert {name: files.read(name).tolist() for name in files} == {"a": [1, 1], "b": [0, 0, 0]}
    shard = files.shards[0]
    assert shard.group == "state_dict" and shard.nones == ["c"] and shard.plain["epoch"] == 3
    assert shard.plain["hyper_parameters"] == "argparse.Namespace, left out"
    here = Callback.__module__
    assert {"argparse.Namespace", f"{here}.Callback", f"{here}.Keyed"} <= set(shard.skipped)
    assert "collections.OrderedDict" not in shard.skipped


def test_an_object_of_a_package_that_is_not_installed_is_left_out(tmp_path: Path) -> None:
    module = types.ModuleType("omegaconf.dictconfig")
    kind = type("DictConfig", (), {"__module__": module.__name__})
    module.DictConfig = kind
    config = kind()
    config.content = {"z": [1, 2]}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("omegaconf", module.__name__):
            patch.setitem(sys.modules, name, module)
        torch.save({"model": {"w": torch.ones(2)}, "config": config}, tmp_path / "a.pt")
    files = TensorFiles.open(tmp_path / "a.pt")
    assert list(files) == ["w"] and files.shards[0].skipped == ["omegaconf.dictconfig.DictConfig"]


def test_none_where_a_tensor_was_is_named_and_left(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "rope.freqs": None}, tmp_path / "consolidated.pth")
    files = TensorFiles.open(tmp_path / "consolidated.pth")
    assert list(files) == ["w"] and files.shards[0].nones == ["rope.freqs"]


class Hostile:
    """Calls a function as it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


@FORMATS
@pytest.mark.parametrize("function", [os.mkdir, os.system, exec, eval, __import__])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, new: bool, function: Callable[..., Any]
) -> None:
    target = tmp_path / "ran"
    code = {os.mkdir: str(target), os.system: f"mkdir {target}", __import__: "antigravity"}
    attack = Hostile(function, code.get(function, f"__import__('os').mkdir({str(target)!r})"))
    torch.save({"w": torch.ones(2), "x": attack}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match=f"asks to run .*{function.__name__}.*trust nothing") as told:
        TensorFiles.open(tmp_path / "a.pt")
    assert "\n" not in str(told.value) and not target.exists()


class Spy:
    """Writes down that it was touched."""

    touched: list[str] = []

    def __init__(self, *args: Any) -> None:
        self.touched.append("made")

    def __setstate__(self, state: Any) -> None:
        self.touched.append("filled")

    @staticmethod
    def call(*args: Any) -> list[int]:
        """Be called."""
        Spy.touched.append("called")
        return []


def test_nothing_of_a_file_is_looked_up_made_or_called(tmp_path: Path) -> None:
    spy = Spy()
    spy.state = 1
    Spy.touched.clear()
    torch.save({"w": torch.ones(2), "x": spy, "y": Hostile(Spy.call, 1), "z": Hostile(Spy)}, tmp_path / "a.pt")
    assert list(TensorFiles.open(tmp_path / "a.pt")) == ["w"] and not Spy.touched
    with pytest.raises(pickle.UnpicklingError):  # and torch itself would refuse the file
        torch.load(tmp_path / "a.pt", weights_only=True)


def with_program(path: Path, program: bytes, storages: dict[str, bytes]) -> Path:
    """Write a zip as torch does, of this pickle and these bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        for key, data in storages.items():
            archive.writestr(f"a/data/{key}", data)
        archive.writestr("a/version", "3\n")
    return path


def tensor_program(count: int, offset: int, shape: tuple[Any, ...], stride: tuple[Any, ...]) -> bytes:
    """Pickle one tensor as torch does, with numbers of one's own."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(thing, Storage) else None

    tensor = Hostile(torch._utils._rebuild_tensor_v2, Storage(), offset, shape, stride, False, {})
    out = io.BytesIO()
    Pickler(out, protocol=2).dump({"w": tensor})
    return out.getvalue()


def test_the_programs_of_these_tests_are_those_of_torch(tmp_path: Path) -> None:
    path = with_program(tmp_path / "a.pt", tensor_program(4, 1, (2,), (2,)), {"0": torch.arange(4.0).numpy().tobytes()})
    assert TensorFiles.open(path).read("w").tolist() == [1, 3] == torch.load(path, weights_only=True)["w"].tolist()


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((4, 1, (2,), (3,)), "reaches to number 4 of storage 0, which has 4"),
        ((4, 5, (1,), (1,)), "reaches to number 5"),
        ((4, 0, (1 << 21,), (0,)), "reaches to number 0"),
        ((5, 0, (5,), (1,)), "storage 0 has 16 bytes, and the pickle says 20"),
        ((4, 0, (2,), (-1,)), "builds a tensor of shape"),
        ((4, 0, (2, 2), (1,)), "builds a tensor of shape"),
        ((4, 0, ("2",), (1,)), "builds a tensor of shape"),
        ((4, 1 << 70, (1,), (1,)), "builds a tensor of shape"),
        ((1 << 70, 0, (1,), (1,)), "names a storage in a way that torch does not"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, numbers: Any, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        read_pickled(with_program(tmp_path / "a.pt", tensor_program(*numbers), {"0": bytes(16)}))


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (b"", "without an end|holds no pickle"),
        (b".", "holds no pickle"),
        (b"\x80\x02}q\x00", "without an end|holds no pickle"),
        (b"\x80\x02}q\x00h\x07.", "holds no pickle"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "holds no pickle"),
        (b"\x80\x05\x97.", "operation NEXT_BUFFER"),
        (b"\x80\x02" + b"]" + b"q\x00h\x00a.", "nested more than"),  # a list that holds itself
        (b"\x80\x02]" + b"]" * 50 + b"a" * 50 + b".", "nested more than"),
        (b"\x80\x02)" + b"\x85" * 50 + b"}(h\x00" + b".", "holds no pickle"),
        (b"\x80\x02\xff.", "holds no pickle"),
        (b"I" + b"9" * 5000 + b"\n.", "holds no pickle"),
    ],
)
def test_a_pickle_that_torch_never_writes_is_one_error(tmp_path: Path, program: bytes, told: str) -> None:
    path = with_program(tmp_path / "a.pt", program, {})
    with pytest.raises(CheckpointError, match=told) as caught:
        TensorFiles.open(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_tuples_and_objects_as_keys_are_left_out(tmp_path: Path) -> None:
    deep = b"\x80\x02}(" + b")" + b"\x85" * 20 + b"K\x01" + b"c__main__\nX\nK\x02" + b"u."
    assert read_pickled(with_program(tmp_path / "a.pt", deep, {})).tree == {}


def test_values_that_hold_each_other_many_times_over_do_not_take_for_ever(tmp_path: Path) -> None:
    laughs = b"\x80\x02]q\x00" + b"".join(b"](" + b"h%c" % (n) * 12 + b"eq%c" % (n + 1) for n in range(6)) + b"."
    with pytest.raises(CheckpointError, match="or more than"):
        read_pickled(with_program(tmp_path / "a.pt", laughs, {}))


_SHAPED = b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00"
_DICT = b"ccollections\nOrderedDict\nq\x01"


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (_SHAPED + b"h\x00N" * 2_000 + b")" + b"\x87" * 2_000 + b"R.", "cannot be told"),
        (b"(U\x07storagectorch\nFloatStorage\n)\x85U\x03cpuK\x01tQ.", "names a storage in a way that torch"),
        (b"](" + b"N" * 100_000 + b"eq\x00" + _DICT + b"h\x01h\x00\x85R" * 21 + b".", "more than 2000000 entries"),
        (b"ctorch\nSize\n](" + b"K\x01" * 65 + b"e\x85R.", "65 dimensions; 64 at most"),
    ],
    ids=["calls", "names", "dictionaries", "dimensions"],
)
def test_values_without_end_are_one_error_and_fill_no_memory(tmp_path: Path, program: bytes, told: str) -> None:
    with pytest.raises(CheckpointError, match=told) as error:
        read_pickled(with_program(tmp_path / "a.pt", b"\x80\x02" + program, {}))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@FORMATS
def test_a_file_cut_short_anywhere_is_one_error(tmp_path: Path, new: bool) -> None:
    torch.save({"a": torch.ones(40), "b": torch.zeros(7)}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    whole = (tmp_path / "a.pt").read_bytes()
    for length in (*range(0, len(whole) - 1, 13), len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as told:
            TensorFiles.open(tmp_path / "cut.pt")
        assert "\n" not in str(told.value)


@FORMATS
@given(st.data())
def test_a_damaged_file_is_read_or_refused(new: bool, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / f"damaged{new}"
    folder.mkdir(exist_ok=True)
    out = io.BytesIO()
    torch.save({"a": torch.ones(4), "b": [torch.zeros(2, 2).t(), None, "x"]}, out, _use_new_zipfile_serialization=new)
    whole = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.pt").write_bytes(whole)
    try:
        files = TensorFiles.open(folder / "a.pt")
    except CheckpointError as told:
        assert "\n" not in str(told)
    else:
        for name in files:
            assert files.read(name).sum().numel() == 1


def test_a_compressed_storage_and_one_that_is_missing_are_refused_together(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", tensor_program(4, 0, (4,), (1,)))
        archive.writestr("a/data/1", bytes(400))
    with pytest.raises(CheckpointError, match="storage 1 is compressed.*; storage 0 is missing"):
        read_pickled(tmp_path / "a.pt")


def test_the_other_byte_order_is_refused(tmp_path: Path) -> None:
    path = with_program(tmp_path / "a.pt", tensor_program(4, 0, (4,), (1,)), {"0": bytes(16)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/byteorder", "big")
    with pytest.raises(CheckpointError, match="byte order b'big'"):
        read_pickled(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", b"PK" + bytes(99), pickle.dumps({"w": 1}), bytes(99)])
def test_another_file_is_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(CheckpointError) as told:
        TensorFiles.open(tmp_path / "a.pt")
    assert "\n" not in str(told.value)
    with pytest.raises(CheckpointError):
        read_pickled(tmp_path / "a.pt")


def test_a_sole_tensor_has_no_name_and_an_empty_file_no_tensors(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "a.pt")
    assert isinstance(read_pickled(tmp_path / "a.pt").tree, Stored)
    torch.save({"epoch": 3, "model": {}}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        TensorFiles.open(tmp_path / "b.pt")


def test_groups_are_taken_in_a_known_order_or_by_name(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "ema": {"w": torch.zeros(1)}, "steps": 7}, tmp_path / "a.pt")
    assert float(TensorFiles.open(tmp_path / "a.pt").read("w")) == 0
    files = TensorFiles.open(tmp_path / "a.pt", "model")
    assert float(files.read("w")) == 1 and files.shards[0].groups == {"model": 1, "ema": 1}
    with pytest.raises(CheckpointError, match="has no tensors in 'x'; it has them in model, ema"):
        TensorFiles.open(tmp_path / "a.pt", "x")
    torch.save({"one": {"w": torch.ones(1)}, "two": {"w": torch.zeros(1)}}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="has tensors in one, two, and none is known to be weights"):
        TensorFiles.open(tmp_path / "b.pt")
