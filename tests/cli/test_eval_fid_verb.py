"""`cm3 eval fid` on folders, banks, datasets and statistics, with a DINO of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import store_parts
import tiny_networks
from command import Cm3

from cm3.data.prepare import prepare


@pytest.fixture(scope="session")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_networks.dino(tmp_path_factory.mktemp("dino"))


def fill(folder: Path, n: int, seed: int) -> Path:
    """A folder with n pictures, one of them in a folder of its own, and what is no picture."""
    rng = np.random.default_rng(seed)
    (folder / "more").mkdir(parents=True)
    for i in range(n):
        shown = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        PIL.Image.fromarray(shown).save(folder / ("more" if i == 0 else "") / f"{i:02}.png")
    (folder / "prompts.jsonl").write_text('{"text": "words alone"}\n')
    return folder


def test_two_folders(cm3: Cm3, dino: Path, tmp_path: Path) -> None:
    made, true = fill(tmp_path / "made", 12, 0), fill(tmp_path / "true", 14, 1)
    ran = cm3("eval", "fid", made, true, "--features", dino, "--out", "result.json", "--json")
    assert ran.code == 0, ran.err
    assert set(ran.json["figures"]) == {"fid", "fid_bias", "precision", "recall", "mind"} and ran.json["n"] == 12
    assert "warning: fid of 12 predictions and 14 reference" in ran.err
    assert json.loads(Path("result.json").read_text()) == ran.json
    assert list(ran.json["items"]["precision"])[-1] == "more/00.png"
    one = cm3("eval", "fid", made, true, "--features", dino, "--measures", "fid", "--batch", "1", "--json").json
    assert one["figures"] == pytest.approx({n: ran.json["figures"][n] for n in ("fid", "fid_bias")}, rel=1e-4)
    plain = cm3("eval", "fid", made, true, "--features", dino, "--measures", "fid")
    assert plain.out.split()[:2] == ["fid", f"{one['figures']['fid']:.4f}"]
    other = cm3(
        "eval", "fid", made, true, "--features", dino, "--measures", "fid", "--antialias", "no", "--filter", "bilinear",
        "--crop", "none", "--size", "20", "--quantise", "no", "--colours", "stored", "--json",
    ).json  # fmt: skip
    named = {
        "antialias": False,
        "filter": "bilinear",
        "crop": "none",
        "size": 20,
        "quantise": False,
        "colours": "stored",
    }
    assert other["settings"].items() >= named.items() and other["figures"]["fid"] != one["figures"]["fid"]


def test_statistics_are_kept_and_taken(cm3: Cm3, dino: Path, tmp_path: Path) -> None:
    made, true = fill(tmp_path / "made", 12, 0), fill(tmp_path / "true", 14, 1)
    ran = cm3("eval", "fid", true, "--features", dino, "--save-stats", "true.npz", "--json")
    assert ran.code == 0 and ran.json["n"] == 14
    of_pictures = cm3("eval", "fid", made, true, "--features", dino, "--save-stats", "made.npz", "--json").json
    of_stats = cm3("eval", "fid", made, "true.npz", "--features", dino, "--json").json
    alone = cm3("eval", "fid", "made.npz", "true.npz", "--json").json
    for other in (of_stats, alone):
        assert other["figures"]["fid"] == pytest.approx(of_pictures["figures"]["fid"], rel=1e-6)
    assert set(of_stats["figures"]) == {"fid", "fid_bias"} and of_stats["settings"]["reference"] == "statistics"


def test_a_store_and_a_dataset_are_sets_too(cm3: Cm3, dino: Path, tmp_path: Path) -> None:
    true = fill(tmp_path / "true", 14, 1)
    (true / "prompts.jsonl").unlink()
    want = cm3("eval", "fid", true, true, "--features", dino, "--json").json
    assert want["figures"]["fid"] == pytest.approx(0, abs=1e-4)
    assert want["figures"]["precision"] == want["figures"]["recall"] == 1
    assert any("14 predictions show what a picture of the reference shows" in one for one in want["warnings"])
    made = fill(tmp_path / "made", 12, 0)
    want = cm3("eval", "fid", made, true, "--features", dino, "--json").json
    prepare([f"folder:{true}"], tmp_path / "store", None, pictures=True)
    got = cm3("eval", "fid", made, "store", "--features", dino, "--json").json
    assert got["figures"]["fid"] == pytest.approx(want["figures"]["fid"], rel=1e-4)
    store_parts.encoder(tmp_path / "encoder")
    assert cm3("index", "build", f"folder:{true}", "--out", "bank", "--encoder", "encoder").code == 0
    got = cm3("eval", "fid", made, "bank", "--features", dino, "--json").json
    assert got["figures"]["fid"] == pytest.approx(want["figures"]["fid"], rel=1e-4)
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    lines = []
    for at, path in enumerate(sorted(true.rglob("*.png"))):
        shutil.copyfile(path, pairs / f"{at}.png")
        lines.append(json.dumps({"text": f"picture {at}", "image": f"{at}.png"}))
    (pairs / "a.jsonl").write_text("\n".join(lines))
    got = cm3("eval", "fid", made, f"jsonl:{pairs}", "--features", dino, "--json").json
    assert got["figures"]["fid"] == pytest.approx(want["figures"]["fid"], rel=1e-4)


def test_bad_input_is_one_line(cm3: Cm3, dino: Path, tmp_path: Path) -> None:
    made = fill(tmp_path / "made", 5, 0)
    (tmp_path / "empty").mkdir()
    torn = fill(tmp_path / "torn", 5, 1)
    (torn / "03.png").write_bytes((torn / "03.png").read_bytes()[:60])
    words = fill(tmp_path / "words", 2, 1)
    for command, told in (
        (["made"], "no REFERENCE given; name the pictures to measure against, or --save-stats FILE"),
        (["made", "made"], "no --features given; name the file of FID's Inception"),
        (
            ["made", "made", "--features", "none.pth"],
            "features 'none.pth': no such file; FID's Inception is published at",
        ),
        (["made", "gone", "--features", dino], "'gone': no such file or folder"),
        (["made", "gone.npz", "--features", dino], "statistics 'gone.npz': no such file"),
        (["made", "empty", "--features", dino], "'empty': the folder holds no file that ends in .png"),
        (["torn", "made", "--features", dino], "image 'torn/03.png': not a readable picture"),
        (["made", "made", "--features", dino, "--measures", "fit"], "Did you mean 'fid'?"),
        (["made", "made", "--features", dino, "--k", "0"], "--k 0: must be at least 1"),
        (["made", "made", "--features", dino, "--size", "0"], "--size 0: must be at least 1"),
        (["made", "made", "--features", dino, "--k", "9"], "with k=9 need more than 9"),
        (["made", "--features", dino, "--save-stats", "a.txt"], "must end in .npz"),
        (["made", "--features", dino, "--save-stats", "made"], "--save-stats made: is a folder; give a file"),
        (["jsonl:words", "made", "--features", dino], "words: holds no picture"),
    ):
        ran = cm3("eval", "fid", *command)
        # transformers draws a bar where its weights were read before
        assert ran.code == 2 and told in ran.err.splitlines()[-1].rpartition("\r")[2], command
    assert made.is_dir() and words.is_dir()
