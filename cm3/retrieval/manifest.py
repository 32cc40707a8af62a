"""The page that says what a memory bank is made of: manifest.json, replaced whole, and who may write it.

    {"format": 1, "kind": "cm3-memory", "encoder": ..., "width": ..., "dtype": ..., "index": ..., "about": {...},
     "segments": [{"name": "segment-0001", "rows": ..., "index": {...}, "files": {name: {"bytes", "sha256"}},
                   "gone": {"file": ..., "rows": ..., "facts": {"bytes", "sha256"}}}],
     "sha256": ...}            of all the rest

Everything that it names is written before it and never changed after, so a reader that has read one manifest goes on
with what it names while another process writes the next.

A bank may come from a stranger. Its manifest names files of known forms only, of sizes that follow from its own
numbers, and each is a file of the bank itself, not a link: nothing outside the folder is read, written or deleted by
its word.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cm3 import files
from cm3.errors import CheckpointError, DataError
from cm3.files import Facts

FORMAT = 1
KIND = "cm3-memory"
NAME = "manifest.json"
LOCK = ".lock"
SMALL = 1 << 26
"""Files of at most so many bytes are compared with their checksum at every opening, larger ones by size."""
MANY = 9999
"""Most segments of a bank, and the width of the numbers in their names."""

DOCUMENTS, INDEX, IMAGES = "documents.sqlite", "index.faiss", "images.f16"
VECTORS = {"float32": ("vectors.f32", 4), "float16": ("vectors.f16", 2)}
"""The file of the documents' vectors, and bytes a number, by the bank's dtype."""
_SEGMENT, _GONE = re.compile(r"segment-\d{4}"), re.compile(r"gone-\d{9,18}\.npy")


def segment_name(number: int) -> str:
    """Return the folder of a bank's segment `number`, from 1."""
    return f"segment-{number:04d}"


@dataclass(frozen=True)
class Gone:
    """The list of rows that were deleted."""

    file: str
    rows: int
    facts: Facts

    def __post_init__(self) -> None:
        if not _GONE.fullmatch(self.file):
            raise ValueError(f"file={self.file[:60]!r}: must be named as gone-000000001.npy")


@dataclass(frozen=True)
class Built:
    """How a segment is searched (`cm3.retrieval.index.build_lists`)."""

    kind: Literal["exact", "ivf", "pq"]
    lists: int = 1
    nprobe: int = 1
    dimensions: int = 1
    code_bytes: int = 1
    recall_at_2: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.nprobe <= self.lists < 1 << 31:
            raise ValueError(f"nprobe={self.nprobe}, lists={self.lists}: nprobe must be 1 to lists")


@dataclass(frozen=True)
class Entry:
    """A segment."""

    name: str
    rows: int
    index: Built
    files: Mapping[str, Facts]
    gone: Gone | None = None

    def __post_init__(self) -> None:
        if not _SEGMENT.fullmatch(self.name):
            raise ValueError(f"name={self.name[:60]!r}: must be named as segment-0001")
        if self.rows < 1 or (self.gone and not 1 <= self.gone.rows <= self.rows):
            raise ValueError(f"rows={self.rows}: must be at least 1, and no fewer than are gone")


@dataclass(frozen=True)
class Page:
    """A manifest."""

    format: int
    kind: str
    encoder: str
    width: int
    dtype: Literal["float32", "float16"]
    index: Literal["auto", "exact", "ivf", "pq"]
    about: dict[str, Any]
    segments: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if len(self.encoder) > 1000 or not self.encoder.isprintable():
            raise ValueError(f"encoder={self.encoder[:60]!r}: must be a name of at most 1000 characters that print")
        if not 1 <= self.width <= 1 << 20:
            raise ValueError(f"width={self.width}: must be 1 to {1 << 20}")
        if not self.segments or len({s.name for s in self.segments}) < len(self.segments):
            raise ValueError("segments: must be one or more, each by a name of its own")
        for entry in self.segments:
            self._check_files(entry)

    def _check_files(self, entry: Entry) -> None:
        vectors, size = VECTORS[self.dtype]
        wanted = {DOCUMENTS, vectors} | ({INDEX} if entry.index.kind != "exact" else set())
        if not wanted <= set(entry.files) <= wanted | {IMAGES}:
            raise ValueError(f"{entry.name}.files: must be {', '.join(sorted(wanted))} and at most {IMAGES} beside")
        for name, each in ((vectors, size), (IMAGES, 2)):
            bytes_ = entry.rows * self.width * each
            if name in entry.files and entry.files[name].bytes != bytes_:
                raise ValueError(f"{entry.name}.files: {name} must have {bytes_} bytes, rows x width x {each}")


