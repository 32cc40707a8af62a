"""Documents of any reader by their numbers: the reader's own, and no decoded picture stays."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import PIL.Image
import pytest

from cm3.document import Document, Image, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb
from cm3.read import random_access
from cm3.read.base import Reader
from cm3.read.find import open_reader
from cm3.read.huggingface import documents
from cm3.read.random_access import Numbered

FORMATS = ("png", "jpg", "webp", "gif", "tiff", "bmp")


@pytest.fixture(params=["jsonl", "jsonl.gz", "tar", "folder"])
def reader(tmp_path: Path, request: pytest.FixtureRequest) -> Reader:
    """The same pictures in each format that there is, the last one damaged."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for ending in FORMATS:
        PIL.Image.effect_noise((24, 16), 60).convert("RGB").save(pictures / f"{ending}.{ending}")
    (pictures / "wrong.png").write_bytes(b"no picture")
    lines = [json.dumps({"id": p.name, "text": "x", "image": p.name}) for p in sorted(pictures.iterdir())]
    if request.param == "jsonl":
        (pictures / "all.jsonl").write_text("\n".join(["", *lines[:2], "", *lines[2:], ""]))
    elif request.param == "jsonl.gz":
        (pictures / "all.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    elif request.param == "tar":
        with tarfile.open(tmp_path / "all.tar", "w") as archive:
            for path in sorted(pictures.iterdir()):
                archive.add(path, path.name)
        return open_reader(f"webdataset:{tmp_path}/all.tar")
    kind = "folder" if request.param == "folder" else "jsonl"
    return open_reader(f"{kind}:{pictures}")


def test_the_same_documents_as_the_reader_gives(reader: Reader) -> None:
    listed, wanted = Numbered(reader), list(reader)
    assert len(listed) == len(wanted) == len(FORMATS) + 1
    for number in (3, 0, 3, 1, 2, 4, 5):
        one, other = listed[number], wanted[number]
        assert isinstance(one, Document) and isinstance(other, Document)
        assert (one.id, one.source, one.meta, one.text) == (other.id, other.source, other.meta, other.text)
        assert [rgb(i.pixels).tobytes() for i in one.images] == [rgb(i.pixels).tobytes() for i in other.images]
    assert listed[6] == wanted[6] and isinstance(listed[6], Unreadable)
    with pytest.raises(IndexError):
        listed[7]


def test_what_one_decodes_is_not_kept(reader: Reader) -> None:
    listed = Numbered(reader)
    first, again = listed[0], listed[0]
    assert isinstance(first, Document) and isinstance(again, Document)
    first.images[0].pixels.load()
    first.images[0].pixels.info["memo"] = 1
    assert first.images[0].pixels is not again.images[0].pixels and "memo" not in again.images[0].pixels.info
    for kept in listed._listed or ():
        parts = kept.document.parts if isinstance(kept, random_access._Kept) else ()
        assert not any(isinstance(part, Image) for part in parts)


def test_a_picture_that_was_not_opened_is_kept_whole() -> None:
    """As the hub may give it, decoded; one without pixels cannot be kept."""
    picture = PIL.Image.effect_noise((24, 16), 60).convert("RGB")
    (made,) = documents({"image": picture, "text": "x"}, "0/0", "here", {})
    packed = random_access._packed(made)
    assert isinstance(packed, random_access._Kept)
    with PIL.Image.open(io.BytesIO(packed.files[0])) as opened:
        assert opened.tobytes() == picture.tobytes()
    (empty,) = documents({"image": PIL.Image.new("RGB", (0, 9)), "text": "x"}, "0/1", "here", {})
    assert random_access._packed(empty) == Unreadable(
        "0/1", "image of 0 x 9 pixels: is empty; give a picture with pixels"
    )


def test_a_large_dataset_without_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_access, "KEPT", 4)
    lines = "\n".join(json.dumps({"text": str(i)}) for i in range(5))
    (tmp_path / "a.jsonl").write_text(lines)
    assert len(Numbered(open_reader(f"jsonl:{tmp_path}"))) == 5
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with pytest.raises(
        DataError, match="source 'x': a jsonl dataset gives no document by its number, and this one has more than the 4"
    ):
        Numbered(open_reader(f"jsonl:{tmp_path}"), "x")


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}')
    listed = Numbered(open_reader(f"jsonl:{path}"))
    path.write_text(" " * 40)
    assert listed[1] == Unreadable("a.jsonl:1", "its line is blank now; leave a dataset as it is while it is in use")
