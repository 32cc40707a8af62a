"""Text of any amount, for learning and measuring a text tokenizer: of datasets, and of plain text.

    corpus.txt, corpus.txt.gz       a text is a line with its end
    lines.jsonl, lines.jsonl.gz     "text" or "caption" of each line's object, or the texts of its "parts"
    folder                          every such file below it, but for hidden ones and folders that are linked
    [KIND:]PATH[@SPLIT]             the texts of a reader's documents (cm3/read/find.py)

    sources --> piece piece piece ... --any order, by the seed--> text text text ... until `limit` bytes

Files are read in pieces of some megabytes and datasets in their readers' units. With a limit the pieces come in an
order drawn by the seed, those of all sources mixed, and reading stops at the limit: the texts are a sample of
all sources, neither the memory nor the time grows with what is left unread, and the same seed gives the same texts. A
compressed file cannot be entered in its middle: its pieces are read from its start on.
"""

from __future__ import annotations

import codecs
import gzip
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from cm3.document import Text, Unreadable
from cm3.errors import DataError
from cm3.files import parse_json
from cm3.read.base import Reader, Unit
from cm3.read.find import open_reader, parse_source, recognise
from cm3.read.lists import files_in
from cm3.read.record import texts_in, words_in
from cm3.read.walk import walk

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
PIECE = 1 << 23
"""Bytes of a file that are read in one go."""
LINE = 1 << 20
"""Bytes of the longest line that stays whole; a longer one is cut between characters."""
RECORD = 1 << 26
"""Bytes of the longest line of a .jsonl."""
UNPACKED = 4
"""Bytes of text taken for one byte of a .gz, to know how long it is next to other sources."""
HELD_OUT = 100
"""One text of so many is kept apart to measure a tokenizer on."""

Piece = Callable[[], Iterator[str]]


