"""Every benchmark runs at its smallest size and gives the table that docs/design.md section 6 promises."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_retrieval(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks/retrieval.py", "--n", "2000", "--index", "ivf", "--threads", "1"]
    ran = subprocess.run(
        [*command, "--work", tmp_path, "--json"], capture_output=True, text=True, timeout=110, env={**os.environ}
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    for row in report["rows"]:
        assert set(row) == {"name", "ours", "peer", "ratio", "unit"} and row["ratio"] > 0, row
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["recall@2 against exact"]["ours"] > 0.9
    assert rows["bytes a vector in the index"]["peer"] == 2048
    assert report["n"] == 2000 and report["open_s"] < 2 and report["build"]["index"]["kind"] == "ivf"
    assert report["build"]["peak_mb"] > 0


def test_int8() -> None:
    command = [sys.executable, ROOT / "benchmarks/int8.py", "--sizes", "test", "--rows", "1,2", "--rounds", "3"]
    command += ["--quality", "2", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=110, env={**os.environ})
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert all(set(row) == {"name", "ours", "peer", "ratio", "unit"} for row in report["rows"])
    nats = [row for row in report["rows"] if row["unit"] == "nats a token"]
    assert [row["name"] for row in report["rows"][:2]] == ["test, 1 rows", "test, 2 rows"] and len(nats) == 4
    assert all(abs(row["ratio"] - 1) < 0.1 for row in nats) and report["levels"] in (127, 255)
    ran = subprocess.run([*command, "--sizes", "big"], capture_output=True, text=True, timeout=110, env={**os.environ})
    assert ran.returncode == 2 and "--sizes big: must be of test, 10m, 85m, or none" in ran.stderr


@pytest.mark.slow
def test_describe(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks/describe.py", "--first", "3", "--pictures", "2", "--rounds", "1"]
    command += ["--threads", "1", "--cpu", "--json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([*command, "--before", ROOT], capture_output=True, text=True, timeout=110, env=env)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert [row["name"] for row in report["rows"]] == ["first token of 3 pictures", "2 pictures described"]
    assert all(row["ours"] > 0 and row["peer"] > 0 and row["ratio"] > 0 for row in report["rows"])
    ran = subprocess.run([*command, "--before", tmp_path], capture_output=True, text=True, timeout=110, env=env)
    assert ran.returncode == 1 and "give the root of a checkout" in ran.stderr


@pytest.mark.slow
def test_data(tmp_path: Path) -> None:
    command = [
        sys.executable,
        ROOT / "benchmarks/data.py",
        "--small",
        "--threads",
        "1",
        "--cpu",
        "--json",
        "--work",
        tmp_path,
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=110, env={**os.environ})
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    rows = {row["name"]: row for row in report["rows"]}
    images = rows.pop("images prepared")
    assert images["ours"] > 0 and (images["peer"] is None) == (importlib.util.find_spec("webdataset") is None)
    for row in rows.values():
        assert set(row) == {"name", "ours", "peer", "ratio", "unit"} and row["ratio"] > 0, row
    # 6 N + 6 L d s of the paper's 350M, whose tables are looked up but for the tied one.
    flops = 6 * (12 * 24 * 1024**2 + 65_536 * 1024) + 6 * 24 * 1024 * 1045
    assert report["h200"]["flops_a_token"] == pytest.approx(flops)
    assert rows["tokens packed: typical, 4096"]["peer"] == pytest.approx(989e12 * 0.45 / flops, rel=1e-6)
    # Three documents of 1,042 tokens fit 4,096, thirty-one fit 32,768; masks make them longer, by under a hundredth.
    for length, bound in ((4096, 3 * 1042 / 4096), (32768, 31 * 1042 / 32768)):
        assert rows[f"windows filled: pure, {length}"]["peer"] == pytest.approx(bound, abs=1e-4)
        assert 0.98 * bound < rows[f"windows filled: pure, {length}"]["ours"] < 1.01 * bound
    assert rows["windows filled: with texts, 32768"]["ours"] > 0.97


def test_data_without_the_peer(tmp_path: Path) -> None:
    (tmp_path / "webdataset.py").write_text("raise ImportError")
    command = [sys.executable, ROOT / "benchmarks/data.py", "--small", "--threads", "1", "--cpu", "--stage", "images"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [*command, "--work", tmp_path / "work"], capture_output=True, text=True, timeout=110, env=env, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr
    made = json.loads(ran.stdout.splitlines()[-1])
    assert made["peer_images_s"] is None and made["peer"] == "webdataset is not installed: pip install webdataset"
    assert made["images_s"] > 0 and made["tokenizer_share"] > 0


@pytest.mark.slow
def test_reliability() -> None:
    counts = {"damages": 60, "kills": 4, "loads": 30}
    command = [sys.executable, ROOT / "benchmarks/reliability.py", "--seed", "7", "--json"]
    command += [word for name, n in counts.items() for word in (f"--{name}", str(n))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=110, env={**os.environ})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    rows = {row["name"]: row for row in report["rows"]}
    for row in rows.values():
        assert row["wrong"] == 0 and row["told"] + row["right"] == row["tried"], row
    assert [row["tried"] for row in rows.values()] == [60, 60, 60, 4, 30]
    assert rows["damaged bundles"]["told"] > 40 and sum(rows["damaged bundles"]["ways"].values()) == 60
    assert rows["kills while a bundle is saved"]["right"] == 4 and rows["loads while it is replaced"]["right"] == 30
    assert report["of_the_one"] + report["of_the_other"] == 30
