"""Instruction tasks, measured on real datasets: what a model gives against what people said and cameras saw.

    documents of a reader --task_cases--> requests --ask_many--> what the model gave --METRICS--> figures
                                     \\--truth, all captions, all answers-----------^

Nothing here knows what the model is made of; it is asked as a user asks (`CM3Leon.ask_many`). docs/tasks.md says what
each figure shows, and what it does not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL.Image

from cm3.document import Image, Unreadable
from cm3.errors import ConfigError, RequestError
from cm3.eval.check import check_run
from cm3.eval.picture_metrics import map_iou, structure_f1
from cm3.eval.real_cases import Case, task_cases
from cm3.read.random_access import Numbered
from cm3.score.cider import cider
from cm3.score.vqa import normal_answer, vqa_accuracy
from cm3.tasks.examples import find_task
from cm3.tasks.task import Task, View

if TYPE_CHECKING:
    from cm3.generate import CM3Leon

_CAPTIONS = ("coco_captions", "flickr30k", "image_paragraph", "localized_narratives")
_PICTURES = ("write", "boxes", "segmentation", "hed", "pose", "depth", "normal")
METRICS: dict[str, tuple[str, ...]] = {
    "edit": ("similarity", "unchanged"),
    **dict.fromkeys(_PICTURES, ("similarity", "unrelated")),
    **dict.fromkeys(("canny", "scribble"), ("structure", "similarity", "unrelated")),
    **dict.fromkeys(_CAPTIONS, ("cider",)),
    **dict.fromkeys(("vqa2", "vizwiz", "okvqa"), ("vqa_accuracy",)),
    **dict.fromkeys(("scienceqa", "visdial"), ("exact",)),
    "segment": ("iou",),
}
"""Task -> its figures, the first one that of the task. `unchanged` and `unrelated` are what `similarity` is to be held
against: that of the picture before the edit, and that of what was made with the true picture of another case."""
SEEN = ("similarity", "unchanged", "unrelated")
"""Figures that need an encoder."""
TOLD = 5
"""Most documents that a report names of those that could not serve."""

Given = Mapping[str, str | PIL.Image.Image]
"""Values that a model gave, by the name of the field."""
Progress = Callable[[str, int, int], None]
"""Called with the task, how many of its cases are done, and how many were asked for."""
Look = Callable[[Case, Given], None]
"""Called with every case and what the model gave."""


class Encoder(Protocol):
    """The part that the evaluation needs of `cm3.retrieval.embed.Encoder`."""

    name: str

    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return the unit vectors float32 (n, width)."""


