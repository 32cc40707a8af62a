"""Answers to questions about pictures against those of people: the accuracy of VQA, Antol et al. 2015, section 3.3.

    predictions   VQA, OK-VQA   [{"question_id": 262148000, "answer": "down"}, ...]
                  VizWiz        [{"image": "VizWiz_val_00000000.jpg", "answer": "basil"}, ...]
    questions     VQA, OK-VQA   {"questions": [{"question_id", "question", ...}, ...]}
                  VizWiz        the file of annotations
    annotations   VQA, OK-VQA   {"annotations": [{"question_id", "question_type", "answer_type", "answers"}, ...]}
                  VizWiz        [{"image", "answer_type", "answers": [{"answer", "answer_confidence"}, ...]}, ...]

Published figures are of the owners' vqaEval.py, whose ways are kept under the protocol "official":

- Answers are normalised only where people did not all give the very same text: to an unanimous "Yes", "yes" is wrong.
- Each person is left out in turn by comparing whole records. With `answer_id` they differ; VizWiz's have none, so all
  who gave one answer with one confidence are left out together, and an answer that all gave alike is worth nothing.
  (The script of VizWiz's own owners leaves out one at a time.)
- No more than 32 full stops are taken out, and a sign stays or goes by what stands beside it anywhere in the text.

"always-normalise" normalises in every case, as lmms-eval does since 2025, with the owners' normalisation, and leaves
one person out at a time.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cm3.errors import ConfigError, DataError
from cm3.score.records import agreed, identity, listed, load
from cm3.score.result import Result

PROTOCOLS = ("official", "always-normalise")
AGREED = 3
"""People of those left who must have given an answer for it to be wholly right."""
FEWEST = AGREED + 1
"""Least answers to a question: of fewer, what all of them said would not be wholly right with one of them left out."""

_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = ("a", "an", "the")
_NUMBERS = dict(zip("zero one two three four five six seven eight nine ten".split(), map(str, range(11)), strict=True))
_NUMBERS["none"] = "0"
# Contractions that the owners mend where one apostrophe is missing: "dont", "couldnt've", "couldn'tve".
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're "
    "you've"
).split()
_MENDED = {word[:i] + word[i + 1 :]: word for word in _CONTRACTIONS for i, c in enumerate(word) if c == "'"}
_MENDED["somebody'd"] = "somebodyd"  # so in the owners' table, the other way round
_GROUPED = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def normal_answer(text: str) -> str:
    """Return an answer as the VQA evaluation compares it.

    Lower case; no full stop but before a digit; numbers to ten and "none" as digits; no articles; missing apostrophes
    of contractions put in. A sign of ; / [ ] " { } ( ) = + \\ _ - > < @ ` , ? ! is left out where it stands beside a
    space anywhere in the text, or where the text has a comma between digits; elsewhere it becomes a space. Apostrophes
    and colons stay.
    """
    text = _flat(text)
    grouped, plain = _GROUPED.search(text) is not None, text
    for sign in _SIGNS:
        beside = f"{sign} " in text or f" {sign}" in text
        plain = plain.replace(sign, "" if beside or grouped else " ")
    plain = _PERIOD.sub("", plain, count=32)  # the owners' program stops there
    words = [_NUMBERS.get(word, word) for word in plain.lower().split()]
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(given: str, answers: Sequence[str]) -> float:
    """Score an answer, 0..1, by those that people gave: min(who gave it / 3, 1), each of them left out in turn.

    The mean over these subsets of n - 1 people, so 0, 0.3, 0.6, 0.9 and 1 for an answer of 0 to 4 of ten. As in the
    owners' program answers are compared by `normal_answer`, but where all people gave the very same text: there the
    answer must be that text. Raises `DataError` for fewer than four answers, of which the common one could not be
    right.
    """
    if len(answers) < FEWEST:
        raise DataError(
            f"answers: {len(answers)} of them, must be at least {FEWEST}, for with one left out {AGREED} must agree; "
            "give those of more people, or one alone as 'answer'"
        )
    return _accuracy(given, answers, range(len(answers)), "official")


def _accuracy(given: str, answers: Sequence[str], others: Sequence[Hashable], protocol: str) -> float:
    """Score an answer. `others`: of each person's record all but the answer; those of equal records are left out
    together."""
    given, people = _flat(given), [_flat(answer) for answer in answers]
    if protocol == "always-normalise" or len(set(people)) > 1:
        given, people = normal_answer(given), [normal_answer(answer) for answer in people]
    records = Counter(zip(people, others, strict=True))
    agree = sum(answer == given for answer in people)
    total = 0.0
    for record in zip(people, others, strict=True):
        total += min(1, float(agree - (records[record] if record[0] == given else 0)) / AGREED)
    return total / len(people)


def _flat(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@dataclass(frozen=True)
class Question:
    """A question, by the answers of people."""

    answers: tuple[str, ...]
    others: tuple[Hashable, ...]
    """Of each answer's record all but the answer."""
    question_type: str | None = None
    answer_type: str | None = None


