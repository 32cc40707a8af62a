"""Sources and their readers: a source is written `[KIND:]PATH[@SPLIT]`.

data/coco                            the kind is recognised, the split is the reader's default
coco:data/coco@val2017
webdataset:https://host/{00000..00099}.tar
huggingface:owner/name@train
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import NamedTuple, cast

from cm3.errors import DataError, did_you_mean
from cm3.read.base import Reader

READERS = {
    "store": "stored:StoredDocuments",
    "coco": "coco:Coco",
    "coco_karpathy": "published:CocoKarpathy",
    "flickr30k": "published:Flickr30k",
    "image_paragraph": "published:ImageParagraph",
    "localized_narratives": "published:LocalizedNarratives",
    "vqa2": "questions:Vqa2",
    "vizwiz": "questions:VizWiz",
    "okvqa": "questions:OkVqa",
    "scienceqa": "questions:ScienceQa",
    "instructpix2pix": "published:InstructPix2Pix",
    "visdial": "questions:VisDial",
    "webdataset": "webdataset:WebDataset",
    "imagefolder": "imagefolder:ImageFolder",
    "jsonl": "jsonl:JsonLines",
    "huggingface": "huggingface:HuggingFace",
    "folder": "picture_folder:Folder",
}
"""Kind -> module and class below cm3.read, the most particular first: a folder of pictures is recognised last."""
REMOTE = ("webdataset", "huggingface")
"""Kinds whose path need not be one of this machine."""


class Source(NamedTuple):
    """A source as it is written. `kind` and `split` are None where they are left to be found."""

    kind: str | None
    path: str
    split: str | None

    def __str__(self) -> str:
        before = "" if self.kind is None else f"{self.kind}:"
        return before + self.path + ("" if self.split is None else f"@{self.split}")


def parse_source(text: str) -> Source:
    """Read `[KIND:]PATH[@SPLIT]`. Raises `DataError` for a source without a path or with an unknown kind."""
    before, colon, after = text.partition(":")
    kind: str | None = None
    path = text
    if colon and before in READERS:
        kind, path = before, after
    elif colon and "/" not in before and not after.startswith("/") and not Path(text).exists():
        raise DataError(
            f"source {text!r}: no reader is called {before!r}; known: {', '.join(READERS)}."
            + did_you_mean(before, list(READERS))
        )
    stem, at, last = path.rpartition("@")
    split: str | None = None
    if at and last and "/" not in last and not Path(path).exists():
        path, split = stem, last
    if not path:
        raise DataError(f"source {text!r}: has no path; write [KIND:]PATH[@SPLIT]")
    return Source(kind, path, split)


def reader_class(kind: str) -> type[Reader]:
    """Return the reader of a kind."""
    module, _, name = READERS[kind].partition(":")
    return cast("type[Reader]", getattr(importlib.import_module(f"cm3.read.{module}"), name))


def recognise(root: str | Path) -> list[str]:
    """Return the kinds that a path looks like, the most particular first. Raises `DataError` for a path that is not
    there."""
    root = Path(root)
    if not root.exists():
        raise DataError(f"{str(root)!r}: no such file or folder; check the path")
    return [kind for kind in READERS if reader_class(kind).recognises(root)]


def open_reader(source: str | Source) -> Reader:
    """Return the reader of a source.

    Raises `DataError` for a path that is not there or that no reader recognises, a split that it does not have, and
    whatever the reader finds wrong.
    """
    found = parse_source(source) if isinstance(source, str) else source
    kind = found.kind
    if kind is None:
        if "://" in found.path:
            kind = "webdataset"
        else:
            kinds = recognise(found.path)
            if not kinds:
                raise DataError(
                    f"{found.path!r}: is of no format that is known ({', '.join(READERS)}); say which with KIND:PATH"
                )
            kind = kinds[0]
    elif kind not in REMOTE and not Path(found.path).exists():
        raise DataError(f"{found.path!r}: no such file or folder; check the path")
    made = reader_class(kind)
    if found.split is not None and kind not in REMOTE:
        splits = made.splits(Path(found.path))
        if found.split not in splits:
            raise DataError(
                f"{found.path!r}: has no split {found.split!r}; it has {', '.join(splits) or 'no splits'}."
                + did_you_mean(found.split, list(splits))
            )
    # Every reader is made alike; the abstract class does not say how a class is made.
    return made(found.path if kind in REMOTE else Path(found.path), found.split)  # type: ignore[call-arg]
