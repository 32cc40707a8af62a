"""Instruction tasks on the demo's sheet: a few scenes that training never showed, each answer judged by its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import PIL.Image

    from cm3.cli.sheet import Line, Panel, Section
    from cm3.generate import CM3Leon, Settings
    from cm3.scenes.data.lesson_documents import SceneExample


class Shown(NamedTuple):
    """A task of the demo: its name in words, how many examples, and which figure says whether one is right."""

    task: str
    name: str
    number: int
    figure: str = "exact"


class Group(NamedTuple):
    """A section of the page."""

    title: str
    note: str
    tasks: tuple[Shown, ...]


GROUPS = (
    Group("Pictures changed by words", "Left the picture given, then what came of it.", (Shown("edit", "edit", 6),)),
    Group("Things in their places", "Left the boxes that were given, in words.", (Shown("boxes", "boxes", 2),)),
    Group(
        "Pictures that follow another one",
        "Left what was given: edges, strokes, a map of the shapes, depth.",
        (
            Shown("canny", "edges", 1),
            Shown("scribble", "strokes", 1),
            Shown("segmentation", "map", 1),
            Shown("depth", "depth", 1),
        ),
    ),
    Group(
        "Maps of pictures",
        "Left the picture given, then the map of its shapes.",
        (Shown("segment", "make map", 1, "iou"),),
    ),
    Group("Words to be written", "The word stands in the picture.", (Shown("write", "writing", 3),)),
    Group("Questions", "About pictures of scenes that were never trained on.", (Shown("vqa2", "question", 6),)),
    Group(
        "Reasons and talk",
        "An answer with the steps to it; one that has to know what was said before.",
        (Shown("scienceqa", "reason", 1, "explained"), Shown("visdial", "talk", 1)),
    ),
    Group("In detail", "", (Shown("image_paragraph", "in detail", 1),)),
)
ENOUGH = 0.75
"""Least overlap of a map with the true one for it to be marked right."""
TAKEN = ("history", "question", "instruction", "caption", "ocr_content", "choices_text")
"""Fields that say what was asked, in the order in which they are told."""


def task_sections(
    model: CM3Leon, seed: int, max_tokens: int | None = None
) -> tuple[dict[str, list[dict[str, Any]]], list[Section]]:
    """Return the results of each task that the model was tuned for, by name, and the sections; empty where that is
    none.

    A model whose pictures are too small to be measured shows none of them.
    """
    from cm3.cli.sheet import Section
    from cm3.scenes.verify import SMALLEST
    from cm3.tasks import find_task

    settings: Settings = {} if max_tokens is None else {"max_tokens": max_tokens}
    results: dict[str, list[dict[str, Any]]] = {}
    sections: list[Section] = []
    for group in GROUPS:
        panels: list[Panel] = []
        for shown in group.tasks:
            small = model.image_size < SMALLEST and find_task(shown.task).output == "image"
            if shown.task in model.tasks and not small:
                results[shown.task] = []
                for example, given, ok, told in _made(model, shown, seed, settings):
                    results[shown.task].append({"asked": asked(example), "ok": ok, **_texts(given)})
                    print(f"{shown.name:<10}{'right ' if ok else 'missed'}  {asked(example)}", flush=True)
                    panels += _panels(example, given, told)
        if panels:
            sections.append(Section(group.title, tuple(panels), group.note))
    return results, sections


def _made(
    model: CM3Leon, shown: Shown, seed: int, settings: Settings
) -> list[tuple[SceneExample, Mapping[str, str | PIL.Image.Image], bool, Line]]:
    """Return examples, the model's answers, whether they are right, and how the sheet says so."""
    from cm3.cli.sheet import verdict
    from cm3.scenes.data.lesson_documents import scene_example
    from cm3.scenes.eval.scene_tasks import judge
    from cm3.scenes.verify import WORKING
    from cm3.tasks import find_task

    task = find_task(shown.task)
    indices = range(seed * shown.number, (seed + 1) * shown.number)
    examples = [scene_example(task.name, 0, i, model.image_size, "test") for i in indices]
    template = examples[0].template
    wanted = [field for field in task.template(template).fields if field not in task.gives]
    requests = [{name: example.fields[name] for name in wanted} for example in examples]
    found: list[tuple[SceneExample, Mapping[str, str | PIL.Image.Image], bool, Line]] = []
    replies = model.ask_many(task, requests, seeds=list(indices), template=template, **settings)
    for i, example, reply in zip(indices, examples, replies, strict=True):
        figures = judge(scene_example(task.name, 0, i, WORKING, "test"), reply.fields)
        got, of = figures[shown.figure]
        ok = got >= ENOUGH * of if shown.figure == "iou" else got == of
        more = f", overlap {got / of:.2f}" if shown.figure == "iou" else ""
        if shown.figure == "explained" and not ok and figures["exact"][0] == of:
            more = ": the answer is, a step to it is not"
        found.append((example, reply.fields, ok, verdict(ok, f"right{more}", f"not right{more}")))
    return found


