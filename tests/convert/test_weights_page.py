"""docs/weights.md says of image tokenizers what the code takes for granted, and names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

from cm3.convert.image_layouts import LAYOUTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/weights.md").read_text(encoding="utf-8")
RULES = {"nearest": "vq", "Gumbel": "gumbel", "unit vectors": "l2", "largest product": "ibq"}
ROWS = {
    "Chameleon": "chameleon",
    "taming, `vqgan_imagenet": "taming",
    "taming, `vqgan_gumbel": "gumbel",
    "latent diffusion": "taming",
    "open-muse": "open-muse",
    "LlamaGen": "llamagen",
    "Janus": "janus",
    "SEED-Voken": "ibq",
}


def test_the_table_of_image_tokenizers_is_the_one_in_the_code() -> None:
    table = PAGE.split("## Image tokenizers")[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    assert len(rows) == 1 + len(ROWS), "a header, and a row each"
    for row, (start, layout) in zip(rows[1:], ROWS.items(), strict=True):
        facts = LAYOUTS[layout]
        assert row[0].startswith(start)
        assert (int(row[3]), RULES[row[4]]) == (facts.size, facts.quantizer), row[0]
        assert row[5].replace(" to ", "..") == facts.pixels, row[0]
    assert set(LAYOUTS) - set(ROWS.values()) == {"transformers-chameleon", "transformers-janus"}


def test_the_page_names_files_that_are_there() -> None:
    named = re.findall(r"`((?:cm3|tests|docs)/[\w./*]+)`", PAGE)
    assert len(named) >= 3
    assert [name for name in named if not list(ROOT.glob(name))] == []
