"""`cm3 describe`: pictures -> words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, ModelVerb, Sampling, progress
from cm3.document import Image
from cm3.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Describe(ModelVerb):
    """Say what pictures show.

    examples:
      cm3 describe picture.png
      cm3 describe out/*.png --json
    """

    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE")]
    """Picture files, of any format that Pillow reads."""
    sampling: Annotated[Sampling, HERE] = Sampling()

    def run(self) -> dict[str, Any]:
        """Describe each picture; a line each."""
        if not self.images:
            raise RequestError("no picture given; name at least one file")
        pictures = [Image.open(path) for path in self.images]  # all, before the work starts
        model = self.open_model()
        results = []
        for path, picture in zip(self.images, pictures, strict=True):
            with progress("reading") as update:
                text = model.generate([picture], progress=update, **self.sampling.arguments()).text.strip()
            print(text if len(pictures) == 1 else f"{path}: {text}", flush=True)
            results.append({"image": path, "text": text})
        return results[0] if len(results) == 1 else {"results": results}
