"""A folder of pictures whose captions stand in lists: the hub's ImageFolder, Flickr8k, DiffusionDB, kohya's metadata.

photos/metadata.jsonl                 {"file_name": "trip/a.png", "text": "A boat", "license": "CC0-1.0"}
photos/trip/a.png
train/metadata.csv, test/metadata.csv a split each, where all lists lie in folders so named

The layouts of lists are in `cm3.read.lists`. Names are relative to the list; a picture that is not there is looked
for by its name alone below the root, as Flickr8k has its pictures in Images/.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cm3.document import Document, Part, Text
from cm3.errors import DataError
from cm3.files import inside
from cm3.read.base import named_picture
from cm3.read.listed import Listed
from cm3.read.lists import Row, file_in, is_list, rows
from cm3.read.record import check_fetched, left_in, meta_of, talk_in, texts_in, words_in
from cm3.read.walk import EMPTY, PICTURES, Passed, ending, walk

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
        self.root, self._listed = Path(root), Passed()
        splits = self.splits(self.root)
        self.split = split if split is not None else next(iter(splits), None)
        if self.split is not None and self.split not in splits:
            has = ", ".join(splits) or "no splits"
            raise DataError(f"{str(root)!r}: has no split {self.split!r}; it has {has}")
        self.source = self.root.resolve().name + ("" if self.split is None else f"/{self.split}")
        self.places: dict[str, list[str]] = defaultdict(list)
        lists, pictures = [], []
        for folder, names in walk(self.root, self._listed):
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
                    self._listed.add(f"a second list beside {chosen[0]}", folder + name)
                else:
                    self._listed.add(f"{ending(name) or 'files without an ending'}, which is not read", folder + name)
        if not lists:
            raise DataError(
                f"{str(root)!r}: has no metadata.jsonl, metadata.csv or captions.txt that names pictures; give the "
                "folder that holds one"
            )
        there = set(pictures)
        self.rows: list[tuple[str, str, Row]] = []  # file, caption, line
        for name in lists:
            home = name[: name.rfind("/") + 1]
            before = len(self.rows)
            for row in rows(inside(self.root, name, "list"), name):
                self.rows += self._of(row, home, there)
            if len(self.rows) == before:
                raise DataError(f"{str(self.root / name)!r}: has no line that names a picture; check the file")
        used = {file for file, _, _ in self.rows}
        for picture in pictures:
            if picture not in used:
                self._listed.add("a picture that no line names", picture)
        many = Counter(file for file, _, row in self.rows if not row.wrong)
        seen = Counter[str]()
        ids = []
        for file, _, row in self.rows:
            ids.append(row.where if row.wrong else f"{file}#{seen[file]}" if many[file] > 1 else file)
            seen[file] += not row.wrong
        self._list(ids)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Tell whether it, or a folder in it that is named as a split or holds its pictures, has a list of captions."""
        return root.is_dir() and any(True for _ in _lists(root))

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Return folders so named, train first, where all lists lie in these."""
        homes = {path.parent.name if path.parent != root else "" for path in _lists(root)}
        return tuple(name for name in SPLITS if name in homes) if homes <= set(SPLITS) else ()

    @property
    def listed(self) -> Passed:
        """Files that are neither lists nor pictures, pictures that no line names, words that are not read."""
        return self._listed

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
            self._listed.add(f"{left!r}, words that are kept as meta alone", row.where)
        if words and not any(text.strip() for text in texts):
            self._listed.add(EMPTY, row.where)
        fields = meta_of(row.fields, (name, *words))
        return [(file, text, Row(row.where, fields)) for text in texts]

    def _document(self, index: int) -> Document:
        file, text, row = self.rows[index]
        if row.wrong:
            raise DataError(row.wrong)
        parts: list[Part] = [Text(text.strip())] if text.strip() else []
        inside(self.root, file, row.where)
        parts.append(named_picture(self.root, file))
        meta: dict[str, Any] = {**row.fields, **({} if self.split is None else {"split": self.split})}
        return Document(tuple(parts), id=self.ids[index], source=self.source, meta=meta)


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
