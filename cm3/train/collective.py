"""Messages between the processes of a run beside the training: errors, votes, and who goes first.

    rank 0   work() --> error --+                          rank 0   work()          .
    rank 1   work() -->   -   --+--> raised on both        rank 1     .  (waits)  work()
             together                                               main_first

It goes over the processor (gloo), never through the group that training uses: a checkpoint is written in a thread, and
two threads must not talk over one group.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from cm3 import errors
from cm3.errors import Cm3Error
from cm3.parallel import Mesh

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long the others wait for one that works; a process that dies is noticed at once, by its closed connections."""
LOST = re.compile("gloo|nccl|connection|timed out|timeout|socket|peer", re.IGNORECASE)


class Ranks:
    """All processes of a mesh. Made by every one of them at the same point; where there is one, nothing is sent."""

    def __init__(self, mesh: Mesh, timeout: timedelta = PATIENCE) -> None:
        self.main, self.number, self.count = mesh.main, 0, 1
        self.group: dist.ProcessGroup | None = None
        if mesh.devices is not None:
            self.number, self.count = dist.get_rank(), dist.get_world_size()
            self.group = dist.new_group(backend="gloo", timeout=timeout)

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each process, in order, on every process."""
        if self.group is None:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self.group)
        return found

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do `work` on every process. Returns their results, plain values, or raises the first error on all."""
        result: T | None = None
        own: BaseException | None = None
        try:
            result = work()
        except Exception as error:
            own = error
        if self.group is None:
            if own is not None:
                raise own
            return [result]  # type: ignore[list-item]
        found = self.gather((result, None if own is None else (type(own).__name__, str(own))))
        if own is not None:
            raise own
        self._raise([error for _, error in found])
        return [value for value, _ in found]

    def main_first(self, work: Callable[[], T]) -> T:
        """Do `work` on the main process, and on the others when that is done: it finds there what was written."""
        made: list[T] = []
        for turn in (True, False):
            self.together(lambda turn=turn: made.append(work()) if self.main == turn else None)  # type: ignore[misc]
        return made[0]

    def vote(self, flag: bool, error: Exception | None = None) -> bool:
        """Tell whether any process says so. Where one has met an error, it is raised on all of them."""
        if self.group is None:
            if error is not None:
                raise error
            return flag
        told = torch.tensor([int(flag), int(error is not None)])
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.group)
        if told[1]:
            errors_ = self.gather(None if error is None else (type(error).__name__, str(error)))
            if error is not None:
                raise error
            self._raise(errors_)
        return bool(told[0])

    def _raise(self, found: list[tuple[str, str] | None]) -> None:
        for rank, error in enumerate(found):
            if error is not None:
                kind = getattr(errors, error[0], None)
                told = kind if isinstance(kind, type) and issubclass(kind, Cm3Error) else RuntimeError
                raise told(f"process {rank}: {error[1]}")


def lost(error: BaseException) -> bool:
    """Tell whether an error says that another process is gone or does not answer."""
    return isinstance(error, RuntimeError) and not isinstance(error, Cm3Error) and bool(LOST.search(str(error)))
