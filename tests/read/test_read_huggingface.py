"""Datasets of the hub: rows as `datasets` gives them, and streams of it where it is installed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.read.find import open_reader
from cm3.read.huggingface import HuggingFace, columns, documents


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (6, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def made(row: dict[str, Any], **meta: Any) -> list[Document | Unreadable]:
    """What a row becomes."""
    return list(documents(row, "0/7", "huggingface/train", meta))


def test_a_row_is_a_document() -> None:
    row = {
        "image": {"bytes": png(), "path": "a.png"}, "caption": " A boat\n", "url": "http://x", "score": 0.5,
        "none": None, "split": "restval", "answers": ["yes"], "data": b"raw", "embedding": [0.123456789] * 1000,
        "nan": float("nan"),
    }  # fmt: skip
    (document,) = made(row, dataset="owner/name", split="train")
    assert isinstance(document, Document) and [type(p) for p in document.parts] == [Text, Image]
    assert (document.id, document.source, document.text) == ("0/7", "huggingface/train", "A boat")
    assert document.images[0].pixels.getpixel((0, 0)) == (255, 0, 0)
    assert document.meta == {
        "dataset": "owner/name", "split": "train", "url": "http://x", "score": 0.5, "answers": ["yes"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "captions",
    [
        {"captions": ["One", "Two"]},
        {"caption": ["One", "Two"]},
        {"sentences": [{"raw": "One", "tokens": ["one"], "sentid": 1}, {"raw": "Two"}]},
        {"sentences": {"raw": ["One", "Two"], "sentid": [1, 2]}},
    ],
)
def test_several_captions_are_several_documents(captions: dict[str, Any]) -> None:
    first, second = made({"image": png(), **captions})
    assert isinstance(first, Document) and isinstance(second, Document)
    assert [(d.id, d.text) for d in (first, second)] == [("0/7/0", "One"), ("0/7/1", "Two")]
    assert first.images[0] is second.images[0]


@pytest.mark.parametrize("picture", [png(), PIL.Image.open(io.BytesIO(png())), {"bytes": png(), "path": None}])
@pytest.mark.parametrize("column", ["image", "jpg", "png", "webp"])
def test_pictures_in_every_shape(picture: Any, column: str) -> None:
    (document,) = made({column: picture, "txt": "A boat"})
    assert isinstance(document, Document) and document.text == "A boat"
    assert document.images[0].pixels.getpixel((0, 0)) == (255, 0, 0)


def test_a_picture_may_be_a_path_in_the_dataset_and_no_other(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for path in (own / "a.png", tmp_path / "away.png"):
        path.write_bytes(png("blue"))
    (own / "link.png").symlink_to(tmp_path / "away.png")

    def read(path: str, root: str = str(own)) -> Document | Unreadable:
        (one,) = documents({"image": {"bytes": None, "path": path}}, "0/7", "huggingface/train", {}, root)
        return one

    for path in ("a.png", str(own / "a.png")):
        document = read(path)
        assert isinstance(document, Document) and document.images[0].pixels.getpixel((0, 0)) == (0, 0, 255)
    bad = read(str(own / "b.png"))
    assert isinstance(bad, Unreadable) and "b.png': cannot be opened" in bad.reason
    for path in (str(tmp_path / "away.png"), "../away.png", "link.png"):
        bad = read(path)
        assert isinstance(bad, Unreadable) and "outside" in bad.reason
    away = "file:///etc/passwd", "hf://datasets/owner/other@main/a.png", "hf://datasets/owner/name@main/../../x/a.png"
    for path in (*away, "file://x::hf://datasets/owner/name@main/a.zip", str(own / "a.png"), "http://127.0.0.1/a.png"):
        bad = read(path, "owner/name")
        assert isinstance(bad, Unreadable) and "which is no file of the dataset; put its bytes into the" in bad.reason
    assert isinstance(*made({"image": {"bytes": None, "path": str(own / "a.png")}}), Unreadable)


def test_one_of_the_two_is_enough() -> None:
    (words,) = made({"text": "x" * 100_000, "label": 3})
    (picture,) = made({"image": png(), "label": 3})
    (neither,) = made({"image": None, "captions": []})
    assert [len(d.parts) for d in (words, picture, neither) if isinstance(d, Document)] == [1, 1, 0]
    assert isinstance(words, Document) and words.meta == {"label": 3} and len(words.text) == 100_000


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": b""}, "picture of 0 bytes: is empty"),
        ({"image": png()[:20]}, "picture of 20 bytes: "),
        ({"image": 3}, "its picture is int, not the bytes of a file"),
        ({"image": {"bytes": None, "path": None}}, "its picture is NoneType, not the bytes of a file"),
        ({"text": 3}, "its 'text' is neither a text nor a list of texts"),
        ({"captions": ["x", 3]}, "its 'captions' is neither a text nor a list of texts"),
        ({"image": png(), "caption": {"en": "x"}}, "its 'caption' is neither a text nor a list of texts"),
        ({"image": png(), "texts": [{"user": "Q", "assistant": "A"}]}, "its 'texts' is neither a text nor a list"),
        ({"caption": "x", "image_bytes": png()}, "its 'image_bytes' is a file that is not read, so its words are not"),
        ({"caption": "x", "video": {"bytes": b"v", "path": "a.mp4"}}, "its 'video' is a file that is not read"),
    ],
)
def test_a_row_that_is_wrong_stands_in_its_place(row: dict[str, Any], reason: str) -> None:
    (bad,) = made(row)
    assert isinstance(bad, Unreadable) and bad.id == "0/7" and reason in bad.reason


def test_columns_that_were_looked_for_are_named() -> None:
    assert columns(["text", "id", "caption", "png", "jpg"], "x") == (("jpg",), ("caption",)), "the first of each"
    told = "owner/name: has columns pixels, label, but none of image, images, jpg, .*, caption, captions, text, "
    with pytest.raises(DataError, match=told):
        columns(["pixels", "label"], "owner/name")
    with pytest.raises(DataError, match="huggingface/train: has columns label, but none of"):
        made({"label": 3})


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="huggingface:owner/name: needs the library 'datasets'; pip install datasets"):
        open_reader("huggingface:owner/name@train")
    assert not HuggingFace.recognises(Path("owner/name")) and not HuggingFace.splits(Path("owner/name"))


@pytest.mark.filterwarnings("default")  # the library's own are no fault of ours
def test_streams_of_the_library(tmp_path: Path) -> None:
    """Parquet files as the hub keeps them, one a shard, through `datasets` itself; the second has a damaged picture."""
    datasets = pytest.importorskip("datasets")
    pyarrow = pytest.importorskip("pyarrow")
    words = datasets.Value("string")
    schema = datasets.Features(image=datasets.Image(), caption=words, url=words).arrow_schema
    for shard, pictures in enumerate([[png(), png("blue")], [png()[:30], png("lime")]]):
        rows = {
            "image": [{"bytes": p, "path": None} for p in pictures],
            "caption": [f"{shard} {i}" for i in range(2)],
            "url": ["http://x", None],
        }
        table = pyarrow.table(rows, schema=schema)
        pyarrow.parquet.write_table(table, tmp_path / f"train-{shard:05d}-of-00002.parquet")
    reader = open_reader(f"huggingface:{tmp_path}@train")
    assert [unit.name for unit in reader.units()] == ["0", "1"]
    read = [d for unit in reader.units() for d in reader.read(unit)]
    assert [d.id for d in read] == ["0/0", "0/1", "1/0", "1/1"] == [d.id for d in reader]
    good = [d for d in read if isinstance(d, Document)]
    assert [(d.text, d.images[0].pixels.getpixel((0, 0))) for d in good] == [
        ("0 0", (255, 0, 0)),
        ("0 1", (0, 0, 255)),
        ("1 1", (0, 255, 0)),
    ]
    assert good[0].meta == {"dataset": str(tmp_path), "split": "train", "url": "http://x"}
    assert good[0].source == "huggingface/train" and "url" not in good[1].meta
    json.dumps(dict(good[0].meta))
    with pytest.raises(DataError, match="@nosuch: cannot be opened .*; check it"):
        open_reader(f"huggingface:{tmp_path}@nosuch")
    (tmp_path / "other").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"label": [1]}), tmp_path / "other" / "train.parquet")
    with pytest.raises(DataError, match="has columns label, but none of image"):
        open_reader(f"huggingface:{tmp_path / 'other'}")


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"image": png(), "caption_0": "A", "caption_1": "B", "caption_2": None}, ["A", "B"]),
        ({"image": png(), "caption_10": "C", "caption_9": "B", "caption": "A"}, ["A", "B", "C"]),
        ({"image": png(), "prompt": "A"}, ["A"]),
        ({"image": png(), "Alt-Text": "A"}, ["A"]),
        ({"img": png(), "blip_caption": "A", "llava_caption": "B"}, ["A"]),
        ({"image_0": png(), "image_1": png(), "text": "A"}, ["A"]),
        ({"images": [png(), png()], "text": "A"}, ["A"]),
        ({"target_image": png(), "image_id": 3, "text": "A"}, ["A"]),
        ({"jpg": png(), "caption": "A", "status": "success", "error_message": None, "LICENSE": "CC0"}, ["A"]),
    ],
)
def test_columns_that_people_have(row: dict[str, Any], texts: list[str]) -> None:
    read = [d for d in made(row) if isinstance(d, Document)]
    assert [d.text for d in read] == texts
    pictures = sum(isinstance(v, bytes) for v in row.values()) + len(row.get("images", []))
    assert all(len(d.images) == pictures and "status" not in d.meta for d in read)
    assert read[0].meta.get("license") == row.get("LICENSE")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"jpg": None, "caption": "A", "status": "failed_to_download", "error_message": "404"}, "was never fetched"),
        ({"image": None, "caption": "A"}, "its 'image' is null: words without the picture that they are of are no doc"),
        ({"image": png(), "captions": ["x"] * 65}, "has 65 captions, more than 64; give it fewer"),
    ],
)
def test_no_half_of_a_row_is_read(row: dict[str, Any], reason: str) -> None:
    (bad,) = made(row)
    assert isinstance(bad, Unreadable) and reason in bad.reason


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["image_url", "caption"],
            "'image_url' is the address of a picture, which is not fetched; fetch them with img2d",
        ),
        (["URL", "TEXT", "WIDTH"], "'URL' is the address of a picture, which is not fetched"),
        (["image", "question", "answers"], "'question', 'answers' are no caption, and without them a picture is half"),
        (
            ["source_image", "target_image", "text"],
            "has pictures in source_image, target_image, of which none is 'image'",
        ),
        (["prompt", "completion"], "has columns prompt, completion, but none of image"),
    ],
)
def test_datasets_that_would_be_read_by_half(names: list[str], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        columns(names, "owner/name")
    assert columns(["text", "url"], "owner/name") == ((), ("text",)), "a page of text has an address too"


@pytest.mark.filterwarnings("default")
def test_columns_that_are_not_read_are_told(tmp_path: Path) -> None:
    datasets, pyarrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    words = datasets.Value("string")
    schema = datasets.Features(image=datasets.Image(), text=words, blip_caption=words, label=words).arrow_schema
    row = {"image": [{"bytes": png(), "path": None}], "text": ["A"], "blip_caption": ["B"], "label": ["c"]}
    pyarrow.parquet.write_table(pyarrow.table(row, schema=schema), tmp_path / "train.parquet")
    assert {kind: told["names"] for kind, told in open_reader(f"huggingface:{tmp_path}").passed.json().items()} == {
        "a column that may be words, kept as meta alone": ["blip_caption"],
        "a column, kept as meta alone": ["label"],
    }
