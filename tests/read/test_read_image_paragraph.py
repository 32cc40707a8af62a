"""Stanford's image paragraphs: which paragraph goes with which picture, the splits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb
from cm3.read.find import open_reader, recognise
from cm3.read.published import ImageParagraph


def record(number: int, paragraph: str, folder: str = "VG_100K") -> dict[str, Any]:
    return {
        "url": f"https://cs.stanford.edu/people/rak248/{folder}/{number}.jpg",
        "image_id": number,
        "paragraph": paragraph,
    }


RECORDS = [
    record(2356347, "A red field.  It is wide. "),
    record(2388350, "A blue caf\u00e9.", "VG_100K_2"),
    record(2356347, "The same red field, told again."),
    record(2317429, "A green one."),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """paragraphs_v1.json (some of whose images come twice) with its splits, beside VG_100K/ and VG_100K_2/."""
    write(tmp_path, "paragraphs_v1.json", RECORDS)
    write(tmp_path, "train_split.json", [2388350, 2356347])
    write(tmp_path, "test_split.json", [2317429])
    for name, colour in (("VG_100K/2356347", "red"), ("VG_100K_2/2388350", "blue"), ("VG_100K/2317429", "green")):
        path = tmp_path / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (6, 4), colour).save(path)
    return tmp_path


def write(root: Path, name: str, content: Any) -> None:
    (root / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def test_a_document_an_image_in_the_order_of_the_split(root: Path) -> None:
    reader = ImageParagraph(root)
    documents = [d for d in reader if isinstance(d, Document)]
    assert len(reader) == 2 and reader.source == "image_paragraph/train"
    assert [(d.id, d.text) for d in documents] == [
        ("2388350", "A blue caf\u00e9."),
        ("2356347", "A red field.  It is wide."),
    ]
    assert [type(p) for p in documents[0].parts] == [Text, Image] and documents[0].source == "image_paragraph/train"
    assert documents[0].meta == {"split": "train", "image_id": 2388350, "url": RECORDS[1]["url"]}
    blue, red = (rgb(d.images[0].pixels).getpixel((0, 0)) for d in documents)
    assert blue[2] > 200 > red[2] and red[0] > 200 > blue[0]  # type: ignore[index]


def test_splits_are_those_there_are_files_of(root: Path) -> None:
    assert ImageParagraph.splits(root) == ("train", "test")
    assert [d.id for d in open_reader(f"image_paragraph:{root}@test")] == ["2317429"]
    write(root, "val_split.json", [2317429, 2317429])
    assert ImageParagraph.splits(root) == ("train", "val", "test")
    assert [d.id for d in ImageParagraph(root, "val")] == ["2317429"], "a document an image"


def test_units_are_the_same_documents(root: Path) -> None:
    reader = ImageParagraph(root)
    assert len(reader.units(1)) == 2
    assert [d for unit in reader.units(1) for d in reader.read(unit)] == list(reader)


def test_it_is_recognised_first(root: Path) -> None:
    assert recognise(root)[0] == "image_paragraph"
    (root / "paragraphs_v1.json").unlink()
    assert not ImageParagraph.recognises(root)


def test_what_cannot_be_read_stands_in_its_place(root: Path) -> None:
    write(
        root,
        "paragraphs_v1.json",
        [*RECORDS[1:], {"image_id": 1}, record(10**300, "far"), record(2, " "), record(3, "no picture")],
    )
    write(root, "train_split.json", [2388350, 1, 2, 3, 4, 10**300, 2356347])
    reader = ImageParagraph(root)
    (root / "VG_100K" / "2356347.jpg").write_bytes(b"no picture")
    assert list(reader)[1:] == [
        Unreadable("1", "paragraphs_v1.json: image 1: 'paragraph' is None, must be a text"),
        Unreadable("2", "paragraphs_v1.json: image 2 has an empty paragraph"),
        Unreadable("3", "3.jpg: no such file beside the annotations that name it; looked in VG_100K or VG_100K_2"),
        Unreadable("4", "image 4 of train_split.json has no paragraph in paragraphs_v1.json"),
        Unreadable(str(10**300), f"image {str(10**300):.40} of train_split.json: must have at most 12 digits"),
        Unreadable("2356347", "2356347.jpg: picture of 10 bytes: not a picture; give a PNG, JPEG or WebP file"),
    ]
    assert isinstance(reader[0], Document)


@pytest.mark.parametrize("file", ["paragraphs_v1.json", "train_split.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", r": is damaged \(.*\); download it again"),
        (b'["\xe9"]', "is not UTF-8 at byte 2"),
        ({"images": []}, r"is no list of records or image numbers \(it is {'images': \[\]}\); download it again"),
        ([{"paragraph": "no number"}], "entry 0: 'image_id' is None"),
        (["2356347"], "entry 0: 'image_id' is '2356347'"),
        ([True], "entry 0: 'image_id' is True"),
    ],
    ids=["no json", "no utf-8", "no list", "no number", "letters", "true"],
)
def test_another_layout_is_refused(root: Path, file: str, content: Any, message: str) -> None:
    write(root, file, content)
    with pytest.raises(DataError, match=message) as caught:
        ImageParagraph(root)
    assert file in str(caught.value)


@pytest.mark.parametrize("file", ["paragraphs_v1.json", "train_split.json"])
def test_an_entry_of_another_form_costs_itself_alone(root: Path, file: str) -> None:
    sound = json.loads((root / file).read_text())
    write(root, file, [None, *sound, {"image_id": "5"}, {"image_id": 2.5}])
    found = list(ImageParagraph(root))
    assert [d.id for d in found if isinstance(d, Document)] == ["2388350", "2356347"]
    last = len(sound) + 1
    assert [(d.id, d.reason) for d in found if isinstance(d, Unreadable)] == [
        (f"{file}/0", f"{file}, entry 0: 'image_id' is None, must be a whole number"),
        (f"{file}/{last}", f"{file}, entry {last}: 'image_id' is '5', must be a whole number"),
        (f"{file}/{last + 1}", f"{file}, entry {last + 1}: 'image_id' is 2.5, must be a whole number"),
    ]


def test_what_is_missing_is_said(root: Path) -> None:
    with pytest.raises(DataError, match="has no split 'val'; it has train, test"):
        ImageParagraph(root, "val")
    (root / "VG_100K").rename(root / "images")
    (root / "VG_100K_2").rename(root / "images2")
    with pytest.raises(DataError, match="has no folder VG_100K or VG_100K_2; put the pictures there"):
        ImageParagraph(root)
    for name in ("train_split.json", "test_split.json"):
        (root / name).unlink()
    for place in (root, root / "images"):
        with pytest.raises(DataError, match=r"has no paragraphs_v1.json with train_split.json beside it; give the"):
            ImageParagraph(place)
