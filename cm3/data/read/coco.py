"""MS-COCO as its owners publish it: five captions a picture, and what is seen where in it.

coco/annotations/captions_train2017.json            images, annotations, licenses
                 instances_train2017.json           boxes and outlines of 80 categories
                 person_keypoints_train2017.json    17 joints of a person
     train2017/000000000009.jpg                     in 2014 COCO_train2014_000000000009.jpg

A document is a caption and its picture. Boxes and joints are for tuning: they are read when they are first asked for.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from cm3.data.read.base import Records, named_picture
from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb

DEFAULT = "train2017"
LAYOUT = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What a file raises that is no JSON, or JSON of another layout."""


class Coco(Records):
    """One document a caption, `caption, picture`, in the order of image ids and then of annotation ids.

    Neighbouring captions of one picture share its `Image`. `meta` has `split`, `image_id`, and where they are known
    `license` (COCO's number), `license_name` and `license_url`.
    """

    kind = "coco"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read the captions. Raises `DataError` for a file that is missing or not of COCO's layout."""
        self.root = Path(root)
        self.split = split or next(iter(self.splits(self.root)), DEFAULT)
        self.source = f"coco/{self.split}"
        path = self.root / "annotations" / f"captions_{self.split}.json"
        content = _load(path, self.root)
        try:
            self._images = {int(i["id"]): (str(i["file_name"]), i.get("license")) for i in content["images"]}
            captions = sorted((int(a["image_id"]), int(a["id"]), str(a["caption"])) for a in content["annotations"])
            licenses = content.get("licenses", ())
            self._licenses = {i["id"]: {f"license_{k}": str(i[k]) for k in ("name", "url")} for i in licenses}
        except LAYOUT as error:
            raise DataError(f"COCO {str(path)!r}: is not COCO's caption layout ({error}); download it again") from error
        self._captions = captions
        first: dict[int, int] = {}
        self._again = {i for i, (_, annotation_id, _) in enumerate(captions) if first.setdefault(annotation_id, i) != i}
        self._last: tuple[int, Image] | None = None

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether it has annotations/captions_SPLIT.json."""
        return any(root.glob("annotations/captions_*.json"))

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those with captions: train2017 first, then others to train on, then by name."""
        found = [path.stem.removeprefix("captions_") for path in root.glob("annotations/captions_*.json")]
        return tuple(sorted(found, key=lambda split: (split != DEFAULT, not split.startswith("train"), split)))

    def __len__(self) -> int:
        return len(self._captions)

    def name(self, index: int) -> str:
        """The caption's annotation id."""
        return str(self._captions[index][1])

    def document(self, index: int) -> Document:
        """A caption and its picture."""
        image_id, annotation_id, caption = self._captions[index]
        if index in self._again:
            raise DataError(f"caption {annotation_id}: another one has this id already; an id names one caption")
        if image_id not in self._images:
            raise DataError(f"caption {annotation_id}: is of image {image_id}, which the file does not list")
        meta: dict[str, Any] = {"split": self.split, "image_id": image_id}
        if isinstance(license := self._images[image_id][1], int):
            meta["license"] = license
            meta |= self._licenses.get(license, {})
        parts = (Text(caption.strip()), self._picture(image_id))
        return Document(parts, id=str(annotation_id), source=self.source, meta=meta)

    def documents(self) -> list[Document]:
        """All at once, their pictures decoded. Raises `DataError` naming the first that cannot be read."""
        made: list[Document] = []
        for document in self:
            try:
                if isinstance(document, Unreadable):
                    raise DataError(document.reason)
                if not made or made[-1].images[0] is not document.images[0]:
                    rgb(document.images[0].pixels)
            except DataError as error:
                raise DataError(f"{self.source}, document {document.id!r}: {error}") from error
            made.append(document)
        return made

    def instances(self, image_id: int) -> list[dict[str, Any]]:
        """What is seen in a picture, as published (`bbox` x, y, width, height in pixels; `area`, `segmentation`,
        `iscrowd`, `category_id`, `id`) and with the name of its `category`. The first call reads the split's whole file
        and keeps it. Raises `DataError` where that is missing or of another layout."""
        return self._instances.get(image_id, [])

    def keypoints(self, image_id: int) -> list[dict[str, Any]]:
        """The persons in a picture: the fields of `instances`, `keypoints` (17 times x, y, and 0 not labelled, 1 hidden
        or 2 visible) and `num_keypoints`. Read, kept and refused as `instances`."""
        return self._keypoints.get(image_id, [])

    @cached_property
    def _instances(self) -> dict[int, list[dict[str, Any]]]:
        return self._annotations("instances")

    @cached_property
    def _keypoints(self) -> dict[int, list[dict[str, Any]]]:
        return self._annotations("person_keypoints")

    def _annotations(self, what: str) -> dict[int, list[dict[str, Any]]]:
        path = self.root / "annotations" / f"{what}_{self.split}.json"
        content = _load(path, self.root)
        found: dict[int, list[dict[str, Any]]] = {}
        try:
            names = {c["id"]: str(c["name"]) for c in content["categories"]}
            for annotation in content["annotations"]:
                annotation["category"] = names[annotation["category_id"]]
                found.setdefault(int(annotation["image_id"]), []).append(annotation)
        except LAYOUT as error:
            raise DataError(f"COCO {str(path)!r}: is not COCO's {what} layout ({error}); download it again") from error
        return found

    def file_name(self, image_id: int) -> str:
        """The name of a picture's file, in the split's folder."""
        return self._images[image_id][0]

    def _picture(self, image_id: int) -> Image:
        last = self._last
        if last is None or last[0] != image_id:
            self._last = last = (image_id, named_picture(self.root / self.split, self._images[image_id][0]))
        return last[1]


def _load(path: Path, root: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"COCO {str(root)!r}: {path.name} is missing in annotations/; give the folder that holds it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"COCO {str(path)!r}: is not JSON ({error}); download it again") from error
