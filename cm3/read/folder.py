"""A folder of pictures, each with its caption in a file of the same stem beside it.

photos/beach.jpg, photos/beach.txt    caption and picture; also beach.caption, beach.text, or beach.jpg.txt
photos/beach.json                     what else is known of it: a licence, and the caption where there is no .txt
photos/cat.png                        a picture without words
photos/note.txt                       words without a picture
photos/beach.depth.png                a control image of the picture beside it (`cm3.tasks.control`), no document
images/a.jpg, captions/a.txt          pictures and captions in folders of their own

Words are never taken without the picture that they are of: where the file of their stem is of a kind that is not read
(.heic, .mp4), the document is unreadable. All that is no document is counted in `passed`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cm3.document import Document, Part, Text
from cm3.errors import DataError
from cm3.files import inside
from cm3.read.base import LINE, TEXT, Records, content, picture
from cm3.read.beside import Group, beside, pair_folders
from cm3.read.lists import is_list
from cm3.read.record import NoRecord, read_record, text_of
from cm3.read.walk import EMPTY, PICTURES, Passed, ending, plain, walk


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
        self._listed = Passed()
        groups: list[Group] = []
        for folder, names in walk(self.root, self._listed):
            lists = [name for name in names if is_list(self.root / folder / name)]
            told = f"is a list of captions, which is read as imagefolder:{self.root}"
            groups += [Group(folder + name, wrong=f"{name}: {told}") for name in lists]
            groups += beside(folder, [name for name in names if name not in lists], self._listed)
        self._groups = sorted(pair_folders(groups), key=lambda group: group.name.split("/"))
        if not self._groups:
            seen = ", ".join(f"{n} x {kind}" for kind, n in self._listed.counts.most_common(3))
            raise DataError(
                f"{str(root)!r}: holds no picture and no .txt; give pictures, each with its .txt beside it"
                + (f" (passed over: {seen})" if seen else "")
            )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there is a picture or a .txt in it."""
        if not root.is_dir():
            return False
        return any(ending(name) in (*PICTURES, ".txt") for _, names in walk(root) for name in names)

    @property
    def listed(self) -> Passed:
        """Files of the folder that are no part of a document."""
        return self._listed

    def __len__(self) -> int:
        return len(self._groups)

    def name(self, index: int) -> str:
        """Path below the folder."""
        return plain(self._groups[index].name)

    def document(self, index: int) -> Document:
        """A picture with its words, or one of them."""
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
