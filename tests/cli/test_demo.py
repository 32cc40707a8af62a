"""The demo on a tiny model, its prompts against the scenes' grammar, and the sheet and the page that it writes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import PIL.Image
import PIL.ImageFont
import pytest
from command import Cm3

from cm3.cli.page import page, with_hole
from cm3.cli.sheet import Line, Panel, Section, sheet, verdict, wrap
from cm3.scenes import parse
from cm3.scenes.cli.demo import MISSING, PROMPTS, SCENE, SENTENCE, WANTED, _drawn, _shows
from cm3.stickers.cli.demo import PROMPTS as STICKERS


def test_the_prompts_are_sentences_of_the_grammar() -> None:
    assert len(PROMPTS) == 6
    assert {len(parse(p).mentions) for p in PROMPTS} == {1, 2, 3, 4}
    assert any(parse(p).relations for p in PROMPTS)
    whole = SENTENCE[0] + MISSING + SENTENCE[1]
    assert len(parse(whole).mentions) == len(parse(SCENE).mentions) == len(parse(WANTED).mentions) == 2


def test_a_true_drawing_is_marked_right_and_a_wrong_one_not() -> None:
    assert _shows(_drawn(SCENE), SCENE) == (True, "")
    assert _shows(_drawn(SCENE), WANTED)[0] is False
    assert _shows(_drawn(SCENE), "no sentence of this world")[0] is False


def test_demo(cm3: Cm3, tiny: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for path in tiny.iterdir():
        (tuned / path.name).write_bytes(path.read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    config["about"]["tasks"] = ["boxes", "vqa2"]
    del config["checksum"]
    (tuned / "config.json").write_text(json.dumps(config))
    ran = cm3("demo", "--model", tuned, "--max-tokens", "4", "--json")
    assert ran.code == 0, ran.err
    made = ran.json
    assert [d["prompt"] for d in made["drawn"]] == list(PROMPTS)
    assert all(d["ok"] is False and d["reason"] for d in made["drawn"])  # random weights draw nothing
    assert made["tasks"].keys() == {"boxes", "vqa2"} and not any(one["ok"] for one in made["tasks"]["boxes"])
    with PIL.Image.open(made["sheet"]) as opened:
        assert opened.width < opened.height
    text = Path(made["page"]).read_text(encoding="utf-8")
    assert all(p in text for p in (*PROMPTS, *(one["asked"] for one in made["tasks"]["vqa2"])))
    assert sorted(p.name for p in Path("demo").iterdir()) == ["index.html", "sheet.png"]


@pytest.mark.slow
def test_the_demo_of_a_model_of_stickers_is_of_stickers(cm3: Cm3) -> None:
    ran = cm3("demo", "--json")
    assert ran.code == 0, ran.err
    assert [one["asked"] for one in ran.json["made"]["draw"]] == list(STICKERS)
    assert ran.json["right"] > 0 and sorted(p.name for p in Path("demo").iterdir()) == ["index.html", "sheet.png"]


def test_demo_refuses_a_folder_before_it_works(cm3: Cm3, tiny: Path, picture: Path) -> None:
    assert "is a file; give a folder" in cm3("demo", "--model", tiny, "--out", picture).refusal


@pytest.fixture
def sections() -> list[Section]:
    """Two sections, one with a panel alone."""
    red = PIL.Image.new("RGB", (64, 64), "red")
    lines = (
        Line("a <b> & c", "prompt"),
        Line("said", "label"),
        verdict(True, "yes", "no"),
        verdict(False, "yes", "no"),
    )
    return [Section("first", (Panel(red, lines),) * 4, "a note"), Section("second", (Panel(red, lines),))]


def test_sheet_grows_with_what_it_shows(sections: list[Section]) -> None:
    one = sheet(sections[:1], "title", columns=3, side=128)
    wide = sheet(sections[:1], "title", columns=4, side=128)
    two = sheet(sections, "title", columns=3, side=128)
    assert wide.width > one.width and wide.height < one.height < two.height and one.width == two.width
    shown = sum(count for count, colour in two.getcolors(2**24) if colour == (255, 0, 0))
    assert shown >= 5 * 126 * 126  # five pictures, twice as large
    border = two.crop((0, 0, 40, two.height)).getcolors()
    assert border == [(40 * two.height, (255, 255, 255))]  # margins stay empty


def test_wrap_keeps_every_word_and_the_width() -> None:
    font = PIL.ImageFont.load_default(16)
    text = "on a grey ground, four objects: a large red square at the top left " * 3
    lines = wrap(text, font, 200)
    assert " ".join(lines).split() == text.split()
    assert all(font.getlength(line) <= 200 for line in lines)
    assert wrap("x" * 100, font, 50) == ["x" * 100]
    assert wrap("", font, 50) == []


def test_with_hole_changes_the_box_only() -> None:
    picture = PIL.Image.new("RGB", (20, 20), "red")
    holed = with_hole(picture, (5, 5, 15, 10))
    changed = [(x, y) for x in range(20) for y in range(20) if holed.getpixel((x, y)) != (255, 0, 0)]
    assert len(changed) == 50 and all(5 <= x < 15 and 5 <= y < 10 for x, y in changed)
    assert picture.getpixel((6, 6)) == (255, 0, 0)


def test_page_stands_alone_and_is_well_formed(sections: list[Section]) -> None:
    text = page(sections, "a <title>", "sub", "foot")
    assert "a &lt;b&gt; &amp; c" in text and "<b>" not in text
    assert text.isascii()
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "prefers-color-scheme: dark" in text

    class Balance(HTMLParser):
        stack: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img"):
                self.stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.stack.pop() == tag

    Balance().feed(text)
    assert Balance.stack == []
    assert text.count("<figure>") == 5
