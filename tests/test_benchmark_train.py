"""benchmarks/train.py: both sides learn from the same documents, and it refuses to time what is not equal."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forks import python

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "train.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_training", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_windows_hold_whole_documents_or_one_each(bench: ModuleType) -> None:
    config = bench.shape("test", 128)
    vocab = bench.words(config)
    assert vocab.size == config.vocab_size
    rows = bench.documents(128, 3, vocab, np.random.default_rng(0))
    batch = bench.windows_of(rows, 128, vocab.pad)
    for i, row in enumerate(rows):
        assert len(row) > 1 and sum(len(d) for d in row) <= 128
        for number, tokens in enumerate(row, start=1):
            here = batch["documents"][i] == number
            assert batch["ids"][i, here].tolist() == tokens.tolist()
            assert batch["positions"][i, here].tolist() == list(range(len(tokens)))
            assert batch["targets"][i, here].tolist() == [*tokens[1:].tolist(), -100]
        assert (batch["ids"][i, batch["documents"][i] == 0] == vocab.pad).all()
    single = bench.documents(128, 3, vocab, np.random.default_rng(0), True)
    assert [[len(d) for d in row] for row in single] == [[128]] * 3


def test_what_is_not_equal_is_not_timed(bench: ModuleType) -> None:
    config = bench.shape("test", 64)
    rows = bench.documents(64, 1, bench.words(config), np.random.default_rng(0))
    ours = bench.Ours(config, rows, 64, "cpu")
    peer = SimpleNamespace(name="packed float32", take=lambda model: None, logits=ours.logits, loss=ours.loss)
    assert bench.check(ours, peer) == {"logits": 0.0, "loss": 0.0}
    peer.loss = lambda: ours.loss() + 0.01
    with pytest.raises(
        SystemExit, match=r"^the two models differ: .*'loss': 0.01.*\(packed float32\); nothing was timed$"
    ):
        bench.check(ours, peer)
    peer.loss = lambda: torch.tensor(float("nan"))
    with pytest.raises(SystemExit, match="the two models differ"):
        bench.check(ours, peer)


def test_processor_seconds_are_of_one_thread(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--cpu", "--threads", "2"])
    assert "give --threads 1, and --device cpu" in capsys.readouterr().err


def test_a_ratio_over_one_is_better(bench: ModuleType) -> None:
    assert bench.row("tokens", 3.0, 2.0, "tokens/s")["ratio"] == 1.5
    assert bench.row("memory", 3.0, 2.0, "MB", less=True)["ratio"] == 0.667


def test_the_table(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared is the faster way of the peer in each number type, and the best of each side, in memory too."""
    half = {"ours bfloat16": 0.5, "packed bfloat16": 0.8, "padded bfloat16": 4.0}
    whole = {"ours float32": 1.0, "packed float32": 2.0, "padded float32": 1.5}
    memory = {"ours bfloat16": 9.0, "packed bfloat16": 18.0, "ours float32": 10.0, "padded float32": 12.0}
    seconds: dict[str, float] = {}

    def stage(args: Any, name: str, size: str, length: int, side: str = "") -> dict[str, Any]:
        return {"seconds": seconds, "tokens": 300, "flops_a_token": 2e9} if name == "speed" else {"mb": memory[side]}

    monkeypatch.setattr(bench, "stage", stage)
    settings = {"single": True, "peak": 4.0, "device": "cpu", "threads": 1, "cpu": True, "heap": True}
    seconds = whole
    found = bench.measure(SimpleNamespace(sizes=["test"], lengths=[64], dtypes=["float32"], **settings))
    rows = {row["name"]: (row["ours"], row["peer"], row["ratio"]) for row in found["rows"]}
    assert rows["tokens, test, 64, single"] == rows["tokens, test, 64, single, float32"] == (300.0, 200.0, 1.5)
    assert rows["tokens, test, 64, single, bfloat16"] == (None, None, None), "what is emulated has its line"
    assert rows["arithmetic, test, 64, single"] == (600.0, 400.0, 1.5)
    assert rows["MFU, test, 64, single"] == (0.15, 0.1, 1.5)
    assert rows["peak memory, test, 64, single"] == (10.0, 12.0, 1.2)
    assert rows["tokens, 760m, 4096"] == (None, None, None), "what needs a GPU has its line"
    assert found["details"][0]["peer"] == "padded float32" and found["details"][0]["rate"]["packed float32"] == 150.0
    assert found["heap"] == "kept" and found["clock"] == "cpu" and isinstance(found["flags"], list)

    seconds = whole | half
    found = bench.measure(SimpleNamespace(sizes=["test"], lengths=[64], dtypes=["float32", "bfloat16"], **settings))
    rows = {row["name"]: (row["ours"], row["peer"], row["ratio"]) for row in found["rows"]}
    assert rows["tokens, test, 64, single"] == rows["tokens, test, 64, single, bfloat16"] == (600.0, 375.0, 1.6)
    assert rows["tokens, test, 64, single, float32"] == (300.0, 200.0, 1.5)
    assert rows["peak memory, test, 64, single"] == (9.0, 18.0, 2.0)


def test_a_number_type_that_is_none_is_refused(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--dtypes", "float32,float8"])
    assert "--dtypes float32,float8: must be of float32, bfloat16" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra clip")
def test_a_step_of_each_side() -> None:
    command = [FILE, "--windows=1", "--rounds=1", "--steps=1", "--threads=1", "--cpu"]
    command.append("--dtypes=float32,bfloat16")
    ran = python(*command, "--stage", "speed test 64", timeout=110)
    assert ran.returncode == 0, ran.stderr
    made = json.loads(ran.stdout.splitlines()[-1])
    assert set(made["seconds"]) == {f"{w} {d}" for w in ("ours", "packed", "padded") for d in ("float32", "bfloat16")}
    assert min(made["seconds"].values()) > 0
    assert 0 <= made["apart"]["logits"] < 1e-4 and made["apart"]["loss"] < 1e-4
    assert made["tokens"] == round(made["fill"] * 64)
    # Two steps of learning later they are still the same model.
    losses = made["loss_after"]
    assert losses["packed float32"] == pytest.approx(losses["ours float32"], abs=1e-3)
    assert losses["padded float32"] == pytest.approx(losses["ours float32"], abs=1e-3)
    for side in ("ours", "packed", "padded"):
        assert losses[f"{side} bfloat16"] == pytest.approx(losses["ours float32"], abs=0.05)
        assert losses[f"{side} bfloat16"] != losses[f"{side} float32"]
