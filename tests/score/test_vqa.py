"""VQA accuracy: the ways of the owners' script as data and stated anew, types, layouts and refusals."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.errors import ConfigError, DataError
from cm3.score.vqa import Question, normal_answer, read_answers, read_questions, score_vqa, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Yes", "yes"),
        (" the man\n", "man"),
        ("A dog and an apple", "dog and apple"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("ten\tfeet", "10 feet"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("y'allll", "y'all'll"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),  # the owners' table has it with a capital, and compares small letters
        ("it's", "it's"),
        ("a.m.", "am"),
        ("2.5 m.", "2.5 m"),
        ("red/white", "red white"),
        ("black-and-white", "black and white"),
        ("red, white", "red white"),
        ("half-open, shut", "half open shut"),
        ("1,000 people", "1000 people"),
        ("1,000 half-open", "1000 halfopen"),
        ("10:30", "10:30"),
        ("what?", "what"),
        ("." * 40 + "x", "." * 8 + "x"),  # 32 full stops are taken out
        ("", ""),
    ],
)
def test_answers_as_they_are_compared(text: str, normal: str) -> None:
    assert normal_answer(text) == normal


@pytest.mark.parametrize(("agree", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_accuracy_by_how_many_of_ten_agree(agree: int, score: float) -> None:
    answers = ["red"] * agree + [f"other {i}" for i in range(10 - agree)]
    assert vqa_accuracy("Red.", answers) == pytest.approx(score)


def test_accuracy_of_answers_that_are_one_when_normal() -> None:
    assert vqa_accuracy("two", ["2", "two", "Two.", "the two", *["3"] * 6]) == 1.0
    assert vqa_accuracy("3", ["2", "two", "three", *["4"] * 7]) == pytest.approx(0.3)
    # With four people, each subset has three.
    assert vqa_accuracy("a", ["b", "b", "b", "c"]) == 0.0
    assert vqa_accuracy("b", ["b", "b", "b", "c"]) == pytest.approx((3 * 2 / 3 + 1) / 4)


def test_where_all_people_agree_their_very_words_count() -> None:
    assert vqa_accuracy("yes\n", ["yes"] * 10) == 1.0 and vqa_accuracy("Yes", ["yes"] * 10) == 0.0
    assert vqa_accuracy("ten", ["ten"] * 10) == 1.0 and vqa_accuracy("10", ["ten"] * 10) == 0.0


@settings(max_examples=50)
@given(st.permutations(["red", "Red", "dark red", "blue", "a red", "red", "green", "blue", "red.", "x"]))
def test_the_order_of_people_does_not_matter(answers: list[str]) -> None:
    assert vqa_accuracy("blue", answers) == pytest.approx(0.6) and vqa_accuracy("red", answers) == pytest.approx(1.0)


def test_too_few_people() -> None:
    with pytest.raises(DataError, match="answers: 3 of them, must be at least 4, for with one left out 3 must agree"):
        vqa_accuracy("a", ["a"] * 3)


def stated_anew(given_: str, records: list[dict[str, Any]], always: bool) -> float:
    """The accuracy in percent, from the description of the owners' script, record by record."""

    def flat(text: str) -> str:
        return text.replace("\n", " ").replace("\t", " ").strip()

    def normal(text: str) -> str:
        out = text
        for sign in [
            ";",
            "/",
            "[",
            "]",
            '"',
            "{",
            "}",
            "(",
            ")",
            "=",
            "+",
            "\\",
            "_",
            "-",
            ">",
            "<",
            "@",
            "`",
            ",",
            "?",
            "!",
        ]:
            stands = sign + " " in text or " " + sign in text or re.search("[0-9],[0-9]", text)
            out = out.replace(sign, "" if stands else " ")
        left = 32
        kept = ""
        for place, sign in enumerate(out):
            if sign == "." and left and not out[place + 1 : place + 2].isdigit():
                left -= 1
            else:
                kept += sign
        digits = dict(zip("none zero one two three".split(), "00123", strict=True))
        words = [digits.get(word, word) for word in kept.lower().split()]
        return " ".join({"dont": "don't"}.get(word, word) for word in words if word not in ("a", "an", "the"))

    people = [{**record, "answer": flat(record["answer"])} for record in records]
    given_ = flat(given_)
    if always or len({record["answer"] for record in people}) > 1:
        people = [{**record, "answer": normal(record["answer"])} for record in people]
        given_ = normal(given_)
    total = 0.0
    for number, one in enumerate(people):
        others = [r for i, r in enumerate(people) if (i != number if always else r != one)]
        total += min(1, sum(r["answer"] == given_ for r in others) / 3)
    return 100 * total / len(people)


SAID = [
    "yes",
    "Yes",
    "YES.",
    "the yes",
    "two",
    "2",
    "dont",
    "don't",
    "red/white",
    "red , white",
    "1,000",
    ". . x",
    "a.",
    "",
]


