"""Writes a folder of captioned pictures to try things on: 24 scenes, each a PNG and its caption in a .txt of that name.

    python docs/examples/scenes.py FOLDER

The first one is of the README's example: a small white star at the top left on a mint ground.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cm3.scenes import Object, Scene, describe, draw, random_scene

STAR = Scene("mint", (Object("top left", "star", "white", "small"),))


def main(folder: Path, number: int = 24, seed: int = 0) -> None:
    """Write them; the same each time."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        scene = random_scene(rng) if i else STAR
        draw(scene, 128).save(folder / f"scene-{i:02d}.png")
        (folder / f"scene-{i:02d}.txt").write_text(describe(scene, rng) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
