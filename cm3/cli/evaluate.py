"""`cm3 eval captions`: how many photographs a model knows by heart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from cm3.cli.options import ModelVerb, progress
from cm3.errors import RequestError, did_you_mean


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
        from cm3.eval.captions import evaluate_captions
        from cm3.read.coco import Coco

        model, documents = self.open_model(), Coco(self.root, self.split)
        with progress("captions", unit="picture") as update:
            report = evaluate_captions(model, documents, progress=update)
        for one in report["details"]:
            if not one["own"]:
                print(f"not its own: {one['image']}  {one['text']}")
        print(f"own caption  {report['own_caption']:.1%} of {report['n']} pictures")
        print(f"any caption  {report['any_caption']:.1%}")
        if left := report["left_out"]:
            print(f"left out     {left['count']} documents")
            for one in left["first"]:
                print(f"             {one['id']}  {one['reason']}")
        return report


@contextmanager
def progress_by_task(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, where that is a terminal, that starts anew with each task."""
    with progress("", unit=unit) as update:
        yield lambda task, done, total: update(done, total, task)


def check_tasks(tasks: Sequence[str], known: Sequence[str]) -> None:
    """Raises `RequestError` for a task that is not known."""
    for task in tasks:
        if task not in known:
            raise RequestError(f"--tasks {task}: must be among {', '.join(known)}.{did_you_mean(task, known)}")
