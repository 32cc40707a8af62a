"""COCO's layout (annotations/captions_train2017.json and its like): what is read, in which order, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb
from cm3.read.coco import Coco
from cm3.read.walk import EMPTY
from cm3.tasks import find_task, from_reader

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
    documents = list(coco)
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
    metas = [d.meta for d in Coco(root)]
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
    (root / "train2014").mkdir()
    assert Coco(root).source == "coco/train2014"


def test_the_pictures_of_2014_have_longer_names(root: Path) -> None:
    (root / "train2017").rename(root / "train2014")
    (root / "train2014" / "a.png").rename(root / "train2014" / "COCO_train2014_000000000007.jpg")
    image = {"id": 7, "file_name": "COCO_train2014_000000000007.jpg"}
    write(root, {"images": [image], "annotations": ANNOTATIONS[1:2]}, "train2014")
    (document,) = list(Coco(root, "train2014"))
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
    for what, need in (("instances", "instances"), ("person_keypoints", "keypoints")):
        with pytest.raises(DataError, match=f"{what}_train2017.json is missing in annotations/; give the folder"):
            coco.annotations(need)
        path = root / "annotations" / f"{what}_train2017.json"
        path.write_text(json.dumps(THINGS))
        asked = coco.annotations(need).of
        assert [(a["id"], a["category"], a["bbox"]) for a in asked(20)] == [
            (1, "bottle", [1.5, 0, 2, 3]),
            (3, "person", [0, 0, 1, 1]),
        ]
        assert asked(7)[0]["keypoints"] == [2, 2, 2] and asked(8) == []
        path.write_text(json.dumps({**THINGS, "categories": []}))
        with pytest.raises(DataError, match=f"{what}_train2017.json': was changed while it was in use; start again"):
            asked(20)
        with pytest.raises(DataError, match=f"{what}_train2017.json': has annotations and no 'categories'; download"):
            Coco(root).annotations(need)


def test_the_split_names_file_and_folder(root: Path) -> None:
    (root / "train2017").rename(root / "mine")
    write(root, {"images": IMAGES[1:], "annotations": ANNOTATIONS[1:2]}, "mine")
    (document,) = Coco(str(root), "mine")
    assert document.text == "Something red" and document.source == "coco/mine"


def test_no_captions_are_no_documents(root: Path) -> None:
    write(root, {"images": IMAGES, "annotations": []})
    assert list(Coco(root)) == [] == Coco(root).units()


def with_annotation(**values: Any) -> dict[str, Any]:
    return {"images": IMAGES, "annotations": [*ANNOTATIONS, {"id": 40, "image_id": 7, "caption": "One more", **values}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"captions_train2017.json': is not JSON \(.* at byte 1 of 1\); download it again"),
        ("", "is not JSON \\(an object is expected at byte 0 of 0\\)"),
        ('{"annotations": ' + "[" * 100_000, r"captions_train2017.json': is not JSON \(nested too deep at byte"),
        ('{"annotations": [{"id": 1}', r"is not JSON \(',' or '\]' is expected at byte 26 of 26\)"),
        ('{"annotations": [] "images": []}', "is not JSON \\(',' or '}' is expected at byte 19 of 32\\)"),
        ('{"annotations": []} {}', "is not JSON \\(nothing is expected at byte 20 of 22\\)"),
        ('{"annotations": [], "annotations": []}', "is not JSON \\('annotations' is no new name"),
        ('{"annotations" []}', "is not JSON \\(':' is expected at byte"),
        ([1, 2], "is not JSON \\(an object is expected"),
        ({"images": {}, "annotations": []}, "'images' is no list; download it again"),
        ({"images": IMAGES}, "captions_train2017.json': has no 'annotations'; download it again"),
        ({"annotations": ANNOTATIONS}, "has annotations and no 'images'; download it again"),
    ],
)
def test_another_layout_is_refused(root: Path, content: Any, message: str) -> None:
    write(root, content)
    with pytest.raises(DataError, match=message):
        Coco(root)


def test_the_folder_of_pictures_is_missing(root: Path) -> None:
    (root / "train2017").rename(root / "elsewhere")
    with pytest.raises(DataError, match="has no folder train2017; put the pictures there"):
        Coco(root)


NAN = float("nan")


@pytest.mark.parametrize(
    ("spoilt", "id", "reason"),
    [
        ({"caption": None}, "40", "annotations record 5: 'caption' is None, must be a text"),
        ({"caption": NAN}, "40", "annotations record 5: 'caption' is nan, must be a text"),
        ({"caption": ["a", "b"]}, "40", "annotations record 5: 'caption' is ['a', 'b'], must be a text"),
        ({"caption": 3}, "40", "annotations record 5: 'caption' is 3, must be a text"),
        ({"caption": {"text": "a"}}, "40", "'caption' is {'text': 'a'}, must be a text"),
        ({"id": None}, "annotations/5", "annotations record 5: 'id' is None, must be a whole number or a text"),
        ({"id": 1.5}, "annotations/5", "'id' is 1.5, must be a whole number or a text"),
        ({"id": True}, "annotations/5", "'id' is True, must be a whole number or a text"),
        ({"id": ""}, "annotations/5", "'id' is '', must be a whole number of COCO's size, or a text"),
        ({"id": 10**30}, "annotations/5", "must be a whole number of COCO's size, or a text"),
        ({"id": "HUGE"}, "annotations/5", "annotations record 5: 'id' is inf, must be a whole number or a text"),
        ({"id": [1]}, "annotations/5", "'id' is [1], must be a whole number or a text"),
        ({"id": 12}, "12", "caption 12: another one has this id already; an id names one caption"),
        ({"image_id": None}, "40", "'image_id' is None, must be a whole number or a text"),
        ({"image_id": 7.0}, "40", "'image_id' is 7.0, must be a whole number or a text"),
        ({"image_id": "7"}, "40", "caption 40: is of image 7, which the file does not list"),
        ({"image_id": 8}, "40", "caption 40: is of image 8, which the file does not list"),
    ],
)
def test_each_caption_is_checked_by_itself(root: Path, spoilt: dict[str, Any], id: str, reason: str) -> None:
    write(root, json.dumps(with_annotation(**spoilt)).replace('"HUGE"', "1" * 5000))
    sound = [d.id for d in Coco(root) if isinstance(d, Document)]
    (bad,) = [d for d in Coco(root) if isinstance(d, Unreadable)]
    assert sound == ["10", "12", "31", "11", "30"] and bad.id == id and reason in bad.reason


def test_a_record_that_is_nested_too_deep_costs_itself_alone(root: Path) -> None:
    content = json.dumps(with_annotation(extra="DEEP")).replace('"DEEP"', '[{"a]": ' * 100_000 + "0" + "}]" * 100_000)
    write(root, content)
    found = {d.id: d for d in Coco(root)}
    assert list(found) == ["10", "12", "31", "11", "30", "annotations/5"]
    bad = found["annotations/5"]
    assert isinstance(bad, Unreadable) and "annotations record 5: is nested too deep to be read" in bad.reason


@pytest.mark.parametrize("record", [None, 5, "a caption", [1], []])
def test_a_record_that_is_no_object(root: Path, record: Any) -> None:
    write(root, {"images": [*IMAGES, record], "annotations": [record, *ANNOTATIONS]})
    *sound, caption, image = Coco(root)
    assert [d.id for d in sound] == ["10", "12", "31", "11", "30"] and all(isinstance(d, Document) for d in sound)
    assert isinstance(caption, Unreadable) and isinstance(image, Unreadable)
    assert (caption.id, image.id) == ("annotations/0", "images/2")
    assert "annotations record 0: is " in caption.reason and ", must be an object; mend it" in caption.reason
    assert "images record 2: is " in image.reason


def test_of_two_images_with_one_id_both_are_told(root: Path) -> None:
    write(root, {"images": [*IMAGES, {"id": 20, "file_name": "a.png"}], "annotations": ANNOTATIONS})
    found = list(Coco(root))
    assert [d.id for d in found if isinstance(d, Document)] == ["10", "12", "31"]
    bad = {d.id: d.reason for d in found if isinstance(d, Unreadable)}
    assert list(bad) == ["11", "30", "images/0", "images/2"]
    assert all("images record 0 and captions_train2017.json, images record 2 have this id" in r for r in bad.values())


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"file_name": None}, "images record 1: 'file_name' is None, must be a text"),
        ({"file_name": 5}, "images record 1: 'file_name' is 5, must be a text"),
        ({"file_name": ""}, "the file name '' is no name"),
        ({"file_name": "../train2017/a.png"}, "the file name '../train2017/a.png' leads outside"),
        ({"file_name": "/etc/hostname"}, "the file name '/etc/hostname' leads outside"),
        ({"file_name": "a\0.png"}, "is no name"),
        ({"file_name": "x" * 5000}, "cannot be"),
    ],
)
def test_each_image_is_checked_by_itself(root: Path, image: dict[str, Any], reason: str) -> None:
    write(root, {"images": [IMAGES[0], IMAGES[1] | image], "annotations": ANNOTATIONS})
    *bad, one, two = Coco(root)
    assert [d.id for d in bad] == ["10", "12", "31"] and isinstance(one, Document) and isinstance(two, Document)
    assert all(isinstance(d, Unreadable) and reason in d.reason for d in bad)


def test_a_license_that_is_none_is_told_with_its_captions(root: Path) -> None:
    write(root, {"images": IMAGES, "annotations": ANNOTATIONS, "licenses": [{"id": 3, "name": None}, 5]})
    assert [d.id for d in Coco(root) if isinstance(d, Document)] == ["10", "12", "31"]
    assert {d.reason for d in Coco(root) if isinstance(d, Unreadable)} == {
        "captions_train2017.json, licenses record 0: 'name' is None, must be a text"
    }


def test_ids_may_be_texts(root: Path) -> None:
    images = [
        {"id": "blue", "file_name": "b.png"},
        {"id": "r\u00f6d", "file_name": "a.png"},
        {"id": 7, "file_name": "a.png"},
    ]
    ids = [("x", "blue"), ("y", "r\u00f6d"), (3, 7), ("z", "blue")]
    write(root, {"images": images, "annotations": [{"id": a, "image_id": i, "caption": "c"} for a, i in ids]})
    found = list(Coco(root))
    assert {(d.id, d.meta["image_id"], d.images[0].pixels.size) for d in found} == {
        ("x", "blue", (6, 4)), ("y", "r\u00f6d", (5, 5)), ("3", 7, (5, 5)), ("z", "blue", (6, 4))
    }  # fmt: skip
    assert found[0].id == "3" and [d.id for d in Coco(root)] == [d.id for d in found], "numbers first, in one order"
    things = {"categories": [{"id": "k", "name": "kite"}]}
    things["annotations"] = [{"id": "t", "image_id": "r\u00f6d", "category_id": "k"}]
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(things), encoding="utf-8")
    seen = Coco(root).annotations("instances")
    assert [a["category"] for a in seen.of("r\u00f6d")] == ["kite"] and seen.of("blue") == []


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"bbox": [0, 0, NAN, 1]}, "instances_train2017.json, annotations record 1: 'bbox' is [0, 0, nan, 1], must"),
        ({"bbox": [0, 0, -1, 1]}, "annotations record 1: 'bbox' is [0, 0, -1, 1], must be x, y, width, height"),
        ({"bbox": [0, 0, "1", 1]}, "'bbox' is [0, 0, '1', 1], must be x, y, width, height, and no size below 0"),
        ({"bbox": [0, 0, 1]}, "'bbox' is [0, 0, 1], must be"),
        ({"bbox": None}, "'bbox' is None, must be"),
        ({"area": "big"}, "'area' is 'big', must be a number that is not below 0"),
        ({"iscrowd": 2}, "'iscrowd' is 2, must be 0 or 1"),
        ({"category_id": 5}, "'category_id' is 5, which 'categories' has 0 times"),
        ({"category_id": None}, "'category_id' is None, must be a whole number or a text"),
        ({"category_id": 9}, "categories record 2: 'name' is None, must be a text"),
        ({"id": 1}, "'id' is 1, as that of another; an id names one annotation"),
        ({"id": None}, "'id' is None, must be a whole number or a text"),
    ],
)
def test_a_picture_with_an_annotation_that_is_wrong_is_told(root: Path, spoilt: dict[str, Any], reason: str) -> None:
    one, two, three = THINGS["annotations"]
    content = {
        "categories": [*THINGS["categories"], {"id": 9, "name": None}],
        "annotations": [one, two | spoilt, three],
    }
    for what in ("instances", "person_keypoints"):
        (root / "annotations" / f"{what}_train2017.json").write_text(json.dumps(content))
    coco = Coco(root)
    found = [coco.annotations(need).of(20) for need in ("instances", "keypoints")]
    assert [len(one) for one in found] == [2, 2], "the others are kept"
    with pytest.raises(DataError) as caught:
        coco.annotations("instances").of(7)
    assert reason in str(caught.value)
    with pytest.raises(DataError):
        coco.annotations("keypoints").of(7)


def test_annotations_of_no_picture_are_told(root: Path) -> None:
    content = {**THINGS, "annotations": [*THINGS["annotations"], {"id": 9, "image_id": None, "category_id": 1}, 5]}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    assert [u.reason for u in Coco(root).annotations("instances").strays()] == [
        "instances_train2017.json, annotations record 3: 'image_id' is None, must be a whole number or a text",
        "instances_train2017.json, annotations record 4: is 5, must be an object; mend it",
    ]
    told = [one for one in from_reader(find_task("boxes"), Coco(root)) if isinstance(one, Unreadable)]
    assert [one.id for one in told] == ["instances_train2017/3", "instances_train2017/4"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "train2017" / "a.png").unlink(), "a.png: no such file beside the annotations that name it"),
        (lambda r: (r / "train2017" / "a.png").write_bytes(b""), "a.png: picture of 0 bytes: is empty"),
        (lambda r: (r / "train2017" / "a.png").write_bytes(b"<html>"), "a.png: picture of 6 bytes: not a picture"),
    ],
    ids=["missing", "empty", "no picture"],
)
def test_pictures_that_do_not_open_cost_their_captions(
    root: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(root)
    read = list(Coco(root))
    assert [d.id for d in read] == ["10", "12", "31", "11", "30"]
    bad = [d for d in read if isinstance(d, Unreadable)]
    assert [d.id for d in bad] == ["10", "12", "31"] and all(message in d.reason for d in bad)


def test_what_is_cut_short_is_named_when_it_is_decoded(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(root / "train2017" / "b.png")
    data = (root / "train2017" / "b.png").read_bytes()
    (root / "train2017" / "b.png").write_bytes(data[: len(data) // 2])
    documents = list(Coco(root))
    assert all(isinstance(d, Document) for d in documents), "the headers are sound"
    for document in documents:
        if document.meta["image_id"] == 7:
            assert rgb(document.images[0].pixels).size == (5, 5)
        else:
            with pytest.raises(DataError, match="b.png: image of mode RGB: cannot be read"):
                rgb(document.images[0].pixels)


def test_captions_of_any_length_are_passed_on(root: Path) -> None:
    for caption in ("", "x" * 100_000):
        write(root, {"images": IMAGES, "annotations": [{"id": 1, "image_id": 7, "caption": caption}]})
        assert Coco(root).document(0).text == caption
    write(root, {"images": IMAGES, "annotations": [{"id": 1, "image_id": 7, "caption": " "}]})
    coco = Coco(root)
    assert list(coco) == list(coco) and coco.passed.json() == {EMPTY: {"count": 1, "names": ["1"]}}


def test_a_caption_that_is_not_utf8_costs_itself_alone(root: Path) -> None:
    write(root, {"images": IMAGES, "annotations": ANNOTATIONS})
    path = root / "annotations" / "captions_train2017.json"
    path.write_bytes(path.read_bytes().replace("na\u00efve".encode(), b"na\xefve"))
    (bad,) = [d for d in Coco(root) if isinstance(d, Unreadable)]
    assert bad.id == "annotations/4" and "annotations record 4: is not readable JSON" in bad.reason


@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_missing_captions_are_refused(root: Path, split: str) -> None:
    place = root if split == "val2017" else root / "annotations"
    with pytest.raises(
        DataError, match=rf"captions_{split}.json is missing in annotations/; give the folder that holds"
    ):
        Coco(place, split)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"COCO '.*nowhere': no such folder; give the one that holds annotations/"):
        Coco(tmp_path / "nowhere", "train2017")


@pytest.mark.parametrize(("split", "images"), [("train2017", 80), ("val2017", 79)])
def test_the_real_files(shared_data: Path, split: str, images: int) -> None:
    folder = shared_data / "coco_mini"
    if not folder.is_dir():
        pytest.skip("no coco_mini in ../shared/data")
    coco = Coco(folder, split)
    documents = list(coco)
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
    seen = [a for image_id in by_image for a in coco.annotations("instances").of(image_id)]
    persons = [a for image_id in by_image for a in coco.annotations("keypoints").of(image_id)]
    for what, found in (("instances", seen), ("person_keypoints", persons)):
        published = json.loads((folder / "annotations" / f"{what}_{split}.json").read_text())["annotations"]
        kept = [a for a in published if a["image_id"] in by_image]
        assert sorted(a["id"] for a in found) == sorted(a["id"] for a in kept) and found
    assert {a["category"] for a in persons} == {"person"} < {a["category"] for a in seen}
    assert all(len(a["keypoints"]) == 51 and 0 <= a["num_keypoints"] <= 17 for a in persons)
