"""`cm3 eval stickers`: groups of tasks, one report, a table, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_stickers
import torch
from command import Cm3

from cm3.model import bundle
from cm3.stickers.cli.eval_stickers import table
from cm3.stickers.eval.sticker_scores import PLAIN, RETRIEVAL


@pytest.fixture(scope="module")
def stickers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stickers") / "model"
    bundle.save(tiny_stickers.bundle(tasks=("vqa2",), context=256), folder, torch.float32)
    return folder


FAST = ("--n", "1", "--candidates", "1", "--guidance", "1", "--json")


def test_all_is_what_a_model_has_a_bank_and_was_tuned_for(cm3: Cm3, stickers: Path) -> None:
    ran = cm3("eval", "stickers", "--model", stickers, "--tasks", "all", *FAST)
    assert ran.code == 0, ran.err
    report = ran.json
    assert list(report["tasks"]) == [*PLAIN, *RETRIEVAL, "vqa2"] and report["n"] == 1 and report["split"] == "test"
    assert "text_to_image     exact 0.0%  by stickers  1 0.0%" in ran.out + ran.err
    assert "1 sheets a task, split test, seed 1" in ran.out + ran.err


def test_tasks_are_named_one_by_one_and_in_groups(cm3: Cm3, stickers: Path) -> None:
    ran = cm3("eval", "stickers", "--model", stickers, "--tasks", "visdial,image_to_text", "retrieval", *FAST)
    assert ran.code == 0, ran.err
    assert list(ran.json["tasks"]) == ["image_to_text", *RETRIEVAL, "visdial"]
    assert "was not tuned for 'visdial'" in ran.err and "'vqa2'" not in ran.err


def test_thinking_is_the_models_own_or_as_asked(cm3: Cm3, stickers: Path) -> None:
    asked = ("eval", "stickers", "--model", stickers, "--tasks", "text_to_image,vqa2", *FAST)
    assert cm3(*asked, "--think", "yes").json["sampling"] == {"guidance": 1.0, "candidates": 1, "think": True}
    assert cm3(*asked, "--think", "no").json["sampling"]["think"] is False
    assert "think" not in cm3(*asked).json["sampling"]


def test_pictures_may_be_shown_as_jpeg(cm3: Cm3, stickers: Path) -> None:
    asked = ("eval", "stickers", "--model", stickers, "--tasks", "image_to_text,vqa2", *FAST)
    assert cm3(*asked).json["jpeg"] is None and cm3(*asked, "--jpeg", "75").json["jpeg"] == 75


def test_the_table_tells_every_figure() -> None:
    report = {
        "tasks": {
            "edit": {"exact": 0.5, "exact_1": 1.0, "exact_2": 0.0, "changed": 0.75},
            "image_tokenizer": {"psnr_db": 31.256, "exact": 1.0, "codes_used": 0.25},
        },
        "details": {"edit": {"by_kind": {"add": 0.25}}, "image_tokenizer": {"by_kind": {}}},
        "n": 4, "split": "test", "seed": 2,
    }  # fmt: skip
    assert table(report) == [
        "edit              exact 50.0%  by stickers  1 100.0%  2 0.0%",
        "                  changed 75.0%",
        "                  add 25.0%",
        "image_tokenizer   exact 100.0%",
        "                  psnr db 31.26  codes used 25.0%",
        "4 sheets a task, split test, seed 2",
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--tasks", "edit,boxs"), r"--tasks boxs: must be among plain, retrieval, instructions, all, text_to_image"),
        (("--tasks", ","), "--tasks: names none; leave it out, or name one"),
        (("--tasks", "vqa2", "--image-guidance", "2"), "is for editing; name the task edit, or all"),
        (("--n", "0"), "--n 0"),
        (("--jpeg", "0"), "--jpeg 0: is a quality, must be 1 to 100"),
    ],
)
def test_what_cannot_be_measured_is_refused(cm3: Cm3, stickers: Path, args: tuple[str, ...], message: str) -> None:
    assert message in cm3("eval", "stickers", "--model", stickers, *args).refusal


def test_pictures_that_are_too_small_are_refused(cm3: Cm3, tiny: Path) -> None:
    refusal = cm3("eval", "stickers", "--model", tiny, "--n", "1").refusal
    assert "image_size=64: pictures are measured from 128 pixels on; leave out text_to_image" in refusal
