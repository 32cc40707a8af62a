"""docs/stickers.md lists the kinds as they are, those that no training shows in italics."""

from __future__ import annotations

import re
from pathlib import Path

from cm3.stickers.artwork import COLOURS, DRAWINGS, GROUPS, KINDS, SHAPES
from cm3.stickers.world import GROUNDS, HELD_OUT

PAGE = (Path(__file__).parents[2] / "docs/stickers.md").read_text()


def test_the_page_lists_every_kind() -> None:
    listed = {group: re.search(rf"^- \*\*{group}\*\*: ((?:.|\n  )+)", PAGE, re.M) for group in GROUPS[:-1]}
    found = {g: re.split(r",\s+", " ".join(hit[1].split())) if hit else [] for g, hit in listed.items()}
    for group, names in found.items():
        assert [n.strip("*") for n in names] == [n for n in DRAWINGS if KINDS[n].group == group]
    assert {n.strip("*") for names in found.values() for n in names if n.startswith("*")} == set(HELD_OUT)


def test_the_page_names_shapes_colours_and_grounds() -> None:
    for word in (*SHAPES, *COLOURS, *GROUNDS):
        assert re.search(rf"\b{word}\b", PAGE), word
