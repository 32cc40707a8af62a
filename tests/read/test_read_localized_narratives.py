"""Localized Narratives: files and shards of each part, where its pictures are, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb
from cm3.read.find import open_reader, recognise
from cm3.read.published import LocalizedNarratives

GONE = "no such file beside the annotations that name it; looked in train2017 or coco/train2017"


def captioned(image: str, annotator: int, caption: str, dataset: str = "mscoco_train2017") -> dict[str, Any]:
    """A line of a file of captions only."""
    return {"dataset_id": dataset, "image_id": image, "annotator_id": annotator, "caption": caption}


def narrated(image: str, annotator: int, caption: str, dataset: str = "mscoco_train2017") -> dict[str, Any]:
    """A line of a file of full narratives."""
    return captioned(image, annotator, caption, dataset) | {
        "timed_caption": [{"utterance": caption, "start_time": 0.0, "end_time": 0.4}],
        "traces": [[{"x": 0.2086, "y": -0.0533, "t": 0.022}]],
        "voice_recording": f"coco_train/coco_train_{image}_{annotator}.ogg",
    }


def lines(root: Path, name: str, *records: Any) -> None:
    (root / name).write_bytes(b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in records))


def pictured(root: Path, name: str, colour: str = "red") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (6, 4), colour).save(root / name)


SHARD = "coco_train_localized_narratives-0000{}-of-00004.jsonl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two of the four shards coco_train_localized_narratives-0000N-of-00004.jsonl, and coco_val_*.jsonl, of COCO."""
    lines(tmp_path, SHARD.format(1), narrated("9", 30, "A third."))
    lines(tmp_path, SHARD.format(0), narrated("107899", 5, "A red one. "), narrated("107899", 28, "A na\u00efve red."))
    lines(tmp_path, "coco_val_localized_narratives.jsonl", narrated("137576", 93, "Cows.", "mscoco_val2017"))
    pictured(tmp_path, "train2017/000000107899.jpg")
    pictured(tmp_path, "train2017/000000000009.jpg", "blue")
    pictured(tmp_path, "val2017/000000137576.jpg")
    return tmp_path


def test_a_document_a_narrative_in_the_order_of_the_shards(root: Path) -> None:
    reader = LocalizedNarratives(root)
    documents = [d for d in reader if isinstance(d, Document)]
    assert len(reader) == 3 and reader.source == "localized_narratives/coco_train"
    assert [(d.id, d.text) for d in documents] == [
        ("107899_5", "A red one."),
        ("107899_28", "A na\u00efve red."),
        ("9_30", "A third."),
    ]
    first = documents[0]
    assert [type(p) for p in first.parts] == [Text, Image] and first.source == "localized_narratives/coco_train"
    assert first.meta == {
        "split": "coco_train",
        "dataset_id": "mscoco_train2017",
        "image_id": "107899",
        "annotator_id": 5,
    }
    red, blue = (rgb(documents[i].images[0].pixels).getpixel((0, 0)) for i in (0, 2))
    assert red[0] > 200 > red[2] and blue[2] > 200 > blue[0]  # type: ignore[index]


def test_captions_alone_are_read_before_narratives(root: Path) -> None:
    """coco_train_captions.jsonl holds what the four shards do, without times and traces."""
    lines(root, "coco_train_captions.jsonl", captioned("9", 30, "From the captions."))
    (document,) = LocalizedNarratives(root)
    assert isinstance(document, Document) and document.text == "From the captions." and document.id == "9_30"


@pytest.mark.parametrize(
    ("split", "file", "image", "place"),
    [
        ("open_images_train", "open_images_train_v6_captions.jsonl", "00a1b2c3d4e5f607", "train/{}.jpg"),
        ("open_images_train", "open_images_train_v6_captions.jsonl", "f0a1b2c3d4e5f607", "train_f/{}.jpg"),
        (
            "open_images_train",
            "open_images_train_v6_localized_narratives-00003-of-00010.jsonl",
            "00a1b2c3d4e5f607",
            "train/{}.jpg",
        ),
        ("open_images_val", "open_images_validation_captions.jsonl", "00a1b2c3d4e5f607", "validation/{}.jpg"),
        ("open_images_test", "open_images_test_localized_narratives.jsonl", "00a1b2c3d4e5f607", "test/{}.jpg"),
        ("coco_val", "coco_val_captions.jsonl", "137576", "val2017/000000{}.jpg"),
        ("flickr30k_train", "flickr30k_train_captions.jsonl", "1000092795", "flickr30k-images/{}.jpg"),
        ("flickr30k_val", "flickr30k_val_localized_narratives.jsonl", "1000092795", "flickr30k_images/{}.jpg"),
        ("flickr30k_test", "flickr30k_test_captions.jsonl", "1000092795", "flickr30k-images/{}.jpg"),
        ("ade20k_train", "ade20k_train_captions.jsonl", "ADE_train_00000001", "images/training/{}.jpg"),
        (
            "ade20k_val",
            "ade20k_validation_localized_narratives.jsonl",
            "ADE_val_00000001",
            "ADEChallengeData2016/images/validation/{}.jpg",
        ),
    ],
)
@pytest.mark.parametrize("below", [False, True], ids=["beside", "in the part's folder"])
def test_every_part_under_its_published_names(
    tmp_path: Path, split: str, file: str, image: str, place: str, below: bool
) -> None:
    lines(tmp_path, file, captioned(image, 1, "Something.", "as published"))
    pictured(tmp_path, (split.rpartition("_")[0] + "/" if below else "") + place.format(image))
    assert LocalizedNarratives.splits(tmp_path) == (split,)
    (document,) = LocalizedNarratives(tmp_path)
    assert isinstance(document, Document) and document.id == f"{image}_1" and document.text == "Something."


