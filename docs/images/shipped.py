"""Draws the pictures of what the models in the package make: demo.png and stickers.png of `stickers`, instructions.png,
samples.png and emblems.png of `scenes`.

    python docs/images/shipped.py docs/images

All are made with seeds that are written here, and marked by measuring pixels, as `cm3 demo` and `cm3 eval` do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image

import cm3
from cm3.cli.outputs import SHEET, png
from cm3.cli.sheet import Line, Panel, Section, sheet, verdict
from cm3.generate import CM3Leon
from cm3.scenes.cli.demo_tasks import task_sections
from cm3.scenes.cli.emblem_section import emblem_section
from cm3.scenes.eval.emblem_scores import make_examples
from cm3.scenes.eval.scene_cases import said
from cm3.scenes.sentences import parse
from cm3.scenes.verify import verify
from cm3.stickers.cli.demo import PROMPTS, Shown, followed, not_shown
from cm3.stickers.eval.sticker_cases import cases

SAMPLES, SEED = 24, 7
HEAD = 80
"""Rows of a sheet without a title that are left out."""


def smaller(line: Line) -> Line:
    """A prompt in the size of the others."""
    return Line(line.text) if line.style == "prompt" else line


def drawn(
    model: CM3Leon, prompts: list[str], seeds: list[int], right: Callable[[PIL.Image.Image, str], bool]
) -> tuple[Panel, ...]:
    """A panel for each prompt, marked by what `right` says of its picture."""
    made = model.generate_many(prompts, seeds=seeds)
    shown = [right(one.image, prompt) for one, prompt in zip(made, prompts, strict=True)]
    return tuple(
        Panel(one.image, (Line(prompt), verdict(ok, "as asked", "not as asked")))
        for one, prompt, ok in zip(made, prompts, shown, strict=True)
    )


def save(folder: Path, name: str, sections: list[Section], side: int, columns: int = 6) -> None:
    """Write a sheet without a title, in all its colours: a palette turns small things to mush."""
    whole = sheet(sections, "", columns=columns, side=side)
    whole = whole.crop((0, HEAD, whole.width, whole.height))
    (folder / name).write_bytes(png(whole, SHEET))


def scene(picture: PIL.Image.Image, prompt: str) -> bool:
    """Whether a picture shows the scene that a prompt says."""
    return verify(picture, parse(prompt)).ok


def stickers(folder: Path) -> None:
    """Draw the first prompts of the evaluation of stickers, and those of the demo beside six edits."""
    model = cm3.load("stickers")
    asked = list(cases("text_to_image", SEED, SAMPLES // 2, "test", model.image_size))
    prompts, seeds = [case.caption for case in asked], [case.seed for case in asked]
    panels = drawn(model, prompts, seeds, lambda picture, prompt: not not_shown(picture, prompt))
    title = f"The first {len(panels)} prompts of the evaluation, seed {SEED}"
    save(folder, "stickers.png", [Section(title, panels)], 192)
    words = drawn(
        model, list(PROMPTS), list(range(len(PROMPTS))), lambda picture, prompt: not not_shown(picture, prompt)
    )
    edits = [panel for one in followed(model, Shown("edit", "edit", 6), 0, {}) for panel in one.panels]
    changed = tuple(Panel(p.picture, tuple(map(smaller, p.lines))) for p in edits)
    save(folder, "demo.png", [Section("From words", words), Section("From a picture and an instruction", changed)], 192)


def main(folder: Path) -> None:
    """Draw all five."""
    stickers(folder)
    model = cm3.load("scenes")
    rng = np.random.default_rng([SEED, 0])
    said_cases = [said(rng, "test", model.image_size) for _ in range(SAMPLES)]
    panels = drawn(model, [case.caption for case in said_cases], [case.seed for case in said_cases], scene)
    save(folder, "samples.png", [Section(f"The first {SAMPLES} prompts of the evaluation, seed {SEED}", panels)], 160)

    _, sections = task_sections(model, 0)
    save(folder, "instructions.png", sections, 160)
    save(folder, "emblems.png", [emblem_section(make_examples(model, 6, SEED))], 256, columns=3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
