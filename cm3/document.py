"""Document: the noun that every outer layer speaks.

A document is a tuple of parts: `Text`, `Image` and `Gap`. A `Gap` is a hole that a model is asked to fill; an `Image`
may have a hole of its own, a box of pixels. Nothing here knows tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import PIL.Image

from cm3.errors import DataError, RequestError
from cm3.files import said
from cm3.picture import BYTES, Square, bands, open_picture, rgb, square, square_of_file

Box = tuple[int, int, int, int]
"""Pixels (x0, y0, x1, y1), origin at the top left, x1 and y1 exclusive."""


_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Text:
    """A run of text."""

    text: str


class Place(NamedTuple):
    """The place of a picture's file: `size` bytes from `offset` on of the file `path`."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True, eq=False, init=False)
class Image:
    """A picture, and optionally a box of it that is to be filled in.

    `Image(pixels)` is of any PIL image; `Image(data=..., name=...)` of a file's bytes, which it keeps for whoever
    stores it: of them only the header is read until `pixels` are asked for their colours, and errors call it by its
    name. `cm3.tokens.image.preprocess` brings pixels to the model's size and colours. `gap` is in pixels of this one.

    Two images are equal when they hold the same object or file, or pictures of one mode and size that show the same;
    equal images hash alike. Its pixels are looked at once, when it is first compared or hashed, and one with a
    file stands for that file: a picture that is drawn on after that wants a new `Image`.
    """

    pixels: PIL.Image.Image
    gap: Box | None
    data: bytes | None = field(repr=False)
    """The bytes of its file, where it is of one."""
    name: str
    """Its name in errors."""
    place: Place | None
    """Where the file lies on this machine, where that is known: it can be read again from there."""

    def __init__(
        self,
        pixels: PIL.Image.Image | None = None,
        gap: Box | None = None,
        *,
        data: bytes | None = None,
        name: str = "",
        place: Place | None = None,
    ) -> None:
        """Raise `DataError` for what is no PIL image, and for bytes that are no picture; `RequestError` for a gap."""
        if pixels is None and data is not None:
            pixels = open_picture(data, name)
        if not isinstance(pixels, PIL.Image.Image):
            raise DataError(f"Image takes a PIL image, got {type(pixels).__name__}; open a file with Image.open(path)")
        if gap is not None:
            check_box(gap, pixels.size)
        for key, value in {"pixels": pixels, "gap": gap, "data": data, "name": name, "place": place}.items():
            object.__setattr__(self, key, value)

    @classmethod
    def open(cls, path: str | Path) -> Image:
        """Read a picture file of the formats of `cm3.picture.FORMATS`, to its end.

        Raises `DataError` when the file is missing or is not a picture.
        """
        path = Path(path)
        if not path.exists():
            raise DataError(f"image {str(path)!r}: no such file; check the path")
        if path.is_dir() or path.is_char_device() or path.is_block_device():
            raise DataError(f"image {str(path)!r}: not a readable picture (not a file); give a PNG, JPEG or WebP file")
        try:
            with path.open("rb") as file:
                image = cls(data=file.read(BYTES + 1))  # a pipe does not say beforehand how much it holds
            image.pixels.load()
        except Exception as error:  # Pillow raises many kinds for a damaged file
            remedy = "" if isinstance(error, DataError) else "; give a PNG, JPEG or WebP file"
            raise DataError(f"image {str(path)!r}: not a readable picture ({said(error)}){remedy}") from error
        return image

    def with_gap(self, box: Iterable[int]) -> Image:
        """Return this picture with the box (x0, y0, x1, y1) to be filled in. Raises `RequestError` for a bad box."""
        return dataclasses.replace(self, gap=check_box(tuple(box), self.pixels.size))

    def square(self, size: int, fit: Square = "crop") -> PIL.Image.Image:
        """Return it upright, RGB, at `size` x `size`; a large JPEG file is decoded no further than that needs.

        Within 40 dB (PSNR) of `cm3.picture.square` of its pixels, which are not decoded here. Raises `DataError`.
        """
        if self.data is None:
            return square(self.pixels, size, fit)
        return square_of_file(self.data, size, fit, name=self.name)

    def file(self) -> bytes:
        """Return the bytes of its file; of one that is of none, of a PNG of it, upright and RGB. Raises `DataError`."""
        if self.data is not None:
            return self.data
        saved = io.BytesIO()
        rgb(self.pixels).save(saved, "PNG")
        return saved.getvalue()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        same = self.pixels is other.pixels or (self.data is not None and self.data == other.data)
        return (same or self._shown == other._shown) and self.gap == other.gap

    def __hash__(self) -> int:
        return hash((self._shown, self.gap))

    def __reduce__(self) -> tuple[Any, ...]:
        pixels = self.pixels if self.data is None else None
        return partial(Image, pixels, self.gap, data=self.data, name=self.name, place=self.place), ()

    @cached_property
    def digest(self) -> bytes:
        """Return 16 bytes that stand for its file, which is not decoded; where it is of none, for what it shows."""
        if self.data is None:
            return self._shown
        return hashlib.sha256(self.data).digest()[:16]  # most processors have instructions for it

    @cached_property
    def _shown(self) -> bytes:
        """Return a digest of the mode, the size and the pixels; of a palette, the colours that the pixels have."""
        hashed = hashlib.blake2b(f"{self.pixels.mode} {self.pixels.size}".encode(), digest_size=16)
        try:
            for _, band in bands(self.pixels):
                hashed.update((band.convert("RGBA") if band.mode in ("P", "PA") else band).tobytes())
        except Exception as error:  # a lazily opened file may prove to be cut short only now
            raise DataError(
                f"image of mode {self.pixels.mode}: cannot be read ({said(error)}); save it again"
            ) from error
        return hashed.digest()