def is_bank(folder: str | Path) -> bool:
    """Whether a folder is a memory bank, whole or damaged."""
    return os.path.isfile(Path(folder) / NAME)


def read(folder: Path) -> dict[str, Any]:
    """Return a bank's manifest, each name and number of it checked.

    Raises `CheckpointError` where there is none, or one that is damaged, of another format, or names what no bank has.
    """
    what = f"memory bank {str(folder)!r}"
    if not os.path.lexists(folder / NAME):
        if os.path.isfile(folder):
            raise CheckpointError(f"{what}: is a file; give the bank's folder")
        missing = "has no manifest.json" if os.path.isdir(folder) else "no such folder"
        raise CheckpointError(f"{what}: {missing}; `cm3 index build` makes one")
    size_of(folder / NAME)
    page = files.read_json(folder / NAME, what)
    if page.get("kind") != KIND:
        raise CheckpointError(f"{what}: manifest.json is not a memory bank's; give another folder")
    if page.get("format") != FORMAT:
        raise CheckpointError(
            f"{what}: is of format {str(page.get('format'))[:20]}, this version reads {FORMAT}; build it again, or use "
            "the version that wrote it"
        )
    if page.pop("sha256", None) != files.checksum(page):
        raise CheckpointError(f"{what}: manifest.json was altered (its checksum is another); restore it")
    files.build(Page, page, f"{what}: manifest.json")
    return page


def write(folder: Path, page: dict[str, Any]) -> None:
    """Replace a bank's manifest: a reader sees the old one or the new one."""
    files.write(folder / NAME, json.dumps({**page, "sha256": files.checksum(page)}, indent=1) + "\n")


def facts(path: Path) -> dict[str, Any]:
    """Return what a manifest keeps of a file."""
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def size_of(path: Path) -> int:
    """Return bytes of a file of a bank.

    Raises `CheckpointError` where it is missing, and where it, or the folder of its segment, is a link or no file. A
    snapshot in the hub's cache consists of links into the blobs beside it; those are followed.
    """
    for place in (path.parent, path) if _SEGMENT.fullmatch(path.parent.name) else (path,):
        if place.is_symlink() and not files.is_blob(place):
            raise CheckpointError(
                f"memory bank: {str(place)!r} is a link; a bank holds its files itself, copy it there"
            )
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(f"memory bank: {str(path)!r} is missing; restore it from a copy") from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"memory bank: {str(path)!r} is no file; restore it from a copy")
    return found.st_size


def check(path: Path, known: Mapping[str, Any], *, whole: bool = False) -> None:
    """Raise `CheckpointError` for a file that is missing or is not the manifest's; `whole` reads large ones too."""
    size = size_of(path)
    if size != known["bytes"]:
        raise CheckpointError(
            f"memory bank: {str(path)!r} has {size} bytes, its manifest says {known['bytes']}; restore it from a copy"
        )
    if not whole and size > SMALL:
        return
    try:
        digest = files.sha256(path)
    except OSError as error:
        raise CheckpointError(f"memory bank: {str(path)!r} cannot be read ({files.said(error)}); restore it") from error
    if digest != known["sha256"]:
        raise CheckpointError(f"memory bank: {str(path)!r} was altered (its checksum is another); restore it")


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder until the end of the block, or until this process is killed.

    Raises `DataError` where another process writes, `DiskError` where nothing may be written.
    """
    with files.locked(folder / LOCK, f"memory bank {str(folder)!r}", DataError):
        yield
