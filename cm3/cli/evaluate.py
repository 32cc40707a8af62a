"""`cm3 eval tasks`: instruction tasks on real datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import OWN, Flag, ModelVerb, at_least, progress
from cm3.cli.outputs import check_sheet, write_sheet
from cm3.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from cm3.cli.sheet import Panel
    from cm3.eval.real_cases import Case
    from cm3.eval.real_tasks import Given
    from cm3.tasks import Task

SHOWN = 4
"""Cases of a task on the sheet."""


@dataclass(frozen=True, kw_only=True)
class EvalTasks(ModelVerb):
    """Measure a model on instruction tasks with real datasets: captions, questions, maps, edits, structures.

    Each is asked as a user asks and scored by the metric of its task, which docs/tasks.md lists under "Measuring":
    CIDEr-D for captions, VQA accuracy for questions, mean IoU for maps, F1 of lines for edges, and the cosine of CLIP
    vectors for pictures. A source is written as for training, TASK=[KIND:]PATH[@SPLIT].

    examples:
      cm3 eval tasks coco_captions=coco:data/coco@val2017 --model runs/tuned --n 500
      cm3 eval tasks vqa2=data/vqa2@val2014 okvqa=data/okvqa@val2014 --model runs/tuned --n 1000 --json
      cm3 eval tasks canny=data/coco@val2017 segment=data/coco@val2017 --n 50 --sheet tasks.png
      cm3 eval tasks edit=data/ip2p --encoder openai/clip-vit-base-patch32 --guidance 7.5 --image-guidance 1.5
    """

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="TASK=SOURCE")]
    """Tasks, each with a dataset that it is made of: TASK=[KIND:]PATH[@SPLIT]."""
    n: Annotated[int, arg(metavar="N")] = 100
    """Most cases of each source; with 1000 a share is right to about 0.015."""
    seed: Annotated[int, arg(metavar="N")] = 1
    """Decides the cases, and the chance in each."""
    batch: Annotated[int, arg(metavar="N")] = 16
    """Requests that are put to the model together."""
    plain: Annotated[Flag, arg(help="Ask with pictures before the text, for a model that was tuned so.")] = False
    encoder: Annotated[str | None, arg(metavar="ENCODER", help_behavior_hint="(default: the model's own)")] = None
    """Encoder that compares pictures: a folder, or a hub id such as openai/clip-vit-base-patch32."""
    controls: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: beside the pictures)")] = None
    """Where hed, depth and normal images are."""
    guidance: Annotated[float | None, OWN] = None
    """Guidance for pictures."""
    image_guidance: Annotated[float | None, OWN] = None
    """Guidance towards the picture that is edited."""
    temperature: Annotated[float | None, OWN] = None
    """0 takes the likeliest token each time."""
    candidates: Annotated[int | None, OWN] = None
    """Make so many and keep the likeliest."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write a sheet, a PNG, of the first four cases of each source: given, made, and true."""

    def run(self) -> dict[str, Any]:
        """Measure one source after the other, print a table."""
        at_least(1, n=self.n, batch=self.batch)
        at_least(0, seed=self.seed)
        from cm3.data.kinds import named_sources
        from cm3.data.task_source import TaskPart
        from cm3.eval.real_tasks import check_measured, evaluate_task
        from cm3.read.find import open_reader
        from cm3.read.random_access import Numbered
        from cm3.retrieval.embed import load_encoder
        from cm3.tasks import find_task

        if not self.sources:
            raise RequestError("no source given; name at least one, TASK=[KIND:]PATH[@SPLIT]")
        named = [(find_task(task), name, path) for task, name, path in named_sources(self.sources, "source")]
        if self.image_guidance is not None and all(task.name != "edit" for task, _, _ in named):
            raise RequestError(f"--image-guidance {self.image_guidance}: is for editing; name a source of task edit")
        if self.sheet is not None:
            check_sheet(self.sheet)
        opened = {path: Numbered(open_reader(path), path) for path in dict.fromkeys(path for _, _, path in named)}
        for task, name, path in named:
            TaskPart(name, task, opened[path], self.controls)  # before hours of work: is there anything for it?
        encoder = None if self.encoder is None else load_encoder(self.encoder, device=self.place.device)
        names = ("guidance", "image_guidance", "temperature", "candidates")
        sampling = {name: value for name in names if (value := getattr(self, name)) is not None}
        model = self.open_model()
        for task, _, _ in named:
            check_measured(model, task, self.n, encoder)
        self.tell_untuned(model, [task.name for task, _, _ in named])
        figures, details = dict[str, Any](), dict[str, Any]()
        shown: dict[str, list[tuple[Case, Given]]] = {name: [] for _, name, _ in named}
        with progress_by_task("case") as update:
            for task, name, path in named:

                def look(case: Case, given: Given, kept: list[tuple[Case, Given]] = shown[name]) -> None:
                    if len(kept) < SHOWN:
                        kept.append((case, given))

                report = evaluate_task(
                    model, task.name, opened[path], self.n, seed=self.seed, batch=self.batch, plain=self.plain,
                    sampling=sampling, encoder=encoder, controls=self.controls, progress=update,
                    look=look,
                )  # fmt: skip
                figures[name] = report.pop("figures")
                details[name] = {key: value for key, value in report.items() if key not in ("task", "seed")}
        report = {"tasks": figures, "n": self.n, "seed": self.seed, "sampling": sampling, "details": details}
        print("\n".join(table(report)))
        if self.sheet is not None:
            from cm3.cli.sheet import Section, sheet

            sections = []
            for task, name, path in named:
                panels = [p for case, given in shown[name] for p in _panels(task, case, given, model.image_size)]
                sections.append(Section(name, tuple(panels), path))
            title = "Instruction tasks: given, made, and true"
            write_sheet(self.sheet, sheet(sections, title, f"{self.model}, seed {self.seed}"))
            print(self.sheet)
        return report