def test_splits_are_those_there_are_files_of(root: Path) -> None:
    assert LocalizedNarratives.splits(root) == ("coco_train", "coco_val")
    assert [d.id for d in open_reader(f"localized_narratives:{root}@coco_val")] == ["137576_93"]
    lines(root, "open_images_test_captions.jsonl")
    lines(root, "other_train_captions.jsonl")
    lines(root, "coco_train_captions.jsonl.part")
    assert LocalizedNarratives.splits(root) == ("open_images_test", "coco_train", "coco_val")


def test_units_are_the_same_documents(root: Path) -> None:
    reader = LocalizedNarratives(root)
    assert len(reader.units(2)) == 2
    assert [d for unit in reader.units(2) for d in reader.read(unit)] == list(reader)
    assert reader[2] == list(reader)[2], "any one alone"


def test_it_is_recognised_first(root: Path) -> None:
    assert recognise(root)[0] == "localized_narratives"
    assert not LocalizedNarratives.recognises(root / "train2017")
    assert not LocalizedNarratives.recognises(root / SHARD.format(0))


def test_a_damaged_line_is_one_unreadable(root: Path) -> None:
    damaged = [
        b"{\n",
        b'{"caption": "caf\xe9"}\n',
        b"\n",
        captioned("../9", 1, "out"),
        {"image_id": "9", "caption": "nobody"},
        {"image_id": "9", "annotator_id": 2},
        captioned("9", 3, " "),
        captioned("8", 4, "no picture"),
        b"[" * 100_000 + b"\n",
        captioned("9", 5, "sound"),
    ]
    lines(root, SHARD.format(1), *damaged)
    *_, json_, utf8, empty, out, nobody, no_caption, blank, no_picture, deep, sound = LocalizedNarratives(root)
    name = SHARD.format(1)
    for line, read in ((1, json_), (2, utf8), (3, empty), (9, deep)):
        assert isinstance(read, Unreadable) and read.id == f"{name}:{line}"
        assert read.reason.startswith((f"{name}:{line}: is not readable JSON (", f"{name}:{line}: is nested too"))
    assert isinstance(utf8, Unreadable) and "utf-8" in utf8.reason
    assert [out, nobody, no_caption, blank, no_picture] == [
        Unreadable(f"{name}:4", f"{name}:4: image_id '../9' is not the name of a picture"),
        Unreadable(f"{name}:5", f"{name}:5: 'annotator_id' is None, must be a whole number"),
        Unreadable("9_2", f"{name}:6: 'caption' is None, must be a text"),
        Unreadable("9_3", f"{name}:7: has an empty caption"),
        Unreadable("8_4", f"000000000008.jpg: {GONE}"),
    ]
    assert isinstance(sound, Document) and sound.text == "sound"


def test_lines_and_pictures_wait_until_they_are_asked_for(root: Path) -> None:
    reader = LocalizedNarratives(root)
    path = root / "train2017" / "000000107899.jpg"
    PIL.Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:-800])
    document = reader[0]
    assert isinstance(document, Document), "the header is sound"
    with pytest.raises(DataError, match="cannot be read"):
        rgb(document.images[0].pixels)
    (root / SHARD.format(1)).unlink()
    gone = reader[2]
    assert isinstance(gone, Unreadable) and gone.id == f"{SHARD.format(1)}:1" and "No such file" in gone.reason


def test_what_is_missing_is_said(root: Path) -> None:
    with pytest.raises(DataError, match="has no split 'ade20k_val'; it has coco_train, coco_val"):
        LocalizedNarratives(root, "ade20k_val")
    (root / "train2017").rename(root / "pictures")
    with pytest.raises(DataError, match="no folder train2017 or coco/train2017; put the pictures of coco_train there"):
        LocalizedNarratives(root)
    with pytest.raises(DataError, match="has no file like coco_train_captions.jsonl; give the folder that holds them"):
        LocalizedNarratives(root / "pictures")
    (root / "pictures").rename(root / "train2017")
    (root / "coco_train_captions.jsonl").mkdir()
    with pytest.raises(DataError, match=r"coco_train_captions.jsonl': cannot be read \(Is a directory\)"):
        LocalizedNarratives(root)
