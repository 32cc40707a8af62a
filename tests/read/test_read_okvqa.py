"""OK-VQA: the layout of VQA v2 under other names, without the answer that most people gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.read.find import open_reader, recognise
from cm3.read.questions import OkVqa

ASKED = [
    {"image_id": 51606, "question": "What is the hairstyle called?", "question_id": 516065},
    {"image_id": 81721, "question": "How old is this na\u00efve person?", "question_id": 817215},
]
ANSWERS = {516065: ["pony tail"] * 4 + ["braid"] * 6, 817215: ["40"] * 5 + ["30"] * 5}


def annotation(question: dict[str, Any]) -> dict[str, Any]:
    """What mscoco_train2014_annotations.json of OK-VQA has of a question."""
    answers = ANSWERS[question["question_id"]]
    return {
        "image_id": question["image_id"],
        "answer_type": "other",
        "question_type": "four",
        "question_id": question["question_id"],
        "answers": [
            {"answer_id": i + 1, "raw_answer": f"{a}s", "answer_confidence": "yes", "answer": a}
            for i, a in enumerate(answers)
        ],
        "confidence": 3,
    }


def write(root: Path, questions: Any, annotations: Any, split: str = "train2014") -> None:
    """As OpenEnded_mscoco_train2014_questions.json and mscoco_train2014_annotations.json are laid out."""
    license = {"url": "http://creativecommons.org/licenses/by/4.0/", "name": "Creative Commons Attribution 4.0"}
    about = {"task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": split, "license": license}
    for name, key, content in (
        (f"OpenEnded_mscoco_{split}_questions.json", "questions", questions),
        (f"mscoco_{split}_annotations.json", "annotations", annotations),
    ):
        (root / name).write_text(json.dumps({**about, key: content}, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two questions about two pictures in both splits."""
    for split in ("val2014", "train2014"):
        (tmp_path / split).mkdir()
        for question in ASKED:
            path = tmp_path / split / f"COCO_{split}_{question['image_id']:012d}.jpg"
            PIL.Image.new("RGB", (8, 6)).save(path)
        write(tmp_path, ASKED, [annotation(q) for q in reversed(ASKED)], split)
    return tmp_path


@pytest.mark.parametrize("split", ["train2014", "val2014"])
def test_a_document_a_question_with_its_most_common_answer(root: Path, split: str) -> None:
    found = list(OkVqa(root, split))
    assert [(d.id, d.text) for d in found if isinstance(d, Document)] == [
        ("516065", "Question: What is the hairstyle called? Answer: braid"),
        ("817215", "Question: How old is this na\u00efve person? Answer: 40"),
    ]
    first = found[0]
    assert isinstance(first, Document)
    assert [type(p) for p in first.parts] == [Image, Text] and first.source == f"okvqa/{split}"
    assert dict(first.meta) == {
        "split": split,
        "question": "What is the hairstyle called?",
        "question_id": 516065,
        "image_id": 51606,
        "license": "Creative Commons Attribution 4.0",
        "answers": ["pony tail"] * 4 + ["braid"] * 6,
        "answer_type": "other",
        "question_type": "four",
        "confidence": 3,
    }


def test_it_is_told_from_vqa2_by_the_names_of_its_files(root: Path) -> None:
    assert recognise(root)[0] == "okvqa" and "vqa2" not in recognise(root)
    reader = open_reader(str(root))
    assert isinstance(reader, OkVqa) and reader.source == "okvqa/train2014"
    assert OkVqa.splits(root) == ("train2014", "val2014")


def test_vqa_v1_names_its_files_alike_and_is_refused(root: Path) -> None:
    """mscoco_train2014_annotations.json of VQA v1 has multiple_choice_answer."""
    write(root, ASKED, [{**annotation(q), "multiple_choice_answer": "braid"} for q in ASKED])
    with pytest.raises(DataError, match=r"mscoco_train2014_annotations.json is of VQA v1, not of OK-VQA; download"):
        OkVqa(root)


def test_pictures_that_are_missing_are_named(root: Path) -> None:
    (root / "train2014" / "COCO_train2014_000000051606.jpg").unlink()
    reader = OkVqa(root)
    assert [d.id for unit in reader.units(1) for d in reader.read(unit)] == ["516065", "817215"]
    gone, there = list(reader)
    assert isinstance(gone, Unreadable) and isinstance(there, Document)
    assert gone.reason.startswith("COCO_train2014_000000051606.jpg: no such file")


def test_questions_and_annotations_that_do_not_meet_are_listed(root: Path) -> None:
    write(root, [ASKED[0], ASKED[0]], [annotation(ASKED[1])])
    assert [(d.id, d.reason) for d in OkVqa(root) if isinstance(d, Unreadable)] == [
        ("516065", "question 516065: mscoco_train2014_annotations.json has no annotation of it"),
        ("516065", "record 1: has the id '516065' of an earlier one; ids must be unique"),
        (
            "817215",
            "question 817215: is annotated in mscoco_train2014_annotations.json, but "
            "OpenEnded_mscoco_train2014_questions.json does not have it",
        ),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("OpenEnded_mscoco_train2014_questions.json", b'{"questions": {}}', "'questions' is {}"),
        ("mscoco_train2014_annotations.json", b'{"annotations": [', "is damaged"),
        ("mscoco_train2014_annotations.json", b'"caf\xe9"', "is not UTF-8 at byte 4"),
        ("mscoco_train2014_annotations.json", None, "no such file; download it"),
    ],
)
def test_damaged_files_are_refused(root: Path, name: str, content: bytes | None, message: str) -> None:
    (root / name).unlink()
    if content is not None:
        (root / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        OkVqa(root)


def test_a_folder_without_questions_is_refused(tmp_path: Path) -> None:
    assert not OkVqa.recognises(tmp_path)
    with pytest.raises(DataError, match=r"has no OpenEnded_mscoco_train2014_questions.json; give the folder"):
        OkVqa(tmp_path)
