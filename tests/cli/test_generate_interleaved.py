"""`cm3 generate --interleaved` and `--image`: words and pictures in, and out in order, of both kinds of models."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_chameleon
import tiny_model
import torch
from command import Cm3

from cm3.document import Gap, Image, Text
from cm3.generate import CM3Leon
from cm3.model import bundle

ON = Gap("interleaved")


@pytest.fixture(scope="module", params=["chameleon", "ours"])
def mixing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of each grammar that often begins a picture."""
    made = tiny_chameleon.bundle() if request.param == "chameleon" else tiny_model.bundle()
    with torch.no_grad():
        table = made.decoder.embed if made.decoder.output is None else made.decoder.output
        table.weight[made.vocab.brk] *= 8
    folder = tmp_path_factory.mktemp("mixing") / request.param
    bundle.save(made, folder, torch.float32)
    return folder


class Page(HTMLParser):
    """Texts and pictures of a page behind the title of a part, in order."""

    def __init__(self, page: str, title: str) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []
        self._title, self._heading, self._in, self._text = title, "", False, False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in, self._text = tag == "h1", tag == "p" and ("class", "text") in attrs
        if self._text and self._heading == self._title:
            self.found.append({"text": ""})
        if tag == "img" and self._heading == self._title:
            self.found.append({"image": dict(attrs)["src"] or ""})

    def handle_endtag(self, tag: str) -> None:
        self._in, self._text = False, False

    def handle_data(self, data: str) -> None:
        if self._in:
            self._heading = data
        elif self._text and self._heading == self._title:
            self.found[-1]["text"] += data


def pixels(path: Path) -> np.ndarray:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture)


def test_an_answer_is_a_folder_with_a_page(cm3: Cm3, mixing: Path, picture: Path) -> None:
    prompt = "a <b>red</b> <image> circle"
    args = ["generate", prompt, "--image", picture, "--interleaved", 2, "--max-tokens", 12, "--n", 4, "--model", mixing]
    ran = cm3(*args, "--seed", 3, "--guidance", 2, "--json")
    assert ran.code == 0, ran.err
    model = CM3Leon.load(mixing)
    held = Image.open(picture)
    made = model.generate(["a <b>red</b> ", held, " circle", ON], 4, seed=3, guidance=2, pictures=2, max_tokens=12)
    assert (
        len(ran.json["answers"]) == 4
        and ran.json["scores"] == pytest.approx(list(made.scores), rel=1e-4)
        and "files" not in ran.json
    )
    for number, (one, filled) in enumerate(zip(ran.json["answers"], made.filled, strict=True)):
        folder = Path(one["folder"])
        assert folder.parent == Path("out") and folder.name.endswith(f"-3-{number}")
        page = json.loads((folder / "answer.json").read_text())
        assert page["prompt"] == prompt and page["seed"] == "3" and json.loads(page["settings"])["pictures"] == 2
        for part, kept in zip(filled, page["answer"], strict=True):
            if isinstance(part, Text):
                assert kept == {"text": part.text}
            else:
                assert np.array_equal(pixels(folder / kept["image"]), np.asarray(part.pixels))
        assert page["asked"] == [{"text": "a <b>red</b> "}, {"image": "given-0.png"}, {"text": " circle"}]
        assert np.array_equal(pixels(folder / "given-0.png"), np.asarray(held.pixels))
        shown = (folder / "index.html").read_text()
        assert Page(shown, "Asked").found == page["asked"] and Page(shown, "Answer").found == page["answer"]
        names = {"index.html", "answer.json", *(p["image"] for p in page["asked"] + page["answer"] if "image" in p)}
        assert {p.name for p in folder.iterdir()} == names
        assert one["parts"] == [{"image": str(folder / p["image"])} if "image" in p else p for p in page["answer"]]
    kinds = [type(part) for filled in made.filled for part in filled]
    assert Image in kinds and Text in kinds


def test_an_answer_may_be_words_alone(cm3: Cm3, tmp_path: Path) -> None:
    made = tiny_chameleon.bundle()
    with torch.no_grad():
        table = made.decoder.embed if made.decoder.output is None else made.decoder.output
        table.weight *= 50  # no other id is as likely as the likeliest word, and to begin a picture is not at all
        table.weight[: made.vocab.text_start] = 0
    bundle.save(made, tmp_path / "silent", torch.float32)
    said = ("generate", "how?", "--interleaved", "2", "--max-tokens", "5", "--temperature", "0")
    ran = cm3(*said, "--model", tmp_path / "silent", "--out", tmp_path / "out", "--json")
    (answer,) = ran.json["answers"]
    assert [list(part) for part in answer["parts"]] == [["text"]] and Path(answer["page"]).is_file()


