"""A folder of captioned pictures becomes a bank, is searched with words and a picture, grows and shrinks."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from command import Cm3

from cm3.retrieval.memory import Memory
from cm3.retrieval.pairs import PairEncoder, Pairs, PairsConfig, save
from cm3.store.manifest import NAME
from cm3.store.shard import page_bytes
from cm3.store.write import signed

COLOURS = ("red", "green", "blue", "white")
UNREADABLE = "cut.jpg: picture of 11 bytes: not a picture; give a PNG, JPEG or WebP file"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights."""
    folder = tmp_path_factory.mktemp("encoder") / "pairs"
    torch.manual_seed(0)
    shape = PairsConfig(width=16, words=8, letters=4, letter_dim=4, d_model=16, layers=1, heads=2, channels=(8, 8, 16))
    save(Pairs(shape), folder, {"steps": 0})
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four captioned pictures, one damaged, and words alone."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in COLOURS:
        PIL.Image.new("RGB", (40, 30), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} field")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (folder / "note.txt").write_text("words alone")
    return folder


@pytest.fixture
def built(cm3: Cm3, photos: Path, encoder: Path) -> Cm3:
    ran = cm3("index", "build", "photos", "--out", "bank", "--encoder", encoder, "--license", "CC0-1.0", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["documents"] == ran.json["added"] == 5 and ran.json["index"] == ["exact"]
    assert ran.json["skipped"] == [{"id": "cut.jpg", "reason": UNREADABLE}]
    return cm3


def test_the_encoder_of_a_model_goes_by_its_name(cm3: Cm3, photos: Path) -> None:
    ran = cm3("index", "build", "photos", "--out", "bank", "--encoder", "scenes", "--json")
    assert ran.code == 0, ran.err
    found = cm3("index", "search", "bank", "--text", "a green field", "--k", "1", "--json")
    assert found.code == 0 and len(found.json["results"]) == 1, "the bank remembers what it was made with"
    drawn = cm3("generate", "a small circle", "--model", "scenes", "--retrieve", "1", "--memory", "bank", "--json")
    assert drawn.code == 0, drawn.err
    assert len(drawn.json["attribution"]) == 1, "the model has the same encoder"


def test_search_with_words_with_a_picture_and_with_both(built: Cm3) -> None:
    by_words = built("index", "search", "bank", "--text", "a green field", "--k", "2", "--json").json
    assert len(by_words["results"]) == 2 and by_words["text"] == "a green field"
    first = built("index", "search", "bank", "--image", "photos/blue.png", "--text", "a blue field", "--json").json
    assert len(first["results"]) == 5, "a k of 5 is all of it"
    assert first["results"][0] == {
        "id": "blue.png",
        "score": first["results"][0]["score"],
        "text": "a blue field",
        "source": "photos",
        "license": "CC0-1.0",
    }
    assert first["results"][0]["score"] == max(r["score"] for r in first["results"])
    lines = built("index", "search", "bank", "--image", "photos/blue.png", "--k", "1").out.splitlines()
    assert len(lines) == 1 and "[photos  CC0-1.0]" in lines[0]


def test_the_contact_sheet(built: Cm3) -> None:
    ran = built("index", "search", "bank", "--image", "photos/red.png", "--sheet", "out/found.png", "--json")
    with PIL.Image.open(ran.json["sheet"]) as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20) or []}
    assert {(255, 0, 0), (0, 128, 0), (0, 0, 255)} <= colours


