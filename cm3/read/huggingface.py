"""Any dataset of the Hugging Face hub with pictures or text in it, as it streams: nothing is downloaded before.

huggingface:owner/name@train           owner/name:CONFIG where it has several configurations
    row 0    {"image": ..., "caption": "A boat", "url": ...}        a document
    row 1    {"image": ..., "captions": ["A boat", "At sea"]}       a document a caption
    row 2    {"image": ..., "caption_0": "A boat", "caption_1": "At sea"}    the same

The meaning of columns is in `cm3.read.fields`; a picture and words go together as `caption, picture`. Columns that are
neither are counted in `passed`; their short values go to `meta`. Needs the library `datasets` (pip install
datasets).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import PIL.Image

from cm3.document import Document, Image, Unreadable
from cm3.errors import DataError
from cm3.files import inside, said
from cm3.read.base import UNIT, Reader, Unit, captioned
from cm3.read.fields import (
    IMAGES,
    PLAIN,
    WORDS,
    check_fetched,
    far_in,
    left_in,
    meta_of,
    pictures_in,
    talk_in,
    texts_in,
    words_in,
)
from cm3.read.walk import Passed
from cm3.read.webdataset import opened


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
            raise DataError(f"huggingface:{root}: needs the library 'datasets'; pip install datasets") from error
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
            names = self._rows.column_names
            images, words = columns(names, self.name)
            maybe = left_in(names, (*images, *words))
            for name in names:
                if name not in (*images, *words):
                    kind = "a column that may be words" if name in maybe else "a column"
                    self.listed.add(f"{kind}, kept as meta alone", name)
        self._meta = {"dataset": self.name, "split": self.split}
        self._license = self._rows.info.license or None

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Recognise no path: it has to be asked for by name."""
        return False

    def units(self, size: int = UNIT) -> list[Unit]:
        return [Unit(str(i)) for i in range(self._rows.num_shards)]

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Yield the documents of a shard in order. Raises `DataError` when the stream breaks off."""
        rows = iter(self._rows.shard(num_shards=self._rows.num_shards, index=int(unit.name), contiguous=True))
        number, passed = 0, Passed()
        self._passed_in[unit.name] = passed
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
            if self._license is not None and row.get("license") is None:
                row = {"license": self._license} | {name: value for name, value in row.items() if name != "license"}
            yield from documents(row, f"{unit.name}/{number}", self.source, self._meta, self._root, passed)
            number += 1


def documents(
    row: Mapping[str, Any],
    id: str,
    source: str,
    meta: Mapping[str, Any],
    root: str = "",
    passed: Passed | None = None,
) -> Iterator[Document | Unreadable]:
    """Yield the documents of a row: one, or one for each of several captions, which share the picture.

    `meta` goes before the row's own values. A picture that is named is read where it is a file of `root`, a folder or
    a dataset OWNER/NAME of the hub, and nowhere else. Words whose picture is null, or stands in a column that is not
    known, are unreadable, and so is what was never fetched; empty ones are counted in `passed`. Raises `DataError` for
    a row without any of the columns that are known.
    """
    images, words = columns(row, source)
    try:
        check_fetched(row)
        texts = texts_in(row, words) or [""] * bool(words)
        pictures = [_picture(one, root) for name in images for one in _listed(row[name])]
        if images and not pictures and any(text.strip() for text in texts):
            raise DataError(f"its {images[0]!r} is null: words without the picture that they are of are no document")
        if not images and (files := [name for name, value in row.items() if _is_file(value)]):
            raise DataError(f"its {files[0]!r} is a file that is not read, so its words are not taken; call it 'image'")
    except DataError as error:
        yield Unreadable(id, str(error))
        return
    rest = {**meta_of(row, (*images, *words)), **meta}
    yield from captioned(id, source, texts, pictures, rest, Passed() if passed is None else passed)


def columns(names: Collection[str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of pictures and of words.

    Raises `DataError` where there is neither, where the pictures are addresses alone, where nobody can say which
    picture is meant, and where the words are questions or talk.
    """
    try:
        images = pictures_in(names)
    except DataError as error:
        raise DataError(f"huggingface: {where}: {error}") from error
    words = words_in(names, alone=not images)
    told = f"huggingface: {where}: has columns {', '.join(names)}"
    if not images and (far := far_in(names, words_in(names))):
        raise DataError(
            f"{told}: {far!r} is the address of a picture, which is not fetched; fetch them with img2dataset, and give "
            "its shards as webdataset:"
        )
    if not images and not words:
        raise DataError(
            f"{told}, but none of {', '.join((*IMAGES, *WORDS[:PLAIN]))}; write it as JSON lines "
            "(cm3/read/jsonl.py), or rename its columns"
        )
    if images and not words and (talk := talk_in(names)):
        raise DataError(
            f"{told}: {', '.join(map(repr, talk))} are no caption, and without them a picture is half a record; write "
            "its parts as JSON lines (cm3/read/jsonl.py)"
        )
    return images, words


def _listed(value: Any) -> list[Any]:
    """Return a picture or a list of them, without what is null."""
    return [one for one in (value if isinstance(value, list) else [value]) if one is not None]


def _is_file(value: Any) -> bool:
    """Tell whether a value is the bytes of a file, or a picture, as `datasets` gives them."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return isinstance(value, bytes | PIL.Image.Image)


def _picture(value: Any, root: str) -> Image:
    """Return a picture as `datasets` gives it: decoded, as bytes, or as bytes or a path with their name."""
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
    return Image(data=value)


def _own(path: str, root: str) -> str:
    """Return a file that a row names, where it is one of the dataset `root`. Raises `DataError` for any other."""
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
