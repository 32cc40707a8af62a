"""COCO's layout (annotations/captions_train2017.json and its like): what is read, in which order, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from cm3.data.read.coco import Coco
from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError

IMAGES = [
    {"id": 20, "file_name": "b.png", "license": 3, "width": 6, "height": 4},
    {"id": 7, "file_name": "a.png", "license": 1, "width": 5, "height": 5},
]
# Neither by image nor by number, as in the published files.
ANNOTATIONS = [
    {"id": 30, "image_id": 20, "caption": "A blue field. "},
    {"id": 12, "image_id": 7, "caption": "Something red"},
    {"id": 11, "image_id": 20, "caption": "\nNothing but blue."},
    {"id": 10, "image_id": 7, "caption": "A red field."},
    {"id": 31, "image_id": 7, "caption": "A na\u00efve red one."},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pictures and five captions."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    PIL.Image.new("RGB", (6, 4), (0, 0, 255)).save(tmp_path / "train2017" / "b.png")
    PIL.Image.new("RGB", (5, 5), (255, 0, 0)).save(tmp_path / "train2017" / "a.png")
    write(tmp_path, {"images": IMAGES, "annotations": ANNOTATIONS})
    return tmp_path


def write(root: Path, content: Any, split: str = "train2017") -> None:
    path = root / "annotations" / f"captions_{split}.json"
    path.write_bytes((content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)).encode())


def test_a_document_a_caption_by_image_and_number(root: Path) -> None:
    coco = Coco(root)
    documents = coco.documents()
    assert [(d.meta["image_id"], d.id, d.text) for d in documents] == [
        (7, "10", "A red field."),
        (7, "12", "Something red"),
        (7, "31", "A na\u00efve red one."),
        (20, "11", "Nothing but blue."),
        (20, "30", "A blue field."),
    ]
    assert [d.meta["license"] for d in documents] == [1, 1, 1, 3, 3]
    for d in documents:
        assert [type(p) for p in d.parts] == [Text, Image] and d.source == "coco/train2017"
        colour = d.images[0].pixels.getpixel((0, 0))
        assert colour == ((255, 0, 0) if d.meta["image_id"] == 7 else (0, 0, 255))
    assert documents[0].images[0] is documents[2].images[0], "captions of one picture share it"
    assert len(coco) == 5 and [d.id for unit in coco.units(2) for d in coco.read(unit)] == [d.id for d in documents]
    assert coco[3] == documents[3] and [coco.name(i) for i in range(5)] == [d.id for d in documents]


def test_a_picture_is_read_when_its_caption_is(root: Path) -> None:
    coco = Coco(root)
    first = coco.document(0)
    (root / "train2017" / "a.png").write_bytes(b"GIF89")
    assert coco.document(1).images[0] is first.images[0], "it was read already"
    assert [type(d) for d in Coco(root)] == [Unreadable] * 3 + [Document] * 2


def test_licenses_are_told_by_name(root: Path) -> None:
    write(
        root, {"images": IMAGES, "annotations": ANNOTATIONS, "licenses": [{"id": 3, "name": "BY", "url": "http://b"}]}
    )
    metas = [d.meta for d in Coco(root).documents()]
    assert metas[0] == {"split": "train2017", "image_id": 7, "license": 1}
    assert metas[3] == {
        "split": "train2017", "image_id": 20, "license": 3, "license_name": "BY", "license_url": "http://b",
    }  # fmt: skip
    write(root, {"images": [{"id": 7, "file_name": "a.png"}], "annotations": ANNOTATIONS[1:2]})
    assert Coco(root).document(0).meta == {"split": "train2017", "image_id": 7}


def test_which_splits_there_are(root: Path) -> None:
    for split in ("val2017", "train2014", "val2014"):
        write(root, {"images": [], "annotations": []}, split)
    assert Coco.recognises(root) and not Coco.recognises(root / "annotations") and not Coco.recognises(root / "none")
    assert Coco.splits(root) == ("train2017", "train2014", "val2014", "val2017")
    (root / "annotations" / "captions_train2017.json").unlink()
    assert Coco(root).source == "coco/train2014"


def test_the_pictures_of_2014_have_longer_names(root: Path) -> None:
    (root / "train2017").rename(root / "train2014")
    (root / "train2014" / "a.png").rename(root / "train2014" / "COCO_train2014_000000000007.jpg")
    image = {"id": 7, "file_name": "COCO_train2014_000000000007.jpg"}
    write(root, {"images": [image], "annotations": ANNOTATIONS[1:2]}, "train2014")
    (document,) = Coco(root, "train2014").documents()
    assert document.images[0].pixels.size == (5, 5) and document.source == "coco/train2014"


THINGS = {
    "categories": [{"id": 44, "name": "bottle"}, {"id": 1, "name": "person"}],
    "annotations": [
        {"id": 1, "image_id": 20, "category_id": 44, "bbox": [1.5, 0, 2, 3], "area": 6.0, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "num_keypoints": 1, "keypoints": [2, 2, 2]},
        {"id": 3, "image_id": 20, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1.0, "iscrowd": 1},
    ],
}


def test_boxes_and_joints_are_read_when_they_are_asked_for(root: Path) -> None:
    coco = Coco(root)
    for what, asked in (("instances", coco.instances), ("person_keypoints", coco.keypoints)):
        with pytest.raises(DataError, match=f"{what}_train2017.json is missing in annotations/; give the folder"):
            asked(7)
        path = root / "annotations" / f"{what}_train2017.json"
        path.write_text(json.dumps(THINGS))
        assert [(a["id"], a["category"], a["bbox"]) for a in asked(20)] == [
            (1, "bottle", [1.5, 0, 2, 3]),
            (3, "person", [0, 0, 1, 1]),
        ]
        assert asked(7)[0]["keypoints"] == [2, 2, 2] and asked(8) == []
        path.write_text(json.dumps({**THINGS, "categories": []}))
        assert len(asked(20)) == 2, "it was read already"
        with pytest.raises(DataError, match=f"is not COCO's {what} layout \\(44\\); download it again"):
            (Coco(root).instances if what == "instances" else Coco(root).keypoints)(20)


def test_the_split_names_file_and_folder(root: Path) -> None:
    (root / "train2017").rename(root / "mine")
    write(root, {"images": IMAGES[1:], "annotations": ANNOTATIONS[1:2]}, "mine")
    (document,) = Coco(str(root), "mine").documents()
    assert document.text == "Something red" and document.source == "coco/mine"


def test_no_captions_are_no_documents(root: Path) -> None:
    write(root, {"images": IMAGES, "annotations": []})
    assert Coco(root).documents() == [] == list(Coco(root)) == Coco(root).units()


def with_annotation(**values: Any) -> dict[str, Any]:
    return {"images": IMAGES, "annotations": [*ANNOTATIONS, {"id": 40, "image_id": 7, "caption": "One more", **values}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"captions_train2017.json': is not JSON \(.*\); download it again"),
        ("[" * 100_000, r"captions_train2017.json': is not JSON"),
        ([1, 2], "is not COCO's caption layout"),
        ({"images": IMAGES}, r"is not COCO's caption layout \('annotations'\)"),
        ({"images": IMAGES, "annotations": [{"id": 1, "image_id": 7}]}, r"is not COCO's caption layout \('caption'\)"),
        ({"images": [{"file_name": "a.png"}], "annotations": []}, r"is not COCO's caption layout \('id'\)"),
        ({"images": [{"id": 7}], "annotations": []}, r"is not COCO's caption layout \('file_name'\)"),
        (with_annotation(image_id="seven"), "is not COCO's caption layout"),
        (with_annotation(image_id=float("inf")), "is not COCO's caption layout"),
        ({"images": [], "annotations": [], "licenses": [{"id": 1}]}, "is not COCO's caption layout"),
    ],
    ids=[
        "no json",
        "nested",
        "a list",
        "no annotations",
        "no caption",
        "no id",
        "no file",
        "id of letters",
        "infinite id",
        "license",
    ],
)
def test_another_layout_is_refused(root: Path, content: Any, message: str) -> None:
    write(root, content)
    with pytest.raises(DataError, match=message):
        Coco(root)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "train2017" / "a.png").unlink(), "a.png: no such file beside the annotations that name it"),
        (lambda r: (r / "train2017" / "a.png").write_bytes(b""), "a.png: picture of 0 bytes: is empty"),
        (lambda r: (r / "train2017" / "a.png").write_bytes(b"<html>"), "a.png: picture of 6 bytes: not a picture"),
    ],
    ids=["missing", "empty", "no picture"],
)
def test_pictures_that_do_not_open_are_left_out_or_refused(
    root: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(root)
    read = list(Coco(root))
    assert [d.id for d in read] == ["10", "12", "31", "11", "30"]
    bad = [d for d in read if isinstance(d, Unreadable)]
    assert [d.id for d in bad] == ["10", "12", "31"] and all(message in d.reason for d in bad)
    with pytest.raises(DataError, match=f"coco/train2017, document '10': {message}"):
        Coco(root).documents()


def test_all_at_once_finds_what_is_cut_short(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(root / "train2017" / "b.png")
    data = (root / "train2017" / "b.png").read_bytes()
    (root / "train2017" / "b.png").write_bytes(data[: len(data) // 2])
    assert all(isinstance(d, Document) for d in Coco(root)), "the headers are sound"
    with pytest.raises(DataError, match="coco/train2017, document '11': b.png: image of mode RGB: cannot be read"):
        Coco(root).documents()


def test_a_caption_that_is_wrong_by_itself_is_left_out(root: Path) -> None:
    write(root, with_annotation(image_id=8))
    (bad,) = [d for d in Coco(root) if isinstance(d, Unreadable)]
    assert bad == Unreadable("40", "caption 40: is of image 8, which the file does not list")
    write(root, with_annotation(id=12))
    (bad,) = [d for d in Coco(root) if isinstance(d, Unreadable)]
    assert bad == Unreadable("12", "caption 12: another one has this id already; an id names one caption")
    assert [d.id for d in Coco(root) if isinstance(d, Document)] == ["10", "12", "31", "11", "30"]


def test_captions_of_any_length_are_passed_on(root: Path) -> None:
    for caption in ("", "x" * 100_000):
        write(root, {"images": IMAGES, "annotations": [{"id": 1, "image_id": 7, "caption": caption}]})
        assert Coco(root).document(0).text == caption


def test_captions_that_are_not_utf8_are_refused(root: Path) -> None:
    (root / "annotations" / "captions_train2017.json").write_bytes(
        b'{"images": [], "annotations": [{"caption": "\xe9"}]}'
    )
    with pytest.raises(DataError, match="captions_train2017.json': is not JSON .*; download it again"):
        Coco(root)


@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_missing_captions_are_refused(root: Path, split: str) -> None:
    place = root if split == "val2017" else root / "annotations"
    with pytest.raises(
        DataError, match=rf"captions_{split}.json is missing in annotations/; give the folder that holds"
    ):
        Coco(place, split)


@pytest.mark.parametrize(("split", "images"), [("train2017", 80), ("val2017", 79)])
def test_the_real_files(shared_data: Path, split: str, images: int) -> None:
    folder = shared_data / "coco_mini"
    if not folder.is_dir():
        pytest.skip("no coco_mini in ../shared/data")
    coco = Coco(folder, split)
    documents = coco.documents()
    content = json.loads((folder / "annotations" / f"captions_{split}.json").read_text())
    by_image: dict[int, int] = {}
    for document in documents:
        by_image[document.meta["image_id"]] = by_image.get(document.meta["image_id"], 0) + 1
    assert len(by_image) == images and set(by_image.values()) == {5}
    assert len({d.id for d in documents}) == len(documents) == 5 * images
    sizes = {int(i["id"]): (i["width"], i["height"]) for i in content["images"]}
    assert all(d.images[0].pixels.size == sizes[d.meta["image_id"]] for d in documents)
    assert all(d.text == d.text.strip() != "" for d in documents)
    assert all(d.meta["license_url"].startswith("http://") for d in documents)
    seen = [a for image_id in by_image for a in coco.instances(image_id)]
    persons = [a for image_id in by_image for a in coco.keypoints(image_id)]
    for what, found in (("instances", seen), ("person_keypoints", persons)):
        published = json.loads((folder / "annotations" / f"{what}_{split}.json").read_text())["annotations"]
        kept = [a for a in published if a["image_id"] in by_image]
        assert sorted(a["id"] for a in found) == sorted(a["id"] for a in kept) and found
    assert {a["category"] for a in persons} == {"person"} < {a["category"] for a in seen}
    assert all(len(a["keypoints"]) == 51 and 0 <= a["num_keypoints"] <= 17 for a in persons)
