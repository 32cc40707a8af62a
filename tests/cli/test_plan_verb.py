"""`cm3 plan`: a table for a person, JSON for a machine, refusals of one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import Cm3

from cm3.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
SEVEN = f"{ROOT}/recipes/pretrain.py:cm3leon_7b"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERBS, "plan", ("cm3.cli.plan:Plan", "say what a run will need"))


def test_a_plan_is_a_table(cm3: Cm3) -> None:
    done = cm3("plan", SEVEN, "--gpus", "512", "--price", "2.5")
    assert done.code == 0 and not done.err
    rows = {line[:18].strip(): line[18:].split() for line in done.out.splitlines()}
    assert rows["updates"][0] == "286,102" and rows["parameters"][0] == "6.73B"
    assert rows["GPUs"][:5] == ["512", "H100", "SXM", "80", "GB"] and rows["MFU"][:2] == ["40%", "assumed;"]
    units = {"MB": 1e-3, "GB": 1.0}
    parts = [float(rows[n][0]) * units[rows[n][1]] for n in ("gathered", "activations", "logits", "runtime", "margin")]
    assert sum(parts) <= float(rows["memory of each"][0]) < 80
    days, hours = float(rows["time"][0]), float(rows["time"][2].replace(",", ""))
    assert hours == pytest.approx(days * 24 * 512, rel=0.01)
    assert float(rows["price"][0].replace(",", "")) == pytest.approx(2.5 * hours, rel=0.001)


def test_a_plan_is_json(cm3: Cm3) -> None:
    found = cm3(
        "plan", SEVEN, "--gpus", "64", "--gpu", "a100", "--mesh.dp-shard", "8", "--mesh.dp-replicate", "8",
        "--measured", "2900", "--document", "2600", "--documents", "340e6", "--stored", "1042", "--json",
    ).json  # fmt: skip
    assert found["layout"] == {"gpus": 64, "tp": 1, "dp_shard": 8, "dp_replicate": 8}
    assert found["parameters_total"] == sum(found["parameters"].values())
    assert found["memory_total"] == sum(found["memory"].values()) < 80e9
    assert found["time"]["tokens_per_s"] == pytest.approx(64 * 2900) and found["time"]["bound"] == "measured"
    assert found["disk"]["store"] == 340e6 * 1042 * 2 and found["time"]["price"] is None
    assert found["gpu"]["watts"] == 400 and found["shard"]["activation_checkpointing"] == "selective"


def test_settings_of_the_recipe_are_replaced(cm3: Cm3) -> None:
    args = ("plan", SEVEN, "--model.layers", "8", "--steps", "100", "--optim.name", "muon", "--json")
    found = cm3(*args, "--shard.activation-checkpointing", "full", "--micro", "2").json
    assert found["parameters"]["attention"] == 8 * 4 * 4096**2 and found["updates"] == 100
    assert found["shard"]["activation_checkpointing"] == "full" and found["accumulate"] == 32
    adam = cm3(*args[:-3], "--json").json
    assert found["memory"]["optimizer"] < 0.6 * adam["memory"]["optimizer"]
    assert adam["micro"] == 1 and adam["shard"]["activation_checkpointing"] == "selective"


def test_the_mesh_and_the_sharding_are_those_of_the_run(cm3: Cm3) -> None:
    """The same options as for `cm3 train`, and the same meaning."""
    found = cm3(
        "plan", SEVEN, "--gpus", "64", "--mesh.tp", "8", "--shard.activation-checkpointing", "full", "--json"
    ).json  # fmt: skip
    assert found["layout"] == {"gpus": 64, "tp": 8, "dp_shard": 8, "dp_replicate": 1} and found["accumulate"] == 64
    assert found["shard"]["activation_checkpointing"] == "full" and found["dtype"] == "bfloat16"
    wide = cm3("plan", SEVEN, "--gpus", "64", "--mesh.tp", "8", "--shard.checkpoint-every", "2", "--json").json
    assert wide["memory"]["activations"] > found["memory"]["activations"]


def test_a_plan_in_float32_says_so(cm3: Cm3) -> None:
    done = cm3("plan", f"{ROOT}/recipes/scenes.py:pretrain", "--gpus", "1", "--dtype", "float32")
    rows = {line[:18].strip(): line[18:].split("  ") for line in done.out.splitlines()}
    assert rows["memory of each"][-1] == "of 80 GB; float32, recompute none"
    assert "assumed of float32's peak, told of bfloat16's; with" in rows["MFU"][-1]


def test_recipes_of_any_language_model_are_planned(cm3: Cm3) -> None:
    found = cm3("plan", f"{ROOT}/recipes/scenes.py:pretrain", "--gpus", "1", "--json").json
    assert found["updates"] == 3040 and found["memory_total"] < 5e9


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "no recipe; write cm3 plan path/to/file.py:FUNCTION"),
        ([SEVEN, "--gpu", "h10"], "gpu='h10': must be one of a100, h100, h100-pcie, .* Did you mean 'h100'?"),
        ([SEVEN, "--gpus", "0"], "--gpus 0: must be at least 1"),
        ([SEVEN, "--gpus", "512", "--mesh.tp", "3"], "mesh.tp=3: does not divide the 512 processes"),
        ([SEVEN, "--mesh.dp-shard", "3"], "mesh.dp_shard=3: .* is not the 8 processes; give -1 or 8"),
        (
            [SEVEN, "--gpus", "2048"],
            "windows=512: must be a multiple of 2048 data-parallel .*; give --gpus 512, more, sho",
        ),
        ([f"{ROOT}/recipes/scenes.py:pretrain", "--windows", "7"], "8 data-parallel ranks .*; give --gpus 7, more"),
        ([f"{ROOT}/recipes/scenes.py:pretrain", "--micro", "2"], "windows=5: .*; give more, shorter windows, or more"),
        (
            [SEVEN, "--shard.activation-checkpointing", "none"],
            "does not fit: .*; shard.activation_checkpointing=selective would take 59 GB",
        ),
        ([SEVEN, "--dp-shard", "8"], "--dp-shard: no such option. Did you mean '--mesh.dp-shard'"),
        ([SEVEN, "--gpus", "1"], "does not fit: .* give more of them, one with more memory, or a shorter length"),
        ([SEVEN, "--gpu-count", "8"], "--gpu-count: no such option; see cm3 plan"),
        (
            [SEVEN, "--shard.activation-checkpointing", "some"],
            "invalid choice 'some' for argument '--shard.activation-checkpointing'",
        ),
        ([f"{ROOT}/recipes/scenes.py:clip"], "recipe .*: is a ClipRun; must be the run of a language model"),
        (["nowhere.py:f"], "recipe file 'nowhere.py': no such file"),
    ],
)
def test_what_cannot_be_planned_is_one_line(cm3: Cm3, args: list[str], told: str) -> None:
    refusal = cm3("plan", *args).refusal
    assert re.search(told, refusal), refusal


def test_help_shows_how(cm3: Cm3) -> None:
    alone = cm3("plan", "--help")
    assert alone.code == 0 and "cm3 plan recipes/pretrain.py:cm3leon_7b --gpus 512" in alone.out
    of = cm3("plan", SEVEN, "--help")
    assert of.code == 0 and "--mesh.dp-shard" in of.out and "--recompute" not in of.out and "--optim.lr" in of.out
