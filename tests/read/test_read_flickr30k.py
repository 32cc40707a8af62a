"""Flickr30k: both published forms of its captions, what is read of them, and what is refused."""

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
from cm3.read.published import Flickr30k

TOKEN = """1000092795.jpg#0\tTwo red things .
1000092795.jpg#1\tA na\u00efve red .
10002456.jpg#0\tBlue , and nothing else .
10002456.jpg#1\t A second blue .
"""


def image(name: str, split: str, number: int, *captions: str) -> dict[str, Any]:
    """A picture as Karpathy's dataset_flickr30k.json has it."""
    sentids = [2 * number + k for k in range(len(captions))]
    sentences = [
        {"tokens": text.lower().split(), "raw": text, "imgid": number, "sentid": id}
        for text, id in zip(captions, sentids, strict=True)
    ]
    return {"sentids": sentids, "imgid": number, "sentences": sentences, "split": split, "filename": name}


IMAGES = [
    image("1000092795.jpg", "train", 0, "Two red things.", "A na\u00efve red."),
    image("10002456.jpg", "test", 1, "Blue, and nothing else.", "A second blue."),
    image("36979.jpg", "train", 2, "Green. "),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """results_20130124.token beside flickr30k-images/, as flickr30k.tar.gz and flickr30k-images.tar unpack."""
    (tmp_path / "flickr30k-images").mkdir()
    (tmp_path / "results_20130124.token").write_text(TOKEN, encoding="utf-8")
    for name, colour in (("1000092795", "red"), ("10002456", "blue"), ("36979", "green")):
        PIL.Image.new("RGB", (6, 4), colour).save(tmp_path / "flickr30k-images" / f"{name}.jpg")
    return tmp_path


def karpathy(root: Path, content: Any) -> Path:
    """Add dataset_flickr30k.json, of Karpathy's caption_datasets.zip."""
    (root / "dataset_flickr30k.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return root


@pytest.fixture
def split(root: Path) -> Path:
    """The same with Karpathy's file."""
    return karpathy(root, {"images": IMAGES, "dataset": "flickr30k"})


def test_the_owners_file_is_one_split(root: Path) -> None:
    reader = Flickr30k(root)
    documents = list(reader)
    assert len(reader) == 4 and Flickr30k.splits(root) == ("all",)
    assert [(d.id, d.text) for d in documents if isinstance(d, Document)] == [
        ("1000092795.jpg#0", "Two red things ."),
        ("1000092795.jpg#1", "A na\u00efve red ."),
        ("10002456.jpg#0", "Blue , and nothing else ."),
        ("10002456.jpg#1", "A second blue ."),
    ]
    first = documents[0]
    assert isinstance(first, Document) and [type(p) for p in first.parts] == [Text, Image]
    assert first.source == reader.source == "flickr30k/all"
    assert first.meta == {"split": "all", "image_id": "1000092795"}
    red, green, blue = rgb(first.images[0].pixels).getpixel((0, 0))  # type: ignore[misc]
    assert red > 200 and green < 60 and blue < 60


def test_karpathys_file_has_the_splits(split: Path) -> None:
    assert Flickr30k.splits(split) == ("train", "val", "test", "all")
    train = [d for d in Flickr30k(split) if isinstance(d, Document)]
    assert [(d.id, d.text, d.meta["sentid"]) for d in train] == [
        ("1000092795.jpg#0", "Two red things.", 0),
        ("1000092795.jpg#1", "A na\u00efve red.", 1),
        ("36979.jpg#0", "Green.", 4),
    ]
    assert train[0].source == "flickr30k/train" and train[0].meta["split"] == "train"
    assert [d.id for d in Flickr30k(split, "test")] == ["10002456.jpg#0", "10002456.jpg#1"]
    assert len(Flickr30k(split, "val")) == 0
    assert [d.id for d in Flickr30k(split, "all")] == [d.id for d in open_reader(f"flickr30k:{split}@all")]
    (split / "results_20130124.token").unlink()
    assert Flickr30k.splits(split) == ("train", "val", "test")


@pytest.mark.parametrize("name", ["all", "train"])
def test_units_are_the_same_documents(split: Path, name: str) -> None:
    reader = Flickr30k(split, name)
    assert [d for unit in reader.units(2) for d in reader.read(unit)] == list(reader) != []
    with pytest.raises(IndexError):
        reader[len(reader)]


def test_it_is_recognised_first(root: Path) -> None:
    assert recognise(root)[0] == "flickr30k"
    (root / "results_20130124.token").unlink()
    assert not Flickr30k.recognises(root)
    karpathy(root, {"images": IMAGES})
    assert recognise(root)[0] == "flickr30k"


def test_pictures_wait_until_they_are_asked_for(root: Path) -> None:
    (root / "flickr30k-images").rename(root / "flickr30k_images")
    reader = Flickr30k(root)
    (root / "flickr30k_images" / "10002456.jpg").unlink()
    picture = root / "flickr30k_images" / "1000092795.jpg"
    PIL.Image.effect_noise((64, 64), 90).save(picture)
    picture.write_bytes(picture.read_bytes()[:-800])
    read = list(reader)
    assert isinstance(read[0], Document), "the header is sound"
    with pytest.raises(DataError, match="cannot be read"):
        rgb(read[0].images[0].pixels)
    reason = "10002456.jpg: no such file beside the annotations that name it"
    assert read[2:] == [Unreadable("10002456.jpg#0", reason), Unreadable("10002456.jpg#1", reason)]


def test_a_damaged_line_is_one_unreadable(root: Path) -> None:
    (root / "results_20130124.token").write_bytes(
        b"1000092795.jpg#0\tcaf\xe9\nno tab\n10002456.jpg#0\t \n../36979.jpg#0\tout\r\n10002456.jpg#1\tsound\r\n"
    )
    read = list(Flickr30k(root))
    name = "results_20130124.token"
    shape = "is not 'NAME.jpg#NUMBER<tab>caption'"
    assert read[:4] == [
        Unreadable(f"{name}:1", f"{name}:1: is not UTF-8 at byte 20"),
        Unreadable(f"{name}:2", f"{name}:2: {shape}: b'no tab'"),
        Unreadable(f"{name}:3", f"{name}:3: {shape}: b'10002456.jpg#0\\t '"),
        Unreadable(f"{name}:4", f"{name}:4: {shape}: b'../36979.jpg#0\\tout'"),
    ]
    assert isinstance(read[4], Document) and read[4].text == "sound"


def test_a_damaged_sentence_is_one_unreadable(root: Path) -> None:
    images = [image("../36979.jpg", "train", 0, "out"), image("36979.jpg", "train", 1, " ", "lost", "sound")]
    del images[1]["sentences"][1]["raw"]
    read = list(Flickr30k(karpathy(root, {"images": images})))
    assert read[:3] == [
        Unreadable("../36979.jpg#0", "../36979.jpg#0: is not the name of a picture"),
        Unreadable("36979.jpg#0", "36979.jpg#0: has no caption"),
        Unreadable("36979.jpg#1", "36979.jpg#1: 'raw' is None, must be a text"),
    ]
    assert isinstance(read[3], Document) and read[3].text == "sound"


def test_the_first_caption_of_an_id_is_the_document(root: Path) -> None:
    (root / "results_20130124.token").write_text("36979.jpg#0\tone\n36979.jpg#0\tother\n")
    one, other = Flickr30k(root)
    assert isinstance(one, Document) and one.text == "one"
    assert isinstance(other, Unreadable) and "has the id '36979.jpg#0' of an earlier one" in other.reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"dataset_flickr30k.json': is damaged \(.*\); download it again"),
        (
            [],
            r"dataset_flickr30k.json': is not of Karpathy's layout \(.*'images' is None.*\); download caption_datasets",
        ),
        ({"images": {}}, "'images' is {}"),
        ({"images": [7]}, "image 0: 'split' is None"),
        ({"images": [{"filename": "a.jpg", "split": "train"}]}, "image 0: 'sentences' is None"),
        ({"images": [{"filename": "a.jpg", "sentences": []}]}, "image 0: 'split' is None"),
        ("[" * 100_000, "is damaged"),
    ],
    ids=["no json", "a list", "no list", "no image", "no sentences", "no split", "deep"],
)
def test_another_layout_is_refused(root: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Flickr30k(karpathy(root, content))


def test_a_record_of_another_form_costs_itself_alone(root: Path) -> None:
    good = {"filename": "36979.jpg", "split": "train", "sentences": [{"raw": "good", "sentid": 1}]}
    bad = [7, {"filename": "b.jpg", "split": None, "sentences": []}, good | {"filename": 5}, good | {"sentences": None}]
    found = list(Flickr30k(karpathy(root, {"images": [*bad, good, {**good, "split": "val"}]})))
    assert [d.id for d in found if isinstance(d, Document)] == ["36979.jpg#0"]
    file = "dataset_flickr30k.json: image"
    assert [(d.id, d.reason) for d in found if isinstance(d, Unreadable)] == [
        (f"{file} 0", f"{file} 0: 'split' is None, must be a text"),
        (f"{file} 1", f"{file} 1: 'split' is None, must be a text"),
        (f"{file} 2", f"{file} 2: 'filename' is 5, must be a text"),
        (f"{file} 3", f"{file} 3: 'sentences' is None, must be a list"),
    ]


def test_what_is_missing_is_said(root: Path) -> None:
    with pytest.raises(DataError, match="has no split 'train'; it has all"):
        Flickr30k(root, "train")
    (root / "dataset_flickr30k.json").write_bytes(b'{"images": ["\xe9"]}')
    with pytest.raises(DataError, match="dataset_flickr30k.json': is not UTF-8 at byte 13"):
        Flickr30k(root)
    (root / "dataset_flickr30k.json").unlink()
    for content in (b"", b"<html>\n<body>"):
        (root / "results_20130124.token").write_bytes(content)
        with pytest.raises(DataError, match="no line is 'NAME.jpg#NUMBER<tab>caption'; download flickr30k.tar.gz"):
            Flickr30k(root)
    (root / "flickr30k-images").rename(root / "pictures")
    with pytest.raises(DataError, match="has no folder flickr30k-images or flickr30k_images; put the pictures there"):
        Flickr30k(root)
    with pytest.raises(DataError, match="has neither results_20130124.token nor dataset_flickr30k.json; give"):
        Flickr30k(root / "pictures")
