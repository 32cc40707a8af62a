"""Visual Dialog 1.0 as its owners publish it: a caption and ten questions and answers about each picture.

visdial_1.0_train.json    {"data": {"questions": ["is it sunny", ...], "answers": ["yes", ...], "dialogs": [
                           {"image_id": 378466, "caption": "...", "dialog": [{"question": 0, "answer": 0, ...}]}]}}
train2014/, val2014/      COCO_train2014_000000378466.jpg, the pictures of train: both of COCO's folders
VisualDialog_val2018/     VisualDialog_val2018_000000254080.jpg; and so VisualDialog_test2018/

Questions and answers are kept once each and named by number. In test the last question has no answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cm3.document import Document, Text
from cm3.errors import DataError
from cm3.read.base import field, first_of, folders_of, named_picture
from cm3.read.listed import Listed, load

PLACES = {
    "train": ("train2014/COCO_train2014_{:012d}.jpg", "val2014/COCO_val2014_{:012d}.jpg"),
    "val": ("VisualDialog_val2018/VisualDialog_val2018_{:012d}.jpg",),
    "test": ("VisualDialog_test2018/VisualDialog_test2018_{:012d}.jpg",),
}
"""Split -> where the picture of an image number may be, below the folder of the dialogs."""


class VisDial(Listed):
    """One document an image, `picture, dialog`, in the order of the file.

    The text is the caption and one line a turn, "Q: is it sunny A: yes", in the words that are published. `id` is the
    image's number, and `meta` has `split`, `image_id`, `caption` and `dialog`: [[question, answer], ...], where an
    answer that is not published is None. The 100 candidate answers of a turn are not kept.
    """

    kind = "visdial"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read the dialogs of a split; without `split`, the first of train, val and test that is there.

        Raises `DataError` where the file or the folder of pictures is missing, for an unknown split, and for a file of
        another layout.
        """
        self.root = Path(root)
        splits = self.splits(self.root)
        if not splits:
            raise DataError(
                f"Visual Dialog {str(root)!r}: has no visdial_1.0_train.json, _val.json or _test.json; give the folder "
                "that holds one"
            )
        self.split = splits[0] if split is None else split
        if self.split not in splits:
            raise DataError(f"Visual Dialog {str(root)!r}: has no split {split!r}; it has {', '.join(splits)}")
        folders = [place.partition("/")[0] for place in PLACES[self.split]]
        folders_of(self.root, folders)
        self.source = f"{self.kind}/{self.split}"
        self.file = _file(self.split)
        content = load(self.root / self.file, _thin)
        try:
            data = field(content, "data", dict, self.file)
            self.questions: list[Any] = field(data, "questions", list, "data")
            self.answers: list[Any] = field(data, "answers", list, "data")
            self.dialogs: list[Any] = field(data, "dialogs", list, "data")
        except DataError as error:
            raise DataError(
                f"Visual Dialog {str(self.root / self.file)!r}: is not of its layout ({error}); download it again"
            ) from error
        self._list([self._named(i) for i in range(len(self.dialogs))])

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the dialogs of any split are there."""
        return bool(cls.splits(root))

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those of train, val and test whose file is there."""
        return tuple(split for split in PLACES if (root / _file(split)).is_file())

    def _named(self, index: int) -> str:
        """The image's number; which dialog of the file it is, where the dialog has none."""
        try:
            return str(field(self.dialogs[index], "image_id", int, ""))
        except DataError:
            return f"{self.file}:{index}"

    def _document(self, index: int) -> Document:
        where = f"{self.file}: dialog {index}"
        number = field(self.dialogs[index], "image_id", int, where)
        if not 0 <= number < 10**12:
            raise DataError(f"{where}: 'image_id' is {number!r:.40}, must have at most 12 digits, as COCO's do")
        caption = field(self.dialogs[index], "caption", str, where).strip()
        if not caption:
            raise DataError(f"{where}: has an empty caption, must be a text")
        dialog: list[list[str | None]] = []
        lines = [caption]
        for turn in field(self.dialogs[index], "dialog", list, where):
            if not isinstance(turn, tuple):
                raise DataError(f"{where}: has a turn without a question: {turn!r:.60}")
            question = _entry(self.questions, turn[0], f"{where}: question")
            answer = None if turn[1] is None else _entry(self.answers, turn[1], f"{where}: answer")
            dialog.append([question, answer])
            lines.append(f"Q: {question}" if answer is None else f"Q: {question} A: {answer}")
        names = [place.format(number) for place in PLACES[self.split]]
        found = first_of(self.root, names)
        if found is None:
            raise DataError(f"{' or '.join(names)}: no such file beside the annotations that name it")
        image = named_picture(found.parent, found.name)
        meta = {"split": self.split, "image_id": number, "caption": caption, "dialog": dialog}
        return Document((image, Text("\n".join(lines))), id=str(number), source=self.source, meta=meta)


def _file(split: str) -> str:
    return f"visdial_1.0_{split}.json"


def _thin(value: dict[str, Any]) -> Any:
    """A turn as (question, answer) as soon as it is read: the candidates of all turns would fill gigabytes."""
    return (value["question"], value.get("answer")) if "question" in value else value


def _entry(entries: list[Any], number: Any, where: str) -> str:
    """The question or answer of a number. Raises `DataError` naming `where` when there is none."""
    if type(number) is not int or not 0 <= number < len(entries):
        raise DataError(f"{where} {number!r:.60} is none of the {len(entries)} of the file")
    if not isinstance(entries[number], str) or not entries[number].strip():
        raise DataError(f"{where} {number} is {entries[number]!r:.60}, must be a text that is not empty")
    return str(entries[number]).strip()
