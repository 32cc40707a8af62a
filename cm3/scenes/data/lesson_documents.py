"""Scenes for every instruction task: the fields of a task's template, and the truth that its verifier compares with.

    scene_example("edit", seed=1, index=0, size=128)     image1, instruction, image2        truth: Edit
    task, seed, number --> fields --Task.prompt--> what a model is asked
                       \\-> truth --cm3/scenes-->  whether its answer is right

An example is a function of its task, seed and number alone. Of every task the paper's first template is used; of
reasoning (`scienceqa`) the one with the explanation. `cm3.scenes.data.lessons` makes training sequences of the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from cm3.document import Image
from cm3.errors import ConfigError, did_you_mean
from cm3.scenes.ask import random_question
from cm3.scenes.drawing import draw, middles
from cm3.scenes.letters import draw_lettered, random_lettered
from cm3.scenes.phrases import pick
from cm3.scenes.reason import Reasoning, random_reasoning
from cm3.scenes.scene import Scene, Split, random_scene
from cm3.scenes.scene_boxes import random_boxed
from cm3.scenes.scene_edits import draw_edit, random_edit
from cm3.scenes.sentences import brief, describe
from cm3.scenes.structure import draw_structure, random_guided
from cm3.scenes.talk import Turn, random_dialogue
from cm3.scenes.tell import describe_long
from cm3.tasks.boxes import locations, segmentations
from cm3.tasks.text_tasks import NO_CONTEXT, history, lettered

TEMPLATES: dict[str, int] = {"scienceqa": 1}
"""The template of a task, by number, where it is not the first one."""
STRUCTURES = {
    "canny": ("edges", "edge"),
    "segmentation": ("segments", "seg"),
    "depth": ("depth", "depth"),
    "scribble": ("scribble", "scribble"),
}
"""Task -> the kind of structure of a scene, and the field that it stands in."""


class Asked(NamedTuple):
    """A scene and what is asked of it: the truth of a text. `said`: a question, a reasoning, or the turns of a talk."""

    scene: Scene
    said: Any = None


class Map(NamedTuple):
    """A scene and where its objects stand: the truth of a segmentation map."""

    scene: Scene
    at: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class SceneExample:
    """An example of a task. `kind` is what the figures are told apart by: a kind of edit, of question, a turn."""

    task: str
    kind: str
    fields: dict[str, str | Image]
    truth: Any

    @property
    def template(self) -> int:
        """Return the template that the fields are for."""
        return TEMPLATES.get(self.task, 0)


def scene_example(task: str, seed: int, index: int, size: int = 128, split: Split = "train") -> SceneExample:
    """Return example `index` of a task in the endless stream `seed`, its pictures of `size` pixels.

    Raises `ConfigError` for a task that scenes are not made for, and for an unknown split.
    """
    return make_example(task, example_rng(task, seed, index), size, split)


def example_rng(task: str, seed: int, index: int) -> np.random.Generator:
    """Return the generator of an example. Raises `ConfigError` for a task that scenes are not made for."""
    if task not in TASKS:
        raise ConfigError(f"scene task {task!r}: must be one of {', '.join(TASKS)}.{did_you_mean(task, TASKS)}")
    return np.random.default_rng([seed, 0x7A5C, TASKS.index(task), index])


def make_example(
    task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None = None
) -> SceneExample:
    """Return an example of a task from a generator, about so many objects where the task leaves that open (`write` does
    not, and reasoning has two at least); any number without it."""
    kind, fields, truth = _MAKERS[task](task, rng, size, split, objects)
    return SceneExample(task, kind, {k: v if isinstance(v, str) else Image(v) for k, v in fields.items()}, truth)


def dialogue_fields(caption: str, turns: tuple[Turn, ...], number: int) -> dict[str, str]:
    """Return the fields of turn `number`, from 0, of a dialogue; what was said before is its history."""
    question, answer = turns[number]
    return {"history": history(caption, turns[:number]), "question": question, "answer": answer}


_Fields = dict[str, "str | PIL.Image.Image"]
_Made = tuple[str, _Fields, Any]


def _edit(task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None) -> _Made:
    edit = random_edit(rng, split, objects=objects)
    before, after = draw_edit(edit, size, rng)
    return edit.kind, {"image1": before, "instruction": edit.instruction, "image2": after}, edit


def _write(task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None) -> _Made:
    lettered = random_lettered(rng, split)
    picture = draw_lettered(lettered.scene, lettered.sign, size, rng)
    kind = f"{len(lettered.sign.word)} letters"
    return kind, {"ocr_content": lettered.caption, "image": picture}, lettered


def _boxes(task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None) -> _Made:
    boxed = random_boxed(rng, split, size, objects)
    said = {"segmentations": segmentations(boxed.boxes), "locations": locations(boxed.boxes)}
    return _number(boxed.scene), {"caption": boxed.caption, **said, "image": boxed.picture}, boxed


def _guided(task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None) -> _Made:
    kind, name = STRUCTURES[task]
    guided = random_guided(rng, split, kind, size, objects)
    fields: _Fields = {name: guided.structure, "caption": guided.caption, "image": guided.picture}
    return _number(guided.scene), fields, guided


def _segment(task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None) -> _Made:
    scene, at = random_scene(rng, split, objects), middles(rng)
    seg = draw_structure("segments", scene, size, at=at)
    return _number(scene), {"image": draw(scene, size, at=at), "seg": seg}, Map(scene, at)


def _captioned(task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None) -> _Made:
    scene = random_scene(rng, split, objects)
    caption = describe(scene, rng) if task == "coco_captions" else describe_long(scene, rng)
    return _number(scene), {"caption": caption, "image": draw(scene, size, rng)}, Asked(scene)


def _asked(task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None) -> _Made:
    scene = random_scene(rng, split, objects)
    asked = random_question(scene, rng)
    fields: _Fields = {"question": asked.question, "answer": asked.answer, "image": draw(scene, size, rng)}
    return asked.kind, fields, Asked(scene, asked)


def _dialogue(task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None) -> _Made:
    scene = random_scene(rng, split, objects)
    turns, caption = random_dialogue(scene, rng), brief(scene, rng)
    number = pick(rng, tuple(range(len(turns))))
    fields: _Fields = {**dialogue_fields(caption, turns, number), "image": draw(scene, size, rng)}
    return f"turn {number + 1}", fields, Asked(scene, turns[: number + 1])


def _reasoned(task: str, rng: np.random.Generator, size: int, split: Split, objects: int | None) -> _Made:
    number = int(rng.integers(2, 5)) if objects is None else max(objects, 2)  # one object leaves little to compare
    scene = random_scene(rng, split, objects=number)
    reasoning = random_reasoning(scene, rng)
    fields: _Fields = {**reasoning_fields(reasoning), "image": draw(scene, size, rng)}
    return _number(scene), fields, Asked(scene, reasoning)


def reasoning_fields(reasoning: Reasoning) -> dict[str, str]:
    """Return the fields of a reasoning, its options lettered and its answer a letter, as in ScienceQA."""
    letter = chr(ord("A") + reasoning.options.index(reasoning.answer))
    return {
        "question": reasoning.question,
        "context": NO_CONTEXT,
        "choices_text": lettered(reasoning.options),
        "explanation": reasoning.explanation,
        "answer": f"({letter})",
    }


def _number(scene: Scene) -> str:
    return f"{len(scene.objects)} object{'s' if len(scene.objects) > 1 else ''}"


_MAKERS: dict[str, Callable[[str, np.random.Generator, int, Split, int | None], _Made]] = {
    "edit": _edit,
    "write": _write,
    "boxes": _boxes,
    **dict.fromkeys(STRUCTURES, _guided),
    "coco_captions": _captioned,
    "image_paragraph": _captioned,
    "vqa2": _asked,
    "visdial": _dialogue,
    "scienceqa": _reasoned,
    "segment": _segment,
}
TASKS = tuple(_MAKERS)
"""The tasks that scenes are made for, by the names of `cm3.tasks`."""
