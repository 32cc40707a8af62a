"""Answers of words and pictures, in the order that a model wrote them: a folder for each, with a page that shows it.

NAME-SEED-0/    index.html    the prompt and the answer, to be looked at
                answer.json   what was asked, and the parts: {"text": ...} or {"image": "0.png"}
                0.png 1.png   the pictures of the answer, given-0.png those of the prompt
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm3.cli.outputs import Notes, free, png
from cm3.cli.page import whole
from cm3.document import Image, Part, Text
from cm3.errors import Cm3Error
from cm3.files import read_json, replacing_folder

if TYPE_CHECKING:
    import PIL.Image

ANSWER, INDEX = "answer.json", "index.html"
_STYLE = """
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 1rem 0; }
img { width: auto; max-width: 100%; min-width: min(100%, 16rem); border-radius: .6rem; margin: 1rem 0;
  image-rendering: pixelated; }
"""


def write_answer(
    folder: Path, words: Sequence[str], seed: int, number: int, asked: Sequence[Part], answer: Sequence[Part],
    notes: Notes, **more: str,
) -> dict[str, Any]:  # fmt: skip
    """Write one answer as the folder WORDS-SEED-NUMBER, whole or not at all; returns its `page`, `folder` and `parts`,
    with the names of its pictures' files.

    A folder of an answer to the same `notes`, seed and number is replaced; where the name is taken otherwise, a digest
    of them is put before the seed.
    """
    notes = {**notes, "seed": str(seed), "number": str(number)}
    place = free(folder, words, f"{seed}-{number}", notes, _made_from)
    given, made = list(_named(asked, "given-")), list(_named(answer, ""))
    page = {**notes, **more, "asked": [one for one, _ in given], "answer": [one for one, _ in made]}
    with replacing_folder(place) as building:
        for one, picture in (*given, *made):
            if picture is not None:
                (building / one["image"]).write_bytes(png(picture, {**notes, **more}))
        (building / ANSWER).write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
        (building / INDEX).write_text(_page(page), encoding="utf-8")
    parts = [{"image": str(place / one["image"])} if "image" in one else one for one, _ in made]
    return {"folder": str(place), "page": str(place / INDEX), "parts": parts}


def _named(parts: Sequence[Part], before: str) -> Iterator[tuple[dict[str, str], PIL.Image.Image | None]]:
    """Yield each part as JSON has it, and of a picture its pixels."""
    number = 0
    for part in parts:
        if isinstance(part, Text):
            yield {"text": part.text}, None
        elif isinstance(part, Image):
            yield {"image": f"{before}{number}.png"}, part.pixels
            number += 1


def _page(page: dict[str, Any]) -> str:
    """Return the HTML document of an answer."""
    title = " ".join(one["text"] for one in page["asked"] if "text" in one).strip()
    body = ["<h1>Asked</h1>", *map(_shown, page["asked"]), "<section><h1>Answer</h1>", *map(_shown, page["answer"])]
    if not page["answer"]:
        body.append('<p class="note">Nothing was written.</p>')
    about = f"model {page.get('model', '')}, seed {page['seed']}, number {page['number']}"
    body += ["</section>", f"<footer>{html.escape(about)}</footer></body>"]
    return whole(title, "\n".join(["<body>", *body]), _STYLE)


def _shown(one: dict[str, str]) -> str:
    if "text" in one:
        return f'<p class="text">{html.escape(one["text"])}</p>'
    return f'<img alt="picture" src="{html.escape(one["image"], quote=True)}">'


def _made_from(path: Path, asked: Notes) -> bool:
    """Tell whether a folder is an answer to this, and holds nothing else."""
    try:
        if path.is_symlink() or not path.is_dir():
            return False
        page = read_json(path / ANSWER, ANSWER)
        pictures = {one["image"] for one in (*page["asked"], *page["answer"]) if "image" in one}
        return {p.name for p in path.iterdir()} == {ANSWER, INDEX, *pictures} and asked.items() <= page.items()
    except (Cm3Error, OSError, LookupError, TypeError, AttributeError):
        return False
