"""Visual Dialog: turns by number as text, where the pictures of each split are, and what is refused."""

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
from cm3.read.questions import VisDial

QUESTIONS = ["is it sunny", "how many people", "any na\u00efve art"]
ANSWERS = ["yes", "2", "no"]
HUNDRED = [0, 1, 2] * 33 + [0]


def turn(question: int, answer: int | None = None) -> dict[str, Any]:
    """A turn as it is published; the last one of a test dialog has no answer."""
    if answer is None:
        return {"question": question, "answer_options": HUNDRED}
    return {"question": question, "answer": answer, "answer_options": HUNDRED, "gt_index": answer}


def dialog(number: int, *turns: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": number, "caption": f"caption of {number} ", "dialog": list(turns)}


DIALOGS = {
    "train": [dialog(378466, turn(0, 0), turn(1, 1)), dialog(9, turn(2, 2), turn(0, 2))],
    "val": [dialog(254080, turn(1, 1))],
    "test": [dialog(568676, turn(0, 2), turn(2))],
}
PLACES = {
    "train2014/COCO_train2014_000000378466.jpg": "red",
    "val2014/COCO_val2014_000000000009.jpg": "blue",
    "VisualDialog_val2018/VisualDialog_val2018_000000254080.jpg": "green",
    "VisualDialog_test2018/VisualDialog_test2018_000000568676.jpg": "white",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """visdial_1.0_{train,val,test}.json beside the pictures of COCO 2014 and of VisualDialog_{val,test}2018."""
    for split, dialogs in DIALOGS.items():
        write(tmp_path, {"questions": QUESTIONS, "answers": ANSWERS, "dialogs": dialogs}, split)
    for name, colour in PLACES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (6, 4), colour).save(tmp_path / name)
    return tmp_path


def write(root: Path, data: Any, split: str = "train") -> None:
    content = {"data": data, "version": "1.0", "split": split}
    (root / f"visdial_1.0_{split}.json").write_bytes(data if isinstance(data, bytes) else json.dumps(content).encode())


def test_a_document_an_image_with_its_turns(root: Path) -> None:
    reader = VisDial(root)
    first, second = (d for d in reader if isinstance(d, Document))
    assert len(reader) == 2 and first.source == reader.source == "visdial/train"
    assert [type(p) for p in first.parts] == [Image, Text]
    assert first.text == "caption of 378466\nQ: is it sunny A: yes\nQ: how many people A: 2"
    assert first.id == "378466" and first.meta == {
        "split": "train",
        "image_id": 378466,
        "caption": "caption of 378466",
        "dialog": [["is it sunny", "yes"], ["how many people", "2"]],
    }
    assert json.loads(json.dumps(first.meta)) == first.meta
    assert second.id == "9" and second.meta["dialog"][0] == ["any na\u00efve art", "no"]
    red, blue = (rgb(d.images[0].pixels).getpixel((0, 0)) for d in (first, second))
    assert red[0] > 200 > red[2] and blue[2] > 200 > blue[0]  # type: ignore[index]


def test_the_last_question_of_test_has_no_answer(root: Path) -> None:
    (document,) = VisDial(root, "test")
    assert isinstance(document, Document)
    assert document.text == "caption of 568676\nQ: is it sunny A: no\nQ: any na\u00efve art"
    assert document.meta["dialog"] == [["is it sunny", "no"], ["any na\u00efve art", None]]


def test_splits_are_those_there_are_files_of(root: Path) -> None:
    assert VisDial.splits(root) == ("train", "val", "test")
    assert [d.id for d in open_reader(f"visdial:{root}@val")] == ["254080"]
    (root / "visdial_1.0_train.json").unlink()
    assert VisDial.splits(root) == ("val", "test") and VisDial(root).source == "visdial/val"


def test_units_are_the_same_documents(root: Path) -> None:
    reader = VisDial(root)
    assert len(reader.units(1)) == 2
    assert [d for unit in reader.units(1) for d in reader.read(unit)] == list(reader)


def test_it_is_recognised_first(root: Path) -> None:
    assert recognise(root)[0] == "visdial"
    assert not VisDial.recognises(root / "train2014")


def test_the_candidate_answers_are_not_kept(root: Path) -> None:
    assert VisDial(root).entries[0][1][1]["dialog"] == [(0, 0), (1, 1)]


def test_what_cannot_be_read_stands_in_its_place(root: Path) -> None:
    damaged = [
        dialog(11, turn(3, 0)),
        dialog(12, turn(-1, 0)),
        dialog(13, turn(0, 7)),
        dialog(14, {"answer": 0}),
        {"caption": "no number", "dialog": []},
        {"image_id": 16, "dialog": []},
        {"image_id": 17, "caption": "no turns"},
        dialog(5, turn(0, 0)),
        dialog(10**300, turn(0, 0)),
        dialog(378466, turn(0, 0)),
        dialog(378466, turn(1, 0)),
    ]
    write(root, {"questions": QUESTIONS, "answers": ANSWERS, "dialogs": damaged})
    reader = VisDial(root)
    (root / "train2014" / "COCO_train2014_000000000005.jpg").mkdir()
    *bad, good, again = reader
    file = "visdial_1.0_train.json"
    assert bad == [
        Unreadable("11", f"{file}: dialog 0: question 3 is none of the 3 of the file"),
        Unreadable("12", f"{file}: dialog 1: question -1 is none of the 3 of the file"),
        Unreadable("13", f"{file}: dialog 2: answer 7 is none of the 3 of the file"),
        Unreadable("14", f"{file}: dialog 3: has a turn without a question: {{'answer': 0}}"),
        Unreadable(f"{file}:4", f"{file}: dialog 4: 'image_id' is None, must be a whole number"),
        Unreadable("16", f"{file}: dialog 5: 'caption' is None, must be a text"),
        Unreadable("17", f"{file}: dialog 6: 'dialog' is None, must be a list"),
        Unreadable(
            "5",
            "train2014/COCO_train2014_000000000005.jpg or val2014/COCO_val2014_000000000005.jpg: "
            "no such file beside the annotations that name it",
        ),
        Unreadable(
            str(10**300),
            f"{file}: dialog 8: 'image_id' is {str(10**300):.40}, must have at most 12 digits, as COCO's do",
        ),
    ]
    assert isinstance(good, Document)
    assert isinstance(again, Unreadable) and "has the id '378466' of an earlier one" in again.reason


def test_pictures_wait_until_they_are_asked_for(root: Path) -> None:
    path = root / "train2014" / "COCO_train2014_000000378466.jpg"
    reader = VisDial(root)
    PIL.Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:-800])
    document = reader[0]
    assert isinstance(document, Document), "the header is sound"
    with pytest.raises(DataError, match="cannot be read"):
        rgb(document.images[0].pixels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", r"visdial_1.0_train.json': is damaged \(.*\); download it again"),
        (b'{"data": "\xe9"}', "is not UTF-8 at byte 10"),
        (b"[]", r"visdial_1.0_train.json': is not of its layout \(.*'data' is None.*\); download it again"),
        ([], r"'data' is \[\]"),
        ({"answers": [], "dialogs": []}, "data: 'questions' is None"),
        ({"questions": [], "dialogs": []}, "data: 'answers' is None"),
        ({"questions": [], "answers": [], "dialogs": {}}, "data: 'dialogs' is {}"),
    ],
    ids=["no json", "no utf-8", "a list", "no data", "no questions", "no answers", "no dialogs"],
)
def test_another_layout_is_refused(root: Path, data: Any, message: str) -> None:
    write(root, data)
    with pytest.raises(DataError, match=message):
        VisDial(root)


def test_what_is_missing_is_said(root: Path) -> None:
    (root / "visdial_1.0_val.json").unlink()
    with pytest.raises(DataError, match="has no split 'val'; it has train, test"):
        VisDial(root, "val")
    for name in ("train2014", "val2014"):
        (root / name).rename(root / f"old_{name}")
    with pytest.raises(DataError, match="has no folder train2014 or val2014; put the pictures there"):
        VisDial(root)
    with pytest.raises(DataError, match="has no visdial_1.0_train.json, _val.json or _test.json; give the folder"):
        VisDial(root / "old_train2014")
