"""A task by its name, and its examples of everything that a reader has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cm3.document import Document, Unreadable
from cm3.errors import ConfigError, DataError, did_you_mean
from cm3.picture import CONTROLS, rgb
from cm3.tasks import picture_tasks, text_tasks
from cm3.tasks.task import PAPER, Example, Task, View, control_files

if TYPE_CHECKING:
    from cm3.read.base import Reader

TASKS = {task.name: task for task in (*picture_tasks.TASKS, *text_tasks.TASKS)}
"""Name -> task: the eighteen of Table 5, and `segment` and `visdial`."""


def find_task(name: str) -> Task:
    """Return a task by its name. Raises `ConfigError` for one that is not known."""
    if name not in TASKS:
        raise ConfigError(f"task {name!r}: is not known; known: {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    return TASKS[name]


def check(task: Task, reader: Reader) -> None:
    """Raise `ConfigError` for a kind of reader that the task is not made of, and `DataError` where the annotations that
    it needs are missing or damaged: COCO's are read here, once for all of its documents."""
    task.check_reader(reader.kind)
    for need in task.needs:
        if (found := reader.annotations(need)) is not None:
            found.of(0)


def annotated(document: Document, reader: Reader, task: Task, controls: Path | None = None) -> Document:
    """Return a reader's document with what `task` needs in its meta.

    COCO's boxes, outlines and joints are `instances` and `keypoints`. Control images are `control_files`, by kind.
    Where a document does not name them itself, they are beside its picture (COCO, Flickr30k, Localized Narratives,
    folders), or in the folder `controls`; there they are called as the picture's file is, for folders and other
    readers as meta `image_id`, else as the document's id without the ending of a picture, "/" as "_". Paths that a
    JSON line names are relative to its file. A value that a document has already is kept. Raises `DataError` for a
    control that is not there, and where the reader cannot read its annotations.
    """
    found: dict[str, Any] = {}
    for need in task.needs:
        if need in CONTROLS:
            files = control_files(document)
            path = files[need] if need in files else reader.control_path(document, need, controls)
            if not isinstance(path, Path):  # else of the user's own code: no file has one
                path = reader.named_path(document, path)
            found["control_files"] = files | {need: path}
        elif need not in document.meta and (known := reader.annotations(need)) is not None:
            found[need] = known.of(document.meta["image_id"])
    return dataclasses.replace(document, meta={**document.meta, **found}) if found else document


def serve(
    task: Task,
    document: Document | Unreadable,
    reader: Reader,
    *,
    view: View = PAPER,
    plain: bool = False,
    rng: np.random.Generator | None = None,
    controls: Path | None = None,
) -> list[Example]:
    """Return the examples of one document of a reader, as `Task.examples`, their pictures decoded to the end.

    Raises `DataError` for a document that cannot serve: it cannot be read, is damaged for the task, lacks a control
    image, or has a picture that is cut short.
    """
    if isinstance(document, Unreadable):
        raise DataError(document.reason)
    made = task.examples(annotated(document, reader, task, controls), view=view, plain=plain, rng=rng)
    for pixels in {id(image.pixels): image.pixels for one in made for image in one.document.images}.values():
        try:
            rgb(pixels)
        except DataError as error:
            raise DataError(f"document {document.id!r}: {error}") from error
    return made


def from_reader(
    task: Task,
    reader: Reader,
    *,
    view: View = PAPER,
    plain: bool = False,
    rng: np.random.Generator | None = None,
    controls: Path | None = None,
) -> Iterator[Example | Unreadable]:
    """Return the examples of every document, as `serve`; a document that cannot serve is given as `Unreadable`.

    Raises as `check` does, at once.
    """
    check(task, reader)
    return _examples(task, reader, view, plain, rng, controls)


def _examples(
    task: Task, reader: Reader, view: View, plain: bool, rng: np.random.Generator | None, controls: Path | None
) -> Iterator[Example | Unreadable]:
    for document in reader:
        try:
            yield from serve(task, document, reader, view=view, plain=plain, rng=rng, controls=controls)
        except DataError as error:
            yield Unreadable(document.id, str(error))
    for need in task.needs:
        if (found := reader.annotations(need)) is not None:
            yield from found.strays()
