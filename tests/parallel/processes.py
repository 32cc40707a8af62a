"""Real processes that meet over gloo, kept for the tests of a module, and the small work that they do.

test --call(function, *args)--> each of N processes runs it, as torchrun would have started it --> N results
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from forks import forks
from torch import Tensor

from cm3.model.attention import Blocked
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.parallel import Mesh, MeshConfig, ShardConfig, clip_grad_norm, create, full, start

VOCAB, ROWS, LENGTH = 37, 4, 12
PAPER = DecoderConfig(
    vocab_size=VOCAB, d_model=32, layers=2, heads=4, context=16, qk_norm=True, grid=(2, 2), init_std=0.1
)
# A large eps: norms of the branches that start at zero would blow rounding up.
CHAMELEON = DecoderConfig(
    vocab_size=VOCAB, d_model=32, layers=1, heads=4, kv_heads=2, hidden=44, context=16, activation="swiglu", norm="rms",
    norm_affine=True, norm_order="swin", qk_norm=True, positions="rope", tied=False, init_std=0.1,
    norm_eps=1e-2,
)  # fmt: skip


class Crew:
    """`call` runs a function on each of so many processes and gives their results in order."""

    def __init__(self, processes: int) -> None:
        context = forks()
        self.ends, self.processes, self.calls = [], [], 0
        for rank in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, processes), daemon=True)
            process.start()
            self.ends.append(ours)
            self.processes.append(process)

    def call(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Raises `AssertionError` with the traceback of the first that failed."""
        port, self.calls = _free_port(), self.calls + 1
        for end in self.ends:
            end.send((self.calls, port, function, args))
        answers = [self._answer(end) for end in self.ends]
        failed = [f"rank {rank}: {answer}" for rank, (good, answer) in enumerate(answers) if not good]
        assert not failed, "\n".join(failed)
        return [answer for _, answer in answers]

    def _answer(self, end: Connection) -> tuple[bool, Any]:
        """That to the last call; a test that ran out of time has left its own unread."""
        while True:
            number, good, answer = end.recv()
            if number == self.calls:
                return good, answer

    def close(self) -> None:
        for end in self.ends:
            end.close()
        for process in self.processes:
            process.join(10)


def _serve(pipe: Connection, rank: int, processes: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank)}
    while True:
        try:
            number, port, function, args = pipe.recv()
        except EOFError:
            return
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        try:
            pipe.send((number, True, function(*args)))
        except BaseException:
            pipe.send((number, False, traceback.format_exc()))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def joined(**sizes: int) -> Mesh:
    """A mesh of these sizes; a process that is alive answers in time, however busy the machine."""
    return start(MeshConfig(**{"timeout_s": 90, **sizes}), "cpu")


def alone() -> Mesh:
    """The mesh of one process without a group."""
    return Mesh((1, 1, 1), 0, torch.device("cpu"), None)


def batch(step: int, mesh: Mesh) -> tuple[Tensor, ...]:
    """This rank's rows of batch `step`, of four: ids, positions, documents, cells, targets, weights (rows, LENGTH).

    Two documents a row; the rows' weights are unequal, and the last row of an odd step has no target at all.
    """
    g = torch.Generator().manual_seed(step % 4)
    ids = torch.randint(VOCAB, (ROWS, LENGTH + 1), generator=g)
    positions = torch.arange(LENGTH).expand(ROWS, -1)
    documents = (positions >= 5).long()
    cells = torch.randint(0, 5, (ROWS, LENGTH), generator=g)
    weights = torch.rand(ROWS, LENGTH, generator=g) * torch.arange(1, ROWS + 1)[:, None]
    weights[-1] *= 1 - step % 2
    whole = (ids[:, :-1], positions, documents, cells, ids[:, 1:], weights)
    return tuple(x.chunk(mesh.ranks)[mesh.rank] for x in whole)


def loss_of(model: Decoder, mesh: Mesh, step: int) -> Tensor:
    """This rank's share of the mean over the whole batch; the head runs twice, as the chunked loss does."""
    ids, positions, documents, cells, targets, weights = batch(step, mesh)
    hidden = model.hidden(ids, positions, Blocked(documents), cells)
    logits = torch.cat([model.head(part) for part in hidden.split(7, dim=1)], dim=1).float()
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (nats * weights.flatten()).sum() / mesh.sum(weights.sum())


def optimizer_of(model: Decoder) -> torch.optim.Optimizer:
    """AdamW with a large eps: gradients that are only rounding (the keys' shift) would else move as far as any."""
    return torch.optim.AdamW(model.parameters(), 1e-2, eps=1e-3, weight_decay=0.1, fused=True)


def steps(model: Decoder, optimizer: torch.optim.Optimizer, mesh: Mesh, first: int, last: int) -> list[list[float]]:
    """[loss of the whole batch, gradient norm] of each step."""
    found = []
    for step in range(first, last):
        loss = loss_of(model, mesh, step)
        loss.backward()
        norm = clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append([float(mesh.sum(loss)), norm])
    return found


def weights_of(model: Decoder) -> dict[str, Tensor]:
    """Whole weights by name."""
    return {name: full(p).detach().clone() for name, p in model.named_parameters()}


def trained(config: DecoderConfig, plan: ShardConfig, mesh: Mesh, count: int = 20) -> dict[str, Any]:
    """What a run computes: initial weights, the numbers of its steps, logits and gradients after them."""
    model = create(config, mesh, plan, seed=3)
    first = weights_of(model)
    numbers = steps(model, optimizer_of(model), mesh, 0, count)
    ids, positions, documents, cells, *_ = batch(count, alone())
    with torch.no_grad():
        logits = model(ids, positions, Blocked(documents), cells)
        some = model.head(model.hidden(ids, positions, Blocked(documents), cells), slice(3, 9))
    loss_of(model, mesh, count).backward()
    gradients = {name: full(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    return {"first": first, "numbers": numbers, "logits": logits, "some": some, "gradients": gradients}


def train(config: DecoderConfig, plan: ShardConfig, sizes: dict[str, int]) -> dict[str, Any]:
    """`trained` on the mesh of these processes."""
    with joined(**sizes) as mesh:
        return trained(config, plan, mesh)
