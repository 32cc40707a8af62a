"""Every task that COCO's annotations allow, on real photographs: boxes and masks lie where the picture is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from cm3.document import Document, Image
from cm3.read.coco import Coco
from cm3.tasks import Example, View, annotated, find_task, from_reader
from cm3.tasks.boxes import place_of, read_objects
from cm3.tasks.control import categories, mask_of
from cm3.tokens.image import preprocess

ROOT = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no COCO pictures beside the checkout")
NUMBER = 24


@pytest.fixture(scope="module")
def coco() -> Coco:
    return Coco(ROOT, "val2017")


def first_captions(coco: Coco) -> list[Document]:
    """One document a picture."""
    found = {d.meta["image_id"]: d for d in coco if isinstance(d, Document)}
    return list(found.values())[:NUMBER]


def test_boxes_enclose_what_the_masks_show(coco: Coco) -> None:
    pytest.importorskip("pycocotools")
    task, checked = find_task("boxes"), 0
    for document in first_captions(coco):
        pixels = document.images[0].pixels
        things = [t for t in coco.annotations("instances").of(document.meta["image_id"]) if not t["iscrowd"]]
        said = task.examples(annotated(document, coco, task))
        if not said:
            assert all(place_of(t["bbox"], pixels) is None for t in things)
            continue
        objects = read_objects(str(task.read(said[0].document)["segmentations"]))
        assert objects == read_objects(str(task.read(said[1].document, 1)["locations"]))
        found = [(t["category"], place_of(t["bbox"], pixels), t) for t in things]
        assert len(objects) == min(10, sum(place is not None for _, place, _ in found))
        for name, place in objects:
            thing = next(t for category, at, t in found if (category, at) == (name, place))
            mask = PIL.Image.fromarray(mask_of(thing, pixels.size).astype(np.uint8) * 255).convert("RGB")
            y, x = np.nonzero(np.asarray(preprocess(mask, 256))[..., 0] > 127)
            if x.size < 100:
                continue
            # Outlines are drawn by hand, and polygons are filled to pixel centres: two pixels are within both.
            assert place[0] - 2 <= x.min() and x.max() <= place[2] + 2, (document.id, name)
            assert place[1] - 2 <= y.min() and y.max() <= place[3] + 2, (document.id, name)
            if 0 < min(place) and max(place) < 255:  # nothing of it was cut away
                assert x.max() - x.min() >= place[2] - place[0] - 8 and y.max() - y.min() >= place[3] - place[1] - 8
            checked += 1
    assert checked > 40


def test_segmentations_lie_on_the_cropped_picture(coco: Coco) -> None:
    pytest.importorskip("pycocotools")
    task, agreed = find_task("segment"), []
    for document in first_captions(coco):
        pixels = document.images[0].pixels
        for example in task.examples(annotated(document, coco, task), view=View(128)):
            assert isinstance(example.answer, Image) and example.answer.pixels.size == (128, 128)
            shown = categories(example.answer.pixels)
            everything = np.zeros(pixels.size[::-1], bool)
            for thing in coco.annotations("instances").of(document.meta["image_id"]):
                everything |= mask_of(thing, pixels.size)
            mask = PIL.Image.fromarray(everything.astype(np.uint8) * 255).convert("RGB")
            agreed.append(((np.asarray(preprocess(mask, 128))[..., 0] > 127) == (shown > 0)).mean())
            known = {t["category_id"] for t in coco.annotations("instances").of(document.meta["image_id"])}
            assert set(np.unique(shown)) - {0} <= known
    assert len(agreed) > 18 and min(agreed) > 0.97


@pytest.mark.parametrize("name", ["canny", "scribble", "segmentation", "pose"])
def test_every_structure_is_made_of_real_pictures(coco: Coco, name: str) -> None:
    pytest.importorskip("pycocotools" if name == "segmentation" else "cv2")
    task, seen = find_task(name), 0
    for document in first_captions(coco):
        examples = task.examples(annotated(document, coco, task))
        people = [k for k in coco.annotations("keypoints").of(document.meta["image_id"]) if k["num_keypoints"]]
        assert bool(people) or name != "pose" or not examples
        for example in examples:
            guide, target = example.document.images
            assert guide.pixels.size == (256, 256) and guide.pixels.getbbox() is not None
            assert target is document.images[0] and document.text in example.document.text
        seen += bool(examples)
    assert seen >= (6 if name == "pose" else NUMBER * 0.8)


def test_captions_of_the_whole_split(coco: Coco) -> None:
    made = list(from_reader(find_task("coco_captions"), coco, rng=np.random.default_rng(0)))
    assert len(made) == len(coco) and all(isinstance(one, Example) for one in made)
