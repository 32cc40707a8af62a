"""Tars as people pack them: what a sample is, what is told of the rest, and what must not be unpacked."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tar_parts import jpg, one, pack, sample

from cm3.document import Document, Unreadable
from cm3.errors import DataError
from cm3.read import webdataset as tars
from cm3.read.webdataset import WebDataset


def joined(path: Path, *samples: dict[str, bytes]) -> dict[str, Any]:
    """Id -> text and number of pictures of what is read of a tar of these, or the reason."""
    read = one(path, *samples)
    return {d.id: (d.text, len(d.images)) if isinstance(d, Document) else d.reason for d in read}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.jfif": jpg(), "a.txt": b"A"}, ("A", 1)),
        ({"a.0.jpg": jpg(), "a.1.jpg": jpg("blue"), "a.txt": b"A"}, ("A", 2)),
        ({"a.1.jpg": jpg(), "a.2.jpg": jpg(), "a.3.jpg": jpg()}, ("", 3)),
        ({"a.jpg": jpg(), "a.caption": b"A"}, ("A", 1)),
        ({"a.jpg": jpg(), "a.text": b"A", "a.cls": b"3"}, ("A", 1)),
        ({"a.jpg": jpg(), "a.jpg.txt": b"A"}, ("A", 1)),
        ({"a.jpg": jpg(), "a.json": b'{"text": "A"}'}, ("A", 1)),
        ({"a.jpg": jpg(), "a.json": json.dumps({"caption": "x" * 3000}).encode()}, ("x" * 3000, 1)),
        ({"a.jpg": jpg(), "a.json": b'"A"'}, ("A", 1)),
        ({"a.jpg": jpg(), "a.txt": b"A", "a.json": b"[1]"}, ("A", 1)),
        ({"a.jpg": jpg(), "a.txt": b"\xff\xfeA\0", "a.json": b'{"similarity": NaN}'}, ("A", 1)),
        ({"./a.jpg": jpg(), "./a.txt": b"A", "./._a.jpg": b"x", "__MACOSX/a.jpg": b"x"}, ("A", 1)),
        ({"a.json": b'{"text": "A"}'}, ("A", 0)),
        ({"a.avif": jpg(), "a.txt": b"A"}, ("A", 1)),
        (
            {"a.heic": b"x", "a.txt": b"A"},
            "its .heic is not read, so its words are not taken either; save it as .png or",
        ),
        ({"a.mp4": b"x", "a.json": b'{"caption": "A"}'}, "its .mp4 is not read, so its words are not taken either"),
        ({"a.in.jpg": jpg(), "a.out.jpg": jpg(), "a.txt": b"A"}, "its .in.jpg is not read, so its words are not taken"),
        ({"a.jpg": jpg(), "a.prompt.txt": b"A"}, "its words are in .prompt.txt, which is not read; call it .txt"),
        ({"a.txt": b"A", "a.json": b'{"url": "http://x", "caption": "A"}'}, "is of a picture at an address ('url')"),
        (
            {"a.jpg": jpg(), "a.json": b'{"caption": 7}'},
            "its .json: its 'caption' is neither a text nor a list of texts",
        ),
        ({"a.jpg": jpg(), "a.txt": b"w\0i\0d\0e\0"}, "its caption: has zero bytes, so it is no text in UTF-8"),
    ],
)
def test_samples_as_people_pack_them(tmp_path: Path, files: dict[str, bytes], expected: Any) -> None:
    found = joined(tmp_path / "x.tar", files)
    assert found.keys() == {"x/a"}
    assert found["x/a"] == expected if isinstance(expected, tuple) else expected in found["x/a"]


def test_several_captions_of_the_json_are_several_documents(tmp_path: Path) -> None:
    first, second = one(
        tmp_path / "x.tar", {"a.jpg": jpg(), "a.json": b'{"caption": ["one", "two"], "license": "CC0"}'}
    )
    assert isinstance(first, Document) and isinstance(second, Document)
    assert [(d.id, d.text, d.meta["license"]) for d in (first, second)] == [
        ("x/a/0", "one", "CC0"),
        ("x/a/1", "two", "CC0"),
    ]
    assert first.images[0] is second.images[0]


def test_what_is_passed_over_is_counted_once(tmp_path: Path) -> None:
    files = {"a.jpg": jpg(), "a.png": jpg(), "a.seg.png": jpg(), "a.npy": b"x", "a.txt": b" ", "a.json": b"[1]"}
    (tmp_path / "x.tar").write_bytes(pack(files, {"__key__.json": b"{}", "Thumbs.db": b"", "readme": b""}))
    reader = WebDataset(tmp_path / "x.tar")
    assert reader.passed.json() == {}
    for _ in range(2):
        list(reader)
        assert {kind: told["names"] for kind, told in reader.passed.json().items()} == {
            ".png, which is not read": ["x/a.png"],
            ".seg.png, which is not read": ["x/a.seg.png"],
            ".npy, which is not read": ["x/a.npy"],
            ".json that is list, neither an object nor captions": ["x/a"],
            "an empty caption": ["x/a"],
            "a note of the webdataset library": ["__key__.json"],
            "hidden, or of the system": ["Thumbs.db"],
            "files without an ending": ["readme"],
        }
        assert reader.passed.counts.total() == 8


def test_a_tar_whose_samples_do_not_stand_together(tmp_path: Path) -> None:
    keys = [str(i) for i in range(5)]
    scattered = [[(f"{key}.{e}", jpg() if e == "jpg" else b"T" + key.encode()) for key in keys] for e in ("jpg", "txt")]
    data = pack(*scattered)
    (tmp_path / "x.tar").write_bytes(data)
    assert joined(tmp_path / "x.tar", *scattered) == {f"x/{key}": (f"T{key}", 1) for key in keys}
    (tmp_path / "y.tar.gz").write_bytes(pack(*scattered, mode="w:gz"))
    with pytest.raises(
        DataError, match="the files of '0' do not stand together, so that pictures lose their words; sort"
    ):
        list(WebDataset(tmp_path / "y.tar.gz"))
    (tmp_path / "x.tar").write_bytes(data[: len(data) // 2])
    *read, last = WebDataset(tmp_path / "x.tar")
    assert isinstance(last, Unreadable) and last.id == "x"
    assert 0 < len(read) < 5 and all(isinstance(d, Document) and len(d.parts) == 2 for d in read), "no half of one"


def test_what_follows_after_the_end_of_a_tar_is_told(tmp_path: Path) -> None:
    first, second = (pack(*(sample(f"{name}{i}") for i in range(3))) for name in "ab")
    path = tmp_path / "x.tar"
    path.write_bytes(first + second)
    *read, last = WebDataset(path)
    assert (
        len(read) == 3
        and isinstance(last, Unreadable)
        and last.id == "x"
        and "as where tars were joined" in last.reason
    )
    data = pack(*(sample(f"{i}") for i in range(40)))
    path.write_bytes(data)
    whole = list(WebDataset(path))
    for half in range(len(data) // 2 // 512 * 512, len(data) // 2 // 512 * 512 + 4096, 512):
        path.write_bytes(data[:half] + bytes(len(data) - half))
        *read, last = WebDataset(path)
        assert read == whole[: len(read)] and 15 < len(read) < 25
        assert isinstance(last, Unreadable) and "zeros follow after its end" in last.reason
    path.write_bytes(data + bytes(10_240))
    assert list(WebDataset(path)) == whole, "a tar may be filled up"


def test_links_and_holes_in_a_tar_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, type in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.fifo", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type, "/etc/hostname"
            archive.addfile(info)
            text = tarfile.TarInfo(f"{name[0]}.txt")
            text.size = 1
            archive.addfile(text, io.BytesIO(b"T"))
        holes = tarfile.TarInfo("d.jpg")
        holes.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.map": "0,1",
            "GNU.sparse.size": "4096",
        }
        holes.size = 1
        archive.addfile(holes, io.BytesIO(b"x"))
    read = {d.id: d for d in WebDataset(path)}
    for id in ("x/a", "x/b"):
        assert (
            isinstance(read[id], Unreadable)
            and "its .jpg is a link in the tar; pack the file itself" in read[id].reason
        )
    assert isinstance(read["x/c"], Document), "a pipe is no part of a sample"
    assert isinstance(read["x/d"], Unreadable) and "its .jpg is a file with holes" in read["x/d"].reason


def test_bounds_of_what_a_tar_unpacks_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = {"a.txt": bytes(tars.TEXT + 1), "b.jpg": jpg(), "b.json": b" " * 200 + b"{}"}
    monkeypatch.setitem(tars._MOST, "json", 100)
    (tmp_path / "x.tar.gz").write_bytes(pack(long, sample("c"), mode="w:gz"))
    first, second, third = WebDataset(tmp_path / "x.tar.gz")
    assert (
        isinstance(first, Unreadable) and f"its .txt has {tars.TEXT + 1} bytes, more than {tars.TEXT}" in first.reason
    )
    assert isinstance(second, Unreadable) and "its .json has 202 bytes, more than 100" in second.reason
    assert isinstance(third, Unreadable), "its .json too"
    (tmp_path / "y.tar").write_bytes(pack({"x" * (tars.NOTE + 1) + ".txt": b"T"}, sample("c")))
    (last,) = WebDataset(tmp_path / "y.tar")
    assert isinstance(last, Unreadable) and "a name or note of 10485" in last.reason
