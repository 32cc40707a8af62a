"""What a prompt asks for: strings and pictures become a document with holes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import PIL.Image

from cm3.document import Document, Gap, Image, Part, Text, as_part
from cm3.errors import RequestError
from cm3.tokens.holes import Prompt

Promptable = str | PIL.Image.Image | Part | Document | Sequence[str | PIL.Image.Image | Part]


def as_document(prompt: Promptable) -> Document:
    """A prompt as a document with holes, by the rules of `CM3Leon.generate`. Raises `RequestError` for an empty one."""
    if isinstance(prompt, Document):
        document = prompt
    elif isinstance(prompt, str | PIL.Image.Image | Text | Image | Gap):
        document = Document((as_part(prompt),))
    elif isinstance(prompt, Iterable):
        document = Document.of(*prompt)
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
    return replace(document, parts=(*parts[:-1], Gap("text"), parts[-1]))


def kind_of(prompt: Prompt) -> str:
    """What a prompt asks for: 'text', 'image' (whole ones) or 'region' (parts of one)."""
    image = [h for h in prompt.holes if h.kind == "image"]
    if not image:
        return "text"
    return "region" if any(h.part in prompt.codes for h in image) else "image"
