"""Questions about pictures, as their owners publish them.

vqa2        v2_OpenEnded_mscoco_train2014_questions.json   {"questions": [{question_id, image_id, question}, ...]}
            v2_mscoco_train2014_annotations.json   {"annotations": [{question_id, answers: [{answer}, ...], ...}, ...]}
            train2014/COCO_train2014_000000000009.jpg      or in Images/mscoco/train2014, where the owners' code looks;
            files of questions may lie in Questions/, those of annotations in Annotations/
okvqa       OpenEnded_mscoco_train2014_questions.json, mscoco_train2014_annotations.json     the same layout
vizwiz      Annotations/{train,val,test}.json     or beside the pictures' folders
                [{"image": "VizWiz_train_00000000.jpg", "question": "...", "answer_type": "other", "answerable": 1,
                  "answers": [{"answer": "basil", "answer_confidence": "yes"}, ...]}, ...]   test: image and question
            train/VizWiz_train_00000000.jpg       or Images/, as in its first release
scienceqa   problems.json    {"1": {"question", "choices": [...], "answer": 0, "hint", "image": "image.png" or null,
                                    "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution",
                                    "split"}, ...}
            pid_splits.json  {"train": ["1", ...], "val": [...], "test": [...], "trainval": [...], ...}
            images/train/1/image.png     or train/1/image.png beside problems.json
visdial     visdial_1.0_train.json    {"data": {"questions": ["is it sunny", ...], "answers": ["yes", ...], "dialogs":
                [{"image_id": 378466, "caption": "...", "dialog": [{"question": 0, "answer": 0, ...}]}]}}
            train2014/, val2014/      COCO_train2014_000000378466.jpg, the pictures of train: both of COCO's folders
            VisualDialog_val2018/     VisualDialog_val2018_000000254080.jpg; and so VisualDialog_test2018/
"""

from __future__ import annotations

import string
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cm3.document import Part, Text
from cm3.errors import DataError
from cm3.read.base import field, first_of, folders_of, named_picture
from cm3.read.published import Entry, Listed, Made, Published, file_name, load, picture_in, unique


def bare_answer(record: dict[str, Any]) -> Any:
    """Make a record small as a hook for `load`: `{"answer": "yes", ...}` becomes "yes", one string for all that are
    equal.

    VQA v2 has ten answers for each of 443,757 questions, which would take two gigabytes as objects.
    """
    answer = record.get("answer")
    return sys.intern(answer) if isinstance(answer, str) else record


def answers_of(record: Any, where: str) -> list[str]:
    """Return `record["answers"]`, read with `bare_answer`. Raises `DataError` for none, and for any that is no text."""
    answers = field(record, "answers", list, where)
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{where}: 'answers' is {answers!r:.60}, which must be at least one answer, each a text")
    return list(answers)


def most_common(answers: Iterable[str]) -> str:
    """Return the answer that most people gave; of several, the one that stands first."""
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


def image_number(record: Any, where: str) -> int:
    """Return the number of a picture of COCO. Raises `DataError` for one of more digits than a file's name has."""
    number: int = field(record, "image_id", int, where)
    if not 0 <= number < 10**12:
        raise DataError(f"{where}: 'image_id' is {number!r:.40}, must have at most 12 digits, as COCO's do")
    return number


