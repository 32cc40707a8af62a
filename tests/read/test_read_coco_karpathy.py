"""Karpathy's splits of MS-COCO's captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published import picture, write

from cm3.document import Document, Unreadable
from cm3.errors import DataError
from cm3.read.find import open_reader, recognise
from cm3.read.published import CocoKarpathy


def image(number: int, split: str, folder: str = "val2014", **more: Any) -> dict[str, Any]:
    """A picture as dataset_coco.json has it, with two captions."""
    some = [{"raw": f" Thing {number} said {k}.", "sentid": 10 * number + k} for k in range(2)]
    name = f"COCO_{folder}_{number:012d}.jpg"
    page = {"filepath": folder, "filename": name, "cocoid": number, "imgid": 0, "split": split, "sentences": some}
    return {**page, **more}


def made(root: Path, images: list[dict[str, Any]]) -> Path:
    for one in images:
        write(root / str(one["filepath"]) / str(one["filename"]), picture(1))
    write(root / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return root


def test_its_splits_and_documents(tmp_path: Path) -> None:
    root = made(tmp_path, [image(9, "train", "train2014"), image(42, "test"), image(7, "restval"), image(8, "test")])
    assert recognise(root)[0] == "coco_karpathy"
    assert CocoKarpathy.splits(root) == ("train", "restval", "val", "test")
    reader = open_reader(f"coco_karpathy:{root}@test")
    found = list(reader)
    assert [one.id for one in found] == [f"COCO_val2014_{n:012d}.jpg#{k}" for n in (42, 8) for k in range(2)]
    first = found[0]
    assert isinstance(first, Document) and first.text == "Thing 42 said 0." and first.source == "coco_karpathy/test"
    name = "val2014/COCO_val2014_000000000042.jpg"
    assert first.meta == {"split": "test", "image_id": 42, "sentid": 420, "file": name}
    assert reader.picture_paths(first) == [root / name] and first.images[0].pixels.size == (96, 72)
    assert [one.meta["image_id"] for one in CocoKarpathy(root) if isinstance(one, Document)] == [9, 9]


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"COCO '.*': has no dataset_coco.json; give the folder that holds it"):
        CocoKarpathy(tmp_path)
    root = made(tmp_path, [image(1, "test"), image(2, "test"), image(3, "test"), image(4, "test")])
    page = json.loads((root / "dataset_coco.json").read_text())
    page["images"][1]["filepath"] = ".."
    page["images"][2]["cocoid"] = "3"
    (root / "val2014/COCO_val2014_000000000004.jpg").unlink()
    write(root / "dataset_coco.json", page)
    found = list(CocoKarpathy(root, "test"))
    assert isinstance(found[0], Document) and isinstance(found[1], Document)
    told = [one.reason for one in found[2:] if isinstance(one, Unreadable)]
    assert "'filepath' is '..', which must be the name of a file" in told[0]
    assert "'cocoid' is '3', must be a whole number" in told[1]
    assert all("no such file" in one for one in told[2:]) and len(told) == 4
