"""Whole matrices from shards and back, the gradient norm, and checkpoints that move between numbers of processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.distributed.checkpoint as dcp
from processes import PAPER, Crew
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from cm3.parallel import Mesh, ShardConfig, clip_grad_norm, create, full, like
from cm3.train.optim import orthogonalise


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


@pytest.fixture(scope="module")
def four() -> Iterator[Crew]:
    crew = Crew(4)
    yield crew
    crew.close()


def there_and_back(sizes: dict[str, int]) -> bool:
    with processes.joined(**sizes) as mesh:
        model = create(PAPER, mesh, ShardConfig(), seed=3)
        for parameter in model.parameters():
            whole = torch.arange(parameter.numel(), dtype=torch.float32).view(parameter.shape)
            laid = like(whole, parameter)
            assert laid.placements == parameter.placements
            assert laid.to_local().shape == parameter.to_local().shape
            assert torch.equal(full(laid), whole)
    return True


@pytest.mark.parametrize("sizes", [{}, {"tp": 2}, {"tp": 2, "dp_replicate": 2}, {"tp": 4}])
def test_full_undoes_like(four: Crew, sizes: dict[str, int]) -> None:
    """Also where the vocabulary, 37, is cut twice into unequal parts."""
    assert all(four.call(there_and_back, sizes))


def muon(mesh: Mesh) -> dict[str, Tensor]:
    """Weights after three steps along orthogonalised gradients of the matrices."""
    model = create(PAPER, mesh, ShardConfig(), seed=3)
    for step in range(3):
        processes.loss_of(model, mesh, step).backward()
        with torch.no_grad():
            for linear in (m for m in model.blocks.modules() if isinstance(m, torch.nn.Linear)):
                p = linear.weight
                assert p.grad is not None
                p.add_(like(orthogonalise(full(p.grad)), p), alpha=-0.1)
        model.zero_grad()
    return processes.weights_of(model)


def sharded_muon(sizes: dict[str, int]) -> dict[str, Tensor]:
    with processes.joined(**sizes) as mesh:
        return muon(mesh)


@pytest.mark.parametrize("sizes", [{}, {"tp": 2}], ids=["fsdp", "fsdp-tp"])
def test_a_step_on_whole_matrices_is_one_process_s(four: Crew, sizes: dict[str, int]) -> None:
    wanted = muon(processes.alone())
    for found in four.call(sharded_muon, sizes):
        for name, weight in wanted.items():
            torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("limit", [0.1, 1e6])
def test_the_plain_norm_is_torch_s(limit: float) -> None:
    ours, theirs = (create(PAPER, processes.alone(), ShardConfig(), seed=3) for _ in range(2))
    for model in (ours, theirs):
        processes.loss_of(model, processes.alone(), 0).backward()
    wanted = torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit)
    assert clip_grad_norm(ours.parameters(), limit) == pytest.approx(float(wanted), rel=1e-6)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert clip_grad_norm([], 1.0) == 0


def test_a_norm_that_is_not_finite_scales_nothing() -> None:
    weight = torch.zeros(2, requires_grad=True)
    weight.grad = torch.tensor([float("inf"), 1.0])
    assert clip_grad_norm([weight], 1.0) == float("inf")
    assert weight.grad.tolist() == [float("inf"), 1.0]


def saved(folder: Path, mesh: Mesh) -> None:
    """Four steps, then a checkpoint."""
    model = create(PAPER, mesh, ShardConfig(), seed=3)
    optimizer = processes.optimizer_of(model)
    processes.steps(model, optimizer, mesh, 0, 4)
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder, no_dist=mesh.devices is None)


def resumed(folder: Path, mesh: Mesh) -> list[list[float]]:
    """Numbers of the four steps after a checkpoint, begun with other weights."""
    model = create(PAPER, mesh, ShardConfig(), seed=9)
    optimizer = processes.optimizer_of(model)
    weights, moments = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": weights, "optimizer": moments}
    dcp.load(state, checkpoint_id=folder, no_dist=mesh.devices is None)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return processes.steps(model, optimizer, mesh, 4, 8)


def sharded_saved(folder: Path, sizes: dict[str, int]) -> None:
    with processes.joined(**sizes) as mesh:
        saved(folder, mesh)


def sharded_resumed(folder: Path, sizes: dict[str, int]) -> list[list[float]]:
    with processes.joined(**sizes) as mesh:
        return resumed(folder, mesh)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_checkpoint_moves_between_numbers_of_processes(two: Crew, tmp_path: Path) -> None:
    mesh = processes.alone()
    model = create(PAPER, mesh, ShardConfig(), seed=3)
    wanted = torch.tensor(processes.steps(model, processes.optimizer_of(model), mesh, 0, 8)[4:])
    two.call(sharded_saved, tmp_path / "fsdp", {})
    two.call(sharded_saved, tmp_path / "tp", {"tp": 2})
    saved(tmp_path / "one", mesh)
    found = [resumed(tmp_path / "fsdp", mesh), resumed(tmp_path / "tp", mesh)]
    found += two.call(sharded_resumed, tmp_path / "one", {})
    found += two.call(sharded_resumed, tmp_path / "one", {"tp": 2})
    found += two.call(sharded_resumed, tmp_path / "tp", {})
    for numbers in found:
        torch.testing.assert_close(torch.tensor(numbers), wanted, rtol=1e-5, atol=1e-5)
