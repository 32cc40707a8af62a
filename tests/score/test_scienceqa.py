"""Choices in ScienceQA: the classes of the owners' script, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cm3.errors import DataError
from cm3.score.scienceqa import read_choices, read_problems, score_scienceqa


def problem(
    answer: int, subject: str, grade: str, hint: str, image: str | None, topic: str, split: str = "test"
) -> Any:
    return {
        "question": "?", "choices": ["a", "b", "c"], "answer": answer, "hint": hint, "image": image, "grade": grade,
        "subject": subject, "topic": topic, "split": split,
    }  # fmt: skip


PROBLEMS = {
    "1": problem(0, "natural science", "grade3", "look", "image.png", "physics"),
    "2": problem(1, "natural science", "grade7", "", "image.png", "physics"),
    "4": problem(2, "social science", "grade12", "", None, "civics"),
    "5": problem(0, "language science", "grade6", "look", None, "verbs"),
    "6": problem(0, "language science", "grade6", "look", None, "verbs", "train"),
}


def test_the_classes_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "problems.json").write_text(json.dumps(PROBLEMS))
    (tmp_path / "made.json").write_text(json.dumps({"acc": 1, "results": {"1": 0, "2": 0, "4": "2", "5": -1}}))
    result = score_scienceqa(read_choices(tmp_path / "made.json"), read_problems(tmp_path / "problems.json", "test"))
    assert result.figures == {
        "average": 50.0,
        "natural": 50.0,
        "social": 100.0,
        "language": 0.0,
        "has_text": 50.0,
        "has_image": 50.0,
        "no_context": 100.0,
        "grade_1_6": 50.0,
        "grade_7_12": 50.0,
        "physics": 50.0,
        "civics": 100.0,
        "verbs": 0.0,
    }
    assert result.n == 4 and result.items["average"] == {"1": 100.0, "2": 0.0, "4": 100.0, "5": 0.0}
    assert result.warnings == ("1 predictions name no option, the first of '5'; they count as wrong",)


def test_a_problem_without_a_prediction_is_said(tmp_path: Path) -> None:
    (tmp_path / "problems.json").write_text(json.dumps(PROBLEMS))
    problems = read_problems(tmp_path / "problems.json", "test")
    result = score_scienceqa({"1": 0, "2": 1}, problems)
    assert result.n == 2 and result.figures["average"] == 100
    assert "2 of 4 problems have no prediction, the first '4'; the figures are of the others" in result.warnings
    with pytest.raises(DataError, match="none of 1 predictions is to one of the problems .* of another split"):
        score_scienceqa({"6": 0}, problems)
    with pytest.raises(DataError, match="1 predictions are to none of the problems, the first has id '6'"):
        score_scienceqa({"1": 0, "6": 0}, problems)
    with pytest.raises(DataError, match="has no problem of split 'val'; it has test, train"):
        read_problems(tmp_path / "problems.json", "val")


@pytest.mark.parametrize("value", [1.5, True, None, "b", [1]])
def test_choices_that_are_no_number(tmp_path: Path, value: Any) -> None:
    (tmp_path / "made.json").write_text(json.dumps({"results": {"1": value}}))
    with pytest.raises(DataError, match="problem '1': .* is no number of an option"):
        read_choices(tmp_path / "made.json")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answer": 3}, "'answer' is 3, must be 0 to 2"),
        ({"answer": None}, "must have 'choices', a list, and 'answer'"),
        ({"choices": "ab"}, "must have 'choices', a list, and 'answer'"),
        ({"subject": {}}, "'subject' is {}, must be a text"),
        ({"grade": [1]}, r"'grade' is \[1\], must be a text"),
        ({"topic": 5}, "'topic' is 5, must be a text"),
        ({"split": ["test"]}, r"has no problem of split 'test'; it has \['test'\]"),
    ],
)
def test_problems_that_are_laid_out_otherwise(tmp_path: Path, change: Any, told: str) -> None:
    (tmp_path / "problems.json").write_text(json.dumps({"1": {**PROBLEMS["1"], **change}}))
    with pytest.raises(DataError, match=told):
        read_problems(tmp_path / "problems.json", "test")
    (tmp_path / "made.json").write_text("[1]")
    with pytest.raises(DataError, match="holds no predictions"):
        read_choices(tmp_path / "made.json")
    with pytest.raises(DataError, match="holds no problems"):
        read_problems(tmp_path / "made.json", "test")
