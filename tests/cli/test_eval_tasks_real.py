"""`cm3 eval tasks`: real datasets from the command line, the table, the sheet, refusals."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import published
import pytest
from command import Cm3

ROOT = Path(__file__).resolve().parents[2]
ENCODER = ROOT / "cm3/bundles/scenes/encoder"
COCO = ROOT.parent / "shared/data/coco_mini"
FAST = ("--candidates", "1", "--guidance", "1")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pytest.importorskip("cv2")
    pytest.importorskip("pycocotools")
    return published.datasets(tmp_path_factory.mktemp("published"))


def test_several_sources_in_one_report(cm3: Cm3, tiny: Path, sources: dict[str, str]) -> None:
    args = [f"{task}={sources[task]}" for task in ("canny", "vqa2", "vqa2", "segment", "edit", "coco_captions")]
    more = (*FAST, "--encoder", ENCODER, "--sheet", "deep/s.png", "--json")
    ran = cm3("eval", "tasks", *args, "--model", tiny, "--n", "2", "--batch", "2", *more)
    assert ran.code == 0, ran.err
    report = ran.json
    assert list(report["tasks"]) == ["canny", "vqa2", "vqa2#2", "segment", "edit", "coco_captions"]
    assert report["n"] == 2 and report["seed"] == 1 and report["sampling"] == {"guidance": 1.0, "candidates": 1}
    assert list(report["tasks"]["edit"]) == ["similarity", "unchanged"]
    assert report["tasks"]["vqa2"] == report["tasks"]["vqa2#2"]
    assert all(details["n"] == 2 for details in report["details"].values())
    assert report["details"]["canny"]["encoder"].startswith("pairs:")
    assert {"id", "given", "said", "vqa_accuracy"} == set(report["details"]["vqa2"]["examples"][0])
    assert "was not tuned for 'canny', 'vqa2', 'segment', 'edit', 'coco_captions': expect little of it" in ran.err
    told = [line.split()[:2] for line in ran.err.splitlines()]
    assert ["canny", "structure"] in told and ["segment", "iou"] in told and ["coco_captions", "cider"] in told
    with PIL.Image.open("deep/s.png") as sheet:
        assert sheet.width == 2 * 64 + 3 * 256 + 2 * 40


def test_what_is_left_out_is_told(cm3: Cm3, tiny: Path, tmp_path: Path) -> None:
    published.scienceqa(tmp_path / "qa")
    (tmp_path / "qa/images/test/1/image.png").unlink()
    ran = cm3("eval", "tasks", "scienceqa=scienceqa:qa", "--model", tiny, *FAST)
    assert ran.code == 0, ran.err
    assert "scienceqa               1 left out, the first 1: " in ran.out and "no such file" in ran.out
    assert "1 cases of scienceqa:qa" in ran.out


def test_the_sheet_has_a_page_for_what_has_no_picture(cm3: Cm3, tiny: Path, sources: dict[str, str]) -> None:
    args = [f"{task}={sources[task]}" for task in ("boxes", "write", "visdial")]
    ran = cm3(
        "eval", "tasks", *args, "--model", tiny, "--n", "1", "--encoder", ENCODER, *FAST, "--sheet", "s.png", "--json"
    )
    assert ran.code == 0, ran.err
    assert ran.json["tasks"]["boxes"]["unrelated"] is None and Path("s.png").is_file()
    assert "unrelated              -" in ran.err


BAD = {
    "no source": ([], "no source given; name at least one, TASK=[KIND:]PATH[@SPLIT]"),
    "a source without a task": (["data/coco"], "source: 'data/coco' must be written TASK=[KIND:]PATH[@SPLIT]"),
    "an unknown task": (["boxs={canny}"], "task 'boxs': is not known; known: edit"),
    "a store": (["store=x"], "task 'store': is not known"),
    "no such dataset": (["vqa2=nowhere"], "'nowhere': no such file or folder; check the path"),
    "no such split": (["canny={canny}x"], "has no split 'val2017x'; it has val2017."),
    "another dataset": (["vqa2={canny}"], "task 'vqa2': is made of vqa2, jsonl"),
    "nothing for it": (["edit={write}", "--encoder", str(ENCODER)], "task source 'edit': none of 2 documents in a row"),
    "one picture to describe": (["coco_captions={canny}", "--n", "1"], "n=1: must be at least 2"),
    "none": (["vqa2={vqa2}", "--n", "0"], "--n 0: must be at least 1"),
    "no batch": (["vqa2={vqa2}", "--batch", "0"], "--batch 0: must be at least 1"),
    "no edit": (["vqa2={vqa2}", "--image-guidance", "2"], "--image-guidance 2.0: is for editing; name a source of"),
    "no encoder": (["boxes={canny}"], "this model has no encoder; give one, encoder=FOLDER (--encoder FOLDER)"),
    "an encoder that is none": (["boxes={canny}", "--encoder", "./nowhere"], "encoder './nowhere': no such folder"),
    "a file as folder": (
        ["vqa2={vqa2}", "--sheet", "{tiny}/config.json/s.png"],
        "config.json' is a file; give a folder",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_refusals(cm3: Cm3, tiny: Path, sources: dict[str, str], what: str) -> None:
    command, message = BAD[what]
    ran = cm3("eval", "tasks", *[c.format(**sources, tiny=tiny) for c in command], "--model", tiny)
    assert ran.code == 2 and message in ran.err, ran.err


@pytest.mark.skipif(not COCO.is_dir(), reason="no COCO pictures beside the checkout")
def test_real_photographs_with_the_shipped_model(cm3: Cm3) -> None:
    pytest.importorskip("pycocotools")
    args = [f"{task}=coco:{COCO}@val2017" for task in ("coco_captions", "segment", "canny", "boxes")]
    ran = cm3("eval", "tasks", *args, "--n", "2", *FAST, "--json")
    assert ran.code == 0, ran.err
    tasks = ran.json["tasks"]
    assert 0 <= tasks["coco_captions"]["cider"] <= 10 and 0 <= tasks["segment"]["iou"] <= 1
    assert 0 <= tasks["canny"]["structure"] <= 1 and -1 <= tasks["boxes"]["similarity"] <= 1
    assert all(len(e["said"]) == 5 for e in ran.json["details"]["coco_captions"]["examples"])
