"""Captions in one file that names the pictures, as the hub's ImageFolder, Flickr8k, DiffusionDB and kohya have them.

photos/metadata.jsonl, metadata.csv   {"file_name": "trip/a.png", "text": "A boat"}, or columns of these names (.tsv)
captions.txt                          image,caption             a table with a header, commas, tabs or | between
Flickr8k.token.txt                    a.jpg#0<tab>A boat        one caption a line, without a header; also , or |
part-000001.json, captions.json       {"a.png": {"p": "A boat"}} or {"a.png": "A boat"} or a list of objects
train/metadata.csv, test/metadata.csv a split each, where all lists lie in folders so named

Names are relative to the list; a picture that is not there is looked for by its name alone below the root, as Flickr8k
has its pictures in Images/.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cm3.document import Text, check_text
from cm3.errors import DataError
from cm3.files import inside, parse_json
from cm3.read.base import content, named_picture
from cm3.read.fields import FILES, check_fetched, file_in, left_in, meta_of, talk_in, text_of, texts_in, words_in
from cm3.read.published import Entry, Listed, Made
from cm3.read.walk import EMPTY, PICTURES, ending, walk

NAMES = re.compile(
    r"(?!.*lemma)(metadata|meta_cap|meta_lat|meta|captions?|prompts?|labels?|results|annotations?|descriptions?|part-\d+|[\w.-]*\.token)"
    r"\.(jsonl|csv|tsv|txt|json)",
    re.IGNORECASE,
)
"""Names that a list of captions has; whether it is one, its beginning says."""
HEAD = 1 << 16
MOST = 1 << 28
"""Bytes of the longest list: its lines are all in memory."""
_END = "|".join(one[1:] for one in PICTURES)
_TOKEN = re.compile(rf"([^\t,|]{{1,255}}\.(?:{_END}))(?:#\d+)? ?[\t,|] ?(.*[^\W\d].*)", re.IGNORECASE)
_KEYED = re.compile(rf'\s*\{{\s*"[^"]{{1,255}}\.(?:{_END})"\s*:', re.IGNORECASE)


class Row(NamedTuple):
    """A line of a list: where it stands, and its fields, or why it cannot be read."""

    where: str
    fields: dict[str, Any]
    wrong: str = ""


def is_list(path: Path) -> bool:
    """Tell whether a file is a list of captions of pictures, by its name and its beginning."""
    if not NAMES.fullmatch(path.name) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return looks_like_a_list(file.read(HEAD), ending(path.name))
    except OSError:
        return False


def looks_like_a_list(head: bytes, kind: str) -> bool:
    """Tell whether a beginning is that of a list of captions of pictures."""
    lines = head.decode("utf-8-sig", errors="replace").splitlines()
    first = next((line for line in lines if line.strip()), "")
    if kind == ".jsonl":
        try:
            return _names_a_picture(parse_json(first, "line", nan=True))
        except DataError:
            return bool(re.search(r'"file_?names?"\s*:', first))
    if kind == ".json":
        text = head.decode("utf-8-sig", errors="replace")
        return bool(_KEYED.match(text) or re.match(r'\s*\[\s*\{[^{}]*"(file_?name|image)"\s*:', text))
    if _table(first) is not None:
        return True
    told = [line for line in lines[: max(1, len(lines) - 1)] if line.strip()]
    return bool(told) and all(_TOKEN.fullmatch(line) for line in told[:50])


def rows(path: Path, name: str) -> Iterator[Row]:
    """Yield the lines of a list. Raises `DataError` for one that is too long, is no text, or of another layout."""
    data = content(path, name, MOST)
    kind = ending(name)
    if kind == ".json":
        yield from _of_json(parse_json(data, name, nan=True), name)
    elif kind == ".jsonl":
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                yield _of_line(line, f"{name}:{number}")
    else:
        yield from _of_table(text_of(data, name), name)


def _of_line(line: bytes, where: str) -> Row:
    try:
        value = parse_json(line, where, nan=True)
        if not isinstance(value, dict):
            raise DataError(f"{where}: is {type(value).__name__}, not an object")
        check_text(value, where)
    except DataError as error:
        return Row(where, {}, str(error))
    return Row(where, value)


def _of_json(value: Any, name: str) -> Iterator[Row]:
    entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value, 1))
    for key, entry in entries:
        where = f"{name}: {key!a:.80}"
        try:
            check_text([key, entry], where)
        except DataError as error:
            yield Row(where, {}, str(error))
            continue
        named = {} if isinstance(value, list) else {"file_name": key}
        if isinstance(entry, dict):
            # DiffusionDB calls the prompt p
            words = {} if words_in(entry) or "p" not in entry else {"prompt": entry["p"]}
            yield Row(where, {**{k: v for k, v in entry.items() if not (words and k == "p")}, **words, **named})
        elif named:
            yield Row(where, {"caption": entry, **named})
        else:
            yield Row(where, {}, f"{where}: is {type(entry).__name__}, not an object")


def _of_table(text: str, name: str) -> Iterator[Row]:
    lines = text.splitlines()
    between = _table(next((line for line in lines if line.strip()), ""))
    if between is None:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{name}:{number}"
            if found := _TOKEN.fullmatch(line):
                words = found[2].strip()
                if len(words) > 1 and words[0] == words[-1] == '"':
                    words = words[1:-1].replace('""', '"')
                yield Row(where, {"file_name": found[1], "caption": words})
            else:
                yield Row(where, {}, f"{where}: is not 'NAME.jpg#0<tab>caption': {line[:60]!r}")
        return
    lines_of = io.StringIO(text, newline="")
    if between == ",":
        table = csv.reader(lines_of)
    else:
        table = csv.reader(lines_of, delimiter=between, quoting=csv.QUOTE_NONE)
    header: list[str] = []
    while True:
        try:
            fields = next(table, None)
        except csv.Error as error:
            yield Row(f"{name}:{table.line_num}", {}, f"{name}:{table.line_num}: cannot be read ({error})")
            continue
        if fields is None:
            return
        raw, fields = fields, [field.strip() for field in fields]
        where = f"{name}:{table.line_num}"
        if not any(fields):
            continue
        if not header:
            header = fields
        elif len(fields) > len(header) and words_in(header) == (header[-1],):
            # a caption with commas that nobody put in quotes
            whole = between.join(raw[len(header) - 1 :]).strip()
            yield Row(where, dict(zip(header, [*fields[: len(header) - 1], whole], strict=True)))
        elif len(fields) != len(header):
            yield Row(where, {}, f"{where}: has {len(fields)} fields, the header has {len(header)}")
        else:
            yield Row(where, dict(zip(header, fields, strict=True)))


def _table(line: str) -> str | None:
    """Return the mark between the columns of a header that names pictures and words; None for a line that is none."""
    for between in ("\t", "|", ","):
        names = [name.strip().strip('"') for name in line.split(between)]
        if len(names) > 1 and all(re.fullmatch(r"[\w .-]{1,60}", name) for name in names):
            if {name.lower() for name in names} & set(FILES) and words_in(names):
                return between
    return None


def _names_a_picture(value: Any) -> bool:
    return isinstance(value, dict) and any(str(name).lower() in ("file_name", "file_names") for name in value)


SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")


class ImageFolder(Listed):
    """One document a caption, `caption, picture`, in the order of the lists and their lines.

    `id` is the picture's path below the root, with "#0", "#1" where it has several captions; of a line that cannot be
    read it is list and line. `meta` has `split` where there are splits, and the line's other fields. Pictures that no
    line names are in `listed`.
    """

    kind = "imagefolder"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read the lists. Raises `DataError` where there is none, for an unknown split, and for damaged ones."""
        self.root = Path(root)
        splits = self.splits(self.root)
        self.split = split if split is not None else next(iter(splits), None)
        if self.split is not None and self.split not in splits:
            has = ", ".join(splits) or "no splits"
            raise DataError(f"{str(root)!r}: has no split {self.split!r}; it has {has}")
        self.source = self.root.resolve().name + ("" if self.split is None else f"/{self.split}")
        self.places: dict[str, list[str]] = defaultdict(list)
        lists, pictures = [], []
        for folder, names in walk(self.root, self.listed):
            if self.split is not None and not folder.startswith(f"{self.split}/"):
                continue
            chosen = _chosen(self.root / folder, names)
            for name in names:
                if ending(name) in PICTURES:
                    pictures.append(folder + name)
                    self.places[name].append(folder + name)
                elif name in chosen:
                    lists.append(folder + name)
                elif is_list(self.root / folder / name):
                    self.listed.add(f"a second list beside {chosen[0]}", folder + name)
                else:
                    self.listed.add(f"{ending(name) or 'files without an ending'}, which is not read", folder + name)
        if not lists:
            raise DataError(
                f"{str(root)!r}: has no metadata.jsonl, metadata.csv or captions.txt that names pictures; give the "
                "folder that holds one"
            )
        there = set(pictures)
        found: list[tuple[str, str, Row]] = []  # file, caption, line
        for name in lists:
            home = name[: name.rfind("/") + 1]
            before = len(found)
            for row in rows(inside(self.root, name, "list"), name):
                found += self._of(row, home, there)
            if len(found) == before:
                raise DataError(f"{str(self.root / name)!r}: has no line that names a picture; check the file")
        used = {file for file, _, _ in found}
        for picture in pictures:
            if picture not in used:
                self.listed.add("a picture that no line names", picture)
        many = Counter(file for file, _, row in found if not row.wrong)
        seen = Counter[str]()
        entries: list[Entry] = []
        for file, text, row in found:
            if row.wrong:
                entries.append((row.where, DataError(row.wrong)))
                continue
            entries.append((f"{file}#{seen[file]}" if many[file] > 1 else file, (file, text, row)))
            seen[file] += 1
        self._list(entries)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Tell whether it, or a folder in it that is named as a split or holds its pictures, has a list of captions."""
        return root.is_dir() and any(True for _ in _lists(root))

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Return folders so named, train first, where all lists lie in these."""
        homes = {path.parent.name if path.parent != root else "" for path in _lists(root)}
        return tuple(name for name in SPLITS if name in homes) if homes <= set(SPLITS) else ()

    def _of(self, row: Row, home: str, there: set[str]) -> list[tuple[str, str, Row]]:
        """Return the captions of a line, each with its picture."""
        if row.wrong:
            return [("", "", row)]
        try:
            check_fetched(row.fields)
            name = file_in(row.fields)
            file = row.fields[name]
            if not isinstance(file, str) or not file:
                raise DataError(f"its {name!r} is {file!r:.60}, which must be the name of one picture")
            if home + file not in there:
                file = file.replace("\\", "/")
                found = self.places.get(file.rpartition("/")[2], [])
                file = found[0] if home + file not in there and len(found) == 1 else home + file
            else:
                file = home + file
            words = words_in(n for n in row.fields if n != name)
            texts = texts_in(row.fields, words) or [""]
            if not words and (talk := talk_in(row.fields)):
                raise DataError(f"its words are {talk[0]!r}, which are no caption")
        except DataError as error:
            return [("", "", row._replace(wrong=f"{row.where}: {error}"))]
        for left in left_in(row.fields, (name, *words)):
            self.listed.add(f"{left!r}, words that are kept as meta alone", row.where)
        if words and not any(text.strip() for text in texts):
            self.listed.add(EMPTY, row.where)
        fields = meta_of(row.fields, (name, *words))
        return [(file, text, Row(row.where, fields)) for text in texts]

    def _made(self, id: str, record: Any) -> Made:
        file, text, row = record
        inside(self.root, file, row.where)
        picture = named_picture(self.root, file)
        meta: dict[str, Any] = {**row.fields, **({} if self.split is None else {"split": self.split})}
        return ((Text(text.strip()), picture) if text.strip() else (picture,)), meta


def _chosen(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the lists of a folder that are read: the first, the hub's before others; all parts of DiffusionDB."""
    found = [name for name in names if is_list(folder / name)]
    found.sort(key=lambda name: (not name.lower().startswith("metadata."), not name.endswith(".jsonl"), name))
    return [name for name in found if name == found[0] or name.startswith("part-") and found[0].startswith("part-")]


def _lists(root: Path) -> list[Path]:
    """Return the lists in a folder and in those in it, as far as names tell where to look."""
    if not root.is_dir():
        return []
    found = []
    for folder, names in walk(root, depth=1):
        found += [root / folder / name for name in names if is_list(root / folder / name)]
    return found
