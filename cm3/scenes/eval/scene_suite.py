"""The drawn world that ships, as suites of `cm3 eval run`: what `cm3 eval scenes` measures, with every answer kept.

`n` scenes of each task, of the split that no training saw, drawn by the seed; the cases and their verifiers are those
of scene_scores.py and scene_tasks.py. A figure is a share in 0..1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cm3.document import Document, Gap, Image, Part, Text
from cm3.errors import ConfigError
from cm3.eval.suites.suite import Line, Suite
from cm3.files import checksum
from cm3.scenes.data.lesson_documents import TASKS
from cm3.scenes.eval.scene_scores import Case, judge_case, scene_cases
from cm3.scenes.eval.scene_tasks import LONGEST, TaskCase, judge, task_case
from cm3.scenes.knows import WORDS
from cm3.scenes.scene import Split
from cm3.scenes.verify import SMALLEST
from cm3.score.result import Result
from cm3.tasks.examples import find_task

MEASURED = ("text_to_image", "held_out", "image_to_text", "text_infill", "region_infill")
SPLIT: Split = "test"


class Scenes(Suite):
    """Drawing, describing and filling holes."""

    name, standard = "scenes", 500

    def lines(self) -> Iterator[Line]:
        n = check(self)
        self.cases: dict[str, tuple[str, Case]] = {}
        for task in MEASURED:
            for number, case in enumerate(scene_cases(task, n, self.asking.seed, SPLIT, self.asking.size)):
                id = f"{task}/{number}"
                self.cases[id] = task, case
                yield {"id": id, "seed": case.seed, "prompt": [self._piece(part) for part in case.prompt.parts]}
            self.update(len(self.cases), n * len(MEASURED))

    def _piece(self, part: Part) -> Any:
        if isinstance(part, Text):
            return part.text
        if isinstance(part, Gap):
            return {"gap": part.kind}
        return {"image": self.pictures.name(part)} | ({} if part.gap is None else {"box": list(part.gap)})

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        items: dict[str, dict[str, float]] = {}
        for record in self.made(records):
            task, case = self.cases[record["id"]]
            parts: list[Part] = [Text(text) for text in record["texts"]]
            parts += [Image.open(self.out / "predictions" / name) for name in record["files"]]
            found = judge_case(task, case, Document(tuple(parts)), self.asking.grid)
            items.setdefault(f"{task}_exact", {})[record["id"]] = float(found.ok)
            if task == "region_infill":
                unchanged = items.setdefault("region_infill_outside_unchanged", {})
                unchanged[record["id"]] = found.notes["outside_unchanged"]
        return self.result(Result(_means(items), len(self.cases), {"split": SPLIT}, items=items))


class SceneTasks(Suite):
    """The instruction tasks that the model was tuned for, of those that scenes can be judged by."""

    name, standard = "scene_tasks", 500

    def lines(self) -> Iterator[Line]:
        n = check(self)
        self.cases: dict[str, TaskCase] = {}
        tasks = [task for task in TASKS if task in self.asking.tuned]
        if not tasks:
            raise ConfigError(
                f"suite {self.name}: the model was tuned for none of {', '.join(TASKS)}; measure one that was"
            )
        for task in tasks:
            for number in range(n):
                case = task_case(task, self.asking.seed, number, self.asking.size, SPLIT)
                self.cases[f"{task}/{number}"] = case
                request = {
                    name: self.pictures.name(value) if isinstance(value, Image) else value
                    for name, value in case.request.items()
                }
                asked: Line = {"id": f"{task}/{number}", "seed": case.seed, "task": task, "request": request}
                yield {**asked, "template": case.asked.template, "max_tokens": LONGEST}
            self.update(len(self.cases), n * len(tasks))

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        items: dict[str, dict[str, float]] = {}
        whole: dict[str, dict[str, tuple[float, float]]] = {}
        for record in self.made(records):
            case = self.cases[record["id"]]
            task = find_task(case.asked.task)
            given: Mapping[str, Any] = record.get("fields", [{}])[0]
            if task.output == "image":
                given = {task.gives[0]: Image.open(self.out / "predictions" / record["files"][0]).pixels}
            for name, counted in judge(case.judged, given).items():
                whole.setdefault(f"{task.name}_{name}", {})[record["id"]] = counted
        figures = {
            name: sum(a for a, _ in one.values()) / sum(b for _, b in one.values()) for name, one in whole.items()
        }
        for name, some in whole.items():
            if all(of == 1 for _, of in some.values()):
                items[name] = {id: right for id, (right, _) in some.items()}
        return self.result(Result(figures, len(self.cases), {"split": SPLIT}, items=items))


def check(suite: Suite) -> int:
    """Return how many scenes of each task are asked for. Raises `ConfigError` for a source, for a model of pictures
    that are too small to be read back, and for one that says it knows another world."""
    if suite.asking.source:
        raise ConfigError(f"suite {suite.name}: draws its own pictures; leave the source {suite.asking.source!r} out")
    if suite.asking.size < SMALLEST:
        raise ConfigError(
            f"suite {suite.name}: pictures are read back from {SMALLEST} pixels on, and the model's have "
            f"{suite.asking.size}; measure another"
        )
    world = suite.asking.world
    if world is not None and (lacking := [word for word in WORDS if word not in world.get("words", ())]):
        raise ConfigError(
            f"suite {suite.name}: asks for drawn scenes, and the model knows {world.get('says')}; it lacks the word "
            f"{lacking[0]!r}. Measure one that knows them: --model scenes"
        )
    n = suite.asking.n or suite.standard or 1
    suite.references["scenes"] = checksum({"split": SPLIT, "seed": suite.asking.seed, "n": n})
    return n


def _means(items: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(some.values()) / len(some) for name, some in items.items()}
