"""The engine: requests in, results out, in ids only.

    step = schedule -> prefill -> forward -> guide -> constrain (grammar) -> sample -> retire

Every step reads one token of every active stream in one forward pass, whatever the requests' kinds, lengths and
settings, and samples one token for each request; of a picture several, where a window is asked for (jacobi.py).
Requests join and leave between steps. Of the logits, only the rows of ids that the grammar allows are computed.
docs/engine.md draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import closing, contextmanager

import torch

from cm3.engine.budget import block_bytes, check_cache, check_keep, share_of_free
from cm3.engine.cache import Cache
from cm3.engine.grammar import Codes, Force, Interleaved, check_plan, fed, ranges_of, size
from cm3.engine.graphs import Graphs, recorder
from cm3.engine.input_batch import InputBatch
from cm3.engine.jacobi import Window
from cm3.engine.prefill import prefill
from cm3.engine.request import Dropped, Event, Load, Request, Result
from cm3.engine.schedule import Job, Schedule
from cm3.errors import ConfigError, RequestError, shown, whole_number
from cm3.model.decoder import Decoder
from cm3.vocab import Vocab

_CHUNK = 8
"""Forced tokens that one step reads at most in a row: they pad the step of every other stream."""
_AHEAD = 8
"""Steps that are issued ahead on a GPU: enough to keep it busy while the host reads, few enough that a stream flows."""

Progress = Callable[[int, int], None]


class Engine:
    """Continuous batching over one decoder.

    `max_streams`: cache rows; a guided request takes two or three. Device and type are the decoder's. `cache_gb`: the
    most that keys and values may take, in 1e9 bytes; without it, a share of what is free on the device. `cache_dtype`:
    how they are held, "auto" as the decoder computes them (budget.py). `ahead`: while no request can end, so many steps
    are issued before the host reads what was drawn, which changes no token; None is 1 on a processor, and 8 elsewhere.
    `parallel`: codes of a picture that a step draws at most, "auto" as many as pay here, 0 one; it changes no token.
    `graphs`: whether steps that come again are recorded and replayed as one (graphs.py), "auto" where that is CUDA's.
    `keep_gb`: what requests read and wrote stays for others that begin with it, up to so many gigabytes of the cache,
    as far as no request needs their room. It is for weights that do not change; where they do, call `forget`.

        engine = Engine(decoder, vocab)
        results = engine.run(requests)                       # in order
        for event in engine.stream(requests): event.tokens   # as they come
        id = engine.add(request); events = engine.poll()     # or one step at a time, as a server does

    The same request with the same seed gives the same result whatever else is in the batch, up to the rounding of
    matrix products, which may depend on the size of the batch.
    """

    def __init__(
        self,
        decoder: Decoder,
        vocab: Vocab,
        max_streams: int = 32,
        cache_gb: float | None = None,
        cache_dtype: str | torch.dtype = "auto",
        ahead: int | None = None,
        parallel: int | str = 0,
        graphs: bool | str = "auto",
        keep_gb: float = 0.0,
    ) -> None:
        max_streams = whole_number("engine.max_streams", max_streams)
        if ahead is None:
            ahead = 1 if decoder.device.type == "cpu" else _AHEAD
        self.ahead = whole_number("engine.ahead", ahead)
        if decoder.config.vocab_size < vocab.size:
            raise ConfigError(
                f"decoder.vocab_size={decoder.config.vocab_size}: smaller than the vocabulary's {vocab.size} ids; "
                "load the decoder and the vocabulary from the same bundle"
            )
        self.decoder, self.vocab = decoder, vocab
        self.window = Window(parallel, decoder)
        cache_gb, dtype = check_cache(cache_gb, cache_dtype)
        self._bytes = share_of_free(decoder.device) if cache_gb is None else int(cache_gb * 1e9)
        self._cache = Cache(max_streams, decoder.config.context, self._bytes // block_bytes(decoder, dtype), dtype)
        self._keep_bytes = int(check_keep(keep_gb) * 1e9)
        self._cache.most_kept = self._keep_bytes // block_bytes(decoder, dtype)
        self._schedule = Schedule(max_streams, self._cache, keep_gb > 0)
        record = recorder(graphs, decoder.device)
        self._graphs = None if record is None else Graphs(decoder, self._cache, record)
        self._batch: InputBatch | None = None
        self._kind = self._kind_now
        self._next_id = 0
        self._held: list[Job] = []
        self._torn = False

    @property
    def memory(self) -> int:
        """Return the bytes of keys and values: at most `cache_gb`. Rows, once made, are kept for the next requests."""
        return self._cache.memory

    @property
    def reserved(self) -> int:
        """Return the blocks of the cache that requests hold: none when it is not busy."""
        return self._schedule.blocks

    @property
    def busy(self) -> bool:
        """Tell whether a step would do or return anything."""
        return bool(self._schedule.active or self._schedule.waiting or self._held)

    @property
    def running(self) -> list[int]:
        """Return the ids of the requests that have a place in the batch."""
        return [job.id for job in self._schedule.active]

    @property
    def load(self) -> Load:
        """Return how much of the engine is in use."""
        queue = self._schedule
        held, most, kept = queue.blocks, self._cache.blocks, len(self._cache.kept)
        return Load(len(queue.active), len(queue.waiting), len(queue.rows), held, most, kept)

    def add(self, request: Request) -> int:
        """Queue a request; returns its id. Raises RequestError where it cannot be served."""
        return self._queue(request).id

    def cancel(self, id: int) -> bool:
        """Drop a request, queued or running, at any step. Returns whether there was one."""
        if self._torn:  # nothing runs any more
            return False
        with self._writing():
            return self._cancel(id)

    def _cancel(self, id: int) -> bool:
        queue, held = self._schedule, len(self._held)
        self._held = [job for job in self._held if job.id != id]
        gone = [job for job in (*queue.active, *queue.waiting) if job.id == id]
        queue.drop(id)
        self._retire([job for job in queue.active if job.id == id])
        for job in gone:
            job.cancelled = True
        return bool(gone) or len(self._held) < held

    def forget(self) -> None:
        """Drop all that is kept, and keep nothing of the requests that run: before the next one, after a change of the
        decoder's weights."""
        self._cache.kept.shrink(0)
        for job in self._schedule.active:
            job.keep = False

    def step(self) -> list[tuple[int, Result]]:
        """Advance every active request by one drawn token, or by `ahead` where none can end meanwhile; returns those
        that finished, with their ids. One that is interrupted in a pass is taken again. Raises `Dropped` for those
        that are, and RequestError where the host's part was interrupted, now or before."""
        return [(job.id, job.result()) for job in self._advance()]

    @torch.inference_mode()
    def _advance(self) -> list[Job]:
        self._join()
        if self._schedule.active:
            batch = self._batch or InputBatch(self._schedule, self._cache, _CHUNK, self.window)
            self._batch, steps = None, min(self.ahead, batch.ahead)
            # Nothing in these lines waits for the device: what is drawn is what the next forward reads.
            if self._graphs is not None:
                drawn = self._graphs.steps(batch, steps)
            else:
                drawn = [batch.step(self.decoder) for _ in range(steps)]
            read = torch.stack(drawn).tolist()
            with self._writing():
                done, lost = batch.accept(read)
                self._batch = batch if batch.left and not lost else None
                self._held += done
                if lost:  # what is not finite may be in any of it
                    self.forget()
                self._retire(done + lost)
            if lost:
                raise Dropped(
                    f"request {lost[0].id}: the model gave logits that are not finite; it is dropped. "
                    "Check the weights, or run in bfloat16 or float32",
                    tuple(job.id for job in lost),
                )
        finished, self._held = self._held, []
        return finished

    def poll(self) -> list[Event]:
        """Advance as `step`; return what each request wrote since it was last told, and results of those that finished.

        Raises as `step`; of requests other than the one that is dropped nothing is lost then.
        """
        finished = self._advance()
        done = {job.id for job in finished}
        told = [(job, job.news()) for job in (*finished, *self._schedule.active)]
        return [
            Event(job.id, job.id, tokens, job.result() if job.id in done else None)
            for job, tokens in told
            if tokens.length or job.id in done
        ]

    def run(self, requests: Iterable[Request], progress: Progress | None = None) -> list[Result]:
        """Serve requests to the end; results in the order asked. Of requests that must give the same, one is served.

        `progress(done, total)` is called after each step with tokens produced and the most there can be. Results of
        requests that were added before are kept for the next `step`.
        """
        places: dict[Hashable, int] = {}
        unique: list[Request] = []
        order: list[int] = []
        for request in requests:
            if request.identity not in places:
                places[request.identity] = len(unique)
                unique.append(request)
            order.append(places[request.identity])
        sizes = [sum(map(size, request.plan)) for request in unique]
        results: dict[int, Result] = {}
        over, total = 0, sum(sizes)
        with closing(self._serve(unique)) as steps:
            for made in steps:
                results |= {place: result for place, _, result in made if result is not None}
                over += sum(sizes[place] for place, _, result in made if result is not None)
                if progress is not None:
                    progress(over + sum(len(job.ids) for _, job, result in made if result is None), total)
        if len(results) < len(unique):
            raise RequestError("request: was cancelled while it ran, so the run has no result for it; ask for it again")
        return [results[place] for place in order]

    def stream(self, requests: Iterable[Request]) -> Generator[Event]:
        """Serve requests and yield what they write as it comes; the last event of each has its result.

        What is unfinished when the iterator is closed is cancelled; `cancel` ends one of them. An id that ends a text,
        and what the plan forces, come as events too.
        """
        with closing(self._serve(requests)) as steps:
            for made in steps:
                for place, job, result in made:
                    tokens = job.news()
                    if not job.cancelled and (tokens.length or result is not None):
                        yield Event(place, job.id, tokens, result)

    def _serve(self, requests: Iterable[Request]) -> Generator[list[tuple[int, Job, Result | None]]]:
        """Yield after each step those of `requests` that run or just finished: the place among them, job, result."""
        left: dict[int, tuple[int, Job]] = {}
        others: list[Job] = []
        try:
            for place, request in enumerate(requests):
                job = self._queue(request)
                left[job.id] = place, job
            while any(not job.cancelled for _, job in left.values()):
                finished = self._advance()
                others += [job for job in finished if job.id not in left]
                made: list[tuple[int, Job, Result | None]]
                made = [(*left.pop(job.id), job.result()) for job in finished if job.id in left]
                yield made + [(*left[job.id], None) for job in self._schedule.active if job.id in left]
        finally:
            for id in left:
                self.cancel(id)
            self._held = others + self._held

    def _queue(self, request: Request) -> Job:
        self._check(request)
        job = Job(self._next_id, request, self.vocab)
        if len(job.rows) > self._schedule.max_streams:
            raise RequestError(
                f"request: {len(job.rows)} streams, the engine has max_streams={self._schedule.max_streams}; "
                "raise max_streams, or ask without guidance"
            )
        a_block = block_bytes(self.decoder, self._cache.dtype)
        if not self._schedule.size:  # the decoder's type may have changed
            self._cache.blocks, self._cache.most_kept = self._bytes // a_block, self._keep_bytes // a_block
            if self._kind != self._kind_now:
                self.forget()
                self._kind = self._kind_now
        if job.blocks > self._cache.blocks:
            longest = max(row.need for row in job.rows)
            raise RequestError(
                f"request: {len(job.rows)} x {longest} tokens of keys and values take {job.blocks * a_block / 1e9:.3g} "
                f"GB, the engine has cache_gb={self._bytes / 1e9:.3g}; raise cache_gb, shorten the prompt, "
                "or ask without guidance"
            )
        self._next_id += 1
        if job.done:
            self._held.append(job)
        else:
            self._schedule.put(job)
        return job

    @property
    def _kind_now(self) -> tuple[torch.dtype, torch.device]:
        return self.decoder.embed.weight.dtype, self.decoder.device

    def _check(self, request: Request) -> None:
        config = self.decoder.config
        check_plan(request.plan, self.vocab, config.grid)
        for step in request.plan:
            sampling = request.sampling_of(step)
            if not isinstance(step, Force) and step.guided and sampling.contrast == "kmax":
                drawn = Codes(step.cells) if isinstance(step, Interleaved) else step
                ids = sum(stop - start for start, stop in ranges_of(drawn, self.vocab))
                if sampling.k > ids:
                    raise RequestError(f"sampling.k={shown(sampling.k)}: must be at most {ids}, the ids to draw from")
        cells = config.grid[0] * config.grid[1] if config.grid else None
        for i, stream in enumerate(request.streams):
            for name, values, high in (("id", stream.ids, self.vocab.size - 1), ("cell", stream.cells, cells)):
                bad = values[(values < 0) | (values > high)] if high is not None else values[values < 0]
                if bad.size:
                    raise RequestError(f"request: {name} {bad[0]} in streams[{i}]: must be 0 to {high}")
            planned = fed(request.plan)
            if stream.length + planned > config.context:
                raise RequestError(
                    f"request: streams[{i}] needs {stream.length + planned} tokens of context (prompt {stream.length}, "
                    f"plan {planned}), this model has {config.context}; shorten the prompt, "
                    "or lower the text's limit"
                )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep apart a change of what the host knows of requests, rows and blocks; half made, it fits nothing."""
        if self._torn:
            raise RequestError(
                "engine: was interrupted while it wrote down what requests hold, and serves no more; make another"
            )
        self._torn = True
        yield
        self._torn = False

    @torch.inference_mode()
    def _retire(self, jobs: list[Job]) -> None:
        if jobs:
            self._batch = None
        for source, target, length in self._schedule.retire(jobs):
            self._cache.move(source, target, length)

    def _join(self) -> None:
        """Give rows to requests that wait, and read their prompts."""
        rows = len(self._schedule.rows)
        with self._writing():
            self._schedule.admit()
        if len(self._schedule.rows) > rows:
            self._batch = None
        prefill(self.decoder, self._cache, self._schedule.rows)
