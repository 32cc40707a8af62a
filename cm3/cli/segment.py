"""`cm3 segment`: pictures -> maps of what they show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.files import check_folder, check_sheet, picture_note, settings_note, write_all, write_sheet
from cm3.cli.options import HERE, Guided, ModelVerb, progress
from cm3.document import Image
from cm3.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Segment(ModelVerb):
    """Make segmentation maps of pictures: a picture each, in the colours that the model was tuned with.

    Works with a model that was tuned for it.

    examples:
      cm3 segment picture.png
      cm3 segment out/*.png --out maps --sheet sheet.png --json
    """

    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE")]
    """Picture files, of any format that Pillow reads. The centred square of each is what the model sees."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Folder for the maps."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write a contact sheet, a PNG: each picture, and its map."""
    sampling: Annotated[Guided, HERE] = Guided()

    def run(self) -> dict[str, Any]:
        """Make a map of each picture, and write it."""
        if not self.images:
            raise RequestError("no picture given; name at least one file")
        check_folder(self.out)
        if self.sheet is not None:
            check_sheet(self.sheet)
        pictures = [Image.open(path) for path in self.images]  # all, before the work starts
        settings = self.sampling.arguments()
        model = self.open_model(task="segment")
        results, panels = [], []
        for path, picture in zip(self.images, pictures, strict=True):
            with progress("segmenting") as update:
                reply = model.segment(picture, progress=update, **settings)
            made = reply.image
            words = [Path(path).stem, "segmented"]
            notes = {"map": "segment", "model": self.model} | picture_note(picture.pixels) | settings_note(settings)
            (file,) = write_all(self.out, words, self.sampling.seed, [made], notes, image=path)
            print(file, flush=True)
            results.append({"image": path, "file": file, "warnings": self.told(reply.warnings, path)})
            seen = model.codec.image.preprocess(picture.pixels) if model.codec.image else picture.pixels
            panels.append((path, seen, made))
        result: dict[str, Any] = dict(results[0]) if len(results) == 1 else {"results": results}
        if self.sheet is not None:
            from cm3.cli.sheet import Line, Panel, Section, sheet

            shown = [
                panel
                for path, seen, made in panels
                for panel in (Panel(seen, (Line(Path(path).name, "label"),)), Panel(made, (Line("its map", "label"),)))
            ]
            about = f"cm3 segment --model {self.model} --seed {self.sampling.seed}"
            write_sheet(self.sheet, sheet([Section("Segmented", tuple(shown))], "Segmentation maps", about, columns=4))
            print(self.sheet)
            result["sheet"] = str(self.sheet)
        return result
