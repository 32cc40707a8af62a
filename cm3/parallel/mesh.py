"""The mesh of processes: torchrun's environment -> one `Mesh`, which tells each process its place.

    world of 8 = dp_replicate 2 x dp_shard 2 x tp 2           data-parallel rank (of 4)
                  [[[0, 1], [2, 3]],                           0, 0, 1, 1
                   [[4, 5], [6, 7]]]                           2, 2, 3, 3

Processes of one `tp` row hold parts of the same matrices and read the same batches; along `dp_shard` each holds a share
of every weight and reads its own batches (FSDP); along `dp_replicate` whole copies of that are kept (HSDP, the slow
links between nodes). Without torchrun there is one process, and no process group.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.rendezvous import rendezvous

from cm3.errors import ConfigError

DATA = ("dp_replicate", "dp_shard")
"""The dimensions of the mesh along which processes read other batches."""


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh; -1 for `dp_shard` is what the others leave of the world. Raises `ConfigError`."""

    dp_shard: int = -1
    """Processes that share one copy of the weights; -1 is all that the others leave."""
    dp_replicate: int = 1
    """Whole copies of the weights."""
    tp: int = 1
    """Processes that split each matrix."""
    timeout_s: int = 60
    """Seconds a process waits for the others before it fails; the main process must not work alone for longer."""

    def __post_init__(self) -> None:
        if self.dp_shard != -1 and self.dp_shard < 1:
            raise ConfigError(f"mesh.dp_shard={self.dp_shard}: must be at least 1, or -1 for what is left of the world")
        for name in ("dp_replicate", "tp", "timeout_s"):
            if getattr(self, name) < 1:
                raise ConfigError(f"mesh.{name}={getattr(self, name)}: must be at least 1")

    def sizes(self, processes: int) -> tuple[int, int, int]:
        """Return (dp_replicate, dp_shard, tp) over so many processes. Raises `ConfigError` where they do not fill
        it."""
        left = processes
        for name in ("tp", "dp_replicate"):
            if left % getattr(self, name):
                of = f"the {processes} processes" if left == processes else f"the {left} left by tp={self.tp}"
                raise ConfigError(
                    f"mesh.{name}={getattr(self, name)}: does not divide {of}; change it, or torchrun --nproc-per-node"
                )
            left //= getattr(self, name)
        if self.dp_shard not in (-1, left):
            raise ConfigError(
                f"mesh.dp_shard={self.dp_shard}: times dp_replicate={self.dp_replicate} times tp={self.tp} is not the "
                f"{processes} processes; give -1 or {left}"
            )
        return self.dp_replicate, left, self.tp


class Mesh:
    """A process's place among the others, made by `start`. A context manager: closed at its end.

    `rank`, `ranks`: place and number along the data-parallel dimensions, which is what a loader needs. `part`: place
    among the `tp` processes that split each matrix. `main`: this is the one process that writes logs. `devices`:
    torch's mesh with the dimensions dp_replicate, dp_shard, tp; None where there is no process group.
    """

    def __init__(self, sizes: tuple[int, int, int], place: int, device: torch.device, devices: DeviceMesh | None):
        self.dp_replicate, self.dp_shard, self.tp = sizes
        self.rank, self.ranks = place // self.tp, self.dp_replicate * self.dp_shard
        self.part = place % self.tp
        self.main, self.device, self.devices = place == 0, device, devices

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the data-parallel ranks: same shape, type and device, the same bits on each."""
        if self.devices is None:
            return tensor.detach().clone()
        total = tensor.detach().to(self.device, copy=True)
        for name in DATA:
            dist.all_reduce(total, group=self.devices.get_group(name))
        return total.to(tensor.device)

    def gather(self, tensor: Tensor) -> Tensor:
        """Gather rows of a tensor of all data-parallel ranks, in order, as many of each: (n, ...) -> (n * ranks,
        ...)."""
        whole = tensor.detach().to(self.device).contiguous()
        for name in reversed(DATA) if self.devices is not None else ():
            group = self.devices.get_group(name)  # type: ignore[union-attr]
            parts = [torch.empty_like(whole) for _ in range(group.size())]
            dist.all_gather(parts, whole, group=group)
            whole = torch.cat(parts)
        return whole.to(tensor.device)

    def close(self) -> None:
        """Leave the process group."""
        if self.devices is not None:
            dist.destroy_process_group()
            self.devices = None

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # After an error the others may wait in the middle of a sum: leaving politely would wait for them.
        if error is None:
            self.close()


def start(config: MeshConfig | None = None, device: str = "") -> Mesh:
    """Join the processes that torchrun started; without it, stand alone. `device`: cpu or cuda, or empty for the best.

    The backend is nccl on cuda and gloo on cpu. Raises `ConfigError`, on every rank and before any waits for another,
    for a mesh that does not fit the world and for a device that is not there.
    """
    config = config or MeshConfig()
    place, world, local = environment()
    sizes = config.sizes(world)
    where = _device(device, local)
    if "RANK" not in os.environ:
        return Mesh(sizes, 0, where, None)
    return Mesh(sizes, place, where, _join(sizes, where, config.timeout_s))


def _join(sizes: tuple[int, int, int], device: torch.device, timeout_s: int) -> DeviceMesh:
    """Meet the other processes."""
    timeout, cuda = timedelta(seconds=timeout_s), device.type == "cuda"
    met, rank, world = next(rendezvous("env://", timeout=timeout))
    met.set_timeout(timeout)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        timeout=timeout,
        device_id=device if cuda else None,
        store=dist.PrefixStore(_attempt(), met),
        rank=rank,
        world_size=world,
    )
    # Made by hand: groups that init_device_mesh makes forget the timeout and wait for half an hour.
    ranks = torch.arange(math.prod(sizes)).view(sizes)
    groups = []
    for axis, size in enumerate(sizes):
        rows = ranks.movedim(axis, -1).reshape(-1, size).tolist()
        groups.append(dist.new_subgroups_by_enumeration(rows, timeout=timeout)[0])
    return DeviceMesh.from_group(groups, device.type, mesh=ranks, mesh_dim_names=(*DATA, "tp"))


def _attempt() -> str:
    """Return where in the store the processes meet.

    torchrun keeps its store when it begins again, and in it the addresses of those that died: whoever reads one before
    its owner's next waits for it until the timeout. Each torchrun counts for itself how often it began again, so only
    where there is one of them is its count the same for all; for many see docs/cluster.md.
    """
    alone = os.environ.get("GROUP_WORLD_SIZE") == "1"
    return f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}" if alone else "attempt"


def environment() -> tuple[int, int, int]:
    """Return (rank, world size, local rank) as torchrun says, or of a process that stands alone.

    Raises `ConfigError` for half an environment.
    """
    if "RANK" not in os.environ:
        return 0, 1, 0
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    lacking = [name for name in names if name not in os.environ]
    if lacking:
        raise ConfigError(f"environment: RANK is set but not {', '.join(lacking)}; start with torchrun, or unset RANK")
    try:
        rank, world, local = (int(os.environ[name]) for name in names[:3])
    except ValueError as error:
        raise ConfigError(
            f"environment: RANK, WORLD_SIZE, LOCAL_RANK must be numbers ({error}); use torchrun"
        ) from None
    return rank, world, local


def _device(name: str, local: int) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device={name!r}: must be cpu or cuda")
    if name == "cpu":
        return torch.device("cpu")
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"device='cuda': process {local} of this machine finds {torch.cuda.device_count()} GPUs; lower torchrun "
            "--nproc-per-node, or give --device cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
