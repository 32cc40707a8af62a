"""Control images: they lie on the picture pixel by pixel, colours name categories, and what does not fit is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from cm3.document import Document
from cm3.errors import ConfigError, DataError
from cm3.tasks import find_task
from cm3.tasks.control import (
    CATEGORIES,
    canny,
    categories,
    colour,
    mask_of,
    pose,
    read_control,
    scribble,
    segmentation,
)
from cm3.tokens.image import preprocess

SIZE = 64


def polygon(x0: int, y0: int, x1: int, y1: int, **more: Any) -> dict[str, Any]:
    return {"id": 5, "category_id": 1, "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]} | more


def runs(mask: np.ndarray) -> list[int]:
    """COCO's RLE: lengths of runs down the columns, beginning with zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask.ravel(order="F")[-1]]])
    lengths = np.diff(np.flatnonzero(flat[1:] != flat[:-1]), prepend=0).tolist()
    return lengths


def rectangle(size: tuple[int, int], box: tuple[int, int, int, int]) -> PIL.Image.Image:
    picture = PIL.Image.new("RGB", size)
    PIL.ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="white")
    return picture


def test_the_palette_goes_to_a_category_and_back() -> None:
    colours = [colour(c) for c in range(CATEGORIES + 1)]
    assert len(set(colours)) == CATEGORIES + 1 and colours[0] == (0, 0, 0)
    shown = PIL.Image.fromarray(np.array([colours], np.uint8))
    assert categories(shown)[0].tolist() == list(range(CATEGORIES + 1))
    noise = np.random.default_rng(0).integers(-25, 26, (1, CATEGORIES + 1, 3))
    noisy = PIL.Image.fromarray(np.clip(np.array([colours]) + noise, 0, 255).astype(np.uint8))
    assert categories(noisy)[0].tolist() == list(range(CATEGORIES + 1))
    coco = np.array(colours[1:91])
    near = [np.abs(a - b).sum() for a, b in zip(coco, coco[1:], strict=False)]
    assert min(near) >= 102  # categories that follow each other, often alike, are far apart
    with pytest.raises(DataError, match="category 216: the palette has 0 to 215"):
        colour(216)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_segmentation_lies_on_its_picture(orientation: int) -> None:
    pytest.importorskip("pycocotools")
    box = (70, 8, 120, 40)
    picture = rectangle((160, 64), box)
    picture.getexif()[0x0112] = orientation
    made = segmentation(picture, [polygon(*box, category_id=90)], SIZE)
    assert made.size == (SIZE, SIZE) and made.mode == "RGB"
    assert ((categories(made) == 90) == (np.asarray(preprocess(picture, SIZE))[..., 0] > 127)).all()


def test_polygons_and_both_kinds_of_rle_are_the_same_mask() -> None:
    masks = pytest.importorskip("pycocotools.mask")
    size = (40, 30)
    mask = mask_of(polygon(4, 5, 20, 25), size)
    assert mask.shape == (30, 40) and mask[5:25, 4:20].all() and mask.sum() == 20 * 16
    plain = {"id": 1, "segmentation": {"size": [30, 40], "counts": runs(mask)}}
    assert (mask_of(plain, size) == mask).all()
    packed = masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert (mask_of({"segmentation": {"size": [30, 40], "counts": packed}}, size) == mask).all()
    two = polygon(0, 0, 2, 2)
    two["segmentation"].append([10, 10, 12, 10, 12, 12, 10, 12])
    assert mask_of(two, size).sum() == 8
    assert not mask_of({"segmentation": []}, size).any()