def test_add_delete_and_info(built: Cm3, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "later.txt").write_text("a later word")
    ran = built("index", "add", "bank", "more", "--license", "MIT")
    assert ran.code == 0 and ran.out == "bank: 1 added, 0 left out, 6 documents\n", ran.err
    ran = built("index", "delete", "bank", "red.png", "note.txt", "--json")
    assert ran.json == {"bank": "bank", "deleted": 2, "documents": 4}
    ran = built("index", "info", "bank", "--verify", "--json")
    assert (ran.json["documents"], ran.json["deleted"], ran.json["verified"]) == (4, 2, True)
    assert ran.json["sources"] == {"photos": 3, "more": 1} and ran.json["licenses"] == {"CC0-1.0": 3, "MIT": 1}
    told = built("index", "info", "bank").out
    assert "documents   4, and 2 deleted" in told and f"left out: cut.jpg  {UNREADABLE}" in told
    ran = built("index", "build", "bank", "--out", "anew", "--json")
    assert ran.json["documents"] == 4 and list(Memory.open("anew")) == list(Memory.open("bank"))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two pictures of COCO's layout, one with two captions; the other's file is damaged."""
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "val2017").mkdir()
    PIL.Image.new("RGB", (6, 4), "red").save(tmp_path / "coco" / "val2017" / "a.png")
    (tmp_path / "coco" / "val2017" / "b.png").write_bytes(b"")
    page = {
        "images": [{"id": 7, "file_name": "a.png", "license": 3}, {"id": 8, "file_name": "b.png"}],
        "annotations": [
            {"id": 11, "image_id": 7, "caption": "red"},
            {"id": 12, "image_id": 7, "caption": "reddish"},
            {"id": 13, "image_id": 8, "caption": "gone"},
        ],
    }
    for split in ("val2017", "test"):
        (tmp_path / "coco" / "annotations" / f"captions_{split}.json").write_text(json.dumps(page))
    return tmp_path / "coco"


@pytest.mark.parametrize("source", [["coco", "--split", "val2017"], ["coco@val2017"], ["coco:coco@val2017"]])
def test_coco(cm3: Cm3, encoder: Path, coco: Path, source: list[str]) -> None:
    ran = cm3("index", "build", *source, "--encoder", encoder, "--json")
    assert ran.code == 0 and ran.json["documents"] == 2, ran.err
    assert ran.json["skipped"] == [{"id": "13", "reason": "b.png: picture of 0 bytes: is empty; save it again"}]
    assert Memory.open("bank")["12"].meta == {"split": "val2017", "image_id": 7, "license": 3}


def test_every_format_is_indexed(cm3: Cm3, encoder: Path, photos: Path, coco: Path, tmp_path: Path) -> None:
    lines = [{"id": "line", "parts": [{"text": "A field"}, {"image": "photos/red.png"}]}, {"text": "words"}]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with tarfile.open(tmp_path / "00.tar", "w") as archive:
        archive.add(photos / "red.png", "0.png")
        archive.add(photos / "red.txt", "0.txt")
    sources = ["photos", "pages.jsonl", "webdataset:{00..00}.tar", "coco@val2017"]
    ran = cm3("index", "build", *sources, "--encoder", encoder, "--license", "MIT", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["documents"] == 5 + 2 + 1 + 2 and len(ran.json["skipped"]) == 2
    bank = Memory.open("bank")
    assert bank["line"].text == "A field" and bank["pages.jsonl:2"].text == "words" and bank["00/0"].text
    licenses = cm3("index", "info", "bank", "--json").json["licenses"]
    assert licenses == {"MIT": 5, "": 3, "3": 2}, "only folders are given it"
    told = cm3("index", "add", "bank", "coco@val2014", "--encoder", encoder).refusal
    assert "'coco': has no split 'val2014'; it has test, val2017." in told


def test_a_moved_encoder_is_asked_for(built: Cm3, encoder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    encoder.rename(moved)
    try:
        told = built("index", "search", "bank", "--text", "red").refusal
        assert "its encoder 'pairs:" in told and "say where it is with --encoder" in told
        assert built("index", "search", "bank", "--text", "red", "--encoder", moved).code == 0
    finally:
        moved.rename(encoder)
    other = tmp_path / "other"
    torch.manual_seed(1)
    shape = PairsConfig(width=8, words=8, letters=4, letter_dim=4, d_model=8, layers=1, heads=2, channels=(8, 8, 8))
    save(Pairs(shape), other, {"steps": 0})
    told = built("index", "search", "bank", "--text", "red", "--encoder", other).refusal
    assert "was made with encoder 'pairs:" in told and "of width 16, not with" in told


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["build"], "no source given; name at least one folder"),
        (["build", "nowhere"], "'nowhere': no such file or folder; check the path"),
        (["build", "photos", "bank"], "'bank' is a store, and not all sources are: merge stores"),
        (["build", "photos", "--out", "bank"], "'bank': is a store already; add to it"),
        (["build", "photos", "--index", "hnsw"], "invalid choice 'hnsw'"),
        (["build", "photos", "--encoder", "nowhere"], "encoder 'nowhere': no such folder"),
        (["search", "bank"], "nothing to search with; give --text WORDS, --image FILE, or both"),
        (["search", "bank", "--text", " "], "nothing to search with"),
        (["search", "bank", "--text", "red", "--k", "0"], "--k 0: must be at least 1"),
        (
            ["search", "photos", "--text", "red"],
            "has no manifest.json; give a folder that `cm3 prepare` or `cm3 index build` wrote",
        ),
        (["delete", "bank"], "no id given"),
        (["delete", "bank", "red.png", "violet.png"], "has no document 'violet.png'; `cm3 index search` shows ids"),
        (["add", "bank", "photos"], "ids that come twice: 'blue.png', 'green.png', 'note.txt', 'red.png', 'white.png'"),
        (["info", "nowhere"], "store 'nowhere': has no manifest.json"),
    ],
)
def test_what_is_refused(built: Cm3, encoder: Path, command: list[str], told: str) -> None:
    if command[0] == "build" and "--encoder" not in command:
        command = [*command, "--encoder", str(encoder)]
    assert told in built("index", *command).refusal
    assert len(Memory.open("bank")) == 5


def test_many_that_are_left_out_are_counted(cm3: Cm3, encoder: Path, photos: Path) -> None:
    for i in range(15):
        (photos / f"bad{i:02d}.png").write_bytes(b"")
    told = cm3("index", "build", "photos", "--encoder", encoder).out
    assert "5 added, 16 left out" in told and told.count("left out: bad") == 10 and "left out: 6 more" in told


def stop_after(texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a build as a kill would, when its encoder is asked for one text more."""
    seen, inner = 0, PairEncoder.texts

    def counted(self: PairEncoder, items: Sequence[str]) -> np.ndarray:
        nonlocal seen
        seen += len(items)
        if seen > texts:
            raise KeyboardInterrupt
        return inner(self, items)

    monkeypatch.setattr(PairEncoder, "texts", counted)


