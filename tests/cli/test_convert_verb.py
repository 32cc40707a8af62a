"""`cm3 convert`: one command into a bundle, one out again; what is wrong is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from command import Cm3

sys.path.append(str(Path(__file__).parents[1] / "convert"))
from published_folders import CODES, IDS, SIDE, TEXT, meta_folder, small  # noqa: E402


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
        (["--to", "bundle", "--quantizer", "l2", "--pixels", "0..1"], "--quantizer, --pixels: for an image tokenizer"),
        (["--to", "bundle", "--size", "64"], "size=64: is for Lumina-mGPT, and this model has pictures of one size"),
        (["--to", "image-tokenizer", "--dtype", "bfloat16"], "--dtype: for a language model"),
        (["--to", "image-tokenizer"], "give the file, or the folder that has it"),
    ],
)
def test_what_is_wrong_is_one_line(cm3: Cm3, downloaded: Path, tmp_path: Path, options: list[str], told: str) -> None:
    ran = cm3("convert", downloaded, "made", *options)
    assert told in ran.refusal
    assert list(tmp_path.iterdir()) == []


def test_an_image_tokenizer_by_itself(cm3: Cm3, downloaded: Path, tmp_path: Path) -> None:
    file = downloaded / "tokenizer/vqgan.ckpt"
    made = cm3("convert", file, "vq", "--to", "image-tokenizer", "--json")
    assert made.code == 0, made.err
    told = made.json
    assert (told["from"], told["codes"], told["size"], told["factor"]) == ("chameleon", CODES, SIDE, 16)
    assert cm3("inspect", "vq", "--json").json["layout"] == "ours"
    again = cm3("convert", file, "vq", "--to", "image-tokenizer", "--size", "64")
    assert again.code == 0 and "64 pixels, 16 a code" in again.out
    assert "must be a multiple of 16" in cm3("convert", file, "v", "--to", "image-tokenizer", "--size", "60").refusal
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vq"]


def test_norms_that_were_averaged_are_told(cm3: Cm3, tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "data", small(shards=2))
    path = root / "models/7b/consolidated.01.pth"
    shard = torch.load(path, weights_only=True)
    shard["norm.weight"] = shard["norm.weight"] * (1 + 1 / 256)
    torch.save(shard, path)
    ran = cm3("convert", root, "made", "--to", "bundle")
    assert ran.code == 0 and ran.err.startswith("cm3: 1 norm differs between Meta's files")
    for path in (root, "made"):
        assert "norms     1 norm differs between Meta's files" in cm3("inspect", path).out
