"""`cm3 eval captions`, `vqa`, `scienceqa`, `visdial`: from files to a result that is kept, and refusals of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Cm3

from cm3.score.result_file import read_result

CAPTIONS = [
    {"image_id": n, "caption": text} for n, text in enumerate(["a red dog runs", "a blue cat sits", "two cows"])
]
ANSWERS = [{"answer": answer, "answer_id": n} for n, answer in enumerate(["yes"] * 6 + ["no"] * 4)]
FILES: dict[str, Any] = {
    "made.json": CAPTIONS,
    "said.json": {"images": [{"id": 0}, {"id": 1}, {"id": 2}], "annotations": CAPTIONS},
    "answers.json": [{"question_id": 1, "answer": "No."}],
    "questions.json": {"questions": [{"question_id": 1, "question": "?"}]},
    "annotations.json": {"annotations": [{"question_id": 1, "answers": ANSWERS, "answer_type": "yes/no"}]},
    "choices.json": {"results": {"1": 1}},
    "problems.json": {"1": {"choices": ["a", "b"], "answer": 1, "split": "test", "subject": "social science"}},
    "ranks.json": [{"image_id": 1, "round_id": 1, "ranks": [1, 2]}],
    "dialogs.json": {"data": {"dialogs": [{"image_id": 1, "dialog": [{"gt_index": 1}]}]}},
    "dense.json": [{"image_id": 1, "round_id": 1, "gt_relevance": [1.0, 0.0]}],
}
VERBS = {
    "captions": (["made.json", "said.json"], "CIDEr-D", 7.5),  # two words have no n-gram of three
    "vqa": (["answers.json", "questions.json", "annotations.json"], "accuracy", 100.0),
    "scienceqa": (["choices.json", "problems.json"], "social", 100.0),
    "visdial": (["ranks.json", "dialogs.json", "dense.json"], "mrr", 0.5),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, page in FILES.items():
        (tmp_path / name).write_text(json.dumps(page))
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_a_result_is_printed_and_kept(cm3: Cm3, files: Path, verb: str) -> None:
    names, figure, _ = VERBS[verb]
    ran = cm3("eval", verb, *names, "--out", "kept/result.json")
    assert ran.code == 0, ran.err
    kept = read_result(files / "kept/result.json")
    assert kept.suite == verb and figure in kept.figures
    assert any(line.split()[0] == figure.split()[0] for line in ran.out.splitlines())
    assert {source.path for source in kept.references.values()} == set(names[1:])
    again = cm3("eval", verb, *names, "--json").json
    assert again["figures"] == dict(kept.figures) and again["predictions"].keys() == kept.predictions.keys()


def test_the_figures(cm3: Cm3, files: Path) -> None:
    found = cm3("eval", "captions", "made.json", "said.json", "--json").json
    assert found["figures"]["CIDEr-D"] == pytest.approx((10 + 10 + 5) / 3)  # two words have no n-gram of three
    assert cm3("eval", "vqa", *VERBS["vqa"][0], "--json").json["figures"] == {
        "accuracy": 100.0,
        "answer type: yes/no": 100.0,
    }
    dialog = cm3("eval", "visdial", *VERBS["visdial"][0], "--json").json["figures"]
    assert dialog == {"mrr": 0.5, "r@1": 0.0, "r@5": 1.0, "r@10": 1.0, "mean_rank": 2.0, "ndcg": 1.0}


def test_the_protocol_is_printed_with_the_figure(cm3: Cm3, files: Path) -> None:
    (files / "answers.json").write_text(json.dumps([{"question_id": 1, "answer": "Yes."}]))
    page = {"annotations": [{"question_id": 1, "answers": [{**one, "answer": "yes"} for one in ANSWERS]}]}
    (files / "annotations.json").write_text(json.dumps(page))
    plain = cm3("eval", "vqa", *VERBS["vqa"][0])
    other = cm3("eval", "vqa", *VERBS["vqa"][0], "--protocol", "always-normalise")
    assert "protocol official" in plain.out and "0.0000" in plain.out
    assert "protocol always-normalise" in other.out and "100.0000" in other.out


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["captions", "made.json"], "no REFERENCES given; name the captions of people (how many photographs a model"),
        (["captions", "made.json", "nowhere.json"], "'nowhere.json': cannot be read"),
        (["captions", "made.json", "said.json", "--meteor", "."], "METEOR: '.' has no meteor-1.5.jar"),
        (["captions", "made.json", "said.json", "--out", "said.json"], "is there, and is no cm3-result that cm3 wrote"),
        (["vqa", "answers.json", "questions.json", "annotations.json", "--protocol", "mine"], "--protocol"),
        (["visdial", "ranks.json"], "no ANNOTATIONS given"),
        (["visdial", "ranks.json", "dense.json", "dense.json"], "dense.json: is the second file of its kind"),
        (["scienceqa", "choices.json", "problems.json", "--split", "val"], "has no problem of split 'val'"),
    ],
)
def test_refusals(cm3: Cm3, files: Path, command: list[str], told: str) -> None:
    ran = cm3("eval", *command)
    assert told in ran.refusal
