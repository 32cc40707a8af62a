"""Measures of drawing, describing and completing scenes, judged exactly.

Pictures are read back by measuring pixels (`cm3.scenes.verify`), captions by their meaning (`cm3.scenes.sentences`);
nothing is compared with a reference word by word or pixel by pixel. Every task draws its cases from its own generator,
`default_rng([seed, task])`, so a task gives the same figures alone and among the others.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

import numpy as np
import PIL.Image

from cm3.document import Document, Image
from cm3.errors import DataError
from cm3.eval.check import check_run
from cm3.generate import Options
from cm3.scenes.eval.scene_cases import Case, drawn, hidden_piece, redrawn, said
from cm3.scenes.scene import Split
from cm3.scenes.sentences import holds, parse
from cm3.scenes.verify import attributes, verify

TASKS = ("text_to_image", "unguided", "held_out", "image_to_text", "text_infill", "region_infill", "image_tokenizer")
"""Measurements, in this order. `unguided` repeats the prompts and seeds of `text_to_image` with guidance 1."""

Progress = Callable[[str, int, int], None]
"""Called with the task, how many of its cases are done, and how many there are."""

_STREAM = {"text_to_image": 0, "unguided": 0} | {task: i for i, task in enumerate(TASKS) if i >= 2}
_MAKERS = {"image_to_text": drawn, "text_infill": hidden_piece, "region_infill": redrawn}
_CLOSEST = 0.01
"""Mean squared error in levels below which a reconstruction counts as this close: 68 dB, where rounding ends."""


class Model(Protocol):
    """The part that the evaluation needs of `cm3.generate.CM3Leon`."""

    @property
    def image_size(self) -> int: ...

    @property
    def image_codes(self) -> int: ...

    @property
    def grid(self) -> tuple[int, int]: ...

    def generate_many(
        self, prompts: Sequence[Any], *, seeds: Sequence[int], **sampling: Unpack[Options]
    ) -> Sequence[Any]: ...

    def reconstruct(self, pictures: list[PIL.Image.Image]) -> tuple[list[PIL.Image.Image], np.ndarray]: ...


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case: right or not, and shares in 0..1 that explain it."""

    ok: bool
    objects: int
    style: str
    notes: dict[str, float]


