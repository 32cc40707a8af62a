"""`cm3 eval scenes|emblems`: how often a model is exactly right on scenes and emblems that it never saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from cm3.cli.evaluate import check_tasks, progress_by_task
from cm3.cli.options import HERE, OWN, Bank, ModelVerb, at_least
from cm3.cli.outputs import check_sheet, write_sheet
from cm3.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class EvalScenes(ModelVerb):
    """Measure a model on scenes that it was never trained on: drawing, describing, filling holes, and instructions.

    Pictures are read back by measuring pixels and sentences by their meaning (cm3.scenes), so a share says how often
    everything was right. `held_out`: scenes with a shape in a colour, or a relation, that no training picture shows.
    Without --tasks, what pretraining is for is measured; the instruction tasks (docs/scene-tasks.md) are for a model
    that was tuned for them, and can be shared out over several runs.

    examples:
      cm3 eval scenes --n 100
      cm3 eval scenes --n 1000 --seed 7 --json
      cm3 eval scenes --model runs/mine --guidance 2 --tasks text_to_image held_out
      cm3 eval scenes --model runs/tuned --n 500 --tasks all
      cm3 eval scenes --model runs/tuned --n 500 --tasks edit,boxes --candidates 1
    """

    model: Annotated[str, arg(metavar="MODEL")] = "scenes"
    """The model: a name (scenes, in the package), a bundle's folder, or hf://OWNER/NAME."""
    n: Annotated[int, arg(metavar="N")] = 100
    """How many scenes for each task; with 1000 a share is right to about 0.01."""
    seed: Annotated[int, arg(metavar="N")] = 1
    """Decides the scenes."""
    tasks: Annotated[
        tuple[str, ...], arg(metavar="TASK", help_behavior_hint="(default: those of pretraining, the first seven)")
    ] = ()
    """Only these: text_to_image, unguided, held_out, image_to_text, text_infill, region_infill, image_tokenizer; edit,
    write, boxes, canny, segmentation, depth, scribble, coco_captions, image_paragraph, vqa2, visdial, scienceqa,
    segment; or `all`."""
    guidance: Annotated[float | None, OWN] = None
    """Guidance for drawing; `unguided` is measured without in any case."""
    image_guidance: Annotated[float | None, OWN] = None
    """Guidance towards the picture that is edited."""
    temperature: Annotated[float | None, OWN] = None
    """0 takes the likeliest token each time."""
    candidates: Annotated[int | None, OWN] = None
    """Make so many and keep the likeliest."""

    def run(self) -> dict[str, Any]:
        """Measure, print a table."""
        at_least(1, n=self.n)
        at_least(0, seed=self.seed)
        from cm3.scenes.eval.scene_scores import TASKS, evaluate_scenes
        from cm3.scenes.eval.scene_tasks import TASKS as INSTRUCTIONS
        from cm3.scenes.eval.scene_tasks import evaluate_scene_tasks

        named = [name for word in self.tasks for name in word.split(",") if name]
        check_tasks(named, (*TASKS, *INSTRUCTIONS, "all"))
        wanted = (*TASKS, *INSTRUCTIONS) if "all" in named else named or TASKS
        if self.image_guidance is not None and "edit" not in wanted:
            raise RequestError(f"--image-guidance {self.image_guidance}: is for editing; name the task edit, or all")
        names = ("guidance", "temperature", "candidates")
        sampling = {name: value for name in names if (value := getattr(self, name)) is not None}
        for_tasks = sampling | ({} if self.image_guidance is None else {"image_guidance": self.image_guidance})
        model = self.open_model()
        with progress_by_task("scene") as update:
            plain, tuned = ([t for t in known if t in wanted] for known in (TASKS, INSTRUCTIONS))
            report = evaluate_scenes(model, self.n, seed=self.seed, tasks=plain, sampling=sampling, progress=update)
            if tuned:
                more = evaluate_scene_tasks(
                    model, self.n, seed=self.seed, tasks=tuned, sampling=for_tasks, progress=update
                )
                report = {**more, **report, "sampling": for_tasks, "details": report["details"] | more["details"]}
        print("\n".join(table(report)))
        return report