def _panels(example: SceneExample, given: Mapping[str, str | PIL.Image.Image], mark: Line) -> list[Panel]:
    """Return a row of three for a picture: given, made, and one that would be right. One panel for a text, and for a
    word."""
    from cm3.cli.guides import blank
    from cm3.cli.sheet import Line, Panel
    from cm3.document import Image
    from cm3.tasks import find_task
    from cm3.tasks.boxes import read_objects

    task = find_task(example.task)
    words = Line(asked(example), "prompt")
    pictures = {name: value.pixels for name, value in example.fields.items() if isinstance(value, Image)}
    before = [picture for name, picture in pictures.items() if name not in task.gives]
    if task.output == "text":
        said = [Line(text) for text in _texts(given).values() if text]
        return [Panel(before[0], (words, Line("the model says", "label"), *said, mark))]
    made = next(value for value in given.values() if not isinstance(value, str))
    if example.task == "boxes":
        before = [blank(read_objects(str(example.fields["segmentations"])))]
    if not before:
        return [Panel(made, (words, mark))]
    return [Panel(before[0], (words,)), Panel(made, (mark,)), Panel(pictures[task.gives[0]], (Line(RIGHT, "label"),))]


BRIEF = {"edit": 4, "boxes": 2, "canny": 2, "segment": 2, "write": 1, "vqa2": 1}
"""Panels on the sheet of each group, by its first task: two rows in all."""
RIGHT = "one that is right"
"""Words under a true picture, beside the model's."""


def brief(words: Section, holes: Sequence[Section], tasks: Sequence[Section]) -> list[Section]:
    """Return what goes on the sheet: words to pictures, holes and emblems in a row, and two rows of instructions."""
    row = [holes[0].panels[0], *holes[1].panels[1:], *(panel for section in holes[2:] for panel in section.panels[:3])]
    from cm3.cli.sheet import Section

    found = [words, Section("Holes, and what only a document shows", tuple(row), holes[1].note)]
    numbers = {group.title: BRIEF.get(group.tasks[0].task, 0) for group in GROUPS}
    some = list["Panel"]()
    for section in tasks:
        made = [p for p in section.panels if all(line.text != RIGHT for line in p.lines)]
        some += made[: numbers[section.title]]
    note = "Left of each pair what was given. The page has all, and one that is right beside each."
    return [*found, Section("Instructions", tuple(some), note)] if some else found


def asked(example: SceneExample) -> str:
    """Say what was asked for: the user's own words, or the task's where it takes none."""
    from cm3.tasks import find_task

    task = find_task(example.task)
    said = [str(example.fields[name]) for name in TAKEN if name in example.fields and name not in task.gives]
    if not said:
        said = [p for s in task.templates[0].segments for p in s if isinstance(p, str) and p.strip()]
    return " / ".join(" / ".join(said).strip().splitlines())


def _texts(given: Mapping[str, str | PIL.Image.Image]) -> dict[str, str]:
    return {name: value for name, value in given.items() if isinstance(value, str)}


def tally(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Say how many are right; empty where there is nothing."""
    every = [one["ok"] for some in results.values() for one in some]
    return f"{sum(every)} of {len(every)} instructions followed; " if every else ""
