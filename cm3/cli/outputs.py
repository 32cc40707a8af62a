"""Output: checked before the work starts, and never written over what another command made.

A picture carries what it was made from in its text chunks (`Notes`), so a file tells whose it is. The same command
given again replaces its own pictures; where a name is taken by anything else, the picture gets another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm3 import files as disk
from cm3.errors import DataError, RequestError

if TYPE_CHECKING:
    import PIL.Image

Notes = Mapping[str, str]
"""Settings that a picture was made from, by name: prompt, seed, model, ..."""
SHEET = {"made": "cm3 sheet"}
"""Notes of sheets and charts: these, and nothing else, are replaced by a sheet."""
LENGTH = 48
"""Most characters of a name made of words."""


def line(text: str) -> str:
    """Return a stranger's words on one line, without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise `RequestError` where `folder` cannot be made or written to. It is tried; nothing stays behind."""
    made: list[Path] = []
    try:
        made = disk.check_folder(folder, f"{option} {folder}", RequestError)
        for missing in reversed(made):
            missing.mkdir(exist_ok=True)
        probe = folder / f".cm3.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{option} {folder}: cannot be written to ({reason}); choose another folder") from error
    finally:
        for missing in made:
            with contextlib.suppress(OSError):
                missing.rmdir()


def check_sheet(path: Path, option: str = "--sheet") -> None:
    """Raise `RequestError` where a sheet cannot be written, or would replace anything but a sheet."""
    if path.is_dir():
        raise RequestError(f"{option} {path}: is a folder; give a file, such as {path / 'a.png'}")
    check_folder(path.parent, option)
    if os.path.lexists(path) and not _made_from(path, SHEET):
        raise RequestError(f"{option} {path}: is there, and is no sheet that cm3 wrote; give another name")


def write_sheet(path: Path, picture: PIL.Image.Image) -> None:
    """Write a sheet or a chart, once `check_sheet` has let it pass."""
    disk.write(path, png(picture, SHEET))


def png(picture: PIL.Image.Image, notes: Notes | None = None) -> bytes:
    """Return a picture as the bytes of a PNG file, with notes (prompt, seed) in its text chunks, and the codes that it
    was drawn from."""
    from cm3.tokens.noted import png_notes

    buffer = io.BytesIO()
    told = {name: _utf8(text) for name, text in (notes or {}).items()}
    picture.save(buffer, "PNG", pnginfo=png_notes(picture, told))
    return buffer.getvalue()


def write_all(
    folder: Path, words: Sequence[str], seed: int, pictures: Sequence[PIL.Image.Image], notes: Notes, **more: str
) -> list[str]:
    """Write pictures as WORDS-SEED-0.png, WORDS-SEED-1.png and on; returns the files' names.

    Each has `notes`, `seed`, its `number` and `more` inside. One made from the same notes, seed and number is replaced.
    Where the name is taken otherwise, a digest of them is put before the seed.
    """
    files = []
    for i, picture in enumerate(pictures):
        asked = {**notes, "seed": str(seed), "number": str(i)}
        files.append(free(folder, words, f"{seed}-{i}.png", asked, _made_from))
        disk.write(files[-1], png(picture, {**asked, **more}))
    return [str(file) for file in files]


def slug(text: str) -> str:
    """Return a file name of a text: its words in lower case, joined with dashes, cut between words.

    Where words are cut off, or hold letters that a plain name has not, a digest of the whole text tells it from others.
    """
    name = "-".join(re.findall(r"[a-z0-9]+", text.lower())) or "picture"
    if len(name) <= LENGTH and text.isascii():
        return name
    mark = _digest(text)
    return f"{name[: LENGTH - len(mark)].rsplit('-', 1)[0]}-{mark}"


def settings_note(settings: Mapping[str, object]) -> dict[str, str]:
    """Return a note of the settings that were given, but for the seed, which has a note of its own."""
    told = {name: value for name, value in settings.items() if value is not None and name != "seed"}
    return {"settings": json.dumps(told, sort_keys=True)}


def picture_note(picture: PIL.Image.Image) -> dict[str, str]:
    """Return a note of what a picture that was given shows, whatever its file is called."""
    shown = picture.convert("RGBA")
    return {"given": hashlib.sha256(f"{shown.size}".encode() + shown.tobytes()).hexdigest()}


def free(folder: Path, words: Sequence[str], end: str, asked: Notes, made_from: Callable[[Path, Notes], bool]) -> Path:
    """Return the first of the names WORDS-END that is not taken, or taken by what was made from the same; `made_from`
    tells whether it was."""
    name, mark = "-".join(map(slug, words)), _digest(json.dumps(asked, sort_keys=True))
    more = itertools.chain(("", f"-{mark}"), (f"-{mark}-{i}" for i in itertools.count(2)))
    places: Iterator[Path] = (folder / f"{name}{one}-{end}" for one in more)
    return next(p for p in places if not os.path.lexists(p) or made_from(p, asked))


def _made_from(path: Path, asked: Notes) -> bool:
    """Tell whether a file is a PNG with these notes; what cannot be read is somebody else's."""
    from cm3.picture import open_picture

    if not path.is_file() or path.is_symlink():
        return False
    try:
        with path.open("rb") as file:
            if file.read(8) != b"\x89PNG\r\n\x1a\n":
                return False
            file.seek(0)
            told = open_picture(file.read()).info
    except (OSError, DataError):
        return False
    return all(told.get(name) == _utf8(text) for name, text in asked.items())


def _digest(text: str) -> str:
    return hashlib.sha256(_utf8(text).encode()).hexdigest()[:6]


def _utf8(text: str) -> str:
    """Spell out what is no text: names of files may hold such bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
