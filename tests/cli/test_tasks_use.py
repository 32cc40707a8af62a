"""edit, segment, describe with a question, generate with boxes and control images: on a tiny model, for real."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tiny_model
import torch
from command import Cm3

from cm3.cli.guides import INKS, outlined, read_boxes, read_control
from cm3.cli.main import VERBS
from cm3.cli.outputs import line
from cm3.errors import RequestError
from cm3.generate import CM3Leon
from cm3.model import bundle
from cm3.tasks import TASKS

PROMPT = "a red circle"
BOXES = [["circle", [0, 0, 127, 127]], ["star", [128, 64, 255, 200]]]


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(BOXES))
    return path


@pytest.fixture
def edges(tmp_path: Path) -> Path:
    path = tmp_path / "edges.png"
    PIL.Image.effect_noise((64, 64), 90).save(path)
    return path


def same(file: str, picture: PIL.Image.Image) -> bool:
    with PIL.Image.open(file) as made:
        return made.tobytes() == picture.tobytes()


def test_edit(cm3: Cm3, tiny: Path, picture: Path) -> None:
    args = ["edit", picture, "paint it green", "--model", tiny, "--n", "2", "--seed", "5", "--sheet", "s.png", "--json"]
    ran = cm3(*args)
    assert ran.code == 0, ran.err
    assert f"model {str(tiny)!r} was not tuned for 'edit'" in ran.err
    made = ran.json
    assert made["instruction"] == "paint it green" and len(made["files"]) == len(made["scores"]) == 2
    model = CM3Leon.load(str(tiny))
    with PIL.Image.open(picture) as given:
        replies = model.edit(given, "paint it green", 2, seed=5).images
    assert all(same(f, r) for f, r in zip(made["files"], replies, strict=True))
    with PIL.Image.open(made["files"][1]) as first, PIL.Image.open(made["sheet"]) as sheet:
        told = {"instruction": "paint it green", "seed": "5", "model": str(tiny), "number": "1"}
        assert first.text.items() >= told.items()
        assert sheet.width == 2 * 64 + 3 * 256 + 2 * 40
    plain = cm3(*args[:9], "--guidance", "1", "--image-guidance", "1", "--out", "other", "--json").json
    assert plain["scores"] != made["scores"]


def test_segment(cm3: Cm3, tiny: Path, picture: Path, edges: Path) -> None:
    ran = cm3("segment", picture, edges, "--model", tiny, "--out", "maps", "--sheet", "s.png", "--json")
    assert ran.code == 0, ran.err
    files = [r["file"] for r in ran.json["results"]]
    assert files == ["maps/in-segmented-0-0.png", "maps/edges-segmented-0-0.png"] and Path(ran.json["sheet"]).is_file()
    with PIL.Image.open(picture) as given:
        assert same(files[0], CM3Leon.load(str(tiny)).segment(given).image)
    assert cm3("segment", picture, "--model", tiny, "--json").json == {
        "image": str(picture),
        "file": "out/in-segmented-0-0.png",
        "warnings": [],
    }


def test_describe_answers_and_details(cm3: Cm3, tiny: Path, picture: Path) -> None:
    model = CM3Leon.load(str(tiny))
    with PIL.Image.open(picture) as given:
        want = (
            model.answer(given, "what is it?", max_tokens=9).text,
            model.describe(given, detail=True, max_tokens=9).text,
        )
    asked = cm3("describe", picture, "--question", "what is it?", "--model", tiny, "--max-tokens", "9", "--json")
    assert asked.json == {"question": "what is it?", "image": str(picture), "text": want[0], "warnings": []}
    assert "was not tuned for 'vqa2'" in asked.err
    long = cm3("describe", picture, picture, "--detail", "--model", tiny, "--max-tokens", "9", "--json")
    assert [r["text"] for r in long.json["results"]] == [want[1]] * 2


def test_a_model_that_is_tuned_is_not_told_about(cm3: Cm3, tiny: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    for path in tiny.iterdir():
        (tmp_path / "tuned" / path.name).write_bytes(path.read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    config["about"]["tasks"] = ["edit"]
    del config["checksum"]
    (tmp_path / "tuned" / "config.json").write_text(json.dumps(config))
    assert cm3("edit", picture, "x", "--model", "tuned").err == ""
    assert "'segment'" in cm3("segment", picture, "--model", "tuned").err


def test_generate_with_boxes(cm3: Cm3, tiny: Path, boxes: Path) -> None:
    ran = cm3("generate", PROMPT, "--boxes", boxes, "--model", tiny, "--n", "2", "--sheet", "s.png", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["task"] == "boxes" and len(ran.json["files"]) == 2
    objects = [(name, tuple(place)) for name, place in BOXES]
    reply = CM3Leon.load(str(tiny)).ask("boxes", {"caption": PROMPT, "objects": objects}, 2)
    assert all(same(f, p) for f, p in zip(ran.json["files"], reply.images, strict=True))
    with PIL.Image.open(ran.json["sheet"]) as sheet:
        # What is to be followed stands first, its boxes in their colours.
        colours = {c for _, c in sheet.convert("RGB").getcolors(1 << 20)}
        assert {tuple(bytes.fromhex(ink[1:])) for ink in INKS[:2]} <= colours


def test_generate_with_a_control_image(cm3: Cm3, tiny: Path, edges: Path) -> None:
    ran = cm3("generate", PROMPT, "--control", f"canny={edges}", "--model", tiny, "--sheet", "s.png", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["task"] == "canny" and Path(ran.json["sheet"]).is_file()
    with PIL.Image.open(edges) as edge:
        reply = CM3Leon.load(str(tiny)).ask("canny", {"caption": PROMPT, "edge": edge})
    assert same(ran.json["files"][0], reply.image)


def test_the_help_names_every_control(cm3: Cm3) -> None:
    told = " ".join(cm3("generate", "--help").out.split())
    assert all(name in told for name, task in TASKS.items() if task.control)
    assert "[name, [x1, y1, x2, y2]]" in told and "0..255" in told


GENERATE = ["generate", PROMPT]
BAD: dict[str, tuple[list[str], str]] = {
    "an empty instruction": (["edit", "{picture}", " "], "the instruction is empty; say in words what to change"),
    "no picture to edit": (["edit", "nowhere.png", "x"], "'nowhere.png': no such file"),
    "an unreadable picture": (["edit", "{junk}", "x"], "not a readable picture"),
    "no edits": (["edit", "{picture}", "x", "--n", "0"], "--n 0: must be at least 1"),
    "a scale that is none": (["edit", "{picture}", "x", "--image-guidance", "nan"], "image_guidance=nan: must be"),
    "nothing to segment": (["segment"], "no picture given; name at least one file"),
    "a missing second picture": (["segment", "{picture}", "nowhere.png"], "'nowhere.png': no such file"),
    "two wishes": (["describe", "{picture}", "--detail", "--question", "x"], "--question and --detail: ask for one"),
    "an empty question": (["describe", "{picture}", "--question", " "], "--question: is empty"),
    "boxes and control": ([*GENERATE, "--boxes", "b", "--control", "c=d"], "--boxes and --control: no task takes both"),
    "no boxes": ([*GENERATE, "--boxes", "nowhere.json"], "--boxes nowhere.json: cannot be read (No such file"),
    "a folder of boxes": ([*GENERATE, "--boxes", "."], "--boxes .: cannot be read (Is a directory)"),
    "no control": ([*GENERATE, "--control", "canny=nowhere.png"], "'nowhere.png': no such file"),
    "an unreadable control": ([*GENERATE, "--control", "canny={junk}"], "not a readable picture"),
    "an unknown control": ([*GENERATE, "--control", "cany=x.png"], "'cany' is no control image; known: canny, segm"),
    "a near one": ([*GENERATE, "--control", "cany=x.png"], "Did you mean 'canny'?"),
    "a control without file": ([*GENERATE, "--control", "canny"], "must be KIND=FILE, such as canny=edges.png"),
    "a control of another size": (
        [*GENERATE, "--control", "canny={picture}"],
        "'edge' is 128 x 128 pixels; a control image must be drawn at the model's 64 x 64",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_told(cm3: Cm3, tiny: Path, picture: Path, tmp_path: Path, what: str) -> None:
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"not a picture")
    command, message = BAD[what]
    ran = cm3(*[a.format(picture=picture, junk=junk) for a in command], "--model", tiny)
    assert ran.code == 2 and message in ran.err and ran.out == ""
    assert list(tmp_path.iterdir()) == [junk]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not readable JSON"),
        ("[" * 100_000, "is nested too deep to be read"),
        (f'[["dog", [0, 0, 9, {"9" * 400}]]]', "a whole number of 400 digits"),
        ("{}", r"must be a list of \[name, \[x1, y1, x2, y2\]\], at least one"),
        ("[]", "at least one"),
        ('[["dog", [0, 0, 9, 9]], ["cat", 3]]', r'entry 1 is \["cat", 3\]; the file must be'),
        ('[["dog"]]', r'entry 0 is \["dog"\]'),
        ('[[" ", [0, 0, 9, 9]]]', "entry 0 has no name"),
        ('[["dog", [0, 0, 9]]]', r"box of 'dog' \(0, 0, 9\): must be four whole numbers"),
        ('[["dog", [0, 0, 9.5, 9]]]', "must be four whole numbers"),
        ('[["dog", [0, 0, 256, 9]]]', r"box of 'dog' \(0, 0\) -> \(256, 9\): lies outside the picture; .* 0..255"),
        ('[["dog", [-1, 0, 9, 9]]]', "lies outside the picture"),
        ('[["dog", [9, 0, 3, 9]]]', r"box of 'dog' \(9, 0\) -> \(3, 9\): is inverted"),
        ("\udcff", "is not readable JSON"),
    ],
)
def test_boxes_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RequestError, match=f"--boxes {path}: .*{message}"):
        read_boxes(str(path))
    if content.startswith("["):
        with pytest.raises(RequestError, match=f"--boxes JSON: .*{message}"):
            read_boxes(content)


def test_boxes_and_controls_that_are_some(boxes: Path, edges: Path) -> None:
    want = [("circle", (0, 0, 127, 127)), ("star", (128, 64, 255, 200))]
    assert read_boxes(str(boxes)) == read_boxes(" " + boxes.read_text()) == want
    task, read = read_control(f"pose={edges}")
    assert task is TASKS["pose"] and read.pixels.size == (64, 64)


@pytest.mark.parametrize("side", [256, 64])
def test_a_box_is_outlined_at_its_own_pixels(side: int) -> None:
    made: Any = outlined(PIL.Image.new("RGB", (32, 32), "white"), [("", (64, 64, 191, 127))], side)
    ink = tuple(bytes.fromhex(INKS[0][1:]))
    red = [(x, y) for y in range(side) for x in range(side) if made.getpixel((x, y)) == ink]
    quarter = side // 4
    assert (min(x for x, _ in red), max(x for x, _ in red)) == (quarter, 3 * quarter - 1)
    assert (min(y for _, y in red), max(y for _, y in red)) == (quarter, 2 * quarter - 1)


def test_the_commands_of_the_docs_are_understood() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    lines = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("    cm3 ")]
    assert len(lines) == 9
    for _, *args in lines:
        verb = next(" ".join(args[:k]) for k in (2, 1) if " ".join(args[:k]) in VERBS)
        module, name = VERBS[verb][0].split(":")
        getattr(importlib.import_module(module), name).parse(args[len(verb.split()) :], verb)


def test_what_is_thought_first_is_told(cm3: Cm3, tmp_path: Path, picture: Path) -> None:
    tiny = tmp_path / "thinks"
    bundle.save(tiny_model.bundle(context=800), tiny, torch.float32)
    model = CM3Leon.load(str(tiny))
    want = model.generate(PROMPT, 2, think=True)
    ran = cm3("generate", PROMPT, "--model", tiny, "--n", "2", "--think", "yes", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["thoughts"] == list(want.thoughts) and all(want.thoughts)
    assert all(same(f, p) for f, p in zip(ran.json["files"], want.images, strict=True))
    lines = cm3("generate", PROMPT, "--model", tiny, "--think", "yes").out.splitlines()
    assert lines[1].startswith(f"  thought: {line(want.thoughts[0])[:20]}") and len(lines) == 2
    assert "thoughts" not in cm3("generate", PROMPT, "--model", tiny, "--think", "no", "--json").json
    with PIL.Image.open(picture) as given:
        edited = model.edit(given, "paint it", think=True).generation.thoughts
        answered = model.answer(given, "what is it?", think=True, max_tokens=9).generation.thoughts
    assert cm3("edit", picture, "paint it", "--model", tiny, "--think", "yes", "--json").json["thoughts"] == [*edited]
    asked = ("--question", "what is it?", "--max-tokens", "9", "--think", "yes", "--json")
    assert cm3("describe", picture, "--model", tiny, *asked).json["thoughts"] == [*answered]
    assert "choose no or yes;" in cm3("edit", picture, "x", "--model", tiny, "--think", "maybe").refusal
