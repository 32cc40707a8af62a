"""Localized Narratives (Pont-Tuset et al. 2020) as their owners publish them: spoken descriptions of four datasets.

coco_train_captions.jsonl                               image captions only, or
coco_train_localized_narratives-00000-of-00004.jsonl    the full narratives, far larger files
    {"dataset_id": "mscoco_train2017", "image_id": "107899", "annotator_id": 5, "caption": "...", ...}

The pictures are as each dataset's own archives unpack, beside these files or in a folder of the part's name there:

coco            train2017/000000107899.jpg, val2017/
open_images     train/ID.jpg (or train_0/ to train_f/, by the first digit of ID), validation/, test/
flickr30k       flickr30k-images/ID.jpg (or flickr30k_images/)
ade20k          images/training/ADE_train_00000001.jpg, images/validation/ (or below ADEChallengeData2016/)
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from pathlib import Path
from typing import Any

from cm3.document import Document, Text
from cm3.errors import DataError
from cm3.files import parse_json, said
from cm3.read.base import LINE, Records, field, first_of, line_starts
from cm3.read.listed import picture_in

_FLICKR = ("flickr30k-images/{0}.jpg", "flickr30k_images/{0}.jpg")
_ADE = ("images/{1}/{0}.jpg", "ADEChallengeData2016/images/{1}/{0}.jpg")
PLACES = {
    "open_images_train": ("train/{0}.jpg", "train_{0[0]}/{0}.jpg"),
    "open_images_val": ("validation/{0}.jpg",),
    "open_images_test": ("test/{0}.jpg",),
    "coco_train": ("train2017/{0:0>12}.jpg",),
    "coco_val": ("val2017/{0:0>12}.jpg",),
    "flickr30k_train": _FLICKR,
    "flickr30k_val": _FLICKR,
    "flickr30k_test": _FLICKR,
    "ade20k_train": tuple(place.replace("{1}", "training") for place in _ADE),
    "ade20k_val": tuple(place.replace("{1}", "validation") for place in _ADE),
}
"""Split, by the name that the owners' loader gives it -> where the picture of an image id may be."""
_FILE = re.compile(
    r"(open_images|coco|flickr30k|ade20k)_(train|val|test)(?:idation)?(?:_v6)?"
    r"_(captions|localized_narratives)(?:-\d{5}-of-\d{5})?\.jsonl"
)


class LocalizedNarratives(Records):
    """One document a narrative, `caption, picture`, in the order of the files and their lines.

    Lines are found once and read when they are asked for. Of a split that is there both ways the captions are read,
    and of shards those that are there. `id` is image and annotator ("107899_5"), and `meta` has `split`, `dataset_id`,
    `image_id` and `annotator_id`. `timed_caption`, `traces` and `voice_recording` are left in the files.
    """

    kind = "localized_narratives"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Find the lines of a split; without `split`, the first that is there, in the order of `PLACES`.

        Raises `DataError` where no file or no folder of pictures is there, for an unknown split and for a file that
        cannot be read.
        """
        self.root = Path(root)
        found = _files(self.root)
        if not found:
            raise DataError(
                f"Localized Narratives {str(root)!r}: has no file like coco_train_captions.jsonl; give the folder that "
                "holds them, under the names that they are published by"
            )
        self.split = next(iter(found)) if split is None else split
        if self.split not in found:
            raise DataError(f"Localized Narratives {str(root)!r}: has no split {split!r}; it has {', '.join(found)}")
        self.files = found[self.split]
        self.source = f"{self.kind}/{self.split}"
        part = self.split.rpartition("_")[0]
        self.places = [base + place for base in ("", f"{part}/") for place in PLACES[self.split]]
        folders = [place.rpartition("/")[0].replace("{0[0]}", "[0-9a-f]") for place in self.places]
        if not any(path.is_dir() for folder in folders for path in self.root.glob(folder)):
            raise DataError(
                f"Localized Narratives {str(root)!r}: has no folder {' or '.join(folders)}; put the pictures of "
                f"{self.split} there"
            )
        self.starts = array("Q")  # byte at which a line starts, in its file
        self.first: list[int] = []  # number of the first line of a file
        for path in self.files:
            self.first.append(len(self.starts))
            try:
                with path.open("rb") as file:
                    self.starts += line_starts(file)[:-1]
            except OSError as error:
                raise DataError(f"Localized Narratives {str(path)!r}: cannot be read ({error.strerror})") from error

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a file of any split is there, under its published name."""
        return bool(_files(root))

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those that there is a file of: coco_train, flickr30k_val, ..."""
        return tuple(_files(root))

    def __len__(self) -> int:
        return len(self.starts)

    def name(self, index: int) -> str:
        """Image and annotator; file and line, where the line does not say them."""
        _, where = self._place(index)
        try:
            return _id(self._record(index), where)
        except DataError:
            return where

    def document(self, index: int) -> Document:
        """A caption and its picture. Raises `DataError` for a damaged line or a missing picture."""
        _, where = self._place(index)
        record = self._record(index)
        id, image_id = _id(record, where), record["image_id"]
        text = field(record, "caption", str, where).strip()
        if not text:
            raise DataError(f"{where}: has an empty caption")
        files = [self.root / place.format(image_id) for place in self.places]
        image = picture_in([path.parent for path in files], files[0].name)
        dataset = record.get("dataset_id") and field(record, "dataset_id", str, where)
        meta = {"split": self.split, "dataset_id": dataset, "image_id": image_id}
        meta["annotator_id"] = record["annotator_id"]
        return Document((Text(text), image), id=id, source=self.source, meta=meta)

    def picture_paths(self, document: Document) -> list[Path]:
        """Return its file: the first of its places that has it, else the first."""
        files = [self.root / place.format(document.meta["image_id"]) for place in self.places]
        return [next((path for path in files if first_of(path.parent, [path.name])), files[0])]

    def _place(self, index: int) -> tuple[Path, str]:
        """The file of a line, and "FILE:NUMBER" of the line."""
        at = bisect_right(self.first, index) - 1
        return self.files[at], f"{self.files[at].name}:{index - self.first[at] + 1}"

    def _record(self, index: int) -> Any:
        """What a line says. Raises `DataError` for one that is not JSON."""
        path, where = self._place(index)
        try:
            with path.open("rb") as file:
                file.seek(self.starts[index])
                line = file.readline(LINE + 1)
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({said(error)})") from error
        if len(line) > LINE:
            raise DataError(f"{where}: has more than {LINE} bytes; download the file again")
        return parse_json(line, where)


def _files(root: Path) -> dict[str, list[Path]]:
    """Split -> its files, in the order of `PLACES` and of the shards; captions alone where there are both."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.glob("*.jsonl")):
        if named := _FILE.fullmatch(path.name):
            found.setdefault(f"{named[1]}_{named[2]}", {}).setdefault(named[3], []).append(path)
    return {
        split: found[split].get("captions") or found[split]["localized_narratives"]
        for split in PLACES
        if split in found
    }


def _id(record: Any, where: str) -> str:
    image_id = field(record, "image_id", str, where)
    if not re.fullmatch(r"\w{1,200}", image_id):
        raise DataError(f"{where}: image_id {image_id!r:.60} is not the name of a picture")
    return f"{image_id}_{field(record, 'annotator_id', int, where)}"
