"""Writes a folder of captioned pictures to try things on: 24 sheets of stickers, each a PNG and its caption in a .txt.

    python docs/examples/stickers.py FOLDER

The first one is of the README's example: a small owl at the top left, on a mint ground.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cm3.stickers.drawing import draw
from cm3.stickers.sentences import describe
from cm3.stickers.world import Sheet, Sticker, random_sheet

OWL = Sheet("mint", (Sticker("top left", "owl", "small"),))


def main(folder: Path, number: int = 24, seed: int = 0) -> None:
    """Write them; the same each time."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        sheet = random_sheet(rng, "train") if i else OWL
        draw(sheet, 256).save(folder / f"sheet-{i:02d}.png")
        (folder / f"sheet-{i:02d}.txt").write_text(describe(sheet, rng) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
