"""`cm3 tokenizer text train|eval` and `cm3 eval tokenizer`, run for real on files and datasets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import PIL.Image
import pytest
from command import Cm3

from cm3.files import locked
from cm3.tokens.text import TextTokenizer

LINES = [
    f"a {size} {colour} circle, n\u00b0{i}\n" for i in range(60) for size in ("big", "small") for colour in ("red",)
]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Text in every form: 120 lines plain, the same packed, and as objects."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("".join(LINES), encoding="utf-8")
    (folder / "b.txt.gz").write_bytes(gzip.compress("".join(LINES).encode()))
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES) + "{\n")
    (folder / "d.md").write_bytes(b"\xff not read")
    return folder


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two pictures of two captions each, and a third that is missing, in COCO's layout."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    for i in range(2):
        PIL.Image.new("RGB", (70 + i, 80), (200, 100 * i, 0)).save(root / "val2017" / f"{i}.png")
    images = [{"id": i, "file_name": f"{i}.png", "license": 1} for i in range(3)]
    captions = [{"id": i, "image_id": i // 2, "caption": f"a caption, the {i}th"} for i in range(5)]
    content = {"images": images, "annotations": captions}
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    return root


def test_train_then_eval(cm3: Cm3, texts: Path) -> None:
    train = ("tokenizer", "text", "train", "texts", "--entries", "300", "--against", "other.json", "nobody/nothing")
    TextTokenizer.train([], 256).save("other.json")
    ran = cm3(*train, "--out", "made/t.json", "--json")
    assert ran.code == 0, ran.err
    made = ran.json
    tokenizer = TextTokenizer.load("made/t.json")
    assert made["entries"] == tokenizer.size == 300
    size = 3 * sum(len(line.encode()) for line in LINES)
    assert made["read"] == {"texts": 360, "bytes": size, "whole": True, "skipped": {"a line that is not JSON": 1}}
    assert made["held_out"] is True and made["texts"] == 3 and made["lossless"] is True
    assert made["against"] == {"other.json": 1.0} and made["bytes_per_token"] > 1.5
    assert list(made["missing"]) == ["nobody/nothing"] and "is not at hand" in made["missing"]["nobody/nothing"]
    measured = cm3("tokenizer", "text", "eval", "made/t.json", "texts", "--against", "made/t.json", "--json").json
    assert measured["texts"] == 360 and measured["bytes"] == size and measured["lossless"] is True
    assert measured["against"] == {"made/t.json": measured["bytes_per_token"]}
    stats = tokenizer.stats(LINES)
    assert measured["bytes_per_token"] == pytest.approx(stats["bytes_per_token"])
    assert cm3(*train, "--out", "again.json").code == 0
    assert Path("again.json").read_bytes() == Path("made/t.json").read_bytes()


def test_what_is_printed_for_a_person(cm3: Cm3, texts: Path) -> None:
    out = cm3("tokenizer", "text", "train", "texts/a.txt", "--entries", "280", "--against", "nobody/nothing").out
    assert out.startswith("tokenizer.json: 280 entries\n") and "120 texts" in out and "all there is" in out
    assert "measured on     1 texts kept apart" in out and "left out: tokenizer 'nobody/nothing': is not at hand" in out
    assert "comes back      every text" in out


def test_few_texts_are_measured_on_themselves(cm3: Cm3, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("a red circle\na blue square above a red circle\n")
    made = cm3("tokenizer", "text", "train", "few.txt", "--entries", "270", "--json").json
    assert made["held_out"] is False and made["texts"] == 2 and made["bytes"] == 46
    measured = cm3("tokenizer", "text", "eval", "tokenizer.json", "few.txt", "--json").json
    assert measured["bytes_per_token"] == made["bytes_per_token"] > 1


def test_a_limit_takes_a_sample_that_the_seed_draws(cm3: Cm3, tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"{chr(97 + i) * 8} {chr(97 + i) * 9}\n")
    found = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        command = ("--limit", "130", "--seed", str(seed), "--entries", "300", "--out", f"made/{name}.json")
        made = cm3("tokenizer", "text", "train", tmp_path, *command, "--json").json
        assert made["read"]["whole"] is False and 100 < made["read"]["bytes"] <= 130
        found[name] = (tmp_path / "made" / f"{name}.json").read_bytes()
    assert found["a"] == found["b"] != found["c"]
    assert (
        "a sample: the limit is 130 bytes" in cm3("tokenizer", "text", "eval", "made/a.json", ".", "--limit", "130").out
    )


def test_pages_of_common_crawl_and_rows_of_parquet(cm3: Cm3, tmp_path: Path) -> None:
    pytest.importorskip("warcio")
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    folder = tmp_path / "crawl"
    folder.mkdir()
    head = "WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: "
    pages = [gzip.compress(f"{head}{len(one.encode())}\r\n\r\n{one}\r\n\r\n".encode()) for one in LINES]
    (folder / "CC-MAIN-0.warc.wet.gz").write_bytes(b"".join(pages)[:-3])
    parquet.write_table(pyarrow.table({"text": LINES, "id": range(len(LINES))}), folder / "train-0.parquet")
    ran = cm3("tokenizer", "text", "train", "crawl", "--entries", "300")
    assert ran.code == 0 and f"{2 * len(LINES) - 1} texts" in ran.out, ran.err
    assert "1 records left out: 1 x the end of CC-MAIN-0.warc.wet.gz, which is cut short; download it again" in ran.out
    samples = []
    for _ in range(2):
        assert (
            cm3("tokenizer", "text", "train", "crawl", "--entries", "300", "--limit", "900", "--out", "a.json").code
            == 0
        )
        samples.append(Path("a.json").read_bytes())
    assert samples[0] == samples[1] != Path("tokenizer.json").read_bytes()


def test_captions_of_a_dataset(cm3: Cm3, coco: Path) -> None:
    made = cm3("tokenizer", "text", "train", f"coco:{coco}@val2017", "--entries", "260", "--json").json
    assert made["read"]["texts"] == 4 and made["read"]["skipped"] == {"a document that cannot be read": 1}


def test_pictures_of_a_dataset(cm3: Cm3, tiny: Path, coco: Path) -> None:
    ran = cm3("eval", "tokenizer", tiny, f"coco:{coco}@val2017", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["n"] == 2, "captions of one picture are one picture"
    files = cm3("eval", "tokenizer", tiny, coco / "val2017", "--json").json
    assert files["n"] == 2 and files["figures"]["psnr_db"] == pytest.approx(ran.json["figures"]["psnr_db"])
    both = cm3("eval", "tokenizer", tiny, coco / "val2017", f"{coco}@val2017", "--n", "2", "--json").json
    assert both["n"] == 2 and not any("left out" in told for told in both["warnings"])


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["text", "train"], "no source given; name at least one text file, folder or dataset"),
        (["text", "eval", "t.json"], "no source given; name at least one text file, folder or dataset"),
        (["text", "train", "nowhere.txt"], "'nowhere.txt': no such file or folder"),
        (["text", "train", "empty"], "'empty': the folder holds no file that ends in .txt"),
        (["text", "train", "blank.txt"], "blank.txt: no text in the first 500000000 bytes; give files or"),
        (["text", "eval", "t.json", "blank.txt"], "blank.txt: no text in the first 50000000 bytes; give files or"),
        (["text", "train", "bad.txt"], "'bad.txt': not UTF-8 at byte 2"),
        (["text", "train", "cocoa:good.txt"], "no reader is called 'cocoa'; known: "),
        (["text", "train", "good.txt", "--entries", "3"], "--entries 3: must be at least 256"),
        (["text", "train", "good.txt", "--limit", "0"], "--limit 0: must be at least 1"),
        (["text", "train", "good.txt", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["text", "train", "good.txt", "--out", "good.txt/t.json"], "is a file; give a folder"),
        (["text", "eval", "nowhere.json", "good.txt"], "tokenizer 'nowhere.json': no such file"),
    ],
)
def test_bad_input_is_one_line(cm3: Cm3, tiny: Path, tmp_path: Path, command: list[str], told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"a \xff")
    (tmp_path / "blank.txt").write_bytes(b"")
    (tmp_path / "good.txt").write_text("a red circle\n")
    TextTokenizer.train([], 256).save(tmp_path / "t.json")
    before = sorted(tmp_path.rglob("*"))
    more = ["--model", tiny] if command[0] == "image" else []
    assert told in cm3("tokenizer", *command, *more).refusal
    assert sorted(tmp_path.rglob("*")) == before


def test_a_text_tokenizer_replaces_nothing_else(cm3: Cm3, texts: Path, tmp_path: Path) -> None:
    """Not its own corpus, not a folder, and not what another process is learning."""
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for out, told in (("texts/a.txt", "is there and no text tokenizer"), ("texts", "is a folder; give a file")):
        assert told in cm3("tokenizer", "text", "train", "texts/a.txt", "--entries", "270", "--out", out).refusal
    for name in ("decoder.safetensors", "manifest.json", "checkpoints"):
        (tmp_path / name).mkdir()
        TextTokenizer.train([], 256).save("tokenizer.json")
        kept = Path("tokenizer.json").read_bytes()
        told = cm3("tokenizer", "text", "train", "texts/a.txt", "--entries", "270").refusal
        assert f"tokenizer.json: is the place of the tokenizer that {name} beside it was made with" in told
        assert Path("tokenizer.json").read_bytes() == kept
        (tmp_path / name).rmdir()
        Path("tokenizer.json").unlink()
    with locked(Path(".t.json.lock"), "another"):
        told = cm3("tokenizer", "text", "train", "texts/a.txt", "--entries", "270", "--out", "t.json").refusal
    assert told.startswith("tokenizer 't.json': another process is writing to it")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    for _ in range(2):  # one of its own it does
        assert cm3("tokenizer", "text", "train", "texts/a.txt", "--entries", "270", "--out", "new/t.json").code == 0
    assert [p.name for p in Path("new").iterdir()] == ["t.json"]
