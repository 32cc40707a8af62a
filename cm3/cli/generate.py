"""`cm3 generate`: words -> pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.files import check_folder, png, slug, write
from cm3.cli.options import HERE, Guided, ModelVerb, at_least, progress
from cm3.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Generate(ModelVerb):
    """Draw pictures from words.

    examples:
      cm3 generate "a large red circle at the top left on a grey background"
      cm3 generate "a small white star above a large blue square on a mint ground" --n 4 --seed 1 --guidance 3
      cm3 generate "two objects on a sand ground: ..." --contrast kmax --k 5 --alpha 0.1 --out pictures --json
    """

    prompt: Annotated[Positional[str], arg(metavar="PROMPT")]
    """What to draw, in quotes."""
    n: Annotated[int, arg(metavar="N")] = 1
    """How many pictures."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Folder for the pictures."""
    sampling: Annotated[Guided, HERE] = Guided()

    def run(self) -> dict[str, Any]:
        """Draw, then write every picture with its prompt and seed inside the PNG."""
        check_prompt(self.prompt)
        at_least(1, n=self.n)
        check_folder(self.out)
        model = self.open_model()
        with progress("drawing") as update:
            made = model.generate(self.prompt, n=self.n, progress=update, **self.sampling.arguments())
        files = []
        for i, picture in enumerate(made.images):
            files.append(self.out / f"{slug(self.prompt)}-{self.sampling.seed}-{i}.png")
            notes = {"prompt": self.prompt, "seed": str(self.sampling.seed), "number": str(i), "model": self.model}
            write(files[-1], png(picture, notes))
            print(files[-1])
        names = [str(f) for f in files]
        return {"prompt": self.prompt, "seed": self.sampling.seed, "files": names, "scores": list(made.scores)}


def check_prompt(prompt: str) -> None:
    """Raise `RequestError` for a prompt without a word."""
    if not prompt.strip():
        raise RequestError("the prompt is empty; say in words what to draw")