def test_one_line_says_what_became_of_a_killed_build(
    cm3: Cm3, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(name: str, number: int) -> None:
        text = "".join(json.dumps({"id": f"{name}{i}", "text": f"{name} {i}"}) + "\n" for i in range(number))
        (tmp_path / f"{name}.jsonl").write_text(text)

    lines("one", 600)
    lines("two", 3)
    with monkeypatch.context() as patch:
        stop_after(300, patch)
        assert cm3("index", "build", "one.jsonl", "--encoder", encoder).code == 130
    ran = cm3("index", "build", "one.jsonl", "--encoder", encoder)
    assert ran.code == 0 and "bank: went on after 256 documents of a run that was killed\n" in ran.out, ran.err
    assert "bank: 600 added" in ran.out
    with monkeypatch.context() as patch:
        stop_after(300, patch)
        assert cm3("index", "build", "one.jsonl", "--out", "other", "--encoder", encoder).code == 130
    ran = cm3("index", "build", "two.jsonl", "--out", "other", "--encoder", encoder, "--json")
    assert (ran.json["resumed"], ran.json["dropped"], ran.json["documents"]) == (0, True, 3)
    assert "other: what a killed run had made of other documents, or with other settings, was dropped\n" in ran.err
    assert cm3("index", "add", "other", "one.jsonl", "--json").json["documents"] == 603


def test_what_is_refused_leaves_no_draft(built: Cm3, encoder: Path, photos: Path, tmp_path: Path) -> None:
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    twice = ["photos", "photos", "--out", "a/b", "--encoder", encoder]
    assert "ids that come twice" in built("index", "add", "bank", "photos").refusal
    assert "ids that come twice" in built("index", "build", *twice).refusal
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before
    (photos / "new.txt").write_text("a new word")
    (tmp_path / "more").mkdir()
    (photos / "new.txt").rename(tmp_path / "more" / "new.txt")
    assert built("index", "add", "bank", "more").code == 0


def sign(page: dict[str, Any]) -> None:
    """Write a manifest as a stranger would, with its sum."""
    (Path("bank") / NAME).write_bytes(page_bytes(signed(page)))


def test_a_bank_names_nothing_that_is_fetched(built: Cm3) -> None:
    pytest.importorskip("transformers")
    page = json.loads(Path("bank/manifest.json").read_text())
    page.pop("sha256")
    for noted, name in (
        ({"encoder": "somebody/clip"}, page["encoder"]),
        ({}, "clip:somebody/clip"),
        ({"encoder": 7}, "clip:somebody/clip"),
    ):
        sign({**page, "about": noted, "encoder": name})
        for command in (["search", "bank", "--text", "red"], ["add", "bank", "photos"]):
            told = built("index", *command).refusal
            assert "is not found at 'somebody/clip'; say where it is with --encoder" in told
    for noted in ("x" * 5000, "a\0b", "\ud800", "~nobody/x", "/dev/null", "hf://", "../.."):
        sign({**page, "about": {"encoder": noted}})
        assert "say where it is with --encoder" in built("index", "search", "bank", "--text", "red").refusal
    assert (
        "cannot be fetched from the hub"
        in built("index", "search", "bank", "--text", "red", "--encoder", "a/b").refusal
    )


def test_a_strangers_words_stay_on_their_line(cm3: Cm3, encoder: Path, tmp_path: Path) -> None:
    words = "red\nfield \x1b[31m\x07 of\r\u202ewords"
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "a\x1b[2J", "text": words}) + "\n")
    assert cm3("index", "build", "a.jsonl", "--encoder", encoder).code == 0
    ran = cm3("index", "search", "bank", "--text", "red", "--json")
    (first,) = ran.err.splitlines()
    assert first.isprintable() and "a?[2J  red field ?[31m? of ?words" in first
    assert ran.json["results"][0]["text"] == words, "to a machine they go as they are"


def test_words_that_are_no_text_are_refused(built: Cm3) -> None:
    assert "--text has a lone surrogate U+DCFF" in built("index", "search", "bank", "--text", "red \udcff").refusal
    assert "has no document" in built("index", "delete", "bank", "red \udcff").refusal


@pytest.mark.parametrize("more", [["--license", "MIT"], ["--split", "val2017"], ["--encoder", "scenes"]])
def test_banks_are_merged_as_they_are(built: Cm3, more: list[str]) -> None:
    told = built("index", "build", "bank", "--out", "anew", *more).refusal
    assert "stores are merged as they are; leave --encoder, --license and --split out" in told
    assert not Path("anew").exists()
