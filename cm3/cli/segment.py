"""`cm3 segment`: pictures -> maps of what they show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.files import check_folder, png, slug, write, write_all
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
            check_folder(self.sheet.parent, "--sheet")
        names = {path: f"{slug(Path(path).stem)}-segmented-{self.sampling.seed}" for path in self.images}
        if len(set(names.values())) < len(names):
            raise RequestError("--out: two of the pictures have the same name, and so would their maps; do them apart")
        pictures = [Image.open(path) for path in self.images]  # all, before the work starts
        settings = self.sampling.arguments()
        model = self.open_model(task="segment")
        results, panels = [], []
        for path, picture in zip(self.images, pictures, strict=True):
            with progress("segmenting") as update:
                made = model.segment(picture, progress=update, **settings).image
            notes = {"image": path, "seed": str(self.sampling.seed), "model": self.model}
            (file,) = write_all(self.out, names[path], [made], notes)
            print(file, flush=True)
            results.append({"image": path, "file": file})
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
            write(self.sheet, png(sheet([Section("Segmented", tuple(shown))], "Segmentation maps", about, columns=4)))
            print(self.sheet)
            result["sheet"] = str(self.sheet)
        return result
