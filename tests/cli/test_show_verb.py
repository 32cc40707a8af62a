"""`cm3 data show`: inputs and targets of a task, of small datasets written here and of real photographs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import pytest
from command import Cm3

from cm3.cli.guides import INKS
from cm3.cli.show import flat, over_picture, panels
from cm3.document import Unreadable
from cm3.read.find import open_reader
from cm3.tasks import View, find_task, from_reader

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Five documents: a red square on white in a wide picture, its box, a question, and the same in blue."""
    root = tmp_path / "pages"
    root.mkdir()
    lines: list[dict[str, Any]] = []
    for i in range(5):
        for colour in ("red", "blue"):
            picture = PIL.Image.new("RGB", (96, 64), "white")
            PIL.ImageDraw.Draw(picture).rectangle((32, 16, 47, 31), fill=colour)
            picture.save(root / f"{i}-{colour}.png")
        parts = [{"text": f"square {i}"}, {"image": f"{i}-red.png"}, {"image": f"{i}-blue.png"}]
        thing = {"bbox": [32, 16, 16, 16], "category": "square", "id": i}
        lines.append({"id": f"d{i}", "parts": parts, "edit": f"make it blue, {i}", "instances": [thing]})
        lines[-1] |= {"question": "what is it?", "answer": f"a square, {i}"}
    lines.append({"id": "bare", "text": "words alone"})
    (root / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def colours(path: str) -> set[tuple[int, ...]]:
    with PIL.Image.open(path) as sheet:
        return {c for _, c in sheet.convert("RGB").getcolors(1 << 22)}


def test_edits(cm3: Cm3, pages: Path) -> None:
    ran = cm3("data", "show", "pages", "--task", "edit", "--n", "2", "--sheet", "deep/s.png", "--size", "64", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["task"] == "edit" and len(ran.json["examples"]) == 2
    assert [e["words"].rsplit(", ", 1)[1] for e in ran.json["examples"]] == ["0", "4"], "spread over the dataset"
    assert ran.json["left_out"].keys() == {"bare"} and "has 0 images" in ran.json["left_out"]["bare"]
    assert "left out    bare: " in ran.err
    with PIL.Image.open(ran.json["sheet"]) as sheet:
        assert sheet.width == 2 * 64 + 2 * 256 + 40, "before and after"
    assert {(255, 0, 0), (0, 0, 255)} <= colours(ran.json["sheet"])
    # The same seed draws the same templates, and templates vary with it.
    assert cm3("data", "show", "pages", "--task", "edit", "--n", "2", "--json").json["examples"] == ran.json["examples"]
    seeds = [cm3("data", "show", "pages", "--task", "edit", "--seed", s, "--json").json["examples"] for s in (1, 2)]
    assert len({e["template"] for some in seeds for e in some}) == 2


def test_boxes_lie_on_the_cropped_picture(cm3: Cm3, pages: Path) -> None:
    ran = cm3("data", "show", "pages", "--task", "boxes", "--n", "1", "--sheet", "s.png", "--json")
    assert "(64, 64) -> (127, 127)" in ran.json["examples"][0]["words"]
    example = next(iter(from_reader(find_task("boxes"), open_reader("pages"))))
    assert not isinstance(example, Unreadable)
    empty, made, over = (panel.picture for panel in panels(example, find_task("boxes"), View()))
    ink = tuple(bytes.fromhex(INKS[0][1:]))
    for corner in ((64, 127), (127, 127), (127, 64)):
        assert over.getpixel(corner) == ink == empty.getpixel(corner)
    # What the box encloses is the square; scaling softens its outline by a few pixels.
    assert all(made.getpixel((x, y)) == (255, 0, 0) for x in (80, 112) for y in (80, 112))
    assert all(made.getpixel(at) == (255, 255, 255) for at in ((44, 95), (148, 95), (95, 44), (95, 148)))


def test_answers_stand_beside_their_picture(cm3: Cm3, pages: Path) -> None:
    ran = cm3("data", "show", "pages", "--task", "vqa2", "--n", "2", "--plain")
    assert ran.code == 0 and "what is it?" in ran.out and "a square, 0" in ran.out
    with PIL.Image.open("tasks.png") as sheet:
        assert sheet.width == 2 * 64 + 2 * 256 + 40
    assert ran.out.endswith("tasks.png\n")


def test_controls_from_files(cm3: Cm3, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    (tmp_path / "depths").mkdir()
    root.mkdir()
    for name, size in (("a", (40, 30)), ("b", (41, 30)), ("c", (40, 30))):
        PIL.Image.new("RGB", (40, 30), "red").save(root / f"{name}.png")
        (root / f"{name}.txt").write_text(f"picture {name}")
        if name != "c":
            PIL.Image.new("RGB", size, "#0000ff").save(tmp_path / "depths" / f"{name}.depth.png")
    ran = cm3("data", "show", "photos", "--task", "depth", "--controls", "depths", "--size", "64", "--json")
    assert [e["id"] for e in ran.json["examples"]] == ["a.png/depth.0"]
    assert "is 41 x 30 pixels, its picture 40 x 30" in ran.json["left_out"]["b.png"]
    assert "c.png" in ran.json["left_out"]
    assert {(255, 0, 0), (0, 0, 255)} < colours(ran.json["sheet"])
    assert any(r > 100 and b > 100 and not g for r, g, b in colours(ran.json["sheet"])), "one on the other"


def test_a_picture_that_is_cut_short_is_left_out(cm3: Cm3, pages: Path) -> None:
    for name in ("0-red.png", "1-blue.png"):
        whole = (pages / name).read_bytes()
        (pages / name).write_bytes(whole[: len(whole) // 2])
    ran = cm3("data", "show", "pages", "--task", "edit", "--json")
    assert ran.code == 0 and [e["id"][:2] for e in ran.json["examples"]] == ["d2", "d3", "d4"]
    assert ran.json["left_out"].keys() == {"d0", "d1", "bare"}
    assert all("cannot be read (" in ran.json["left_out"][id] for id in ("d0", "d1"))


def test_lines_are_laid_over_and_maps_mixed() -> None:
    picture, drawn = PIL.Image.new("RGB", (2, 1), (100, 100, 100)), PIL.Image.new("RGB", (2, 1))
    drawn.putpixel((0, 0), (255, 255, 255))
    lines, mixed = (over_picture(picture, drawn, field) for field in ("edge", "seg"))
    assert [lines.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (50, 50, 50)]
    assert [mixed.getpixel((x, 0))[0] for x in (0, 1)] == [177, 50]
    assert flat("a\nb  c") == "a / b c" and len(flat("word " * 200)) <= 404


BAD = {
    "an unknown task": (["pages", "--task", "boxs"], "task 'boxs': is not known; known: .* Did you mean 'boxes'"),
    "no such dataset": (["nowhere", "--task", "boxes"], "nowhere"),
    "nothing to show": (["pages", "--task", "write"], "pages: none of the documents .* has an example of task 'write'"),
    "none": (["pages", "--task", "edit", "--n", "0"], "--n 0: must be at least 1"),
    "no pixels": (["pages", "--task", "edit", "--size", "0"], "--size 0: must be at least 1"),
    "a file as folder": (["pages", "--task", "edit", "--sheet", "pages/a.jsonl/s.png"], "--sheet .* is a file"),
    "no task": (["pages"], "missing --task"),
}


@pytest.mark.parametrize("what", BAD)
def test_refusals(cm3: Cm3, pages: Path, what: str) -> None:
    command, message = BAD[what]
    ran = cm3("data", "show", *command)
    assert ran.code == 2

    assert re.search(message, ran.err), ran.err
    assert not Path("tasks.png").exists()


@pytest.mark.skipif(not COCO.is_dir(), reason="no COCO pictures beside the checkout")
def test_real_photographs(cm3: Cm3) -> None:
    ran = cm3("data", "show", f"coco:{COCO}@val2017", "--task", "boxes", "--n", "2", "--json")
    assert len(ran.json["examples"]) == 2 and not ran.json["left_out"]
    ids = {e["id"].split("/")[0] for e in ran.json["examples"]}
    assert len(ids) == 2
    refused = cm3("data", "show", f"coco:{COCO}@val2017", "--task", "edit")
    assert "task 'edit': is made of instructpix2pix, jsonl, webdataset, huggingface, folder, not of coco" in refused.err
