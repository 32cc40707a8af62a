"""JSON lines: one interleaved document a line, its pictures in files beside.

pages/a.jsonl       {"id": "7", "license": "CC0-1.0", "parts": [{"text": "A boat"}, {"image": "img/7.jpg"}]}
                    {"text": "words alone"}
                    {"caption": "A boat", "image": "img/7.jpg"}
                    {"captions": ["A boat", "At sea"], "file_name": "img/7.jpg"}       a document a caption
      b.jsonl.gz    the same, packed: read from its beginning, in one piece
      img/7.jpg     paths are relative to the folder of the .jsonl, and stay inside it

Words and pictures may have the other names that people give them (`cm3.read.fields`); a line whose picture or
words are not understood is unreadable, not half a document. `id` (a string or a number) names the document, else its
file and line; `source` is "jsonl" unless the line says otherwise; every other field goes to `meta`. A field of null is
no field, but for a picture, whose words are not taken without it. Blank lines are passed over. Of a file only the
beginnings of its lines are kept, and found when they are first needed.
"""

from __future__ import annotations

import gzip
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cm3.document import Document, Image, Part, Text, Unreadable, check_text
from cm3.errors import DataError
from cm3.files import inside, parse_json
from cm3.read.base import LINE, UNIT, Reader, Unit, field, line_starts, named_picture
from cm3.read.fields import far_in, files_in, talk_in, texts_in, words_in
from cm3.read.walk import Passed

PLAIN, PACKED = ".jsonl", ".jsonl.gz"


TASKS = ("question", "questions", "answer", "answers")
"""Words that tasks ask for (docs/tasks.md); a document has them in its meta alone."""


