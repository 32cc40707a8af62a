"""Web shards: tar files of pictures with their captions, as img2dataset writes them and the webdataset library reads.

shards/00000.tar            000000003.jpg, .txt, .json, 000000007.jpg, ...: files of one key stand together
       00000.parquet, 00000_stats.json      what img2dataset leaves beside; not read

A source is a tar, a folder of them, or a pattern: `{00000..00099}` and `{a,b}` stand for each of them, `::` stands
between several. http and https are read as they come, other URLs (s3, gs, ...) through fsspec. The key is the path in
the tar up to the first dot of the file's name. Of a sample's files the first picture, or 0.jpg, 1.jpg, ... in their
order, the .txt (.caption, .text; in its absence the captions of the .json) and the .json are read, and all others
counted in `passed`. Words whose picture is of a kind that is not read are unreadable with it.

    tar --files--> key, suffix, bytes --> sample --> Document, or one for each of several captions

A file is told twice: when its header was read, and with its bytes. So who collects files knows that the sample before
is whole, even where the tar is cut inside this one.
"""

from __future__ import annotations

import itertools
import os
import re
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Self, cast

from cm3.document import Document, Image, Place, Unreadable
from cm3.errors import DataError
from cm3.files import said
from cm3.read.base import LARGEST, LINE, TEXT, UNIT, Reader, Unit, captioned
from cm3.read.fields import NoRecord, read_record, text_of
from cm3.read.picture_folder import PAGES
from cm3.read.picture_folder import WORDS as BESIDE
from cm3.read.walk import HIDDEN, PICTURES, Passed, hidden, plain

ENDINGS, WORDS = (tuple(ending[1:] for ending in endings) for endings in (PICTURES, BESIDE))
"""Suffixes of pictures, and of words, the best first."""
WANTED = (*ENDINGS, *WORDS, "json")
"""Suffixes whose bytes are read."""
DAMAGE = (tarfile.TarError, ValueError, EOFError)
"""Errors of a tar that is not as it was written."""
TIMEOUT = 60
"""Seconds that a server may be silent."""
NOTE = 1 << 20
"""Bytes of the longest name or note of a header: tarfile reads them at once."""
_MOST = {"json": LINE, **dict.fromkeys(WORDS, TEXT)}
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
    """A file of a tar. `data` is None when only its header was read, and `wrong` says why it will not be read.

    `place`: where its bytes lie, in an unpacked tar of this machine.
    """

    key: str
    suffix: str
    data: bytes | None = None
    wrong: str = ""
    place: Place | None = None


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
    path = url if "://" not in url and _plain(stream) else ""
    if order is not None:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member) as archive:
            for one in order:
                yield from _read(archive, one, passed, path)
        stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
            if order is None:
                yield from _read(archive, member, passed, path)
        zeros, more = _rest(archive)
        if zeros > _PADDING and not more:
            raise NeverFetched(f"{zeros} zeros follow after its end, as where a part was never fetched")
        yield END
        if more:
            raise tarfile.ReadError(f"{more} bytes follow after its end, as where tars were joined: give each its own")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, passed: Passed, path: str) -> Iterator[File]:
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
    place = Place(path, member.offset_data, len(data)) if path and data else None
    yield File(key, suffix, data, wrong, place)


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


def _plain(stream: IO[bytes]) -> bool:
    """Tell whether a tar is not packed, so that its bytes lie in the file as they are."""
    if not stream.seekable():
        return False
    block = stream.read(tarfile.BLOCKSIZE)
    stream.seek(0)
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


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


