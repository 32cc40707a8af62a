"""Batches, each read before it is asked for: on a GPU, while it computes the step before.

advance: take(1)  forward, backward: queued  read() -> 2    numbers of step 1   update
         take(2)  ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from cm3.data.lanes import LoaderState
from cm3.data.load import Counts, Loader
from cm3.data.pack import Batch


class Ready(NamedTuple):
    """A batch, where the loader stands after it, and what it has counted by then."""

    batch: Batch
    state: LoaderState
    counts: Counts


class Prefetch:
    """The batches of a loader. `waited`: seconds in all that the device had nothing to do for want of one."""

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self.loader, self.device, self.waited = loader, device, 0.0
        self._batches: Iterator[tuple[Batch, LoaderState]] = iter(loader)
        self._next: Ready | Exception | None = None

    def read(self) -> None:
        """Read the next batch, unless it is there. An error is kept for `take`."""
        if self._next is not None:
            return
        began = time.perf_counter()
        try:
            batch, state = next(self._batches)
            self._next = Ready(batch, state, replace(self.loader.counts))
        except Exception as error:
            self._next = error
        if self.device.type != "cuda" or torch.cuda.current_stream(self.device).query():
            self.waited += time.perf_counter() - began

    def take(self) -> Ready:
        """Return the next batch. Raises what reading it did."""
        self.read()
        found, self._next = self._next, None
        if isinstance(found, Exception):
            raise found
        assert found is not None
        return found
