"""Any dataset of the Hugging Face hub with pictures or text in it, as it streams: nothing is downloaded before.

huggingface:owner/name@train           owner/name:CONFIG where it has several configurations
    row 0    {"image": ..., "caption": "A boat", "url": ...}        a document
    row 1    {"image": ..., "captions": ["A boat", "At sea"]}       a document a caption

The first of the columns `IMAGES` and the first of `WORDS` that a dataset has are read, and go together as `caption,
picture`. Needs the library `datasets` (pip install 'cm3leon[data]').
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import PIL.Image

from cm3.data.read.base import UNIT, Reader, Unit
from cm3.data.read.webdataset import opened, said
from cm3.document import Document, Image, Part, Text, Unreadable
from cm3.errors import DataError
from cm3.files import inside
from cm3.picture import open_picture

IMAGES = ("image", "jpg", "jpeg", "png", "webp")
WORDS = ("caption", "captions", "text", "txt", "sentences")
LONGEST = 2000
"""Characters of JSON of a value that is kept as `meta`."""


class HuggingFace(Reader):
    """Documents of a split ("train" where none is given), one unit a shard that the owner made.

    `id` is the shard's number and the row's in it ("0/17", where there are several captions "0/17/2"). `meta` has
    `dataset`, `split`, `license` where the owner says one, and every other column whose value is short and plain.
    """

    kind = "huggingface"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Open the stream. Raises `DataError` where `datasets` is not installed, and for what it refuses."""
        try:
            import datasets
        except ImportError as error:
            raise DataError(f"huggingface:{root}: needs the library 'datasets'; pip install 'cm3leon[data]'") from error
        self.name, self.split = str(root), split or "train"
        self.source = f"huggingface/{self.split}"
        owner, _, config = self.name.partition(":")
        self._root = owner
        try:
            loaded = datasets.load_dataset(owner, config or None, split=self.split, streaming=True)
            self._rows = loaded.decode(False)  # pictures as they are in the file, so that one may be damaged
        except Exception as error:  # as many kinds as there are loaders
            raise DataError(f"huggingface:{root}@{self.split}: cannot be opened ({said(error)}); check it") from error
        if self._rows.column_names is not None:
            columns(self._rows.column_names, self.name)
        self._meta = {"dataset": self.name, "split": self.split}
        self._license = self._rows.info.license or None

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """No path is; it has to be asked for by name."""
        return False

    def units(self, size: int = UNIT) -> list[Unit]:
        """One a shard."""
        return [Unit(str(i)) for i in range(self._rows.num_shards)]

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """The documents of a shard in order. Raises `DataError` when the stream breaks off."""
        rows = iter(self._rows.shard(num_shards=self._rows.num_shards, index=int(unit.name), contiguous=True))
        number = 0
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # as many kinds as there are loaders
                raise DataError(
                    f"huggingface:{self.name}@{self.split}: shard {unit.name} breaks off after {number} rows "
                    f"({said(error)}); try again"
                ) from error
            if row is None:
                return
            if self._license is not None:
                row = {"license": self._license} | {name: value for name, value in row.items() if value is not None}
            yield from documents(row, f"{unit.name}/{number}", self.source, self._meta, self._root)
            number += 1


def documents(
    row: Mapping[str, Any], id: str, source: str, meta: Mapping[str, Any], root: str = ""
) -> Iterator[Document | Unreadable]:
    """The documents of a row: one, or one for each of several captions, which share the picture.

    `meta` goes before the row's own values. A picture that is named is read where it is a file of `root`, a folder or
    a dataset OWNER/NAME of the hub, and nowhere else. Raises `DataError` for a row without any of the known columns.
    """
    image, words = columns(row, source)
    rest = {name: value for name, value in row.items() if name not in (image, words) and _is_plain(value)}
    texts = _texts(row[words]) if words is not None else [""]
    try:
        if texts is None:
            raise DataError(f"its {words!r} is neither a text nor a list of texts")
        pictures = [] if image is None or row[image] is None else [_picture(row[image], root)]
    except DataError as error:
        yield Unreadable(id, str(error))
        return
    for number, text in enumerate(texts):
        parts: list[Part] = [Text(text.strip())] if text.strip() else []
        own = id if len(texts) == 1 else f"{id}/{number}"
        yield Document((*parts, *pictures), id=own, source=source, meta={**rest, **meta})


def columns(names: Collection[str], where: str) -> tuple[str | None, str | None]:
    """The columns of pictures and of words. Raises `DataError` where there is neither, naming those looked for."""
    image = next((name for name in IMAGES if name in names), None)
    words = next((name for name in WORDS if name in names), None)
    if image is None and words is None:
        raise DataError(
            f"huggingface: {where}: has columns {', '.join(names)}, but none of {', '.join((*IMAGES, *WORDS))}; "
            "write it as JSON lines (cm3/data/read/jsonl.py), or rename its columns"
        )
    return image, words


def _texts(value: Any) -> list[str] | None:
    """Texts, lists of them, and Karpathy's `sentences`, whose text is `raw`; None for anything else."""
    if isinstance(value, Mapping):
        return _texts(value.get("raw"))
    if isinstance(value, list) and value:
        texts = [_texts(one) for one in value]
        return [text for some in texts if some is not None for text in some] if None not in texts else None
    if value is None or value == []:
        return [""]
    return [value] if isinstance(value, str) else None


def _picture(value: Any, root: str) -> Image:
    """A picture as `datasets` gives it: decoded, as bytes, or as bytes or a path with their name."""
    if isinstance(value, PIL.Image.Image):
        return Image(value)
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        try:
            with opened(_own(value, root)) as file:
                value = file.read()
        except OSError as error:
            raise DataError(f"{value!r}: cannot be read ({said(error)}); try again") from error
    if not isinstance(value, bytes):
        raise DataError(f"its picture is {type(value).__name__}, not the bytes of a file")
    return Image(open_picture(value))


def _own(path: str, root: str) -> str:
    """A file that a row names, where it is one of the dataset `root`. Raises `DataError` for any other."""
    archives, _, last = path.rpartition("::")  # zip://a.png::hf://datasets/OWNER/NAME@main/all.zip
    packed = not archives or all(re.match(r"(zip|tar|gzip)://", one) for one in archives.split("::"))
    home = f"hf://datasets/{root}"
    if root and packed and "://" in last:
        if last.startswith((f"{home}@", f"{home}/")) and ".." not in last.split("/"):
            return path
    elif root and packed and os.path.isdir(root):
        file = os.path.relpath(os.path.realpath(os.path.join(root, last)), os.path.realpath(root))
        return path[: len(path) - len(last)] + str(inside(root, file, "its picture"))
    raise DataError(f"its picture is {path!r:.80}, which is no file of the dataset; put its bytes into the row")


def _is_plain(value: Any) -> bool:
    try:
        return value is not None and len(json.dumps(value, allow_nan=False)) <= LONGEST
    except (TypeError, ValueError, RecursionError):
        return False