def test_the_same_command_replaces_its_own_and_nothing_else(cm3: Cm3, mixing: Path) -> None:
    args = ("generate", "a circle", "--interleaved", 1, "--max-tokens", 6, "--model", mixing, "--json")
    (first,) = cm3(*args).json["answers"]
    before = {p.name: p.read_bytes() for p in Path(first["folder"]).iterdir()}
    assert cm3(*args).json["answers"] == [first]
    assert {p.name: p.read_bytes() for p in Path(first["folder"]).iterdir()} == before
    (other,) = cm3(*args, "--temperature", 0.5).json["answers"]
    assert other["folder"] != first["folder"]
    Path(first["folder"], "mine.txt").write_text("kept")
    (again,) = cm3(*args).json["answers"]
    assert again["folder"] not in (first["folder"], other["folder"]) and again["parts"] != []
    assert Path(first["folder"], "mine.txt").read_text() == "kept"


def test_pictures_of_a_prompt_are_read_before_a_picture_is_drawn(cm3: Cm3, mixing: Path, picture: Path) -> None:
    ran = cm3("generate", "at night", "--image", picture, "--seed", 4, "--model", mixing, "--json")
    assert ran.code == 0, ran.err
    model, held = CM3Leon.load(mixing), Image.open(picture)
    (name,) = ran.json["files"]
    assert np.array_equal(pixels(Path(name)), np.asarray(model.generate([held, "at night"], seed=4).image))
    assert not np.array_equal(pixels(Path(name)), np.asarray(model.generate("at night", seed=4).image))


def test_lines_of_a_file_ask_for_words_and_pictures(cm3: Cm3, mixing: Path, picture: Path) -> None:
    Path("in.png").write_bytes(picture.read_bytes())
    lines: list[dict[str, Any]] = [
        {"prompt": ["a circle", {"gap": "interleaved"}], "n": 3, "pictures": 2, "max_tokens": 10},
        {"prompt": "a star"},
        {"prompt": [{"image": "in.png"}, "more", {"gap": "interleaved"}], "pictures": 1, "max_tokens": 6},
        {"prompt": [{"gap": "interleaved"}, "more"]},
        {"prompt": ["a circle", {"gap": "interleaved"}], "pictures": 0},
    ]
    Path("p.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    ran = cm3("generate", "--prompts", "p.jsonl", "--model", mixing, "--out", "out", "--json")
    assert ran.code == 2 and ran.json["made"] == 3 and ran.json["failed"] == 2
    found = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert "pictures=0: must be" in found[4]["error"] and "line 4: " in found[3]["error"]
    model, held = CM3Leon.load(mixing), Image.open(picture)
    wanted = [
        model.generate(["a circle", ON], 3, seed=0, pictures=2, max_tokens=10),
        model.generate([held, "more", ON], seed=2, pictures=1, max_tokens=6),
    ]
    for one, made in zip((found[0], found[2]), wanted, strict=True):
        assert one["scores"] == pytest.approx(list(made.scores), rel=1e-4) and one["texts"] == []
        assert one["files"] == [part["image"] for answer in one["answers"] for part in answer if "image" in part]
        for answer, filled in zip(one["answers"], made.filled, strict=True):
            for kept, part in zip(answer, filled, strict=True):
                if isinstance(part, Text):
                    assert kept == {"text": part.text}
                else:
                    assert np.array_equal(pixels(Path("out", kept["image"])), np.asarray(part.pixels))
    assert found[0]["files"] and len(found[1]["files"]) == 1 and "answers" not in found[1]


BAD = {
    "no picture asked for": (["--interleaved", "0"], "--interleaved 0: must be at least 1"),
    "a missing picture": (["--image", "nowhere.png"], "'nowhere.png': no such file"),
    "a sheet": (["--interleaved", "1", "--sheet", "s.png"], "--sheet and --interleaved: an answer of words and"),
    "boxes": (["--interleaved", "1", "--boxes", "[]"], "--image, --interleaved: are not for --boxes and --control"),
    "a control image": (["--image", "a.png", "--control", "canny=a.png"], "--image, --interleaved: are not for"),
    "a file of prompts": (["--interleaved", "1", "--prompts", "p.jsonl"], "and --prompts: say what to draw in the"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_writes_nothing(cm3: Cm3, tiny: Path, what: str) -> None:
    args, message = BAD[what]
    asked = () if "--prompts" in args else ("a circle",)
    assert message in cm3("generate", *asked, *args, "--model", tiny, "--out", "out").refusal
    assert not Path("out").exists()


def test_as_many_pictures_as_places(cm3: Cm3, tiny: Path, picture: Path) -> None:
    ran = cm3("generate", "<image> and <image>", "--image", picture, "--model", tiny)
    assert "--image: 1 given, and <image> stands 2 times in the prompt" in ran.refusal
