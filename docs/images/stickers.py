"""Draws stickers.png: what the model `stickers` makes of the first prompts of its evaluation, seed 7.

    python docs/images/stickers.py docs/images [MODEL]

Each is marked by measuring pixels, as `cm3 eval stickers` does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cm3
from cm3.cli.outputs import SHEET, png
from cm3.cli.sheet import Line, Panel, Section, sheet, verdict
from cm3.stickers.cli.demo import not_shown
from cm3.stickers.eval.sticker_cases import cases

SAMPLES, SEED = 12, 7
HEAD = 80
"""Rows of a sheet without a title that are left out."""


def main(folder: Path, name: str = "stickers") -> None:
    """Draw it."""
    model = cm3.load(name)
    asked = list(cases("text_to_image", SEED, SAMPLES, "test", model.image_size))
    drawn = model.generate_many([case.caption for case in asked], seeds=[case.seed for case in asked])
    panels = []
    for one, case in zip(drawn, asked, strict=True):
        why = not_shown(one.image, case.caption)
        panels.append(Panel(one.image, (Line(case.caption), verdict(not why, "as asked", "not as asked"))))
    title = f"The first {SAMPLES} prompts of the evaluation, seed {SEED}"
    whole = sheet([Section(title, tuple(panels))], "", columns=6, side=192)
    # In all its colours: a palette turns small things to mush.
    (folder / "stickers.png").write_bytes(png(whole.crop((0, HEAD, whole.width, whole.height)), SHEET))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