@dataclass(frozen=True, kw_only=True)
class EvalEmblems(ModelVerb):
    """Measure what retrieval is for: drawing named things that no training saw, from their one document in a bank.

    Each prompt names an emblem, an invented word for a fixed composition. k0, k1, k2: drawn exactly right with so many
    documents read; `kept` and `dropped`: whether the stream to guide away from reads them too.

    examples:
      cm3 eval emblems --n 100 --sheet emblems.png
      cm3 eval emblems --n 500 --seed 7 --json
      cm3 eval emblems --model runs/mine --memory DIR --tasks k0 k1_kept --guidance 2
    """

    model: Annotated[str, arg(metavar="MODEL")] = "scenes"
    """The model: a name (scenes, in the package), a bundle's folder, or hf://OWNER/NAME."""
    n: Annotated[int, arg(metavar="N")] = 100
    """How many emblems."""
    seed: Annotated[int, arg(metavar="N")] = 1
    """How each is said, and the chance in each picture."""
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK", help_behavior_hint="(default: all)")] = ()
    """Only these: k0, k1_kept, k1_dropped, k2_kept, k2_dropped."""
    guidance: Annotated[float | None, OWN] = None
    """Guidance for drawing."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write a sheet, a PNG, of the first six: the document found, and what was drawn with it and without."""
    bank: Annotated[Bank, HERE] = Bank()

    def run(self) -> dict[str, Any]:
        """Measure, print a table."""
        at_least(1, n=self.n)
        at_least(0, seed=self.seed)
        from cm3.cli.sheet import sheet
        from cm3.scenes.cli.emblem_section import emblem_section
        from cm3.scenes.eval.emblem_scores import TASKS, evaluate_emblems, make_examples

        check_tasks(self.tasks, TASKS)
        if self.sheet is not None:
            check_sheet(self.sheet)
        sampling = {} if self.guidance is None else {"guidance": self.guidance}
        model = self.open_model(self.bank)
        with progress_by_task("picture") as update:
            report = evaluate_emblems(
                model, self.n, seed=self.seed, tasks=self.tasks or TASKS, sampling=sampling, progress=update
            )
        print("\n".join(emblem_table(report)))
        if self.sheet is not None:
            examples = make_examples(model, min(self.n, 6), self.seed, **sampling)
            write_sheet(self.sheet, sheet([emblem_section(examples)], "What retrieval is for", columns=3))
            print(self.sheet)
        return report


def table(report: Mapping[str, Any]) -> list[str]:
    """Return the figures of a report as aligned lines, `task  figure  value`; shares in per cent."""
    lines = []
    for task, figures in (*report.items(), *report.get("tasks", {}).items()):
        if task in ("details", "sampling", "tasks") or not isinstance(figures, Mapping):
            continue
        for name, value in figures.items():
            told = "-" if value is None else f"{value:.2f}" if name.endswith("_db") else f"{value:.1%}"
            lines.append(f"{task:<18}{name:<20}{told:>8}")
    return [*lines, f"{report['n']} scenes a task, split {report['split']}, seed {report['seed']}"]


def emblem_table(report: Mapping[str, Any]) -> list[str]:
    """Return the shares of an emblem report as aligned lines, in per cent, with the treatment that is the default."""
    default = report["unconditional"]
    told = {
        "k0": "no document",
        "k1": f"1 document, {default} (the default)",
        "k2": f"2 documents, {default} (the default)",
        "k1_kept": "1 document, kept in the unconditional stream",
        "k1_dropped": "1 document, dropped from it",
        "k2_kept": "2 documents, kept in the unconditional stream",
        "k2_dropped": "2 documents, dropped from it",
        "retriever_first": "the right document is found first",
        "guess": "no document, and right for another emblem",
    }
    lines = [
        f"{name:<18}{words:<48}{'-' if report[name] is None else f'{report[name]:.1%}':>8}"
        for name, words in told.items()
        if name in report
    ]
    return [*lines, f"{report['n']} emblems never trained on, seed {report['seed']}"]