def table(report: Mapping[str, Any]) -> list[str]:
    """Return the figures of a report as aligned lines, `task  figure  value  cases`, and what was left out, with a
    reason."""
    lines = []
    for name, figures in report["tasks"].items():
        details = report["details"][name]
        for figure, value in figures.items():
            told = "-" if value is None else f"{value:.3f}"
            lines.append(f"{name:<24}{figure:<16}{told:>8}   {details['n']} cases of {details['source']}")
        left_out = details["left_out"]
        for id, reason in list(left_out["reasons"].items())[:1]:
            lines.append(f"{name:<24}{left_out['number']} left out, the first {id}: {reason}")
    return lines


def _panels(task: Task, case: Case, given: Given, size: int) -> list[Panel]:
    """Show what was asked, what came of it and what is true: three panels a picture, one for a text."""
    import PIL.Image

    from cm3.cli.guides import blank
    from cm3.cli.sheet import Line, Panel
    from cm3.cli.show import flat
    from cm3.document import Image
    from cm3.tasks.boxes import read_objects
    from cm3.tokens.image import preprocess

    asked = Line(flat(" / ".join(value for value in case.request.values() if isinstance(value, str))))
    pictures = [preprocess(value.pixels, size) for value in case.request.values() if isinstance(value, Image)]
    if task.output == "text":
        said = flat(" / ".join(dict.fromkeys(case.said)))
        answer = Line(flat(str(given[task.gives[-1]])), "prompt")
        return [
            Panel(pictures[0], (asked, Line("answered", "label"), answer, Line("people said", "label"), Line(said)))
        ]
    boxes = str(case.request.get("segmentations") or case.request.get("locations") or "")
    if not pictures:
        pictures = [blank(read_objects(boxes)) if boxes else PIL.Image.new("RGB", (size, size), "#f4f4f7")]
    (field,) = task.gives
    made, true = given[field], case.truth[field]
    assert isinstance(made, PIL.Image.Image) and isinstance(true, Image)
    return [
        Panel(pictures[0], (asked, Line(case.id, "label"))),
        Panel(made, (Line("made", "label"),)),
        Panel(preprocess(true.pixels, size), (Line("true", "label"),)),
    ]


@contextmanager
def progress_by_task(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Return a bar on stderr, where that is a terminal, that starts anew with each task."""
    with progress("", unit=unit) as update:
        yield lambda task, done, total: update(done, total, task)


def check_tasks(tasks: Sequence[str], known: Sequence[str]) -> None:
    """Raise `RequestError` for a task that is not known."""
    for task in tasks:
        if task not in known:
            raise RequestError(f"--tasks {task}: must be among {', '.join(known)}.{did_you_mean(task, known)}")
