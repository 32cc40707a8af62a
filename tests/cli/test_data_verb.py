"""`cm3 data inspect`, run for real on datasets in several formats and on what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from command import Cm3

from cm3.cli.data import ROW, WORDS, contact_sheet, names_store, shown
from cm3.data.inspect import inspect
from cm3.data.prepare import prepare
from cm3.document import Document
from cm3.read.find import open_reader
from cm3.store.manifest import NAME
from cm3.store.store import Store


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine good pictures with captions, a cut one, one that is none, words alone and an over-long caption."""
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(9):
        PIL.Image.new("RGB", (40 + i, 30), (20 * i, 90, 200 - 20 * i)).save(root / f"{i}.jpg")
        (root / f"{i}.txt").write_text(f"picture number {i}")
    noise = PIL.Image.effect_noise((80, 80), 90)
    noise.save(root / "cut.jpg")
    (root / "cut.jpg").write_bytes((root / "cut.jpg").read_bytes()[:2000])
    (root / "none.png").write_bytes(b"not a picture")
    (root / "alone.txt").write_text("words alone")
    (root / "long.txt").write_text("x" * 10_001)
    return root


def test_a_folder_in_full(cm3: Cm3, photos: Path) -> None:
    ran = cm3("data", "inspect", "photos", "--full", "--sheet", "made/sheet.png", "--n", "4", "--json")
    assert ran.code == 0, ran.err
    made = ran.json
    assert (made["kind"], made["kinds"], made["splits"]) == ("folder", ["folder"], [])
    assert made["exact"] is True and made["documents"] == made["read"] == 13
    assert (made["with_text"], made["with_picture"], made["modes"]) == (11, 10, {"RGB": 9, "L": 1})
    assert made["captions"]["max"] == 10_001 and made["widths"]["max"] == 80
    problems = {reason: problem["ids"] for reason, problem in made["problems"].items()}
    assert ["long.txt"] in problems.values() and ["none.png"] in problems.values() and ["cut.jpg"] in problems.values()
    assert len(problems) == 3
    with PIL.Image.open(made["sheet"]) as sheet:
        assert sheet.size[0] == 2 * 64 + 4 * 256 + 3 * 40, "four columns"
        assert sheet.convert("L").getextrema()[0] < 80


def test_what_is_printed_for_a_person(cm3: Cm3, photos: Path) -> None:
    out = cm3("data", "inspect", "photos", "--sample", "5").out
    assert out.startswith("kind        folder\nsplits      none; this is photos\n")
    assert "documents   13; figures below are of 5, --full looks at all" in out
    whole = cm3("data", "inspect", "photos").out
    assert "documents   13\n" in whole and "11 with text, 10 with a picture" in whole
    assert "problem     1 x a caption of more than 10000 characters: long.txt\n            such as: 10001 char" in whole
    for i in range(9):
        (photos / f"{i}.txt").unlink()
    for name in ("alone.txt", "long.txt", "cut.jpg", "none.png"):
        (photos / name).unlink()
    out = cm3("data", "inspect", "photos").out
    assert "problems    none" in out and "characters a document: none" in out


def test_what_was_passed_over_is_printed(cm3: Cm3, photos: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "notes.md"):
        (photos / name).write_text("")
    (photos / "a.heic").write_bytes(b"x")
    (photos / "a.txt").write_text("its caption")
    ran = cm3("data", "inspect", "photos")
    assert "passed over 2 x hidden, or of the system: .DS_Store, Thumbs.db\n" in ran.out
    assert "passed over 1 x .md, which is not read: notes.md\n" in ran.out
    assert "1 x ...: files of this kind (...) are not read" in ran.out or "are not read; save it as PNG" in ran.out
    passed = cm3("data", "inspect", "photos", "--json").json["passed"]
    assert passed["hidden, or of the system"] == {"count": 2, "names": [".DS_Store", "Thumbs.db"]}