def evaluate_task(
    model: CM3Leon,
    task: str,
    documents: Numbered,
    n: int = 100,
    *,
    seed: int = 0,
    batch: int = 16,
    template: int | str = 0,
    plain: bool = False,
    sampling: Mapping[str, Any] | None = None,
    encoder: Encoder | None = None,
    controls: Path | None = None,
    progress: Progress | None = None,
    look: Look | None = None,
) -> dict[str, Any]:
    """Measure a model on `n` cases of a dataset, drawn by `seed`, or on all where there are fewer.

    `sampling` goes to every `ask_many` (guidance, temperature, candidates, ...), as do `template` and `plain`; without
    it the model's own recommendation for the kind of task holds. `encoder` takes the place of the model's own.
    `controls` is a folder of control images (docs/tasks.md). Returns

        figures        by `METRICS`, means over cases: `cider` 0..10, cosines -1..1, the others shares in 0..1; None
                       for those of an encoder where there is none, and for `unrelated` of a single case
        n              cases that were measured            seed, examples_per_s
        source         the documents' name                 encoder     its name, where one was used
        left_out       how many documents and requests could not serve, and `reasons` of the first by id
        examples       for each case its `id`, what it scored, and for texts `given` and `said`, what people said

    Raises `ConfigError` for a task or template that is unknown, a dataset that it is not made of, an n or batch below
    1, and an n of 1 for captions, which are measured against each other; `DataError` for a dataset that has nothing for
    the task; `RequestError` where the task is measured by an encoder alone and there is none, and where the model
    refuses every request.
    """
    chosen = find_task(task)
    check_run(n, batch, (), ())
    eye = check_measured(model, chosen, n, encoder)
    chosen.template(template)
    settings = {name: value for name, value in (sampling or {}).items() if task == "edit" or name != "image_guidance"}
    asking = {"template": template, "plain": plain, **settings}
    view = View(model.image_size)
    scores = _Scores(chosen, view, eye)
    left_out: dict[str, str] = {}
    refusal: RequestError | None = None
    began = time.perf_counter()
    cases = task_cases(chosen, documents, n, seed, view=view, template=template, controls=controls)
    for some in _batches(cases, batch, left_out):
        answered: list[tuple[Case, Given]] = []
        for case, given in _asked(model, chosen, some, asking):
            if isinstance(given, RequestError):
                left_out[case.id], refusal = str(given), given
            else:
                answered.append((case, given))
        scores.add(answered)
        for case, given in answered if look is not None else ():
            assert look is not None
            look(case, given)
        if progress is not None:
            progress(task, len(scores.examples), n)
    if not scores.examples:
        assert refusal is not None  # `task_cases` gives a case or raises
        raise refusal
    return {
        "task": task,
        "figures": scores.figures(),
        "n": len(scores.examples),
        "seed": seed,
        "source": documents.name,
        "encoder": None if scores.encoder is None else scores.encoder.name,
        "left_out": {"number": len(left_out), "reasons": dict(list(left_out.items())[:TOLD])},
        "examples_per_s": len(scores.examples) / max(time.perf_counter() - began, 1e-9),
        "examples": scores.examples,
    }


def check_measured(model: CM3Leon, task: Task, n: int, encoder: Encoder | None = None) -> Encoder | None:
    """Return the encoder of pictures, where a task is measured so and there is one: `encoder`, else the model's own.

    Raises `ConfigError` for an n that is too small for the task's figure; `RequestError` for a task that is measured by
    an encoder alone, and a model without one.
    """
    metrics = METRICS[task.name]
    if "cider" in metrics and n < 2:
        raise ConfigError(
            f"n={n}: must be at least 2 for task {task.name!r}, whose figure weighs words by other pictures"
        )
    if not set(metrics) & set(SEEN):
        return None
    try:
        return encoder or model.encoder
    except RequestError:
        if set(metrics) <= set(SEEN):
            raise
        return None


