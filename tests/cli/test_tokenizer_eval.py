"""The tokenizer verbs and eval, run for real on small files and a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Cm3

from cm3.cli.evaluate import table
from cm3.tokens.text import TextTokenizer

LINES = "a red circle\na blue square above a red circle\nna\u00efve \u2603\n"


def test_text_train_then_eval(cm3: Cm3, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(LINES, encoding="utf-8")
    (tmp_path / "texts" / "b.md").write_bytes(b"\xff not read")
    made = cm3("tokenizer", "text", "train", "texts", "--size", "270", "--out", "made/t.json", "--json")
    assert made.code == 0
    assert made.json["size"] == TextTokenizer.load("made/t.json").size <= 270
    assert made.json["files"] == 1 and made.json["bytes"] == len(LINES.encode())
    measured = cm3("tokenizer", "text", "eval", "made/t.json", "texts/a.txt", "--json").json
    assert measured["lossless"] is True
    assert measured["bytes_per_token"] == made.json["bytes_per_token"] > 1


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["text", "train"], "no file given"),
        (["text", "train", "nowhere.txt"], "'nowhere.txt': no such file or folder"),
        (["text", "train", "empty"], "the folder holds no file that ends in .txt"),
        (["text", "train", "bad.txt"], "'bad.txt': not UTF-8 at byte 2"),
        (["text", "train", "good.txt", "--size", "3"], "must be at least 256"),
        (["text", "train", "good.txt", "--out", "good.txt/t.json"], "is a file; give a folder"),
        (["text", "eval", "nowhere.json", "good.txt"], "tokenizer 'nowhere.json': no such file"),
        (["image", "eval", "empty"], "the folder holds no file that ends in .png"),
        (["image", "eval", "good.txt", "--n", "0"], "--n 0: must be at least 1"),
        (["image", "eval", "good.txt"], "not a readable picture"),
    ],
)
def test_bad_input_is_one_line(cm3: Cm3, tiny: Path, tmp_path: Path, command: list[str], told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"a \xff")
    (tmp_path / "good.txt").write_text("a red circle\n")
    before = sorted(tmp_path.rglob("*"))
    more = ["--model", tiny] if command[0] == "image" else []
    assert told in cm3("tokenizer", *command, *more).refusal
    assert sorted(tmp_path.rglob("*")) == before


def test_image_eval(cm3: Cm3, tiny: Path, picture: Path) -> None:
    made = cm3("tokenizer", "image", "eval", picture.parent, picture, "--model", tiny, "--json").json
    assert (made["n"], made["size"], made["codes"]) == (2, 64, 64)
    assert 0 < made["psnr_db"] < 40 and 0 < made["codes_used"] <= 1
    one = cm3("tokenizer", "image", "eval", picture.parent, picture, "--model", tiny, "--n", "1", "--json").json
    assert one["n"] == 1 and one["psnr_db"] == pytest.approx(made["psnr_db"])  # the same picture twice


def test_eval_scenes_prints_what_the_design_says(cm3: Cm3, tiny: Path) -> None:
    ran = cm3("eval", "scenes", "--n", "2", "--seed", "3", "--model", tiny, "--json")
    assert ran.code == 0, ran.err
    made = ran.json
    assert (made["n"], made["seed"]) == (2, 3)
    assert {"exact", "exact_1", "unguided", "held_out"} <= made["text_to_image"].keys()
    assert {"exact", "outside_unchanged"} <= made["region_infill"].keys()
    assert {"psnr_db", "codes_used"} <= made["image_tokenizer"].keys()
    assert "exact" in made["image_to_text"] and "exact" in made["text_infill"]


def test_eval_of_some_tasks(cm3: Cm3, tiny: Path) -> None:
    made = cm3("eval", "scenes", "--n", "1", "--tasks", "image_tokenizer", "--model", tiny, "--json").json
    assert "image_tokenizer" in made and "text_to_image" not in made
    assert "Did you mean 'text_infill'?" in cm3("eval", "scenes", "--tasks", "text_infil", "--model", tiny).refusal
    assert "--n 0: must be at least 1" in cm3("eval", "scenes", "--n", "0").refusal
    assert "--seed -1: must be at least 0" in cm3("eval", "scenes", "--seed", "-1").refusal


def test_table() -> None:
    figures = {"text_infill": {"exact": 0.5, "other": None}, "image_tokenizer": {"psnr_db": 30.0}}
    report = {**figures, "n": 4, "seed": 1, "split": "test", "sampling": {"k": 2}, "details": {"x": {"y": 1}}}
    assert [line.split() for line in table(report)][:3] == [
        ["text_infill", "exact", "50.0%"],
        ["text_infill", "other", "-"],
        ["image_tokenizer", "psnr_db", "30.00"],
    ]
    assert len(table(report)) == 4
