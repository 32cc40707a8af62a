"""MS-COCO as its owners publish it: five captions a picture, and what is seen where in it.

coco/annotations/captions_train2017.json            images, annotations, licenses
                 instances_train2017.json           boxes and outlines of 80 categories
                 person_keypoints_train2017.json    17 joints of a person
     train2017/000000000009.jpg                     in 2014 COCO_train2014_000000000009.jpg

A document is a caption and its picture. Boxes and joints are for tuning: they are read when they are first asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.files import is_number
from cm3.read.base import Records, field, folders_of, named_picture
from cm3.read.places import NONE, TEXTS, Places

DEFAULT = "train2017"
ID = (int, str)
"""Types of an id: a whole number, as COCO's are, or a text."""


class Coco(Records):
    """One document a caption, `caption, picture`, in the order of image ids and then of annotation ids.

    Neighbouring captions of one picture share its `Image`. `meta` has `split`, `image_id`, and where they are known
    `license` (COCO's number), `license_name` and `license_url`. Each record is checked when it is read. Images whose
    id is none, or not theirs alone, follow the captions, unreadable: no caption can be of them.
    """

    kind = "coco"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Find the captions. Raises `DataError` for a file that is missing or not of COCO's layout, and for a folder
        of pictures that is missing."""
        self.root = Path(root)
        self.split = split or next(iter(self.splits(self.root)), DEFAULT)
        self.source = f"coco/{self.split}"
        self._captions = captions = self._file("captions", "images")
        folders_of(self.root, [self.split])
        self._licenses, self._again = _by_id(captions, "licenses"), _again(captions)
        keys = captions.keys("images")
        same = keys[1:] == keys[:-1]
        shared = np.append(same, False) | np.insert(same, 0, False) | (keys == NONE)
        self._strays = (captions.rows("images").start + np.flatnonzero(shared)).tolist()
        self._last: tuple[int | str, tuple[Image, dict[str, Any]]] | None = None

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return any(root.glob("annotations/captions_*.json"))

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Return the splits with captions: train2017 first, then others to train on, then by name."""
        found = [path.stem.removeprefix("captions_") for path in root.glob("annotations/captions_*.json")]
        return tuple(sorted(found, key=lambda split: (split != DEFAULT, not split.startswith("train"), split)))

    def __len__(self) -> int:
        return len(self._captions.rows("annotations")) + len(self._strays)

    def name(self, index: int) -> str:
        """Return the caption's annotation id; list and record of one that has none, and of an image."""
        if index >= (n := len(self._captions.rows("annotations"))):
            return f"images/{self._captions.number(self._strays[index - n])}"
        row = self._captions.rows("annotations")[index]
        if (key := int(self._captions.ids("annotations")[index])) < TEXTS:
            return str(key)
        with contextlib.suppress(DataError):
            return str(_named(self._captions.record(row), "id", ""))
        return f"annotations/{self._captions.number(row)}"

    def document(self, index: int) -> Document:
        """Return a caption and its picture. Raises `DataError` for records that are not COCO's, or no picture."""
        found, rows = self._captions, self._captions.rows("annotations")
        if index >= len(rows):
            return self._stray(self._strays[index - len(rows)])
        record, where = found.record(rows[index]), found.where(rows[index])
        annotation_id, image_id = _named(record, "id", where), _named(record, "image_id", where)
        caption = field(record, "caption", str, where)
        if index in self._again:
            raise DataError(f"caption {annotation_id}: another one has this id already; an id names one caption")
        image, license = self._image(image_id, f"caption {annotation_id}")
        meta: dict[str, Any] = {"split": self.split, "image_id": image_id, **license}
        return Document((Text(caption.strip()), image), id=str(annotation_id), source=self.source, meta=meta)

    def annotations(self, need: str) -> _Things | None:
        """Return the `instances` or the `keypoints` of its pictures, found when they are first asked for.

        Of a picture they are in the order of ids, as published (`bbox` x, y, width, height in pixels; `area`,
        `segmentation`, `iscrowd`, `category_id`, `id`) and with the name of the `category`; persons also with
        `keypoints` (17 times x, y, and 0 not labelled, 1 hidden or 2 visible) and `num_keypoints`. Raises `DataError`
        where the file is missing or of another layout.
        """
        files = {"instances": "instances", "keypoints": "person_keypoints"}
        if need in files and need not in self._things:
            self._things[need] = _Things(self._file(files[need], "categories"))
        return self._things.get(need)

    def picture_paths(self, document: Document) -> list[Path]:
        """Return its file. Raises `DataError` where the annotations do not list it once, or its name is none."""
        image_id = document.meta["image_id"]
        return [self.root / self.split / self._listed(image_id, f"image {image_id}")[0]]

    @cached_property
    def _things(self) -> dict[str, _Things]:
        return {}

    def _file(self, what: str, needs: str) -> Places:
        """Return a file of the split. Raises `DataError` for one that is missing, or lists none of what it `needs`."""
        path = self.root / "annotations" / f"{what}_{self.split}.json"
        if not self.root.is_dir():
            raise DataError(f"COCO {str(self.root)!r}: no such folder; give the one that holds annotations/")
        if not path.exists():
            raise DataError(
                f"COCO {str(self.root)!r}: {path.name} is missing in annotations/; give the folder that holds it"
            )
        found = Places(path)
        if found.rows("annotations") and not found.rows(needs):
            raise DataError(f"COCO {str(path)!r}: has annotations and no {needs!r}; download it again")
        return found

    def _listed(self, image_id: int | str, where: str) -> tuple[str, dict[str, Any]]:
        """Return file and license of a picture."""
        found = self._captions
        rows = [row for row in found.find("images", image_id) if found.record(row).get("id") == image_id]
        if not rows:
            raise DataError(f"{where}: is of image {image_id}, which the file does not list")
        if len(rows) > 1:
            raise DataError(f"{where}: is of image {image_id}, but {self._both(rows)}")
        record = found.record(rows[0])
        license = record.get("license")
        told: dict[str, Any] = {}
        if type(license) is int:
            told["license"] = license
            for where, named in self._licenses.get(license, [])[:1]:
                told |= {f"license_{key}": field(named, key, str, where) for key in ("name", "url")}
        return field(record, "file_name", str, found.where(rows[0])), told

    def _image(self, image_id: int | str, where: str) -> tuple[Image, dict[str, Any]]:
        """Return the picture and license, of the same picture as before the very same."""
        last = self._last
        if last is None or last[0] != image_id:
            name, told = self._listed(image_id, where)
            self._last = last = (image_id, (named_picture(self.root / self.split, name), told))
        return last[1]

    def _both(self, rows: list[int]) -> str:
        return f"{' and '.join(map(self._captions.where, rows))} have this id; an id names one image"

    def _stray(self, row: int) -> Document:
        """Raise why an image is none."""
        found = self._captions
        id = _named(found.record(row), "id", found.where(row))
        rows = [other for other in found.find("images", id) if found.record(other).get("id") == id]
        raise DataError(f"image {id}: {self._both(rows)}")


