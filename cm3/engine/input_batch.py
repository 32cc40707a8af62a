"""The rows of a step as tensors: what each reads next, and how its request draws.

The host lays them out when requests join, leave or come to another step of their plan. From there on a step hands its
ids to the next as tensors, so several are issued before the host reads what was drawn:

    tokens, positions -> hidden -> logits of allowed ids -> guide -> draw -> ids, written into tokens, positions + 1

Where a window of guesses is read (jacobi.py), a request draws at each place of it, and the host lays out every step.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from functools import cached_property

import torch
from torch import Tensor

from cm3.engine.cache import Append, Cache
from cm3.engine.grammar import Ranges, ids_at
from cm3.engine.guidance import guide
from cm3.engine.jacobi import Window
from cm3.engine.prefill import tokens_of
from cm3.engine.sample import draw, uniform
from cm3.engine.schedule import Job, Schedule
from cm3.model.decoder import Decoder


class Group:
    """Requests that draw from the same ids, each guided by as many streams. What none of them asks for is None."""

    def __init__(self, jobs: dict[Job, int], counts: list[int], device: torch.device) -> None:
        """Lay out how `jobs` draw, each at so many places, the last of the `counts` tokens of each of its rows."""
        self.jobs = jobs
        drawing = [(job, i) for job, places in jobs.items() for i in range(places)]
        settings = [job.setting for job, _ in drawing]
        sampling = [s for s, _ in settings]
        guided = [job.step.guided for job, _ in drawing]
        self.ranges, self.streams = drawing[0][0].ranges, len(settings[0][1])
        width = max(counts)
        places = [
            row.at * width + counts[row.at] - jobs[job] + i for job, i in drawing for row in job.rows[: self.streams]
        ]
        self.places = None if places == list(range(len(counts) * width)) else torch.tensor(places, device=device)
        # Apple's GPUs have no float64, and draw on the processor.
        at = torch.device("cpu") if device.type == "mps" else device

        def tensor(values: list, of: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=of, device=at)

        self.device = at
        self.weights = tensor([w for _, w in settings], torch.float32)
        self.amateur = tensor([s.amateur_temperature for s in sampling], torch.float32)
        alpha = [s.alpha if on and s.contrast else 0.0 for s, on in zip(sampling, guided, strict=True)]
        k = [s.k if a and s.contrast == "kmax" else 1 for s, a in zip(sampling, alpha, strict=True)]
        self.most = max(k)
        self.alpha = tensor(alpha, torch.float32) if any(alpha) else None
        self.k = tensor(k, torch.int64) if self.most > 1 else None
        greedy = [s.greedy for s in sampling]
        self.greedy = tensor(greedy, torch.bool) if any(greedy) else None
        heat = [1.0 if s.greedy else s.temperature for s in sampling]
        self.temperature = None if all(greedy) else tensor(heat, torch.float64)
        top_p = [1.0 if s.greedy else s.top_p for s in sampling]
        self.top_p = tensor(top_p, torch.float64) if min(top_p) < 1 else None
        self.seeds = tensor([s.seed for s in sampling], torch.int64)
        self.draws = tensor([len(job.ids) + i for job, i in drawing], torch.int64)

    @property
    def tensors(self) -> list[Tensor]:
        """Return the settings of each draw, and how many there were."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    @property
    def signature(self) -> Hashable:
        """Return what groups must have in common to draw by one program."""
        kept = tuple((name, len(value)) for name, value in vars(self).items() if isinstance(value, Tensor))
        return self.ranges, self.streams, self.most, kept

    def apart(self) -> Group:
        """Return the same in memory of its own."""
        made = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(made, name, value.clone())
        return made

    def draw(self, hidden: Tensor, decoder: Decoder) -> Tensor:
        """Return an id for each place of each request, -1 where the logits are not finite, and its log-probability,
        both as float64 (2, places), of the hidden states of all rows (rows * width, d)."""
        hidden = hidden if self.places is None else hidden[self.places]
        pieces = [decoder.head(hidden, slice(start, stop)).float() for start, stop in self.ranges]
        logits = (torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]).to(self.device)
        logits = logits.view(len(self.draws), self.streams, -1)
        scores = guide(logits, self.weights, self.amateur, self.alpha, self.k, self.most)
        columns = draw(scores, self.temperature, uniform(self.seeds, self.draws), self.top_p, self.greedy)
        self.draws += 1
        logprobs = logits[:, 0].log_softmax(-1).gather(1, columns.clamp(min=0)[:, None])[:, 0]
        return torch.stack([ids_at(self.ranges, columns).double(), logprobs.double()])


class Then:
    """The tokens behind those that are drawn."""

    def __init__(self, job_of: Tensor, cells: Tensor, drawn: Tensor) -> None:
        """Take the place of each row's request in what is drawn, int64 (rows,), the cells of the next draws, int64
        (draws, jobs), and the number of draws so far, int64 (1,)."""
        self.tensors = job_of, cells, drawn

    def write(self, drawn: Tensor, tokens: Tensor) -> None:
        """Write what was drawn, (2, jobs), with its cells into the tokens of rows that read one each, in place."""
        job_of, cells, count = self.tensors
        cell = cells.index_select(0, count)[0]
        ids = drawn[0].clamp(min=0).long().to(cell.device)
        torch.index_select(torch.stack([ids, cell]), 1, job_of, out=tokens[:, :, 0])
        count += 1


