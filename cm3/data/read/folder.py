"""A folder of pictures, each with its caption in a .txt of the same stem beside it.

photos/beach.jpg, photos/beach.txt    caption and picture
photos/cat.png                        a picture without words
photos/note.txt                       words without a picture
photos/beach.depth.png                a control image of the picture beside it (`cm3.data.control`), no document
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cm3.data.control import READ
from cm3.data.read.base import Records, content, named_picture
from cm3.document import Document, Part, Text
from cm3.errors import DataError
from cm3.files import inside

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
WORDS = ".txt"
CONTROLS = tuple(f".{kind}.png" for kind in READ)


class Folder(Records):
    """Documents of a folder and of those inside it, by name. Files are listed once, and read when they are asked for.

    `id` is the picture's path below the folder (the text's, where there is no picture), `source` the folder's name, and
    `meta["license"]` what was given.
    """

    kind = "folder"

    def __init__(self, root: Path | str, split: str | None = None, *, license: str | None = None) -> None:
        """List the files. Raises `DataError` for a folder that is not there or has no such file, and for a split."""
        self.root, self.license = Path(root), license
        if split is not None:
            raise DataError(f"{str(root)!r}: a folder of pictures has no splits; leave @{split} away")
        if not self.root.is_dir():
            raise DataError(f"{str(root)!r}: no such folder; give one that holds pictures, each with its .txt")
        self.source = self.root.resolve().name
        pictures: list[Path] = []
        words: dict[Path, Path] = {}
        for path in sorted(_files(self.root)):
            if path.suffix.lower() == WORDS:
                words[path.with_suffix("")] = path
            else:
                pictures.append(path)
        of_pictures = {path.with_suffix("") for path in pictures}
        pictures = [path for path in pictures if _controlled(path) not in of_pictures]
        captioned = {path.with_suffix("") for path in pictures}
        named: dict[Path, tuple[Path | None, Path | None]] = {}
        named |= {path: (path, words.get(path.with_suffix(""))) for path in pictures}
        named |= {path: (None, path) for stem, path in words.items() if stem not in captioned}
        self._files = [(name, *named[name]) for name in sorted(named)]
        if not self._files:
            raise DataError(f"{str(root)!r}: holds no picture and no .txt; give pictures, each with its .txt beside it")

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there is a picture or a .txt in it."""
        return root.is_dir() and any(True for _ in _files(root))

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """Path below the folder."""
        # Names that are not UTF-8 come from the system as surrogates, which no file of ours could hold.
        return os.fsencode(self._files[index][0].relative_to(self.root).as_posix()).decode(errors="backslashreplace")

    def _below(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def document(self, index: int) -> Document:
        """A picture with its words, or one of them."""
        _, image, words = self._files[index]
        parts: list[Part] = []
        if words is not None:
            try:
                text = content(inside(self.root, self._below(words), "text")).decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{words.name}: is not UTF-8 at byte {error.start}; save it again") from error
            if text:
                parts.append(Text(text))
        if image is not None:
            parts.append(named_picture(self.root, self._below(image)))
        meta = {} if self.license is None else {"license": self.license}
        return Document(tuple(parts), id=self.name(index), source=self.source, meta=meta)


def _files(root: Path) -> Iterator[Path]:
    """Its pictures and texts, in the order of the file system."""
    for path in root.rglob("*"):
        if path.suffix.lower() in (*PICTURES, WORDS) and not path.name.startswith(".") and path.is_file():
            yield path


def _controlled(path: Path) -> Path | None:
    """The picture that a file is the control image of, without its ending; None for one that is named otherwise."""
    ending = next((e for e in CONTROLS if path.name.lower().endswith(e)), None)
    return path.with_name(path.name[: -len(ending)]) if ending else None
