"""docs/stickers.md lists the kinds as they are, and the page of the server proposes what the model knows."""

from __future__ import annotations

import re
from pathlib import Path

from cm3.generate.known_world import World
from cm3.stickers.artwork import COLOURS, DRAWINGS, GROUPS, KINDS, SHAPES
from cm3.stickers.knows import WORDS
from cm3.stickers.world import GROUNDS, HELD_OUT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/stickers.md").read_text()


def test_the_page_lists_every_kind() -> None:
    listed = {group: re.search(rf"^- \*\*{group}\*\*: ((?:.|\n  )+)", PAGE, re.M) for group in GROUPS[:-1]}
    found = {g: re.split(r",\s+", " ".join(hit[1].split())) if hit else [] for g, hit in listed.items()}
    for group, names in found.items():
        assert [n.strip("*") for n in names] == [n for n in DRAWINGS if KINDS[n].group == group]
    assert {n.strip("*") for names in found.values() for n in names if n.startswith("*")} == set(HELD_OUT)


def test_the_page_names_shapes_colours_and_grounds() -> None:
    for word in (*SHAPES, *COLOURS, *GROUNDS):
        assert re.search(rf"\b{word}\b", PAGE), word


def test_the_examples_of_the_server_s_page_are_of_its_words() -> None:
    script = (ROOT / "cm3/serve/page/examples.js").read_text()
    (block,) = re.findall(r"const STICKERS = \{.*?\n\};", script, re.DOTALL)
    world, seen = World("stickers", WORDS), 0
    for line in block.splitlines():
        for prompt in re.findall(r'prompt: "(.*?)"', line):
            unknown, seen = set(world.unknown(prompt.replace("<gap>", ""))), seen + 1
            looked_up = "retrieve: 1" in line or "search: [" in line
            assert unknown <= (set(HELD_OUT) if looked_up else set()), prompt
    assert seen > 8