def test_small_things_lie_on_large_ones_and_crowds_below() -> None:
    pytest.importorskip("pycocotools")
    crowd = {
        "id": 3,
        "iscrowd": 1,
        "category_id": 3,
        "segmentation": {"size": [64, 64], "counts": [0, 64 * 4, 64 * 60]},
    }
    things = [polygon(0, 0, 8, 8, category_id=2), polygon(0, 0, 32, 32), crowd]
    made = categories(segmentation(PIL.Image.new("RGB", (64, 64)), things, SIZE))
    assert made[0, 0] == 2 and made[20, 0] == 1 and made[50, 0] == 3 and made[50, 50] == 0


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"id": 5, "segmentation": [[1, 2, 3, 4]]}, "segmentation of annotation 5: must be polygons of at least three"),
        ({"id": 5, "segmentation": None}, "must be polygons"),
        ({"id": 5, "segmentation": {"size": [5, 5], "counts": [25]}}, r"is of size \[5, 5\], its picture of \[6, 5\]"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": [25]}}, "'counts' does not add up to the 30 pixels"),
        ({"id": 5, "segmentation": {"size": [6, 5]}}, "'counts' does not add up"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": ["30"]}}, "'counts' does not add up"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": [40, -10]}}, "'counts' does not add up"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": [True, 29]}}, "'counts' does not add up"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": [10**30, 29]}}, "'counts' does not add up"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": [14, 15]}}, "'counts' does not add up"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": "\x7f~~~"}}, "'counts' is not COCO's packed RLE"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": ""}}, "'counts' is not COCO's packed RLE"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": "\u00e9"}}, "'counts' is not COCO's packed RLE"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": "\ud800"}}, "'counts' is not COCO's packed RLE"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": "5P"}}, "'counts' is not COCO's packed RLE"),  # goes on
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": "P" * 7 + "1"}}, "'counts' is not COCO's packed RLE"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": "5"}}, "'counts' does not add up to the 30 pixels"),
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": "O5"}}, "'counts' does not add up"),  # a run of -1
        ({"id": 5, "segmentation": {"size": [6, 5], "counts": "?????"}}, "'counts' does not add up"),
        ({"id": 5, "segmentation": [["a"] * 6]}, "annotation 5: must be finite numbers"),
        ({"id": 5, "segmentation": [[True] * 6]}, "must be finite numbers"),
        ({"id": 5, "segmentation": [[0, 0, 3, 0, 3, float("nan")]]}, "must be finite numbers"),
        ({"id": 5, "segmentation": [[0, 0, 3, 0, 3, 10**400]]}, "must be finite numbers"),
        ({"id": 5, "segmentation": [[0, 0, 3, 0, 3, 13]]}, "lies far outside of its picture of 5 x 6 pixels"),
        ({"id": 5, "segmentation": [[-7, 0, 3, 0, 3, 3]]}, "lies far outside of its picture"),
        ({"id": 5, "segmentation": [[0, 0, 3, 0, 3, 3], [0, 0, 3, 0, 3, 13]]}, "lies far outside of its picture"),
        ({"id": 5, "segmentation": [[0, 0, 3, 0, 3]]}, "must be polygons of at least three points"),
        ({"id": 5, "segmentation": [[0, 0, 3, 0] * 100_000]}, "is 600000 pixels long, must be at most 500000"),
    ],
)
def test_outlines_that_are_refused(instance: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the library sees them: it is not there."""
    monkeypatch.setattr("cm3.tasks.control.LONGEST", 500_000)
    monkeypatch.setattr("cm3.tasks.control._library", lambda name: pytest.fail("it was asked"))
    with pytest.raises(DataError, match=message):
        mask_of(instance, (5, 6))


def test_packed_runs_are_those_that_the_library_packs() -> None:
    masks = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(100):
        high, wide = (int(v) for v in rng.integers(1, 70, 2))
        mask = rng.random((high, wide)) < rng.random()
        packed = masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        for counts in (packed, packed.decode()):
            found = mask_of({"segmentation": {"size": [high, wide], "counts": counts}}, (wide, high))
            assert (found == mask).all()
    large = np.zeros((2000, 3000), np.uint8)
    large[100:1900, 200:2900] = 1
    packed = masks.encode(np.asfortranarray(large))["counts"].decode()
    assert (mask_of({"segmentation": {"size": [2000, 3000], "counts": packed}}, (3000, 2000)) == large).all()


def test_a_category_outside_the_palette() -> None:
    pytest.importorskip("pycocotools")
    for wrong in (0, 216, None):
        with pytest.raises(DataError, match=f"category {wrong}: the palette has 1 to 215"):
            segmentation(PIL.Image.new("RGB", (9, 9)), [polygon(0, 0, 5, 5, category_id=wrong)], SIZE)


def person(**joints: tuple[int, int]) -> dict[str, Any]:
    names = ["nose", "eye_l", "eye_r", "ear_l", "ear_r", "shoulder_l", "shoulder_r", "elbow_l", "elbow_r", "wrist_l"]
    names += ["wrist_r", "hip_l", "hip_r", "knee_l", "knee_r", "ankle_l", "ankle_r"]
    return {"id": 9, "keypoints": [v for name in names for v in ((*joints[name], 2) if name in joints else (0, 0, 0))]}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_joints_lie_where_the_picture_has_them(orientation: int) -> None:
    spots = {"shoulder_r": (100, 40), "shoulder_l": (140, 40), "wrist_l": (120, 90)}
    picture = PIL.Image.new("RGB", (256, 128))
    for x, y in spots.values():
        PIL.ImageDraw.Draw(picture).circle((x, y), 2, fill="white")
    picture.getexif()[0x0112] = orientation
    made = np.asarray(pose(picture, [person(**spots)], 128)).astype(int)
    seen = np.asarray(preprocess(picture, 128))[..., 0] > 200
    assert made.max(-1)[seen].min() == 255  # each painted spot has a joint's colour on it
    colours = {tuple(v) for v in made.reshape(-1, 3).tolist()}
    # Right and left shoulder and left wrist, in OpenPose's hues.
    assert {(255, 170, 0), (85, 255, 0), (0, 255, 85)} <= colours
    assert (153, 0, 0) in colours and (153, 51, 0) in colours  # the limbs from the neck, which is between them
    assert (255, 0, 0) not in colours  # no nose


def test_persons_without_known_joints_are_black_and_others_are_refused() -> None:
    picture = PIL.Image.new("RGB", (32, 32))
    assert pose(picture, [person()], SIZE).getbbox() is None
    for keypoints in ([1, 2], [1, 2, 3] * 17, None):
        with pytest.raises(DataError, match="keypoints of annotation 9: must be 17 times x, y and 0, 1 or 2"):
            pose(picture, [{"id": 9, "keypoints": keypoints}], SIZE)
    for x, message in ((float("inf"), "must be finite numbers"), ("1", "must be finite"), (65, "lies far outside of")):
        with pytest.raises(DataError, match=f"keypoints of annotation 9: {message}"):
            pose(picture, [{"id": 9, "keypoints": [x, 2, 2] + [0] * 48}], SIZE)
    task = find_task("pose")
    assert task.examples(Document.of("nobody", picture, keypoints=[person()])) == []


def test_canny_is_on_the_edges_and_nowhere_else() -> None:
    pytest.importorskip("cv2")
    made = np.asarray(canny(rectangle((128, 64), (48, 16, 80, 48)), SIZE))
    assert made.shape == (64, 64, 3) and set(np.unique(made)) == {0, 255}
    y, x = np.nonzero(made[..., 0])
    edge = np.minimum(np.abs(np.stack([x - 15.5, x - 47.5])), 99).min(0), np.abs(np.stack([y - 15.5, y - 47.5])).min(0)
    assert (np.minimum(*edge) <= 1.5).all() and len(x) >= 4 * 28
    assert canny(PIL.Image.new("RGB", (99, 70), "red"), SIZE).getbbox() is None


def test_scribble_keeps_big_forms_only() -> None:
    pytest.importorskip("cv2")
    big, small = rectangle((256, 256), (60, 60, 200, 200)), rectangle((256, 256), (100, 100, 106, 106))
    made = np.asarray(scribble(big, 256))[..., 0]
    y, x = np.nonzero(made)
    assert abs(x.min() - 60) <= 6 and abs(x.max() - 200) <= 6 and abs(y.min() - 60) <= 6 and abs(y.max() - 200) <= 6
    assert made[90:170, 90:170].max() == 0
    assert scribble(small, 256).getbbox() is None
    assert (np.asarray(scribble(big, 256)) == np.asarray(scribble(big, 256))).all()


def test_a_control_from_a_file_has_its_pictures_size(tmp_path: Path) -> None:
    picture = PIL.Image.new("RGB", (20, 30))
    path = tmp_path / "a.b.depth.png"
    PIL.Image.new("I;16", (20, 30)).save(path)
    assert read_control(path, picture).pixels.size == (20, 30)
    PIL.Image.new("L", (30, 20)).save(path)
    with pytest.raises(
        DataError, match=r"control image a.b.depth.png: is 30 x 20 pixels, its picture 20 x 30; make it"
    ):
        read_control(path, picture)
    picture.getexif()[0x0112] = 6
    assert read_control(path, picture).pixels.size == (30, 20)  # both as they are seen
    with pytest.raises(
        DataError, match="control image: .*none.hed.png: no such file .*docs/tasks.md says how to make it"
    ):
        read_control(tmp_path / "none.hed.png", picture)


@pytest.mark.parametrize(("name", "library"), [("cv2", "OpenCV"), ("pycocotools.mask", "pycocotools")])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    picture = PIL.Image.new("RGB", (9, 9))
    with pytest.raises(
        ConfigError, match=rf"need {library}, which is not installed: pip install opencv-python-headless pycocotools"
    ):
        canny(picture, SIZE) if name == "cv2" else segmentation(picture, [polygon(0, 0, 5, 5)], SIZE)
