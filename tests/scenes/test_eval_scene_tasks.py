"""The scorer of instruction tasks: one who knows the answers scores 1, and each kind of wrong answer is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model

from cm3.document import Image
from cm3.errors import ConfigError
from cm3.generate import CM3Leon
from cm3.generate.tasks import Reply
from cm3.scenes.data.lesson_documents import TASKS, scene_example
from cm3.scenes.eval.scene_tasks import evaluate_scene_tasks, judge
from cm3.tasks import Task, find_task

PICTURES = [task for task in TASKS if find_task(task).output == "image"]


def gray(*size: int) -> PIL.Image.Image:
    return PIL.Image.new("RGB", size or (128, 128), (150, 150, 155))


def plain(value: Any) -> str | PIL.Image.Image:
    return value.pixels if isinstance(value, Image) else value


class Oracle:
    """Knows the examples of a seed and answers with their own fields, spoiled where `spoil` says how."""

    def __init__(self, size: int, n: int, spoil: Any = None, tasks: Sequence[str] = TASKS) -> None:
        self.image_size, self.spoil, self.asked = size, spoil, list[dict[str, Any]]()
        self.known = {(task, i): scene_example(task, 3, i, size, "test") for task in tasks for i in range(n)}

    def ask_many(
        self,
        task: str | Task,
        requests: Sequence[Mapping[str, Any]],
        *,
        seeds: Sequence[int],
        **given: Any,
    ) -> list[Reply]:
        assert isinstance(task, Task) and len(seeds) == len(requests) == len(set(seeds))
        self.asked.append(given)
        replies = []
        for request in requests:
            (example,) = {
                id(one): one
                for (name, _), one in self.known.items()
                if name == task.name and all(same(one.fields[k], v) for k, v in request.items())
            }.values()
            assert not request.keys() & set(task.gives)
            right = {name: plain(example.fields[name]) for name in task.gives if name in example.fields}
            replies.append(Reply((self.spoil(task, right) if self.spoil else right,), None))  # type: ignore[arg-type]
        return replies


def same(a: Any, b: Any) -> bool:
    return a == b if isinstance(a, str) else a.pixels.tobytes() == b.pixels.tobytes()


def test_who_knows_the_answers_scores_one() -> None:
    model, calls = Oracle(128, 3), list[tuple[str, int, int]]()
    report = evaluate_scene_tasks(
        model,  # type: ignore[arg-type]
        3, seed=3, batch=2, sampling={"temperature": 0.5, "image_guidance": 1.5}, progress=lambda *a: calls.append(a),
    )  # fmt: skip
    assert list(report["tasks"]) == list(TASKS)
    for task, figures in report["tasks"].items():
        assert all(value == 1 for value in figures.values()), (task, figures)
        details = report["details"][task]
        assert details["examples_per_s"] > 0 and set(details["by_kind"].values()) == {1.0}
    assert (report["n"], report["seed"], report["split"]) == (3, 3, "test")
    assert calls[:2] == [("edit", 2, 3), ("edit", 3, 3)] and len(calls) == 2 * len(TASKS)
    # The scale of the picture that is edited is of editing alone.
    assert all(("image_guidance" in given) == (i < 2) for i, given in enumerate(model.asked))
    assert all(given["max_tokens"] == 200 and given["temperature"] == 0.5 for given in model.asked)
    assert {given["template"] for given in model.asked} == {0, 1}


def test_a_model_of_another_size_is_judged_by_pictures_of_128() -> None:
    """The picture to be edited is measured too, and 64 pixels are too few for that."""
    model = Oracle(64, 2, lambda task, right: {k: v.resize((128, 128)) for k, v in right.items()}, ("edit", "segment"))
    report = evaluate_scene_tasks(model, 2, seed=3, tasks=("edit", "segment"))  # type: ignore[arg-type]
    assert set(report["tasks"]) == {"edit", "segment"} and report["tasks"]["segment"]["iou"] > 0.8


@pytest.mark.parametrize("task", PICTURES)
def test_a_wrong_picture_is_wrong(task: str) -> None:
    example, other = scene_example(task, 1, 0, 128, "test"), scene_example(task, 1, 1, 128, "test")
    (name,) = find_task(task).gives
    right = judge(example, {name: plain(example.fields[name])})
    assert all(got == of for got, of in right.values())
    for wrong in (plain(other.fields[name]), gray(), PIL.Image.effect_noise((128, 128), 90).convert("RGB")):
        first, of = next(iter(judge(example, {name: wrong}).values()))
        assert first < 0.6 * of
    if task == "edit":
        assert judge(example, {name: plain(example.fields["image1"])})["exact"] == (0.0, 1), "nothing was changed"


def test_what_is_half_right_is_told_apart() -> None:
    boxes = next(e for i in range(20) if len((e := scene_example("boxes", 1, i, 128)).truth.boxes) == 3)
    picture = boxes.truth.picture.copy()
    x1, y1, x2, y2 = (v // 2 for v in boxes.truth.boxes[0][1])
    picture.paste(picture.getpixel((0, 0)), (x1 - 2, y1 - 2, x2 + 3, y2 + 3))
    assert judge(boxes, {"image": picture}) == {"exact": (0.0, 1), "objects": (2.0, 3)}

    written = scene_example("write", 1, 0, 128)
    half = (0, 0, 128, 64) if written.truth.sign.half == "top" else (0, 64, 128, 128)
    picture = plain(written.fields["image"]).copy()  # type: ignore[union-attr]
    picture.paste(picture.getpixel((0, 0)), half)
    figures = judge(written, {"image": picture})
    assert (figures["words"], figures["scene"], figures["exact"]) == ((0.0, 1), (1.0, 1), (0.0, 1))

    # True to the caption alone: the same things elsewhere.
    some = (scene_example("canny", 1, i, 128) for i in range(40))
    guided = next(e for e in some if len({(o.shape, o.size) for o in e.truth.scene.objects}) > 1)
    mirrored = plain(guided.fields["image"]).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)  # type: ignore[union-attr]
    assert judge(guided, {"image": mirrored}) == {"exact": (0.0, 1), "caption": (1.0, 1)}


@pytest.mark.parametrize("text", ["", " ", "no idea", "a red", "(B", "\ufffd\n|", "the picture shows", "two. " * 30])
def test_a_text_of_another_form_is_wrong_and_no_error(text: str) -> None:
    for task in set(TASKS) - set(PICTURES):
        example = scene_example(task, 1, 0, 128, "test")
        given = dict.fromkeys(find_task(task).gives, text)
        assert set(judge(example, given).values()) == {(0.0, 1)}


def test_an_answer_without_its_reason_is_not_explained() -> None:
    example = scene_example("scienceqa", 1, 0, 16)
    right = {name: example.fields[name] for name in ("explanation", "answer")}
    assert judge(example, right) == {"exact": (1.0, 1), "explained": (1.0, 1)}  # type: ignore[arg-type]
    other = {**right, "explanation": "two is more than one."}
    assert judge(example, other) == {"exact": (1.0, 1), "explained": (0.0, 1)}  # type: ignore[arg-type]
    wrong = {**right, "answer": "(B)" if right["answer"] == "(A)" else "(A)"}
    assert judge(example, wrong) == {"exact": (0.0, 1), "explained": (0.0, 1)}  # type: ignore[arg-type]


def test_a_model_is_asked_as_a_user_asks() -> None:
    """A real one, with random weights: it answers, wrongly, and the same again for the same seed."""
    model = CM3Leon(tiny_model.bundle(context=400))
    tasks = ("vqa2", "visdial", "scienceqa", "coco_captions")
    report = evaluate_scene_tasks(model, 1, seed=3, tasks=tasks, sampling={"candidates": 1, "max_tokens": 4})
    again = evaluate_scene_tasks(model, 1, seed=3, tasks=tasks, sampling={"candidates": 1, "max_tokens": 4})
    assert report["tasks"] == again["tasks"] and set(report["tasks"]) == set(tasks)
    assert all(0 <= v < 0.6 for figures in report["tasks"].values() for v in figures.values())


def test_what_cannot_be_measured_is_refused() -> None:
    model: Any = None
    for changes, message in (
        ({"n": 0}, "n=0: must be at least 1"),
        ({"batch": 0}, "batch=0: must be at least 1"),
        ({"tasks": ("boxs",)}, r"tasks='boxs': must be among edit, .* Did you mean 'boxes'\?"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate_scene_tasks(model, **{"n": 1, **changes})  # type: ignore[arg-type]
    small = CM3Leon(tiny_model.bundle())
    with pytest.raises(ConfigError, match="image_size=32: pictures are measured from 64 pixels on; leave out edit, se"):
        evaluate_scene_tasks(small, 1, tasks=("edit", "vqa2", "segment"))


def test_kinds_are_told_apart() -> None:
    def spoil(task: Task, right: dict[str, Any]) -> dict[str, Any]:
        return {"answer": one.fields["answer"]}

    model = Oracle(16, 24, spoil, ("vqa2",))
    one = next(example for example in model.known.values() if example.kind == "count")
    report = evaluate_scene_tasks(model, 24, seed=3, tasks=("vqa2",))  # type: ignore[arg-type]
    by_kind = report["details"]["vqa2"]["by_kind"]
    assert by_kind["count"] > 0 and by_kind["exists"] == by_kind["colour"] == 0
    share = np.mean([example.kind == "count" for example in model.known.values()]) * by_kind["count"]
    assert report["tasks"]["vqa2"]["exact"] == pytest.approx(share)