class TextStream:
    """The texts of sources. It may be read again, and gives the same ones.

    While and after it is read: `texts` and `bytes` (of UTF-8) that came, `skipped` (reason -> records without a text
    or unreadable), and `whole`: whether everything was read.
    """

    def __init__(self, sources: Sequence[str | Path], *, limit: int | None = None, seed: int = 0) -> None:
        """Find what the sources are; with a limit of bytes, their pieces come in an order drawn by `seed`.

        Raises `DataError` for no source, one that is not there, a folder without text, and whatever a reader finds
        wrong.
        """
        if not sources:
            raise DataError("no source given; name at least one text file, folder or dataset")
        if limit is not None and limit < 1:
            raise DataError(f"limit={limit}: must be at least 1 byte; leave it out for all")
        self.limit, self.seed = limit, seed
        self._parts: list[Path | Reader] = [part for source in sources for part in _parts(str(source))]
        self.texts, self.bytes, self.whole = 0, 0, False
        self.skipped = Counter[str]()

    def __iter__(self) -> Iterator[str]:
        """Raises `DataError` for a text file that is not UTF-8 and for a damaged .gz."""
        self.texts, self.bytes, self.whole = 0, 0, False
        self.skipped.clear()
        pieces = [piece for part in self._parts for piece in self._pieces(part)]
        order = np.arange(len(pieces))
        if self.limit is not None:
            order = np.random.default_rng([self.seed, 0x7E87]).permutation(order)
        for text in itertools.chain.from_iterable(pieces[at]() for at in order):
            try:
                size = len(text.encode())
            except UnicodeEncodeError:  # half of a pair, which JSON can write
                self.skipped["a text that is not valid Unicode"] += 1
                continue
            if self.limit is not None and self.bytes + size > self.limit:
                return
            self.texts += 1
            self.bytes += size
            yield text
        self.whole = True

    def _pieces(self, part: Path | Reader) -> list[Piece]:
        if isinstance(part, Reader):
            return [partial(self._documents, part, unit) for unit in part.units()]
        size = part.stat().st_size
        if part.name.lower().endswith(".gz"):
            whole = self._texts(part, _lines(part, longest=_longest(part)))
            return list(_turns(whole, max(1, UNPACKED * size // PIECE)))
        starts = range(0, size, PIECE)
        return [partial(self._file, part, start, start + PIECE) for start in starts]

    def _file(self, path: Path, start: int, stop: int) -> Iterator[str]:
        return self._texts(path, _lines(path, start, stop, _longest(path)))

    def _texts(self, path: Path, lines: Iterator[str]) -> Iterator[str]:
        return self._records(lines) if ".jsonl" in path.name.lower() else lines

    def _records(self, lines: Iterator[str]) -> Iterator[str]:
        """The texts of lines that each hold an object."""
        for line in lines:
            if not line.strip():
                continue
            try:
                texts = texts_of(parse_json(line, "line", nan=True))
            except DataError:
                self.skipped["a line that is not JSON"] += 1
                continue
            if not texts:
                self.skipped["a line without 'text', 'caption' or 'parts' that have one"] += 1
            yield from texts

    def _documents(self, reader: Reader, unit: Unit) -> Iterator[str]:
        for document in reader.read(unit):
            if isinstance(document, Unreadable):
                self.skipped["a document that cannot be read"] += 1
            else:
                yield from (part.text for part in document.parts if isinstance(part, Text))


class HeldOut:
    """Passes texts on and keeps one of `every` apart; `texts` are those, or all where there were too few for one."""

    def __init__(self, texts: Iterable[str], every: int = HELD_OUT) -> None:
        self.source, self.every = texts, every
        self.apart: list[str] = []
        self.first: list[str] = []

    def __iter__(self) -> Iterator[str]:
        self.apart, self.first = [], []
        for i, text in enumerate(self.source):
            if i % self.every == self.every - 1:
                self.apart.append(text)
                continue
            if i < self.every:
                self.first.append(text)
            yield text

    @property
    def texts(self) -> list[str]:
        """What to measure on."""
        return self.apart or self.first


def texts_of(record: Any) -> list[str]:
    """Return the texts of a line's object: "text" or "caption" (`words_in`), or of its "parts"; of a string, itself."""
    if isinstance(record, str):
        return [record]
    if not isinstance(record, dict):
        return []
    parts = record.get("parts")
    found: Sequence[Any]
    if isinstance(parts, list):
        found = [part.get("text") for part in parts if isinstance(part, dict)]
    else:
        present = {name: value for name, value in record.items() if value is not None}
        words = ("text",) if "text" in present else words_in(present, alone=not files_in(present))
        try:
            found = texts_in(present, words)
        except DataError:
            return []
    return [text for text in found if isinstance(text, str) and text]


def _parts(source: str) -> list[Path | Reader]:
    """A source as text files, or as the reader of a dataset. A folder of captions is read without its pictures."""
    found = parse_source(source)
    path = Path(found.path)
    if found.split is None and found.kind in (None, "folder", "jsonl") and "://" not in found.path:
        if not path.exists():
            raise DataError(f"{found.path!r}: no such file or folder; check the path")
        if path.is_file() and path.name.lower().endswith(SUFFIXES):
            return [path]
        if path.is_dir() and (found.kind or (recognise(path) or ["folder"])[0]) in ("folder", "jsonl"):
            below = (path / folder / name for folder, names in walk(path) for name in names)
            inside = sorted(p for p in below if p.name.lower().endswith(SUFFIXES) and p.is_file())
            if not inside:
                raise DataError(f"{found.path!r}: the folder holds no file that ends in {', '.join(SUFFIXES)}")
            return list(inside)
    return [open_reader(found)]


def _turns(texts: Iterator[str], turns: int) -> Iterator[Piece]:
    """Pieces of what can only be read from its start on: each call of one goes on where the one before stopped."""
    calls = itertools.count(1)

    def turn() -> Iterator[str]:
        last, size = next(calls) == turns, 0
        while (last or size < PIECE) and (text := next(texts, None)) is not None:
            size += len(text)
            yield text

    return (turn for _ in range(turns))


def _longest(path: Path) -> int:
    return RECORD if ".jsonl" in path.name.lower() else LINE


def _lines(path: Path, start: int = 0, stop: int | None = None, longest: int = LINE) -> Iterator[str]:
    """The lines that begin in bytes `start` to `stop` of a file, each with its end."""
    packed = path.name.lower().endswith(".gz")
    try:
        # gzip.open reads a piece at a time; what it gives is a file of bytes like the other.
        with gzip.open(path) if packed else path.open("rb") as file:
            yield from _decoded(file, path, start, stop, longest)  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{str(path)!r}: is damaged ({error}); download or pack it again") from error


def _decoded(file: IO[bytes], path: Path, start: int, stop: int | None, longest: int) -> Iterator[str]:
    at = start
    if start:
        # The line that holds byte `start - 1` began before this piece and belongs to the one before.
        file.seek(start - 1)
        at -= 1
        ended = False
        while not ended and (stop is None or at < stop):
            data = file.readline(longest)
            at += len(data)
            ended = not data or data.endswith(b"\n")
        if not ended:
            return
    decoder = codecs.getincrementaldecoder("utf-8")()
    inside = False
    while inside or stop is None or at < stop:
        data = file.readline(longest)
        inside = len(data) == longest and not data.endswith(b"\n")
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not inside)
        except UnicodeDecodeError as error:
            raise DataError(f"{str(path)!r}: not UTF-8 at byte {at - held + error.start}; convert it first") from error
        text = text.removeprefix("\ufeff") if at == 0 else text
        at += len(data)
        if text:
            yield text
        if not data:
            return
