"""`cm3 eval tokenizer` and `cm3 eval scenes`, run for real on small files and a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from command import Cm3

from cm3.cli.picture_files import Pictures
from cm3.scenes.cli.eval_verbs import table
from cm3.tokens.image import preprocess


@pytest.fixture
def two(picture: Path, tmp_path: Path) -> Path:
    """A folder with the same picture under two names."""
    folder = tmp_path / "two"
    folder.mkdir()
    for name in "ab":
        shutil.copyfile(picture, folder / f"{name}.png")
    return folder


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["empty"], "the folder holds no file that ends in .png"),
        ([], "no picture given; name at least one file, folder or dataset"),
        (["good.txt", "--n", "0"], "--n 0: must be at least 1"),
        (["nowhere:x"], "no reader is called 'nowhere'"),
        (["nowhere"], "'nowhere': no such file or folder"),
        (["good.txt"], "not a readable picture"),
        (["good.txt", "--dtype", "int8"], "dtype='int8': must be one of auto, float32, bfloat16, float16."),
        (["good.txt", "--features", "none.pth"], "features 'none.pth': no such file; FID's Inception is published at"),
        (["good.txt", "--lpips", "vgg.pth", "lin.pth"], "vgg.pth: no such file; LPIPS needs the published"),
        (["two", "two/a.png"], "picture 'two/a.png' comes twice; give each a name of its own"),
    ],
)
def test_bad_input_is_one_line(cm3: Cm3, tiny: Path, two: Path, tmp_path: Path, command: list[str], told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.txt").write_text("a red circle\n")
    before = sorted(tmp_path.rglob("*"))
    assert told in cm3("eval", "tokenizer", tiny, *command).refusal
    assert sorted(tmp_path.rglob("*")) == before


def test_the_old_names_are_told(cm3: Cm3, tiny: Path) -> None:
    assert (
        "cm3 tokenizer image eval is cm3 eval tokenizer MODEL now" in cm3("tokenizer", "image", "eval", "a.png").refusal
    )
    told = cm3("tokenizer", "image", "train", "scenes:clip", "--model", tiny).refusal
    assert "is a ClipRun; must be the run of an image tokenizer" in told


def test_tokenizer_eval(cm3: Cm3, tiny: Path, two: Path) -> None:
    made = cm3("eval", "tokenizer", tiny, two, "--json", "--out", "result.json").json
    figures = made["figures"]
    assert (made["n"], made["settings"]["size"], made["settings"]["codes"]) == (2, [64, 64], 64)
    assert 0 < figures["psnr_db"] < 40 and 0 < figures["codes_used"] <= 1 and -1 < figures["ssim"] < 1
    assert json.loads(Path("result.json").read_text()) == made
    one = cm3("eval", "tokenizer", tiny, two, "--n", "1", "--json").json
    assert one["n"] == 1 and one["figures"]["psnr_db"] == pytest.approx(figures["psnr_db"])  # the same picture twice


def test_files_are_taken_evenly_apart(picture: Path) -> None:
    folder = picture.parent / "many"
    folder.mkdir()
    for i in range(15):
        shutil.copyfile(picture, folder / f"{i:02}.png")
    chosen = Pictures([str(folder)], 8)
    assert [path.name for path in chosen.files] == [f"{i:02}.png" for i in range(0, 15, 2)] and chosen.total == 8


def test_a_sheet_shows_pictures_over_what_comes_back(cm3: Cm3, tiny: Path, picture: Path, two: Path) -> None:
    sheet = two.parent / "look.png"
    ask = ("eval", "tokenizer", tiny, two, "--sheet", sheet)
    assert cm3(*ask).code == cm3(*ask).code == 0  # its own sheet is replaced
    shown = np.asarray(PIL.Image.open(sheet))
    given = np.asarray(preprocess(PIL.Image.open(picture), 64))
    assert shown.shape == (2 * 64 + 4, 2 * 64 + 4, 3)
    np.testing.assert_array_equal(shown[:64, :64], given)
    np.testing.assert_array_equal(shown[:, :64], shown[:, 68:])
    assert (shown[68:, :64] != given).any()
    other = two.parent / "mine.png"
    shutil.copyfile(picture, other)
    assert "is no sheet that cm3 wrote" in cm3(*ask[:-1], other).refusal
    assert other.read_bytes() == picture.read_bytes()


def test_documents_that_cannot_be_read_are_told(cm3: Cm3, tiny: Path, two: Path) -> None:
    (two / "a.jsonl").write_text('{"text": "x", "image": "a.png"}\n{"text": "y", "image": "gone.png"}\n')
    made = cm3("eval", "tokenizer", tiny, f"jsonl:{two}", "--json").json
    assert made["n"] == 1 and made["warnings"] == [
        "1 documents cannot be read and are left out; see `cm3 data inspect`"
    ]


def test_a_run_is_taken(cm3: Cm3, tiny: Path, picture: Path, tmp_path: Path) -> None:
    """Of an image tokenizer, or of a model that was trained to its end: the same figures as of the bundle."""
    of_bundle = cm3("eval", "tokenizer", tiny, picture, "--json").json
    page = json.loads((tiny / "config.json").read_text())
    run, model = tmp_path / "run", tmp_path / "model"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"vqgan": page["image_tokenizer"], "size": page["image_size"]}))
    assert "has no image_tokenizer.safetensors; train one first" in cm3("eval", "tokenizer", run, picture).refusal
    shutil.copyfile(tiny / "image_tokenizer.safetensors", run / "image_tokenizer.safetensors")
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model": {}, "image_size": 64}))
    shutil.copytree(tiny, model / "bundle")
    for folder in (run, model):
        of_run = cm3("eval", "tokenizer", folder, picture, "--json").json
        assert all(of_run[name] == of_bundle[name] for name in ("figures", "items", "made", "references"))


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
