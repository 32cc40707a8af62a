"""Strangers' JSON, names, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from cm3 import files
from cm3.errors import CheckpointError, ConfigError, DataError, DiskError


@dataclass(frozen=True)
class Inner:
    a: int
    b: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Outer:
    n: int
    rate: float = 1.0
    name: str | None = None
    kind: Literal["x", "y"] = "x"
    flag: bool = False
    box: tuple[int, float] = (1, 2.0)
    inner: Inner = field(default_factory=lambda: Inner(1))
    more: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ConfigError(f"n={self.n}: must not be negative")


def test_build_makes_what_json_says() -> None:
    page = {"n": 3, "rate": 2, "name": "m", "kind": "y", "flag": True, "box": [1, 2], "inner": {"a": 5, "b": [7, 8]}}
    made = files.build(Outer, page | {"more": {"k": 1}, "names": ["q"]}, "page")
    assert made == Outer(3, 2.0, "m", "y", True, (1, 2.0), Inner(5, (7, 8)), {"k": 1}, ["q"])
    assert type(made.rate) is float
    assert files.build(Outer, {"n": 3}, "page") == Outer(3)


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ([], "page: is a list; must be an object"),
        ({}, "page.n: is missing"),
        ({"n": "3"}, "page.n='3': must be a whole number"),
        ({"n": True}, "page.n=True: must be a whole number"),
        ({"n": 1.5}, "page.n=1.5: must be a whole number"),
        ({"n": None}, "page.n=None: must be a whole number"),
        ({"n": 1, "rate": float("nan")}, "page.rate=nan: must be a finite number"),
        ({"n": 1, "rate": "fast"}, "page.rate='fast': must be a finite number"),
        ({"n": 1, "name": 5}, "page.name=5: must be a string or null"),
        ({"n": 1, "kind": "z"}, "page.kind='z': must be 'x' or 'y'"),
        ({"n": 1, "flag": 1}, "page.flag=1: must be true or false"),
        ({"n": 1, "box": [1]}, r"page.box=\[1\]: must be a list of 2 values"),
        ({"n": 1, "inner": {"a": 1, "b": 3}}, "page.inner.b=3: must be a list of a whole number"),
        ({"n": 1, "inner": {"a": 1, "b": ["q"]}}, r"page.inner.b\[0\]='q': must be a whole number"),
        ({"n": 1, "inner": 4}, "page.inner: is a number; must be an object"),
        ({"n": 1, "more": {"k": "v"}}, "page.more.k='v': must be a whole number"),
        ({"n": 1, "nmae": "m"}, "page.nmae: is no field of Outer. Did you mean 'name'?"),
        ({"n": -1}, "page: n=-1: must not be negative"),
    ],
)
def test_build_names_the_field(page: Any, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        files.build(Outer, page, "page")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "row: is not readable JSON"),
        (b'"\xff"', "row: is not readable JSON"),
        (b"", "row: is not readable JSON"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": -Infinity}', "-Infinity is no JSON"),
        (b'{"a": -1e999}', "-1e999 is larger than any number of a computer"),
        (b"[" * 100_000, "row: is nested too deep"),
        (b"7" * 400, "a whole number of 400 digits; 300 at most"),
        (b"7" * 10_000, "a whole number of 10000 digits"),
    ],
)
def test_bad_json_is_one_error(data: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        files.parse_json(data, "row")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_json_is_read_as_json_reads_it() -> None:
    page = {"a": [1, -2.5e3, "\u00e9", None, True], "b": {"c": 10**299}}
    for data in (json.dumps(page), json.dumps(page).encode(), json.dumps(page).encode("utf-16")):
        assert files.parse_json(data, "row") == page
    assert files.parse_json(b"\xef\xbb\xbf{}", "row") == {}
    assert files.parse_json("[NaN]", "row", nan=True)[0] != files.parse_json("[NaN]", "row", nan=True)[0]


def test_a_file_of_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert files.read_json(tmp_path / "a.json", "store") == {"a": 1}
    with pytest.raises(CheckpointError, match="store: none.json cannot be read .No such file"):
        files.read_json(tmp_path / "none.json", "store")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="store: list.json holds a list and no object"):
        files.read_json(tmp_path / "list.json", "store", DataError)
    (tmp_path / "cut.json").write_text('{"a"')
    with pytest.raises(CheckpointError, match="store: cut.json: is not readable JSON"):
        files.read_json(tmp_path / "cut.json", "store")


def test_a_json_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "JSON_BYTES", 10)
    (tmp_path / "a.json").write_text('{"a": "long enough"}')
    with pytest.raises(CheckpointError, match="a.json has 20 bytes, more than 10"):
        files.read_json(tmp_path / "a.json", "store")


def test_names_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "near").symlink_to(root / "sub")
    for name in ("a.png", "sub/a.png", "sub/./a.png", "near/a.png", "a..b.png", "..a"):
        assert files.inside(root, name, "row 1") == root / name
    outside = ["../secret", "/etc/hosts", "sub/../../secret", "..\\secret", str(root / "a.png")]
    for name in outside:
        with pytest.raises(DataError, match="row 1: the file name .* leads outside"):
            files.inside(root, name, "row 1")
    for bad in ("", None, 3, "a\0b", ["a"]):
        with pytest.raises(DataError, match="is no name"):
            files.inside(root, bad, "row 1")
    with pytest.raises(CheckpointError, match="'link' is a link that leads outside"):
        files.inside(root, "link", "row 1", CheckpointError)


def test_a_snapshot_of_the_hub_links_to_its_own_blobs(tmp_path: Path) -> None:
    blobs, root = tmp_path / "datasets--a--b" / "blobs", tmp_path / "datasets--a--b" / "snapshots" / "abc"
    for folder in (blobs / "deep", root / "sub", tmp_path / "other" / "blobs", tmp_path / "other" / "snapshots" / "1"):
        folder.mkdir(parents=True)
    for place in (blobs / "1", blobs / "deep" / "1", tmp_path / "other" / "blobs" / "1", tmp_path / "secret"):
        place.write_text("x")
    (root / "a.png").symlink_to("../../blobs/1")
    (root / "sub" / "a.png").symlink_to("../../../blobs/1")
    (tmp_path / "link").symlink_to(root)
    for top, name in ((root, "a.png"), (root, "sub/a.png"), (root / "sub", "a.png"), (tmp_path / "link", "a.png")):
        assert files.inside(top, name, "row").read_text() == "x"
    (root / "secret").symlink_to("../../../secret")
    (root / "deep").symlink_to("../../blobs/deep/1")
    (root / "other").symlink_to("../../../other/blobs/1")
    (root / "folder").symlink_to("../../../other/snapshots/1")
    (tmp_path / "other" / "snapshots" / "1" / "a.png").symlink_to("../../blobs/1")
    for name in ("secret", "deep", "other", "folder/a.png"):
        with pytest.raises(
            DataError, match="leads outside '.*abc'; copy the file there, or give the folder that holds"
        ):
            files.inside(root, name, "row")
    blobs.rename(tmp_path / "blobs")
    blobs.symlink_to(tmp_path / "blobs")  # no cache has one
    with pytest.raises(DataError, match="leads outside"):
        files.inside(root, "a.png", "row")


def test_a_root_that_is_a_link_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert files.inside(tmp_path / "root", "a.png", "row") == tmp_path / "root/a.png"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    files.write(path, "one")
    assert path.read_text() == "one"
    with pytest.raises(KeyError), files.replacing(path) as part:
        part.write_text("half")
        raise KeyError("stop")
    assert path.read_text() == "one"
    files.write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_is_exchanged_whole(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    for text in ("one", "two"):
        with files.replacing_folder(path) as part:
            (part / "sub").mkdir()
            (part / "sub/a.txt").write_text(text)
            (part / text).touch()
        assert (path / "sub/a.txt").read_text() == text
    assert sorted(p.name for p in path.iterdir()) == ["sub", "two"]
    with pytest.raises(KeyError), files.replacing_folder(path) as part:
        (part / "a.txt").write_text("half")
        raise KeyError("stop")
    assert sorted(p.name for p in path.iterdir()) == ["sub", "two"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_is_there_at_every_moment(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with files.replacing_folder(path) as part:
        (part / "n").write_text("0")
    watch = textwrap.dedent(f"""
        import os, sys
        print("ready", flush=True)
        missing = 0
        while not os.path.exists({str(tmp_path / "stop")!r}):
            missing += not os.path.isdir({str(path)!r})
        print(missing)
    """)
    with subprocess.Popen([sys.executable, "-c", watch], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for n in range(100):
            with files.replacing_folder(path) as part:
                (part / "n").write_text(str(n))
        (tmp_path / "stop").touch()
        assert process.stdout.read().strip() == "0"


def test_without_the_systems_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_swap_call", lambda: None)
    test_a_folder_is_exchanged_whole(tmp_path)


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with files.replacing_folder(tmp_path / "link") as part:
        (part / "a").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/a").exists()


def _run(code: str, *args: object) -> subprocess.Popen[str]:
    body = "import sys, time\nfrom pathlib import Path\nfrom cm3 import files\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", body, *map(str, args)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("folder", [False, True])
def test_a_killed_writer_leaves_a_part_that_the_next_sweeps(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "out[1]"
    how = files.replacing_folder if folder else files.replacing
    with _run(
        f"""
        with files.{how.__name__}(sys.argv[1]) as part:
            (part / "a" if part.is_dir() else part).write_text("half")
            print("in", flush=True)
            time.sleep(60)
        """,
        path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        files.sweep(path)
        assert len(list(tmp_path.iterdir())) == 1, "a writer at work was swept away"
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    with how(path) as part:
        (part / "a" if folder else part).write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out[1]"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    told = "run 'r': another process is writing to it"
    with files.locked(path, "run 'r'"), pytest.raises(ConfigError, match=told), files.locked(path, "run 'r'"):
        pass
    with _run("with files.locked(sys.argv[1], 'r'):\n    print('in', flush=True)\n    time.sleep(60)", path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        with pytest.raises(DataError, match=told), files.locked(path, "run 'r'", DataError):
            pass
        process.send_signal(signal.SIGKILL)
    with files.locked(path, "run 'r'"):
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for path in (tmp_path / "file/a.txt", tmp_path / ("n" * 300), Path("/proc/nothing/a.txt")):
        with pytest.raises(DiskError, match="cannot be written|may not be written to") as caught:
            files.write(path, "x")
        assert "\n" not in str(caught.value)
        with pytest.raises(DiskError), files.replacing_folder(path):
            pass
        with pytest.raises(DiskError), files.locked(path, "run"):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write(path, "old")
    with pytest.raises(DiskError, match="a.txt': no space is left on the disk"), files.replacing(path):
        with open("/dev/full", "w") as full:
            full.write("x")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left"),
        (OSError(errno.EROFS, "Read-only file system"), "may not be written to"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "'/x': may not be written to"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space is left"),
        (RuntimeError("attempt to write a readonly database"), "may not be written to"),
    ],
)
def test_errors_of_the_disk_by_any_library(error: Exception, told: str) -> None:
    found = files.disk_error(error)
    assert isinstance(found, DiskError)
    assert told in str(found)


def test_other_errors_are_not_the_disks(tmp_path: Path) -> None:
    assert files.disk_error(ValueError("no")) is None
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "a"):
        open(tmp_path / "source" / "missing")
    assert list(tmp_path.iterdir()) == []


def test_sums_and_first_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.said(ValueError("\n one \n two")) == "one"
    assert files.said(ValueError()) == "ValueError"


@pytest.mark.parametrize("writing", [files.replacing, files.replacing_folder])
@pytest.mark.parametrize("moment", ["_hold", "sync"])
def test_a_signal_at_any_moment_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writing: Callable[[Path], Any], moment: str
) -> None:
    """While the part is made, too: the system may take its time there."""

    def interrupted(*some: object) -> None:
        assert list(tmp_path.glob(".a.*.part")), "the part is there"
        raise KeyboardInterrupt

    monkeypatch.setattr(files, moment, interrupted)
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [False, True])
def test_a_folder_that_another_process_tried_and_took_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    place = tmp_path / "out"
    times = 3
    swept = files.secrets.token_hex

    def taken_away(count: int) -> str:
        nonlocal times
        if times:
            times -= 1
            place.rmdir()
        return swept(count)

    monkeypatch.setattr(files.secrets, "token_hex", taken_away)
    if folder:
        with files.replacing_folder(place / "made") as part:
            (part / "a").write_text("whole")
        assert (place / "made/a").read_text() == "whole"
    else:
        files.write(place / "a", "whole")
        assert (place / "a").read_text() == "whole"
    assert times == 0
    assert len(list(place.iterdir())) == 1


def test_a_folder_that_is_gone_each_time_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "out"
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: (place.rmdir(), "0" * 8)[1])
    with pytest.raises(DiskError, match="cannot be written"):
        files.write(place / "a", "whole")
