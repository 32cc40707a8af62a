"""VQA v2: questions and answers of two files, pictures of COCO; what is read, in which order, and what is refused."""

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
from cm3.read.questions import Vqa2

QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
ANNOTATIONS = "v2_mscoco_{}_annotations.json"
LICENSE = {"url": "http://creativecommons.org/licenses/by/4.0/", "name": "Creative Commons Attribution 4.0"}
SIZES = {9: (6, 4), 25: (5, 7)}
ASKED = [
    {"image_id": 25, "question": "Is it day? ", "question_id": 25000},
    {"image_id": 9, "question": "What is on the tray?", "question_id": 9001},
    {"image_id": 9, "question": "How many \u00e9clairs are there?", "question_id": 9000},
]
TOLD = {25000: ("yes/no", "is it", ["yes"] * 9 + ["no"]), 9001: ("other", "what is", ["food"] * 10), 9000: ("number",)}


def annotation(question: dict[str, Any]) -> dict[str, Any]:
    """What v2_mscoco_train2014_annotations.json has of a question."""
    answer_type, question_type, answers = (*TOLD[question["question_id"]], "how many", ["3"] * 4 + ["2"] * 6)[:3]
    return {
        "question_type": question_type,
        "multiple_choice_answer": max(answers, key=answers.count),
        "answers": [{"answer": a, "answer_confidence": "maybe", "answer_id": i + 1} for i, a in enumerate(answers)],
        "image_id": question["image_id"],
        "answer_type": answer_type,
        "question_id": question["question_id"],
    }


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode())