class CocoQuestions(Listed, Published):
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
    published: tuple[Path, Path]
    """Files of questions and of annotations; the second need not be there."""
    KEPT: ClassVar[dict[str, type]] = {
        "multiple_choice_answer": str, "answer_type": str, "question_type": str, "confidence": int,
    }  # fmt: skip

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        return tuple(split for split in cls.PICTURES if first_of(root, _below(cls.QUESTIONS.format(split))))

    def _lacks(self, split: str | None, splits: Sequence[str]) -> str:
        return f"has no {self.QUESTIONS.format(split or next(iter(self.PICTURES)))}; give the folder that holds it"

    def _open(self) -> None:
        self.files = asked_in, told_in = self.QUESTIONS.format(self.split), self.ANNOTATIONS.format(self.split)
        path = first_of(self.root, _below(asked_in)) or self.root / asked_in
        content = load(path)
        self.published = path, first_of(self.root, _below(told_in)) or self.root / told_in
        questions: list[Any] = field(content, "questions", list, str(path))
        license = content.get("license")
        self._license = license.get("name") if isinstance(license, dict) else None
        pictures = self.PICTURES[self.split]
        self.folders = folders_of(self.root, [pictures, f"Images/mscoco/{pictures}", f"images/{pictures}"])

        self.annotated: dict[int, Any] | None = None
        lost: list[Entry] = []  # annotations of no question
        if not pictures.startswith("test"):
            self.annotated = {}
            path = self.published[1]
            for index, annotation in enumerate(field(load(path, bare_answer), "annotations", list, str(path))):
                try:
                    id = field(annotation, "question_id", int, f"{told_in}, annotation {index}")
                except DataError as error:
                    lost.append((f"annotation {index}", error))
                    continue
                # Of two annotations nobody can say which is right.
                self.annotated[id] = None if id in self.annotated else annotation
        ids = [_number(question) for question in questions]
        known = set(ids)
        extra = [
            (str(id), DataError(f"question {id}: is annotated in {told_in}, but {asked_in} does not have it"))
            for id in self.annotated or ()
            if id not in known
        ]
        listed = [(f"record {i}" if id is None else str(id), i) for i, id in enumerate(ids)]
        self.questions = questions
        self._list([*listed, *extra, *lost])

    def _made(self, id: str, record: Any) -> Made:
        where, question = f"{self.files[0]}, record {record}", self.questions[record]
        number = field(question, "question_id", int, where)
        image_id, text = image_number(question, where), field(question, "question", str, where)
        meta = {"split": self.split, "question": text, "question_id": number, "image_id": image_id}
        if isinstance(self._license, str):
            meta["license"] = self._license
        answer = None
        if self.annotated is not None:
            annotation, told = self._annotation(number, image_id), f"{self.files[1]}, question {number}"
            meta["answers"] = answers = answers_of(annotation, told)
            meta |= {key: field(annotation, key, kind, told) for key, kind in self.KEPT.items() if key in annotation}
            answer = meta.get("multiple_choice_answer", most_common(answers))
        image = picture_in(self.folders, f"COCO_{self.PICTURES[self.split]}_{image_id:012d}.jpg")
        return (image, asked(text, answer, where)), meta

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


def _below(name: str) -> list[str]:
    """Return where a file of questions or annotations may lie below the root."""
    return [name, f"Questions/{name}", f"Annotations/{name}"]


class Vqa2(CocoQuestions):
    """VQA v2 (visualqa.org): ten answers a question. The text of a document has the owners' `multiple_choice_answer`,
    the one that most people gave. Answers to the test questions are not published."""

    kind = "vqa2"
    QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
    ANNOTATIONS = "v2_mscoco_{}_annotations.json"
    PICTURES = {"train2014": "train2014", "val2014": "val2014", "test2015": "test2015", "test-dev2015": "test2015"}


class OkVqa(CocoQuestions):
    """OK-VQA (okvqa.allenai.org): questions that need outside knowledge.

    The layout is that of VQA v2 without `multiple_choice_answer`: the text of a document has the most common answer, in
    the stemmed form that the owners score. VQA v1 names its files alike; its annotations have that field, and are
    refused.
    """

    kind = "okvqa"
    QUESTIONS = "OpenEnded_mscoco_{}_questions.json"
    ANNOTATIONS = "mscoco_{}_annotations.json"
    PICTURES = {"train2014": "train2014", "val2014": "val2014"}

    def _open(self) -> None:
        super()._open()
        if any(one and "multiple_choice_answer" in one for one in (self.annotated or {}).values()):
            raise DataError(
                f"{str(self.root)!r}: {self.files[1]} is of VQA v1, not of OK-VQA; download OK-VQA's, or VQA v2's"
            )


