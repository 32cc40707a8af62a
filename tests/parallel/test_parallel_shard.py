"""A model in shards computes what one process does: first weights, losses, gradient norms, logits, last weights."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import processes
import pytest
import torch
from processes import CHAMELEON, PAPER, Crew
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cm3.errors import CheckpointError
from cm3.model.attention import Blocked
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.parallel import ShardConfig, create, fill


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


@functools.cache
def one_process(config: DecoderConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights as drawn, and what a run without a process group computes."""
    torch.manual_seed(3)
    first = Decoder(config).state_dict()
    found = processes.trained(config, ShardConfig(), processes.alone())
    assert found["numbers"][-1][0] < found["numbers"][0][0] - 0.5, "the run learns, or equality says little"
    return first, found


def agrees(crew: Crew, config: DecoderConfig, plan: ShardConfig, **sizes: int) -> None:
    """All ranks' results are one process's."""
    first, wanted = one_process(config)
    for found in crew.call(processes.train, config, plan, sizes):
        assert found["first"].keys() == first.keys()
        assert all(torch.equal(found["first"][name], first[name]) for name in first)
        torch.testing.assert_close(
            torch.tensor(found["numbers"]), torch.tensor(wanted["numbers"]), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(found["logits"], wanted["logits"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["some"], found["logits"][..., 3:9], rtol=1e-5, atol=1e-5)
        assert found["gradients"].keys() == wanted["gradients"].keys()
        for name, gradient in wanted["gradients"].items():
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-4, atol=1e-5)


CASES = {
    "fsdp": (PAPER, ShardConfig(), {}),
    "tp": (PAPER, ShardConfig(), {"tp": 2}),
    "replicas": (CHAMELEON, ShardConfig(), {"dp_replicate": 2}),
    "chameleon-tp": (CHAMELEON, ShardConfig(), {"tp": 2}),
    "recompute-all": (PAPER, ShardConfig(activation_checkpointing="full", reshard_after_forward=False), {}),
    "recompute-some": (CHAMELEON, ShardConfig(activation_checkpointing="selective"), {"tp": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(two: Crew, case: str) -> None:
    config, plan, sizes = CASES[case]
    agrees(two, config, plan, **sizes)


@pytest.fixture(scope="module")
def four() -> Iterator[Crew]:
    crew = Crew(4)
    yield crew
    crew.close()


@pytest.mark.parametrize("sizes", [{"tp": 2}, {"dp_replicate": 2}], ids=["fsdp-tp", "fsdp-replicas"])
def test_four_processes_equal_one(four: Crew, sizes: dict[str, int]) -> None:
    agrees(four, PAPER, ShardConfig(), **sizes)


def half(sizes: dict[str, int]) -> dict[str, Any]:
    """A short run in bfloat16, and what lies where."""
    with processes.joined(**sizes) as mesh:
        model = create(PAPER, mesh, ShardConfig(), seed=3, dtype=torch.bfloat16)
        kept = {p.dtype for p in model.parameters()}
        with torch.no_grad():
            ids, positions, documents, cells, *_ = processes.batch(0, mesh)
            hidden = model.hidden(ids, positions, Blocked(documents), cells)
        loss = processes.loss_of(model, mesh, 0)
        loss.backward()
        gradients = {p.grad.dtype for p in model.parameters() if p.grad is not None}
        model.zero_grad()
        numbers = processes.steps(model, processes.optimizer_of(model), mesh, 0, 8)
        return {"kept": kept, "gradients": gradients, "passes": hidden.dtype, "numbers": numbers}


def test_bfloat16_keeps_float32_weights_and_follows_float32(two: Crew) -> None:
    _, wanted = one_process(PAPER)
    for found in (*two.call(half, {}), *two.call(half, {"tp": 2})):
        assert found["kept"] == {torch.float32} == found["gradients"] and found["passes"] == torch.bfloat16
        losses = torch.tensor([n[0] for n in found["numbers"]])
        exact = torch.tensor([n[0] for n in wanted["numbers"][:8]])
        torch.testing.assert_close(losses, exact, rtol=0.02, atol=0.02)
        assert not torch.equal(losses, exact)


def filled(weights: dict[str, Tensor] | None, sizes: dict[str, int]) -> str:
    """Another seed's model, given whole weights that only the main process has."""
    with processes.joined(**sizes) as mesh:
        model = create(PAPER, mesh, ShardConfig(), seed=8)
        try:
            fill(model, weights if mesh.main else None)
        except CheckpointError as error:
            return str(error)
        found = processes.weights_of(model)
        torch.manual_seed(3)
        return str(all(torch.equal(found[name], w) for name, w in Decoder(PAPER).state_dict().items()))


def test_whole_weights_are_given_to_shards(two: Crew) -> None:
    whole, _ = one_process(PAPER)
    assert two.call(filled, whole, {"tp": 2}) == ["True"] * 2
    for name, weights, message in (
        ("lacking", {k: w for k, w in whole.items() if k != "embed.weight"}, "embed.weight is not there"),
        ("strange", whole | {"extra": torch.zeros(1)}, "extra has no place in the model"),
        ("shape", whole | {"embed.weight": torch.zeros(3, 32)}, "embed.weight is (3, 32), must be (37, 32)"),
    ):
        found = two.call(filled, weights, {})
        assert found == [f"weights: {message}; give weights of the same model.*"] * 2, name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sizes", [{}, pytest.param({"tp": 2}, marks=pytest.mark.long)], ids=["fsdp", "tp"])
def test_compiled_blocks_equal_one_process(two: Crew, sizes: dict[str, int]) -> None:
    agrees(two, PAPER, ShardConfig(compile=True), **sizes)


def test_activation_checkpointing_computes_again_what_it_says() -> None:
    config = DecoderConfig(vocab_size=37, d_model=32, layers=4, heads=4, context=16, init_std=0.1)

    def work(how: str, every: int = 1) -> int:
        plan = ShardConfig(activation_checkpointing=how, checkpoint_every=every)  # type: ignore[arg-type]
        model = create(config, processes.alone(), plan, seed=3)
        with FlopCounterMode(display=False) as counter:
            processes.loss_of(model, processes.alone(), 0).backward()
        return counter.get_total_flops()

    up = 2 * processes.ROWS * processes.LENGTH * config.d_model * config.ffn
    none, some, everything = (work(how) for how in ("none", "selective", "full"))
    assert some - none == config.layers * up, "only the wide product is made again"
    assert everything - none > 1.5 * config.layers * up, "q, k, v and wo, as much as up, are made again too"
    assert 2 * (work("full", 2) - none) == everything - none
