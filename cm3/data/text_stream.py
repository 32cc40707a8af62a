"""Text of any amount, for learning and measuring a text tokenizer: of datasets, and of plain text.

    corpus.txt, corpus.txt.gz       a text is a line with its end
    lines.jsonl, lines.jsonl.gz     "text" or "caption" of each line's object, or the texts of its "parts"
    CC-MAIN-*.warc.wet.gz           Common Crawl's own files: the text of each page
    train-00000-of-00002.parquet    a column "text" or "caption", as the hub's datasets have them
    folder                          every such file below it, but for hidden ones and folders that are linked
    [KIND:]PATH[@SPLIT]             the texts of a reader's documents (cm3/read/find.py)

    sources --> piece piece piece ... --any order, by the seed--> text text text ... until `limit` bytes

Files are read in pieces of some megabytes and datasets in their readers' units. With a limit the pieces come in an
order drawn by the seed, those of all sources mixed, and reading stops at the limit: the texts are a sample of
all sources, neither the memory nor the time grows with what is left unread, and the same seed gives the same texts.
Nothing is kept of a run that was killed: the next one with this seed reads the same sample anew.

Each page of Common Crawl is packed by itself, so its files are entered anywhere. Other compressed files and the row
groups of parquet cannot be: their pieces are read from the start on, at most `OPEN` of them at once.
"""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from cm3.document import Text, Unreadable
from cm3.errors import DataError
from cm3.files import parse_json, said
from cm3.read.base import Reader
from cm3.read.fields import files_in, texts_in, words_in
from cm3.read.find import open_reader, parse_source, recognise
from cm3.read.walk import walk

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".warc.wet.gz", ".parquet")
PIECE = 1 << 23
"""Bytes of a file that are read in one go."""
LINE = 1 << 20
"""Bytes of the longest line that stays whole; a longer one is cut between characters."""
RECORD = 1 << 26
"""Bytes of the longest line of a .jsonl, and of the longest packed page of Common Crawl."""
UNPACKED = 4
"""Bytes of text taken for one byte of a .gz, to know how long it is next to other sources."""
OPEN = 32
"""Most files that are held open where each can only be read from its start on."""
ROWS = 256
"""Rows of parquet that are in memory."""
HELD_OUT = 100
"""One text of so many is kept apart to measure a tokenizer on."""
MEMBER = b"\x1f\x8b\x08"
"""Bytes that a packed page begins with."""


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
        self._parts: list[Part] = [part for source in sources for part in _parts(str(source))]
        self.texts, self.bytes, self.whole = 0, 0, False
        self.skipped = Counter[str]()

    def __iter__(self) -> Iterator[str]:
        """Raise `DataError` for a text file that is not UTF-8 and for a damaged .gz or .parquet."""
        self.texts, self.bytes, self.whole = 0, 0, False
        self.skipped.clear()
        ends = np.cumsum([part.pieces for part in self._parts])
        order = np.arange(ends[-1])
        if self.limit is not None:
            order = np.random.default_rng([self.seed, 0x7E87]).permutation(order)
        turns = _Turns()
        for text in itertools.chain.from_iterable(self._piece(int(at), ends, turns) for at in order):
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

    def _piece(self, at: int, ends: np.ndarray, turns: _Turns) -> Iterator[str]:
        """Yield the texts of a piece, counted over all sources."""
        number = int(np.searchsorted(ends, at, "right"))
        part = self._parts[number]
        return part.texts(at - (int(ends[number]) - part.pieces), turns, self.skipped)


class Part(ABC):
    """A file or a dataset, in `pieces` that are read in any order, each once."""

    pieces: int

    @abstractmethod
    def texts(self, piece: int, turns: _Turns, skipped: Counter[str]) -> Iterator[str]:
        """Yield the texts of a piece, counting in `skipped` what has none."""


