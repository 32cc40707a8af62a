"""ScienceQA: problems with choices, half of them with a picture; what is read, and what is refused."""

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
from cm3.read.questions import ScienceQa


def problem(question: str, choices: list[str], answer: int, split: str, **more: Any) -> dict[str, Any]:
    """What problems.json has of a problem."""
    return {
        "question": question,
        "choices": choices,
        "answer": answer,
        "hint": "",
        "image": None,
        "task": "closed choice",
        "grade": "grade2",
        "subject": "natural science",
        "topic": "physics",
        "category": "Magnets",
        "skill": "Tell whether magnets attract",
        "lecture": "",
        "solution": "",
        "split": split,
        **more,
    }


PROBLEMS = {
    "1": problem(
        "Which is farther north?",
        ["Nevada", "Qu\u00e9bec"],
        1,
        "train",
        image="image.png",
        hint="Look at the map.",
        lecture="Maps have four directions.\nNorth is up.",
        solution="Find the arrow.",
    ),
    "2": problem("Is wool soft?", ["yes ", "no"], 0, "train"),
    "3": problem("What is shown?", ["a fern", "a moss", "a tree"], 2, "val", image="image.png"),
}
PIDS = {
    "train": ["2", "1"], "val": ["3"], "test": [], "trainval": ["2", "1", "3"], "minitrain": ["1"], "minival": ["3"],
    "minitest": [],
}  # fmt: skip


def write(root: Path, problems: Any = PROBLEMS, pids: Any = PIDS) -> None:
    for name, content in (("problems.json", problems), ("pid_splits.json", pids)):
        raw = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
        (root / name).write_bytes(raw)


def write_picture(folder: Path) -> Path:
    folder.mkdir(parents=True)
    PIL.Image.new("RGB", (9, 5), (0, 0, 90)).save(folder / "image.png")
    return folder / "image.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """data/scienceqa of the owners' repository, its images unpacked by tools/download.sh."""
    write(tmp_path)
    write_picture(tmp_path / "images" / "train" / "1")
    write_picture(tmp_path / "images" / "val" / "3")
    return tmp_path


def test_a_document_a_problem_with_its_picture_if_it_has_one(root: Path) -> None:
    words, pictured = ScienceQa(root)
    assert isinstance(words, Document) and isinstance(pictured, Document)
    assert (words.id, pictured.id) == ("2", "1") and words.source == "scienceqa/train"
    assert [type(p) for p in words.parts] == [Text]
    assert words.text == "Question: Is wool soft?\nOptions: (A) yes  (B) no\nAnswer: (A) yes"
    assert [type(p) for p in pictured.parts] == [Image, Text] and pictured.images[0].pixels.size == (9, 5)
    assert pictured.text == (
        "Question: Which is farther north?\nContext: Look at the map.\nOptions: (A) Nevada (B) Qu\u00e9bec\n"
        "Answer: (B) Qu\u00e9bec\nLecture: Maps have four directions.\nNorth is up.\nSolution: Find the arrow."
    )
    assert dict(pictured.meta) == {
        "split": "train",
        "license": "CC BY-NC-SA 4.0",
        **{key: value for key, value in PROBLEMS["1"].items() if key not in ("image", "split")},
    }


def test_it_is_recognised_and_opened_by_its_path(root: Path) -> None:
    assert recognise(root)[0] == "scienceqa"
    assert isinstance(open_reader(str(root)), ScienceQa)
    (root / "pid_splits.json").unlink()
    assert "scienceqa" not in recognise(root)


def test_splits_are_those_that_are_listed(root: Path) -> None:
    assert ScienceQa.splits(root) == ("train", "val", "test", "trainval", "minitrain", "minival", "minitest")
    assert [d.id for d in open_reader(f"scienceqa:{root}@trainval") if isinstance(d, Document)] == ["2", "1", "3"]
    assert [d.id for d in open_reader(f"scienceqa:{root}@minitrain") if isinstance(d, Document)] == ["1"]
    (document,) = open_reader(f"scienceqa:{root}@minival")
    assert isinstance(document, Document) and document.id == "3", "its picture is in the folder of val"
    assert document.meta["split"] == "minival" and document.source == "scienceqa/minival" and document.images
    assert list(ScienceQa(root, "test")) == [] and ScienceQa(root, "test").units() == []
    write(root, pids={"train": ["1"]})
    with pytest.raises(DataError, match="has no split 'val'; it has train"):
        open_reader(f"scienceqa:{root}@val")
    with pytest.raises(DataError, match=r"pid_splits.json': has no split 'val'; it has train"):
        ScienceQa(root, "val")
    write(root, pids={"mine": ["1"]})
    assert ScienceQa.splits(root) == ("mine",) and ScienceQa(root).source == "scienceqa/mine"
    write(root, pids={})
    with pytest.raises(DataError, match=r"pid_splits.json': has no split; it must have some"):
        ScienceQa(root)


def test_pictures_may_lie_beside_the_problems(tmp_path: Path) -> None:
    write(tmp_path)
    write_picture(tmp_path / "val" / "3")
    (document,) = ScienceQa(tmp_path, "val")
    assert isinstance(document, Document) and len(document.images) == 1


