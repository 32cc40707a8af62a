"""The base of readers: documents of one dataset, in an order that never changes, in pieces that are read apart.

    reader = open_reader("coco:data/coco@val2017")        cm3/read/find.py
    for document in reader: ...                           Document, or Unreadable in the place of one that is damaged
    for unit in reader.units(): reader.read(unit)         the same, for several processes

A reader opens its annotations when it is made and each picture when its document is asked for; pixels are decoded by
whoever asks for them first (`cm3.picture.rgb`), so a document costs the reading of a file. Nothing that is wrong with
one document stops a reader: it gives an `Unreadable` with the reason. A fault of the dataset itself (a file missing,
of another layout) raises `DataError` when the reader is made.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, Protocol

from cm3.document import Document, Image, Place, Text, Unreadable
from cm3.errors import DataError
from cm3.files import inside
from cm3.read.walk import EMPTY, PICTURES, Passed, ending

LINE = 1 << 26
"""Bytes of the longest line of a file of lines."""
BLOCK = 1 << 20
"""Bytes of a longer one that are looked at in one go."""
TEXT = 1 << 20
"""Bytes of the longest text of a file of its own: a longer one is a book or a table, of which a window holds a part."""
LARGEST = 1 << 30
"""Bytes of the largest file that is read at once."""
UNIT = 1000
"""Records of a unit, where the dataset is not in pieces of its own."""
SPREAD = 20
"""Most pieces that a sample is taken from, where records cannot be read one by one."""


class Unit(NamedTuple):
    """A piece of a dataset: a file of its own (`start` and `stop` are 0), or its records from `start` up to `stop`."""

    name: str
    start: int = 0
    stop: int = 0


class Annotations(Protocol):
    """Annotations of the pictures of a dataset, for tasks."""

    def of(self, image_id: Any) -> list[dict[str, Any]]:
        """Return what is in a picture. Raises `DataError` where one of its records is damaged."""

    def strays(self) -> Iterable[Unreadable]:
        """Return the records that are of no picture."""


class Reader(ABC):
    """Documents of one dataset. Made as `Reader(root, split)`; a split of None is the reader's default.

    Documents have an id that is unique in the dataset, `source` ("coco/val2017"), and `meta` of plain values (JSON).
    """

    kind: ClassVar[str]
    """Its name in a source: "coco" in "coco:data/coco"."""
    source: str
    """Source of its documents: the kind, and where there are splits "/" and the split."""
    license: str | None = None
    """License of a folder's pictures that do not say one; other datasets say their own."""
    nested: ClassVar[bool] = False
    """Whether pictures in different folders may have one name."""

    @classmethod
    @abstractmethod
    def recognises(cls, root: Path) -> bool:
        """Tell whether `root` looks like this dataset; reads names and a few bytes, never a whole file."""

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Return the splits that `root` has files for, the default first; empty where the format has none."""
        return ()

    @cached_property
    def listed(self) -> Passed:
        """Return what was passed over when the files were listed, before a unit was read."""
        return Passed()

    def passed_in(self, unit: Unit) -> Passed:
        """Return what was passed over in a unit that was read: the same, however often and by which process it was."""
        return self._passed_in.get(unit.name, Passed())

    @property
    def passed(self) -> Passed:
        """Return what was passed over so far, when the files were listed and in what was read."""
        return Passed.of_all((self.listed, *self._passed_in.values()))

    @cached_property
    def _passed_in(self) -> dict[str, Passed]:
        """Return what was passed over in each unit that was read, by its name."""
        return {}

    @abstractmethod
    def units(self, size: int = UNIT) -> list[Unit]:
        """Return the pieces, in order; where they are records, `size` of them each."""

    @abstractmethod
    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Return the documents of a piece, in order."""

    def __iter__(self) -> Iterator[Document | Unreadable]:
        for unit in self.units():
            yield from self.read(unit)

    @property
    def count(self) -> int | None:
        """Return how many documents there are; None where only reading all tells."""
        return None

    def spread(self, n: int) -> Iterator[Document | Unreadable]:
        """Yield at most `n` documents in order, evenly apart.

        Where records cannot be read by number, they are the first ones of up to `SPREAD` pieces, evenly apart. Pieces
        do not say how long they are, so short ones yield fewer than `n`.
        """
        units = self.units()
        chosen = even(len(units), min(n, SPREAD))
        for i, at in enumerate(chosen):
            documents = self.read(units[at])
            try:
                yield from islice(documents, n * (i + 1) // len(chosen) - n * i // len(chosen))
            finally:
                if hasattr(documents, "close"):
                    documents.close()  # a file that is read to its middle is not to stay open

    def annotations(self, need: str) -> Annotations | None:
        """Return what tasks ask of its pictures ("instances", "keypoints"); None for a dataset that has none of it.

        Raises `DataError` where they are missing or damaged.
        """
        return None

    def picture_paths(self, document: Document) -> list[Path]:
        """Return where the file of a document's picture is or may be; nothing where only the document holds it."""
        return []

    def named_path(self, document: Document, name: str) -> Path:
        """Return a control image that a document names. Raises `DataError` for one that leads out of its dataset."""
        raise DataError(
            f"document {document.id!r}: 'control_files' names {name!r:.80}, but only JSON lines have files beside "
            "them; give a folder of control images"
        )

    def control_path(self, document: Document, kind: str, folder: Path | None = None) -> Path:
        """Return the control image of a document's picture: NAME.hed.png beside NAME.jpg, or in `folder`.

        In `folder` it is called as the picture's file, else as meta `image_id` or the document's id without the ending
        of a picture, "/" as "_". Raises `DataError` where it is not there, or is a link that leads elsewhere.
        """
        pictures, rule = self.picture_paths(document), ""
        if folder is not None and (not pictures or self.nested):
            pictures, rule = [Path(f"{_called(document)}.jpg")], ' (called as its image_id or else its id, "/" as "_")'
        tried = [(folder or picture.parent) / f"{picture.stem}.{kind}.png" for picture in pictures]
        path = next((path for path in tried if first_of(path.parent, [path.name])), None)
        if path is not None:
            return inside(path.parent, path.name, f"document {document.id!r}: control image")
        where = " or ".join(map(str, tried)) or "its meta 'control_files'"
        raise DataError(
            f"document {document.id!r}: has no {kind} image at {where}{rule}; docs/tasks.md says how to make it"
        )


def _called(document: Document) -> str:
    """Return the name of a document's control images in a folder of their own, before their kind."""
    name = document.meta.get("image_id")
    if not isinstance(name, int | str) or isinstance(name, bool) or name == "":
        name = document.id
        name = name[: len(name) - len(ending(name))] if ending(name) in PICTURES else name
    return str(name).replace("/", "_")


def even(total: int, n: int) -> list[int]:
    """Return at most `n` numbers below `total`, evenly apart, the first and the last among them."""
    if n >= total:
        return list(range(total))
    return [i * (total - 1) // max(1, n - 1) for i in range(n)]


class Records(Reader):
    """A reader that knows how many records there are and reads any one of them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the id of a record."""

    @abstractmethod
    def document(self, index: int) -> Document:
        """Return a record. Raises `DataError` for one that cannot be read."""

    def __getitem__(self, index: int) -> Document | Unreadable:
        """Return a record, or why it cannot be read. Raises `IndexError` outside 0 to the length less 1."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.source}: record {index} of {len(self)}")
        try:
            document = self.document(index)
        except DataError as error:
            return Unreadable(self.name(index), str(error))
        if any(isinstance(part, Text) and not part.text.strip() for part in document.parts):
            self._note(index, EMPTY, document.id)
        return document

    def units(self, size: int = UNIT) -> list[Unit]:
        """Return pieces of `size` records each, the last one of those left."""
        n = len(self)
        return [Unit(f"{i}-{min(i + size, n)}", i, min(i + size, n)) for i in range(0, n, size)]

    @property
    def count(self) -> int:
        """Return how many records there are."""
        return len(self)

    def spread(self, n: int) -> Iterator[Document | Unreadable]:
        """Yield at most `n` records in order, evenly apart, the first and the last among them."""
        return (self[i] for i in even(len(self), n))

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Return its records in order."""
        return (self[i] for i in range(unit.start, unit.stop))

    def passed_in(self, unit: Unit) -> Passed:
        """Return what was passed over in those of its records that were read."""
        return self._passed_of(i for i in sorted(self._notes) if unit.start <= i < unit.stop)

    @property
    def passed(self) -> Passed:
        """Return what was passed over when the files were listed, and in the records that were read."""
        return Passed.of_all((self.listed, self._passed_of(sorted(self._notes))))

    def _note(self, index: int, kind: str, name: str) -> None:
        """Count something of a record that is passed over, once, however often it is read."""
        self._notes.setdefault(index, {})[kind] = name

    def _passed_of(self, indices: Iterable[int]) -> Passed:
        found = Passed()
        for index in indices:
            for kind, name in self._notes[index].items():
                found.add(kind, name)
        return found

    @cached_property
    def _notes(self) -> dict[int, dict[str, str]]:
        """Note what was passed over, kind -> name, of records that were read."""
        return {}


def captioned(
    id: str, source: str, captions: Sequence[str], pictures: Sequence[Image], meta: Mapping[str, Any], passed: Passed
) -> Iterator[Document]:
    """Yield the document of some pictures: `caption, pictures`, or one for each of several captions, which share them.

    Captions of which each is empty are counted in `passed`, and the pictures are a document without one.
    """
    texts = [text.strip() for text in captions]
    if texts and not any(texts):
        passed.add(EMPTY, id)
    for number, text in enumerate(texts or [""]):
        own = id if len(texts) < 2 else f"{id}/{number}"
        yield Document((*([Text(text)] if text else []), *pictures), id=own, source=source, meta=meta)


def named_picture(folder: Path, name: object) -> Image:
    """Return the picture of a file that a dataset names, below `folder`, not decoded yet.

    Raises `DataError` for a name that leads out of `folder`, and for a file that is missing or is no picture.
    """
    path = inside(folder, name, "picture")
    return picture(path, str(name))


def picture(path: Path, name: str = "") -> Image:
    """Return the picture of a file, not decoded yet; errors, also of decoding, call it by `name`, else as the file is.

    The path is one that the user gave, or that `inside` allows. Raises `DataError` for one that is missing or is no
    picture.
    """
    name = name or path.name
    data = content(path, name)
    return Image(data=data, name=name, place=Place(str(path), 0, len(data)))


def content(path: Path, name: str = "", most: int = LARGEST) -> bytes:
    """Return the bytes of a file that an annotation names. Raises `DataError` for one that cannot be read.

    So it does for a pipe or device, which would never end, and for more than `most` bytes, which a file with holes has
    in no room.
    """
    name = name or path.name
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
            raise DataError(f"{name}: is no file but a pipe or device; put the file itself there")
        if about.st_size > most:
            raise DataError(f"{name}: has {about.st_size} bytes, more than {most}; cut it into pieces, or JSON lines")
        return path.read_bytes()
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file beside the annotations that name it") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({os.strerror(error.errno or 0)})") from error
    except ValueError as error:  # a NUL byte or half a surrogate pair
        raise DataError(f"{name!r}: is no name of a file") from error


KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}
"""Names of the kinds of JSON."""


