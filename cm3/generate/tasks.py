"""Instruction tasks: fields become the prompt that training showed, and what is written the answer.

    fields --task_prompt--> document with a hole --CM3Leon.generate--> what fills it --read_reply--> fields

A picture of any size is fitted as the codec fits it. Control images that are drawn at the model's size (edges, strokes,
palettes, joints) must come at that size: scaled, lines thin out and colours mix, which training never shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import PIL.Image

from cm3.document import Document, Image
from cm3.errors import RequestError
from cm3.generate.generation import Generation
from cm3.generate.known_world import SAID, World
from cm3.generate.prompt import as_image
from cm3.tasks.task import Task
from cm3.tasks.template import PICTURES, Field

DRAWN = ("edge", "scribble", "seg", "pose")
"""Fields whose pictures are drawn at the size that the model sees."""
WORDS = ("caption", "instruction", "question", "ocr_content")
"""Fields of words that a user chooses; of others a part is the task's form."""
LONGEST = 256
"""Most tokens of an answer, where nothing is said: long descriptions and reasoning take more than captions."""
DETAIL, CAPTION, QUESTION = "image_paragraph", "coco_captions", "vqa2"
"""The tasks that long and short descriptions and questions are asked with."""
Fields = dict[str, str | PIL.Image.Image]


@dataclass(frozen=True)
class Reply:
    """Answers of a model. `answers`: for each of the `n` asked for, the values that it gave, by the name of the
    field."""

    answers: tuple[Fields, ...]
    generation: Generation

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a line for all of the request that the model was never shown, as `Generation.warnings`."""
        return self.generation.warnings

    @property
    def fields(self) -> Fields:
        """Return the first answer."""
        return self.answers[0]

    @property
    def texts(self) -> list[str]:
        """Return each answer's last text: of an explanation and an answer, the answer. Raises `RequestError` for
        pictures."""
        found = [[v for v in one.values() if isinstance(v, str)] for one in self.answers]
        if not all(found):
            raise RequestError("this reply is a picture; take .image")
        return [texts[-1] for texts in found]

    @property
    def text(self) -> str:
        """Return the first of `texts`."""
        return self.texts[0]

    @property
    def images(self) -> list[PIL.Image.Image]:
        """Return the picture of each answer. Raises `RequestError` for texts."""
        found = [v for one in self.answers for v in one.values() if isinstance(v, PIL.Image.Image)]
        if not found:
            raise RequestError("this reply is a text; take .text")
        return found

    @property
    def image(self) -> PIL.Image.Image:
        """Return the first of `images`."""
        return self.images[0]


def kind_of_task(task: Task) -> str | None:
    """Return which of `cm3.generate.KINDS` guides a task and samples for it, None where its hole says all.

    A picture made of a picture and words follows a control image or edits; one made of a picture alone is its map. A
    text that is asked for with words of the user's is an answer.
    """
    given = [f for f in task.templates[0].fields if f not in task.gives]
    pictures = [f for f in given if f in PICTURES]
    if task.output == "text":
        return "answer" if len(pictures) < len(given) else None
    if not pictures:
        return None
    return "control" if task.control is not None else "segment" if pictures == given else "edit"


def task_prompt(
    task: Task, request: Mapping[str, Any], size: int, world: World | None, template: int | str = 0, plain: bool = False
) -> Document:
    """Return the document with a hole for a model of pictures of `size` pixels, with words as `world` spells them.

    Raises `RequestError` as `Task.prompt` does, and for a control image of another size.
    """
    request = {name: as_image(value) if name in PICTURES else value for name, value in request.items()}
    for name in DRAWN:
        if name in request and request[name].pixels.size != (size, size):
            wide, high = request[name].pixels.size
            raise RequestError(
                f"task {task.name!r}: {name!r} is {wide} x {high} pixels; a control image must be drawn at the model's "
                f"{size} x {size}, as cm3.tasks.control does from a picture of any size"
            )
    if world is None:
        return task.prompt(template, plain=plain, **request)
    taken = _taken(world, request)
    document = task.prompt(template, plain=plain, **taken)
    said = [str(taken[name]) for name in WORDS if name in taken] + [str(one[0]) for one in taken.get("objects", ())]
    return replace(document, meta={**document.meta, SAID: " ".join(said)})


def _taken(world: World, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with the words of the user's as they were trained."""
    taken: dict[str, Any] = {
        name: world.take(v) if name in WORDS and isinstance(v, str) else v for name, v in request.items()
    }
    if "objects" in taken:
        with suppress(TypeError, ValueError):  # another form is told by the task
            taken["objects"] = [(world.take(name), place) for name, place in taken["objects"]]
    return taken


def read_reply(task: Task, made: Generation, template: int | str = 0, plain: bool = False) -> Reply:
    """Read the answers by the names of their fields."""
    answers: list[Fields] = []
    for (filled,) in made.filled:  # a task has one hole
        if isinstance(filled, Image):
            answers.append({task.gives[0]: filled.pixels})
        else:
            answers.append(_split(task, template, filled.text, plain))
    return Reply(tuple(answers), made)


def _split(task: Task, template: int | str, text: str, plain: bool) -> Fields:
    """Return the fields in a text. Where the words between them are not there, all of it is the first one's."""
    segments = task.template(template).segments
    names = [(s, i) for s in segments for i, p in enumerate(s) if isinstance(p, Field) and p.name in task.gives]
    segment, first, last = names[0][0], names[0][1], names[-1][1]
    pieces = segment[first:] if plain else segment[first : last + 1]
    pattern = "".join(f"(?P<{p.name}>.*)" if isinstance(p, Field) else re.escape(p) for p in pieces)
    match = re.fullmatch(pattern, text.strip(), re.S)
    gives = [segment[i].name for _, i in names]  # type: ignore[union-attr]
    found = match.groupdict() if match else dict.fromkeys(gives, "") | {gives[0]: text}
    return {name: value.strip() for name, value in found.items()}
