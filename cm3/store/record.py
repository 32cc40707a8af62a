"""A document as a store keeps it: its pictures as the bytes they came in, everything checked.

A picture of a file (`Image(data=...)`) keeps that file's bytes; any other is stored without loss as PNG, or as TIFF
where PNG does not know its mode.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import PIL.Image

from cm3.document import Document, Image, Part, Text, check_text
from cm3.errors import DataError
from cm3.files import said
from cm3.picture import rgb

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
DIGEST = 16
"""Bytes of a picture's digests."""


class Picture(NamedTuple):
    """A picture of a document."""

    data: bytes
    """Its file; empty where it is not kept."""
    digest: bytes
    """Hash of the file that it came in; of what it shows, where it came in none."""
    pixels: bytes
    """Hash of what it shows (`shows`)."""


@dataclass(frozen=True)
class Record:
    """A document as it is stored: its parts are strings and pictures, in their order."""

    id: str
    source: str
    meta: dict[str, Any]
    parts: tuple[str | Picture, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Return its pictures."""
        return tuple(p for p in self.parts if isinstance(p, Picture))

    def json(self, words: bool) -> bytes:
        """Return its origin, and with `words` its words, as a shard has it."""
        told: dict[str, Any] = {"id": self.id, "source": self.source, "meta": self.meta}
        if words:
            numbers = iter(range(len(self.parts)))
            told["parts"] = [p if isinstance(p, str) else next(numbers) for p in self.parts]
        return json.dumps(told, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")

    def digest(self) -> bytes:
        """Return 16 bytes of a hash of what it says and shows."""
        parts = [p if isinstance(p, str) else [p.pixels.hex()] for p in self.parts]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=DIGEST).digest()


class Refused(DataError):
    """A document that a store does not keep, with the kind of its problem."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def check(document: Document) -> None:
    """Raise `Refused` for a document that no store keeps, its pictures aside."""
    if document.has_gap:
        raise Refused("hole", "has a hole to be filled; a store holds whole documents")
    if not document.text.strip() and not document.images:
        raise Refused("empty", "has neither text nor picture")
    try:
        for part in document.parts:
            if isinstance(part, Text):
                check_text(part.text)
        check_text(document.id, "its id")
        check_text(document.source, "its source")
    except DataError as error:
        raise Refused("text", str(error)) from error
    try:
        json.dumps(dict(document.meta), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused("meta", f"its meta is not plain JSON ({said(error)})") from error
    try:
        check_text(dict(document.meta), "its meta")
    except DataError as error:
        raise Refused("text", str(error)) from error


def record_of(document: Document) -> tuple[Record, Document]:
    """Return a document as a record, and with its pictures read. Raises `Refused` for one that no store keeps."""
    check(document)
    parts: list[str | Picture] = []
    read: list[Part] = []
    try:
        for part in document.parts:
            if isinstance(part, Text):
                parts.append(part.text)
                read.append(part)
            elif isinstance(part, Image):
                # Decoded in an image of our own, so that who keeps the document keeps no pixels.
                own = part if part.data is None else Image(data=part.data, name=part.name)
                pixels = shows(own.pixels)
                parts.append(Picture(encode(own), pixels if own.data is None else own.digest, pixels))
                read.append(own)
    except Exception as error:  # Pillow raises many kinds for a damaged picture
        raise Refused("picture", said(error)) from error
    known = Document(tuple(read), id=document.id, source=document.source, meta=document.meta)
    return Record(document.id, document.source, dict(document.meta), tuple(parts)), known


def encode(image: Image) -> bytes:
    """Return the bytes to keep of a picture: its file's, where it is of one. Raises Pillow's errors for a damaged
    one."""
    if image.data is not None:
        return image.data
    picture = image.pixels
    picture.load()
    buffer = io.BytesIO()
    keep = {name: picture.info[name] for name in ("exif", "icc_profile") if picture.info.get(name)}
    if picture.mode in PNG_MODES:
        picture.save(buffer, "PNG", **keep)
    else:
        try:
            picture.save(buffer, "TIFF", **keep)
        except (OSError, KeyError):  # a mode of neither format, such as HSV: the nearest one that is
            picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
            picture.save(buffer, "PNG", **keep)
    return buffer.getvalue()


def digest(image: Image) -> bytes:
    """Return the digest of a picture's file, equal for all documents that have it; where it is of none, of `shows`."""
    return shows(image.pixels) if image.data is None else image.digest


def is_of(data: bytes, digest: bytes) -> bool:
    """Tell whether bytes are those of the picture of this digest. Raises `DataError` for bytes of no picture."""
    image = Image(data=data)
    return image.digest == digest or shows(image.pixels) == digest


def shows(image: PIL.Image.Image) -> bytes:
    """Return 16 bytes that stand for what a picture shows, upright and in RGB: equal for the same under another format.

    Raises `DataError` for a picture that is empty or cannot be read.
    """
    shown = rgb(image)
    return hashlib.blake2b(shown.tobytes(), digest_size=DIGEST, key=f"{shown.width} x {shown.height}".encode()).digest()


def as_text(text: str) -> str:
    """Return a string whose lone surrogates and NULs are written out, so that it can be listed."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
