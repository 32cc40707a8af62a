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

from cm3.data.read.base import field, first_of
from cm3.data.read.listed import Listed, load, picture_in
from cm3.document import Document, Text
from cm3.errors import DataError


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


def asked(question: str, answer: str | None) -> Text:
    """A question and its answer as the text of a document; the question alone where the answer is not published."""
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
    KEPT = ("multiple_choice_answer", "answer_type", "question_type", "confidence")

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
        self.license = license.get("name") if isinstance(license, dict) else None
        self.files = asked_in, told_in

        self.annotations: dict[int, Any] | None = None
        if not self.PICTURES[self.split].startswith("test"):
            self.annotations = {}
            path = first_of(self.root, _places(told_in)) or self.root / told_in
            for index, annotation in enumerate(field(load(path, bare_answer), "annotations", list, str(path))):
                id = field(annotation, "question_id", int, f"{path}, annotation {index}")
                # Of two annotations nobody can say which is right.
                self.annotations[id] = None if id in self.annotations else annotation
        ids = [_number(question) for question in self.questions]
        known = set(ids)
        extra = [id for id in self.annotations or () if id not in known]
        self._list([f"record {i}" if id is None else str(id) for i, id in enumerate(ids)] + [str(id) for id in extra])

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
        if index >= len(self.questions):
            raise DataError(f"question {self.ids[index]}: is annotated in {told_in}, but {asked_in} does not have it")
        where = f"{asked_in}, record {index}"
        record = self.questions[index]
        id = field(record, "question_id", int, where)
        image_id, question = field(record, "image_id", int, where), field(record, "question", str, where)
        if not 0 <= image_id < 10**12:
            raise DataError(f"{where}: 'image_id' is {image_id!r:.40}, must have at most 12 digits, as COCO's do")
        meta = {"split": self.split, "question": question, "question_id": id, "image_id": image_id}
        if isinstance(self.license, str):
            meta["license"] = self.license
        answer = None
        if self.annotations is not None:
            annotation = self._annotation(id, image_id)
            meta["answers"] = answers = answers_of(annotation, f"{told_in}, question {id}")
            meta |= {key: annotation[key] for key in self.KEPT if key in annotation}
            answer = meta.get("multiple_choice_answer", most_common(answers))
            if not isinstance(answer, str):
                raise DataError(f"{told_in}, question {id}: 'multiple_choice_answer' is {answer!r:.60}, must be a text")
        folder = self.PICTURES[self.split]
        folders = [self.root / place / folder for place in ("", "Images/mscoco", "images")]
        image = picture_in(folders, f"COCO_{folder}_{image_id:012d}.jpg")
        return Document((image, asked(question, answer)), id=str(id), source=self.source, meta=meta)

    def _annotation(self, id: int, image_id: int) -> dict[str, Any]:
        assert self.annotations is not None
        told_in = self.files[1]
        if id not in self.annotations:
            raise DataError(f"question {id}: {told_in} has no annotation of it")
        annotation = self.annotations[id]
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
