"""`cm3 convert`: one command into a bundle, one out again; what is wrong is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command import Cm3

sys.path.append(str(Path(__file__).parents[1] / "convert"))
from published_folders import IDS, TEXT, meta_folder, small  # noqa: E402


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_folder(tmp_path_factory.mktemp("download") / "data", small(shards=2))


def test_into_a_bundle_and_out_again(cm3: Cm3, downloaded: Path, tmp_path: Path) -> None:
    made = cm3("convert", downloaded, "made", "--to", "bundle", "--json")
    assert made.code == 0, made.err
    told = made.json
    assert (told["out"].endswith("made"), told["from"], told["shards"]) == (True, "chameleon-meta", 2)
    assert (told["layers"], told["heads"], told["order"], told["vocabulary"]) == (2, 8, "pre", IDS)
    back = cm3("convert", "made", "back", "--to", "chameleon-meta", "--shards", "2")
    assert back.code == 0, back.err
    assert "2 layers of 32, 8 heads, pre" in back.out
    assert (tmp_path / "back/tokenizer/text_tokenizer.json").read_bytes() == TEXT
    assert json.loads((tmp_path / "back/consolidate_params.json").read_text()) == {"model_parallel_size": 2}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--to", "chameleon-meta", "--shards", "0"], "--shards"),
        (["--to", "chameleon-meta", "--shards", "1"], "2 groups of query-key norms"),
        (["--to", "bundle", "--image-tokenizer", "none.ckpt"], "none.ckpt"),
    ],
)
def test_what_is_wrong_is_one_line(cm3: Cm3, downloaded: Path, tmp_path: Path, options: list[str], told: str) -> None:
    ran = cm3("convert", downloaded, "made", *options)
    assert told in ran.refusal
    assert list(tmp_path.iterdir()) == []
