"""The image tokenizer verb and eval, run for real on small files and a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from command import Cm3

from cm3.cli.tokenizer import Pictures
from cm3.scenes.cli.eval_verbs import table
from cm3.tokens.image import preprocess


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["image", "eval", "empty"], "the folder holds no file that ends in .png"),
        (["image", "eval", "good.txt", "--n", "0"], "--n 0: must be at least 1"),
        (["image", "eval", "good.txt"], "not a readable picture"),
        (
            ["image", "eval", "good.txt", "--dtype", "int8"],
            "dtype='int8': must be one of auto, float32, bfloat16, float16.",
        ),
        (["image", "train", "scenes:clip"], "is a ClipRun; must be the run of an image tokenizer"),
    ],
)
def test_bad_input_is_one_line(cm3: Cm3, tiny: Path, tmp_path: Path, command: list[str], told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.txt").write_text("a red circle\n")
    before = sorted(tmp_path.rglob("*"))
    assert told in cm3("tokenizer", *command, "--model", tiny).refusal
    assert sorted(tmp_path.rglob("*")) == before


def test_image_eval(cm3: Cm3, tiny: Path, picture: Path) -> None:
    made = cm3("tokenizer", "image", "eval", picture.parent, picture, "--model", tiny, "--json").json
    assert (made["n"], made["size"], made["codes"]) == (2, 64, 64)
    assert 0 < made["psnr_db"] < 40 and 0 < made["codes_used"] <= 1
    one = cm3("tokenizer", "image", "eval", picture.parent, picture, "--model", tiny, "--n", "1", "--json").json
    assert one["n"] == 1 and one["psnr_db"] == pytest.approx(made["psnr_db"])  # the same picture twice


def test_image_eval_takes_files_evenly_apart(picture: Path) -> None:
    folder = picture.parent / "many"
    folder.mkdir()
    for i in range(15):
        shutil.copyfile(picture, folder / f"{i:02}.png")
    chosen = Pictures([str(folder)], 8)
    assert [path.name for path in chosen.files] == [f"{i:02}.png" for i in range(0, 15, 2)] and chosen.total == 8


def test_image_eval_shows_pictures_over_what_comes_back(cm3: Cm3, tiny: Path, picture: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "look.png"
    ask = ("tokenizer", "image", "eval", picture, picture, "--model", tiny, "--sheet", sheet)
    assert cm3(*ask).code == cm3(*ask).code == 0  # its own sheet is replaced
    shown = np.asarray(PIL.Image.open(sheet))
    given = np.asarray(preprocess(PIL.Image.open(picture), 64))
    assert shown.shape == (2 * 64 + 4, 2 * 64 + 4, 3)
    np.testing.assert_array_equal(shown[:64, :64], given)
    np.testing.assert_array_equal(shown[:, :64], shown[:, 68:])
    assert (shown[68:, :64] != given).any()
    other = tmp_path / "mine.png"
    shutil.copyfile(picture, other)
    assert "is no sheet that cm3 wrote" in cm3(*ask[:-1], other).refusal
    assert other.read_bytes() == picture.read_bytes()


def test_image_eval_takes_a_run(cm3: Cm3, tiny: Path, picture: Path, tmp_path: Path) -> None:
    """Of an image tokenizer, or of a model that was trained to its end: the same figures as of the bundle."""
    of_bundle = cm3("tokenizer", "image", "eval", picture, "--model", tiny, "--json").json
    page = json.loads((tiny / "config.json").read_text())
    run, model = tmp_path / "run", tmp_path / "model"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"vqgan": page["image_tokenizer"], "size": page["image_size"]}))
    assert "has no image_tokenizer.safetensors; train one first" in cm3(
        "tokenizer", "image", "eval", picture, "--model", run
    ).refusal  # fmt: skip
    shutil.copyfile(tiny / "image_tokenizer.safetensors", run / "image_tokenizer.safetensors")
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model": {}, "image_size": 64}))
    shutil.copytree(tiny, model / "bundle")
    for folder in (run, model):
        assert cm3("tokenizer", "image", "eval", picture, "--model", folder, "--json").json == of_bundle


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