def evaluate_scenes(
    model: Model,
    n: int = 1000,
    *,
    seed: int = 0,
    batch: int = 32,
    split: Split = "test",
    tasks: Sequence[str] = TASKS,
    sampling: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on `n` scenes per task of a split that it was not trained on.

    `sampling` goes to every `generate_many` call (guidance, temperature, top_p, ...); without it the model's own
    recommendation holds. `batch` prompts are handed over at a time. Returns shares in 0..1:

        text_to_image    exact (the picture shows what the prompt says), exact_1 (of those with one object),
                         unguided (guidance 1), held_out (combinations that training never showed)
        image_to_text    exact (the caption reads, and is exactly and completely true)
        text_infill      exact (the caption with the piece filled in likewise)
        region_infill    exact (the redrawn picture shows what the prompt says), outside_unchanged (no byte outside the
                         box, rounded outwards to whole cells, differs from the picture given)
        image_tokenizer  psnr_db (mean over pictures), codes_used (share of the codebook)

    with n, seed, split, sampling, and `details` per task (by number of objects, style, attribute; images_per_s).
    Tasks left out of `tasks` are absent. A share over no cases at all is None (`exact_1` with a very small n).
    Raises `ConfigError` for an n or batch below 1, or an unknown task.
    """
    check_run(n, batch, tasks, TASKS)
    settings = dict(sampling or {})
    result: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for task in (t for t in TASKS if t in tasks):
        if task == "image_tokenizer":
            rng = np.random.default_rng([seed, _STREAM[task]])
            result[task], details[task] = _tokenizer(model, n, rng, batch, split, progress)
            continue
        began = time.perf_counter()
        changed = {**settings, "guidance": 1.0, "contrast": None} if task == "unguided" else settings
        cases = list(scene_cases(task, n, seed, split, model.image_size))
        outcomes = _run(model, task, cases, batch, changed, progress)
        details[task] = _details(outcomes) | {"images_per_s": n / max(time.perf_counter() - began, 1e-9)}
        exact = _mean([o.ok for o in outcomes])
        if task in ("unguided", "held_out"):
            result.setdefault("text_to_image", {})[task] = exact
            continue
        result.setdefault(task, {})["exact"] = exact
        if task == "text_to_image":
            result[task]["exact_1"] = _mean([o.ok for o in outcomes if o.objects == 1])
        if task == "region_infill":
            result[task]["outside_unchanged"] = _mean([o.notes["outside_unchanged"] for o in outcomes])
    return result | {"n": n, "seed": seed, "split": split, "sampling": settings, "details": details}


def scene_cases(task: str, n: int, seed: int, split: Split, size: int) -> Iterator[Case]:
    """Yield the cases of a task for pictures of `size` pixels."""
    rng = np.random.default_rng([seed, _STREAM[task]])
    make = _MAKERS.get(task, said)
    return (make(rng, "held_out" if task == "held_out" else split, size) for _ in range(n))


def judge_case(task: str, case: Case, document: Document, grid: tuple[int, int]) -> Outcome:
    """Judge the document that a model made of a case's prompt; `grid`: rows and columns of its pictures' codes."""
    judge = _judge_text if task in ("image_to_text", "text_infill") else _judge_picture
    return judge(case, document, grid)


def _run(
    model: Model, task: str, cases: list[Case], batch: int, sampling: dict[str, Any], progress: Progress | None
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for start in range(0, len(cases), batch):
        some = cases[start : start + batch]
        made = model.generate_many([c.prompt for c in some], seeds=[c.seed for c in some], **sampling)
        for case, one in zip(some, made, strict=True):
            outcomes.append(judge_case(task, case, one.document, model.grid))
        if progress is not None:
            progress(task, len(outcomes), len(cases))
    return outcomes


def _judge_text(case: Case, made: Document, grid: tuple[int, int]) -> Outcome:
    try:
        statement = parse(made.text)
    except DataError:
        return Outcome(False, len(case.scene.objects), case.style, {"readable": 0.0})
    return Outcome(holds(statement, case.scene), len(case.scene.objects), case.style, {"readable": 1.0})


def _judge_picture(case: Case, made: Document, grid: tuple[int, int]) -> Outcome:
    objects = len(case.scene.objects)
    if not made.images:
        return Outcome(False, objects, case.style, {"readable": 0.0, "outside_unchanged": 0.0})
    picture = made.images[-1].pixels
    verdict = verify(picture, parse(case.caption))
    notes = {"readable": float(verdict.reading.scene is not None)}
    # A relation leaves the row or column open, so its objects need not stand where the scene has them.
    if case.style != "relation":
        notes |= attributes(verdict.reading, case.scene)
    if case.prompt.images:
        notes["outside_unchanged"] = float(_same_outside(picture, case.prompt.images[-1], grid))
    return Outcome(verdict.ok, objects, case.style, notes)


def _same_outside(picture: PIL.Image.Image, given: Image, grid: tuple[int, int]) -> bool:
    """Tell whether every pixel outside the box, rounded outwards to whole cells, is byte for byte the given
    picture's."""
    if picture.mode != given.pixels.mode or picture.size != given.pixels.size or given.gap is None:
        return False
    width, height = picture.size
    high, wide = height // grid[0], width // grid[1]
    x0, y0, x1, y1 = given.gap
    same = np.asarray(picture) == np.asarray(given.pixels)
    same[y0 // high * high : -(-y1 // high) * high, x0 // wide * wide : -(-x1 // wide) * wide] = True
    return bool(same.all())


def _tokenizer(
    model: Model, n: int, rng: np.random.Generator, batch: int, split: Split, progress: Progress | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of the image tokenizer, and as details how many reconstructions still show their scene.

    That share bounds what any model over these codes can draw, which the mean error alone does not tell.
    """
    outcomes: list[Outcome] = []
    levels: list[float] = []
    used: set[int] = set()
    for start in range(0, n, batch):
        cases = [drawn(rng, split, model.image_size) for _ in range(min(batch, n - start))]
        pictures = [case.prompt.images[-1].pixels for case in cases]
        back, codes = model.reconstruct(pictures)
        used |= set(np.unique(codes).tolist())
        for case, a, b in zip(cases, pictures, back, strict=True):
            verdict = verify(b, case.scene)
            notes = attributes(verdict.reading, case.scene)
            outcomes.append(Outcome(verdict.ok, len(case.scene.objects), "drawing", notes))
            error = np.asarray(a, dtype=np.float64) - np.asarray(b.convert("RGB"), dtype=np.float64)
            levels.append(10 * float(np.log10(255**2 / max(float(np.mean(error**2)), _CLOSEST))))
        if progress is not None:
            progress("image_tokenizer", len(levels), n)
    figures = {"psnr_db": float(np.mean(levels)), "codes_used": len(used) / model.image_codes}
    return figures, {"exact": _mean([o.ok for o in outcomes]), **_details(outcomes)}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _details(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the same outcomes by number of objects and by style, and the mean of every note."""
    by_objects, by_style, notes = defaultdict(list), defaultdict(list), defaultdict(list)
    for outcome in outcomes:
        by_objects[str(outcome.objects)].append(outcome.ok)
        by_style[outcome.style].append(outcome.ok)
        for name, value in outcome.notes.items():
            notes[name].append(value)
    return {
        "by_objects": {key: _mean(values) for key, values in sorted(by_objects.items())},
        "by_style": {key: _mean(values) for key, values in sorted(by_style.items())},
        **{key: _mean(values) for key, values in notes.items()},
    }