class VizWiz(Listed, Published):
    """Questions that blind people asked of their own photographs (vizwiz.org): the picture, then question and answer.

    `id` is the picture's name without its ending: each picture has one question. `meta` has split, question,
    image and, but for the test split, answers (ten texts), answer_type and answerable (0 or 1).
    """

    kind = "vizwiz"
    SPLITS = ("train", "val", "test")

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Tell whether annotations begin as those of VizWiz's VQA task; it has other tasks' files alike."""
        path = next((path for split in cls.SPLITS if (path := cls._file(root, split))), None)
        if path is None:
            return False
        with path.open("rb") as file:
            head = file.read(4096).lstrip()
        return head.startswith(b"[") and b'"VizWiz_' in head and b'"question"' in head

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        return tuple(split for split in cls.SPLITS if cls._file(root, split))

    def _lacks(self, split: str | None, splits: Sequence[str]) -> str:
        return f"has no Annotations/{split or 'train'}.json; give the folder that holds it"

    @classmethod
    def _file(cls, root: Path, split: str) -> Path | None:
        return first_of(root, [f"{folder}{split}.json" for folder in ("Annotations/", "annotations/", "")])

    def _open(self) -> None:
        path = self._file(self.root, self.split) or self.root / f"{self.split}.json"
        self.published = path, path
        records = load(path, bare_answer)
        if not isinstance(records, list):
            raise DataError(f"{str(path)!r}: is no list of questions; give the annotations of VizWiz's VQA task")
        self.folders = folders_of(self.root, [self.split, f"Images/{self.split}", "Images"])
        names = [record.get("image") if isinstance(record, dict) else None for record in records]
        ids = [Path(n).stem if isinstance(n, str) and n else f"record {i}" for i, n in enumerate(names)]
        self._list(zip(ids, enumerate(records), strict=True))

    def _made(self, id: str, record: Any) -> Made:
        index, found = record
        where = f"{self.split}.json, record {index}"
        image, question = file_name(found, "image", where), field(found, "question", str, where)
        meta = {"split": self.split, "question": question, "image": image}
        answer = None
        if self.split != "test":
            meta["answers"] = answers = answers_of(found, where)
            kept = {"answer_type": str, "answerable": int}
            meta |= {key: field(found, key, kind, where) for key, kind in kept.items() if key in found}
            answer = most_common(answers)
        return (picture_in(self.folders, image), asked(question, answer, where)), meta


LETTERS = string.ascii_uppercase
"""Names of choices."""


class ScienceQa(Listed, Published):
    """Questions of school science, half of them with a picture (scienceqa.github.io).

    One document a problem: its picture where it has one, then question, context, options, answer and explanation. `id`
    is the problem's number. `meta` has split, license, and the fields of the problem; `answer` is the index in
    `choices`. trainval is train and val together; minitrain, minival and minitest are parts of the others.
    """

    kind = "scienceqa"
    missing = "has no split; it must have some"
    SPLITS = ("train", "val", "test", "trainval", "minitrain", "minival", "minitest")
    """Those of the owners' file; any other that it lists comes after them."""
    LICENSE = "CC BY-NC-SA 4.0"
    """License of the dataset (the owners' LICENSE-DATA)."""
    TEXTS = ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
    """Fields of a problem that are text, and empty where it has none."""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (root / "problems.json").is_file() and (root / "pid_splits.json").is_file()

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Return those that pid_splits.json lists. Raises `DataError` for one that cannot be read."""
        pids = cls._pids(root)
        return (
            *(split for split in cls.SPLITS if split in pids),
            *(split for split in pids if split not in cls.SPLITS),
        )

    @classmethod
    def _pids(cls, root: Path) -> dict[str, list[Any]]:
        """Map split -> numbers of its problems. Raises `DataError` for any other layout."""
        path = root / "pid_splits.json"
        pids = load(path)
        if not isinstance(pids, dict) or not all(isinstance(of, list) for of in pids.values()):
            raise DataError(f"{str(path)!r}: is no object of lists of problem numbers; download it again")
        return pids

    def _where(self, path: Path | str) -> str:
        return repr(str(Path(path) / "pid_splits.json"))

    def _open(self) -> None:
        path = self.root / "problems.json"
        self.problems: Any = load(path, pairs=unique)
        if not isinstance(self.problems, dict):
            raise DataError(f"{str(path)!r}: is no object of problems by number; download it again")
        entries: list[Entry] = []
        for i, pid in enumerate(self._pids(self.root)[self.split]):
            if type(pid) not in (int, str) or pid == "":
                rule = f"is {pid!r:.40}, must be the number of a problem, a text or a whole number"
                wrong = DataError(f"pid_splits.json, record {i} of {self.split!r}: {rule}")
                entries.append((f"{self.split}/{i}", wrong))
            else:
                entries.append((str(pid), None))
        self._list(entries)

    def _made(self, id: str, record: Any) -> Made:
        where = f"problems.json, problem {id!r:.40}"
        if id not in self.problems:
            raise DataError(f"{where}: is not there, though pid_splits.json lists it")
        problem = self.problems[id]
        question, choices = field(problem, "question", str, where), field(problem, "choices", list, where)
        answer = field(problem, "answer", int, where)
        check_choices(choices, where)
        if not 0 <= answer < len(choices):
            raise DataError(f"{where}: 'answer' is {answer!r:.40}, which is none of its {len(choices)} 'choices'")
        if not question.strip():
            raise DataError(f"{where}: 'question' is empty, must be a text")
        meta = {"split": self.split, "license": self.LICENSE, "question": question}
        meta |= {"choices": choices, "answer": answer}
        meta |= {key: field(problem, key, str, where) for key in self.TEXTS}
        parts: list[Part] = []
        if problem.get("image") is not None:
            image, folder = file_name(problem, "image", where), file_name(problem, "split", where)
            place = f"{folder}/{file_name({'pid': id}, 'pid', where)}/{image}"
            parts.append(picture_in([self.root / "images", self.root], place))
        options = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        lines = {"Question": question, "Context": meta["hint"], "Options": " ".join(options), "Answer": options[answer]}
        lines |= {"Lecture": meta["lecture"], "Solution": meta["solution"]}
        text = "\n".join(f"{name}: {line.strip()}" for name, line in lines.items() if line.strip())
        return (*parts, Text(text)), meta


def check_choices(choices: list[Any], where: str) -> None:
    """Raise `DataError` for choices that are no texts, are empty, or are more than there are letters for."""
    if not 0 < len(choices) <= len(LETTERS) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise DataError(
            f"{where}: 'choices' is {choices!r:.60}, must be 1 to {len(LETTERS)} texts that are not empty; mend it"
        )


class VisDial(Listed, Published):
    """Visual Dialog 1.0: a caption and ten questions and answers about each picture, in the order of the file.

    A document is `picture, dialog`: the caption and one line a turn, "Q: is it sunny A: yes", in the words that are
    published. `id` is the image's number, and `meta` has `split`, `image_id`, `caption` and `dialog`:
    [[question, answer], ...], where an answer that is not published, that of test's last question, is None. Questions
    and answers are kept once each and named by number; the 100 candidate answers of a turn are not kept.
    """

    kind = "visdial"
    called = "Visual Dialog"
    missing = "has no visdial_1.0_train.json, _val.json or _test.json; give the folder that holds one"
    PLACES = {
        "train": ("train2014/COCO_train2014_{:012d}.jpg", "val2014/COCO_val2014_{:012d}.jpg"),
        "val": ("VisualDialog_val2018/VisualDialog_val2018_{:012d}.jpg",),
        "test": ("VisualDialog_test2018/VisualDialog_test2018_{:012d}.jpg",),
    }
    """Split -> where the picture of an image number may be, below the folder of the dialogs."""

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        return tuple(split for split in cls.PLACES if (root / f"visdial_1.0_{split}.json").is_file())

    def _open(self) -> None:
        folders_of(self.root, [place.partition("/")[0] for place in self.PLACES[self.split]])
        self.file = f"visdial_1.0_{self.split}.json"
        content = load(self.root / self.file, _thin)
        try:
            data = field(content, "data", dict, self.file)
            self.questions, self.answers, dialogs = (
                field(data, name, list, "data") for name in ("questions", "answers", "dialogs")
            )
        except DataError as error:
            raise DataError(
                f"{self._where(self.root / self.file)}: is not of its layout ({error}); download it again"
            ) from error
        self._list((self._named(dialog, i), (i, dialog)) for i, dialog in enumerate(dialogs))

    def _named(self, dialog: Any, index: int) -> str:
        """Return the image's number; which dialog of the file it is, where the dialog has none."""
        try:
            return str(field(dialog, "image_id", int, ""))
        except DataError:
            return f"{self.file}:{index}"

    def _made(self, id: str, record: Any) -> Made:
        index, found = record
        where = f"{self.file}: dialog {index}"
        number = image_number(found, where)
        caption = field(found, "caption", str, where).strip()
        if not caption:
            raise DataError(f"{where}: has an empty caption, must be a text")
        dialog: list[list[str | None]] = []
        lines = [caption]
        for turn in field(found, "dialog", list, where):
            if not isinstance(turn, tuple):
                raise DataError(f"{where}: has a turn without a question: {turn!r:.60}")
            question = _entry(self.questions, turn[0], f"{where}: question")
            answer = None if turn[1] is None else _entry(self.answers, turn[1], f"{where}: answer")
            dialog.append([question, answer])
            lines.append(f"Q: {question}" if answer is None else f"Q: {question} A: {answer}")
        names = [place.format(number) for place in self.PLACES[self.split]]
        path = first_of(self.root, names)
        if path is None:
            raise DataError(f"{' or '.join(names)}: no such file beside the annotations that name it")
        meta = {"split": self.split, "image_id": number, "caption": caption, "dialog": dialog}
        return (named_picture(path.parent, path.name), Text("\n".join(lines))), meta


def _thin(value: dict[str, Any]) -> Any:
    """Return a turn as (question, answer) as soon as it is read: the candidates of all turns would fill gigabytes."""
    return (value["question"], value.get("answer")) if "question" in value else value


def _entry(entries: list[Any], number: Any, where: str) -> str:
    """Return the question or answer of a number. Raises `DataError` naming `where` when there is none."""
    if type(number) is not int or not 0 <= number < len(entries):
        raise DataError(f"{where} {number!r:.60} is none of the {len(entries)} of the file")
    if not isinstance(entries[number], str) or not entries[number].strip():
        raise DataError(f"{where} {number} is {entries[number]!r:.60}, must be a text that is not empty")
    return str(entries[number]).strip()