def test_coco_by_itself_and_by_name(cm3: Cm3, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    for split in ("train2017", "val2017"):
        (root / split).mkdir(parents=True)
        PIL.Image.new("RGB", (30, 20)).save(root / split / "a.png")
        (root / "annotations").mkdir(exist_ok=True)
        content: dict[str, Any] = {
            "images": [{"id": 1, "file_name": "a.png", "license": 3}],
            "annotations": [{"id": i, "image_id": 1, "caption": "a field"} for i in range(len(split))],
        }
        (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    made = cm3("data", "inspect", "coco", "--json").json
    assert made["kind"] == made["kinds"][0] == "coco" and sorted(made["splits"]) == ["train2017", "val2017"]
    named = cm3("data", "inspect", "coco:coco@val2017", "--json").json
    assert (named["given"], named["source"]) == ("coco:coco@val2017", "coco/val2017")
    assert named["documents"] == 7 and named["licenses"] == {"3": 7}
    assert "could also be read as folder" in cm3("data", "inspect", "coco").out


def test_json_lines_are_counted_only_in_full(cm3: Cm3, tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(i % 9), "text": f"text {i}"}) for i in range(10)] + ["{"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    assert (
        "documents   not counted; figures below are of 3, --full looks at all"
        in cm3("data", "inspect", "a.jsonl", "--sample", "3").out
    )
    made = cm3("data", "inspect", "a.jsonl", "--full", "--json").json
    assert made["documents"] == 11 and made["problems"]["an id that was there before"]["ids"] == ["0"]
    assert len(made["problems"]) == 2


def test_the_sheet_shows_documents_of_every_kind() -> None:
    red, blue = PIL.Image.new("RGB", (60, 30), "red"), PIL.Image.new("RGB", (30, 60), "blue")
    assert shown(Document.of(red)).size == (256, 128)
    both = shown(Document.of(red, "x", blue))
    assert both.size == (512, 256)
    assert both.getpixel((128, 128)) == (255, 0, 0) and both.getpixel((384, 128)) == (0, 0, 255)
    assert shown(Document.of("words alone")).size == (256, 256)
    assert shown(Document.of(*[red] * (ROW + 2))).size == (256 * ROW, 256)


def test_a_long_caption_is_cut_on_the_sheet(tmp_path: Path) -> None:
    heights = []
    for length in (WORDS // 2, WORDS * 10, WORDS * 30):
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text("word " * (length // 5))
        heights.append(contact_sheet(inspect(open_reader(str(tmp_path))), "title").height)
    assert heights[0] < heights[1] == heights[2]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["nowhere"], "'nowhere': no such file or folder"),
        (["empty"], "'empty': is of no format that is known"),
        (["folder:photos@val"], "'photos': has no split 'val'"),
        (["photos", "--n", "0"], "--n 0: must be at least 1"),
        (["photos", "--sample", "0"], "--sample 0: must be at least 1"),
        (["photos", "--sheet", "photos/0.jpg/x.png"], "--sheet"),
        (["broken", "--sheet", "x.png"], "no document that was looked at can be shown; leave out --sheet"),
        (["bank"], "'bank': is a memory bank; see `cm3 index info bank`"),
    ],
)
def test_bad_input_is_one_line(cm3: Cm3, photos: Path, tmp_path: Path, command: list[str], told: str) -> None:
    for name in ("empty", "broken", "bank"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    (tmp_path / "bank" / NAME).write_text('{"kind": "cm3-memory"}')
    before = sorted(tmp_path.rglob("*"))
    assert told in cm3("data", "inspect", *command).refusal
    assert sorted(tmp_path.rglob("*")) == before


def test_a_token_store(cm3: Cm3, tiny: Path, photos: Path) -> None:
    prepare(["photos"], "store", tiny)
    made = cm3("data", "inspect", "store", "--full", "--json").json
    assert made["kind"] == "store" and made["verified"] is True
    info = Store.open("store").info()
    assert info["documents"] > 9 and {name: made[name] for name in info} == info
    out = cm3("data", "inspect", "store").out
    assert f"documents           {info['documents']}\n" in out and "verified            False" in out
    told = cm3("data", "inspect", "store", "--sheet", "x.png").refusal
    assert "'store': is a store, of which no sheet is made; leave out --sheet" in told
    shard = Path("store/shards/00000.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert "00000.safetensors was altered" in cm3("data", "inspect", "store", "--full").refusal
    Path("store/manifest.json").unlink()
    assert "is not finished" in cm3("data", "inspect", "store").refusal


def test_addresses_are_stores_unless_they_name_a_tar() -> None:
    assert names_store("s3://bucket/store") and not names_store("s3://bucket/{000..009}.tar")


@pytest.mark.parametrize(("source", "documents"), [("coco_mini", 400), ("photos", 1000)])
def test_the_real_files(cm3: Cm3, shared_data: Path, source: str, documents: int) -> None:
    if not (shared_data / source).is_dir():
        pytest.skip(f"no {source} in ../shared/data")
    made = cm3("data", "inspect", shared_data / source, "--sample", "40", "--json").json
    assert made["documents"] == documents and made["read"] == 40 and made["problems"] == {}
