"""The layout of VQA v2, which OK-VQA has taken over, and what other questions about pictures share with it.

v2_OpenEnded_mscoco_train2014_questions.json   {"questions": [{question_id, image_id, question}, ...], "license": ...}
v2_mscoco_train2014_annotations.json           {"annotations": [{question_id, answers: [{answer}, ...], ...}, ...]}
train2014/COCO_train2014_000000000009.jpg      or in Images/mscoco/train2014, where the owners' own code looks

The files of questions may lie in Questions/, those of annotations in Annotations/.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from cm3.document import Document, Text
from cm3.errors import DataError
from cm3.read.base import field, first_of, folders_of
from cm3.read.listed import Listed, load, picture_in


def bare_answer(record: dict[str, Any]) -> Any:
    """A hook for `load`: `{"answer": "yes", ...}` becomes "yes", one string for all that are equal.

    VQA v2 has ten answers for each of 443,757 questions, which would take two gigabytes as objects.
    """
    answer = record.get("answer")
    return sys.intern(answer) if isinstance(answer, str) else record


def answers_of(record: Any, where: str) -> list[str]:
    """`record["answers"]`, read with `bare_answer`. Raises `DataError` for none, and for any that is not text."""
    answers = field(record, "answers", list, where)
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{where}: 'answers' is {answers!r:.60}, which must be at least one answer, each a text")
    return list(answers)


def most_common(answers: Iterable[str]) -> str:
    """The answer that most people gave; of several, the one that stands first."""
    return Counter(answers).most_common(1)[0][0]


def asked(question: str, answer: str | None, where: str) -> Text:
    """Return a question and its answer as the text of a document; the question alone where the answer is not published.

    Raises `DataError` where either is empty.
    """
    for name, said in (("question", question), ("answer", answer)):
        if said is not None and not said.strip():
            raise DataError(f"{where}: has an empty {name}, must be a text")
    text = f"Question: {question.strip()}"
    return Text(text if answer is None else f"{text} Answer: {answer.strip()}")


class CocoQuestions(Listed):
    """One document a question: its picture, then `Question: ... Answer: ...`, in the order of the questions file.

    `id` is the question's number. `meta` has split, question, question_id, image_id and the license that the file
    names; where the split has annotations, answers (ten texts) and those of `KEPT` that the annotation has. A question
    without an annotation is unreadable, and so is an annotation without a question: those follow the questions.
    """

    QUESTIONS: ClassVar[str]
    """Name of the questions file, {} for the split."""
    ANNOTATIONS: ClassVar[str]
    """Name of the annotations file, {} for the split."""
    PICTURES: ClassVar[dict[str, str]]
    """Split -> folder of its pictures. Questions about COCO's test pictures have no annotations."""
    KEPT: ClassVar[dict[str, type]] = {
        "multiple_choice_answer": str, "answer_type": str, "question_type": str, "confidence": int,
    }  # fmt: skip

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read the questions and the annotations of a split.

        Raises `DataError` for a file that is missing, not JSON, or of another layout.
        """
        self.root = Path(root)
        found = self.splits(self.root)
        self.split = split or (found[0] if found else next(iter(self.PICTURES)))
        asked_in, told_in = self.QUESTIONS.format(self.split), self.ANNOTATIONS.format(self.split)
        if self.split not in found:
            raise DataError(f"{str(root)!r}: has no {asked_in}; give the folder that holds it")
        self.source = f"{self.kind}/{self.split}"
        path = first_of(self.root, _places(asked_in)) or self.root / asked_in
        content = load(path)
        self.questions: list[Any] = field(content, "questions", list, str(path))
        license = content.get("license")
        self._license = license.get("name") if isinstance(license, dict) else None
        self.files = asked_in, told_in
        pictures = self.PICTURES[self.split]
        self.folders = folders_of(self.root, [pictures, f"Images/mscoco/{pictures}", f"images/{pictures}"])

        self.annotated: dict[int, Any] | None = None
        self._lost: list[tuple[str, str, Any]] = []  # annotations of no question: id, where, record
        if not self.PICTURES[self.split].startswith("test"):
            self.annotated = {}
            path = first_of(self.root, _places(told_in)) or self.root / told_in
            for index, annotation in enumerate(field(load(path, bare_answer), "annotations", list, str(path))):
                id = _number(annotation)
                if id is None:
                    self._lost.append((f"annotation {index}", f"{told_in}, annotation {index}", annotation))
                    continue
                # Of two annotations nobody can say which is right.
                self.annotated[id] = None if id in self.annotated else annotation
        ids = [_number(question) for question in self.questions]
        known = set(ids)
        extra = [str(id) for id in self.annotated or () if id not in known] + [id for id, _, _ in self._lost]
        self._list([f"record {i}" if id is None else str(id) for i, id in enumerate(ids)] + extra)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a questions file is there."""
        return bool(cls.splits(root))

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those that have a questions file."""
        return tuple(split for split in cls.PICTURES if first_of(root, _places(cls.QUESTIONS.format(split))))

    def _document(self, index: int) -> Document:
        asked_in, told_in = self.files
        if (lost := index - len(self) + len(self._lost)) >= 0:
            _, where, record = self._lost[lost]
            field(record, "question_id", int, where)
        if index >= len(self.questions):
            raise DataError(f"question {self.ids[index]}: is annotated in {told_in}, but {asked_in} does not have it")
        where = f"{asked_in}, record {index}"
        record = self.questions[index]
        id = field(record, "question_id", int, where)
        image_id, question = field(record, "image_id", int, where), field(record, "question", str, where)
        if not 0 <= image_id < 10**12:
            raise DataError(f"{where}: 'image_id' is {image_id!r:.40}, must have at most 12 digits, as COCO's do")
        meta = {"split": self.split, "question": question, "question_id": id, "image_id": image_id}
        if isinstance(self._license, str):
            meta["license"] = self._license
        answer = None
        if self.annotated is not None:
            annotation = self._annotation(id, image_id)
            meta["answers"] = answers = answers_of(annotation, f"{told_in}, question {id}")
            told = f"{told_in}, question {id}"
            meta |= {key: field(annotation, key, kind, told) for key, kind in self.KEPT.items() if key in annotation}
            answer = meta.get("multiple_choice_answer", most_common(answers))
        folder = self.PICTURES[self.split]
        image = picture_in(self.folders, f"COCO_{folder}_{image_id:012d}.jpg")
        return Document((image, asked(question, answer, where)), id=str(id), source=self.source, meta=meta)

    def _annotation(self, id: int, image_id: int) -> dict[str, Any]:
        assert self.annotated is not None
        told_in = self.files[1]
        if id not in self.annotated:
            raise DataError(f"question {id}: {told_in} has no annotation of it")
        annotation = self.annotated[id]
        if annotation is None:
            raise DataError(f"question {id}: {told_in} has more than one annotation of it")
        if annotation.get("image_id", image_id) != image_id:
            raise DataError(f"question {id}: is of image {image_id}, its annotation of {annotation['image_id']!r:.20}")
        return dict(annotation)


def _number(question: Any) -> int | None:
    id = question.get("question_id") if isinstance(question, dict) else None
    return id if type(id) is int else None


def _places(name: str) -> list[str]:
    """Where a file of questions or annotations may lie below the root."""
    return [name, f"Questions/{name}", f"Annotations/{name}"]
