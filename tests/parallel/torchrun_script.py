"""Run by torchrun in a test: two steps of sharded training, after which rank 1 raises while rank 0 waits for it."""

from __future__ import annotations

import sys
import time

import processes
import torch

from cm3.parallel import MeshConfig, ShardConfig, create, start


def main() -> None:
    with start(MeshConfig(), "cpu") as mesh:
        model = create(processes.PAPER, mesh, ShardConfig(), seed=3)
        loss, norm = processes.steps(model, processes.optimizer_of(model), mesh, 0, 2)[-1]
        if mesh.rank == 1:
            sys.stdout.write(f"raised={time.time()}\n")
            sys.stdout.flush()
            raise RuntimeError("this rank has had enough")
        sys.stdout.write(f"ranks={mesh.ranks} loss={loss:.7f} norm={norm:.7f}\n")
        sys.stdout.flush()
        mesh.sum(torch.zeros(1))


if __name__ == "__main__":
    main()
