"""`cm3 inspect`: what weights are, in words and as JSON."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from command import Cm3
from safetensors.torch import save_file

from cm3.cli.inspect_weights import lines
from cm3.model.bundle import find


def test_a_bundle_is_described_in_words_and_as_json(cm3: Cm3) -> None:
    ran = cm3("inspect", find("scenes"))
    assert ran.code == 0
    named = dict(line.split(maxsplit=1) for line in ran.out.splitlines() if not line.startswith(" "))
    assert named["what"] == "CM3Leon bundle" and named["whole"] == "yes"
    assert {"files", "shape", "q,", "ids", "images"} <= named.keys()
    told = cm3("inspect", find("scenes"), "--json").json
    assert told["whole"] is True and told["kind"] == "bundle" and len(told["files"]) == 2
    assert cm3("inspect", "scenes", "--json").json == told
    assert "and no embedded bundle of that name" in cm3("inspect", "scense").refusal


def test_other_weights_and_what_is_none(cm3: Cm3, tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    ran = cm3("inspect", "a.safetensors")
    assert ran.code == 0 and "1 tensors" in ran.out and "2 bfloat16" in ran.out and "whole" not in ran.out
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:-1])
    assert "is cut short" in cm3("inspect", "a.safetensors").refusal
    assert "there is no such file" in cm3("inspect", "b.safetensors").refusal


def test_the_exit_code_says_whether_weights_are_whole(cm3: Cm3, tmp_path: Path) -> None:
    shutil.copytree(find("scenes"), tmp_path / "b")
    (tmp_path / "b/tokenizer.json").write_text("{}")
    ran = cm3("inspect", "b", "--json")
    assert ran.code == 2 and ran.json["whole"] is False and "tokenizer.json was altered" in ran.json["wrong"][0]
    ran = cm3("inspect", "b")
    assert ran.code == 2 and "whole     no" in ran.out and "shape     " in ran.out and ran.err == ""


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((None, "cannot tell", 1.2, None, "cannot tell"), "cannot tell from these numbers; this layout has pairs"),
        (
            ("pairs", "sure", 31.0, "as rows", "likely"),
            "in pairs (sure: 31.0 standard errors); this layout has pairs; ",
        ),
        (("halves", "likely", 4.0, "other", "sure"), "norms in the other order (sure)"),
    ],
)
def test_orders_of_rows_in_words(rows: tuple[str | None, str, float, str | None, str], said: str) -> None:
    names = ("order", "sure", "errors", "norms", "norms_sure")
    found = {"kind": "language model", "family": "Chameleon", "layout": "chameleon-meta", "whole": True, "wrong": []}
    told = dict(lines(found | {"rows": dict(zip(names, rows, strict=True)) | {"expected": "pairs"}}))
    assert said in told["q, k"] and told["what"] == "Chameleon language model, layout chameleon-meta"
