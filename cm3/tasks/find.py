"""A task by its name, and its examples of everything that a reader has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cm3.document import Document, Unreadable
from cm3.errors import ConfigError, DataError, did_you_mean
from cm3.files import inside
from cm3.picture import rgb
from cm3.read.base import Reader, first_of
from cm3.read.coco import Coco
from cm3.read.flickr30k import Flickr30k
from cm3.read.folder import PICTURES, Folder
from cm3.read.jsonl import JsonLines
from cm3.read.localized_narratives import LocalizedNarratives
from cm3.tasks import pictures as picture_tasks
from cm3.tasks import texts as text_tasks
from cm3.tasks.control import READ, control_file
from cm3.tasks.task import PAPER, Example, Task, View, control_files

TASKS = {task.name: task for task in (*picture_tasks.TASKS, *text_tasks.TASKS)}
"""Name -> task: the eighteen of Table 5, and `segment` and `visdial`."""


def find_task(name: str) -> Task:
    """A task by its name. Raises `ConfigError` for one that is not known."""
    if name not in TASKS:
        raise ConfigError(f"task {name!r}: is not known; known: {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    return TASKS[name]


def check(task: Task, reader: Reader) -> None:
    """Raise `ConfigError` for a kind of reader that the task is not made of, and `DataError` where the annotations that
    it needs are missing or damaged: COCO's are read here, once for all of its documents."""
    task.check_reader(reader.kind)
    for need in task.needs:
        if (look := _annotations(reader, need)) is not None:
            look(0)


def annotated(document: Document, reader: Reader, task: Task, controls: Path | None = None) -> Document:
    """A reader's document with what `task` needs in its meta.

    COCO's boxes, outlines and joints are `instances` and `keypoints`. Control images are `control_files`, by kind.
    Where a document does not name them itself, they are beside its picture (COCO, Flickr30k, Localized Narratives,
    folders), or in the folder `controls`; there they are called as the picture's file is, for folders and other
    readers as meta `image_id`, else as the document's id without the ending of a picture, "/" as "_". Paths that a
    JSON line names are relative to its file. What a document has already is kept. Raises `DataError` for a control
    that is not there, and where the reader cannot read its annotations.
    """
    found: dict[str, Any] = {}
    for need in task.needs:
        if need in READ:
            files = control_files(document)
            path = (
                _named(document, files[need], reader) if need in files else _control(document, reader, need, controls)
            )
            found["control_files"] = files | {need: path}
        elif need not in document.meta and (look := _annotations(reader, need)) is not None:
            found[need] = look(document.meta["image_id"])
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
    """The examples of one document of a reader, as `Task.examples`, their pictures decoded to the end.

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
    """The examples of every document, as `serve`; a document that cannot serve is given as `Unreadable`.

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
        if isinstance(reader, Coco) and _annotations(reader, need) is not None:
            yield from reader.strays(need)


def _annotations(reader: Reader, need: str) -> Callable[[int | str], list[dict[str, Any]]] | None:
    """How a reader is asked for what a task needs, by a picture's number; None for one that has none of it."""
    looks = {"instances": reader.instances, "keypoints": reader.keypoints} if isinstance(reader, Coco) else {}
    return looks.get(need)


def _named(document: Document, name: str | Path, reader: Reader) -> Path:
    """Return a control image that a document names. Raises `DataError` for one that leads out of its dataset."""
    if isinstance(name, Path):  # of the user's own code: no file has one
        return name
    if not isinstance(reader, JsonLines):
        raise DataError(
            f"document {document.id!r}: 'control_files' names {name!r:.80}, but only JSON lines have files beside "
            "them; give a folder of control images"
        )
    return inside(next(iter(reader.files.values())).parent, name, f"document {document.id!r}: control image")


def _control(document: Document, reader: Reader, kind: str, controls: Path | None) -> Path:
    """Where the control of a document's picture is."""
    pictures, rule = _pictures(document, reader), ""
    if controls is not None and (not pictures or isinstance(reader, Folder)):
        pictures, rule = [Path(f"{_name(document)}.jpg")], ' (called as its image_id or else its id, "/" as "_")'
    tried = [control_file(picture, kind, controls) for picture in pictures]
    path = next((path for path in tried if first_of(path.parent, [path.name])), None)
    if path is not None:
        return inside(path.parent, path.name, f"document {document.id!r}: control image")
    where = " or ".join(map(str, tried)) or "its meta 'control_files'"
    raise DataError(
        f"document {document.id!r}: has no {kind} image at {where}{rule}; docs/tasks.md says how to make it"
    )


def _pictures(document: Document, reader: Reader) -> list[Path]:
    """Where the file of a document's picture is or may be; none where the reader does not say."""
    if isinstance(reader, Coco):
        return [reader.root / reader.split / reader.file_name(document.meta["image_id"])]
    if isinstance(reader, Folder):
        return [reader.root / document.id]
    if isinstance(reader, Flickr30k):
        return [reader.folder / f"{document.meta['image_id']}.jpg"]
    if isinstance(reader, LocalizedNarratives):
        folder, name = reader.where(document.meta["image_id"])
        return [folder / name]
    return []


def _name(document: Document) -> str:
    """What a control image of a document is called in a folder of its own, before its kind."""
    name = document.meta.get("image_id")
    if not isinstance(name, int | str) or isinstance(name, bool) or name == "":
        name = document.id
        ending = next((ending for ending in PICTURES if name.lower().endswith(ending)), "")
        name = name[: len(name) - len(ending)]
    return str(name).replace("/", "_")
