"""A folder of pictures, each with its caption in a file of the same stem beside it.

photos/beach.jpg, photos/beach.txt    caption and picture; the same stem, also in other letters where it is the only one
photos/beach.jpg.txt                  or the whole name; also beach.caption, beach.text
photos/beach.json                     what else is known of it: a licence, and the caption where there is no .txt
photos/cat.png, photos/note.txt       a picture without words, words without a picture
photos/beach.depth.png                a control image of the picture beside it (`cm3.tasks.control`), no document
images/a.jpg, captions/a.txt          paths that differ in one folder, of which one holds pictures and the other words

Words are never taken without the picture that they are of: where the file of their stem is of a kind that is not read
(.heic, .mp4), the document is unreadable. All that is no document is counted in `passed`.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cm3.document import Document, Part, Text
from cm3.errors import DataError
from cm3.files import inside
from cm3.picture import CONTROLS as KINDS
from cm3.read.base import LINE, TEXT, Records, content, picture
from cm3.read.fields import NoRecord, read_record, text_of
from cm3.read.imagefolder import is_list
from cm3.read.walk import EMPTY, PICTURES, Passed, ending, plain, walk

WORDS = (".txt", ".caption", ".captions", ".text")
"""Endings of the words of a picture; of several files the first is read."""
DATA = ".json"
CONTROLS = tuple(f".{kind}.png" for kind in KINDS)
UNREAD = (
    *(".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpx", ".svg", ".psd", ".ico", ".tga", ".pcx", ".exr", ".hdr", ".eps"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".icns", ".dds", ".xcf"),
)
"""Endings of pictures that are not read: each is an unreadable document, also without words."""
PAGES = (
    *(".md", ".html", ".htm", ".pdf", ".epub", ".doc", ".docx", ".odt", ".rtf", ".tex", ".xml", ".csv", ".tsv", ".log"),
    *(".py", ".yaml", ".yml", ".srt", ".vtt", ".xmp", ".ann", ".jsonl", ".parquet", ".zip", ".gz"),
)
"""Endings of what is no picture beside a text of the same stem."""


class Group(NamedTuple):
    """Files of one document, as paths below the root; `wrong` says why it cannot be read."""

    name: str
    picture: str | None = None
    words: str | None = None
    data: str | None = None
    wrong: str = ""


def beside(folder: str, names: Sequence[str], passed: Passed) -> list[Group]:
    """Return the documents of the files of one folder ("" or "a/b/"); what is none is added to `passed`."""
    pictures = [name for name in names if ending(name) in PICTURES]
    stems = defaultdict[str, list[str]](list)
    for name in pictures:
        stems[_stem(name)].append(name)
    controls = [name for name in pictures if _controlled(name) in stems]
    for name in controls:
        stems[_stem(name)].remove(name)
    owners = _Owners({name: [name] for name in pictures} | {stem: of for stem, of in stems.items() if of})
    texts = defaultdict[str, list[str]](list)  # picture -> its words, the best first
    data: dict[str, str] = {}
    lone: list[str] = []
    others: list[str] = []
    for name in names:
        if ending(name) in WORDS or ending(name) == DATA:
            of = owners.find(_stem(name))
            for picture in of:
                if ending(name) == DATA:
                    data.setdefault(picture, name)
                else:
                    texts[picture].append(name)
            if not of:
                lone.append(name)
        elif ending(name) not in PICTURES:
            others.append(name)

    groups = []
    for name in pictures:
        if name in controls:
            continue
        found = sorted(texts[name], key=lambda text: (_stem(text) != name, WORDS.index(ending(text)), text))
        for more in found[1:]:
            passed.add("a second text of one picture", folder + more)
        groups.append(_group(folder, name, name, found[0] if found else None, data.get(name)))
    return groups + _without(folder, lone, others, passed)


def _without(folder: str, lone: Iterable[str], others: Iterable[str], passed: Passed) -> list[Group]:
    """Return the documents of files that have no picture that is read."""
    others, groups, told = list(others), [], set[str]()
    foreign = _Owners(defaultdict(list))
    for name in others:
        if ending(name) in PAGES:
            continue
        # beach.jpg.part is what is left of beach.jpg, whose words are beach.txt
        for stem in {name, _stem(name), _stem(_stem(name)) if ending(_stem(name)) in PICTURES else _stem(name)}:
            foreign.add(stem, name)
    texts: dict[str, list[str]] = defaultdict(list)
    data: dict[str, str] = {}
    for name in lone:
        if ending(name) == DATA:
            data[_stem(name)] = name
        else:
            texts[_stem(name)].append(name)
    for stem, names in texts.items():
        names.sort(key=lambda name: WORDS.index(ending(name)))
        for more in names[1:]:
            passed.add("a second text of one stem", folder + more)
        of = foreign.find(stem)
        if ending(stem) in PICTURES:
            missing = f"{plain(names[0])}: is of {plain(stem)}, which is not there; put the picture beside it"
            groups.append(Group(folder + names[0], wrong=missing))
            data.pop(stem, None)
        elif of:
            told.update(of)
            groups.append(Group(folder + of[0], wrong=_unread(of[0], f", for {plain(names[0])} is of it")))
            data.pop(stem, None)
        else:
            groups.append(_group(folder, names[0], None, names[0], data.pop(stem, None)))
    for name in others:
        if name in told:
            continue
        if ending(name) in UNREAD:
            groups.append(Group(folder + name, wrong=_unread(name)))
        else:
            passed.add(f"{ending(name) or 'files without an ending'}, which is not read", folder + name)
    for name in data.values():
        passed.add(".json without a picture or words of its name", folder + name)
    return groups


def pair_folders(groups: Sequence[Group]) -> list[Group]:
    """Join pictures and words of folders that differ in one name, where one has no words and the other no picture."""
    pictures, words = defaultdict[str, list[Group]](list), defaultdict[str, list[Group]](list)
    mixed = set[str]()
    for group in groups:
        folder = os.path.dirname(group.name)
        if group.picture is not None and group.words is None:
            pictures[folder].append(group)
        elif group.words is not None and group.picture is None and not group.wrong:
            words[folder].append(group)
        else:
            mixed.add(folder)
    masked = defaultdict[tuple[int, str], list[str]](list)
    for folder in pictures:
        if folder and folder not in words and folder not in mixed:
            for key in _masked(folder):
                masked[key].append(folder)
    joined: dict[str, Group] = {}
    for folder, texts in words.items():
        if not folder or folder in pictures or folder in mixed:
            continue
        homes = {home for key in _masked(folder) for home in masked[key]}
        by_stem = defaultdict[str, list[Group]](list)
        for home in sorted(homes):
            for group in pictures[home]:
                by_stem[_fold(_stem(os.path.basename(group.name)))].append(group)
        paired = {text.name: by_stem.get(_fold(_stem(os.path.basename(text.name))), []) for text in texts}
        for text in texts if any(paired.values()) else ():
            for group in paired[text.name]:
                joined[group.name] = group._replace(words=text.words, data=group.data or text.data)
            missing = f"{plain(text.name)}: has no picture of its name in {' or '.join(sorted(homes))}/"
            joined[text.name] = text._replace(name="") if paired[text.name] else Group(text.name, wrong=missing)
    return [group for each in groups if (group := joined.get(each.name, each)).name]


class _Owners:
    """Stem -> files; where no stem is spelt so, the only one that is spelt so in other letters."""

    def __init__(self, exact: dict[str, list[str]]) -> None:
        self.exact = exact
        self.folded = defaultdict[str, set[str]](set)
        for stem in exact:
            self.folded[_fold(stem)].add(stem)

    def add(self, stem: str, name: str) -> None:
        self.exact.setdefault(stem, []).append(name)
        self.folded[_fold(stem)].add(stem)

    def find(self, stem: str) -> list[str]:
        if self.exact.get(stem):
            return self.exact[stem]
        alike = self.folded.get(_fold(stem), set())
        return self.exact[next(iter(alike))] if len(alike) == 1 else []


def _unread(name: str, more: str = "") -> str:
    kind = ending(name) or "no ending"
    return f"{plain(name)}: files of this kind ({kind}) are not read; save it as PNG or JPEG{more}"


def _group(folder: str, name: str, *files: str | None) -> Group:
    picture, words, data = (None if file is None else folder + file for file in files)
    return Group(folder + name, picture, words, data)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _fold(stem: str) -> str:
    """Return a stem as Windows and macOS compare it: in any letters, accents in one or two characters."""
    return unicodedata.normalize("NFC", stem).casefold()


def _controlled(name: str) -> str | None:
    """Return the stem of the picture that a file is the control image of; None for one that is named otherwise."""
    found = next((e for e in CONTROLS if name.lower().endswith(e)), None)
    return name[: -len(found)] if found else None


def _masked(folder: str) -> list[tuple[int, str]]:
    parts = folder.split("/")
    return [(i, "/".join([*parts[:i], "", *parts[i + 1 :]])) for i in range(len(parts))]


class Folder(Records):
    """Documents of a folder and of those inside it, by name. Files are listed once, and read when they are asked for.

    `id` is the picture's path below the folder (the text's, where there is no picture), `source` the folder's name, and
    `meta` what the .json beside it says; its `license` is the one that was given, where none is said.
    """

    kind = "folder"
    nested = True

    def __init__(self, root: Path | str, split: str | None = None, *, license: str | None = None) -> None:
        """List the files. Raises `DataError` for a folder that is not there or has no such file, and for a split."""
        self.root, self.license = Path(root), license
        if split is not None:
            raise DataError(f"{str(root)!r}: a folder of pictures has no splits; leave @{split} away")
        if not self.root.is_dir():
            raise DataError(f"{str(root)!r}: no such folder; give one that holds pictures, each with its .txt")
        self.source = self.root.resolve().name
        groups: list[Group] = []
        for folder, names in walk(self.root, self.listed):
            lists = [name for name in names if is_list(self.root / folder / name)]
            told = f"is a list of captions, which is read as imagefolder:{self.root}"
            groups += [Group(folder + name, wrong=f"{name}: {told}") for name in lists]
            groups += beside(folder, [name for name in names if name not in lists], self.listed)
        self._groups = sorted(pair_folders(groups), key=lambda group: group.name.split("/"))
        if not self._groups:
            seen = ", ".join(f"{n} x {kind}" for kind, n in self.listed.counts.most_common(3))
            raise DataError(
                f"{str(root)!r}: holds no picture and no .txt; give pictures, each with its .txt beside it"
                + (f" (passed over: {seen})" if seen else "")
            )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        if not root.is_dir():
            return False
        return any(ending(name) in (*PICTURES, ".txt") for _, names in walk(root) for name in names)

    def __len__(self) -> int:
        return len(self._groups)

    def name(self, index: int) -> str:
        return plain(self._groups[index].name)

    def document(self, index: int) -> Document:
        group = self._groups[index]
        if group.wrong:
            raise DataError(group.wrong)
        text = None if group.words is None else self._words(group)
        captions, meta = ([] if text is None else [text]), dict[str, Any]()
        if group.data is not None:
            try:
                captions, meta = read_record(
                    self._content(group.data, LINE), self._said(group.data), text, group.picture is None
                )
            except NoRecord as error:
                self._note(index, f".json that {error}", plain(group.data))
        words = "\n".join(captions).strip()
        if captions and not words:
            self._note(index, EMPTY, plain(group.words or group.data or ""))
        parts: list[Part] = [Text(words)] if words else []
        if group.picture is not None:
            parts.append(picture(inside(self.root, group.picture, "picture"), plain(group.picture)))
        if self.license is not None:
            meta.setdefault("license", self.license)
        return Document(tuple(parts), id=self.name(index), source=self.source, meta=meta)

    def picture_paths(self, document: Document) -> list[Path]:
        """Return its file: the document's id is its path."""
        return [self.root / document.id]

    def _words(self, group: Group) -> str:
        assert group.words is not None
        return text_of(self._content(group.words, TEXT), self._said(group.words))

    def _content(self, name: str, most: int) -> bytes:
        return content(inside(self.root, name, "file"), self._said(name), most)

    def _said(self, name: str) -> str:
        return plain(os.path.basename(name))