def write_questions(root: Path, questions: Any, split: str = "train2014") -> None:
    """As v2_OpenEnded_mscoco_train2014_questions.json is laid out."""
    about = {"info": {"version": "2.0"}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": split}
    write(root / QUESTIONS.format(split), {**about, "license": LICENSE, "questions": questions})


def write_annotations(root: Path, annotations: Any, split: str = "train2014") -> None:
    """As v2_mscoco_train2014_annotations.json is laid out: by no order that the questions have."""
    about = {"info": {"version": "2.0"}, "data_type": "mscoco", "data_subtype": split, "license": LICENSE}
    write(root / ANNOTATIONS.format(split), {**about, "annotations": annotations})


def write_picture(root: Path, image_id: int, folder: str = "train2014", where: str = "") -> Path:
    path = root / where / folder / f"COCO_{folder}_{image_id:012d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", SIZES[image_id], (200, 30, 30)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three questions about two pictures."""
    write_questions(tmp_path, ASKED)
    write_annotations(tmp_path, [annotation(q) for q in reversed(ASKED)])
    for image_id in SIZES:
        write_picture(tmp_path, image_id)
    return tmp_path


def documents(reader: Vqa2) -> list[Document]:
    found = list(reader)
    assert all(isinstance(d, Document) for d in found), found
    return [d for d in found if isinstance(d, Document)]


def reasons(reader: Vqa2) -> dict[str, str]:
    return {d.id: d.reason for d in reader if isinstance(d, Unreadable)}


def test_a_document_a_question_in_the_order_of_the_questions_file(root: Path) -> None:
    found = documents(Vqa2(root))
    assert [(d.id, d.text) for d in found] == [
        ("25000", "Question: Is it day? Answer: yes"),
        ("9001", "Question: What is on the tray? Answer: food"),
        ("9000", "Question: How many \u00e9clairs are there? Answer: 2"),
    ]
    for d in found:
        assert [type(p) for p in d.parts] == [Image, Text] and d.source == "vqa2/train2014"
        assert d.images[0].pixels.size == SIZES[d.meta["image_id"]]
    assert dict(found[0].meta) == {
        "split": "train2014",
        "question": "Is it day? ",
        "question_id": 25000,
        "image_id": 25,
        "license": "Creative Commons Attribution 4.0",
        "answers": ["yes"] * 9 + ["no"],
        "multiple_choice_answer": "yes",
        "answer_type": "yes/no",
        "question_type": "is it",
    }
    assert all(json.loads(json.dumps(d.meta)) == d.meta for d in found)


def test_it_is_recognised_and_opened_by_its_path(root: Path) -> None:
    assert recognise(root)[0] == "vqa2"
    assert isinstance(open_reader(str(root)), Vqa2)
    with pytest.raises(DataError, match=r"has no split 'train2015'; it has train2014. Did you mean 'train2014'\?"):
        open_reader(f"vqa2:{root}@train2015")


def test_splits_are_those_that_have_questions(root: Path) -> None:
    """test: v2_OpenEnded_mscoco_test2015_questions.json has no annotations, and test-dev2015 is a part of it."""
    for split in ("test-dev2015", "test2015"):
        write_questions(root, ASKED[:1], split)
        assert (root / ANNOTATIONS.format(split)).exists() is False
    write_picture(root, 25, "test2015")
    assert Vqa2.splits(root) == ("train2014", "test2015", "test-dev2015")
    for split in ("test-dev2015", "test2015"):
        (document,) = documents(Vqa2(root, split))
        assert document.text == "Question: Is it day?" and document.source == f"vqa2/{split}"
        assert sorted(document.meta) == ["image_id", "license", "question", "question_id", "split"]


def test_the_folders_of_the_owners_own_code(tmp_path: Path) -> None:
    """The layout that the VQA API asks for: Questions/, Annotations/ and Images/mscoco/train2014/."""
    write_questions(tmp_path / "Questions", ASKED)
    write_annotations(tmp_path / "Annotations", [annotation(q) for q in ASKED])
    for image_id in SIZES:
        write_picture(tmp_path, image_id, where="Images/mscoco")
    assert recognise(tmp_path)[0] == "vqa2"
    assert [d.id for d in documents(Vqa2(tmp_path))] == ["25000", "9001", "9000"]


def test_pictures_are_read_when_asked_for_and_decoded_later(root: Path) -> None:
    path = root / "train2014" / "COCO_train2014_000000000025.jpg"
    PIL.Image.effect_noise((64, 64), 90).save(path)
    whole = path.read_bytes()
    path.unlink()
    reader = Vqa2(root)
    path.write_bytes(whole[: len(whole) // 2])
    found = reader[0]
    assert isinstance(found, Document), "a cut picture's header is enough for a document"
    with pytest.raises(DataError, match="cannot be read"):
        rgb(found.images[0].pixels)
    path.write_bytes(whole)
    found = documents(reader)[0]
    assert rgb(found.images[0].pixels).size == (64, 64)


def test_units_together_are_the_whole_in_order(root: Path) -> None:
    reader = Vqa2(root)
    whole = documents(reader)
    for size in (1, 2, 3, 10):
        units = reader.units(size)
        assert [d.id for unit in units for d in reader.read(unit)] == [d.id for d in whole]
    assert len(reader) == 3 and len(reader.units(2)) == 2


def test_a_missing_picture_costs_its_questions_alone(root: Path) -> None:
    (root / "train2014" / "COCO_train2014_000000000009.jpg").unlink()
    reader = Vqa2(root)
    assert set(reasons(reader)) == {"9000", "9001"}
    assert all(r.startswith("COCO_train2014_000000000009.jpg: no such file") for r in reasons(reader).values())
    assert [d.id for d in reader if isinstance(d, Document)] == ["25000"]


def test_questions_and_annotations_that_do_not_meet_are_listed(root: Path) -> None:
    write_questions(root, [ASKED[0], ASKED[2], {**ASKED[0], "question": "Again?"}])
    write_annotations(root, [annotation(ASKED[0]), annotation(ASKED[1])])
    found = list(Vqa2(root))
    assert [d.id for d in found] == ["25000", "9000", "25000", "9001"]
    assert [type(d) for d in found] == [Document, Unreadable, Unreadable, Unreadable]
    told_in, asked_in = ANNOTATIONS.format("train2014"), QUESTIONS.format("train2014")
    assert [d.reason for d in found if isinstance(d, Unreadable)] == [
        f"question 9000: {told_in} has no annotation of it",
        "record 2: has the id '25000' of an earlier one; ids must be unique",
        f"question 9001: is annotated in {told_in}, but {asked_in} does not have it",
    ]


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"answers": []}, r"question 25000: 'answers' is \[\], which must be at least one answer, each a text"),
        ({"answers": [{"answer": 3, "answer_id": 1}]}, r"'answers' is \[\{'answer': 3, .*each a text"),
        ({"answers": None}, "question 25000: 'answers' is None"),
        ({"multiple_choice_answer": 7}, "'multiple_choice_answer' is 7, must be a text"),
        ({"image_id": 9}, "question 25000: is of image 25, its annotation of 9"),
    ],
)
def test_a_damaged_annotation_costs_its_question_alone(root: Path, spoilt: dict[str, Any], reason: str) -> None:
    write_annotations(root, [{**annotation(q), **(spoilt if q is ASKED[0] else {})} for q in ASKED])
    reader = Vqa2(root)
    assert list(reasons(reader)) == ["25000"]
    with pytest.raises(DataError, match=reason):
        reader.document(0)


def test_two_annotations_of_one_question_are_refused(root: Path) -> None:
    write_annotations(root, [annotation(q) for q in (*ASKED, ASKED[1])])
    told_in = ANNOTATIONS.format("train2014")
    assert reasons(Vqa2(root)) == {"9001": f"question 9001: {told_in} has more than one annotation of it"}


@pytest.mark.parametrize(
    ("record", "id", "reason"),
    [
        ("Is it day?", "record 1", "'question_id' is None"),
        ({**ASKED[1], "question_id": True}, "record 1", "'question_id' is True"),
        ({**ASKED[1], "question_id": [1]}, "record 1", r"'question_id' is \[1\]"),
        ({**ASKED[1], "question": None}, "9001", "'question' is None"),
        ({**ASKED[1], "question": " "}, "9001", "has an empty question, must be a text"),
        ({**ASKED[1], "image_id": "9"}, "9001", "'image_id' is '9'"),
        ({**ASKED[1], "image_id": 10**300}, "9001", "'image_id' is 10+, must have at most 12 digits"),
    ],
)
def test_a_damaged_question_costs_itself_alone(root: Path, record: Any, id: str, reason: str) -> None:
    write_questions(root, [ASKED[0], record, ASKED[2]])
    reader = Vqa2(root)
    assert [d.id for d in reader if isinstance(d, Document)] == ["25000", "9000"]
    assert reader.name(1) == id
    with pytest.raises(DataError, match=f"{QUESTIONS.format('train2014')}, record 1: {reason}"):
        reader.document(1)


@pytest.mark.parametrize("name", [QUESTIONS, ANNOTATIONS])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"questions": [', r"': is damaged \(Expecting value.*\); download it again"),
        (b"[" * 100_000, r"': is damaged \(.*recursion.*\); download it again"),
        (b'{"questions": "caf\xe9"}', "': is not UTF-8 at byte 18; download it again"),
        ([1], "'(questions|annotations)' is None"),
        ({"images": []}, "'(questions|annotations)' is None"),
    ],
    ids=["cut short", "deep", "not UTF-8", "a list", "another layout"],
)
def test_damaged_files_are_refused(root: Path, name: str, content: Any, message: str) -> None:
    write(root / name.format("train2014"), content)
    with pytest.raises(DataError, match=message) as error:
        Vqa2(root)
    assert name.format("train2014") in str(error.value)


def test_an_annotation_without_a_number_costs_itself_alone(root: Path) -> None:
    write_annotations(root, [{"answers": []}, 5, *(annotation(q) for q in ASKED), {"question_id": "9001"}])
    assert [d.id for d in Vqa2(root) if isinstance(d, Document)] == ["25000", "9001", "9000"]
    told_in = ANNOTATIONS.format("train2014")
    rule = "must be a whole number"
    assert reasons(Vqa2(root)) == {
        "annotation 0": f"{told_in}, annotation 0: 'question_id' is None, {rule}",
        "annotation 1": f"{told_in}, annotation 1: 'question_id' is None, {rule}",
        "annotation 5": f"{told_in}, annotation 5: 'question_id' is '9001', {rule}",
    }


def test_no_folder_of_pictures(root: Path) -> None:
    (root / "train2014").rename(root / "pictures")
    with pytest.raises(DataError, match="has no folder train2014 or Images/mscoco/train2014 or images/train2014; put"):
        Vqa2(root)


def test_missing_files_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"has no v2_OpenEnded_mscoco_val2014_questions.json; give the folder"):
        Vqa2(root, "val2014")
    told_in = root / ANNOTATIONS.format("train2014")
    told_in.unlink()
    with pytest.raises(DataError, match=rf"{told_in.name}': no such file; download it, or give the folder"):
        Vqa2(root)
    told_in.mkdir()
    with pytest.raises(DataError, match=rf"{told_in.name}': cannot be read \(Is a directory\); check the file"):
        Vqa2(root)
    assert not Vqa2.recognises(root / "train2014") and Vqa2.splits(root / "train2014") == ()
    with pytest.raises(DataError, match=r"has no v2_OpenEnded_mscoco_train2014_questions.json"):
        Vqa2(root / "train2014")
