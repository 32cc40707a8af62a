"""Prompts: strings and pictures become a document with holes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image

from cm3.document import Document, Gap, Image, Part, Text, as_part
from cm3.errors import DataError, RequestError, did_you_mean
from cm3.sequence.holes import Prompt, groups
from cm3.vocab import Grammar

Array = np.ndarray[Any, Any]
Picture = PIL.Image.Image | Image | str | os.PathLike[str] | Array
"""A picture as it can be given: one of Pillow's, a path of a file, an array uint8 (h, w), (h, w, 3) or (h, w, 4)."""
Piece = str | PIL.Image.Image | os.PathLike[str] | Array | Part
Promptable = Piece | Document | Sequence[Piece]


def as_image(picture: Picture) -> Image:
    """Return a picture as an `Image`; an array is copied. A string is a path here, whatever it is in a prompt.

    Raises `DataError` for a file that is missing or no picture, and for an array of another kind, `RequestError` for
    anything else.
    """
    if isinstance(picture, Image):
        return picture
    if isinstance(picture, PIL.Image.Image):
        return Image(picture)
    if isinstance(picture, str | os.PathLike):
        return Image.open(os.fspath(picture))
    if not isinstance(picture, np.ndarray):
        raise RequestError(
            f"picture: is a PIL image, an Image, a path or an array, not {type(picture).__name__}; give one of them"
        )
    right = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))
    if not right or picture.dtype != np.uint8 or not picture.size:
        raise DataError(
            f"picture: array of {picture.dtype} {picture.shape}; must be uint8 (height, width), (height, width, 3) or "
            "(height, width, 4), 0 to 255"
        )
    return Image(PIL.Image.fromarray(np.array(picture, order="C")))


def as_document(prompt: Promptable, grammar: Grammar = "cm3") -> Document:
    """Return a prompt as a document with holes, by the rules of `CM3Leon.generate`, for a model of a grammar. Raises
    `RequestError` for an empty one."""
    if isinstance(prompt, Document):
        document = prompt
    elif isinstance(prompt, str | PIL.Image.Image | Text | Image | Gap | os.PathLike | np.ndarray):
        document = Document((_part(prompt),))
    elif isinstance(prompt, Iterable) and not isinstance(prompt, bytes | Mapping):
        document = Document(tuple(_part(piece) for piece in prompt))
    else:
        raise RequestError(f"prompt: is a string, a picture or a list of them, not {type(prompt).__name__}")
    parts = list(document.parts)
    while parts and isinstance(parts[-1], Text) and not parts[-1].text.strip():
        parts.pop()  # blank text at the end asks for nothing
    if not parts:
        raise RequestError("prompt: is empty; say what to draw, or give a picture to describe")
    if document.has_gap:
        return document
    if isinstance(parts[-1], Text):
        return replace(document, parts=(*parts, Gap("image")))
    if grammar == "chameleon":
        return replace(document, parts=(*parts, Gap("text")))
    return replace(document, parts=(*parts[:-1], Gap("text"), parts[-1]))


def _part(piece: Piece) -> Part:
    return as_image(piece) if isinstance(piece, os.PathLike | np.ndarray) else as_part(piece)


def kind_of(prompt: Prompt) -> str:
    """Tell the kind of a prompt: 'text', 'image' (whole ones, beside words or not) or 'region' (parts of one)."""
    image = [h for h in prompt.holes if h.kind != "text"]
    if not image:
        return "text"
    return "region" if any(h.part in prompt.codes for h in image) else "image"


FORMS = {
    "edit": (Text, Image, Text, Gap),
    "control": (Text, Image, Text, Gap),
    "segment": (Text, Image, Gap),
}
"""Kinds of task, and what their prompts are: an order, a picture, words to go by, and the picture to be made."""
WORDS = ("answer", "thought")
"""Kinds whose prompts have one gap, for words."""


def check_kind(document: Document, kind: str) -> None:
    """Raise `RequestError` for a kind of task that there is not, or a document that is not of its form."""
    if kind not in (*FORMS, *WORDS):
        near = did_you_mean(kind, (*FORMS, *WORDS))
        raise RequestError(f"kind={kind!r}: must be one of {', '.join((*FORMS, WORDS[0]))} and {WORDS[1]}.{near}")
    whole = all(not isinstance(part, Image) or part.gap is None for part in document.parts)
    if kind in WORDS:
        if [part for part in document.parts if isinstance(part, Gap)] != [Gap("text")] or not whole:
            raise RequestError(f"kind={kind!r}: its prompt must have one gap, for words; leave kind out for any other")
        return
    form = tuple({type(part) for _, part in group} for group in groups(document))
    if form != tuple({part} for part in FORMS[kind]) or not whole or document.parts[-1] != Gap("image"):
        words = {Text: "words", Image: "a whole picture", Gap: "a gap for a picture"}
        wants = ", ".join(words[part] for part in FORMS[kind])
        raise RequestError(f"kind={kind!r}: its prompt must be {wants}; leave kind out for any other")
