"""Stickers for every instruction task: the fields of a task's template, and the truth that its answer is judged by.

    sticker_example("edit", seed=1, number=0, size=256)     image1, instruction, image2        truth: sheet, Edit
    task, seed, number --> fields --Task.prompt--> what a model is asked
                       \\-> truth  -------------->  whether its answer is right

An example is a function of its task, seed, number and split. Of every task the paper's first template is used; of
reasoning (`scienceqa`) the one with the explanation. `sticker_lessons` makes training sequences of the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cm3.document import Image
from cm3.errors import ConfigError, did_you_mean
from cm3.stickers.ask import random_question
from cm3.stickers.data.training_pictures import fit
from cm3.stickers.drawing import draw
from cm3.stickers.own_words import edit_in_own_words, question_in_own_words
from cm3.stickers.reason import Reasoning, random_reasoning
from cm3.stickers.sentences import brief, describe
from cm3.stickers.sticker_boxes import boxes_of
from cm3.stickers.sticker_edits import random_edit
from cm3.stickers.structure import STRUCTURES, structure
from cm3.stickers.talk import Turn, random_dialogue
from cm3.stickers.tell import describe_long
from cm3.stickers.world import Sheet, Split, random_sheet
from cm3.tasks.boxes import locations, segmentations
from cm3.tasks.examples import find_task
from cm3.tasks.text_tasks import LETTERS, NO_CONTEXT, history, lettered

TEMPLATES: dict[str, int] = {"scienceqa": 1}
"""The template of a task, by number, where it is not the first one."""
Fields = dict[str, "str | Image"]
"""A value for each field of a template."""


class Truth(NamedTuple):
    """The sheet that an example is about (of an edit, the one that it asks for), and what is asked of it or said.

    `said` is an `Edit`, the boxes, the caption of a map, a `Question`, a `Reasoning`, or the turns of a talk.
    """

    sheet: Sheet
    said: Any = None


@dataclass(frozen=True, eq=False)
class StickerExample:
    """An example of a task. `kind` is what figures are told apart by: a kind of edit, of question, a turn, a number."""

    task: str
    kind: str
    fields: Fields
    truth: Truth

    @property
    def template(self) -> int:
        """Return the template that the fields are for."""
        return TEMPLATES.get(self.task, 0)


def sticker_example(task: str, seed: int, number: int, size: int = 256, split: Split = "train") -> StickerExample:
    """Return example `number` of a task in the endless stream `seed`, its pictures of `size` pixels.

    Raises `ConfigError` for a task that stickers are not made for, and for an unknown split.
    """
    return make_example(task, example_rng(task, seed, number), size, split)


def example_rng(task: str, seed: int, number: int) -> np.random.Generator:
    """Return the generator of an example. Raises `ConfigError` for a task that stickers are not made for."""
    if task not in TASKS:
        raise ConfigError(f"task {task!r:.60}: must be one of {', '.join(TASKS)}.{did_you_mean(task, TASKS)}")
    return np.random.default_rng([seed, 0x7A5C, TASKS.index(task), number])


def make_example(
    task: str, rng: np.random.Generator, size: int, split: Split, stickers: int | None = None
) -> StickerExample:
    """Return an example of a task from a generator, about so many stickers, any number without it; reasoning is about
    two at least."""
    kind, fields, truth = _MAKERS[task](task, rng, size, split, stickers)
    return StickerExample(task, kind, fields, truth)


def example_in_own_words(example: StickerExample, rng: np.random.Generator) -> StickerExample:
    """Return an example of `edit` or `vqa2` with its instruction or question in another wording, and any other as it
    is."""
    if example.task == "edit":
        edit = edit_in_own_words(example.truth.said, rng)
        fields = {**example.fields, "instruction": edit.instruction}
    elif example.task == "vqa2":
        fields = {**example.fields, "question": question_in_own_words(example.truth.said, rng).question}
    else:
        return example
    return replace(example, fields=fields)


def picture(sheet: Sheet, size: int) -> Image:
    """Return the picture of a sheet as a part of a document."""
    return Image(draw(sheet, size))


def dialogue_fields(caption: str, turns: tuple[Turn, ...], number: int) -> Fields:
    """Return the fields of turn `number`, from 0, of a dialogue; what was said before is its history."""
    question, answer = turns[number]
    return {"history": history(caption, turns[:number]), "question": question, "answer": answer}


_Made = tuple[str, Fields, Truth]


def _edit(task: str, rng: np.random.Generator, size: int, split: Split, stickers: int | None) -> _Made:
    edit = random_edit(rng, split, number=stickers)
    before, after = picture(edit.before, size), picture(edit.after, size)
    fields: Fields = {"image1": before, "instruction": edit.instruction, "image2": after}
    return edit.kind, fields, Truth(edit.after, edit)


def _boxes(task: str, rng: np.random.Generator, size: int, split: Split, stickers: int | None) -> _Made:
    sheet = random_sheet(rng, split, stickers)
    caption, boxes = brief(sheet, rng), boxes_of(sheet)
    # in any order, as a user may give them
    boxes = tuple(boxes[i] for i in rng.permutation(len(boxes)))
    said: Fields = {"segmentations": segmentations(boxes), "locations": locations(boxes)}
    return _number(sheet), {"caption": caption, **said, "image": picture(sheet, size)}, Truth(sheet, boxes)


def _guided(task: str, rng: np.random.Generator, size: int, split: Split, stickers: int | None) -> _Made:
    sheet = random_sheet(rng, split, stickers)
    caption, field = brief(sheet, rng), find_task(task).control
    assert field is not None  # a task of `STRUCTURES` is guided by a picture
    fields: Fields = {field: _map(sheet, task, size, rng), "caption": caption, "image": picture(sheet, size)}
    return _number(sheet), fields, Truth(sheet, caption)


def _segment(task: str, rng: np.random.Generator, size: int, split: Split, stickers: int | None) -> _Made:
    sheet = random_sheet(rng, split, stickers)
    fields: Fields = {"image": picture(sheet, size), "seg": _map(sheet, "segmentation", size, rng)}
    return _number(sheet), fields, Truth(sheet)


def _captioned(task: str, rng: np.random.Generator, size: int, split: Split, stickers: int | None) -> _Made:
    sheet = random_sheet(rng, split, stickers)
    caption = describe(sheet, rng) if task == "coco_captions" else describe_long(sheet, rng)
    return _number(sheet), {"caption": caption, "image": picture(sheet, size)}, Truth(sheet, caption)


def _asked(task: str, rng: np.random.Generator, size: int, split: Split, stickers: int | None) -> _Made:
    sheet = random_sheet(rng, split, stickers)
    asked = random_question(sheet, rng)
    fields: Fields = {"question": asked.question, "answer": asked.answer, "image": picture(sheet, size)}
    return asked.kind, fields, Truth(sheet, asked)


def _dialogue(task: str, rng: np.random.Generator, size: int, split: Split, stickers: int | None) -> _Made:
    sheet = random_sheet(rng, split, stickers)
    turns, caption = random_dialogue(sheet, rng), brief(sheet, rng)
    number = int(rng.integers(len(turns)))
    fields = {**dialogue_fields(caption, turns, number), "image": picture(sheet, size)}
    return f"turn {number + 1}", fields, Truth(sheet, turns[: number + 1])


def _reasoned(task: str, rng: np.random.Generator, size: int, split: Split, stickers: int | None) -> _Made:
    number = int(rng.integers(2, 5)) if stickers is None else max(stickers, 2)  # one leaves nothing to compare
    sheet = random_sheet(rng, split, number)
    reasoning = random_reasoning(sheet, rng)
    return _number(sheet), {**_reasoning_fields(reasoning), "image": picture(sheet, size)}, Truth(sheet, reasoning)


def _reasoning_fields(reasoning: Reasoning) -> Fields:
    """Return the fields of a reasoning, its options lettered and its answer a letter, as in ScienceQA."""
    return {
        "question": reasoning.question,
        "context": NO_CONTEXT,
        "choices_text": lettered(reasoning.options),
        "explanation": reasoning.explanation,
        "answer": f"({LETTERS[reasoning.options.index(reasoning.answer)]})",
    }


def _map(sheet: Sheet, kind: str, size: int, rng: np.random.Generator) -> Image:
    return Image(fit(structure(sheet, kind, rng), size))


def _number(sheet: Sheet) -> str:
    return f"{len(sheet.stickers)} sticker{'s' if len(sheet.stickers) > 1 else ''}"


_MAKERS: dict[str, Callable[[str, np.random.Generator, int, Split, int | None], _Made]] = {
    "edit": _edit,
    "boxes": _boxes,
    **dict.fromkeys(STRUCTURES, _guided),
    "segment": _segment,
    "coco_captions": _captioned,
    "image_paragraph": _captioned,
    "vqa2": _asked,
    "visdial": _dialogue,
    "scienceqa": _reasoned,
}
TASKS = tuple(_MAKERS)
"""The tasks that stickers are made for, by the names of `cm3.tasks`."""
