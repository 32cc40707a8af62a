"""The use of retrieval, measured: emblems that no training saw, drawn with and without their document.

A prompt names an unseen emblem ("a picture of a blosk"), and the one document that says what it looks like stands in
the memory bank alone. A picture is right when it shows exactly the emblem's composition: every object with its shape,
colour, size and place, and the background (`cm3.scenes.verify`). Without a document that is a guess.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack

import numpy as np
import PIL.Image

from cm3.errors import ConfigError
from cm3.eval.check import check_run
from cm3.generate import Options
from cm3.scenes.emblems import EMBLEMS, emblem, say
from cm3.scenes.scene import Scene
from cm3.scenes.verify import Reading, attributes, read

if TYPE_CHECKING:
    from cm3.generate import Retrieved

TASKS = ("k0", "k1_kept", "k1_dropped", "k2_kept", "k2_dropped")
"""Documents read, and what becomes of them in the stream to guide away from. All have the same prompts and seeds."""

Progress = Callable[[str, int, int], None]
"""Called with the task, how many of its pictures are done, and how many there are."""

_STREAM = 0xE3B
"""Keeps the chance of prompts apart from that of everything else with the same seed."""


class Model(Protocol):
    """The part that the evaluation needs of `cm3.generate.CM3Leon`."""

    @property
    def memory(self) -> Container[str]: ...

    @property
    def unconditional(self) -> str: ...

    def with_memory(self, memory: Any, encoder: Any = None) -> Self: ...

    def retrieve(self, prompt: str, k: int) -> Sequence[Retrieved]: ...

    def generate_many(
        self, prompts: Sequence[str], *, seeds: Sequence[int], **settings: Unpack[Options]
    ) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Case:
    """A prompt, the seed of its picture, what it should show, and the id of the document that says so."""

    prompt: str
    seed: int
    scene: Scene
    document: str


@dataclass(frozen=True, eq=False)
class Example:
    """One case to be looked at: the document that was found, and the pictures drawn with and without it."""

    case: Case
    found: Retrieved
    drawn: PIL.Image.Image
    guessed: PIL.Image.Image
    drawn_right: bool
    guessed_right: bool


def evaluate_emblems(
    model: Model,
    n: int = 500,
    *,
    seed: int = 0,
    memory: str | Path | None = None,
    encoder: str | Path | None = None,
    batch: int = 32,
    tasks: Sequence[str] = TASKS,
    sampling: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on the first `n` emblems of the test split, one phrase and one picture each.

    `memory` and `encoder` take the place of the model's own; `sampling` (guidance, temperature, ...) goes to every
    `generate_many`. Returns shares in 0..1:

        k0, k1_kept, k1_dropped, k2_kept, k2_dropped   drawn right with 0, 1, 2 documents read; these kept or dropped in
                         the stream to guide away from
        k1, k2           the same, with the treatment that the model itself has as its default
        retriever_first  the right document found first
        guess            how often a picture of k0 shows another test emblem of the n, drawn at random: what a model
                         without documents scores by chance

    with n, seed, sampling, and `details` by task (by number of objects, share of objects right, attributes, share right
    where the right document was read, images_per_s, seconds). A figure that needs a task left out of `tasks` is absent.
    Raises `ConfigError` for an n or batch below 1, an unknown task, or a bank without the documents of these emblems.
    """
    check_run(n, batch, tasks, TASKS)
    cases, model = make_cases(n, seed), model if memory is None else model.with_memory(memory, encoder)
    lacking = [case.document for case in cases if case.document not in model.memory]
    if lacking:
        raise ConfigError(
            f"n={n}: the memory bank lacks {lacking[0]!r} and {len(lacking) - 1} more; give a bank with the documents "
            "of these emblems (cm3.scenes.data.emblem_bank), or a smaller n"
        )
    began = time.perf_counter()
    # Best first without chance, so that what one document would be is the beginning of what two are.
    found = [list(model.retrieve(case.prompt, 2)) for case in cases]
    searched = time.perf_counter() - began
    first = [bool(some) and some[0].document.id == case.document for case, some in zip(cases, found, strict=True)]
    settings = dict(sampling or {})
    result: dict[str, Any] = {"retriever_first": float(np.mean(first))}
    details: dict[str, Any] = {"retriever": {"seconds": searched}}
    for task in (t for t in TASKS if t in tasks):
        began = time.perf_counter()
        readings = [read(p) for p in _draw(model, task, cases, found, batch, settings, progress)]
        seconds = time.perf_counter() - began
        right = [reading.scene == case.scene for reading, case in zip(readings, cases, strict=True)]
        result[task] = float(np.mean(right))
        details[task] = _details(cases, readings, right) | {"seconds": seconds, "images_per_s": n / max(seconds, 1e-9)}
        if task == "k0":
            result["guess"] = _guess(cases, readings)
        else:
            given = [ok for ok, here in zip(right, first, strict=True) if here]
            details[task]["right_when_first"] = float(np.mean(given)) if given else None
            if task.endswith(f"_{model.unconditional}"):
                result[task.split("_")[0]] = result[task]
    order = ("k0", "k1", "k2", *TASKS[1:], "retriever_first", "guess")
    figures = {name: result[name] for name in order if name in result}
    return figures | {
        "n": n, "seed": seed, "unconditional": model.unconditional, "sampling": settings, "details": details
    }  # fmt: skip


