"""Questions to a model about a real dataset, and the true answers: documents of any reader, drawn by a seed.

    documents --drawn--> document --Task.find--> fields --> request (what is given), truth (what is to be given)

A question, a turn of a dialogue and a problem are a case each. Of a picture with several captions there is one case,
with all captions as its references where it is to be described, and with one of them where it is to be drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cm3.document import Document, Image, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb
from cm3.read.random_access import Numbered
from cm3.score.vqa import FEWEST
from cm3.tasks.examples import annotated, check
from cm3.tasks.task import PAPER, Task, View

TRIES = 1000
"""Documents in a row that may not serve before a dataset is taken for one that cannot."""
PEOPLE = 10
"""An answer that is given alone counts as one that so many people gave."""
Fields = dict[str, str | Image]

_STREAM = 0x4EA1
"""Keeps the chance of cases apart from that of everything else with the same seed."""


class Case(NamedTuple):
    """A request, what should come of it, and its seed."""

    id: str
    request: Fields
    truth: Fields
    """By the names of the fields that the task gives."""
    said: tuple[str, ...]
    """Captions of the picture, answers of all people; what there is of texts in `truth` for other tasks."""
    seed: int


def task_cases(
    task: Task,
    documents: Numbered,
    n: int,
    seed: int,
    *,
    view: View = PAPER,
    template: int | str = 0,
    controls: Path | None = None,
) -> Iterator[Case | Unreadable]:
    """Return `n` cases of a dataset in an order that `seed` draws, or all where there are fewer.

    A document that cannot serve comes between them as `Unreadable`. To be described, pictures are told apart by meta
    `image_id`, else by their pixels, for which all documents are read once. Raises, at the first case, as `check` does,
    `DataError` where the dataset has nothing for the task or none of a thousand documents serves, and `RequestError`
    for a template that the task does not have.
    """
    check(task, documents.reader)
    wanted = [field for field in task.template(template).fields if field not in task.gives]
    numbers: Sequence[int] = range(len(documents))
    found, seen, reason = 0, set[Any](), ""
    captions: dict[int, list[str]] = {}
    if task.gives == ("caption",):
        captions, bad = _described(task, documents, view)
        yield from bad
        numbers, reason = list(captions), bad[0].reason if bad else ""
    for tried, at in enumerate(np.random.default_rng([seed, _STREAM]).permutation(len(numbers)).tolist()):
        if not found and tried == TRIES:
            break
        document = documents[numbers[at]]
        picture = document.meta.get("image_id") if isinstance(document, Document) and task.output == "image" else None
        if picture is not None and picture in seen:
            continue
        try:
            values = _values(task, document, documents, view, controls)
            said = [_said(task, document, one, captions.get(numbers[at])) for one in values]
        except DataError as error:
            reason = reason or str(error)
            yield Unreadable(document.id, str(error))
            continue
        if not values:
            reason = reason or f"document {document.id!r} has nothing for it"
        seen.add(picture)
        for i, (one, texts) in enumerate(zip(values, said, strict=True)):
            id = f"{document.id}#{i}" if len(values) > 1 else document.id
            chance = int(np.random.default_rng([seed, _STREAM, found]).integers(2**31))
            truth = {name: one[name] for name in task.gives if name in one}
            yield Case(id, {name: one[name] for name in wanted}, truth, texts, chance)
            found += 1
            if found == n:
                return
    if not found:
        raise DataError(
            f"source {documents.name!r}: has nothing for task {task.name!r} in the {min(TRIES, len(documents))} "
            f"documents that were looked at ({reason or 'there are none'}); give another split or dataset, or what "
            "these lack: docs/tasks.md says what the task is made of"
        )


def _values(
    task: Task, document: Document | Unreadable, documents: Numbered, view: View, controls: Path | None
) -> list[Fields]:
    """Return the fields of each example of a document, their pictures decoded to the end. Raises `DataError` as
    `serve`."""
    if isinstance(document, Unreadable):
        raise DataError(document.reason)
    values = task.find(annotated(document, documents.reader, task, controls), view)
    for image in (value for one in values for value in one.values() if isinstance(value, Image)):
        try:
            rgb(image.pixels)
        except DataError as error:
            raise DataError(f"document {document.id!r}: {error}") from error
    return values


def _said(task: Task, document: Document | Unreadable, values: Fields, captions: list[str] | None) -> tuple[str, ...]:
    """Return the answers of people to a case. Raises `DataError` for answers that cannot be measured by."""
    if captions is not None:
        return tuple(captions)
    texts = tuple(value for name in task.gives if isinstance(value := values.get(name), str))
    if task.name not in ASKED or isinstance(document, Unreadable):
        return texts
    answers = document.meta.get("answers")
    if answers is None:
        return texts * PEOPLE
    if not isinstance(answers, list) or len(answers) < FEWEST or not all(isinstance(a, str) for a in answers):
        raise DataError(
            f"document {document.id!r}: 'answers' is {answers!r:.60}, must be at least {FEWEST} texts, better "
            f"{PEOPLE}, one of each person; or give one alone as 'answer'"
        )
    return tuple(answers)


ASKED = ("vqa2", "vizwiz", "okvqa")
"""Tasks whose questions many people answered."""


def _described(task: Task, documents: Numbered, view: View) -> tuple[dict[int, list[str]], list[Unreadable]]:
    """Return the number of the first document of each picture, with all captions of it; and what cannot be read."""
    first: dict[Any, int] = {}
    captions: dict[int, list[str]] = {}
    bad: list[Unreadable] = []
    for number in range(len(documents)):
        document = documents[number]
        try:
            if isinstance(document, Unreadable):
                raise DataError(document.reason)
            (values,) = task.find(document, view)
            at = first.setdefault(_picture(document), number)
        except DataError as error:
            bad.append(Unreadable(document.id, str(error)))
            continue
        captions.setdefault(at, []).append(str(values["caption"]))
    return captions, bad


def _picture(document: Document) -> Any:
    """Return a key that tells a document's picture from others."""
    name = document.meta.get("image_id")
    if isinstance(name, int | str) and not isinstance(name, bool):
        return name
    pixels = rgb(document.images[0].pixels)
    return hashlib.blake2b(f"{pixels.size}".encode() + pixels.tobytes()).digest()
