"""`cm3 data show`: what an instruction task makes of a dataset, as a sheet of inputs and targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import Flag, Verb, at_least
from cm3.cli.outputs import check_sheet, write_sheet
from cm3.errors import DataError, RequestError

if TYPE_CHECKING:
    import PIL.Image

    from cm3.cli.sheet import Panel
    from cm3.document import Part
    from cm3.tasks import Example, Task, View

LOOK = 5
"""Documents that are looked at for each example that is shown."""
WORDS = 400
"""Characters of a text that stand on the sheet."""
FLAT = ("seg", "depth", "normal")
"""Pictures that lie over all of another one; the others are lines on black."""


@dataclass(frozen=True, kw_only=True)
class DataShow(Verb):
    """Show what an instruction task makes of a dataset: a sheet of inputs and targets as a model sees them.

    Boxes, masks and control images are also laid over their picture, upright, cropped and scaled as in training. A
    source is [KIND:]PATH[@SPLIT], as for cm3 data inspect; docs/tasks.md has the tasks and what each is made of.

    examples:
      cm3 data show coco:data/coco@val2017 --task boxes
      cm3 data show coco:data/coco@val2017 --task segmentation --n 12 --sheet look.png --json
      cm3 data show photos/ --task depth --controls depths/ --size 64
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A dataset."""
    task: Annotated[str, arg(metavar="TASK")]
    """An instruction task: edit, boxes, canny, segmentation, vqa2, ..."""
    n: Annotated[int, arg(metavar="N")] = 6
    """How many examples, of documents spread over the dataset."""
    sheet: Annotated[Path, arg(metavar="FILE")] = Path("tasks.png")
    """The sheet, a PNG."""
    size: Annotated[int, arg(metavar="N")] = 256
    """Side of a picture as the model sees it."""
    controls: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: beside the pictures)")] = None
    """Where hed, depth and normal images are."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Template of each example."""
    plain: Annotated[Flag, arg(help="Pictures before the text that holds the answer.")] = False

    def run(self) -> dict[str, Any]:
        """Make examples, draw the sheet, tell what could not serve."""
        from cm3.cli.sheet import Section, sheet
        from cm3.read.base import even
        from cm3.tasks import View, find_task

        at_least(1, n=self.n, size=self.size)
        at_least(0, seed=self.seed)
        check_sheet(self.sheet)
        task, view = find_task(self.task), View(self.size)
        found: list[Example] = []
        left_out: dict[str, str] = {}
        for one in self._examples(task, view):
            if isinstance(one, tuple):
                left_out.setdefault(*one)
            else:
                found.append(one)
        for id, reason in left_out.items():
            print(f"left out    {id}: {reason}")
        if not found:
            raise RequestError(
                f"{self.source}: none of the documents that were looked at has an example of task {self.task!r}; "
                "see what they lack with cm3 data inspect, and docs/tasks.md for what it is made of"
            )
        shown = [found[i] for i in even(len(found), self.n)]
        rows = [panels(example, task, view) for example in shown]
        columns = max(map(len, rows)) if len(rows[0]) > 1 else min(3, len(rows))
        section = Section(f"{len(shown)} examples", tuple(panel for row in rows for panel in row))
        about = f"cm3 data show {self.source} --task {self.task} --size {self.size}"
        write_sheet(self.sheet, sheet([section], f"Task {self.task!r}: given, and to be made", about, columns=columns))
        for example in shown:
            print(f"{example.id}\n            {flat(words(example))}")
        print(self.sheet)
        told = [{"id": e.id, "template": e.meta["template"], "words": words(e)} for e in shown]
        return {"task": self.task, "sheet": str(self.sheet), "examples": told, "left_out": left_out}

    def _examples(self, task: Task, view: View) -> Iterator[Example | tuple[str, str]]:
        """Yield one example of each document, of other pictures each; (id, reason) for a document that cannot serve."""
        import numpy as np

        from cm3.document import Unreadable
        from cm3.read.find import open_reader
        from cm3.tasks.examples import check, serve

        reader = open_reader(self.source)
        check(task, reader)
        rng, seen = np.random.default_rng(self.seed), set()
        for document in reader.spread(LOOK * self.n):
            if not isinstance(document, Unreadable):
                picture = str(document.meta.get("image_id", document.id))
                if picture in seen:
                    continue
                seen.add(picture)
            try:
                made = serve(task, document, reader, view=view, plain=self.plain, rng=rng, controls=self.controls)
                yield from made[:1]
            except DataError as error:
                yield document.id, str(error)


def panels(example: Example, task: Task, view: View) -> list[Panel]:
    """Return panels of the input, the target, and one laid over the other; a picture and its words for an answer."""
    from cm3.cli.guides import blank, outlined
    from cm3.cli.sheet import Line, Panel
    from cm3.document import Image, Text
    from cm3.tasks.boxes import read_objects
    from cm3.tokens.image import preprocess

    laid = example.laid
    given = [preprocess(p.pixels, *view) for p in (*laid.before, *laid.after) if isinstance(p, Image)]
    said = Line(flat(spoken((*laid.before, *laid.after))))
    name = Line(example.id, "label")
    if isinstance(laid.answer, Text):
        lines = (name, said, Line("to be written", "label"), Line(flat(laid.answer.text), "prompt"))
        return [Panel(picture, lines) for picture in given[:1]]
    made = preprocess(laid.answer.pixels, *view)
    target = Panel(made, (Line("to be made", "label"),))
    fields = task.read(example.document, example.meta["template"])
    boxes = str(fields.get("segmentations") or fields.get("locations") or "")
    if boxes:
        objects = read_objects(boxes)
        over = Panel(outlined(made, objects), (Line("the boxes on it", "label"),))
        return [Panel(blank(objects), (name, said)), target, over]
    guide = next((f for f in fields if f == task.control or f in FLAT), None)
    row = [*(Panel(picture, (name, said)) for picture in given[:1]), target]
    if guide is not None:
        picture, drawn = (made, given[0]) if task.control else (given[0], made)
        row.append(Panel(over_picture(picture, drawn, guide), (Line("one on the other", "label"),)))
    return row if given else [Panel(made, (name, said))]


def over_picture(picture: PIL.Image.Image, drawn: PIL.Image.Image, field: str) -> PIL.Image.Image:
    """Return a control image or a map on its picture."""
    import PIL.Image
    import PIL.ImageChops

    half = PIL.Image.blend(PIL.Image.new("RGB", picture.size), picture, 0.5)
    return PIL.Image.blend(picture, drawn, 0.5) if field in FLAT else PIL.ImageChops.lighter(half, drawn)


def spoken(parts: tuple[Part, ...]) -> str:
    """Return the words of parts, "|" between those that a picture or a hole divides."""
    from cm3.document import Text

    return " | ".join(part.text.strip() for part in parts if isinstance(part, Text) and part.text.strip())


def words(example: Example) -> str:
    """Return all words of an example, the answer's in their place."""
    return spoken(example.laid.whole)


def flat(text: str) -> str:
    """Return a text for the sheet, on one line and not too long; lines' ends as "/"."""
    line = " ".join(text.replace("\n", " / ").split())
    return line if len(line) <= WORDS else line[:WORDS].rsplit(" ", 1)[0] + " ..."
