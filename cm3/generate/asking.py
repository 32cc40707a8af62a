"""What a loaded model can be asked for by name: editing, questions, descriptions, segmentation, and any other task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import PIL.Image

from cm3.document import Image
from cm3.generate import tasks

if TYPE_CHECKING:
    from cm3.generate.cm3leon import CM3Leon

Picture = PIL.Image.Image | Image
DETAIL, CAPTION, QUESTION = "image_paragraph", "coco_captions", "vqa2"
"""The tasks that long and short descriptions and questions are asked with."""


class Asking:
    """Methods of `CM3Leon`. A model answers well what it was tuned for; `settings` are those of `CM3Leon.generate`."""

    def ask(
        self,
        task: str,
        *,
        n: int = 1,
        seed: int = 0,
        template: int | str = 0,
        plain: bool = False,
        settings: dict[str, Any] | None = None,
        **request: Any,
    ) -> tasks.Reply:
        """Any instruction task by its name and fields (docs/tasks.md): see `cm3.generate.tasks.ask`."""
        model = cast("CM3Leon", self)
        return tasks.ask(model, task, n=n, seed=seed, template=template, plain=plain, settings=settings, **request)

    def edit(self, picture: Picture, instruction: str, n: int = 1, *, seed: int = 0, **settings: Any) -> tasks.Reply:
        """The picture changed as the words say: `.image`. `image_guidance` holds on to it, `guidance` to the words."""
        return self.ask("edit", n=n, seed=seed, settings=settings, image1=picture, instruction=instruction)

    def answer(self, picture: Picture, question: str, n: int = 1, *, seed: int = 0, **settings: Any) -> tasks.Reply:
        """The answer to a question about a picture: `.text`."""
        return self.ask(QUESTION, n=n, seed=seed, settings=settings, image=picture, question=question)

    def describe(
        self, picture: Picture, n: int = 1, *, detail: bool = False, seed: int = 0, **settings: Any
    ) -> tasks.Reply:
        """What a picture shows, in a sentence or in detail: `.text`."""
        return self.ask(DETAIL if detail else CAPTION, n=n, seed=seed, settings=settings, image=picture)

    def segment(self, picture: Picture, n: int = 1, *, seed: int = 0, **settings: Any) -> tasks.Reply:
        """A map of what a picture shows, in the colours that the model was tuned with: `.image`."""
        return self.ask("segment", n=n, seed=seed, settings=settings, image=picture)
