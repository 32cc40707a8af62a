"""Instruction tasks, measured on scenes that training never showed: each answer by a verifier that knows the truth.

    scene_example --fields--> ask_many --> what the model gave --judge--> right or not, and why
            \\--truth-----------------------------------------^

Nothing here knows what the model is made of; it is asked as a user asks (`CM3Leon.ask_many`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image

from cm3.document import Image
from cm3.errors import ConfigError, DataError
from cm3.eval.check import check_run
from cm3.scenes.data.lesson_documents import STRUCTURES, TASKS, SceneExample, scene_example
from cm3.scenes.letters import verify_lettered
from cm3.scenes.reason import verify_reasoning
from cm3.scenes.scene import Split
from cm3.scenes.scene_boxes import matched, verify_boxed
from cm3.scenes.scene_edits import verify_edit
from cm3.scenes.sentences import holds, parse
from cm3.scenes.structure import iou, verify_guided
from cm3.scenes.tell import parse_long
from cm3.scenes.verify import SMALLEST, WORKING, verify
from cm3.tasks.examples import find_task

if TYPE_CHECKING:
    from cm3.generate import CM3Leon

Progress = Callable[[str, int, int], None]
"""Called with the task, how many of its scenes are done, and how many there are."""
Figures = dict[str, tuple[float, float]]
"""By name, the sum of what was counted in one case, and over how many."""
LONGEST = 200
"""Most tokens of a text that is asked for; a description of four objects takes 172."""


class TaskCase(NamedTuple):
    """An example at the model's size, and at the size that is measured at."""

    asked: SceneExample
    judged: SceneExample
    seed: int

    @property
    def request(self) -> dict[str, str | Image]:
        """Return the fields that are given."""
        task = find_task(self.asked.task)
        wanted = [field for field in task.template(self.asked.template).fields if field not in task.gives]
        return {name: self.asked.fields[name] for name in wanted}


