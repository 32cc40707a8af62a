"""Guides of a picture, from files: boxes with names, or a control image; and boxes drawn, to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cm3.document import Image
from cm3.errors import RequestError, did_you_mean
from cm3.files import parse_json

if TYPE_CHECKING:
    import PIL.Image

    from cm3.tasks import Task
    from cm3.tasks.boxes import Objects

INKS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#00a5b5", "#d900a8", "#7a5200", "#5c7f00", "#1b1c22")
"""Colours of boxes on a sheet, in turn."""


def read_boxes(given: str) -> Objects:
    """Return the things of a JSON file `[[name, [x1, y1, x2, y2]], ...]`, or of such JSON itself.

    Raises `RequestError` for a file that cannot be read or holds anything else, and for a box outside 0..255 or
    inverted.
    """
    from cm3.tasks.boxes import check_place

    rule = "must be a list of [name, [x1, y1, x2, y2]]"
    itself = given.lstrip().startswith("[")
    path = "JSON" if itself else given
    try:
        found = parse_json(given if itself else Path(given).read_bytes(), f"--boxes {path}", RequestError)
    except OSError as error:
        raise RequestError(f"--boxes {path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # no name of a file
        raise RequestError(f"--boxes {path}: cannot be read ({error}); check the path") from error
    if not isinstance(found, list) or not found:
        raise RequestError(f"--boxes {path}: {rule}, at least one")
    objects = []
    for number, one in enumerate(found):
        if not isinstance(one, list) or len(one) != 2 or not isinstance(one[0], str) or not isinstance(one[1], list):
            raise RequestError(f"--boxes {path}: entry {number} is {json.dumps(one)[:60]}; the file {rule}")
        if not one[0].strip():
            raise RequestError(f"--boxes {path}: entry {number} has no name; say what is to be there")
        objects.append((one[0].strip(), check_place(one[1], f"--boxes {path}: box of {one[0]!r}")))
    return objects


def read_control(given: str) -> tuple[Task, Image]:
    """Return the task and the picture of `KIND=FILE`. Raises `RequestError` for another form or an unknown kind,
    `DataError` for a file that is no picture."""
    from cm3.tasks import TASKS

    known = [name for name, task in TASKS.items() if task.control]
    kind, equals, file = given.partition("=")
    if not equals or not file:
        raise RequestError(f"--control {given}: must be KIND=FILE, such as canny=edges.png; kinds: {', '.join(known)}")
    if kind not in known:
        near = did_you_mean(kind, known)
        raise RequestError(f"--control {given}: {kind!r} is no control image; known: {', '.join(known)}.{near}")
    return TASKS[kind], Image.open(file)


def outlined(picture: PIL.Image.Image, objects: Objects, side: int = 256) -> PIL.Image.Image:
    """Return a picture, scaled to `side`, with boxes and names drawn on it."""
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

    from cm3.tasks.boxes import SIDE

    made = picture.convert("RGB").resize((side, side), PIL.Image.Resampling.LANCZOS)
    pen, font, scale = PIL.ImageDraw.Draw(made), PIL.ImageFont.load_default(max(10, side // 22)), side / SIDE
    for number, (name, (x1, y1, x2, y2)) in enumerate(objects):
        ink = INKS[number % len(INKS)]
        box = [round(x1 * scale), round(y1 * scale), round((x2 + 1) * scale) - 1, round((y2 + 1) * scale) - 1]
        pen.rectangle(box, outline=ink, width=max(1, side // 128))
        if name:
            left, top, right, bottom = pen.textbbox((0, 0), name, font=font)
            wide, high = right - left + 4, bottom - top + 4
            # Above the box, where there is room, and within the picture.
            x, y = min(box[0], side - wide), box[1] - high if box[1] >= high else box[1]
            pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=ink)
            pen.text((x + 2 - left, y + 2 - top), name, fill="#ffffff", font=font)
    return made


def blank(objects: Objects, side: int = 256) -> PIL.Image.Image:
    """Return boxes on an empty page."""
    import PIL.Image

    return outlined(PIL.Image.new("RGB", (side, side), "#f4f4f7"), objects, side)
