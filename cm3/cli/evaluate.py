"""`cm3 eval scenes|captions`: how often the model is exactly right, on new scenes or on photographs learnt by heart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from cm3.cli.options import OWN, ModelVerb, at_least, progress
from cm3.errors import RequestError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class EvalScenes(ModelVerb):
    """Measure a model on scenes that it was never trained on: drawing, describing, and filling holes in both.

    Pictures are read back by measuring pixels and sentences by their meaning (cm3.scenes), so a share says how often
    everything was right. `held_out`: scenes with a shape in a colour, or a relation, that no training picture shows.

    examples:
      cm3 eval scenes --n 100
      cm3 eval scenes --n 1000 --seed 7 --json
      cm3 eval scenes --model runs/mine --guidance 2 --tasks text_to_image held_out
    """

    n: Annotated[int, arg(metavar="N")] = 100
    """How many scenes for each task; with 1000 a share is right to about 0.01."""
    seed: Annotated[int, arg(metavar="N")] = 1
    """Which scenes."""
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK", help_behavior_hint="(default: all)")] = ()
    """Only these: text_to_image, unguided, held_out, image_to_text, text_infill, region_infill, image_tokenizer."""
    guidance: Annotated[float | None, OWN] = None
    """Guidance for drawing; `unguided` is measured without in any case."""

    def run(self) -> dict[str, Any]:
        """Measure, print a table."""
        at_least(1, n=self.n)
        at_least(0, seed=self.seed)
        from cm3.eval.scenes import TASKS, evaluate_scenes

        for task in self.tasks:
            if task not in TASKS:
                raise RequestError(f"--tasks {task}: must be among {', '.join(TASKS)}.{did_you_mean(task, TASKS)}")
        sampling = {} if self.guidance is None else {"guidance": self.guidance}
        with progress_by_task("scene") as update:
            report = evaluate_scenes(
                self.open_model(),
                self.n,
                seed=self.seed,
                tasks=self.tasks or TASKS,
                sampling=sampling,
                progress=update,
            )
        print("\n".join(table(report)))
        return report


@dataclass(frozen=True, kw_only=True)
class EvalCaptions(ModelVerb):
    """Measure how well a model knows the photographs that it was trained on.

    Each is described greedily; the figure is the share whose description is, word for word, one of its own captions.
    The folder is in COCO's layout: ROOT/annotations/captions_SPLIT.json, ROOT/SPLIT/*.jpg.

    examples:
      cm3 eval captions --model runs/coco/pretrain/bundle --root data/coco
      cm3 eval captions --model runs/coco/pretrain/bundle --root data/coco --split train2017 --json
    """

    root: Annotated[str, arg(metavar="ROOT")] = "data/coco"
    """The folder that holds annotations/."""
    split: Annotated[str, arg(metavar="SPLIT")] = "train2017"
    """Which captions and pictures."""

    def run(self) -> dict[str, Any]:
        """Measure, print the descriptions that are wrong, then the figures."""
        from cm3.data.read.coco import coco_captions
        from cm3.eval.captions import evaluate_captions

        model, documents = self.open_model(), coco_captions(self.root, self.split)
        with progress("captions", unit="picture") as update:
            report = evaluate_captions(model, documents, progress=update)
        for one in report["details"]:
            if not one["own"]:
                print(f"not its own: {one['image']}  {one['text']}")
        print(f"own caption  {report['own_caption']:.1%} of {report['n']} pictures")
        print(f"any caption  {report['any_caption']:.1%}")
        return report


@contextmanager
def progress_by_task(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, where that is a terminal, that starts anew with each task."""
    with progress("", unit=unit) as update:
        yield lambda task, done, total: update(done, total, task)


def table(report: Mapping[str, Any]) -> list[str]:
    """The figures of a report as aligned lines, `task  figure  value`; shares in per cent."""
    lines = []
    for task, figures in report.items():
        if task in ("details", "sampling") or not isinstance(figures, Mapping):
            continue
        for name, value in figures.items():
            told = "-" if value is None else f"{value:.2f}" if name.endswith("_db") else f"{value:.1%}"
            lines.append(f"{task:<18}{name:<20}{told:>8}")
    return [*lines, f"{report['n']} scenes a task, split {report['split']}, seed {report['seed']}"]
