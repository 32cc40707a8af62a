"""Words and pictures by the id of an item, out of files and folders, for a page that shows items.

    [{"image_id": 3, "caption": "..."}]                      COCO's results; lists under "annotations", "questions", ...
    [{"question_id": 5, "image_id": 3, "question": "..."}]   VQA's questions, with the picture that they are about
    {"3": "a dog", "4": "4.png"}                             an object by id, of words or of pictures beside the file
    DIR                                                      pictures by their names, or the number that these end in

Files of other kinds (statistics, weights) hold nothing of an item, and give nothing.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cm3.errors import DataError
from cm3.files import inside, said
from cm3.score.records import load

IDS = ("question_id", "image_id", "id", "image")
"""Fields that name the item of a row; the first that is there does."""
ASKED = ("question", "prompt")
"""Fields of a row that ask."""
SAID = (
    *("caption", "captions", "answer", "answers", "multiple_choice_answer", "text", "texts", "paragraph", "choices"),
    "files",
)
"""Fields that say: words, or pictures by their names."""
LISTS = ("annotations", "questions", "images", "results", "data", "predictions")
"""Fields of an object that have its rows."""
MOST = 20
"""Most words that are kept of an item."""
SIDE = 224
"""Longest side of a picture in a page, in pixels."""


@dataclass
class Held:
    """Words and pictures by the id of an item, as strings."""

    asked: dict[str, list[str]] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    """Item -> the id or the name of the picture that it is about."""
    named: dict[str, str] = field(default_factory=dict)
    """Picture -> the name of its file."""
    ids: tuple[str, ...] = ()
    """Every item, each once."""


def held(path: Path) -> Held:
    """Return what a file of JSON or JSON lines, or a folder of pictures, holds. Raises `DataError` for one that cannot
    be read."""
    if path.is_dir():
        return _folder(path)
    found = Held()
    if path.suffix not in (".json", ".jsonl"):
        return found
    for id, row in _rows(load(path)):
        _take(found, id, row, path.parent)
    found.ids = tuple(dict.fromkeys((*found.said, *found.pictures)))
    return found


def _rows(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each row with its id."""
    if isinstance(value, Mapping):
        value = value["results"] if isinstance(value.get("results"), Mapping) else value  # of ScienceQA
        lists = [value[name] for name in LISTS if isinstance(value.get(name), list)]
        if not lists:
            yield from ((str(id), row) for id, row in value.items())
        value = [row for rows in lists for row in rows]
    for row in value if isinstance(value, list) else ():
        if isinstance(row, Mapping):
            ids = (row[name] for name in IDS if isinstance(row.get(name), str | int))
            if (id := next(ids, None)) is not None:
                yield (f"{id}:{row['round_id']}" if "round_id" in row else str(id)), row  # of Visual Dialog


def _take(found: Held, id: str, row: Any, beside: Path) -> None:
    """Add a row to what is found."""
    if not isinstance(row, Mapping):
        row = {"text": row}
    if isinstance(request := row.get("request"), Mapping):  # of a task, in a file of prompts
        row = {"question": request.get("question"), "image": request.get("image"), **row}
    if isinstance(about := row.get("image_id", row.get("image")), str | int) and str(about) != id:
        found.about[id] = str(about)
    if isinstance(name := row.get("file_name"), str):
        found.named[id] = name
    for names, kept in ((ASKED, found.asked), (SAID, found.said)):
        for value in (row[name] for name in names if name in row):
            for one in value if isinstance(value, list) else [value]:
                one = next((one[name] for name in SAID if name in one), None) if isinstance(one, Mapping) else one
                if isinstance(one, str) and (picture := _picture(one, beside)):
                    found.pictures.setdefault(id, picture)
                elif isinstance(one, str | int | float):
                    words = kept.setdefault(id, [])
                    if len(words) < MOST and str(one) not in words:
                        words.append(str(one))


def _picture(name: str, beside: Path) -> Path | None:
    """Return the picture that a word of a file names, beside it or in `predictions` there; None for other words."""
    from cm3.read.walk import PICTURES

    if not name.lower().endswith(PICTURES) or len(name) > 1000:
        return None
    for root in (beside, beside / "predictions"):
        try:
            if (path := inside(root, name, "picture")).is_file():
                return path
        except (DataError, OSError):
            continue
    return None


def _folder(path: Path) -> Held:
    """Return the pictures below a folder: by path there, by file name, with and without its ending, by the number that
    ends it, and by its folder. A name that several have is none's."""
    from cm3.read.walk import PICTURES, walk

    by_name, stems = dict[str, set[Path]](), list[str]()
    files = (path / folder / name for folder, names in walk(path) for name in names)
    for file in sorted(file for file in files if file.suffix.lower() in PICTURES):
        name = file.relative_to(path)
        stem = name.with_suffix("").as_posix()
        stems.append(stem)
        number = re.search(r"[0-9]{1,18}$", stem)
        whole = (stem, name.as_posix(), file.name, file.stem, file.parent.name)
        for id in (*whole, *([str(int(number[0]))] if number else [])):
            by_name.setdefault(id, set()).add(file)
    return Held(pictures={id: next(iter(of)) for id, of in by_name.items() if len(of) == 1}, ids=tuple(stems))


def embedded(path: Path) -> str:
    """Return a picture as a small JPEG in a `data:` address. Raises `DataError` for a file that is no picture."""
    from cm3.picture import open_picture, rgb

    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror or said(error)})") from error
    picture = rgb(open_picture(data, path.name)).copy()
    picture.thumbnail((SIDE, SIDE))
    small = io.BytesIO()
    picture.save(small, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode()}"
