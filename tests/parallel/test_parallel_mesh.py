"""The mesh: each process's place, sums over the data-parallel ranks, refusals on every rank, and the end of all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from processes import Crew

from cm3.errors import ConfigError
from cm3.parallel import MeshConfig, ShardConfig, create, mesh, shard, start

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def four() -> Iterator[Crew]:
    crew = Crew(4)
    yield crew
    crew.close()


def place(sizes: dict[str, int]) -> dict[str, Any]:
    with processes.joined(**sizes) as mesh:
        return {
            "rank": mesh.rank,
            "ranks": mesh.ranks,
            "main": mesh.main,
            "sum": mesh.sum(torch.tensor([1.0, mesh.rank])).tolist(),
        }


def test_places_and_sums(four: Crew) -> None:
    for found in (four.call(place, {"tp": 2}), four.call(place, {"tp": 2, "dp_replicate": 2})):
        assert [f["rank"] for f in found] == [0, 0, 1, 1]
        assert [f["main"] for f in found] == [True, False, False, False]
        assert all(f["ranks"] == 2 and f["sum"] == [2.0, 1.0] for f in found), "tp ranks count once"
    found = four.call(place, {"dp_replicate": 2})
    assert [f["rank"] for f in found] == [0, 1, 2, 3]
    assert all(f["sum"] == [4.0, 6.0] for f in found)


def test_one_process_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with start(MeshConfig(), "cpu") as mesh:
        assert (mesh.rank, mesh.ranks, mesh.main, mesh.devices) == (0, 1, True, None)
        value = torch.tensor([2.0, 3.0])
        assert torch.equal(mesh.sum(value), value) and mesh.sum(value) is not value
    assert not torch.distributed.is_initialized()


def refused(sizes: dict[str, int]) -> str:
    """The refusal; no rank may have waited for another."""
    try:
        processes.joined(**sizes)
    except ConfigError as error:
        assert not torch.distributed.is_initialized()
        return str(error)
    return "accepted"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tp": 3}, "mesh.tp=3: does not divide the 4 processes"),
        ({"tp": 2, "dp_replicate": 3}, "mesh.dp_replicate=3: does not divide the 2 left by tp=2"),
        ({"dp_shard": 3}, "mesh.dp_shard=3: times dp_replicate=1 times tp=1 is not the 4 processes; give -1 or 4"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_by_every_rank(four: Crew, sizes: dict[str, int], message: str) -> None:
    assert all(found.startswith(message) for found in four.call(refused, sizes))


def refused_model(tp: int, changes: dict[str, int]) -> str:
    with processes.joined(tp=tp) as mesh:
        config = type(processes.PAPER)(**{**processes.PAPER.to_dict(), **changes})
        try:
            create(config, mesh, ShardConfig(), 0)
        except ConfigError as error:
            return str(error)
    return "accepted"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 2}, "mesh.tp=4: does not divide model.heads=2"),
        ({"kv_heads": 2}, "mesh.tp=4: does not divide model.kv_heads=2"),
        ({"hidden": 42}, "mesh.tp=4: does not divide model.hidden=42"),
    ],
)
def test_a_model_that_does_not_split_is_refused_by_every_rank(
    four: Crew, changes: dict[str, int], message: str
) -> None:
    assert four.call(refused_model, 4, changes) == [message] * 4


@pytest.mark.parametrize("name", ["dp_replicate", "tp", "timeout_s"])
def test_sizes_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=f"mesh.{name}=0: must be at least 1"):
        MeshConfig(**{name: 0})


def test_other_values_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="mesh.dp_shard=0: must be at least 1, or -1"):
        MeshConfig(dp_shard=0)
    with pytest.raises(
        ConfigError, match="shard.activation_checkpointing='some': must be one of none, selective, full"
    ):
        ShardConfig(activation_checkpointing="some")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="shard.checkpoint_every=0: must be at least 1"):
        ShardConfig(checkpoint_every=0)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="device='tpu': must be cpu or cuda"):
        start(device="tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(ConfigError, match="device='cuda': process 0 of this machine finds 0 GPUs"):
        start(device="cuda")


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(
        ConfigError, match="RANK is set but not WORLD_SIZE, LOCAL_RANK, MASTER_PORT; start with torchrun"
    ):
        start()
    for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "many")
    with pytest.raises(ConfigError, match="RANK, WORLD_SIZE, LOCAL_RANK must be numbers"):
        start()


def test_the_processes_of_many_torchruns_meet_whatever_each_has_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def place(machines: str, count: str) -> str:
        monkeypatch.setenv("GROUP_WORLD_SIZE", machines)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        return mesh._attempt()

    assert place("8", "0") == place("8", "1")
    # One keeps its store, with the addresses of those that died.
    assert place("1", "0") != place("1", "1")


def waits(seconds: float) -> tuple[float, str]:
    """Rank 0 comes late to a sum along dp_shard; how long each waited, and for what error."""
    mesh = processes.joined(dp_replicate=2, timeout_s=2)
    began = time.monotonic()
    if torch.distributed.get_rank() == 0:
        time.sleep(seconds)
    try:
        mesh.sum(torch.zeros(1))
    except RuntimeError as error:
        return time.monotonic() - began, type(error).__name__
    return time.monotonic() - began, ""


def test_no_group_waits_longer_than_the_timeout(four: Crew) -> None:
    found = four.call(waits, 6.0)
    assert all(error for _, error in found), "every rank fails"
    assert all(waited < 6 for waited, _ in found[1:]), "at the timeout, and not when the late one comes"


@pytest.mark.slow
def test_torchrun_runs_it_and_a_rank_that_raises_ends_all() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {k: v for k, v in os.environ.items() if k != "RANK"} | {"OMP_NUM_THREADS": "1"}
    places = [str(HERE.parents[1]), str(HERE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(places)
    script = str(HERE / "torchrun_script.py")
    done = subprocess.run([*command, script], env=environment, capture_output=True, text=True, timeout=110)
    ended = time.time()
    assert done.returncode != 0 and "this rank has had enough" in done.stderr
    said = dict(line.split("=") for line in done.stdout.split())
    assert said["ranks"] == "2"
    assert ended - float(said["raised"]) < 60
    model = create(processes.PAPER, processes.alone(), ShardConfig(), seed=3)
    loss, norm = processes.steps(model, processes.optimizer_of(model), processes.alone(), 0, 2)[-1]
    assert float(said["loss"]) == pytest.approx(loss, abs=1e-5)
    assert float(said["norm"]) == pytest.approx(norm, abs=1e-5)


def test_an_error_is_not_swallowed_by_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ZeroDivisionError), start(device="cpu"):
        raise ZeroDivisionError


def test_shard_leaves_one_process_plain() -> None:
    model = create(processes.PAPER, processes.alone(), ShardConfig(), seed=3)
    assert shard(model, processes.alone(), ShardConfig()) is model
    assert all(type(p) is torch.nn.Parameter for p in model.parameters())
