"""Which streams run: first come, first served, the streams of a request always together, in rows without gaps.

A request waits until all its streams fit. When one leaves, the streams in the last rows move into the rows it left, so
that the active rows are 0 to n - 1 and the cache can be sliced. A large request at the head of the queue is not
overtaken.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cm3.engine.grammar import Cursor
from cm3.engine.request import Request, Result, Sampling
from cm3.vocab import Tokens


@dataclass(eq=False)
class Stream:
    """One prompt and what was appended to it. `fed`: how many of its tokens the model has read. `row`: in the cache."""

    ids: list[int]
    cells: list[int]
    fed: int = 0
    row: int = -1

    @classmethod
    def of(cls, prompt: Tokens) -> Stream:
        """A stream that has read nothing yet."""
        return cls(prompt.ids.tolist(), prompt.cells.tolist())

    @property
    def pending(self) -> int:
        """How many tokens the model has yet to read."""
        return len(self.ids) - self.fed


@dataclass(eq=False)
class Job:
    """A request on its way.

    `streams`: those that the plan needs, in the request's order. `settings`: for each step of the plan, how to sample
    it and the weights of its streams. `copied`: how much of what the cursor wrote the streams already have.
    """

    id: int
    cursor: Cursor
    streams: list[Stream]
    settings: list[tuple[Sampling, tuple[float, ...]]]
    copied: int = 0
    steps: int = 0

    @classmethod
    def of(cls, id: int, request: Request, cursor: Cursor) -> Job:
        """A job that has read nothing. Streams that no step gives any weight are left out, at the end of the tuple."""
        settings = []
        for step in request.plan:
            sampling = request.sampling_of(step)
            weights = sampling.weights(len(request.streams)) if getattr(step, "guided", False) else (1.0,)
            while weights[-1] == 0 and len(weights) > 1:
                weights = weights[:-1]
            settings.append((sampling, weights))
        needed = max(len(weights) for _, weights in settings)
        job = cls(id, cursor, [Stream.of(prompt) for prompt in request.streams[:needed]], settings)
        job.extend()
        return job

    def extend(self) -> None:
        """Append what the cursor wrote since the last call to every stream."""
        ids, cells = self.cursor.ids[self.copied :], self.cursor.cells[self.copied :]
        for stream in self.streams:
            stream.ids += ids
            stream.cells += cells
        self.copied = len(self.cursor.ids)

    def result(self) -> Result:
        """What was produced."""
        cursor = self.cursor
        return Result(cursor.tokens, cursor.spans, tuple(cursor.logprobs), tuple(cursor.reasons), self.steps)


class Schedule:
    """The queue and the rows. `active`: jobs in order of admission. `rows[i]`: the stream in cache row i."""

    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams
        self.waiting: deque[Job] = deque()
        self.active: list[Job] = []
        self.rows: list[Stream] = []

    def admit(self) -> list[Job]:
        """Give rows to the jobs at the head of the queue for as long as they fit."""
        admitted = []
        while self.waiting and len(self.rows) + len(self.waiting[0].streams) <= self.max_streams:
            job = self.waiting.popleft()
            for stream in job.streams:
                stream.row = len(self.rows)
                self.rows.append(stream)
            self.active.append(job)
            admitted.append(job)
        return admitted

    def retire(self, jobs: list[Job]) -> list[tuple[int, int, int]]:
        """Free the rows of active jobs. Returns the moves (source row, target row, tokens) that close the gaps."""
        gone = {stream.row for job in jobs for stream in job.streams}
        left = len(self.rows) - len(gone)
        holes = sorted(row for row in gone if row < left)
        movers = [row for row in range(left, len(self.rows)) if row not in gone]
        moves = []
        for source, target in zip(movers, holes, strict=True):
            stream = self.rows[target] = self.rows[source]
            stream.row = target
            moves.append((source, target, stream.fed))
        del self.rows[left:]
        self.active = [job for job in self.active if job not in jobs]
        return moves
