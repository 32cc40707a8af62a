"""The documents of any reader by their numbers, without keeping a decoded picture.

records, JSON lines                         each read when it is asked for
packed JSON lines, web shards, the hub      read once and kept, pictures as the bytes of their files
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from cm3.document import Document, Gap, Image, Unreadable
from cm3.errors import DataError
from cm3.read.base import Reader, Records, Unit

KEPT = 100_000
"""Most documents of a reader that are kept."""


class _Kept(NamedTuple):
    """A document with a gap for each picture, and the files of those."""

    document: Document
    files: tuple[bytes, ...]


class Numbered:
    """`documents[i]` and `len(documents)` of a reader; what is decoded of a document is gone with it."""

    def __init__(self, reader: Reader, name: str = "") -> None:
        """Take `name` for errors. Raises `DataError` for a dataset that is too large to be kept."""
        self.reader, self.name = reader, name or reader.source
        self._listed = None if isinstance(reader, Records) else self._list(reader)

    def __len__(self) -> int:
        return len(self.reader) if isinstance(self.reader, Records) else len(self._listed or ())

    def __getitem__(self, index: int) -> Document | Unreadable:
        """Return a document, or why it cannot be read. Raises `IndexError` for a number that is none."""
        if isinstance(self.reader, Records):
            return self.reader[index]
        found = (self._listed or [])[index]
        if isinstance(found, _Kept):
            files = iter(found.files)
            parts = tuple(Image(data=next(files)) if part == _HOLE else part for part in found.document.parts)
            return dataclasses.replace(found.document, parts=parts)
        if isinstance(found, Unit):
            for document in self.reader.read(found):
                return document
            return Unreadable(found.name, "its line is blank now; leave a dataset as it is while it is in use")
        return found

    def _list(self, reader: Reader) -> list[_Kept | Unit | Unreadable]:
        """List what to give for each number."""
        listed: list[_Kept | Unit | Unreadable] = []
        kept = 0
        for unit in reader.units(1):
            alone = unit.stop - unit.start == 1
            for document in reader.read(unit):
                listed.append(unit if alone else _packed(document))
                kept += not alone
                if kept > KEPT:
                    raise DataError(
                        f"source {self.name!r}: a {reader.kind} dataset gives no document by its number, and this one "
                        f"has more than the {KEPT} that are kept in memory; give fewer, or write it as JSON lines"
                    )
        return listed


_HOLE = Gap("image")


def _packed(document: Document | Unreadable) -> _Kept | Unreadable:
    """Return a document without pixels. Nobody has decoded its pictures yet (cm3/read/base.py)."""
    if isinstance(document, Unreadable):
        return document
    try:
        files = tuple(image.file() for image in document.images)
    except DataError as error:
        return Unreadable(document.id, str(error))
    parts = tuple(_HOLE if isinstance(part, Image) else part for part in document.parts)
    return _Kept(dataclasses.replace(document, parts=parts), files)
