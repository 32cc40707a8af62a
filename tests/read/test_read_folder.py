"""A folder of captioned pictures: what goes together, in which order, and what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb
from cm3.read.picture_folder import Folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two captioned pictures, one without words, words alone, and what is of no concern."""
    root = tmp_path / "photos"
    (root / "trip").mkdir(parents=True)
    for name, colour in (("b.png", "blue"), ("a.JPG", "red"), ("trip/c.webp", "green")):
        PIL.Image.new("RGB", (6, 4), colour).save(root / name)
    (root / "b.txt").write_text("\nA na\u00efve blue. ", encoding="utf-8")
    (root / "a.txt").write_bytes(b"\xef\xbb\xbfred, with a mark")
    (root / "trip" / "note.txt").write_text("words alone")
    (root / "trip" / "data.json").write_text("{}")
    (root / ".hidden.txt").write_text("no")
    return root


def test_pictures_with_their_words_by_name(root: Path) -> None:
    documents = Folder(root, license="CC0-1.0")
    assert len(documents) == 4
    read = [d for d in documents if isinstance(d, Document)]
    assert [(d.id, d.text, len(d.images)) for d in read] == [
        ("a.JPG", "red, with a mark", 1),
        ("b.png", "A na\u00efve blue.", 1),
        ("trip/c.webp", "", 1),
        ("trip/note.txt", "words alone", 0),
    ]
    assert [type(p) for p in read[1].parts] == [Text, Image]
    assert all(d.source == "photos" and d.meta == {"license": "CC0-1.0"} for d in read)
    assert read[1].images[0].pixels.getpixel((0, 0)) == (0, 0, 255)
    assert list(documents) == read, "it can be read again"
    assert [d for unit in documents.units(3) for d in documents.read(unit)] == read, "and in pieces"
    assert Folder(root / "trip" / ".." / "trip").source == "trip"
    assert Folder(root)[0] == read[0] and Folder(root).document(0).meta == {}


def test_control_images_beside_their_picture_are_no_documents(root: Path) -> None:
    before = [d.id for d in Folder(root) if isinstance(d, Document)]
    for name in ("b.hed.png", "a.depth.png", "trip/c.normal.png", "trip/c.hed.PNG"):
        PIL.Image.new("RGB", (6, 4)).save(root / name)
    assert [d.id for d in Folder(root) if isinstance(d, Document)] == before
    # One without a picture to belong to is a picture like any other, and so is one of another kind.
    for name in ("d.hed.png", "b.edge.png", "trip/a.hed.png"):
        PIL.Image.new("RGB", (6, 4)).save(root / name)
    (root / "b.hed.txt").write_text("words alone")
    added = ["b.edge.png", "b.hed.txt", "d.hed.png", "trip/a.hed.png"]
    assert [d.id for d in Folder(root) if isinstance(d, Document)] == sorted([*before, *added])


def test_files_are_read_one_after_the_other(root: Path) -> None:
    documents = iter(Folder(root))
    assert next(documents).id == "a.JPG"
    (root / "b.png").unlink()
    (gone, *_) = list(documents)
    assert isinstance(gone, Unreadable) and gone.id == "b.png" and "b.png: no such file" in gone.reason


def test_what_cannot_be_read_stands_in_its_place(root: Path) -> None:
    (root / "a.JPG").write_bytes(b"no picture")
    (root / "b.txt").write_bytes(b"caf\xe9")
    (root / "trip" / "c.webp").write_bytes(b"")
    read = list(Folder(root))
    assert read[:3] == [
        Unreadable("a.JPG", "a.JPG: picture of 10 bytes: not a picture; give a PNG, JPEG or WebP file"),
        Unreadable("b.png", "b.txt: is not UTF-8 at byte 3; save it again"),
        Unreadable("trip/c.webp", "trip/c.webp: picture of 0 bytes: is empty; save it again"),
    ]
    assert [d.id for d in read[3:]] == ["trip/note.txt"]


def test_pixels_wait_until_they_are_asked_for(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    PIL.Image.fromarray(noise).save(root / "b.png")
    data = (root / "b.png").read_bytes()
    (root / "b.png").write_bytes(data[: len(data) // 2])
    document = list(Folder(root))[1]
    assert isinstance(document, Document), "the header is sound"
    with pytest.raises(DataError, match="image file is truncated"):
        rgb(document.images[0].pixels)


def test_a_picture_is_what_its_bytes_are(root: Path) -> None:
    (root / "a.JPG").write_bytes((root / "b.png").read_bytes())
    document = Folder(root).document(0)
    assert document.images[0].pixels.format == "PNG"
    assert rgb(document.images[0].pixels).getpixel((0, 0)) == (0, 0, 255)


def test_captions_of_any_length_are_passed_on(root: Path) -> None:
    (root / "a.txt").write_text(" \n")
    (root / "b.txt").write_text("x" * 100_000)
    first, second, *_ = Folder(root)
    assert isinstance(first, Document) and isinstance(second, Document)
    assert [type(p) for p in first.parts] == [Image] and len(second.text) == 100_000


def test_names_that_are_not_utf8_have_an_id_all_the_same(root: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        (root / name).write_text("strange name")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8")
    assert "caf\\xe9.txt" in [d.id for d in Folder(root)]


def test_it_is_recognised_by_what_it_holds(root: Path, tmp_path: Path) -> None:
    assert Folder.recognises(root) and not Folder.splits(root)
    assert not Folder.recognises(root / "b.png") and not Folder.recognises(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.json").write_text("{}")
    assert not Folder.recognises(tmp_path / "other")


def test_folders_without_anything_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere': no such folder; give one that holds pictures"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="photos': a folder of pictures has no splits; leave @val away"):
        Folder(root, "val")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "data.json").write_text("{}")
    with pytest.raises(DataError, match="holds no picture and no .txt; give pictures, each with its .txt"):
        Folder(tmp_path / "empty")