class _Scores:
    """Scores so far; of pictures the vectors are kept and not the pixels."""

    def __init__(self, task: Task, view: View, encoder: Encoder | None) -> None:
        self.task, self.view, self.encoder = task, view, encoder
        self.metrics = METRICS[task.name]
        self.examples: list[dict[str, Any]] = []
        self.said: list[tuple[str, ...]] = []
        self.vectors: dict[str, list[np.ndarray]] = {"made": [], "true": [], "before": []}

    def add(self, answered: Sequence[tuple[Case, Given]]) -> None:
        """Score some answers by themselves, and keep what the figures of all are made of."""
        for case, given in answered:
            example: dict[str, Any] = {"id": case.id}
            if self.task.output == "text":
                example |= {"given": given[self.task.gives[-1]], "said": list(dict.fromkeys(case.said))}
            example |= {name: _JUDGES[name](self.task, case, given) for name in self.metrics if name in _JUDGES}
            self.examples.append(example)
            self.said.append(case.said)
        if self.encoder is not None and answered:
            (name,) = self.task.gives
            self._see("made", [_picture(given[name]) for _, given in answered])
            self._see("true", [_picture(case.truth[name]) for case, _ in answered])
            if "unchanged" in self.metrics:
                self._see("before", [_picture(case.request["image1"]) for case, _ in answered])

    def _see(self, what: str, pictures: Sequence[PIL.Image.Image]) -> None:
        assert self.encoder is not None
        # Objects that the crop cuts away were not to be drawn.
        self.vectors[what].append(self.encoder.images([self.view.of(picture) for picture in pictures]))

    def figures(self) -> dict[str, float | None]:
        """Return the mean of each metric of the task; writes what is only known of all together into the examples."""
        if "cider" in self.metrics and len(self.examples) > 1:
            for example, score in zip(self.examples, cider(self._given, self.said), strict=True):
                example["cider"] = score
        if self.encoder is not None:
            seen = {what: np.concatenate(some) for what, some in self.vectors.items() if some}
            pairs = {"similarity": (seen["made"], seen["true"])}
            if "unchanged" in self.metrics:
                pairs["unchanged"] = seen["before"], seen["true"]
            elif len(self.examples) > 1:
                pairs["unrelated"] = seen["made"], np.roll(seen["true"], 1, axis=0)
            for name, (a, b) in pairs.items():
                for example, cosine in zip(self.examples, (a * b).sum(1).tolist(), strict=True):
                    example[name] = cosine
        return {
            name: float(np.mean([e[name] for e in self.examples])) if name in self.examples[0] else None
            for name in self.metrics
        }

    @property
    def _given(self) -> list[str]:
        return [example["given"] for example in self.examples]


def _vqa(task: Task, case: Case, given: Given) -> float:
    return vqa_accuracy(_text(given["answer"]), case.said)


def _exact(task: Task, case: Case, given: Given) -> float:
    said, true = _text(given["answer"]), _text(case.truth["answer"])
    if task.name == "scienceqa":
        return float(letter(said) == letter(true))
    return float(normal_answer(said) == normal_answer(true))


def _iou(task: Task, case: Case, given: Given) -> float:
    return map_iou(_picture(given["seg"]), _picture(case.truth["seg"]))


def _structure(task: Task, case: Case, given: Given) -> float:
    assert task.control is not None
    return structure_f1(task.name, _picture(given["image"]), _picture(case.request[task.control]))


_JUDGES: dict[str, Callable[[Task, Case, Given], float]] = {
    "vqa_accuracy": _vqa,
    "exact": _exact,
    "iou": _iou,
    "structure": _structure,
}
"""Metrics of one case alone."""


def letter(answer: str) -> str | None:
    """Return the letter of a chosen option, "(B)", "B", "b." or "B)"; None for any other text."""
    found = re.fullmatch(r"\(?([A-Z])\)?\.?", answer.strip().upper())
    return None if found is None else found[1]


def _batches(cases: Iterator[Case | Unreadable], size: int, left_out: dict[str, str]) -> Iterator[list[Case]]:
    """Yield the cases, `size` at a time; what could not serve is noted."""
    some: list[Case] = []
    for case in cases:
        if isinstance(case, Unreadable):
            left_out[case.id] = case.reason
            continue
        some.append(case)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def _asked(
    model: CM3Leon, task: Task, cases: Sequence[Case], asking: Mapping[str, Any]
) -> list[tuple[Case, Given | RequestError]]:
    """Return the model's answers, or why it refuses: of one request that is too long the others are not to suffer."""
    try:
        replies = model.ask_many(task, [c.request for c in cases], seeds=[c.seed for c in cases], **asking)
    except RequestError as error:
        if len(cases) == 1:
            return [(cases[0], error)]
        return [one for case in cases for one in _asked(model, task, [case], asking)]
    return [(case, reply.fields) for case, reply in zip(cases, replies, strict=True)]


def _text(value: str | Image | PIL.Image.Image) -> str:
    assert isinstance(value, str)
    return value


def _picture(value: str | Image | PIL.Image.Image) -> PIL.Image.Image:
    assert not isinstance(value, str)
    return value.pixels if isinstance(value, Image) else value