def make_cases(n: int, seed: int) -> list[Case]:
    """Return test emblems 0 to n - 1, each with a phrase that names it and a seed. Raises `ConfigError` for too
    many."""
    if n > EMBLEMS["test"]:
        raise ConfigError(f"n={n}: there are {EMBLEMS['test']} test emblems; give a smaller n")
    cases = []
    for i in range(n):
        this, rng = emblem(i, "test"), np.random.default_rng([seed, _STREAM, i])
        cases.append(Case(say(this, rng), int(rng.integers(2**31)), this.scene, f"emblem/test/{i}"))
    return cases


def make_examples(model: Model, n: int = 6, seed: int = 0, **sampling: Any) -> list[Example]:
    """Return the first `n` cases of this seed as `evaluate_emblems` has them, with their pictures for K = 1 and K =
    0."""
    cases = make_cases(n, seed)
    found = [list(model.retrieve(case.prompt, 2)) for case in cases]
    drawn = _draw(model, f"k1_{model.unconditional}", cases, found, n, sampling, None)
    guessed = _draw(model, "k0", cases, found, n, sampling, None)
    return [
        Example(case, some[0], a, b, read(a).scene == case.scene, read(b).scene == case.scene)
        for case, some, a, b in zip(cases, found, drawn, guessed, strict=True)
        if some
    ]


def _draw(
    model: Model,
    task: str,
    cases: Sequence[Case],
    found: Sequence[Sequence[Retrieved]],
    batch: int,
    sampling: dict[str, Any],
    progress: Progress | None,
) -> list[PIL.Image.Image]:
    k, _, treatment = task.partition("_")
    settings = sampling | ({"unconditional": treatment} if treatment else {})
    pictures: list[PIL.Image.Image] = []
    for start in range(0, len(cases), batch):
        some = cases[start : start + batch]
        documents = [f[: int(k[1:])] for f in found[start : start + batch]]
        made = model.generate_many(
            [c.prompt for c in some], seeds=[c.seed for c in some], documents=documents, **settings
        )
        pictures += [one.document.images[-1].pixels for one in made]
        if progress is not None:
            progress(task, len(pictures), len(cases))
    return pictures


def _guess(cases: Sequence[Case], readings: Sequence[Reading]) -> float | None:
    """Return the mean over all pairs of a picture and the emblem of another: what drawing the other one at random
    expects."""
    count: dict[Scene, int] = defaultdict(int)
    for case in cases:
        count[case.scene] += 1
    hits = [
        count.get(reading.scene, 0) - (reading.scene == case.scene) if reading.scene is not None else 0
        for case, reading in zip(cases, readings, strict=True)
    ]
    return float(np.mean(hits)) / (len(cases) - 1) if len(cases) > 1 else None


def _details(cases: Sequence[Case], readings: Sequence[Reading], right: Sequence[bool]) -> dict[str, Any]:
    by_objects, notes = defaultdict(list), defaultdict(list)
    for case, reading, ok in zip(cases, readings, right, strict=True):
        by_objects[str(len(case.scene.objects))].append(ok)
        seen = {(s.place, s.shape, s.colour, s.size) for s in reading.seen}
        wanted = [(o.place, o.shape, o.colour, o.size) in seen for o in case.scene.objects]
        notes["objects"].append(float(np.mean(wanted)))
        notes["readable"].append(float(reading.scene is not None))
        for name, value in attributes(reading, case.scene).items():
            notes[name].append(value)
    return {
        "by_objects": {key: float(np.mean(values)) for key, values in sorted(by_objects.items())},
        **{key: float(np.mean(values)) for key, values in notes.items()},
    }