class Pass:
    """Tensors that a step reads and moves on in place, all of them on the device.

    tokens: ids and cells that each row reads next, int64 (2, rows, width), padded on the right. attend: how they are
    read. groups: how requests draw. then: None where another pass cannot follow from this one.
    """

    def __init__(self, tokens: Tensor, attend: Append, groups: list[Group], then: Then | None) -> None:
        self.tokens, self.attend, self.groups, self.then = tokens, attend, groups, then

    def run(self, decoder: Decoder, more: bool) -> Tensor:
        """Return what every group draws, (2, jobs). With `more` all is moved on to the next pass."""
        ids, cells = self.tokens
        hidden = decoder.hidden(ids, self.attend.positions, self.attend, cells).flatten(0, 1)
        made = [group.draw(hidden, decoder) for group in self.groups]
        drawn = torch.cat(made, dim=1) if made else hidden.new_empty(2, 0)
        if more and self.then is not None:
            self.then.write(drawn, self.tokens)
            self.attend.advance()
        return drawn

    @property
    def tensors(self) -> list[Tensor]:
        """Return all that another pass of the same signature may have other values of."""
        own = [tensor for group in self.groups for tensor in group.tensors]
        return [self.tokens, *self.attend.tensors, *own, *(self.then.tensors if self.then else ())]

    @cached_property
    def signature(self) -> Hashable:
        """Return what passes must have in common to be one program on other values, but for the places read."""
        return self.tokens.shape, tuple(group.signature for group in self.groups), self.attend.signature

    def apart(self, length: int, draws: int | None = None) -> Pass:
        """Return the same in memory of its own, which reads `length` places of the rows; with `draws` always as many,
        and with room for the cells of so many draws."""
        assert self.then is not None
        job_of, cells, drawn = self.then.tensors
        room = cells.new_zeros(len(cells) if draws is None else draws, cells.shape[1])
        groups = [group.apart() for group in self.groups]
        then = Then(torch.empty_like(job_of), room, torch.empty_like(drawn))
        made = Pass(torch.empty_like(self.tokens), self.attend.apart(length, draws is not None), groups, then)
        made.load(self)
        return made

    def load(self, other: Pass) -> None:
        """Take over the values of another pass of the same signature."""
        for mine, its in zip(self.tensors, other.tensors, strict=True):
            mine[: len(its)].copy_(its)


class InputBatch:
    """The active rows of a step.

    now: the next pass over them; `counts` tokens of each row, which end with the guesses of a window.
    jobs: the requests that draw, those that have then read all that they wrote, in the order of what is drawn, and how
    many ids each draws.
    left: the steps that these tensors are good for, unless a request joins, leaves or ends a text before.
    length: places of the rows that the next pass reads.
    """

    def __init__(self, schedule: Schedule, cache: Cache, chunk: int, window: Window) -> None:
        """Let every row read what is pending, at most `chunk` tokens, and guesses behind it."""
        rows, jobs, device = schedule.rows, schedule.active, window.device
        self.rows = rows
        ready = [job for job in jobs if all(row.pending <= chunk for row in job.rows)]
        width = window.width(ready, len(rows)) if ready else 1
        guesses = {job: job.look(width, window.columns) for job in ready}
        self.counts = [min(row.pending, chunk) + guesses.get(row.job, 0) for row in rows]
        groups: dict[tuple[Ranges, int], dict[Job, int]] = {}
        for job in ready:
            groups.setdefault((job.ranges, len(job.setting[1])), {})[job] = 1 + guesses[job]
        laid = [Group(some, self.counts, device) for some in groups.values()]
        self.jobs = {job: places for group in laid for job, places in group.jobs.items()}
        self._active = jobs
        steady = max(self.counts) == min(self.counts) == 1 and len(self.jobs) == len(jobs)
        steady = steady and all(job.alike for job in jobs)
        self.left = min(window.hold, *(job.left for job in jobs)) if steady else 1
        self._fixed = all(job.fixed for job in jobs)
        then = None
        if steady:
            index = {id(job): i for i, job in enumerate(self.jobs)}
            job_of = torch.tensor([index[id(row.job)] for row in rows], device=device)
            # Cells of what is drawn from here on.
            cells = torch.tensor([job.next_cells(self.left) for job in self.jobs], device=device).T
            then = Then(job_of, cells, torch.zeros(1, dtype=torch.int64, device=device))
        attend = Append(cache, [row.fed for row in rows], self.counts, device)
        self.now, self.length = Pass(tokens_of(rows, self.counts, device), attend, laid, then), attend.length

    @property
    def ahead(self) -> int:
        """Count the steps that may be issued before the ids of the first are read: no request can end meanwhile."""
        return self.left if self._fixed else 1

    def step(self, decoder: Decoder) -> Tensor:
        """Take the next pass; returns what every group draws, (2, jobs), which is what the rows read next."""
        self.count()
        return self.now.run(decoder, self.left > 0)

    def count(self) -> None:
        """Note that a step is issued."""
        self.left -= 1
        self.length += 1

    def accept(self, drawn: list[list[list[float]]]) -> tuple[list[Job], list[Job]]:
        """Write what `draw` gave, (steps, 2, places), into the requests; returns those that are done, and those of
        whose logits nothing could be drawn."""
        lost: list[Job] = []
        for row, count in zip(self.rows, self.counts, strict=True):
            row.fed += count + len(drawn) - 1  # not before: a step that is interrupted is taken again
        for job in self._active:
            job.steps += len(drawn)
        stop = 0
        for job, places in self.jobs.items():
            start, stop = stop, stop + places
            for ids, logprobs in drawn:
                right, same = job.take(ids[start:stop], logprobs[start:stop])
                for row in job.rows:  # what a wrong guess left in the cache is written over
                    row.fed -= places - right
                if not same:
                    self.left = 0
                if not right:
                    lost.append(job)
                    break
            for row in job.rows:
                row.settle()
        return [job for job in self.jobs if job.done], lost
