"""`cm3 eval stickers`: how often a model is exactly right on sheets of stickers that it never saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from cm3.cli.evaluate import check_tasks, progress_by_task
from cm3.cli.options import HERE, OWN, YES_NO, Bank, Flag, ModelVerb, at_least
from cm3.errors import RequestError

if TYPE_CHECKING:
    from cm3.generate import CM3Leon


@dataclass(frozen=True, kw_only=True)
class EvalStickers(ModelVerb):
    """Measure a model on sheets of stickers that it was never trained on: drawing, describing, filling, instructions.

    Pictures are read back by measuring pixels and sentences by their meaning (cm3.stickers), so a share says how often
    everything was right. Tasks:

      plain          text_to_image, unguided, held_out (kinds in places never trained), loose (words that leave
                     sizes, places or the ground open), wishes (the same in many wordings), image_to_text,
                     text_infill, region_infill, image_tokenizer
      retrieval      retrieval_0, retrieval_1, retrieval_2: kinds never trained on, from so many documents of a bank
      instructions   edit, boxes, canny, scribble, segmentation, depth, segment, coco_captions, image_paragraph, vqa2,
                     visdial, scienceqa, for a model that was tuned for them
      all            plain, and what the model has a bank and was tuned for

    examples:
      cm3 eval stickers --n 100
      cm3 eval stickers --model runs/stickers/instruct_own/bundle --seed 7 --json
      cm3 eval stickers --model runs/mine/bundle --guidance 2 --tasks text_to_image held_out
      cm3 eval stickers --model runs/mine/bundle --tasks retrieval --memory DIR
      cm3 eval stickers --model runs/tuned/bundle --tasks edit,boxes --candidates 1
      cm3 eval stickers --tasks text_to_image --think no
      cm3 eval stickers --tasks image_to_text,vqa2 --jpeg 75
      cm3 eval stickers --tasks wishes,edit,vqa2 --own-words
    """

    model: Annotated[str, arg(metavar="MODEL")] = "stickers"
    """The model: a name (stickers, in the package), a bundle's folder, or hf://OWNER/NAME."""
    n: Annotated[int, arg(metavar="N")] = 500
    """How many sheets for each task; with 500 a share is right to about 0.02."""
    seed: Annotated[int, arg(metavar="N")] = 1
    """Decides the sheets; no training sees any of them, whatever its own seed."""
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK", help_behavior_hint="(default: plain)")] = ("plain",)
    """Only these: names, or plain, retrieval, instructions, all."""
    batch: Annotated[int, arg(metavar="N")] = 16
    """Requests that are put to the model together."""
    guidance: Annotated[float | None, OWN] = None
    """Guidance for drawing; `unguided` is measured without in any case."""
    image_guidance: Annotated[float | None, OWN] = None
    """Guidance towards the picture that is edited."""
    temperature: Annotated[float | None, OWN] = None
    """0 takes the likeliest token each time."""
    candidates: Annotated[int | None, OWN] = None
    """Make so many and keep the likeliest."""
    think: Annotated[Literal["yes", "no"] | None, YES_NO] = None
    """Whether pictures and answers come after a thought in words."""
    jpeg: Annotated[int | None, arg(metavar="QUALITY")] = None
    """Give pictures as JPEG files of this quality, 1 to 100, where the answer is words."""
    own_words: Flag = False
    """Ask for edits and put questions (vqa2) in more wordings, as people type them."""
    bank: Annotated[Bank, HERE] = Bank()

    def run(self) -> dict[str, Any]:
        """Measure, print a table."""
        at_least(1, n=self.n, batch=self.batch)
        at_least(0, seed=self.seed)
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise RequestError(f"--jpeg {self.jpeg}: is a quality, must be 1 to 100")
        from cm3.stickers.eval.sticker_scores import INSTRUCTIONS, PLAIN, RETRIEVAL, TASKS, evaluate_stickers

        groups = {"plain": PLAIN, "retrieval": RETRIEVAL, "instructions": INSTRUCTIONS}
        named = [name for word in self.tasks for name in word.split(",") if name]
        check_tasks(named, (*groups, "all", *TASKS))
        if not named:
            raise RequestError("--tasks: names none; leave it out, or name one")
        wanted = {task for name in named for task in groups.get(name, (name,))} - {"all"}
        if self.image_guidance is not None and not {"edit", "all"} & {*wanted, *named}:
            raise RequestError(f"--image-guidance {self.image_guidance}: is for editing; name the task edit, or all")
        plain = ("guidance", "temperature", "candidates")
        sampling = {name: value for name in plain if (value := getattr(self, name)) is not None}
        if self.think is not None:
            sampling["think"] = self.think == "yes"
        model = self.open_model(self.bank)
        if "all" in named:
            wanted |= {*PLAIN, *_able(model, RETRIEVAL, INSTRUCTIONS)}
        self.tell_untuned(model, [task for task in INSTRUCTIONS if task in wanted])
        if self.image_guidance is not None:
            sampling["image_guidance"] = self.image_guidance
        with progress_by_task("sheet") as update:
            report = evaluate_stickers(
                model,
                self.n,
                seed=self.seed,
                batch=self.batch,
                tasks=[task for task in TASKS if task in wanted],
                sampling=sampling,
                progress=update,
                jpeg=self.jpeg,
                own_words=self.own_words,
            )
        print("\n".join(table(report)))
        return report


def _able(model: CM3Leon, retrieval: tuple[str, ...], instructions: tuple[str, ...]) -> Iterator[str]:
    """Yield the tasks that a model has a bank and was tuned for."""
    yield from (task for task in instructions if task in model.tasks)
    try:
        model.memory  # noqa: B018
    except RequestError:  # it has no bank
        return
    yield from retrieval


def table(report: Mapping[str, Any]) -> list[str]:
    """Return the figures of a report, two or three lines a task: shares in per cent, by number of stickers, by kind."""
    lines = []
    for task, figures in report["tasks"].items():
        first = {"exact": figures["exact"]} if "exact" in figures else {}
        numbers = {name.removeprefix("exact_"): v for name, v in figures.items() if name.startswith("exact_")}
        rest = {name: v for name, v in figures.items() if not name.startswith("exact")}
        told = [*_told(first), *(["by stickers", *_told(numbers)] if numbers else [])]
        rows = [told, _told(rest), _told(report["details"][task]["by_kind"])]
        for i, row in enumerate(row for row in rows if row):
            lines.append(f"{'' if i else task:<18}{'  '.join(row)}")
    return [*lines, f"{report['n']} sheets a task, split {report['split']}, seed {report['seed']}"]


def _told(shares: Mapping[str, float]) -> list[str]:
    return [
        f"{name.replace('_', ' ')} {value:.2f}" if name.endswith("_db") else f"{name.replace('_', ' ')} {value:.1%}"
        for name, value in shares.items()
    ]
