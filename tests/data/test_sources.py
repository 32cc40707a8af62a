"""Sources: scenes without end, documents in epochs, and COCO's files; the same number is always the same document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from tiny_model import SIZE, codec

from cm3.data.documents import DocumentSource
from cm3.data.read.coco import coco_captions
from cm3.data.scenes import SceneSource, scene_document
from cm3.document import Document, Image
from cm3.errors import ConfigError, DataError
from cm3.scenes import parse
from cm3.scenes.verify import verify


def test_scenes_are_a_function_of_their_number() -> None:
    assert scene_document(1, 7, SIZE) == scene_document(1, 7, SIZE)
    others = [scene_document(1, 8, SIZE), scene_document(2, 7, SIZE), scene_document(1, 7, SIZE, "val")]
    assert all(other.parts != scene_document(1, 7, SIZE).parts for other in others)


@pytest.mark.parametrize("index", range(5))
def test_a_caption_is_true_of_its_picture(index: int) -> None:
    document = scene_document(3, index, 128)
    assert verify(document.images[0].pixels, parse(document.text)).ok
    assert document.source == "scenes/train" and document.id == str(index)


def test_captions_only_is_a_share() -> None:
    assert not any(scene_document(0, i, 16, captions_only=1.0).images for i in range(5))
    alone = sum(not scene_document(0, i, 16, captions_only=0.3).images for i in range(300))
    assert 60 < alone < 120
    with pytest.raises(ConfigError, match="captions_only=1.5: is a share, must be in 0..1"):
        SceneSource(codec(), 0, captions_only=1.5)


def test_scene_tokens_do_not_depend_on_their_company() -> None:
    source = SceneSource(codec(), 4)
    together, alone = source.tokens(range(6)), [source.tokens([i])[0] for i in range(6)]
    for i, (a, b) in enumerate(zip(together, alone, strict=True)):
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.cells, b.cells)
        assert np.array_equal(a.ids, codec().encode(scene_document(4, i, SIZE)).ids)


def test_documents_come_once_an_epoch_in_an_order_of_their_own() -> None:
    documents = [Document.of(f"number {i}") for i in range(10)]
    source = DocumentSource(documents, codec(), seed=3)
    texts = [codec().decode(t).text for t in source.tokens(range(30))]
    epochs = [texts[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == sorted(d.text for d in documents) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    fresh = DocumentSource(documents, codec(), seed=3)
    assert [codec().decode(fresh.tokens([i])[0]).text for i in (17, 3, 29)] == [texts[i] for i in (17, 3, 29)]
    assert [codec().decode(t).text for t in DocumentSource(documents, codec(), seed=4).tokens(range(10))] != epochs[0]
    with pytest.raises(DataError, match="documents: there are none; check the path and the split"):
        DocumentSource([], codec(), seed=0)


def coco(root: Path, **changes: Any) -> Path:
    """Two images, three captions, out of order."""
    content: dict[str, Any] = {
        "images": [
            {"id": 9, "file_name": "9.jpg", "license": 4},
            {"id": 2, "file_name": "2.jpg"},
        ],
        "annotations": [
            {"id": 30, "image_id": 9, "caption": " A cat. "},
            {"id": 11, "image_id": 9, "caption": "Sleeping"},
            {"id": 50, "image_id": 2, "caption": "A red bus"},
        ],
    }
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    for name, colour in (("9.jpg", "white"), ("2.jpg", "red")):
        PIL.Image.new("RGB", (40, 30), colour).save(root / "train2017" / name)
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(content | changes))
    return root


def test_coco_captions_come_in_the_order_of_ids(tmp_path: Path) -> None:
    found = coco_captions(coco(tmp_path))
    assert [(d.id, d.text, d.meta["image_id"], d.meta["license"]) for d in found] == [
        ("50", "A red bus", 2, None),
        ("11", "Sleeping", 9, 4),
        ("30", "A cat.", 9, 4),
    ]
    assert found[1].images[0] is found[2].images[0] and found[0].source == "coco/train2017"
    assert isinstance(found[0].parts[1], Image) and found[0].images[0].pixels.size == (40, 30)


def test_coco_mini(shared_data: Path) -> None:
    root = shared_data / "coco_mini"
    if not root.is_dir():
        pytest.skip("no coco_mini in the shared data")
    found = coco_captions(root)
    images = {d.meta["image_id"] for d in found}
    assert len(images) == 80 and len(found) >= 5 * 80 and all(d.text and d.images for d in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 3}, "is not COCO's caption layout"),
        ({"annotations": [{"id": 1}]}, "is not COCO's caption layout"),
        ({"annotations": [{"id": 1, "image_id": 5, "caption": ""}]}, "caption 1 is of image 5, which is not listed"),
        ({"images": [{"id": 9}, {"id": 2}]}, "is not COCO's caption layout"),
        ({"images": [{"id": 9, "file_name": "x"}, {"id": 2, "file_name": "x"}]}, "no such file"),
    ],
)
def test_coco_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        coco_captions(coco(tmp_path, **changes))


def test_coco_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="captions_train2017.json is missing in annotations/; give the folder"):
        coco_captions(tmp_path)
    (coco(tmp_path / "a") / "annotations" / "captions_train2017.json").write_text("{")
    with pytest.raises(DataError, match="is not COCO's caption layout .* download it again"):
        coco_captions(tmp_path / "a")
