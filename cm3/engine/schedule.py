"""A schedule of requests: first come, first served, the streams of one always together, in rows without gaps.

A request waits until all its streams fit. When one leaves, the streams in the last rows move into the rows it left, so
that the active rows are 0 to n - 1 and the cache can be sliced. A large request at the head of the queue is not
overtaken.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from cm3.engine.grammar import Cursor
from cm3.engine.request import Request, Result
from cm3.vocab import Tokens, Vocab


@dataclass(eq=False)
class Row:
    """One stream of a request: a prompt, and behind it what the request has written.

    `fed`: how many of its tokens the model has read. `at`: the row of the cache.
    """

    prompt: Tokens
    job: Job
    fed: int = 0
    at: int = -1

    @property
    def pending(self) -> int:
        """Count the tokens that the model has yet to read."""
        return self.prompt.length + len(self.job.ids) - self.fed

    def next(self, count: int) -> np.ndarray:
        """Return the next `count` tokens to read: ids and cells, (2, count)."""
        start, stop = self.fed, self.fed + count
        at = self.prompt.length
        written = np.array(
            [x[max(start - at, 0) : max(stop - at, 0)] for x in (self.job.ids, self.job.cells)], np.int64
        )
        return written if start >= at else np.concatenate([np.stack(self.prompt.slice(start, stop)), written], axis=1)


class Job(Cursor):
    """A request on its way.

    `rows`: the streams that the plan needs, in the request's order; those that no step gives any weight are left out,
    at the end of the tuple. `settings`: for each step of the plan, how to sample it and the weights of its streams.
    """

    def __init__(self, id: int, request: Request, vocab: Vocab) -> None:
        super().__init__(request.plan, vocab)
        self.id, self.steps = id, 0
        self.settings = []
        for step in request.plan:
            sampling = request.sampling_of(step)
            weights = sampling.weights(len(request.streams)) if getattr(step, "guided", False) else (1.0,)
            while weights[-1] == 0 and len(weights) > 1:
                weights = weights[:-1]
            self.settings.append((sampling, weights))
        self.rows = [Row(prompt, self) for prompt in request.streams[: max(len(w) for _, w in self.settings)]]

    def result(self) -> Result:
        """Return the ids that were produced."""
        return Result(self.tokens, self.spans, tuple(self.logprobs), tuple(self.reasons), self.steps)


class Schedule:
    """The queue and the rows. `active`: jobs in order of admission. `rows[i]`: the stream in cache row i."""

    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams
        self.waiting: deque[Job] = deque()
        self.active: list[Job] = []
        self.rows: list[Row] = []

    @property
    def size(self) -> int:
        """Count the requests that wait or run."""
        return len(self.waiting) + len(self.active)

    def admit(self) -> list[Row]:
        """Give rows to the jobs at the head of the queue for as long as they fit; returns their rows."""
        first = len(self.rows)
        while self.waiting and len(self.rows) + len(self.waiting[0].rows) <= self.max_streams:
            self.active.append(self.waiting.popleft())
            self.rows += self.active[-1].rows
        for at, row in enumerate(self.rows[first:], first):
            row.at = at
        return self.rows[first:]

    def retire(self, jobs: list[Job]) -> list[tuple[int, int, int]]:
        """Free the rows of active jobs. Returns the moves (source row, target row, tokens) that close the gaps."""
        gone = {row.at for job in jobs for row in job.rows}
        left = len(self.rows) - len(gone)
        holes = sorted(at for at in gone if at < left)
        movers = [at for at in range(left, len(self.rows)) if at not in gone]
        moves = []
        for source, target in zip(movers, holes, strict=True):
            row = self.rows[target] = self.rows[source]
            row.at = target
            moves.append((source, target, row.fed))
        del self.rows[left:]
        self.active = [job for job in self.active if job not in jobs]
        return moves
