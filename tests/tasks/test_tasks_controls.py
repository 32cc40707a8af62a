"""Where the control images of each reader's pictures are looked for, and what is said of one that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb
from cm3.read.base import Reader
from cm3.read.jsonl import JsonLines
from cm3.read.picture_folder import Folder
from cm3.read.published import Flickr30k, LocalizedNarratives
from cm3.tasks import Example, annotated, find_task, from_reader


def saved(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("L", (20, 16), shade).save(path)
    return path


def shown(reader: Reader, controls: Path | None = None) -> dict[str, int]:
    """The shade of the control image of each document that serves."""
    made = from_reader(find_task("depth"), reader, controls=controls)
    found = [one for one in made if isinstance(one, Example)]
    return {one.id.removesuffix("/depth.0"): rgb(one.document.images[0].pixels).getpixel((0, 0))[0] for one in found}


def test_a_folder_in_folders_has_its_own_map_for_each_picture(tmp_path: Path) -> None:
    photos, controls = tmp_path / "photos", tmp_path / "controls"
    for year in ("2019", "2020"):
        saved(photos / year / "IMG_1.jpg")
        (photos / year / "IMG_1.txt").write_text(year)
    saved(controls / "IMG_1.depth.png", 9)
    saved(controls / "2019_IMG_1.depth.png", 19)
    (other,) = [one for one in from_reader(find_task("depth"), Folder(photos), controls=controls) if one.id[3] == "0"]
    assert isinstance(other, Unreadable) and re.search(
        r"document '2020/IMG_1.jpg': has no depth image at .*controls/2020_IMG_1.depth.png "
        r'\(called as its image_id or else its id, "/" as "_"\); docs/tasks.md says how to make it',
        other.reason,
    )
    saved(controls / "2020_IMG_1.depth.png", 20)
    assert shown(Folder(photos), controls) == {"2019/IMG_1.jpg": 19, "2020/IMG_1.jpg": 20}
    assert not shown(Folder(photos))
    saved(photos / "2020" / "IMG_1.depth.png", 5)
    assert shown(Folder(photos)) == {"2020/IMG_1.jpg": 5}


@pytest.fixture
def flickr(tmp_path: Path) -> Flickr30k:
    saved(tmp_path / "flickr30k-images" / "1000.jpg")
    lines = "".join(f"1000.jpg#{n}\tcaption {n}\n" for n in range(2))
    (tmp_path / "results_20130124.token").write_text(lines)
    return Flickr30k(tmp_path)


@pytest.fixture
def narratives(tmp_path: Path) -> LocalizedNarratives:
    saved(tmp_path / "train2017" / "000000000107.jpg")
    lines = [{"dataset_id": "d", "image_id": "107", "annotator_id": n, "caption": "grey"} for n in range(2)]
    (tmp_path / "coco_train_captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return LocalizedNarratives(tmp_path)


def test_a_reader_knows_where_its_files_are(flickr: Flickr30k, tmp_path: Path) -> None:
    document = flickr[0]
    assert isinstance(document, Document) and flickr.picture_paths(document) == [flickr.folder / "1000.jpg"]
    for folder in (None, tmp_path / "maps"):
        path = saved((folder or flickr.folder) / "1000.hed.png")
        assert flickr.control_path(document, "hed", folder) == path
    assert flickr.annotations("instances") is None and flickr.count == 2 == len(list(flickr.spread(5)))


@pytest.mark.parametrize("beside", [True, False])
def test_one_map_a_picture_serves_all_its_captions(
    flickr: Flickr30k, narratives: LocalizedNarratives, tmp_path: Path, beside: bool
) -> None:
    controls = None if beside else tmp_path / "maps"
    assert not shown(flickr, controls) and not shown(narratives, controls)
    saved((controls or flickr.folder) / "1000.depth.png", 7)
    saved((controls or tmp_path / "train2017") / "000000000107.depth.png", 8)
    assert shown(flickr, controls) == {"1000.jpg#0": 7, "1000.jpg#1": 7}
    assert shown(narratives, controls) == {"107_0": 8, "107_1": 8}


def lines(folder: Path, *records: dict[str, Any]) -> JsonLines:
    saved(folder / "a.png")
    (folder / "all.jsonl").write_text("\n".join(json.dumps({"image": "a.png", "text": "x"} | r) for r in records))
    return JsonLines(folder)


def test_json_lines_name_files_from_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = lines(tmp_path / "pages", {"id": "near", "control_files": {"depth": "maps/a.png"}})
    saved(tmp_path / "pages" / "maps" / "a.png", 5)
    saved(tmp_path / "maps" / "a.png", 4)
    monkeypatch.chdir(tmp_path)
    assert shown(reader) == shown(JsonLines("pages/all.jsonl")) == {"near": 5}


def test_a_control_image_outside_of_its_dataset_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, task = saved(tmp_path / "far.png", 6), find_task("depth")
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "link.png").symlink_to(far)
    names = [str(far), "../far.png", "link.png"]
    reader = lines(pages, *({"id": f"d{i}", "control_files": {"depth": name}} for i, name in enumerate(names)))
    found = list(from_reader(task, reader))
    assert all(isinstance(one, Unreadable) and "outside" in one.reason for one in found) and len(found) == 3
    monkeypatch.chdir(tmp_path)
    document = Document.of("x", PIL.Image.new("L", (20, 16)), id="d", control_files={"depth": "far.png"})
    with pytest.raises(DataError, match="names 'far.png' by a text, which a reader has to find in its dataset"):
        task.examples(document)
    with pytest.raises(DataError, match="'far.png', but only JSON lines have files beside them; give a folder"):
        annotated(document, Folder(tmp_path), task)
    own = Document.of("x", PIL.Image.new("L", (20, 16)), id="d", control_files={"depth": Path("far.png")})
    assert len(task.examples(annotated(own, Folder(tmp_path), task))) == len(task.templates)
    saved(pages / "a.jpg")
    (pages / "a.txt").write_text("x")
    (pages / "a.depth.png").symlink_to(far)
    (refused,) = [one for one in from_reader(task, Folder(pages)) if one.id == "a.jpg"]
    assert isinstance(refused, Unreadable) and "is a link that leads outside" in refused.reason


def test_other_readers_documents_by_image_id_or_id(tmp_path: Path) -> None:
    ids = [{"id": "a/v1.5"}, {"id": "b/C.JPG"}, {"id": "c", "image_id": 12}, {"id": "d", "image_id": "x/y"}, {}]
    reader, controls = lines(tmp_path / "pages", *ids), tmp_path / "maps"
    for shade, name in enumerate(("a_v1.5", "b_C", "12", "x_y", "all.jsonl:5")):
        saved(controls / f"{name}.depth.png", shade)
    assert shown(reader, controls) == {"a/v1.5": 0, "b/C.JPG": 1, "c": 2, "d": 3, "all.jsonl:5": 4}
    long = lines(tmp_path / "long", {"id": "n" * 300})
    (refused, *_) = from_reader(find_task("depth"), long, controls=controls)
    assert isinstance(refused, Unreadable) and "has no depth image at " in refused.reason
    (refused, *_) = from_reader(find_task("depth"), long)
    assert isinstance(refused, Unreadable) and "has no depth image at its meta 'control_files'; docs" in refused.reason


@pytest.mark.parametrize("files", ["a.depth.png", ["depth"], {"depth": 5}])
def test_names_of_files_that_are_none(tmp_path: Path, files: Any) -> None:
    document = Document.of("x", PIL.Image.new("L", (20, 16)), id="d1", control_files=files)
    reader, task = lines(tmp_path), find_task("depth")
    for make in (lambda: task.examples(document), lambda: annotated(document, reader, task)):
        with pytest.raises(DataError, match="document 'd1': 'control_files' is .*, must be an object of files by kind"):
            make()


def test_a_map_that_is_cut_short(tmp_path: Path) -> None:
    reader = lines(tmp_path, {"id": "d1", "control_files": {"depth": "map.png"}})
    PIL.Image.effect_noise((20, 16), 60).save(tmp_path / "map.png")
    (tmp_path / "map.png").write_bytes((tmp_path / "map.png").read_bytes()[:200])
    (refused,) = from_reader(find_task("depth"), reader)
    assert isinstance(refused, Unreadable) and refused.reason.startswith(
        "document 'd1': map.png: image of mode L: cannot be"
    )