class _Documents(Part):
    """The documents of a reader, in its units."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.units = reader, reader.units()
        self.pieces = len(self.units)

    def texts(self, piece: int, turns: _Turns, skipped: Counter[str]) -> Iterator[str]:
        for document in self.reader.read(self.units[piece]):
            if isinstance(document, Unreadable):
                skipped["a document that cannot be read"] += 1
            else:
                yield from (part.text for part in document.parts if isinstance(part, Text))


class _Lines(Part):
    """A file of lines, plain or packed."""

    def __init__(self, path: Path) -> None:
        self.path, size = path, path.stat().st_size
        self.packed, self.records = (kind in path.name.lower() for kind in (".gz", ".jsonl"))
        self.longest = RECORD if self.records else LINE
        self.pieces = max(1, UNPACKED * size // PIECE) if self.packed else -(-size // PIECE)

    def texts(self, piece: int, turns: _Turns, skipped: Counter[str]) -> Iterator[str]:
        if self.packed:
            lines = turns.next(str(self.path), partial(_lines, self.path, longest=self.longest), self.pieces)
        else:
            lines = _lines(self.path, piece * PIECE, (piece + 1) * PIECE, self.longest)
        return _of_records(lines, skipped) if self.records else lines


class _Parquet(Part):
    """A file of rows with a column of texts: each row group in as many pieces as its column is long."""

    def __init__(self, path: Path) -> None:
        """Read the footer. Raises `DataError` for a damaged file, and where no column, or nobody can say which, is
        text."""
        self.path = path
        with _parquet(path) as file:
            names = file.schema_arrow.names
            self.columns = ["text"] if "text" in names else list(words_in(names, alone=True))
            if not self.columns:
                raise DataError(f"{str(path)!r}: has no column 'text' or 'caption' but {', '.join(names)}; rename one")
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            sizes = [
                sum(c.total_uncompressed_size for c in map(group.column, range(group.num_columns)) if self._is_text(c))
                for group in groups
            ]
        self.shares = [max(1, size // PIECE) for size in sizes]
        self.pieces = sum(self.shares)
        self.ends = np.cumsum(self.shares)

    def _is_text(self, column: Any) -> bool:
        return column.path_in_schema.partition(".")[0] in self.columns

    def texts(self, piece: int, turns: _Turns, skipped: Counter[str]) -> Iterator[str]:
        group = int(np.searchsorted(self.ends, piece, "right"))
        for row in turns.next(f"{self.path}:{group}", partial(self._rows, group), self.shares[group]):
            try:
                found = texts_in(row, self.columns)
            except DataError:
                found = []
            if not any(found):
                skipped["a row without a text in UTF-8"] += 1
            yield from (text for text in found if text)

    def _rows(self, group: int) -> Iterator[dict[str, Any]]:
        with _parquet(self.path) as file:
            for batch in file.iter_batches(ROWS, row_groups=[group], columns=self.columns):
                for row in range(batch.num_rows):
                    try:
                        yield from batch.slice(row, 1).to_pylist()
                    except UnicodeDecodeError:
                        yield dict.fromkeys(self.columns)


class _Wet(Part):
    """A WET file of Common Crawl. Each record is packed by itself, so a piece is those that begin in its bytes."""

    def __init__(self, path: Path) -> None:
        """Raise `DataError` where the library for such files is missing."""
        try:
            import warcio  # noqa: F401
        except ImportError as error:
            raise DataError(f"{str(path)!r}: needs the library 'warcio'; pip install warcio") from error
        self.path, self.size = path, path.stat().st_size
        self.pieces = -(-self.size // PIECE)

    def texts(self, piece: int, turns: _Turns, skipped: Counter[str]) -> Iterator[str]:
        start, stop = piece * PIECE, min(self.size, (piece + 1) * PIECE)
        with self.path.open("rb") as file:
            at: int | None = 0 if start == 0 else _member_after(file, start, stop)
            while at is not None and at < stop:
                try:
                    data, end = _unpacked(file, at)
                except (DataError, EOFError, zlib.error) as error:
                    following = _member_after(file, at + 1, self.size)
                    if isinstance(error, EOFError) and following is None:
                        skipped[f"the end of {self.path.name}, which is cut short; download it again"] += 1
                    else:
                        why = f"that {error}" if isinstance(error, DataError) else "that is damaged; download it again"
                        skipped[f"a record of {self.path.name} {why}"] += 1
                    at = following
                    continue
                try:
                    yield from self._pages(data, skipped)
                except DataError as error:
                    skipped[f"a record of {self.path.name} that {error}"] += 1
                at = end

    def _pages(self, data: bytes, skipped: Counter[str]) -> list[str]:
        """Return the texts of the pages in unpacked records: those of type `conversion` and of plain text.

        Raises `DataError` for what is no whole record, and for a text that is not UTF-8 or not the one that was summed.
        """
        from warcio.exceptions import ArchiveLoadFailed
        from warcio.recordloader import ArcWarcRecordLoader

        found, stream = [], io.BytesIO(data)
        while stream.tell() < len(data):
            try:
                record = ArcWarcRecordLoader().parse_record_stream(
                    stream, known_format="warc", no_record_parse=True, check_digests=True
                )
                body = record.raw_stream.read()
                length = int(record.rec_headers.get_header("Content-Length"))
            except (ArchiveLoadFailed, EOFError, ValueError, TypeError) as error:
                raise DataError("has no header of WARC; download it again") from error
            if len(body) != length or stream.read(4) != b"\r\n\r\n" or record.digest_checker.passed is False:
                raise DataError("is not as its header says; download it again")
            kind = (record.rec_headers.get_header("Content-Type") or "").partition(";")[0].strip().lower()
            if record.rec_type != "conversion" or kind != "text/plain":
                if record.rec_type != "warcinfo":
                    skipped["a WARC record that is no page as plain text"] += 1
                continue
            try:
                found.append(body.decode())
            except UnicodeDecodeError as error:
                raise DataError("is not UTF-8") from error
        return [text for text in found if text]


def _unpacked(file: IO[bytes], at: int) -> tuple[bytes, int]:
    """Return what is packed at a byte of a file by itself, and the byte after it.

    Raises `zlib.error` for a damaged one, `EOFError` for one that the file ends in, `DataError` for one of more than
    `RECORD` bytes.
    """
    file.seek(at)
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    made = bytearray()
    while not unpack.eof:
        if not (data := unpack.unconsumed_tail or file.read(1 << 14)):
            raise EOFError
        made += unpack.decompress(data, RECORD + 1 - len(made))
        if len(made) > RECORD:
            raise DataError(f"has more than {RECORD} bytes; pack each record by itself (warcio recompress)")
    return bytes(made), file.tell() - len(unpack.unused_data)


def _member_after(file: IO[bytes], start: int, stop: int) -> int | None:
    """Return the first byte from `start` on, below `stop`, at which a packed WARC record begins; None without one."""
    at = start
    while at < stop:
        file.seek(at)
        block = file.read(1 << 16)
        found = block.find(MEMBER)
        while 0 <= found < stop - at:
            file.seek(at + found)
            with suppress(zlib.error):
                if zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(file.read(1 << 10), 5) == b"WARC/":
                    return at + found
            found = block.find(MEMBER, found + 1)
        at += max(1, len(block) - len(MEMBER) + 1)
    return None


class _Turns:
    """A stream that can only be read from its start on, a piece at a time: each turn goes on where the one before
    stopped.

    At most `OPEN` stay open; one that was closed is read past its earlier turns again.
    """

    def __init__(self) -> None:
        self.open: dict[str, Iterator[Any]] = {}
        self.taken: dict[str, tuple[int, int]] = {}  # turns, and what came in them
        self.ended = set[str]()

    def next(self, name: str, start: Any, turns: int) -> Iterator[Any]:
        """Yield the next about `PIECE` bytes of what `start()` yields; the last of `turns` yields all the rest."""
        if name in self.ended:
            return
        turn, before = self.taken.get(name, (0, 0))
        found = self.open.pop(name, None)
        if found is None:
            found = itertools.islice(start(), before, None)
        self.open[name] = found
        while len(self.open) > OPEN:
            self.open.pop(next(iter(self.open)))
        size, number = 0, before
        while turn + 1 == turns or size < PIECE:
            if (one := next(found, None)) is None:
                del self.open[name]
                self.ended.add(name)
                break
            number += 1
            size += len(one) if isinstance(one, str) else sum(len(str(value)) for value in one.values())
            yield one
        self.taken[name] = turn + 1, number


def _of_records(lines: Iterator[str], skipped: Counter[str]) -> Iterator[str]:
    """Yield the texts of lines that each hold an object."""
    for line in lines:
        if not line.strip():
            continue
        try:
            texts = texts_of(parse_json(line, "line", nan=True))
        except DataError:
            skipped["a line that is not JSON"] += 1
            continue
        if not texts:
            skipped["a line without 'text', 'caption' or 'parts' that have one"] += 1
        yield from texts


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
        """Return the texts to measure on."""
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


def _parts(source: str) -> list[Part]:
    """Return a source as text files, or as the reader of a dataset. A folder of captions is read without its
    pictures."""
    found = parse_source(source)
    path = Path(found.path)
    if found.split is None and found.kind in (None, "folder", "jsonl") and "://" not in found.path:
        if not path.exists():
            raise DataError(f"{found.path!r}: no such file or folder; check the path")
        if path.is_file() and path.name.lower().endswith(SUFFIXES):
            return [_file(path)]
        if path.is_dir() and (found.kind or (recognise(path) or ["folder"])[0]) in ("folder", "jsonl"):
            below = (path / folder / name for folder, names in walk(path) for name in names)
            inside = sorted(p for p in below if p.name.lower().endswith(SUFFIXES) and p.is_file())
            if not inside:
                raise DataError(f"{found.path!r}: the folder holds no file that ends in {', '.join(SUFFIXES)}")
            return list(map(_file, inside))
    return [_Documents(open_reader(found))]


def _file(path: Path) -> Part:
    name = path.name.lower()
    return (
        _Wet(path) if name.endswith(".warc.wet.gz") else _Parquet(path) if name.endswith(".parquet") else _Lines(path)
    )


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Open a parquet file. Raises `DataError` without the library, and for what it cannot read."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{str(path)!r}: needs the library 'pyarrow'; pip install pyarrow") from error
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{str(path)!r}: is damaged ({said(error)}); download it again") from error


def _lines(path: Path, start: int = 0, stop: int | None = None, longest: int = LINE) -> Iterator[str]:
    """Yield the lines that begin in bytes `start` to `stop` of a file, each with its end."""
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
