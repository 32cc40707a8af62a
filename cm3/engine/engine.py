"""The engine: requests in, results out, in ids only.

    step = schedule -> prefill -> forward -> guide -> constrain (grammar) -> sample -> retire

Every step reads one token of every active stream in one forward pass, whatever the requests' kinds, lengths and
settings, and samples one token for each request. Requests join and leave between steps. Of the logits, only the rows of
ids that the grammar allows are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import torch
from torch import Tensor

from cm3.engine.budget import block_bytes, check_cache, share_of_free
from cm3.engine.cache import Append, Cache
from cm3.engine.grammar import Force, Ranges, check_plan, fed, id_at, ranges_of, size
from cm3.engine.guidance import guide
from cm3.engine.prefill import prefill, tokens_of
from cm3.engine.request import Request, Result
from cm3.engine.sample import draw, uniform
from cm3.engine.schedule import Job, Row, Schedule
from cm3.errors import ConfigError, RequestError, shown, whole_number
from cm3.model.decoder import Decoder
from cm3.vocab import Vocab

_CHUNK = 8
"""Forced tokens that one step reads at most in a row: they pad the step of every other stream."""

Progress = Callable[[int, int], None]


class Engine:
    """Continuous batching over one decoder.

    `max_streams`: cache rows; a guided request takes two or three. Device and type are the decoder's. `cache_gb`: the
    most that keys and values may take, in 1e9 bytes; without it, a share of what is free on the device. `cache_dtype`:
    how they are held, "auto" as the decoder computes them (budget.py).

        engine = Engine(decoder, vocab)
        results = engine.run(requests)                   # in order
        id = engine.add(request); finished = engine.step()   # or one step at a time, as a server does

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
    ) -> None:
        max_streams = whole_number("engine.max_streams", max_streams)
        if decoder.config.vocab_size < vocab.size:
            raise ConfigError(
                f"decoder.vocab_size={decoder.config.vocab_size}: smaller than the vocabulary's {vocab.size} ids; "
                "load the decoder and the vocabulary from the same bundle"
            )
        self.decoder, self.vocab = decoder, vocab
        cache_gb, dtype = check_cache(cache_gb, cache_dtype)
        self._bytes = share_of_free(decoder.device) if cache_gb is None else int(cache_gb * 1e9)
        self._cache = Cache(max_streams, decoder.config.context, self._bytes // block_bytes(decoder, dtype), dtype)
        self._schedule = Schedule(max_streams, self._cache)
        self._next_id = 0
        self._held: list[tuple[int, Result]] = []

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

    def add(self, request: Request) -> int:
        """Queue a request; returns its id. Raises RequestError where it cannot be served."""
        self._check(request)
        job = Job(self._next_id, request, self.vocab)
        if len(job.rows) > self._schedule.max_streams:
            raise RequestError(
                f"request: {len(job.rows)} streams, the engine has max_streams={self._schedule.max_streams}; "
                "raise max_streams, or ask without guidance"
            )
        a_block = block_bytes(self.decoder, self._cache.dtype)
        if not self._schedule.size:  # the decoder's type may have changed
            self._cache.blocks = self._bytes // a_block
        if job.blocks > self._cache.blocks:
            longest = max(row.need for row in job.rows)
            raise RequestError(
                f"request: {len(job.rows)} x {longest} tokens of keys and values take {job.blocks * a_block / 1e9:.3g} "
                f"GB, the engine has cache_gb={self._bytes / 1e9:.3g}; raise cache_gb, shorten the prompt, "
                "or ask without guidance"
            )
        self._next_id += 1
        if job.done:
            self._held.append((job.id, job.result()))
        else:
            self._schedule.put(job)
        return job.id

    def cancel(self, id: int) -> bool:
        """Drop a request, queued or running. Returns whether there was one."""
        queue, before = self._schedule, self._schedule.size + len(self._held)
        queue.drop(id)
        self._retire([job for job in queue.active if job.id == id])
        self._held = [(i, result) for i, result in self._held if i != id]
        return queue.size + len(self._held) < before

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Result]]:
        """Advance every active request by one sampled token; returns those that finished, with their ids."""
        finished, self._held = self._held, []
        self._schedule.admit()
        prefill(self.decoder, self._cache, self._schedule.rows)
        if not self._schedule.active:
            return finished
        last = self._forward(self._schedule.rows)
        groups: dict[tuple[Ranges, int], list[Job]] = {}
        for job in self._schedule.active:
            job.steps += 1
            if job.rows[0].pending == 0:
                groups.setdefault((job.ranges, len(job.settings[job.at][1])), []).append(job)
        lost: list[Job] = []
        for (ranges, streams), jobs in groups.items():
            for job, column, logprob in zip(jobs, *self._sample(last, ranges, streams, jobs), strict=True):
                if column < 0:
                    lost.append(job)
                else:
                    job.accept(id_at(ranges, column), logprob)
        done = [job for job in self._schedule.active if job.done]
        self._retire(done + lost)
        finished += [(job.id, job.result()) for job in done]
        if lost:
            self._held = finished
            raise RequestError(
                f"request {lost[0].id}: the model gave logits that are not finite; it is dropped. "
                "Check the weights, or run in bfloat16 or float32"
            )
        return finished

    def run(self, requests: Iterable[Request], progress: Progress | None = None) -> list[Result]:
        """Serve requests to the end; results in the order asked. Of requests that must give the same, one is served.

        `progress(done, total)` is called after each step with tokens produced and the most there can be. Results of
        requests that were added before are kept for the next `step`.
        """
        ids: dict[Hashable, int] = {}
        order: list[int] = []
        sizes: dict[int, int] = {}
        results: dict[int, Result] = {}
        others: list[tuple[int, Result]] = []
        try:
            for request in requests:
                if request.identity not in ids:
                    ids[request.identity] = id = self.add(request)
                    sizes[id] = sum(map(size, request.plan))
                order.append(ids[request.identity])
            while len(results) < len(sizes):
                for id, result in self.step():
                    if id in sizes:
                        results[id] = result
                    else:
                        others.append((id, result))
                if progress is not None:
                    now = sum(len(job.ids) for job in self._schedule.active if job.id in sizes)
                    progress(now + sum(sizes[id] for id in results), sum(sizes.values()))
        finally:
            for id in sizes.keys() - results.keys():
                self.cancel(id)
            self._held = others + self._held
        return [results[id] for id in order]

    def _check(self, request: Request) -> None:
        config = self.decoder.config
        check_plan(request.plan, self.vocab, config.grid)
        for step in request.plan:
            sampling = request.sampling_of(step)
            if not isinstance(step, Force) and step.guided and sampling.contrast == "kmax":
                ids = sum(stop - start for start, stop in ranges_of(step, self.vocab))
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

    @torch.inference_mode()
    def _retire(self, jobs: list[Job]) -> None:
        for source, target, length in self._schedule.retire(jobs):
            self._cache.move(source, target, length)

    def _forward(self, rows: list[Row]) -> Tensor:
        """Read what is pending in every row, at most a chunk; returns the last hidden state of each, (rows, d)."""
        counts = [min(row.pending, _CHUNK) for row in rows]
        ids, cells = tokens_of(rows, counts, self.decoder.device)
        attend = Append(self._cache, [row.fed for row in rows], counts, ids.device)
        hidden = self.decoder.hidden(ids, attend.positions, attend, cells)
        for row, count in zip(rows, counts, strict=True):
            row.fed += count
        if max(counts) == 1:
            return hidden[:, 0]
        return hidden[torch.arange(len(rows), device=ids.device), torch.tensor(counts, device=ids.device) - 1]

    def _sample(self, last: Tensor, ranges: Ranges, streams: int, jobs: list[Job]) -> tuple[list[int], list[float]]:
        """Return one column of `ranges` and its log-probability for each job; the jobs have the same ranges and
        streams."""
        rows = [row.at for job in jobs for row in job.rows[:streams]]
        hidden = last if rows == list(range(len(last))) else last[torch.tensor(rows, device=last.device)]
        pieces = [self.decoder.head(hidden, slice(start, stop)).float() for start, stop in ranges]
        logits = torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]
        logits = logits.view(len(jobs), streams, -1)
        if logits.device.type == "mps":  # no float64 there
            logits = logits.cpu()
        at = logits.device
        settings = [job.settings[job.at] for job in jobs]
        guided = [job.step.guided for job in jobs]
        weights = torch.tensor([w for _, w in settings], device=at)
        numbers = [
            (s.temperature, s.top_p, s.alpha if on and s.contrast else 0.0, s.amateur_temperature)
            for (s, _), on in zip(settings, guided, strict=True)
        ]
        temperature, top_p, alpha, amateur = torch.tensor(numbers, dtype=torch.float64, device=at).unbind(1)
        k = torch.tensor([s.k if s.contrast == "kmax" else 1 for s, _ in settings], device=at)
        scores = guide(logits, weights, alpha.float(), k, amateur.float())
        chance = uniform([s.seed for s, _ in settings], [len(job.ids) for job in jobs])
        columns = draw(scores, temperature, top_p, torch.from_numpy(chance).to(at))
        expert = logits[:, 0]
        chosen = expert.gather(1, columns.clamp(min=0)[:, None])[:, 0] - expert.logsumexp(-1)
        return columns.tolist(), chosen.tolist()
