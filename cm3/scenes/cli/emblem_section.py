"""Emblems on a sheet: the document that was found, what was drawn with it, and what was drawn without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cm3.cli.sheet import Section
    from cm3.scenes.eval.emblem_scores import Example


def emblem_section(examples: Sequence[Example]) -> Section:
    """Return a row of three panels for each example."""
    from cm3.cli.attribution import document_panel
    from cm3.cli.sheet import Line, Panel, Section, verdict

    panels = []
    for e in examples:
        panels.append(document_panel(e.found, "found"))
        for picture, ok, how in ((e.drawn, e.drawn_right, "with it"), (e.guessed, e.guessed_right, "without it")):
            words = (Line(e.case.prompt, "prompt"), Line(f"drawn {how}", "label"))
            panels.append(Panel(picture, (*words, verdict(ok, "shows the emblem", "shows something else"))))
    note = "Left the document of the bank, then the prompt drawn with it and without. No training saw these words."
    return Section("Named things that only a document shows", tuple(panels), note)
