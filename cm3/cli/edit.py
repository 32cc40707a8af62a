"""`cm3 edit`: a picture and what is to be changed -> pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.files import check_folder, check_sheet, picture_note, settings_note, write_all, write_sheet
from cm3.cli.options import HERE, OWN, Guided, ModelVerb, at_least, progress
from cm3.document import Image
from cm3.errors import RequestError

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, kw_only=True)
class Editing(Guided):
    """How a model edits: the words weighed against no words, the picture against no picture."""

    image_guidance: Annotated[float | None, OWN] = None
    """How far to hold on to the picture; --guidance is how far to follow the words. 1 and 1 is no guidance."""


@dataclass(frozen=True, kw_only=True)
class Edit(ModelVerb):
    """Change a picture as an instruction says, and leave the rest as it is.

    Works with a model that was tuned for it.

    examples:
      cm3 edit picture.png "paint the circle green"
      cm3 edit picture.png "remove the star" --n 4 --seed 1 --sheet sheet.png
      cm3 edit photo.jpg "make it snow" --model DIR --guidance 7.5 --image-guidance 1.5 --json
    """

    image: Annotated[Positional[str], arg(metavar="IMAGE")]
    """The picture, of any format that Pillow reads. Its centred square is what the model sees."""
    instruction: Annotated[Positional[str], arg(metavar="INSTRUCTION")]
    """What to change, in quotes."""
    n: Annotated[int, arg(metavar="N")] = 1
    """How many pictures."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Folder for the pictures."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write a contact sheet, a PNG: the picture, and what came of it."""
    sampling: Annotated[Editing, HERE] = Editing()

    def run(self) -> dict[str, Any]:
        """Edit, then write every picture with the instruction and seed inside the PNG."""
        if not self.instruction.strip():
            raise RequestError("the instruction is empty; say in words what to change")
        at_least(1, n=self.n)
        check_folder(self.out)
        if self.sheet is not None:
            check_sheet(self.sheet)
        picture = Image.open(self.image)
        settings = self.sampling.arguments()
        notes = {"instruction": self.instruction, "model": self.model}
        notes |= picture_note(picture.pixels) | settings_note(settings)
        model = self.open_model(task="edit")
        with progress("editing") as update:
            made = model.edit(picture, self.instruction, self.n, progress=update, **settings)
        words = [Path(self.image).stem, self.instruction]
        files = write_all(self.out, words, self.sampling.seed, made.images, notes, image=self.image)
        print("\n".join(files))
        result = {"image": self.image, "instruction": self.instruction, "seed": self.sampling.seed, "files": files}
        result |= {"scores": list(made.generation.scores), "warnings": self.told(made.warnings)}
        if self.sheet is not None:
            seen = model.codec.image.preprocess(picture.pixels) if model.codec.image else picture.pixels
            write_sheet(self.sheet, self._drawn(seen, made.images))
            print(self.sheet)
            result["sheet"] = str(self.sheet)
        return result

    def _drawn(self, before: PIL.Image.Image, after: list[PIL.Image.Image]) -> PIL.Image.Image:
        from cm3.cli.sheet import Line, Panel, Section, sheet

        panels = [Panel(p, (Line(f"edited, number {i}", "label"),)) for i, p in enumerate(after)]
        section = Section(self.instruction, (Panel(before, (Line("given", "label"),)), *panels))
        return sheet([section], "Edited", f"cm3 edit --model {self.model} --seed {self.sampling.seed}")