TARS = (".tar", ".tar.gz", ".tgz")
NUMBERED = re.compile(rf"(\d{{1,4}})\.({'|'.join(ENDINGS)})")
"""Suffix of one of several pictures."""


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
        return bool(_inside(root)) if root.is_dir() else root.name.endswith(TARS)

    def units(self, size: int = UNIT) -> list[Unit]:
        return [Unit(name) for name in self.tars]

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Yield its documents in order.

        Of a tar that is cut short or damaged, those that are whole, then one `Unreadable` of the tar's name; one also
        where more follows after its end. Raises `DataError` for a tar that cannot be opened, when reading it fails for
        another reason than its content, and for a packed one or one from afar whose samples do not stand together.
        """
        url = self.tars[unit.name]
        passed = self._passed_in[unit.name] = Passed()
        seen: dict[str, set[str]] = {}
        before = set[str]()
        key, sample = "", dict[str, File]()
        read = 0
        with opened(url) as stream:
            told = files(stream, url, passed)
            while True:
                damage, last, file = "", True, None
                try:
                    file = next(told, None)
                except Exception as error:  # as many kinds as there are ways to reach a file
                    if not isinstance(error, DAMAGE) or broke_off(stream):
                        raise DataError(
                            f"{url!r}: reading stopped after {read} documents ({said(error)}); try again"
                        ) from error
                    damage, last = said(error), not isinstance(error, NeverFetched)
                if sample and (file is None or file.key != key or (file.data is None and file.suffix in sample)):
                    # Of what a damaged tar ends with the caption may be missing, unless it has all that the last had.
                    if not damage or (last and before and before <= sample.keys()):
                        if key in seen and not seen[key] & sample.keys():
                            raise DataError(
                                f"{url!r}: the files of {plain(key)!r} do not stand together, so that pictures lose "
                                "their words; sort it (tar --sort=name), or unpack its .gz: then it is read in order"
                            )
                        for document in self._sample(plain(f"{unit.name}/{key}"), key, sample, key in seen, passed):
                            read += 1
                            yield document
                    seen.setdefault(key, set()).update(sample)
                    before, sample = set(sample), {}
                if damage:
                    reason = f"{url}: is damaged or cut short after {read} documents ({damage}); fetch it again"
                    yield Unreadable(plain(unit.name), reason)
                if file is None:
                    return
                key = file.key
                if file.data is not None:
                    sample[file.suffix] = file

    def _sample(
        self, id: str, key: str, sample: Mapping[str, File], again: bool, passed: Passed
    ) -> Iterator[Document | Unreadable]:
        """Yield the documents of a sample: one, or one for each of several captions, which share the pictures."""
        if again:
            yield Unreadable(id, "its key comes twice in the tar; the first sample is kept")
            return
        try:
            pictures, words, data = _parts(sample)
            for suffix, file in sample.items():
                if suffix not in (*pictures, words, data):
                    passed.add(f".{suffix}, which is not read", f"{id}.{suffix}")
                elif file.wrong:
                    raise DataError(f"its .{suffix} {file.wrong}")
            text = None if words is None else text_of(sample[words].data or b"", "its caption")
            captions, meta = ([] if text is None else [text]), dict[str, Any]()
            if data is not None:
                try:
                    captions, meta = read_record(sample[data].data or b"", "its .json", text, not pictures)
                except NoRecord as error:  # no loss where the words stand beside it
                    passed.add(f".json that {error}", id)
            images = [Image(data=sample[suffix].data or b"", place=sample[suffix].place) for suffix in pictures]
        except DataError as error:
            yield Unreadable(id, str(error))
            return
        yield from captioned(id, self.source, captions, images, {**meta, "key": plain(key)}, passed)


def _parts(sample: Mapping[str, File]) -> tuple[list[str], str | None, str | None]:
    """Return the suffixes of a sample's pictures, of its words and of its .json.

    Raises `DataError` for one that cannot be read whole: words of what is no picture that is read, pictures or words
    that are called otherwise.
    """
    plainly = [suffix for suffix in sample if suffix in ENDINGS]
    numbered = {int(m[1]): suffix for suffix in sample if (m := NUMBERED.fullmatch(suffix))}
    in_order = [numbered[number] for number in sorted(numbered)]
    if (
        not plainly
        and numbered
        and sorted(numbered) not in (list(range(len(numbered))), [*range(1, len(numbered) + 1)])
    ):
        in_order = []
    pictures = plainly[:1] or in_order
    after = {"", *(f"{picture}." for picture in pictures)}  # a.jpg.txt is of a.jpg
    words = next((s for w in WORDS for a in after if (s := a + w) in sample), None)
    data = next((s for a in after if (s := f"{a}json") in sample), None)
    others = [s for s in sample if s not in (*pictures, words, data)]
    if not pictures and words is None and data is None:
        raise DataError(f"has neither picture nor words, only {', '.join(sample)}")
    strange = [s for s in others if s not in ("cls", *WORDS) and f".{s.rpartition('.')[2]}" not in PAGES]
    if not pictures and (words is not None or data is not None) and strange:
        raise DataError(f"its .{strange[0]} is not read, so its words are not taken either; save it as .png or .jpg")
    if pictures and words is None:
        if texts := [s for s in others if s.rpartition(".")[2] in WORDS]:
            raise DataError(f"its words are in .{texts[0]}, which is not read; call it .txt")
    return pictures, words, data


def _braces(pattern: str) -> Iterator[str]:
    """Expand braces: `x{0..2}` is x0, x1, x2; `x{a,b}` is xa, xb. As many digits as the longer end has, where one
    begins with 0."""
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
    """Return the tars of a place: those of a folder, else itself."""
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
    """Return a short name for each: the file's, and where two are alike the path, less what all have in common."""
    paths = [re.sub(r"(\.tar|\.tar\.gz|\.tgz)$", "", url.partition("?")[0]) for url in urls]
    names = [path.rpartition("/")[2] for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonprefix(paths).rpartition("/")[0]
        names = [path.removeprefix(common).lstrip("/") for path in paths]
    return names if len(set(names)) == len(names) else urls
