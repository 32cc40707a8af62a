"""Captions in one file that names the pictures, as the hub's ImageFolder, Flickr8k, DiffusionDB and kohya have them.

metadata.jsonl, metadata.csv     {"file_name": "a.png", "text": "A boat"}, or columns of these names (also .tsv)
captions.txt                     image,caption             a table with a header, commas, tabs or | between
Flickr8k.token.txt               a.jpg#0<tab>A boat        one caption a line, without a header; also , or |
part-000001.json, captions.json  {"a.png": {"p": "A boat"}} or {"a.png": "A boat"} or a list of objects
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cm3.document import check_text
from cm3.errors import DataError
from cm3.files import parse_json
from cm3.read.base import content
from cm3.read.record import text_of, words_in
from cm3.read.walk import PICTURES, ending

NAMES = re.compile(
    r"(?!.*lemma)(metadata|meta_cap|meta_lat|meta|captions?|prompts?|labels?|results|annotations?|descriptions?|part-\d+|[\w.-]*\.token)"
    r"\.(jsonl|csv|tsv|txt|json)",
    re.IGNORECASE,
)
"""Names that a list of captions has; whether it is one, its beginning says."""
FILES = (
    *(
        "file_name",
        "filename",
        "image",
        "image_name",
        "image_path",
        "image_file",
        "img",
        "img_path",
        "file",
        "filepath",
    ),
    *("file_path", "path", "file_names"),
)
"""What people call the name of a picture's file, the surest first."""
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


def file_in(names: Iterable[str]) -> str:
    """Return the name of what names the picture, in the record's spelling. Raises `DataError` where there is none."""
    spelt = {str(name).strip().lower(): name for name in reversed(list(names))}
    found = [spelt[name] for name in FILES if name in spelt][:1]
    found = found or [name for low, name in spelt.items() if low.endswith("_file_name")]
    if len(found) != 1:
        raise DataError(f"names {len(found) or 'no'} pictures; give it one {FILES[0]!r}")
    return found[0]


def files_in(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the field that names a record's picture: image or images, or one whose value ends as a picture's name."""
    found = next((name for name in ("image", "images") if name in record), None)
    found = found or next((n for n in FILES if isinstance(record.get(n), str) and ending(record[n]) in PICTURES), None)
    return () if found is None else (found,)


def _names_a_picture(value: Any) -> bool:
    return isinstance(value, dict) and any(str(name).lower() in ("file_name", "file_names") for name in value)
