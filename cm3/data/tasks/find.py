"""A task by its name, and its examples of everything that a reader has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cm3.data.control import READ, control_file
from cm3.data.read.base import Reader
from cm3.data.read.coco import Coco
from cm3.data.read.folder import Folder
from cm3.data.tasks import pictures as picture_tasks
from cm3.data.tasks import texts as text_tasks
from cm3.data.tasks.task import ANY, PAPER, Example, Task, View
from cm3.document import Document, Unreadable
from cm3.errors import ConfigError, DataError, did_you_mean

TASKS = {task.name: task for task in (*picture_tasks.TASKS, *text_tasks.TASKS)}
"""Name -> task: the eighteen of Table 5, and `segment` and `visdial`."""


def find_task(name: str) -> Task:
    """A task by its name. Raises `ConfigError` for one that is not known."""
    if name not in TASKS:
        raise ConfigError(f"task {name!r}: is not known; known: {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    return TASKS[name]


def annotated(document: Document, reader: Reader, task: Task, controls: Path | None = None) -> Document:
    """A reader's document with what `task` needs in its meta.

    COCO's boxes, outlines and joints are `instances` and `keypoints`. Control images are `control_files`, by kind:
    those beside the picture of COCO or of a folder, or those in the folder `controls` (for other readers under the
    document's id, "/" as "_"). What a document has already is kept. Raises `DataError` for a control that is not
    there, and where the reader cannot read its annotations.
    """
    found: dict[str, Any] = {}
    for need in task.needs:
        if need in READ:
            files = document.meta.get("control_files", {})
            path = files[need] if need in files else _control(document, reader, need, controls)
            found["control_files"] = files | {need: str(path)}
        elif need not in document.meta and isinstance(reader, Coco):
            look = reader.instances if need == "instances" else reader.keypoints
            found[need] = look(document.meta["image_id"])
    return dataclasses.replace(document, meta={**document.meta, **found}) if found else document


def from_reader(
    task: Task,
    reader: Reader,
    *,
    view: View = PAPER,
    plain: bool = False,
    rng: np.random.Generator | None = None,
    controls: Path | None = None,
) -> Iterator[Example | Unreadable]:
    """The examples of every document, as `Task.examples`; a document that cannot serve is given as `Unreadable`.

    Raises `ConfigError` at once for a kind of reader that the task is not made of.
    """
    if reader.kind not in (*task.feeds, *ANY):
        raise ConfigError(f"task {task.name!r}: is made of {', '.join(task.feeds)}, not of {reader.kind}")
    return _examples(task, reader, view, plain, rng, controls)


def _examples(
    task: Task, reader: Reader, view: View, plain: bool, rng: np.random.Generator | None, controls: Path | None
) -> Iterator[Example | Unreadable]:
    for document in reader:
        if isinstance(document, Unreadable):
            yield document
            continue
        try:
            yield from task.examples(annotated(document, reader, task, controls), view=view, plain=plain, rng=rng)
        except DataError as error:
            yield Unreadable(document.id, str(error))


def _control(document: Document, reader: Reader, kind: str, controls: Path | None) -> Path:
    """Where the control of a document's picture is."""
    if isinstance(reader, Coco):
        number = f"{document.meta['image_id']:012d}"
        pictures = [reader.root / reader.split / f"{name}.jpg" for name in (number, f"COCO_{reader.split}_{number}")]
    elif isinstance(reader, Folder):
        pictures = [reader.root / document.id]
    else:
        pictures = [Path(f"{document.id.replace('/', '_')}.jpg")] if controls is not None else []
    tried = [control_file(picture, kind, controls) for picture in pictures]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        where = " or ".join(map(str, tried)) or "its meta 'control_files'"
        raise DataError(f"document {document.id!r}: has no {kind} image at {where}; docs/tasks.md says how to make it")
    return path
