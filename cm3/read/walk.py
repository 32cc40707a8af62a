"""The files below a folder, without files of the system, hidden ones, and links to folders.

Nothing is passed over in silence: `Passed` counts it by kind, with the first names, and `cm3 data inspect` and `cm3
prepare` tell it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cm3.errors import DataError

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".apng", ".mpo"),
)
"""Endings of the pictures that are read. A file's kind its bytes decide (`cm3.picture`)."""
FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
FOLDERS = ("__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found")
"""Files that Windows, macOS and disk stations leave among other people's files, in small letters."""
HIDDEN = "hidden, or of the system"
LINKED = "a link to a folder, which is not followed; give that folder as a source"
EMPTY = "an empty caption"
FIRST = 5
"""Names that are told of each kind."""


class Passed:
    """All that a reader passed over: how many by kind, and the names of the first."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.first: dict[str, list[str]] = {}

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Count one more, or several of one name."""
        self.counts[kind] += count
        first = self.first.setdefault(kind, [])
        if len(first) < FIRST and (name := plain(name)) not in first:
            first.append(name)

    def update(self, other: Passed) -> None:
        """Count what another has counted."""
        for kind, names in other.first.items():
            self.add(kind, names[0], other.counts[kind])
            for name in names[1:]:
                self.add(kind, name, 0)

    @classmethod
    def of_all(cls, others: Iterable[Passed]) -> Passed:
        """Count what all of them have counted."""
        found = cls()
        for other in others:
            found.update(other)
        return found

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Passed:
        """Read what `json` told."""
        found = cls()
        found.counts.update({kind: one["count"] for kind, one in told.items()})
        found.first = {kind: list(one["names"]) for kind, one in told.items()}
        return found

    def json(self) -> dict[str, Any]:
        """Return kind -> `count` and `names`, the commonest first."""
        return {kind: {"count": n, "names": list(self.first[kind])} for kind, n in self.counts.most_common()}


def walk(root: Path, passed: Passed | None = None, depth: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below `root`, as "" or "a/b/", with the names of its files, both by name; at most `depth` deep.

    Links to files are files, wherever they lead; who opens one checks that (`cm3.files.inside`). Raises `DataError` for
    a root that cannot be listed.
    """
    passed = Passed() if passed is None else passed
    todo = [""]
    while todo:
        folder = todo.pop()
        files: list[str] = []
        inner: list[str] = []
        try:
            with os.scandir(root / folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    is_folder = entry.is_dir()
                    if hidden(entry.name, is_folder):
                        passed.add(HIDDEN, folder + entry.name + "/" * is_folder)
                    elif not is_folder:
                        files.append(entry.name)
                    elif entry.is_symlink():
                        passed.add(LINKED, f"{folder}{entry.name}/")
                    else:
                        inner.append(f"{folder}{entry.name}/")
        except OSError as error:
            if not folder:
                raise DataError(f"{str(root)!r}: cannot be listed ({error.strerror}); check the folder") from error
            passed.add(f"a folder that cannot be listed ({error.strerror})", folder)
        yield folder, sorted(files)
        if depth is None or folder.count("/") < depth:
            todo += sorted(inner, reverse=True)


def hidden(name: str, is_folder: bool = False) -> bool:
    """Tell whether a file or folder is one that people do not mean when they name the folder that it is in."""
    return name.startswith(".") or name.lower() in (FOLDERS if is_folder else FILES)


def ending(name: str) -> str:
    """Return the ending of a file's name in small letters, ".jpg"; "" where it has none."""
    return os.path.splitext(name)[1].lower()


def plain(name: str) -> str:
    """Return a name of a file, which need not be UTF-8, as text that every file of ours can hold."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
