"""The scorer of instructions: one who knows the answers scores 1, and each kind of wrong answer is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_stickers

from cm3.document import Image
from cm3.generate import CM3Leon
from cm3.generate.tasks import Reply
from cm3.stickers.data.sticker_examples import TASKS, sticker_example
from cm3.stickers.drawing import CORNER, draw
from cm3.stickers.eval.instruction_scores import judge, wrong_reasons
from cm3.stickers.eval.sticker_scores import evaluate_stickers
from cm3.tasks import Task, find_task

PICTURES = [task for task in TASKS if find_task(task).output == "image"]


def right(example: Any) -> dict[str, Any]:
    """The fields that a perfect model gives."""
    fields = {name: example.fields[name] for name in find_task(example.task).gives if name in example.fields}
    return {name: value.pixels if isinstance(value, Image) else value for name, value in fields.items()}


class Oracle:
    """Knows the examples of a seed and answers with their own fields."""

    image_size = 256

    def __init__(self, n: int, tasks: Sequence[str] = TASKS) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.known = {task: [sticker_example(task, 3, i, 256, "test") for i in range(n)] for task in tasks}

    def ask_many(
        self, task: Task, requests: Sequence[Mapping[str, Any]], *, seeds: Sequence[int], **given: Any
    ) -> list[Reply]:
        assert len(seeds) == len(requests) == len(set(seeds))
        self.asked.append((task.name, given))
        replies = []
        for request in requests:
            assert not request.keys() & set(task.gives)
            example = next(one for one in self.known[task.name] if all(one.fields[k] == v for k, v in request.items()))
            replies.append(Reply((right(example),), None))  # type: ignore[arg-type]
        return replies


def test_who_knows_the_answers_scores_one() -> None:
    model: Any = Oracle(3)
    sampling = {"temperature": 0.5, "image_guidance": 1.5}
    report = evaluate_stickers(model, 3, seed=3, batch=2, tasks=TASKS, sampling=sampling)
    assert list(report["tasks"]) == list(TASKS)
    for task, figures in report["tasks"].items():
        assert set(figures.values()) == {1.0}, (task, figures)
        assert set(report["details"][task]["by_kind"].values()) == {1.0} and not report["details"][task]["missed"]
    for name, more in (("segment", "iou"), ("boxes", "boxes"), ("canny", "caption"), ("scienceqa", "explained")):
        assert more in report["tasks"][name]
    # the scale of the picture that is edited is of editing alone
    assert all(("image_guidance" in given) == (task == "edit") for task, given in model.asked)
    assert all(given["temperature"] == 0.5 for _, given in model.asked)
    assert {given["template"] for task, given in model.asked if task == "scienceqa"} == {1}


class Looking(Oracle):
    """It keeps the pictures that it is shown, and knows an example by its words."""

    def __init__(self, n: int, tasks: Sequence[str]) -> None:
        super().__init__(n, tasks)
        self.saw: list[np.ndarray] = []

    def ask_many(
        self, task: Task, requests: Sequence[Mapping[str, Any]], *, seeds: Sequence[int], **given: Any
    ) -> list[Reply]:
        pictures = [value for request in requests for value in request.values() if isinstance(value, Image)]
        self.saw += [np.asarray(picture.pixels).astype(int) for picture in pictures]
        words = [{k: v for k, v in request.items() if not isinstance(v, Image)} for request in requests]
        return super().ask_many(task, words, seeds=seeds, **given)


def test_who_answers_in_words_may_be_shown_jpeg() -> None:
    for task in ("vqa2", "scienceqa", "edit"):
        saw = []
        for jpeg in (None, 75):
            model: Any = Looking(2, [task])
            evaluate_stickers(model, 2, seed=3, tasks=[task], jpeg=jpeg)
            saw.append(np.stack(model.saw))
        off = np.abs(saw[0] - saw[1]).mean()
        assert 0 < off < 10 if task != "edit" else off == 0


@pytest.mark.parametrize("task", PICTURES)
def test_a_wrong_picture_is_wrong(task: str) -> None:
    example, other = (sticker_example(task, 1, i, 256, "test") for i in range(2))
    assert not judge(example, right(example)).why
    (name,) = find_task(task).gives
    grey = PIL.Image.new("RGB", (256, 256), (150, 150, 155))
    for wrong in (right(other)[name], grey, PIL.Image.effect_noise((256, 256), 90).convert("RGB")):
        outcome = judge(example, {name: wrong})
        assert outcome.why and all(share < 1 for name, share in outcome.shares.items() if name != "changed")
    if task == "edit":
        outcome = judge(example, {"image2": draw(example.truth.said.before)})
        assert outcome.why.startswith("nothing was changed") and outcome.shares == {"changed": 0}
        assert outcome.asked == example.fields["instruction"] and outcome.kind == example.truth.said.kind


def test_what_is_half_right_is_told_apart() -> None:
    example = next(e for i in range(20) if len((e := sticker_example("boxes", 1, i, 256)).truth.sheet.stickers) == 3)
    picture = draw(example.truth.sheet)
    x, y = CORNER[example.truth.sheet.stickers[0].place]
    picture.paste(picture.getpixel((0, 0)), (x, y, x + 128, y + 128))
    assert judge(example, {"image": picture}).shares == {"boxes": pytest.approx(2 / 3)}

    # true to the caption alone: the same things elsewhere
    example = next(e for i in range(20) if len((e := sticker_example("canny", 1, i, 256)).truth.sheet.stickers) == 2)
    picture = draw(example.truth.sheet)
    turned = PIL.Image.new("RGB", (256, 256))
    for x in (0, 128):
        turned.paste(picture.crop((x, 0, x + 128, 256)), (128 - x, 0))
    outcome = judge(example, {"image": turned})
    assert outcome.why and outcome.shares == {"caption": 1}


@pytest.mark.parametrize("text", ["", " ", "no idea", "a red", "(B", "\ufffd\n|", "the picture shows", "two. " * 30])
def test_a_text_of_another_form_is_wrong_and_no_error(text: str) -> None:
    for task in set(TASKS) - set(PICTURES):
        example = sticker_example(task, 1, 0, 256, "test")
        outcome = judge(example, dict.fromkeys(find_task(task).gives, text))
        assert outcome.why and set(outcome.shares.values()) <= {0.0}, (task, outcome)


def test_an_answer_without_its_reason_is_not_explained() -> None:
    example = sticker_example("scienceqa", 1, 0, 16)
    given = right(example)
    assert judge(example, given).shares == {"explained": 1}
    spoiled = {**given, "explanation": "large is larger than small."}
    outcome = judge(example, spoiled)
    assert not outcome.why and outcome.shares == {"explained": 0}
    assert not wrong_reasons(example, given) and "step 1 is" in wrong_reasons(example, spoiled)
    other = sticker_example("vqa2", 1, 0, 16)
    assert not wrong_reasons(other, right(other))  # which has none
    outcome = judge(example, {**given, "answer": "(B)" if given["answer"] == "(A)" else "(A)"})
    assert outcome.why and outcome.shares == {"explained": 0}


def test_a_model_is_asked_as_a_user_asks() -> None:
    """A real one, with random weights: it answers, wrongly, and the same again for the same seed."""
    model = CM3Leon(tiny_stickers.bundle())
    tasks = ("edit", "segment", "vqa2", "scienceqa", "coco_captions")
    once, again = (
        evaluate_stickers(model, 2, seed=3, tasks=tasks, sampling={"candidates": 1, "max_tokens": 4}) for _ in range(2)
    )
    assert once["tasks"] == again["tasks"] and set(once["tasks"]) == set(tasks)
    assert all(figures["exact"] == 0 for figures in once["tasks"].values())