@dataclass(frozen=True)
class Gap:
    """A hole between parts, to be filled with text or with a picture; at the end of a document also "interleaved", with
    words and any number of pictures, in whatever order."""

    kind: Literal["text", "image", "interleaved"] = "text"

    def __post_init__(self) -> None:
        if self.kind not in ("text", "image", "interleaved"):
            raise RequestError(f"Gap kind {self.kind!r}: must be 'text', 'image' or 'interleaved'")


Part = Text | Image | Gap


@dataclass(frozen=True)
class Document:
    """Parts in reading order, with where they came from.

    `Document.of("a red circle", image)` is the usual way to make one.
    """

    parts: tuple[Part, ...]
    id: str = ""
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, *parts: str | PIL.Image.Image | Part, id: str = "", source: str = "", **meta: Any) -> Document:
        """Make a document of strings, PIL images and parts. Raises `RequestError` for anything else."""
        return cls(tuple(as_part(p) for p in parts), id=id, source=source, meta=meta)

    @property
    def text(self) -> str:
        """Return every `Text` part, joined."""
        return "".join(p.text for p in self.parts if isinstance(p, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """Return every `Image` part."""
        return tuple(p for p in self.parts if isinstance(p, Image))

    @property
    def has_gap(self) -> bool:
        """Tell whether anything is to be filled in."""
        return any(isinstance(p, Gap) or (isinstance(p, Image) and p.gap is not None) for p in self.parts)

    @property
    def interleaved(self) -> bool:
        """Tell whether words and pictures are to be written at its end."""
        return self.parts[-1:] == (Gap("interleaved"),)


@dataclass(frozen=True)
class Unreadable:
    """A document that cannot be kept, and why. A reader gives it in the document's place; who keeps them lists it."""

    id: str
    reason: str


def left_out(documents: Sequence[Unreadable], first: int = 10) -> dict[str, Any]:
    """Return the documents that cannot be kept as plain values: `count`, and the ids and reasons of the `first`."""
    return {"count": len(documents), "first": [{"id": one.id, "reason": one.reason} for one in documents[:first]]}


def check_text(value: Any, what: str = "its text") -> None:
    """Raise `DataError` for what is no text: a string with a lone surrogate or a NUL. Stores and banks keep none.

    Of another value of JSON, whose files spell NULs out, raise it for a lone surrogate in any of its strings.
    """
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise DataError(f"{what} is nested too deep to be written; flatten it") from error
    if found := _NO_TEXT.search(text):
        code = ord(found[0])
        kind = "a NUL character" if code == 0 else f"a lone surrogate U+{code:04X}, which is no character"
        raise DataError(f"{what} has {kind} (at {found.start()}); take it out")


def as_part(value: object) -> Part:
    """Return a string, PIL image or part, as a part. Raises `RequestError` for anything else."""
    if isinstance(value, Text | Image | Gap):
        return value
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, PIL.Image.Image):
        return Image(value)
    raise RequestError(f"a document part is a string, a picture, or a Text, Image or Gap; got {type(value).__name__}")


def check_box(box: tuple[int, ...], size: tuple[int, int]) -> Box:
    """Return `box` when it is four integers that enclose at least one pixel of a picture of `size` (width, height)."""
    width, height = size
    if len(box) != 4:
        raise RequestError(f"box {box}: takes four integers x0,y0,x1,y1, got {len(box)}")
    x0, y0, x1, y1 = (int(v) for v in box)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise RequestError(
            f"box {x0},{y0},{x1},{y1}: must lie inside the image, 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
        )
    return x0, y0, x1, y1
