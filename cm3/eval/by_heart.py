"""A measure of how well a model knows pictures that it was trained on: does it say one of the picture's own captions,
word for word?

For overfitting on purpose, the oldest test that data, tokenizers, model, training and generation fit together: a model
that cannot learn a few pictures by heart has a fault somewhere. It says nothing about pictures never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Unpack

from cm3.document import Document, Image, Unreadable, left_out
from cm3.errors import ConfigError, DataError
from cm3.generate import Options
from cm3.picture import rgb

Progress = Callable[[int, int], None]
"""Called with how many pictures are done, and how many there are."""


class Model(Protocol):
    """The part that the evaluation needs of `cm3.generate.CM3Leon`."""

    def generate_many(
        self, prompts: Sequence[Any], *, seeds: Sequence[int], **sampling: Unpack[Options]
    ) -> Sequence[Any]: ...


@dataclass
class _Picture:
    """A picture, the name to report it by, and what its documents say of it."""

    image: Image
    name: str
    captions: set[str] = field(default_factory=set)


def evaluate_captions(
    model: Model, documents: Iterable[Document | Unreadable], *, batch: int = 32, progress: Progress | None = None
) -> dict[str, Any]:
    """Describe each picture of captioned documents greedily, and compare with its own captions.

    A document is a caption and one picture; documents whose pictures have the same pixels are captions of one picture.
    A description counts when it equals a caption but for white space. Returns:

        own_caption    share of the pictures whose description is one of their own captions
        any_caption    share whose description is a caption of some picture (learnt by heart, perhaps mixed up)
        n, captions    numbers of pictures and of different captions for each, summed
        details        for each picture: image (its `image_id`, else the document's id), text, own
        left_out       documents that cannot be read, or are not one picture and its caption: `cm3.document.left_out`

    Raises `ConfigError` for a batch below 1, `DataError` where there is no document, or none that can be measured.
    """
    if batch < 1:
        raise ConfigError(f"batch={batch}: must be at least 1")
    pictures, left = _pictures(documents)
    every = {caption for picture in pictures for caption in picture.captions}
    details: list[dict[str, Any]] = []
    known = 0
    for start in range(0, len(pictures), batch):
        some = pictures[start : start + batch]
        made = model.generate_many([picture.image for picture in some], seeds=[0] * len(some), temperature=0.0)
        for picture, one in zip(some, made, strict=True):
            text = _plain(one.document.text)
            known += text in every
            details.append({"image": picture.name, "text": text, "own": text in picture.captions})
        if progress is not None:
            progress(len(details), len(pictures))
    return {
        "own_caption": sum(d["own"] for d in details) / len(details),
        "any_caption": known / len(details),
        "n": len(details),
        "captions": sum(len(picture.captions) for picture in pictures),
        "details": details,
        "left_out": left_out(left) if left else {},
    }


def _pictures(documents: Iterable[Document | Unreadable]) -> tuple[list[_Picture], list[Unreadable]]:
    """Return the different pictures in the order in which they first come, and the documents that are left out."""
    found: dict[Image, _Picture] = {}
    left: list[Unreadable] = []
    for number, document in enumerate(documents):
        try:
            image, caption = _pair(document)
            name = str(document.meta.get("image_id", document.id or number)) if isinstance(document, Document) else ""
            found.setdefault(image, _Picture(image, name)).captions.add(caption)
        except DataError as error:
            left.append(Unreadable(document.id or str(number), str(error)))
    if left and not found:
        raise DataError(
            f"captions: none of {len(left)} documents can be measured; the first is {left[0].id!r}: {left[0].reason}"
        )
    if not found:
        raise DataError("captions: there are no documents; check the folder and the split")
    return list(found.values()), left


def _pair(document: Document | Unreadable) -> tuple[Image, str]:
    """Return the picture and caption of a document. Raises `DataError` for what is not one of each."""
    if isinstance(document, Unreadable):
        raise DataError(document.reason)
    if len(document.images) != 1 or not document.text.strip():
        raise DataError(
            f"has {len(document.images)} pictures and {len(document.text.strip())} characters of text; must be one "
            "picture and its caption"
        )
    rgb(document.images[0].pixels)  # one that is cut short is told here, not in the midst of a batch
    return document.images[0], _plain(document.text)


def _plain(text: str) -> str:
    return " ".join(text.split())