@pytest.mark.parametrize("protocol", ["official", "always-normalise"])
@pytest.mark.parametrize("layout", ["vqa2", "vizwiz"])
def test_cases_of_both_layouts(tmp_path: Path, layout: str, protocol: str) -> None:
    draw = random.Random(5)
    key = "image" if layout == "vizwiz" else "question_id"
    annotations, answers = [], []
    for number in range(300):
        pool = draw.sample(SAID, draw.randint(1, 4))
        records = [
            {"answer": draw.choice(pool), "answer_confidence": draw.choice(["yes", "no"])}
            | ({} if layout == "vizwiz" else {"answer_id": person + 1})
            for person in range(draw.choice([10, 10, 5]))
        ]
        annotations.append({key: number, "answers": records, "answer_type": draw.choice(["other", "number"])})
        answers.append({key: number, "answer": draw.choice([*pool, draw.choice(SAID)])})
    asked: Any = [{key: number} for number in range(300)]
    for name, page in (("a", annotations), ("q", asked), ("p", answers)):
        wrapped = {"a": "annotations", "q": "questions"}.get(name) if layout == "vqa2" else None
        (tmp_path / f"{name}.json").write_text(json.dumps({wrapped: page} if wrapped else page))
    questions = read_questions(tmp_path / "q.json", tmp_path / "a.json")
    result = score_vqa(read_answers(tmp_path / "p.json"), questions, protocol)
    always = protocol == "always-normalise"
    expected = [stated_anew(p["answer"], a["answers"], always) for p, a in zip(answers, annotations, strict=True)]
    assert list(result.items["accuracy"].values()) == pytest.approx(expected, abs=1e-9)
    assert result.figures["accuracy"] == pytest.approx(sum(expected) / 300)
    numbers = [e for e, a in zip(expected, annotations, strict=True) if a["answer_type"] == "number"]
    assert result.figures["answer type: number"] == pytest.approx(sum(numbers) / len(numbers))
    assert list(result.figures) == ["accuracy", "answer type: number", "answer type: other"]
    assert result.settings == {"protocol": protocol}
    equal = any("questions have equal records of answers" in line for line in result.warnings)
    assert equal == (layout == "vizwiz" and not always)


# Answers of people without an id, as VizWiz's, and the percent that the owners' script gave for each (a013f00, made to
# run on Python 3): all of equal records are left out together.
ALIKE = [
    (["basil"] * 10, "basil", 0.0),
    (["basil"] * 9 + ["mint"], "basil", 10.0),
    (["basil"] * 9 + ["mint"], "mint", 30.0),
]


@pytest.mark.parametrize(("people", "given_", "score"), ALIKE)
def test_equal_records_are_left_out_together(people: list[str], given_: str, score: float) -> None:
    question = Question(tuple(people), ("{}",) * len(people))
    assert score_vqa({"1": given_}, {"1": question}).figures["accuracy"] == pytest.approx(score)
    numbered = Question(tuple(people), tuple(range(len(people))))
    assert score_vqa({"1": given_}, {"1": numbered}).figures["accuracy"] == pytest.approx(
        30 if given_ == "mint" else 100
    )


def test_answers_that_do_not_fit() -> None:
    question = Question(("a",) * 10, tuple(range(10)))
    with pytest.raises(DataError, match="none of 1 answers is to one of the questions .* of another split"):
        score_vqa({"7": "a"}, {"1": question})
    with pytest.raises(DataError, match="1 answers are to none of the questions, the first has id '7'"):
        score_vqa({"1": "a", "7": "a"}, {"1": question})
    with pytest.raises(DataError, match="1 of 2 questions have no answer, the first '2'; give one to each"):
        score_vqa({"1": "a"}, {"1": question, "2": question})
    with pytest.raises(ConfigError, match="protocol='strict': must be one of official, always-normalise"):
        score_vqa({"1": "a"}, {"1": question}, "strict")
    result = score_vqa({"1": " "}, {"1": Question(("a", "b"), (0, 1))})
    assert [line.split(",")[0] for line in result.warnings] == [
        "1 answers are empty",
        "1 questions have fewer than 4 answers of people",
    ]


ANSWERS = [{"answer": "a"}] * 10


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        ([{"question_id": 1, "answers": ANSWERS}] * 2, "question '1' is annotated twice"),
        ([{"question_id": 2, "answers": ANSWERS}], "question '2' is not in .*give the questions of the same split"),
        ([{"question_id": 1, "answers": []}], r"'answers' is \[\], must be a list of records with a text 'answer'"),
        ([{"question_id": 1, "answers": ["a"]}], r"'answers' is \['a'\], must be"),
        ([{"answers": ANSWERS}], "'question_id' is None, must be a number or a text"),
        ([], "has no records"),
    ],
)
def test_annotations_that_are_laid_out_otherwise(tmp_path: Path, annotations: Any, told: str) -> None:
    (tmp_path / "q.json").write_text(json.dumps({"questions": [{"question_id": 1}]}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": annotations}))
    with pytest.raises(DataError, match=told):
        read_questions(tmp_path / "q.json", tmp_path / "a.json")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([1, "1"], "record 1: question '1' is asked twice; keep one of them"),
        (
            [1, 2, 3],
            "a.json': 2 of 3 questions have no annotation, the first '2'; give the annotations of the same split",
        ),
    ],
)
def test_every_question_is_annotated_once(tmp_path: Path, asked: list[Any], told: str) -> None:
    (tmp_path / "q.json").write_text(json.dumps({"questions": [{"question_id": id} for id in asked]}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [{"question_id": 1, "answers": ANSWERS}]}))
    with pytest.raises(DataError, match=told):
        read_questions(tmp_path / "q.json", tmp_path / "a.json")


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([{"question_id": 1, "answer": "a"}, {"question_id": "1", "answer": "b"}], "question '1' is answered twice"),
        ([{"question_id": 1, "answer": 5}], "'answer' is 5, must be a text"),
        ({"1": "a"}, "holds no list of records; give a list"),
    ],
)
def test_answers_that_are_laid_out_otherwise(tmp_path: Path, answers: Any, told: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps(answers))
    with pytest.raises(DataError, match=told):
        read_answers(tmp_path / "p.json")
