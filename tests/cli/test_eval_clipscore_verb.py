"""`cm3 eval clipscore` on pictures beside a .jsonl and with .txt files, by a small encoder of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import store_parts
from command import Cm3


def test_two_layouts_of_the_same_pairs(cm3: Cm3, tmp_path: Path) -> None:
    store_parts.encoder(tmp_path / "encoder")
    store_parts.photos(tmp_path / "photos", 6)
    ran = cm3("eval", "clipscore", "folder:photos", "--encoder", "encoder", "--out", "result.json", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["n"] == 6 and set(ran.json["figures"]) == {"clipscore", "cosine"}
    assert json.loads(Path("result.json").read_text()) == ran.json
    lines = []
    for path in sorted(Path("photos").glob("*.txt")):
        [picture] = [p for p in Path("photos").glob(f"{path.stem}.*") if p.suffix not in (".txt", ".json")]
        lines.append(json.dumps({"image": picture.name, "caption": path.read_text(), "id": path.stem}))
    Path("photos/all.jsonl").write_text("\n".join(lines))
    other = cm3("eval", "clipscore", "jsonl:photos", "--encoder", "encoder", "--json").json
    assert other["figures"] == pytest.approx(ran.json["figures"], abs=1e-5)
    few = cm3("eval", "clipscore", "jsonl:photos", "--encoder", "encoder", "--batch", "1", "--json").json
    assert few["figures"] == pytest.approx(ran.json["figures"], abs=1e-5)


def test_bad_input_is_one_line(cm3: Cm3, tmp_path: Path) -> None:
    store_parts.encoder(tmp_path / "encoder")
    store_parts.photos(tmp_path / "photos", 3)
    ask = ("eval", "clipscore", "jsonl:photos", "--encoder")
    Path("photos/a.jsonl").write_text('{"text": "no picture", "id": "7"}\n')
    assert "document '7': has 0 pictures and a caption; give one picture with a caption" in cm3(*ask, "encoder").refusal
    Path("photos/a.jsonl").write_text('{"text": "gone", "image": "gone.png", "id": "7"}\n')
    assert "document '7': a.jsonl:1: gone.png: no such file" in cm3(*ask, "encoder").refusal
    assert "encoder 'none/': no such folder" in cm3(*ask, "none/").refusal
    assert "--batch 0: must be at least 1" in cm3(*ask, "encoder", "--batch", "0").refusal