def _named(record: dict[str, Any], name: str, where: str) -> int | str:
    id: int | str = field(record, name, ID, where)
    if type(id) is bool or id == "" or isinstance(id, int) and abs(id) >= 2**62:
        raise DataError(f"{where}: {name!r} is {id!r:.40}, must be a whole number of COCO's size, or a text")
    return id


class _Things:
    """The annotations of a file by picture, checked as they are asked for."""

    def __init__(self, found: Places) -> None:
        self.found = found
        self.again = _again(found)
        self.categories = _by_id(found, "categories")

    def of(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return those of a picture.

        Raises `DataError` where one of them is not COCO's: a picture of which not all is known is not to be used.
        """
        start = self.found.rows("annotations").start
        read = [(row, self.found.record(row)) for row in self.found.find("annotations", image_id)]
        return [
            self._checked(record, self.found.where(row), row - start)
            for row, record in read
            if record.get("image_id") == image_id  # of two texts with one key
        ]

    def strays(self) -> Iterator[Unreadable]:
        """Yield those that name no picture."""
        rows, keys = self.found.rows("annotations"), self.found.keys("annotations")
        for row in rows[int(np.searchsorted(keys, NONE)) :]:
            try:
                _named(self.found.record(row), "image_id", self.found.where(row))
            except DataError as error:
                yield Unreadable(f"{self.found.path.stem}/{self.found.number(row)}", str(error))

    def _checked(self, record: dict[str, Any], where: str, index: int) -> dict[str, Any]:
        id, category = _named(record, "id", where), _named(record, "category_id", where)
        if index in self.again:
            raise DataError(f"{where}: 'id' is {id!r:.40}, as that of another; an id names one annotation")
        if "bbox" in record:
            box = record["bbox"]
            if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) >= 0):
                raise DataError(f"{where}: 'bbox' is {box!r:.60}, must be x, y, width, height, and no size below 0")
        if not is_number(area := record.get("area", 0)) or area < 0:
            raise DataError(f"{where}: 'area' is {area!r:.40}, must be a number that is not below 0")
        if (crowd := record.get("iscrowd", 0)) not in (0, 1):
            raise DataError(f"{where}: 'iscrowd' is {crowd!r:.40}, must be 0 or 1")
        if len(named := self.categories.get(category, [])) != 1:
            raise DataError(f"{where}: 'category_id' is {category!r:.40}, which 'categories' has {len(named)} times")
        name: str = field(named[0][1], "name", str, named[0][0])
        if not name.strip():
            raise DataError(f"{named[0][0]}: 'name' is empty, must be what is seen")
        return record | {"category": name}


def _again(found: Places) -> set[int]:
    """Return which annotations have the id of one that stands before them in the file, counted from the first row."""
    ids = found.ids("annotations")
    order = np.lexsort([found.numbers("annotations"), ids])
    again = np.insert(ids[order][1:] == ids[order][:-1], 0, False) & (ids[order] != NONE) if len(ids) else order
    return set(order[np.flatnonzero(again)].tolist())


def _by_id(found: Places, name: str) -> dict[int | str, list[tuple[str, dict[str, Any]]]]:
    """Return the records of a short list, each with where it stands, by their ids; those without one are nobody's."""
    made: dict[int | str, list[tuple[str, dict[str, Any]]]] = {}
    for row in found.rows(name):
        with contextlib.suppress(DataError):
            record, where = found.record(row), found.where(row)
            made.setdefault(_named(record, "id", where), []).append((where, record))
    return made
