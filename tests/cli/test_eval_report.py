"""`cm3 eval report`: a page that stands alone, shows every item, and can be sorted."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import PIL.Image
import pytest
from command import Cm3
from made_results import COUNT, captions, pictures

from cm3.cli.samples import held
from cm3.errors import DataError
from cm3.score.result import Result
from cm3.score.result_file import manifest, read_result, write_result

VOID = {"meta", "img", "input", "br"}


class Parsed(HTMLParser):
    """Elements in their order, each with its attributes; raises where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.all: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.all.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.all if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two results, and the pictures that they are about."""
    folder = tmp_path_factory.mktemp("made")
    captions(folder, "a", seed=1)
    captions(folder, "b", 0.05, ids=range(5, COUNT), warnings=("a warning that stays",))
    pictures(folder / "photos")
    return folder


def test_the_page_is_well_formed_stands_alone_and_shows_every_item(cm3: Cm3, made: Path) -> None:
    a, b = made / "a.result.json", made / "b.result.json"
    ran = cm3("eval", "report", a, b, "--pictures", made / "photos", "--out", "deep/report.html", "--json")
    assert ran.code == 0 and ran.json == {"out": "deep/report.html", "samples": COUNT, "not_shown": []}, ran
    text = Path("deep/report.html").read_text(encoding="utf-8")
    page = Parsed(text)
    assert text.isascii() and "prefers-color-scheme: dark" in text
    assert re.findall(r'(?:src|href|action|srcset)="(?!data:)', text) == []
    assert not re.search(r"https?:|url\(|@import|//\w", re.sub(r'"data:image/jpeg;base64,[^"]*"', "", text))
    assert [one["data-id"] for one in page.of("li") if "data-id" in one] == list(map(str, range(COUNT)))
    assert len(page.of("img")) == COUNT and all(one["alt"].startswith("COCO_val2014_") for one in page.of("img"))
    for words in ("a says <b>picture</b> 7 & more", "b says <b>picture</b> 7 & more"):
        assert html.escape(words) in text and words not in text
    assert "people see 7 caf&#233;" in text
    assert "a warning that stays" in text and "alone has 5 items" in text
    assert "higher: the interval lies above 0" in text and "&quot;seed&quot;: 1" in text
    assert read_result(a).predictions["captions"].sha256 in text
    assert cm3("eval", "report", a, "--out", "deep/report.html").code == 0  # a page of ours is replaced


def test_every_order_that_is_offered_is_one_of_the_scores(cm3: Cm3, made: Path) -> None:
    a, b = made / "a.result.json", made / "b.result.json"
    cm3("eval", "report", a, b)
    page = Parsed(Path("report.html").read_text())
    keys = [one["value"] for one in page.of("option")]
    assert keys == ["id", "s0", "s1", "d0"]
    of_a, of_b = (read_result(path).items["CIDEr-D"] for path in (a, b))
    for one in (one for one in page.of("li") if "data-id" in one):
        id = one["data-id"]
        assert float(one["data-s0"]) == of_a[id]
        if id in of_b:
            assert (float(one["data-s1"]), float(one["data-d0"])) == (of_b[id], of_b[id] - of_a[id])
        else:
            assert one.keys() == {"data-id", "data-s0"}
    # without script the form is not there, and with it a label leads to each control
    assert "hidden" in page.of("form")[0] and len(page.of("label")) == len(page.of("select") + page.of("input")) == 2


DOM = """
const fs = require("fs"), vm = require("vm");
const [script, rows, key, down] = JSON.parse(fs.readFileSync(0, "utf8"));
const heard = {}, order = rows.map((dataset) => ({ dataset }));
const list = { get children() { return order; },
  appendChild(row) { order.splice(order.indexOf(row), 1); order.push(row); } };
const one = (id, more) => ({ addEventListener: (event, call) => { heard[id] = call; }, ...more });
const elements = { samples: list, sort: { hidden: true }, by: one("by", { value: key }),
  down: one("down", { checked: down }) };
