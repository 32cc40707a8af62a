"""`cm3 infill`: fill a box of a picture, or the gaps of a sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.files import check_folder, picture_note, settings_note, write_all
from cm3.cli.generate import check_prompt
from cm3.cli.options import HERE, Guided, ModelVerb, at_least, progress
from cm3.document import Box, Gap, Image
from cm3.errors import RequestError

GAP = "<gap>"


@dataclass(frozen=True, kw_only=True)
class Infill(ModelVerb):
    """Fill a hole: a box of a picture, told by a prompt, or <gap> in a sentence, with or without a picture.

    examples:
      cm3 infill --image in.png --box 0,0,64,64 "a large yellow star at the top left on a grey background"
      cm3 infill --text "a large <gap> circle at the top left on a grey background"
      cm3 infill --text "a large <gap> at the top left on a <gap> background" --image in.png --json
    """

    prompt: Annotated[Positional[str | None], arg(metavar="PROMPT", help_behavior_hint="(with --box)")] = None
    """What the whole picture shows when the box is filled."""
    image: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """The picture."""
    box: Annotated[str | None, arg(metavar="X0,Y0,X1,Y1", help_behavior_hint="")] = None
    """The box to fill, in pixels of the picture given (not 0..255 as --boxes of cm3 generate), from the top left; X1,
    Y1 exclusive."""
    text: Annotated[str | None, arg(metavar="SENTENCE", help_behavior_hint="")] = None
    """The sentence, with <gap> where words are missing."""
    n: Annotated[int, arg(metavar="N")] = 1
    """How many answers."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Folder for the filled pictures."""
    sampling: Annotated[Guided, HERE] = Guided()

    def run(self) -> dict[str, Any]:
        """Fill, then write pictures or print sentences."""
        at_least(1, n=self.n)
        if self.text is not None:
            return self._fill_text(self.text)
        if self.image is None or self.box is None:
            raise RequestError(
                'nothing to fill; give --image FILE --box X0,Y0,X1,Y1 "prompt", or --text "a <gap> circle"'
            )
        return self._fill_region(self.image, parse_box(self.box))

    def _fill_region(self, path: str, box: Box) -> dict[str, Any]:
        prompt = self.prompt or ""
        check_prompt(prompt)
        check_folder(self.out)
        holed = Image.open(path).with_gap(box)
        settings = self.sampling.arguments()
        notes = {"prompt": prompt, "box": ",".join(map(str, box)), "model": self.model}
        notes |= picture_note(holed.pixels) | settings_note(settings)
        model = self.open_model()
        with progress("drawing") as update:
            made = model.generate([prompt, holed], n=self.n, progress=update, **settings)
        files = write_all(self.out, [Path(path).stem, "filled"], self.sampling.seed, made.images, notes, image=path)
        print("\n".join(files))
        told = self.told(made.warnings)
        return {"prompt": prompt, "box": list(box), "seed": self.sampling.seed, "files": files, "warnings": told}

    def _fill_text(self, text: str) -> dict[str, Any]:
        if self.prompt is not None or self.box is not None:
            raise RequestError("--text fills words, --box a picture; give one of them (--image may go with --text)")
        if GAP not in text:
            raise RequestError(f"--text {text!r}: has no {GAP}; write {GAP} where words are missing")
        parts: list[Any] = []
        for i, piece in enumerate(re.split(re.escape(GAP), text)):
            parts += [Gap()] if i else []
            parts += [piece] if piece else []
        if self.image is not None:
            parts.append(Image.open(self.image))
        model = self.open_model()
        with progress("writing") as update:
            made = model.generate(parts, n=self.n, progress=update, **self.sampling.arguments())
        print("\n".join(made.texts))
        told = self.told(made.warnings)
        return {"text": text, "seed": self.sampling.seed, "texts": list(made.texts), "warnings": told}


def parse_box(text: str) -> Box:
    """Four integers with commas. Raises `RequestError` for anything else; whether they fit is the picture's matter."""
    if not re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*){3}", text):
        raise RequestError(f"--box {text!r}: takes four whole numbers X0,Y0,X1,Y1, such as 0,0,64,64")
    x0, y0, x1, y1 = (int(v) for v in text.split(","))
    return x0, y0, x1, y1