def score_vqa(predictions: Mapping[str, str], questions: Mapping[str, Question], protocol: str = "official") -> Result:
    """Score an answer to each question, by id.

    Figures are in percent, as the owners' script prints them: accuracy of all, and of each type of question and of
    answer. Raises `ConfigError` for a protocol that is not known, `DataError` for answers to no question and for
    questions without one, which the owners' script refuses too.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol={protocol!r}: must be one of {', '.join(PROTOCOLS)}")
    agreed(predictions, questions, "vqa", "answers", "questions")
    if lacking := [id for id in questions if id not in predictions]:
        raise DataError(
            f"vqa: {len(lacking)} of {len(questions)} questions have no answer, the first {lacking[0]!r:.40}; give one "
            "to each, an empty one where the model has none"
        )
    scores: dict[str, float] = {}
    kinds: dict[str, dict[str, float]] = {}
    for id, question in questions.items():
        others = question.others if protocol == "official" else range(len(question.answers))
        scores[id] = 100 * _accuracy(predictions[id], question.answers, others, protocol)
        for name, kind in (("question type", question.question_type), ("answer type", question.answer_type)):
            if kind is not None:
                kinds.setdefault(f"{name}: {kind}", {})[id] = scores[id]
    items = {"accuracy": scores, **dict(sorted(kinds.items()))}
    return Result(
        {name: sum(values.values()) / len(values) for name, values in items.items()},
        len(scores),
        {"protocol": protocol},
        tuple(_warnings(predictions, questions, protocol)),
        items,
    )


def _warnings(predictions: Mapping[str, str], questions: Mapping[str, Question], protocol: str) -> list[str]:
    warnings = []
    if empty := [id for id in questions if not predictions[id].strip()]:
        warnings.append(f"{len(empty)} answers are empty, the first that to {empty[0]!r:.40}")
    if few := [id for id, question in questions.items() if len(question.answers) < FEWEST]:
        warnings.append(
            f"{len(few)} questions have fewer than {FEWEST} answers of people, the first {few[0]!r:.40}; no answer to "
            "them is wholly right"
        )
    if protocol == "official" and (
        alike := sum(len(set(zip(q.answers, q.others, strict=True))) < len(q.answers) for q in questions.values())
    ):
        warnings.append(
            f"{alike} questions have equal records of answers, without an answer_id; the official script leaves all "
            "equal ones out together, which lowers the figures; --protocol always-normalise does not"
        )
    return warnings


def read_questions(questions: Path, annotations: Path) -> dict[str, Question]:
    """Return what people answered, by id, in the order of the annotations.

    Raises `DataError` for files that are not laid out so, for an id twice, for an annotation of no question, and for a
    question without one.
    """
    asked = set[str]()
    for record, where in listed(load(questions), "questions", questions):
        id = identity(record, _key(record), where)
        if id in asked:
            raise DataError(f"{where}: question {id!r:.40} is asked twice; keep one of them")
        asked.add(id)
    found: dict[str, Question] = {}
    for record, where in listed(load(annotations), "annotations", annotations):
        id = identity(record, _key(record), where)
        if id in found:
            raise DataError(f"{where}: question {id!r:.40} is annotated twice; keep one of them")
        if id not in asked:
            raise DataError(
                f"{where}: question {id!r:.40} is not in {str(questions)!r}; give the questions of the same split "
                "(VizWiz: the file of annotations)"
            )
        answers = record.get("answers")
        if not isinstance(answers, list) or not answers or not all(_is_answer(one) for one in answers):
            raise DataError(f"{where}: 'answers' is {answers!r:.60}, must be a list of records with a text 'answer'")
        kinds = [record.get(name) for name in ("question_type", "answer_type")]
        found[id] = Question(
            tuple(one["answer"] for one in answers),
            tuple(json.dumps({k: v for k, v in one.items() if k != "answer"}, sort_keys=True) for one in answers),
            *(kind if isinstance(kind, str) else None for kind in kinds),
        )
    if lacking := asked - found.keys():
        raise DataError(
            f"{str(annotations)!r}: {len(lacking)} of {len(asked)} questions have no annotation, the first "
            f"{min(lacking)!r:.40}; give the annotations of the same split"
        )
    return found


def read_answers(path: Path) -> dict[str, str]:
    """Return the answers of a file by id. Raises `DataError` for one that is not laid out so, and for an id twice."""
    found: dict[str, str] = {}
    for record, where in listed(load(path), None, path):
        id = identity(record, _key(record), where)
        if id in found:
            raise DataError(f"{where}: question {id!r:.40} is answered twice; keep one of the answers")
        if not _is_answer(record):
            raise DataError(f"{where}: 'answer' is {record.get('answer')!r:.60}, must be a text")
        found[id] = record["answer"]
    return found


def _key(record: Any) -> str:
    return "image" if isinstance(record, dict) and "question_id" not in record and "image" in record else "question_id"


def _is_answer(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("answer"), str)
