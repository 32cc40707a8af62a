"""ScienceQA as its owners publish it (scienceqa.github.io): questions of school science, half of them with a picture.

problems.json      {"1": {"question", "choices": [...], "answer": 0, "hint", "image": "image.png" or null, "task",
                          "grade", "subject", "topic", "category", "skill", "lecture", "solution", "split"}, ...}
pid_splits.json    {"train": ["1", ...], "val": [...], "test": [...], "trainval": [...], "minitrain": [...], ...}
images/train/1/image.png     or train/1/image.png beside problems.json
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from cm3.document import Document, Part, Text
from cm3.errors import DataError
from cm3.read.base import field
from cm3.read.listed import Listed, file_name, load, picture_in, unique

SPLITS = ("train", "val", "test", "trainval", "minitrain", "minival", "minitest")
"""Those of the owners' file; any other that it lists comes after them."""
LETTERS = string.ascii_uppercase
"""What choices are called."""
LICENSE = "CC BY-NC-SA 4.0"
"""What the owners publish the dataset under (their LICENSE-DATA)."""
TEXTS = ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
"""Fields of a problem that are text, and empty where it has none."""


class ScienceQa(Listed):
    """One document a problem: its picture where it has one, then question, context, options, answer and explanation.

    `id` is the problem's number. `meta` has split, license, and the fields of the problem; `answer` is the index in
    `choices`. trainval is train and val together; minitrain, minival and minitest are parts of the others.
    """

    kind = "scienceqa"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read the problems and the split. Raises `DataError` for a file that is missing or of another layout."""
        self.root = Path(root)
        found = self.splits(self.root)
        if not found or split is not None and split not in found:
            has = f"has no split {split!r}; it has {', '.join(found)}" if found else "has no split; it must have some"
            raise DataError(f"{str(self.root / 'pid_splits.json')!r}: {has}")
        self.split = split or found[0]
        self.source = f"{self.kind}/{self.split}"
        path = self.root / "problems.json"
        self.problems: Any = load(path, pairs=unique)
        if not isinstance(self.problems, dict):
            raise DataError(f"{str(path)!r}: is no object of problems by number; download it again")
        pids = _pids(self.root)[self.split]
        self._wrong = {i: pid for i, pid in enumerate(pids) if type(pid) not in (int, str) or pid == ""}
        self._list([f"{self.split}/{i}" if i in self._wrong else str(pid) for i, pid in enumerate(pids)])

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether problems and splits are there."""
        return (root / "problems.json").is_file() and (root / "pid_splits.json").is_file()

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those that pid_splits.json lists. Raises `DataError` for one that cannot be read."""
        pids = _pids(root)
        return tuple(sorted(pids, key=lambda split: SPLITS.index(split) if split in SPLITS else len(SPLITS)))

    def _document(self, index: int) -> Document:
        if index in self._wrong:
            raise DataError(
                f"pid_splits.json, record {index} of {self.split!r}: is {self._wrong[index]!r:.40}, must be the "
                "number of a problem, a text or a whole number"
            )
        pid = self.ids[index]
        where = f"problems.json, problem {pid!r:.40}"
        if pid not in self.problems:
            raise DataError(f"{where}: is not there, though pid_splits.json lists it")
        problem = self.problems[pid]
        question, choices = field(problem, "question", str, where), field(problem, "choices", list, where)
        answer = field(problem, "answer", int, where)
        check_choices(choices, where)
        if not 0 <= answer < len(choices):
            raise DataError(f"{where}: 'answer' is {answer!r:.40}, which is none of its {len(choices)} 'choices'")
        if not question.strip():
            raise DataError(f"{where}: 'question' is empty, must be a text")
        meta = {"split": self.split, "license": LICENSE, "question": question, "choices": choices, "answer": answer}
        meta |= {key: field(problem, key, str, where) for key in TEXTS}
        parts: list[Part] = []
        if problem.get("image") is not None:
            image, folder = file_name(problem, "image", where), file_name(problem, "split", where)
            place = f"{folder}/{file_name({'pid': pid}, 'pid', where)}/{image}"
            parts.append(picture_in([self.root / "images", self.root], place))
        return Document((*parts, Text(_text(meta))), id=pid, source=self.source, meta=meta)


def check_choices(choices: list[Any], where: str) -> None:
    """Raise `DataError` for choices that are no texts, are empty, or are more than there are letters for."""
    if not 0 < len(choices) <= len(LETTERS) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise DataError(
            f"{where}: 'choices' is {choices!r:.60}, must be 1 to {len(LETTERS)} texts that are not empty; mend it"
        )


def _text(meta: dict[str, Any]) -> str:
    """A line each of what the problem has."""
    options = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, meta["choices"], strict=False)]
    lines = {
        "Question": meta["question"],
        "Context": meta["hint"],
        "Options": " ".join(options),
        "Answer": options[meta["answer"]],
        "Lecture": meta["lecture"],
        "Solution": meta["solution"],
    }
    return "\n".join(f"{name}: {line.strip()}" for name, line in lines.items() if line.strip())


def _pids(root: Path) -> dict[str, list[Any]]:
    """Split -> numbers of its problems. Raises `DataError` for any other layout."""
    path = root / "pid_splits.json"
    pids = load(path)
    if not isinstance(pids, dict) or not all(isinstance(of, list) for of in pids.values()):
        raise DataError(f"{str(path)!r}: is no object of lists of problem numbers; download it again")
    return pids
