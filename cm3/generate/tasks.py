"""Asking for an instruction task: fields become the prompt that training showed, and what is written the answer.

    fields --Task.prompt--> document with a hole --generate_many--> what fills it --> fields

    model.ask("vqa2", image=picture, question="What is left of the square?").fields["answer"]
    model.edit(picture, "paint the circle green").image
    model.ask_many("boxes", [{"caption": "a street", "objects": [("dog", (10, 120, 90, 250))]}], seeds=[0])

A picture of any size is fitted as the codec fits it. Control images that are drawn at the model's size (edges, strokes,
palettes, joints) must come at that size: scaled, lines thin out and colours mix, which training never shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack, cast

import PIL.Image

from cm3.document import Document, Image
from cm3.errors import RequestError
from cm3.generate.generation import Generation
from cm3.generate.prompt import Picture, as_image
from cm3.generate.settings import Asked, check_names
from cm3.generate.world import SAID, World
from cm3.tasks import Task, find_task
from cm3.tasks.template import PICTURES, Field

if TYPE_CHECKING:
    from cm3.generate.cm3leon import CM3Leon

DRAWN = ("edge", "scribble", "seg", "pose")
"""Fields whose pictures are drawn at the size that the model sees."""
WORDS = ("caption", "instruction", "question", "ocr_content")
"""Fields of words that a user chooses; of others a part is the task's form."""
LONGEST = 256
"""Most tokens of a text, where nothing is said: long descriptions and reasoning take more than captions."""
DETAIL, CAPTION, QUESTION = "image_paragraph", "coco_captions", "vqa2"
"""The tasks that long and short descriptions and questions are asked with."""
Fields = dict[str, str | PIL.Image.Image]


@dataclass(frozen=True)
class Reply:
    """What a model answered. `answers`: for each of the `n` asked for, what it gave, by the name of the field."""

    answers: tuple[Fields, ...]
    generation: Generation

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for all of the request that the model was never shown, as `Generation.warnings`."""
        return self.generation.warnings

    @property
    def fields(self) -> Fields:
        """The first answer."""
        return self.answers[0]

    @property
    def texts(self) -> list[str]:
        """Each answer's last text: of an explanation and an answer, the answer. Raises `RequestError` for pictures."""
        found = [[v for v in one.values() if isinstance(v, str)] for one in self.answers]
        if not all(found):
            raise RequestError("this reply is a picture; take .image")
        return [texts[-1] for texts in found]

    @property
    def text(self) -> str:
        """The first of `texts`."""
        return self.texts[0]

    @property
    def images(self) -> list[PIL.Image.Image]:
        """The picture of each answer. Raises `RequestError` for texts."""
        found = [v for one in self.answers for v in one.values() if isinstance(v, PIL.Image.Image)]
        if not found:
            raise RequestError("this reply is a text; take .text")
        return found

    @property
    def image(self) -> PIL.Image.Image:
        """The first of `images`."""
        return self.images[0]


class Asking:
    """Methods of `CM3Leon`: what it can be asked for by name. A model answers well what it was tuned for.

    `settings` are what `CM3Leon.generate` takes besides; `plain` asks with the picture before the text. A picture is
    one of Pillow's, an `Image`, a path, or an array uint8 (h, w), (h, w, 3) or (h, w, 4). All raise `RequestError` as
    `Task.prompt` and `CM3Leon.generate` do, and for a control image of another size than the model draws at; an unknown
    task or setting is a `ConfigError`.
    """

    def ask(
        self,
        task: str | Task,
        *,
        n: int = 1,
        seed: int = 0,
        template: int | str = 0,
        plain: bool = False,
        settings: Asked | None = None,
        **request: Any,
    ) -> Reply:
        """Any instruction task by its name and fields (docs/tasks.md), once; `n` answers."""
        model, chosen = cast("CM3Leon", self), find_task(task) if isinstance(task, str) else task
        given = _settings(settings)
        prompt = _prompt(model, chosen, request, template, plain)
        made = model.generate(prompt, n=n, seed=seed, kind=kind_of_task(chosen), **given)
        return _reply(chosen, made, template, plain)

    def ask_many(
        self,
        task: str | Task,
        requests: Sequence[Mapping[str, Any]],
        *,
        seeds: Sequence[int],
        template: int | str = 0,
        plain: bool = False,
        settings: Asked | None = None,
    ) -> list[Reply]:
        """One answer for each request, batched; `settings` as of `CM3Leon.generate_many`."""
        model, chosen = cast("CM3Leon", self), find_task(task) if isinstance(task, str) else task
        given = _settings(settings)
        prompts = [_prompt(model, chosen, request, template, plain) for request in requests]
        made = model.generate_many(prompts, seeds=seeds, kind=kind_of_task(chosen), **given)
        return [_reply(chosen, one, template, plain) for one in made]

    def edit(
        self, picture: Picture, instruction: str, n: int = 1, *, seed: int = 0, **settings: Unpack[Asked]
    ) -> Reply:
        """The picture changed as the words say: `.image`. `image_guidance` holds on to it, `guidance` to the words."""
        return self.ask("edit", n=n, seed=seed, settings=settings, image1=picture, instruction=instruction)

    def answer(self, picture: Picture, question: str, n: int = 1, *, seed: int = 0, **settings: Unpack[Asked]) -> Reply:
        """The answer to a question about a picture: `.text`."""
        return self.ask(QUESTION, n=n, seed=seed, settings=settings, image=picture, question=question)

    def describe(
        self, picture: Picture, n: int = 1, *, detail: bool = False, seed: int = 0, **settings: Unpack[Asked]
    ) -> Reply:
        """What a picture shows, in a sentence or in detail: `.text`."""
        return self.ask(DETAIL if detail else CAPTION, n=n, seed=seed, settings=settings, image=picture)

    def segment(self, picture: Picture, n: int = 1, *, seed: int = 0, **settings: Unpack[Asked]) -> Reply:
        """A map of what a picture shows, in the colours that the model was tuned with: `.image`."""
        return self.ask("segment", n=n, seed=seed, settings=settings, image=picture)


def _settings(given: Asked | None) -> Asked:
    """Return those given, and room for long texts where nothing is said of it."""
    check_names(given or {}, Asked, "n", "seed", "seeds", "template", "plain", "detail")
    return {"max_tokens": LONGEST, **(given or {})}


def kind_of_task(task: Task) -> str | None:
    """Which of `cm3.generate.KINDS` a task's guidance and sampling are, None where its hole says all.

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


def _prompt(model: CM3Leon, task: Task, request: Mapping[str, Any], template: int | str, plain: bool) -> Document:
    """The document with a hole, once its control image is of the model's size."""
    request = {name: as_image(value) if name in PICTURES else value for name, value in request.items()}
    for name in DRAWN:
        size = model.image_size
        if name in request and request[name].pixels.size != (size, size):
            wide, high = request[name].pixels.size
            raise RequestError(
                f"task {task.name!r}: {name!r} is {wide} x {high} pixels; a control image must be drawn at the model's "
                f"{size} x {size}, as cm3.tasks.control does from a picture of any size"
            )
    if model.world is None:
        return task.prompt(template, plain=plain, **request)
    taken = _taken(model.world, request)
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


def _reply(task: Task, made: Generation, template: int | str, plain: bool) -> Reply:
    answers: list[Fields] = []
    for (filled,) in made.filled:  # a task has one hole
        if isinstance(filled, Image):
            answers.append({task.gives[0]: filled.pixels})
        else:
            answers.append(_split(task, template, filled.text, plain))
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
