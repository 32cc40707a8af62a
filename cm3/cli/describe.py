"""`cm3 describe`: pictures -> words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, Flag, ModelVerb, Sampling, progress
from cm3.document import Image
from cm3.errors import RequestError

TOGETHER = 64
"""Pictures that are read side by side."""


@dataclass(frozen=True, kw_only=True)
class Describe(ModelVerb):
    """Say what pictures show: in a sentence, in detail, or in answer to a question.

    Details and answers come from a model that was tuned for them.

    examples:
      cm3 describe picture.png
      cm3 describe out/*.png --json
      cm3 describe picture.png --question "what colour is the circle?"
      cm3 describe picture.png --detail
    """

    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE")]
    """Picture files, of any format that Pillow reads."""
    question: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """Answer this about each picture, instead."""
    detail: Annotated[Flag, arg(help="Describe at length.")] = False
    sampling: Annotated[Sampling, HERE] = Sampling()

    def run(self) -> dict[str, Any]:
        """Describe each picture; a line each."""
        if not self.images:
            raise RequestError("no picture given; name at least one file")
        if self.question is not None and self.detail:
            raise RequestError("--question and --detail: ask for one of them")
        if self.question is not None and not self.question.strip():
            raise RequestError("--question: is empty; say what you want to know")
        pictures = [Image.open(path) for path in self.images]  # all, before the work starts
        from cm3.generate.tasks import CAPTION, DETAIL, QUESTION

        task = QUESTION if self.question is not None else DETAIL if self.detail else None
        model = self.open_model(task=task)
        asked = {} if self.question is None else {"question": self.question}
        settings: Any = self.sampling.arguments()
        seed = settings.pop("seed")
        results: list[dict[str, Any]] = []
        for start in range(0, len(pictures), TOGETHER):
            requests = [{"image": picture, **asked} for picture in pictures[start : start + TOGETHER]]
            with progress("reading") as update:
                settings["progress"] = update
                replies = model.ask_many(task or CAPTION, requests, seeds=[seed] * len(requests), **settings)
            for path, reply in zip(self.images[start:], replies, strict=False):
                print(reply.text if len(pictures) == 1 else f"{path}: {reply.text}", flush=True)
                results.append({"image": path, "text": reply.text, "warnings": self.told(reply.warnings, path)})
        return asked | (results[0] if len(results) == 1 else {"results": results})
