"""Asking for an instruction task: fields become the prompt that training showed, and what is written the answer.

    fields --Task.prompt--> document with a hole --generate_many--> what fills it --> fields

    ask(model, "vqa2", image=picture, question="What is left of the square?").fields["answer"]
    ask(model, "edit", image1=picture, instruction="paint the circle green").fields["image2"]
    ask_many(model, "boxes", [{"caption": "a street", "objects": [("dog", (10, 120, 90, 250))]}], seeds=[0])

A picture of any size is fitted as the codec fits it. Control images that are drawn at the model's size (edges, strokes,
palettes, joints) must come at that size: scaled, lines thin out and colours mix, which training never shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import PIL.Image

from cm3.data.tasks import Task, find_task
from cm3.data.tasks.template import Field
from cm3.document import Image
from cm3.errors import RequestError
from cm3.generate.cm3leon import CM3Leon
from cm3.generate.generation import Generation

DRAWN = ("edge", "scribble", "seg", "pose")
"""Fields whose pictures are drawn at the size that the model sees."""
Fields = dict[str, str | PIL.Image.Image]


@dataclass(frozen=True)
class Reply:
    """What a model answered. `answers`: for each of the `n` asked for, what it gave, by the name of the field."""

    answers: tuple[Fields, ...]
    generation: Generation

    @property
    def fields(self) -> Fields:
        """The first answer."""
        return self.answers[0]


def ask(
    model: CM3Leon,
    task: str | Task,
    *,
    seed: int = 0,
    n: int = 1,
    template: int | str = 0,
    plain: bool = False,
    settings: Mapping[str, Any] | None = None,
    **request: Any,
) -> Reply:
    """Ask for a task once, `n` answers. `request` has its fields, `settings` what `CM3Leon.generate` takes besides.

    `plain` asks with the picture before the text. Raises `ConfigError` for an unknown task, `RequestError` as
    `Task.prompt` and `CM3Leon.generate` do, and for a control image of another size than the model draws at.
    """
    chosen = task if isinstance(task, Task) else find_task(task)
    prompt = _prompt(model, chosen, request, template, plain)
    made = model.generate(prompt, n=n, seed=seed, **(settings or {}))
    return _reply(chosen, made, template, plain)


def ask_many(
    model: CM3Leon,
    task: str | Task,
    requests: Sequence[Mapping[str, Any]],
    *,
    seeds: Sequence[int],
    template: int | str = 0,
    plain: bool = False,
    **settings: Any,
) -> list[Reply]:
    """One answer for each request, batched: `settings` as of `CM3Leon.generate_many`, the rest as `ask`."""
    chosen = task if isinstance(task, Task) else find_task(task)
    prompts = [_prompt(model, chosen, request, template, plain) for request in requests]
    made = model.generate_many(prompts, seeds=seeds, **settings)
    return [_reply(chosen, one, template, plain) for one in made]


def _prompt(model: CM3Leon, task: Task, request: Mapping[str, Any], template: int | str, plain: bool) -> Any:
    """The document with a hole, once its control image is of the model's size."""
    for name in DRAWN:
        picture = request.get(name)
        picture = picture.pixels if isinstance(picture, Image) else picture
        size = model.image_size
        if isinstance(picture, PIL.Image.Image) and picture.size != (size, size):
            wide, high = picture.size
            raise RequestError(
                f"task {task.name!r}: {name!r} is {wide} x {high} pixels; a control image must be drawn at the model's "
                f"{size} x {size}, as cm3.data.control does from a picture of any size"
            )
    return task.prompt(template, plain=plain, **request)


def _reply(task: Task, made: Generation, template: int | str, plain: bool) -> Reply:
    answers: list[Fields] = []
    for (filled,) in made.filled:  # a task has one hole
        answers.append(_split(task, template, filled, plain) if isinstance(filled, str) else {task.gives[0]: filled})
    return Reply(tuple(answers), made)


def _split(task: Task, template: int | str, text: str, plain: bool) -> Fields:
    """The fields in a text. Where the words between them are not there, all of it is the first one's."""
    segments = task.template(template).segments
    names = [(s, i) for s in segments for i, p in enumerate(s) if isinstance(p, Field) and p.name in task.gives]
    segment, first, last = names[0][0], names[0][1], names[-1][1]
    pieces = segment[first:] if plain else segment[first : last + 1]
    pattern = "".join(f"(?P<{p.name}>.*)" if isinstance(p, Field) else re.escape(p) for p in pieces)
    match = re.fullmatch(pattern, text.strip(), re.S)
    gives = [segment[i].name for _, i in names]  # type: ignore[union-attr]
    found = match.groupdict() if match else dict.fromkeys(gives, "") | {gives[0]: text}
    return {name: value.strip() for name, value in found.items()}