vm.runInNewContext(script, { document: { getElementById: (id) => elements[id] } });
heard.by(); heard.down();
console.log(JSON.stringify({ shown: !elements.sort.hidden, order: order.map((row) => row.dataset.id) }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node to run the page's script in")
def test_the_script_sorts_by_the_scores(cm3: Cm3, made: Path) -> None:
    cm3("eval", "report", made / "a.result.json", made / "b.result.json")
    text = Path("report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    rows = [one for one in Parsed(text).of("li") if "data-id" in one]
    data = [{name.removeprefix("data-"): value for name, value in one.items()} for one in rows]

    def ordered(key: str, down: bool) -> list[str]:
        given = json.dumps([script, data[::-1], key, down])
        ran = subprocess.run(["node", "-e", DOM], input=given, capture_output=True, text=True, timeout=60, check=True)
        told = json.loads(ran.stdout)
        assert told["shown"]
        return list(told["order"])

    ids = [one["id"] for one in data]
    assert ordered("id", False) == ids and ordered("id", True) == ids[::-1]
    by_a = sorted(data, key=lambda one: float(one["s0"]))
    assert ordered("s0", False) == [one["id"] for one in by_a]
    assert ordered("s0", True) == [one["id"] for one in by_a[::-1]]
    lacking = [one["id"] for one in data if "s1" not in one]
    assert set(ordered("s1", True)[-5:]) == set(ordered("s1", False)[-5:]) == set(lacking)


def test_fewer_samples_are_spread_over_the_scores(cm3: Cm3, made: Path) -> None:
    a = made / "a.result.json"
    scores = read_result(a).items["CIDEr-D"]
    assert cm3("eval", "report", a, "--samples", "7", "--json").json["samples"] == 7
    text = Path("report.html").read_text()
    shown = {scores[one["data-id"]] for one in Parsed(text).of("li") if "data-id" in one}
    assert {min(scores.values()), max(scores.values())} <= shown and f"7 of {COUNT} items" in text
    assert cm3("eval", "report", a, "--samples", "1", "--json").json["samples"] == 1
    assert cm3("eval", "report", a, "--samples", "0", "--json").json["samples"] == 0
    assert "<script>" not in Path("report.html").read_text()


def test_pictures_of_a_folder_are_shown_side_by_side(cm3: Cm3, tmp_path: Path) -> None:
    """The layout of FID and of CLIPScore: predictions are pictures, and FID has no items."""
    paths = []
    (tmp_path / "prompts.json").write_text(json.dumps({"cat": "a cat", "dog": "a dog"}))
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for id in ("cat", "dog"):
            PIL.Image.new("RGB", (640, 480), (number * 90, 9, 9)).save(tmp_path / name / f"{id}.png")
        (tmp_path / name / "owl.png").write_text("no picture")
        made = manifest(
            Result({"FID": 10.0 + number}, 3), "fid", 1, {"captions": tmp_path / "prompts.json"},
            {"pictures": tmp_path / name}, 1,
        )  # fmt: skip
        paths.append(tmp_path / f"{name}.json")
        write_result(paths[-1], made)
    ran = cm3("eval", "report", *paths, "--json")
    assert ran.json["samples"] == 3, ran.err
    text = Path("report.html").read_text()
    page = Parsed(text)
    assert [one["alt"] for one in page.of("img")] == ["cat.png", "cat.png", "dog.png", "dog.png"]
    assert text.count("not a picture") == 2 and "<p>a cat</p>" in text and "no interval" in text
    assert [one["value"] for one in page.of("option")] == ["id"]
    assert len(text) < 50_000


def test_predictions_that_went_or_changed_are_told_and_found_elsewhere(cm3: Cm3, tmp_path: Path) -> None:
    a = captions(tmp_path, "a")
    os.rename("a.json", "moved.json")
    gone = cm3("eval", "report", a, "--json").json
    assert gone["samples"] == COUNT and "not found" in gone["not_shown"][0]
    assert cm3("eval", "report", a, "--predictions", "moved.json", "--json").json["not_shown"] == []
    Path("a.json").write_text("[]")
    assert "was changed since" in cm3("eval", "report", a, "--json").json["not_shown"][0]
    assert "no result is of it" in cm3("eval", "report", a, "--predictions", "a.json").refusal
    text = json.loads(a.read_text())
    text["predictions"]["captions"]["path"] = "/dev/zero"
    a.write_text(json.dumps(text))
    assert "was changed since" in cm3("eval", "report", a, "--json").json["not_shown"][0]


def test_report_refuses(cm3: Cm3, made: Path, tmp_path: Path) -> None:
    a = made / "a.result.json"
    (tmp_path / "mine.html").write_text("<p>mine")
    assert "none given" in cm3("eval", "report").refusal
    assert "is no page that cm3 wrote" in cm3("eval", "report", a, "--out", "mine.html").refusal
    assert "is a folder; give a file" in cm3("eval", "report", a, "--out", ".").refusal
    assert "--pictures nowhere: is no folder" in cm3("eval", "report", a, "--pictures", "nowhere").refusal
    assert "--samples -1: must be at least 0" in cm3("eval", "report", a, "--samples", "-1").refusal
    other = captions(tmp_path, "c", suite="flickr30k")
    assert "compare results of one suite" in cm3("eval", "report", a, other).refusal
    assert Path("mine.html").read_text() == "<p>mine" and not Path("report.html").exists()


def test_rows_of_known_layouts_are_read_by_id(tmp_path: Path) -> None:
    def of(value: object, name: str = "x.json") -> dict[str, list[str]]:
        (tmp_path / name).write_text(json.dumps(value))
        return held(tmp_path / name).said

    of({"questions": [{"question_id": 5, "image_id": 3, "question": "who?"}]})
    assert (held(tmp_path / "x.json").asked, held(tmp_path / "x.json").about) == ({"5": ["who?"]}, {"5": "3"})
    answers = [{"answer": "me", "answer_id": 1}, {"answer": "you"}, {"answer": "me"}]
    assert of({"annotations": [{"question_id": 5, "image_id": 3, "answers": answers}]}) == {"5": ["me", "you"]}
    assert of([{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]) == {"1": ["a", "b"]}
    assert of({"9": "words", "10": ["more", "of them"]}) == {"9": ["words"], "10": ["more", "of them"]}
    assert of({"results": {"7": 2}}) == {"7": ["2"]}
    assert of([{"image_id": 6, "round_id": 2, "ranks": [2, 1], "answer": "b"}]) == {"6:2": ["b"]}
    assert len(of({"data": {"answers": list(map(str, range(9999)))}})["data"]) == 20
    assert of({"7": {"question": "which?", "choices": ["a", "b"], "answer": 1}}) == {"7": ["1", "a", "b"]}
    (tmp_path / "l.jsonl").write_text('{"id": "x", "text": "one"}\n\n{"id": "y", "text": "two"}\n')
    assert held(tmp_path / "l.jsonl").said == {"x": ["one"], "y": ["two"]}
    assert held(tmp_path / "statistics.npz").ids == ()
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="is not readable JSON"):
        held(tmp_path / "x.json")
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "4.png")
    assert of({"4": "4.png", "5": "../4.png", "6": "/etc/passwd.png"}) == {"5": ["../4.png"], "6": ["/etc/passwd.png"]}
    assert held(tmp_path / "x.json").pictures == {"4": tmp_path / "4.png"}
    record = {"id": 8, "request": {"image": "val/9.jpg", "question": "what?"}, "texts": ["it"], "files": ["4.png"]}
    (tmp_path / "l.jsonl").write_text(json.dumps(record))
    found = held(tmp_path / "l.jsonl")
    assert (found.asked, found.said, found.about) == ({"8": ["what?"]}, {"8": ["it"]}, {"8": "val/9.jpg"})
    assert found.pictures == {"8": tmp_path / "4.png"}


def test_a_name_that_several_pictures_have_is_none_of_them(tmp_path: Path) -> None:
    for name in ("12/image.png", "13/image.png", "COCO_000000000007.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (4, 4)).save(tmp_path / name)
    found = held(tmp_path).pictures
    assert found["12"] == found["12/image"] == found["12/image.png"] == tmp_path / "12/image.png"
    assert "image.png" not in found and "image" not in found
    assert found["7"] == found["COCO_000000000007"] == tmp_path / "COCO_000000000007.jpg"
    assert held(tmp_path).ids == ("12/image", "13/image", "COCO_000000000007")