class JsonLines(Reader):
    """Documents of one file, or of the .jsonl and .jsonl.gz of a folder, by name."""

    kind = "jsonl"
    source = "jsonl"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """List the files. Raises `DataError` for a path without any, and for a split."""
        root = Path(root)
        if split is not None:
            raise DataError(f"{str(root)!r}: JSON lines have no splits; leave @{split} away")
        self.files = {path.name: path for path in _files(root)}
        for path in self.files.values() if root.is_dir() else ():
            inside(root, path.name, "JSON lines")
        if not self.files:
            raise DataError(f"{str(root)!r}: holds no .jsonl and no .jsonl.gz; give such a file, or a folder of them")
        self._starts: dict[str, array[int]] = {}

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return bool(_files(root))

    def units(self, size: int = UNIT) -> list[Unit]:
        """Return pieces of `size` lines each; a .jsonl.gz is one."""
        made: list[Unit] = []
        for name in self.files:
            if name.endswith(PACKED):
                made.append(Unit(name))
            else:
                n = len(self._lines(name)) - 1
                made += [Unit(f"{name}:{i}", i, min(i + size, n)) for i in range(0, n, size)]
        return made

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Yield its documents in order. Of a .jsonl.gz that is damaged, those before, then an `Unreadable` of its
        name."""
        passed = self._passed_in[unit.name] = Passed()
        if not unit.stop:
            yield from self._packed(unit.name, passed)
            return
        name = unit.name.rpartition(":")[0]
        starts = self._lines(name)
        with _opened(self.files[name]) as file:
            for number in range(unit.start, unit.stop):
                size = starts[number + 1] - starts[number]
                if size > LINE:
                    where = f"{name}:{number + 1}"
                    yield Unreadable(where, f"{where}: has {size} bytes, more than {LINE}; cut it into several lines")
                    continue
                file.seek(starts[number])
                yield from self._line(name, number, file.read(size), passed)

    def named_path(self, document: Document, name: str) -> Path:
        """Return a file that a line names, below the folder of the lines."""
        return inside(next(iter(self.files.values())).parent, name, f"document {document.id!r}: control image")

    def _packed(self, name: str, passed: Passed) -> Iterator[Document | Unreadable]:
        number = 0
        with _opened(self.files[name]) as packed, gzip.open(packed) as file:
            while True:
                try:
                    line = file.readline(LINE + 1)
                except (EOFError, OSError, zlib.error) as error:
                    yield Unreadable(name, f"cannot be unpacked after line {number} ({error}); pack it again")
                    return
                if not line:
                    return
                if len(line) > LINE:  # it may have no end
                    where = f"{name}:{number + 1}"
                    yield Unreadable(
                        where, f"{where}: has more than {LINE} bytes; it and what follows is not read; cut it"
                    )
                    return
                yield from self._line(name, number, line, passed)
                number += 1

    def _line(self, name: str, number: int, line: bytes, passed: Passed) -> Iterator[Document | Unreadable]:
        """Yield the document of a line; none of a blank one."""
        if not line.strip():
            return
        id = where = f"{name}:{number + 1}"
        try:
            record = _parsed(line)
            if type(record.get("id")) in (str, int) and record["id"] != "":  # True is an int, and no name
                id = str(record["id"])
            for left in talk_in(record):
                if "parts" not in record:  # for the tasks that ask for it
                    passed.add(f"{left!r}, words that are kept as meta alone", where)
            yield from self._documents(id, record, self.files[name].parent)
        except DataError as error:
            yield Unreadable(id, f"{where}: {error}")

    def _documents(self, id: str, record: dict[str, Any], folder: Path) -> list[Document]:
        """Return the document of a line, or one for each of several captions."""
        source = field(record, "source", str, "document") if "source" in record else self.source
        if "parts" in record:
            used: tuple[str, ...] = ("parts",)
            found = [tuple(_part(part, folder) for part in field(record, "parts", list, "document"))]
        else:
            used, found = _captioned(record, folder)
        meta = {name: value for name, value in record.items() if name not in ("id", "source", *used)}
        ids = [id] if len(found) == 1 else [f"{id}/{number}" for number in range(len(found))]
        return [Document(parts, id=one, source=source, meta=meta) for one, parts in zip(ids, found, strict=True)]

    def _lines(self, name: str) -> array[int]:
        """Find where each line begins, and the last one ends, in bytes."""
        if name not in self._starts:
            with _opened(self.files[name]) as file:
                self._starts[name] = line_starts(file)
        return self._starts[name]


def _files(root: Path) -> list[Path]:
    """Return the file, if it is of the kind, or those of a folder."""
    found = sorted(root.iterdir()) if root.is_dir() else [root]
    return [p for p in found if p.name.endswith((PLAIN, PACKED)) and not p.name.startswith(".") and p.is_file()]


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{str(path)!r}: cannot be opened ({error.strerror}); check the file") from error


def _parsed(line: bytes) -> dict[str, Any]:
    record = parse_json(line, "the line")
    check_text(record, "the line")
    if not isinstance(record, dict):
        raise DataError(f"is {type(record).__name__}, not an object; write one document a line")
    kept = {name: value for name, value in record.items() if value is not None}
    if "parts" not in kept and not files_in(kept) and (gone := [name for name in files_in(record) if name not in kept]):
        if words_in(kept):
            raise DataError(f"its {gone[0]!r} is null: words without the picture that they are of are no document")
    return kept


def _captioned(record: dict[str, Any], folder: Path) -> tuple[tuple[str, ...], list[tuple[Part, ...]]]:
    """Return the names of words and pictures that were read, and the parts of each caption's document."""
    files = files_in(record)
    words = ("text",) if "text" in record else words_in(record, alone=not files)
    for name in words:
        if not isinstance(record[name], str | list | dict):
            field(record, name, str, "document")
    texts = texts_in(record, words)
    if not files and (far := far_in(record, words)):
        raise DataError(f"document: its picture is an address alone ({far!r}), which is not fetched; give its file")
    if not words and (talk := [name for name in talk_in(record) if name not in TASKS]):
        raise DataError(f"document: its words are {talk[0]!r}, which are no caption; give its 'parts' in their order")
    if not words and not files:
        raise DataError("document: has no 'parts', 'text', 'caption' or 'image'; give one of them")
    names = [one for name in files for one in (record[name] if isinstance(record[name], list) else [record[name]])]
    pictures = [_picture({"image": name}, folder) for name in names]
    made: list[tuple[Part, ...]] = [(Text(text), *pictures) for text in texts]
    return (*words, *files), made or [tuple(pictures)]


def _part(part: Any, folder: Path) -> Part:
    known = [name for name in ("text", "image") if isinstance(part, dict) and name in part]
    if len(known) != 1:
        raise DataError(f"part {part!r:.60}: must be an object with either 'text' or 'image'")
    return Text(field(part, "text", str, "part")) if known == ["text"] else _picture(part, folder)


def _picture(record: dict[str, Any], folder: Path) -> Image:
    return named_picture(folder, field(record, "image", str, "part"))
