"""VizWiz VQA: a list of questions a split, each with its picture; what is read, and what is refused."""

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
from cm3.read.questions import VizWiz


def record(number: int, split: str, question: str, answers: list[str], **more: Any) -> dict[str, Any]:
    """What Annotations/train.json has of a picture."""
    return {
        "image": f"VizWiz_{split}_{number:08d}.jpg",
        "question": question,
        "answers": [{"answer_confidence": "yes", "answer": answer} for answer in answers],
        "answer_type": "other",
        "answerable": 1,
        **more,
    }


RECORDS = [
    record(3, "train", "What's the name of this product?", ["basil"] * 4 + ["basil leaves"] * 6),
    record(0, "train", " Is it caf\u00e9? ", ["unanswerable"] * 10, answer_type="unanswerable", answerable=0),
    record(1, "train", "What colour?", ["red", "blue"] * 5),
]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode())


def write_pictures(folder: Path, records: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, r in enumerate(records):
        PIL.Image.new("RGB", (5 + i, 4), (10, 90, 10)).save(folder / r["image"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Annotations.zip and train.zip, unpacked beside each other."""
    write(tmp_path / "Annotations" / "train.json", RECORDS)
    write_pictures(tmp_path / "train", RECORDS)
    return tmp_path


def test_a_document_a_question_with_its_most_common_answer(root: Path) -> None:
    found = [d for d in VizWiz(root) if isinstance(d, Document)]
    assert [(d.id, d.text, d.images[0].pixels.size) for d in found] == [
        ("VizWiz_train_00000003", "Question: What's the name of this product? Answer: basil leaves", (5, 4)),
        ("VizWiz_train_00000000", "Question: Is it caf\u00e9? Answer: unanswerable", (6, 4)),
        ("VizWiz_train_00000001", "Question: What colour? Answer: red", (7, 4)),
    ]
    assert all([type(p) for p in d.parts] == [Image, Text] and d.source == "vizwiz/train" for d in found)
    assert dict(found[1].meta) == {
        "split": "train",
        "question": " Is it caf\u00e9? ",
        "image": "VizWiz_train_00000000.jpg",
        "answers": ["unanswerable"] * 10,
        "answer_type": "unanswerable",
        "answerable": 0,
    }


def test_it_is_recognised_and_opened_by_its_path(root: Path) -> None:
    assert recognise(root)[0] == "vizwiz"
    assert isinstance(open_reader(str(root)), VizWiz)
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        open_reader(f"vizwiz:{root}@test")


def test_the_test_split_has_no_answers(root: Path) -> None:
    """Annotations/test.json: image and question alone."""
    hidden = [{"image": "VizWiz_test_00000000.jpg", "question": "What is this?"}]
    write(root / "Annotations" / "test.json", hidden)
    write_pictures(root / "test", hidden)
    assert VizWiz.splits(root) == ("train", "test")
    (found,) = VizWiz(root, "test")
    assert isinstance(found, Document) and found.text == "Question: What is this?"
    assert sorted(found.meta) == ["image", "question", "split"] and found.source == "vizwiz/test"


@pytest.mark.parametrize(
    ("annotations", "pictures"), [("val.json", "val"), ("Annotations/val.json", "Images"), ("val.json", "Images/val")]
)
def test_the_places_of_both_releases(tmp_path: Path, annotations: str, pictures: str) -> None:
    records = [record(7, "val", "What is it?", ["tea"] * 10)]
    write(tmp_path / annotations, records)
    write_pictures(tmp_path / pictures, records)
    (found,) = open_reader(str(tmp_path))
    assert isinstance(found, Document) and found.source == "vizwiz/val" and found.text.endswith("Answer: tea")


@pytest.mark.parametrize(
    "content",
    [
        {"images": [{"file_name": "VizWiz_train_00000000.jpg"}], "annotations": []},
        [{"image": "mine.jpg", "question": "What?"}],
        [{"image": "VizWiz_train_00000000.jpg", "caption": "A box"}],
        [],
    ],
    ids=["VizWiz-Captions", "another list of questions", "no questions", "nothing"],
)
def test_other_files_of_that_name_are_not_taken_for_it(root: Path, content: Any) -> None:
    write(root / "Annotations" / "train.json", content)
    assert "vizwiz" not in recognise(root)


def test_pictures_are_read_when_asked_for_and_decoded_later(root: Path) -> None:
    path = root / "train" / RECORDS[0]["image"]
    PIL.Image.effect_noise((64, 64), 90).save(path)
    whole = path.read_bytes()
    path.unlink()
    reader = VizWiz(root)
    gone = reader[0]
    assert isinstance(gone, Unreadable) and gone.reason.startswith("VizWiz_train_00000003.jpg: no such file")
    path.write_bytes(whole[: len(whole) // 2])
    cut = reader[0]
    assert isinstance(cut, Document), "a cut picture's header is enough for a document"
    with pytest.raises(DataError, match="cannot be read"):
        rgb(cut.images[0].pixels)


def test_no_folder_of_pictures(root: Path) -> None:
    (root / "train").rename(root / "pictures")
    with pytest.raises(DataError, match="has no folder train or Images/train or Images; put the pictures there"):
        VizWiz(root)


def test_units_together_are_the_whole_in_order(root: Path) -> None:
    reader = VizWiz(root)
    for size in (1, 2, 5):
        assert [d.id for unit in reader.units(size) for d in reader.read(unit)] == [d.id for d in reader]
    assert len(reader) == 3


@pytest.mark.parametrize(
    ("spoilt", "id", "reason"),
    [
        ({"answers": []}, "VizWiz_train_00000000", r"'answers' is \[\], which must be at least one answer"),
        ({"answers": [{"answer_confidence": "yes"}]}, "VizWiz_train_00000000", "'answers' is .*, each a text"),
        ({"answers": None}, "VizWiz_train_00000000", "'answers' is None"),
        ({"question": 3}, "VizWiz_train_00000000", "'question' is 3"),
        ({"image": None}, "record 1", "'image' is None"),
        ({"image": "../train/VizWiz_train_00000000.jpg"}, "VizWiz_train_00000000", "must be the name of a file"),
        ({"image": "\ud800.jpg"}, "\ud800", r"'image' is '\\ud800.jpg', which must be the name of a file"),
        ({"image": "a" * 300}, "a" * 300, "must be the name of a file"),
        ({"image": RECORDS[0]["image"]}, "VizWiz_train_00000003", "record 1: has the id .* of an earlier one"),
    ],
)
def test_a_damaged_record_costs_itself_alone(root: Path, spoilt: dict[str, Any], id: str, reason: str) -> None:
    content = [RECORDS[0], {**RECORDS[1], **spoilt}, RECORDS[2]]
    write(root / "Annotations" / "train.json", json.dumps(content).encode())
    reader = VizWiz(root)
    assert [type(d) for d in reader] == [Document, Unreadable, Document] and reader.name(1) == id
    with pytest.raises(DataError, match=reason):
        reader.document(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{", "is damaged .*; download it again"),
        (b'["caf\xe9"]', "is not UTF-8 at byte 5; download it again"),
        ({"images": []}, "is no list of questions; give the annotations of VizWiz's VQA task"),
    ],
    ids=["cut short", "not UTF-8", "another layout"],
)
def test_damaged_files_are_refused(root: Path, content: Any, message: str) -> None:
    write(root / "Annotations" / "train.json", content)
    with pytest.raises(DataError, match=f"train.json': {message}"):
        VizWiz(root)


def test_a_folder_without_annotations_is_refused(root: Path) -> None:
    assert not VizWiz.recognises(root / "train")
    with pytest.raises(DataError, match=r"has no Annotations/train.json; give the folder that holds it"):
        VizWiz(root / "train")
    with pytest.raises(DataError, match=r"has no Annotations/val.json"):
        VizWiz(root, "val")
