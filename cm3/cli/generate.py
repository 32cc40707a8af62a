"""`cm3 generate`: words -> pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.attribution import document_panel, told
from cm3.cli.files import check_folder, check_sheet, picture_note, settings_note, write_all, write_sheet
from cm3.cli.options import HERE, Guided, ModelVerb, Retrieval, at_least, progress
from cm3.cli.places import blank, read_boxes, read_control
from cm3.errors import RequestError

if TYPE_CHECKING:
    import PIL.Image

    from cm3.generate import Generation


@dataclass(frozen=True, kw_only=True)
class Generate(ModelVerb):
    """Draw pictures from words, and from documents of a memory bank that are looked up for them.

    With --retrieve, each picture is followed by the documents that it drew on, which are also inside the PNG. --boxes
    and --control need a model that was tuned for them. A file of boxes is JSON, a list of [name, [x1, y1, x2, y2]]:
    first and last column and row, all counted in, in 0..255 from the top left, whatever the size of the picture.
    A control image must have the size of the model's pictures; hed, depth and normal may have any.

    examples:
      cm3 generate "a large red circle at the top left on a grey background"
      cm3 generate "a small white star above a large blue square on a mint ground" --n 4 --seed 1 --guidance 3
      cm3 generate "two objects on a sand ground: ..." --contrast kmax --k 5 --alpha 0.1 --out pictures --json
      cm3 generate "a picture of a blosk" --retrieve 2 --memory DIR --sheet sheet.png
      cm3 generate "a red circle and a blue star on a grey background" --boxes boxes.json --sheet sheet.png
      cm3 generate "a red circle on a mint ground" --boxes '[["red circle", [35, 35, 92, 92]]]'
      cm3 generate "a red circle on a grey background" --control canny=edges.png
    """

    prompt: Annotated[Positional[str], arg(metavar="PROMPT")]
    """What to draw, in quotes."""
    n: Annotated[int, arg(metavar="N")] = 1
    """How many pictures."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Folder for the pictures."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write a contact sheet, a PNG: each picture, and the documents that it drew on beside it."""
    boxes: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Where things are to be: a file of boxes, or such JSON itself. Not pixels: 0..255 of the picture's side, the last
    row and column counted in."""
    control: Annotated[str | None, arg(metavar="KIND=FILE", help_behavior_hint="")] = None
    """A picture to follow: canny, segmentation, hed, pose, depth, normal or scribble, and its file."""
    retrieval: Annotated[Retrieval, HERE] = Retrieval()
    sampling: Annotated[Guided, HERE] = Guided()

    def run(self) -> dict[str, Any]:
        """Draw, then write every picture with its prompt, seed and what it drew on inside the PNG."""
        check_prompt(self.prompt)
        at_least(1, n=self.n)
        check_folder(self.out)
        if self.sheet is not None:
            check_sheet(self.sheet)
        task, request, guide = self._asked()
        settings: Any = self.sampling.arguments() | self.retrieval.arguments()
        notes = {"prompt": self.prompt, "model": self.model, **self._given(settings, guide)}
        model = self.open_model(self.retrieval, task)
        with progress("drawing") as update:
            settings["progress"] = update
            if task is None:
                made = model.generate(self.prompt, n=self.n, **settings)
            else:
                made = model.ask(task, request, self.n, **settings).generation
        drew_on = made.attribution
        more = {"attribution": json.dumps(drew_on)} if drew_on else {}
        names = write_all(self.out, [self.prompt], self.sampling.seed, made.images, notes, **more)
        for name in names:
            print("\n".join([name, *told(made.retrieved), *told(made.left_out, "had no room for")]))
        result = {"prompt": self.prompt, "seed": self.sampling.seed, "files": names, "scores": list(made.scores)}
        result |= {} if task is None else {"task": task}
        result["warnings"] = self.told(made.warnings)
        result |= {"attribution": drew_on, "left_out": [r.document.id for r in made.left_out]}
        if self.sheet is not None:
            self._write_sheet(self.sheet, made, guide)
            result["sheet"] = str(self.sheet)
        return result

    def _asked(self) -> tuple[str | None, dict[str, Any], PIL.Image.Image | None]:
        """The task that --boxes or --control asks for with its fields, and what is to be followed as a picture."""
        if self.boxes is not None and self.control is not None:
            raise RequestError("--boxes and --control: no task takes both; give one of them")
        if self.boxes is not None:
            objects = read_boxes(self.boxes)
            return "boxes", {"caption": self.prompt, "objects": objects}, blank(objects)
        if self.control is not None:
            task, picture = read_control(self.control)
            return task.name, {"caption": self.prompt, str(task.control): picture}, picture.pixels
        return None, {}, None

    def _given(self, settings: Mapping[str, Any], guide: PIL.Image.Image | None) -> dict[str, str]:
        """Return notes of all that was given beside the prompt."""
        retrieved = {"retrieve": self.retrieval.retrieve or None, "memory": self.retrieval.memory}
        kind = (self.control or "").partition("=")[0]
        notes = settings_note({**settings, **retrieved, "control": kind or None})
        return notes if guide is None else notes | picture_note(guide)

    def _write_sheet(self, path: Path, made: Generation, guide: PIL.Image.Image | None) -> None:
        from cm3.cli.sheet import Line, Panel, Section, sheet

        given = [] if guide is None else [Panel(guide, (Line("to be followed", "label"),))]
        documents = [document_panel(r) for r in made.retrieved]
        drawn = [Panel(p, (Line(f"drawn, number {i}", "label"),)) for i, p in enumerate(made.images)]
        if documents:
            sections = [Section(self.prompt, tuple(p for one in drawn for p in (one, *given, *documents)))]
        else:
            sections = [Section(self.prompt, (*given, *drawn))]
        columns = 1 + len(given) + len(documents) if documents else 3
        subtitle = f"cm3 generate --model {self.model} --seed {self.sampling.seed} --retrieve {self.retrieval.retrieve}"
        title = "Drawn, and what it drew on" if documents else "Drawn"
        write_sheet(path, sheet(sections, title, subtitle, columns=columns))
        print(path)


def check_prompt(prompt: str) -> None:
    """Raise `RequestError` for a prompt without a word."""
    if not prompt.strip():
        raise RequestError("the prompt is empty; say in words what to draw")