def field(record: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return `record[name]`. Raises `DataError` naming `where` when it is not there or not of `kind`."""
    value = record.get(name) if isinstance(record, dict) else None
    # True is an int to Python, and never a number in an annotation.
    if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
        kinds = " or ".join(KINDS.get(one, one.__name__) for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise DataError(f"{where}: {name!r} is {value!r:.60}, must be {kinds}")
    return value


def folders_of(root: Path, names: Sequence[str]) -> list[Path]:
    """Return those of these folders of pictures that `root` has.

    Raises `DataError` where it has none: not a document of the dataset could be read.
    """
    found = [root / name for name in names if (root / name).is_dir()]
    if not found:
        raise DataError(f"{str(root)!r}: has no folder {' or '.join(names)}; put the pictures there")
    return found


def line_starts(file: IO[bytes]) -> array[int]:
    """Return where each line begins, and the last ends, in bytes; in little memory, also of an endless line."""
    starts = array("Q", [0])
    at = 0
    while block := file.readline(BLOCK):
        at += len(block)
        if block.endswith(b"\n"):
            starts.append(at)
    if at > starts[-1]:
        starts.append(at)
    return starts


def first_of(root: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these files that `root` has."""
    for name in names:
        try:
            if (root / name).is_file():
                return root / name
        except OSError:  # a name that is too long for the file system
            continue
    return None