def evaluate_scene_tasks(
    model: CM3Leon,
    n: int = 500,
    *,
    seed: int = 0,
    batch: int = 16,
    split: Split = "test",
    tasks: Sequence[str] = TASKS,
    sampling: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on `n` scenes for each task of a split that it was not trained on.

    `sampling` goes to every `ask_many` (guidance, temperature, candidates, ...); without it the model's own
    recommendation for the kind of task holds. `batch` requests are put at a time. Returns {"tasks": {name: figures}},
    shares in 0..1:

        exact      all of it is right: the edit made and nothing else changed, the picture true to caption and
                   structure or boxes, the word and the scene, the answer, the description
        caption    (structure) true to the caption          objects   (boxes) objects right, with an overlap over 0.5
        words      (write) the word in its colour            scene     (write) the scene beside it
        iou        (segment) mean intersection over union    explained (scienceqa) the answer and every step to it

    with n, seed, split, sampling, and `details` by task: the first figure by kind (of edit, of question, turn, number
    of objects), examples_per_s. Raises `ConfigError` for an n or batch below 1, an unknown task, and for tasks that
    give pictures where a model's are too small to be measured.
    """
    check_run(n, batch, tasks, TASKS)
    drawn = [task for task in tasks if find_task(task).output == "image"]
    if drawn and model.image_size < SMALLEST:
        raise ConfigError(
            f"image_size={model.image_size}: pictures are measured from {SMALLEST} pixels on; leave out "
            f"{', '.join(drawn)}"
        )
    settings = dict(sampling or {})
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for task in (t for t in TASKS if t in tasks):
        began = time.perf_counter()
        found: list[tuple[str, Figures]] = []
        for start in range(0, n, batch):
            cases = [task_case(task, seed, i, model.image_size, split) for i in range(start, min(start + batch, n))]
            found += [(case.asked.kind, judge(case.judged, given)) for case, given in _given(model, cases, settings)]
            if progress is not None:
                progress(task, len(found), n)
        figures[task] = _means([one for _, one in found])
        details[task] = _by_kind(found) | {"examples_per_s": n / max(time.perf_counter() - began, 1e-9)}
    return {"tasks": figures, "n": n, "seed": seed, "split": split, "sampling": settings, "details": details}


def judge(example: SceneExample, given: Mapping[str, str | PIL.Image.Image]) -> Figures:
    """Judge an answer, as the fields that the model gave: for each figure of the task, (how much is right, of how
    much).

    `example` is drawn at 128 pixels, whatever the model's size. An answer of another form is wrong, never an error.
    """
    return _JUDGES[example.task](example, given)


def task_case(task: str, seed: int, index: int, size: int, split: Split) -> TaskCase:
    """Return a case of a task for pictures of `size` pixels."""
    asked = scene_example(task, seed, index, size, split)
    chance = np.random.default_rng([seed, 0xE7A5, TASKS.index(task), index])
    judged = asked if size == WORKING else scene_example(task, seed, index, WORKING, split)
    return TaskCase(asked, judged, int(chance.integers(2**31)))


def _given(
    model: CM3Leon, cases: Sequence[TaskCase], settings: dict[str, Any]
) -> list[tuple[TaskCase, Mapping[str, str | PIL.Image.Image]]]:
    """Return a model's answers to some cases of one task."""
    task, template = find_task(cases[0].asked.task), cases[0].asked.template
    requests = [case.request for case in cases]
    given: Any = {"max_tokens": LONGEST} | settings
    if task.name != "edit":
        given.pop("image_guidance", None)  # nothing else has a picture to hold on to
    replies = model.ask_many(task, requests, seeds=[case.seed for case in cases], template=template, **given)
    return [(case, reply.fields) for case, reply in zip(cases, replies, strict=True)]


def _edit(example: SceneExample, given: Mapping[str, Any]) -> Figures:
    before = example.fields["image1"]
    assert isinstance(before, Image)
    return _one("exact", verify_edit(before.pixels, given["image2"], example.truth).ok)


def _write(example: SceneExample, given: Mapping[str, Any]) -> Figures:
    found = verify_lettered(given["image"], example.truth)
    return _one("exact", found.ok) | _one("words", found.word_ok) | _one("scene", found.scene_ok)


def _boxes(example: SceneExample, given: Mapping[str, Any]) -> Figures:
    boxes = example.truth.boxes
    right = matched(given["image"], boxes) * len(boxes)
    return _one("exact", verify_boxed(given["image"], example.truth).ok) | {"objects": (right, len(boxes))}


def _guided(example: SceneExample, given: Mapping[str, Any]) -> Figures:
    caption = verify(given["image"], parse(example.truth.caption)).ok
    return _one("exact", verify_guided(given["image"], example.truth).ok) | _one("caption", caption)


def _segment(example: SceneExample, given: Mapping[str, Any]) -> Figures:
    return {"iou": (iou(given["seg"], example.truth.scene, at=example.truth.at), 1)}


def _caption(example: SceneExample, given: Mapping[str, Any]) -> Figures:
    try:
        if example.task == "coco_captions":
            right = holds(parse(given["caption"]), example.truth.scene)
        else:
            right = parse_long(given["caption"]) == example.truth.scene
    except DataError:
        right = False
    return _one("exact", right)


def _answer(example: SceneExample, given: Mapping[str, Any]) -> Figures:
    return _one("exact", given["answer"].strip() == example.fields["answer"])


def _reason(example: SceneExample, given: Mapping[str, Any]) -> Figures:
    scene, said = example.truth
    right = given["answer"].strip() == example.fields["answer"]
    wrong = verify_reasoning(said.question, given["explanation"], said.answer, scene)
    return _one("exact", right) | _one("explained", right and not wrong)


_JUDGES: dict[str, Callable[[SceneExample, Mapping[str, Any]], Figures]] = {
    "edit": _edit,
    "write": _write,
    "boxes": _boxes,
    **dict.fromkeys(STRUCTURES, _guided),
    "coco_captions": _caption,
    "image_paragraph": _caption,
    "vqa2": _answer,
    "visdial": _answer,
    "scienceqa": _reason,
    "segment": _segment,
}


def _one(name: str, right: bool) -> Figures:
    return {name: (float(right), 1)}


def _means(found: Sequence[Figures]) -> dict[str, float]:
    return {name: sum(one[name][0] for one in found) / sum(one[name][1] for one in found) for name in found[0]}


def _by_kind(found: Sequence[tuple[str, Figures]]) -> dict[str, Any]:
    """Return the first figure by kind."""
    kinds: dict[str, list[Figures]] = defaultdict(list)
    for kind, one in found:
        kinds[kind].append(one)
    return {"by_kind": {kind: next(iter(_means(some).values())) for kind, some in sorted(kinds.items())}}
