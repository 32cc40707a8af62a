"""VizWiz VQA as its owners publish it (vizwiz.org): questions that blind people asked of their own photographs.

Annotations/{train,val,test}.json     or beside the pictures' folders
    [{"image": "VizWiz_train_00000000.jpg", "question": "...", "answer_type": "other", "answerable": 1,
      "answers": [{"answer": "basil", "answer_confidence": "yes"}, ...]}, ...]          test: image and question alone
train/VizWiz_train_00000000.jpg       or Images/, as in its first release
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cm3.document import Document
from cm3.errors import DataError
from cm3.read.base import field, first_of, folders_of
from cm3.read.listed import Listed, file_name, load, picture_in
from cm3.read.vqa import answers_of, asked, bare_answer, most_common

SPLITS = ("train", "val", "test")
HEAD = 4096
"""Bytes that hold a first record."""


class VizWiz(Listed):
    """One document a question: its picture, then `Question: ... Answer: ...` with the most common answer.

    `id` is the picture's name without its ending: each picture has one question. `meta` has split, question,
    image and, but for the test split, answers (ten texts), answer_type and answerable (0 or 1).
    """

    kind = "vizwiz"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read the annotations of a split. Raises `DataError` for a file that is missing or of another layout."""
        self.root = Path(root)
        found = self.splits(self.root)
        self.split = split or (found[0] if found else SPLITS[0])
        self.source = f"{self.kind}/{self.split}"
        path = first_of(self.root, _places(self.split))
        if path is None:
            raise DataError(f"{str(root)!r}: has no Annotations/{self.split}.json; give the folder that holds it")
        self.records: Any = load(path, bare_answer)
        if not isinstance(self.records, list):
            raise DataError(f"{str(path)!r}: is no list of questions; give the annotations of VizWiz's VQA task")
        self.folders = folders_of(self.root, [self.split, f"Images/{self.split}", "Images"])
        names = [record.get("image") if isinstance(record, dict) else None for record in self.records]
        self._list([Path(n).stem if isinstance(n, str) and n else f"record {i}" for i, n in enumerate(names)])

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether annotations are there that begin as those of VizWiz's VQA task; it has other tasks' files alike."""
        path = next((path for split in SPLITS if (path := first_of(root, _places(split)))), None)
        if path is None:
            return False
        with path.open("rb") as file:
            head = file.read(HEAD).lstrip()
        return head.startswith(b"[") and b'"VizWiz_' in head and b'"question"' in head

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those that have annotations."""
        return tuple(split for split in SPLITS if first_of(root, _places(split)))

    def _document(self, index: int) -> Document:
        where = f"{self.split}.json, record {index}"
        record = self.records[index]
        image, question = file_name(record, "image", where), field(record, "question", str, where)
        meta = {"split": self.split, "question": question, "image": image}
        answer = None
        if self.split != "test":
            meta["answers"] = answers = answers_of(record, where)
            kept = {"answer_type": str, "answerable": int}
            meta |= {key: field(record, key, kind, where) for key, kind in kept.items() if key in record}
            answer = most_common(answers)
        pixels = picture_in(self.folders, image)
        return Document((pixels, asked(question, answer, where)), id=self.ids[index], source=self.source, meta=meta)


def _places(split: str) -> list[str]:
    """Where the annotations of a split may lie below the root."""
    return [f"Annotations/{split}.json", f"annotations/{split}.json", f"{split}.json"]
