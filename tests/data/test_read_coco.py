"""COCO's caption layout: what is read, in which order, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.data.read.coco import coco_captions
from cm3.document import Image, Text
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
    documents = coco_captions(root)
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


def test_the_split_names_file_and_folder(root: Path) -> None:
    (root / "train2017").rename(root / "mine")
    write(root, {"images": IMAGES[1:], "annotations": ANNOTATIONS[1:2]}, "mine")
    (document,) = coco_captions(str(root), "mine")
    assert document.text == "Something red" and document.source == "coco/mine"


def test_no_captions_are_no_documents(root: Path) -> None:
    write(root, {"images": IMAGES, "annotations": []})
    assert coco_captions(root) == []


def with_annotation(**values: Any) -> dict[str, Any]:
    return {"images": IMAGES, "annotations": [*ANNOTATIONS, {"id": 40, "image_id": 7, "caption": "One more", **values}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"captions_train2017.json': is not COCO's caption layout \(.*\); download it again"),
        ([1, 2], "is not COCO's caption layout"),
        ({"images": IMAGES}, r"is not COCO's caption layout \('annotations'\)"),
        ({"images": IMAGES, "annotations": [{"id": 1, "image_id": 7}]}, r"is not COCO's caption layout \('caption'\)"),
        ({"images": [{"file_name": "a.png"}], "annotations": []}, r"is not COCO's caption layout \('id'\)"),
        ({"images": [{"id": 7}], "annotations": []}, r"is not COCO's caption layout \('file_name'\)"),
        (with_annotation(image_id="seven"), "is not COCO's caption layout"),
        (with_annotation(image_id=8), "caption 40 is of image 8, which is not listed"),
    ],
    ids=["no json", "a list", "no annotations", "no caption", "no id", "no file", "id of letters", "unlisted image"],
)
def test_another_layout_is_refused(root: Path, content: Any, message: str) -> None:
    write(root, content)
    with pytest.raises(DataError, match=message):
        coco_captions(root)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "train2017" / "a.png").unlink(), r"image .*a.png': no such file; check the path"),
        (lambda r: (r / "train2017" / "a.png").write_bytes(b"GIF89"), r"image .*a.png': not a readable picture"),
    ],
    ids=["missing picture", "damaged picture"],
)
def test_pictures_that_do_not_open_are_refused(root: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(root)
    with pytest.raises(DataError, match=message):
        coco_captions(root)


@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_missing_captions_are_refused(root: Path, split: str) -> None:
    place = root if split == "val2017" else root / "annotations"
    with pytest.raises(
        DataError, match=rf"captions_{split}.json is missing in annotations/; give the folder that holds"
    ):
        coco_captions(place, split)


@pytest.mark.parametrize(("split", "images"), [("train2017", 80), ("val2017", 79)])
def test_the_real_files(shared_data: Path, split: str, images: int) -> None:
    folder = shared_data / "coco_mini"
    if not folder.is_dir():
        pytest.skip("no coco_mini in ../shared/data")
    documents = coco_captions(folder, split)
    content = json.loads((folder / "annotations" / f"captions_{split}.json").read_text())
    by_image: dict[int, int] = {}
    for document in documents:
        by_image[document.meta["image_id"]] = by_image.get(document.meta["image_id"], 0) + 1
    assert len(by_image) == images and set(by_image.values()) == {5}
    assert len({d.id for d in documents}) == len(documents) == 5 * images
    sizes = {int(i["id"]): (i["width"], i["height"]) for i in content["images"]}
    assert all(d.images[0].pixels.size == sizes[d.meta["image_id"]] for d in documents)
    assert all(d.text == d.text.strip() != "" for d in documents)