def test_pictures_are_read_when_asked_for_and_decoded_later(root: Path) -> None:
    path = root / "images" / "val" / "3" / "image.png"
    whole = path.read_bytes()
    path.unlink()
    reader = ScienceQa(root, "val")
    gone = reader[0]
    assert isinstance(gone, Unreadable) and gone.id == "3" and gone.reason.startswith("val/3/image.png: no such file")
    path.write_bytes(whole[:-30])
    cut = reader[0]
    assert isinstance(cut, Document), "a cut picture's header is enough for a document"
    with pytest.raises(DataError, match="cannot be read"):
        rgb(cut.images[0].pixels)


def test_units_together_are_the_whole_in_order(root: Path) -> None:
    reader = ScienceQa(root)
    for size in (1, 2, 5):
        assert [d.id for unit in reader.units(size) for d in reader.read(unit)] == ["2", "1"]


def test_numbers_that_are_listed_twice_or_not_there_are_listed(root: Path) -> None:
    write(root, pids={"train": ["2", "9", "2", 1, None, ["1"]]})
    found = list(ScienceQa(root))
    assert [d.id for d in found] == ["2", "9", "2", "1", "train/4", "train/5"]
    assert [d.reason for d in found if isinstance(d, Unreadable)] == [
        "problems.json, problem '9': is not there, though pid_splits.json lists it",
        "record 2: has the id '2' of an earlier one; ids must be unique",
        "pid_splits.json, record 4 of 'train': is None, must be the number of a problem, a text or a whole number",
        "pid_splits.json, record 5 of 'train': is ['1'], must be the number of a problem, a text or a whole number",
    ]


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"question": None}, "problem '2': 'question' is None"),
        ({"choices": "yes"}, "'choices' is 'yes'"),
        ({"choices": [1, 2]}, r"'choices' is \[1, 2\], must be 1 to 26 texts that are not empty"),
        ({"choices": ["yes", None]}, r"'choices' is \['yes', None\], must be 1 to 26 texts that are not empty"),
        ({"choices": ["yes", " "]}, "must be 1 to 26 texts that are not empty"),
        ({"choices": []}, "must be 1 to 26 texts that are not empty"),
        ({"choices": ["no"] * 27}, "must be 1 to 26 texts that are not empty"),
        ({"question": " "}, "'question' is empty, must be a text"),
        ({"answer": 2}, "'answer' is 2, which is none of its 2 'choices'"),
        ({"answer": -1}, "'answer' is -1, which is none of its 2 'choices'"),
        ({"answer": "0"}, "'answer' is '0'"),
        ({"lecture": 4}, "'lecture' is 4"),
        ({"image": 4}, "'image' is 4"),
        ({"image": "../1/image.png"}, "'image' is '../1/image.png', which must be the name of a file"),
        ({"image": "image.png", "split": ".."}, "'split' is '..', which must be the name of a file"),
    ],
)
def test_a_damaged_problem_costs_itself_alone(root: Path, spoilt: dict[str, Any], reason: str) -> None:
    write(root, {**PROBLEMS, "2": {**PROBLEMS["2"], **spoilt}})
    reader = ScienceQa(root)
    assert [type(d) for d in reader] == [Unreadable, Document]
    with pytest.raises(DataError, match=reason):
        reader.document(0)


def test_a_number_that_leads_out_of_the_folder_is_refused(root: Path) -> None:
    write(root, {"../train/1": PROBLEMS["1"]}, {"train": ["../train/1"]})
    (found,) = ScienceQa(root)
    assert isinstance(found, Unreadable) and "must be the name of a file" in found.reason


@pytest.mark.parametrize(
    ("problems", "pids", "message"),
    [
        (b'{"1": {', PIDS, r"problems.json': is damaged \(.*\); download it again"),
        (b'{"1": {}, "2": {}, "1": {}}', PIDS, r"problems.json': is damaged \('1' stands in it more than once\)"),
        (b'{"1": "caf\xe9"}', PIDS, "problems.json': is not UTF-8 at byte 10; download it again"),
        ([1], PIDS, "problems.json': is no object of problems by number; download it again"),
        (PROBLEMS, b"{", r"pid_splits.json': is damaged"),
        (PROBLEMS, [1], "pid_splits.json': is no object of lists of problem numbers; download it again"),
        (PROBLEMS, {"train": 1}, "pid_splits.json': is no object of lists of problem numbers"),
    ],
)
def test_damaged_files_are_refused(root: Path, problems: Any, pids: Any, message: str) -> None:
    write(root, problems, pids)
    with pytest.raises(DataError, match=message):
        ScienceQa(root)


def test_missing_files_are_refused(root: Path) -> None:
    (root / "problems.json").unlink()
    with pytest.raises(DataError, match=r"problems.json': no such file; download it, or give the folder"):
        ScienceQa(root)
    with pytest.raises(DataError, match=r"pid_splits.json': no such file; download it, or give the folder"):
        ScienceQa(root / "images")
