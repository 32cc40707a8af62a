"""Web shards: tar files of pictures with their captions, as img2dataset writes them and the webdataset library reads.

shards/00000.tar            000000003.jpg, .txt, .json, 000000007.jpg, ...: files of one key stand together
       00000.parquet, 00000_stats.json      what img2dataset leaves beside; not read

A source is a tar, a folder of them, or a pattern: `{00000..00099}` and `{a,b}` stand for each of them, `::` stands
between several. http and https are read as they come, other URLs (s3, gs, ...) through fsspec. The key is the path in
the tar up to the first dot of the file's name. Of a sample's files the first picture, the .txt (or in its absence the
`caption` of the .json) and the .json are read, all others passed over.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self, cast

from cm3.data.read.base import UNIT, Reader, Unit
from cm3.document import Document, Image, Part, Text, Unreadable
from cm3.errors import DataError
from cm3.picture import open_picture

TARS = (".tar", ".tar.gz", ".tgz")
PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
FORGOTTEN = ("status", "error_message", "exif", "shard_id")
"""Fields of the .json that say how the picture was fetched."""
LONGEST = 2000
"""Characters of a text that is kept as `meta`."""
DAMAGE = (tarfile.TarError, ValueError, EOFError)
"""What a tar raises that is not as it was written."""
TIMEOUT = 60
"""Seconds that a server may be silent."""


class WebDataset(Reader):
    """Documents of tar files, one unit a tar, read from its beginning to its end.

    `id` is the tar's name and the key ("00000/000000003"). `meta` has `key`, and of the .json what is a number or a
    short text: `url`, `sha256`, `width`, `original_width`, `uid`, `similarity`, `license` (also where it is spelt
    LICENSE), and whatever other columns there were; `caption` only where it is not the text.
    """

    kind = "webdataset"
    source = "webdataset"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """List the tars. Raises `DataError` for one of this machine that is missing, and for a split."""
        if split is not None:
            raise DataError(f"{str(root)!r}: web shards have no splits; leave @{split} away, or give its own shards")
        urls = [url for piece in str(root).split("::") for pattern in _braces(piece) for url in _tars(pattern)]
        if len(set(urls)) < len(urls):
            twice = next(url for url in urls if urls.count(url) > 1)
            raise DataError(f"{twice!r}: comes twice in {str(root)!r}; give each tar once")
        self.tars = dict(zip(_names(urls), urls, strict=True))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether it is a tar, or has one."""
        return bool(_inside(root)) if root.is_dir() else root.name.endswith(TARS)

    def units(self, size: int = UNIT) -> list[Unit]:
        """One a tar."""
        return [Unit(name) for name in self.tars]

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Its documents in order.

        Of a tar that is cut short or damaged, those that are whole, then one `Unreadable` of the tar's name. Raises
        `DataError` for a tar that cannot be opened, and when reading it fails for another reason than its content.
        """
        url = self.tars[unit.name]
        seen: set[str] = set()
        sample: dict[str, bytes] = {}
        key: str | None = None
        read = 0
        with opened(url) as stream:
            members = _members(stream)
            while True:
                try:
                    member = next(members, None)
                except Exception as error:  # as many kinds as there are ways to reach a file
                    if not isinstance(error, DAMAGE) or _broke_off(stream):
                        raise DataError(
                            f"{url!r}: reading stopped after {read} documents ({said(error)}); try again"
                        ) from error
                    # What was begun is left out: its caption may be what is missing.
                    reason = f"{url}: is damaged or cut short after {read} documents ({said(error)}); fetch it again"
                    yield Unreadable(_plain(unit.name), reason)
                    return
                if key is not None and (member is None or member[0] != key or member[1] in sample):
                    id = _plain(f"{unit.name}/{key}")
                    if key in seen:
                        yield Unreadable(id, "its key comes twice in the tar; the first sample is kept")
                    else:
                        yield self._document(id, key, sample)
                    seen.add(key)
                    read += 1
                    sample = {}
                if member is None:
                    return
                key, suffix, data = member
                sample[suffix] = data

    def _document(self, id: str, key: str, sample: dict[str, bytes]) -> Document | Unreadable:
        try:
            record = _record(sample.get("json"))
            words = _words(sample["txt"]) if "txt" in sample else str(record.get("caption", ""))
            image = next((sample[suffix] for suffix in sample if suffix in PICTURES), None)
            parts: list[Part] = [Text(words.strip())] if words.strip() else []
            if image is not None:
                parts.append(Image(open_picture(image)))
        except DataError as error:
            return Unreadable(id, str(error))
        if not parts and "txt" not in sample:
            return Unreadable(id, f"has neither picture nor words, only {', '.join(sample) or 'other files'}")
        if record.get("caption") == words:
            del record["caption"]
        return Document(tuple(parts), id=id, source=self.source, meta=record | {"key": _plain(key)})


class _Member(tarfile.TarInfo):
    """Tells a tar that is cut short from one that ends: tarfile itself takes both for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # what stands at the end
                raise
            raise tarfile.ReadError(str(error)) from error


