"""Output: checked before the work starts, written whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm3.errors import RequestError

if TYPE_CHECKING:
    import PIL.Image


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise `RequestError` where `folder` can not be made or written to. Makes nothing."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise RequestError(f"{option} {folder}: {place} is a file; give a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RequestError(f"{option} {folder}: no permission to write in {place}; choose another folder")


def write(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def png(picture: PIL.Image.Image, notes: Mapping[str, str] | None = None) -> bytes:
    """A picture as the bytes of a PNG file, with notes (prompt, seed) in its text chunks."""
    import io

    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in (notes or {}).items():
        info.add_itxt(name, text)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def write_all(
    folder: Path, name: str, pictures: Sequence[PIL.Image.Image], notes: Mapping[str, str] | None = None
) -> list[str]:
    """Write pictures as NAME-0.png, NAME-1.png and on, each with notes and its `number`; returns the files' names."""
    files = [folder / f"{name}-{i}.png" for i in range(len(pictures))]
    for i, (file, picture) in enumerate(zip(files, pictures, strict=True)):
        write(file, png(picture, {**(notes or {}), "number": str(i)}))
    return [str(file) for file in files]


def slug(text: str, length: int = 48) -> str:
    """A file name of a prompt: its words in lower case, joined with dashes, cut between words."""
    name = "-".join(re.findall(r"[a-z0-9]+", text.lower()))
    return (name if len(name) <= length else name[: length + 1].rsplit("-", 1)[0]) or "picture"
