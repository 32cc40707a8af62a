"""Instruction tasks, measured on sheets that training never showed.

    sticker_example --fields--> ask_many --> what the model gave --judge--> what is wrong, or nothing
            \\--truth---------------------------------------------^

Nothing here knows what the model is made of; it is asked as a user asks (`CM3Leon.ask_many`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from cm3.document import Image
from cm3.errors import DataError
from cm3.stickers.data.sticker_examples import TASKS as INSTRUCTIONS
from cm3.stickers.data.sticker_examples import Fields, StickerExample, example_in_own_words, sticker_example
from cm3.stickers.eval.sticker_judges import Outcome, Plan, in_words, judge_text
from cm3.stickers.reason import verify_reasoning
from cm3.stickers.sentences import parse
from cm3.stickers.sticker_boxes import matched
from cm3.stickers.structure import STRUCTURES
from cm3.stickers.tell import parse_long
from cm3.stickers.verify import Verdict, compare, iou, read, why_not
from cm3.stickers.world import Sticker
from cm3.tasks.examples import find_task

if TYPE_CHECKING:
    from cm3.generate import CM3Leon

Given = Mapping[str, "str | PIL.Image.Image"]
"""An answer, as the fields that the model gave."""
ENOUGH = 0.75
"""Least overlap of a map with the true one for it to be right."""


def run_instruction(model: CM3Leon, task: str, plan: Plan) -> list[Outcome]:
    """Return the outcomes of a task."""
    outcomes: list[Outcome] = []
    for start in range(0, plan.n, plan.batch):
        numbers = range(start, min(start + plan.batch, plan.n))
        examples = [sticker_example(task, plan.seed, i, model.image_size, plan.split) for i in numbers]
        chance = [np.random.default_rng([plan.seed, 0xE7A5, INSTRUCTIONS.index(task), i]) for i in numbers]
        if plan.own_words:
            wording = [np.random.default_rng([plan.seed, 0x0133, i]) for i in numbers]
            examples = [example_in_own_words(one, rng) for one, rng in zip(examples, wording, strict=True)]
        if find_task(task).output == "text":
            examples = [replace(one, fields=_shown(one.fields, plan)) for one in examples]
        given = ask(model, examples, [int(rng.integers(2**31)) for rng in chance], dict(plan.sampling))
        outcomes += [judge(example, one) for example, one in zip(examples, given, strict=True)]
        plan.tell(task, len(outcomes))
    return outcomes


def _shown(fields: Fields, plan: Plan) -> Fields:
    """Return the fields of an example with its pictures as they are given."""
    return {name: Image(plan.given(v.pixels)) if isinstance(v, Image) else v for name, v in fields.items()}


def ask(model: CM3Leon, examples: list[StickerExample], seeds: list[int], settings: dict[str, Any]) -> list[Given]:
    """Return a model's answers to some examples of one task."""
    task, template = find_task(examples[0].task), examples[0].template
    wanted = [field for field in task.template(template).fields if field not in task.gives]
    requests = [{name: example.fields[name] for name in wanted} for example in examples]
    replies = model.ask_many(task, requests, seeds=seeds, template=template, **settings)
    return [reply.fields for reply in replies]


def judge(example: StickerExample, given: Given) -> Outcome:
    """Judge an answer. One of another form is wrong, never an error."""
    why, shares = _JUDGES[example.task](example, given)
    return Outcome(asked(example), why, len(example.truth.sheet.stickers), example.kind, shares)


def wrong_reasons(example: StickerExample, given: Given) -> str:
    """Say which of the reasons of an answer is wrong, or "" where all are right and for tasks without any.

    They are judged apart from the answer, which may be right for reasons that are not.
    """
    if example.task != "scienceqa":
        return ""
    asked, said = example.truth.said, given["explanation"]
    return verify_reasoning(asked.question, str(said), asked.answer, example.truth.sheet)


_Judged = tuple[str, dict[str, float]]


def _edit(example: StickerExample, given: Mapping[str, Any]) -> _Judged:
    told = _verdict(example, given["image2"])
    changed = told.reading.sheet != example.truth.said.before
    return told.why if changed else f"nothing was changed: {told.why}", {"changed": float(changed)}


def _boxes(example: StickerExample, given: Mapping[str, Any]) -> _Judged:
    told = _verdict(example, given["image"])
    seen = [Sticker(one.place, one.kind, one.size) for one in told.reading.seen if not one.problem]
    return told.why, {"boxes": matched(seen, example.truth.said)}


def _guided(example: StickerExample, given: Mapping[str, Any]) -> _Judged:
    told = _verdict(example, given["image"])
    return told.why, {"caption": float(not why_not(parse(example.truth.said), told.reading))}


def _segment(example: StickerExample, given: Mapping[str, Any]) -> _Judged:
    share = iou(example.truth.sheet, given["seg"])
    return "" if share >= ENOUGH else f"an overlap of {share:.2f} with the true map", {"iou": share}


def _caption(example: StickerExample, given: Mapping[str, Any]) -> _Judged:
    return judge_text(given["caption"], example.truth.sheet).why, {}


def _paragraph(example: StickerExample, given: Mapping[str, Any]) -> _Judged:
    try:
        told = parse_long(given["caption"])
    except DataError as error:
        return str(error), {}
    return "" if told == example.truth.sheet else f"it says {in_words(told)}", {}


def _answer(example: StickerExample, given: Mapping[str, Any]) -> _Judged:
    said, right = given["answer"].strip(), example.fields["answer"]
    return "" if said == right else f"{said!r:.80}, not {right!r}", {}


def _reason(example: StickerExample, given: Mapping[str, Any]) -> _Judged:
    why, _ = _answer(example, given)
    return why, {"explained": float(not why and not wrong_reasons(example, given))}


_JUDGES: dict[str, Callable[[StickerExample, Mapping[str, Any]], _Judged]] = {
    "edit": _edit,
    "boxes": _boxes,
    **dict.fromkeys(STRUCTURES, _guided),
    "segment": _segment,
    "coco_captions": _caption,
    "image_paragraph": _paragraph,
    "vqa2": _answer,
    "visdial": _answer,
    "scienceqa": _reason,
}


def _verdict(example: StickerExample, picture: PIL.Image.Image) -> Verdict:
    return compare(read(picture), example.truth.sheet)


def asked(example: StickerExample) -> str:
    """Say what was asked for in words: the user's own, or the task's where it takes none."""
    task = find_task(example.task)
    fields = ("history", "question", "instruction", "caption", "choices_text")
    said = [str(example.fields[name]) for name in fields if name in example.fields and name not in task.gives]
    if not said:
        said = [part for segment in task.templates[0].segments for part in segment if isinstance(part, str)]
    return " / ".join(" ".join(words.split()) for words in said if words.strip())