def _members(stream: IO[bytes]) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix in small letters, and bytes of each file; empty for those that nobody reads."""
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
            folder, _, name = member.name.rpartition("/")
            stem, dot, suffix = name.partition(".")
            # Names with two underscores on each side are notes of the webdataset library.
            if not member.isreg() or not (stem and dot) or member.name.startswith("__"):
                continue
            suffix = suffix.lower()
            wanted = suffix in PICTURES or suffix in ("txt", "json")
            file = archive.extractfile(member) if wanted else None
            yield f"{folder}/{stem}" if folder else stem, suffix, file.read() if file is not None else b""


def _record(data: bytes | None) -> dict[str, Any]:
    """What of a .json goes to `meta`."""
    if data is None:
        return {}
    try:
        record = json.loads(data)
        if not isinstance(record, dict):
            raise ValueError("it is no object")
        json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise DataError(f"its .json cannot be read ({error})") from error
    if record.get("status", "success") != "success":
        raise DataError(f"its .json says {record['status']!r}, not 'success'")
    return {
        "license" if name == "LICENSE" else name: value
        for name, value in record.items()
        if name not in FORGOTTEN
        and (
            isinstance(value, str) and len(value) <= LONGEST or isinstance(value, int | float) and math.isfinite(value)
        )
    }


def _words(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"its caption is not UTF-8 at byte {error.start}") from error


def opened(url: str) -> IO[bytes]:
    """A file or URL, to be read from its beginning. Raises `DataError` for one that cannot be opened."""
    try:
        if url.startswith(("http://", "https://")):
            return cast(IO[bytes], urllib.request.urlopen(url, timeout=TIMEOUT))
        if "://" not in url:
            return open(url, "rb")
        import fsspec

        return cast(IO[bytes], fsspec.open(url, "rb").open())
    except ImportError as error:
        raise DataError(f"{url!r}: needs a package that is not installed; {said(error)}") from error
    except Exception as error:  # as many kinds as there are ways to reach a file
        raise DataError(f"{url!r}: cannot be opened ({said(error)}); check the path, or fetch it again") from error


def _broke_off(stream: IO[bytes]) -> bool:
    """Whether a server promised more bytes than came: then the tar may be sound."""
    return bool(getattr(stream, "length", None)) and not stream.read(1)


def said(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _braces(pattern: str) -> Iterator[str]:
    """`x{0..2}` is x0, x1, x2; `x{a,b}` is xa, xb. As many digits as the longer end has, where one begins with 0."""
    choices: list[list[str]] = []
    for piece in re.split(r"(\{\d+\.\.\d+\}|\{[^{}]*,[^{}]*\})", pattern):
        if not piece.startswith("{") or not piece.endswith("}"):
            choices.append([piece])
        elif "," in piece:
            choices.append(piece[1:-1].split(","))
        else:
            first, last = piece[1:-1].split("..")
            if int(first) > int(last):
                raise DataError(f"{pattern!r}: {piece} counts down; write the smaller number first")
            width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
            choices.append([f"{i:0{width}d}" for i in range(int(first), int(last) + 1)])
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _tars(place: str) -> list[str]:
    """The tars of a place: those of a folder, else itself."""
    if "://" in place:
        return [place]
    if os.path.isdir(place):
        if found := _inside(Path(place)):
            return [str(path) for path in found]
        raise DataError(f"{place!r}: holds no .tar; give the folder that holds the shards")
    if not os.path.isfile(place):
        raise DataError(f"{place!r}: no such tar; check the path and the pattern, or fetch it again")
    return [place]


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(TARS) and not path.name.startswith("."))


def _names(urls: list[str]) -> list[str]:
    """A short name for each: the file's, and where two are alike the path, less what all have in common."""
    paths = [re.sub(r"(\.tar|\.tar\.gz|\.tgz)$", "", url.partition("?")[0]) for url in urls]
    names = [path.rpartition("/")[2] for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonprefix(paths).rpartition("/")[0]
        names = [path.removeprefix(common).lstrip("/") for path in paths]
    return names if len(set(names)) == len(names) else urls


def _plain(name: str) -> str:
    """A name of a tar or in one, which need not be UTF-8, as text."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
