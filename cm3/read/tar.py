"""The files of a tar as they come: what belongs together, where it is cut, and what must not be unpacked.

A file is told twice: when its header was read, and with its bytes. So who collects files knows that the sample before
is whole, even where the tar is cut inside this one.
"""

from __future__ import annotations

import os
import tarfile
import urllib.request
from collections.abc import Iterator
from typing import IO, NamedTuple, Self, cast

from cm3.errors import DataError
from cm3.files import said
from cm3.read.base import LARGEST, LINE, TEXT
from cm3.read.walk import HIDDEN, PICTURES, Passed, hidden

WANTED = (*(ending[1:] for ending in PICTURES), "txt", "text", "caption", "captions", "json")
"""Suffixes whose bytes are read."""
DAMAGE = (tarfile.TarError, ValueError, EOFError)
"""What a tar raises that is not as it was written."""
TIMEOUT = 60
"""Seconds that a server may be silent."""
NOTE = 1 << 20
"""Bytes of the longest name or note of a header: tarfile reads them at once."""
_MOST = {"json": LINE, "txt": TEXT, "text": TEXT, "caption": TEXT, "captions": TEXT}
"""Bytes of the longest file, by suffix; of others `LARGEST`."""
_NOTES = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_PADDING = 2 * tarfile.RECORDSIZE
"""Zeros that may follow the end: tars are filled up to whole records."""


class NeverFetched(tarfile.ReadError):
    """A tar whose rest is zeros: also the last file before them may be cut short."""


class File(NamedTuple):
    """A file of a tar. `data` is None when only its header was read, and `wrong` says why it will not be read."""

    key: str
    suffix: str
    data: bytes | None = None
    wrong: str = ""


END = File("", "")
"""Told once, when the tar has ended where it says."""


class _Member(tarfile.TarInfo):
    """Tells a tar that is cut short from one that ends, as tarfile itself takes both for the end; bounds its notes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # what stands at the end
                raise
            raise tarfile.ReadError(str(error)) from error
        if member.type in _NOTES and member.size > NOTE:
            raise tarfile.ReadError(f"a name or note of {member.size} bytes")
        return member


def files(stream: IO[bytes], url: str, passed: Passed) -> Iterator[File]:
    """Yield the files of a tar, in its order; those of an unpacked one of this machine by samples, however they lie.

    Raises one of `DAMAGE` for a tar that is cut short or damaged, and where more follows after its end.
    """
    order = _scattered(stream) if "://" not in url and stream.seekable() else None
    if order is not None:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member) as archive:
            for one in order:
                yield from _read(archive, one, passed)
        stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
            if order is None:
                yield from _read(archive, member, passed)
        zeros, more = _rest(archive)
        if zeros > _PADDING and not more:
            raise NeverFetched(f"{zeros} zeros follow after its end, as where a part was never fetched")
        yield END
        if more:
            raise tarfile.ReadError(f"{more} bytes follow after its end, as where tars were joined: give each its own")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, passed: Passed) -> Iterator[File]:
    found = _named(member, passed)
    if found is None:
        return
    key, suffix = found
    yield File(key, suffix)
    wrong, data = "", b""
    if member.issym() or member.islnk():
        wrong = "is a link in the tar; pack the file itself (tar --dereference --hard-dereference)"
    elif suffix.rpartition(".")[2] in WANTED:
        if member.issparse():
            wrong = "is a file with holes, which unpacks to more than there is; pack it as a plain file"
        elif member.size > (most := _MOST.get(suffix.rpartition(".")[2], LARGEST)):
            wrong = f"has {member.size} bytes, more than {most}; check the file"
        else:
            file = archive.extractfile(member)
            data = b"" if file is None else file.read()
            if len(data) < member.size:
                raise tarfile.ReadError("unexpected end of data")
    yield File(key, suffix, data, wrong)


def _named(member: tarfile.TarInfo, passed: Passed) -> tuple[str, str] | None:
    """Return key, the path up to the first dot of the name, and suffix, the rest in small letters; None without one."""
    path = "/".join(part for part in member.name.split("/") if part not in ("", "."))
    folder, _, name = path.rpartition("/")
    if member.isdir():
        return None
    if any(hidden(part, True) for part in folder.split("/") if part) or hidden(name):
        passed.add(HIDDEN, path)
    elif name.startswith("__"):
        passed.add("a note of the webdataset library", path)
    elif not (member.isreg() or member.issym() or member.islnk()):
        passed.add("a pipe or device", path)
    else:
        stem, dot, suffix = name.partition(".")
        if dot and suffix:
            return (f"{folder}/{stem}" if folder else stem), suffix.lower()
        passed.add("files without an ending", path)
    return None


def _scattered(stream: IO[bytes]) -> list[tarfile.TarInfo] | None:
    """Return the files of a tar, sample by sample, where its samples do not stand together.

    None where they do, and for a packed one. Of one that is cut short, those of samples that have all that any has.
    """
    members: list[tarfile.TarInfo] = []
    seen: dict[str, tuple[int, set[str]]] = {}
    keys: list[str] = []
    last, scattered, cut = "", False, False
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member) as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]
                if (named := _named(member, Passed())) is None:
                    continue
                key, suffix = named
                _, suffixes = seen.setdefault(key, (len(seen), set()))
                scattered |= key != last and bool(suffixes) and suffix not in suffixes
                suffixes.add(suffix)
                members.append(member)
                keys.append(key)
                last = key
    except DAMAGE:
        cut = True
    stream.seek(0)
    if not scattered:
        return None
    most = max(len(suffixes) for _, suffixes in seen.values())
    whole = [at for at, key in enumerate(keys) if not cut or len(seen[key][1]) == most]
    return [members[at] for at in sorted(whole, key=lambda at: seen[keys[at]][0])]


def _rest(archive: tarfile.TarFile) -> tuple[int, int]:
    """Return how many bytes follow after the end of a tar, in blocks of zeros alone and in others."""
    source = cast(IO[bytes], archive.fileobj)
    zeros, more = 0, 0
    while block := source.read(1 << 16):
        if any(block):
            more += len(block)
        else:
            zeros += len(block)
    return zeros, more


def opened(url: str) -> IO[bytes]:
    """Return a file or URL, to be read from its beginning. Raises `DataError` for one that cannot be opened."""
    try:
        if url.startswith(("http://", "https://")):
            return cast(IO[bytes], urllib.request.urlopen(url, timeout=TIMEOUT))
        if "://" not in url:
            if not os.path.isfile(url):
                raise FileNotFoundError(f"no such file: {url!r}")
            return open(url, "rb")
        import fsspec

        return cast(IO[bytes], fsspec.open(url, "rb").open())
    except ImportError as error:
        raise DataError(f"{url!r}: needs a package that is not installed; {said(error)}") from error
    except Exception as error:  # as many kinds as there are ways to reach a file
        raise DataError(f"{url!r}: cannot be opened ({said(error)}); check the path, or fetch it again") from error


def broke_off(stream: IO[bytes]) -> bool:
    """Tell whether a server promised more bytes than came: then the tar may be sound."""
    return bool(getattr(stream, "length", None)) and not stream.read(1)
