"""A schedule of requests: first come, first served, the streams of one always together, in rows without gaps.

A request waits until all its streams fit, in rows and in blocks of the cache: all that it can need is reserved when it
starts. When one leaves, the streams in the last rows move into the rows it left, so that the active rows are 0 to n - 1
and the cache can be sliced. A large request at the head of the queue is not overtaken.

Blocks with which the prompts of two streams begin, of those that wait or run, are a prefix, held once (cache.py): n
samples of a prompt, documents before it, questions about one picture.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from cm3.engine.cache import BLOCK, Cache, Chain
from cm3.engine.grammar import Choice, Codes, Interleaved, Step, fed
from cm3.engine.jacobi import Foresight
from cm3.engine.request import Request, Result, Sampling
from cm3.vocab import Tokens, Vocab


@dataclass(eq=False)
class Row:
    """One stream of a request: a prompt, and behind it what the request has written.

    `need`: the most tokens that it can have. `chain`: its prompt's whole blocks, but for the last token, which is read
    for what comes next. `view`: what it reads of what is written: "all", the "pictures", or the "picture" at hand.
    `fed`: how many of its tokens the model has read. `found`: how many of its prompt's the cache had. `at`: the row of
    the cache.
    """

    prompt: Tokens
    job: Job
    need: int
    chain: Chain
    view: str = "all"
    fed: int = 0
    found: int = 0
    at: int = -1

    @property
    def pending(self) -> int:
        """Count the tokens that the model has yet to read."""
        return self.prompt.length + self.job.seen(self.view) - self.fed

    def next(self, count: int) -> np.ndarray:
        """Return the next `count` tokens to read, guesses behind those that are pending: ids and cells, (2, count)."""
        start, stop = self.fed, self.fed + count
        at = self.prompt.length
        written = np.array(self.job.shown(self.view, max(start - at, 0), max(stop - at, 0)), np.int64)
        return written if start >= at else np.concatenate([np.stack(self.prompt.slice(start, stop)), written], axis=1)

    def settle(self) -> None:
        """Drop a picture that is done, where that is all that the row reads."""
        if self.view == "picture" and self.job.picture is None:
            self.fed = min(self.fed, self.prompt.length)


class Job(Foresight):
    """A request on its way.

    `rows`: the streams that the plan needs, in the request's order; those that no step gives any weight are left out,
    at the end of the tuple. `keep`: what it has read may stay after it.
    """

    def __init__(self, id: int, request: Request, vocab: Vocab) -> None:
        self._pictures: list[int] = []
        super().__init__(request.plan, vocab)
        self.id, self.steps, self.keep = id, 0, True
        self.cancelled, self._told = False, 0
        self._request = request
        self._settings: dict[tuple[Sampling, bool], tuple[Sampling, tuple[float, ...]]] = {}
        streams = request.streams[: max(len(self._setting(step)[1]) for step in request.plan)]
        planned, on = fed(request.plan), any(isinstance(step, Interleaved) for step in request.plan)
        views = ("all", "picture", "pictures") if on else ("all",) * 3
        self.rows = [
            Row(prompt, self, prompt.length + planned, _chain(prompt, prompt.length - 1), view)
            for prompt, view in zip(streams, views, strict=False)
        ]

    @property
    def setting(self) -> tuple[Sampling, tuple[float, ...]]:
        """Return how the step at hand is sampled, and the weights of its streams."""
        return self._setting(self.step)

    @property
    def alike(self) -> bool:
        """Tell whether all rows read what is drawn now."""
        return isinstance(self.step, Codes) or all(row.view == "all" for row in self.rows)

    def seen(self, view: str) -> int:
        """Count the written tokens that a row of this view reads."""
        if view == "picture":
            return 0 if self.picture is None else len(self.ids) - self.picture
        return len(self._pictures if view == "pictures" else self.ids)

    def shown(self, view: str, start: int, stop: int) -> tuple[list[int], list[int]]:
        """Return `ahead` from `start` to `stop` of what a row of this view reads."""
        if view == "pictures":
            some, now = self._pictures[start:stop], len(self.ids)
            ids, cells = self.ahead(now, now + max(0, stop - len(self._pictures)))
            return [self.ids[i] for i in some] + ids, [self.cells[i] for i in some] + cells
        first = len(self.ids) - self.seen(view)
        return self.ahead(first + start, first + stop)

    def _setting(self, step: Step) -> tuple[Sampling, tuple[float, ...]]:
        sampling, guided = self._request.sampling_of(step), getattr(step, "guided", False)
        if (sampling, guided) not in self._settings:
            weights = sampling.weights(len(self._request.streams)) if guided else (1.0,)
            while weights[-1] == 0 and len(weights) > 1:
                weights = weights[:-1]
            self._settings[sampling, guided] = sampling, weights
        return self._settings[sampling, guided]

    def _write(self, token: int, cell: int) -> None:
        words = self._vocab.text_start <= token < self._vocab.image_start
        if not words and not isinstance(self._steps[self.at], Choice):
            self._pictures.append(len(self.ids))
        super()._write(token, cell)

    @property
    def blocks(self) -> int:
        """Return the blocks that it can need when it runs alone."""
        return len(self.rows) * max(-(-row.need // BLOCK) for row in self.rows)

    def news(self) -> Tokens:
        """Return what was written since the last call."""
        start, self._told = self._told, len(self.ids)
        return Tokens.of(self.ids[start:], self.cells[start:])

    def result(self) -> Result:
        """Return the ids that were produced."""
        return Result(
            self.tokens, self.spans, tuple(self.logprobs), tuple(self.reasons), self.steps, self.rows[0].found
        )


class Schedule:
    """The queue and the rows. `active`: jobs in order of admission. `rows[i]`: the stream in cache row i.

    `keep`: what was read stays in the cache after its request.
    """

    def __init__(self, max_streams: int, cache: Cache, keep: bool = False) -> None:
        self.max_streams, self.keep = max_streams, keep
        self.waiting: deque[Job] = deque()
        self.active: list[Job] = []
        self.rows: list[Row] = []
        self._cache = cache
        self._wanted: Counter[bytes] = Counter()

    @property
    def blocks(self) -> int:
        """Return the blocks that active rows and prefixes hold."""
        return len(self.rows) * -(-self._own // BLOCK) + sum(len(p.chain) for p in self._cache.prefixes.values())

    @property
    def _own(self) -> int:
        """Return the most tokens of its own that an active row can need."""
        return max((row.need - self._cache.held(row.at) for row in self.rows), default=0)

    @property
    def size(self) -> int:
        """Count the requests that wait or run."""
        return len(self.waiting) + len(self.active)

    def put(self, job: Job) -> None:
        """Queue a job."""
        self.waiting.append(job)
        self._wanted.update(key for row in job.rows for key in row.chain)
        for row in job.rows:  # what is kept of it, if anything, should be there when it starts
            self._cache.kept.use(row.chain)

    def drop(self, id: int) -> None:
        """Take a job out of the queue, if it waits there."""
        for job in [job for job in self.waiting if job.id == id]:
            self.waiting.remove(job)
            self._forget([job])

    def admit(self) -> None:
        """Give rows to the jobs at the head of the queue for as long as they fit."""
        while self.waiting and self._start(self.waiting[0]):
            self.active.append(self.waiting.popleft())

    def retire(self, jobs: list[Job]) -> list[tuple[int, int, int]]:
        """Free the rows of active jobs. Returns the moves (source row, target row, tokens) that close the gaps."""
        for row in (row for job in jobs for row in job.rows if self.keep and job.keep):
            self._keep(row)
        gone = {row.at for job in jobs for row in job.rows}
        for at in gone:
            self._cache.release(at)
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
        self._forget(jobs)
        return moves

    def _start(self, job: Job) -> bool:
        """Give rows to a job, and reserve all that it can need; returns whether there is room."""
        first = len(self.rows)
        if first + len(job.rows) > self.max_streams:
            return False
        own = self._own
        alone: list[Chain] = [()] * len(job.rows)
        for chains in ([self._common(row) for row in job.rows], alone):
            needs = [row.need - BLOCK * len(chain) for row, chain in zip(job.rows, chains, strict=True)]
            if self._cache.reserve(first + len(job.rows), max(own, *needs), {c for c in chains if c}):
                break
        else:
            return False
        self.rows += job.rows
        for at, (row, chain) in enumerate(zip(job.rows, chains, strict=True), first):
            row.at = at
            self._cache.clear(at)
            if chain:
                self._cache.begin(at, chain)
        return True

    def _keep(self, row: Row) -> None:
        """Keep the whole blocks that a row has read: of its prompt, and of what was written behind the first, which the
        next turn of a conversation repeats. The streams to lead away from are not continued."""
        prefix = self._cache.shared.get(row.at)
        if row.fed < row.prompt.length - 1 or not (prefix is None or prefix.whole):
            return  # its prompt was not read to the end
        tokens = Tokens.concat([row.prompt, row.job.tokens]) if row is row.job.rows[0] else row.prompt
        chain = _chain(tokens, min(row.fed, tokens.length))
        self._cache.keep(row.at, chain, len(self.rows), self._own)

    def _common(self, row: Row) -> Chain:
        """Return the blocks that a row has in common with another that waits or runs, or with a prefix."""
        known = self._cache.prefixes
        return row.chain[
            : max((i for i, key in enumerate(row.chain, 1) if self._wanted[key] > 1 or key in known), default=0)
        ]

    def _forget(self, jobs: list[Job]) -> None:
        """Count jobs that leave no more. Prefixes with which none begins any more go."""
        for key in (key for job in jobs for row in job.rows for key in row.chain):
            self._wanted[key] -= 1
            if not self._wanted[key]:
                del self._wanted[key]
        self._cache.prefixes = {k: p for k, p in self._cache.prefixes.items() if p.readers or k in self._wanted}


def _chain(tokens: Tokens, length: int) -> Chain:
    """Return a hash for each whole block of the first `length` tokens."""
    both, chain, key = np.stack(tokens).astype(np.int64), [], b""
    for start in range(0, length // BLOCK * BLOCK, BLOCK):
        key = hashlib.blake2b(key + both[:, start : start + BLOCK].tobytes(), digest_size=16).digest()
        chain.append(key)
    return tuple(chain)
