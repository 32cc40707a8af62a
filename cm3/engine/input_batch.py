"""The rows of a step as tensors: what each reads next, and how its request draws.

The host lays them out when requests join, leave or come to another step of their plan. From there on a step hands its
ids to the next as tensors, so several are issued before the host reads what was drawn:

    tokens, positions -> hidden -> logits of allowed ids -> guide -> draw -> ids, written into tokens, positions + 1

Where a window of guesses is read (jacobi.py), a request draws at each place of it, and the host lays out every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cm3.engine.cache import Append
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


class InputBatch:
    """The active rows of a step.

    tokens: ids and cells that each row reads next, int64 (2, rows, width), padded on the right; `counts` of each row,
    which end with the guesses of a window. attend: how they are read, once they were.
    jobs: the requests that draw, those that have then read all that they wrote, in the order of what is drawn, and how
    many ids each draws.
    left: the steps that these tensors are good for, unless a request joins, leaves or ends a text before.
    """

    def __init__(self, schedule: Schedule, chunk: int, window: Window) -> None:
        """Let every row read what is pending, at most `chunk` tokens, and guesses behind it."""
        rows, jobs, device = schedule.rows, schedule.active, window.device
        self.rows = rows
        ready = [job for job in jobs if all(row.pending <= chunk for row in job.rows)]
        width = window.width(ready, len(rows)) if ready else 1
        guesses = {job: job.look(width, window.columns) for job in ready}
        self.counts = [min(row.pending, chunk) + guesses.get(row.job, 0) for row in rows]
        self.tokens = tokens_of(rows, self.counts, device)
        self.attend: Append | None = None
        groups: dict[tuple[Ranges, int], dict[Job, int]] = {}
        for job in ready:
            groups.setdefault((job.ranges, len(job.setting[1])), {})[job] = 1 + guesses[job]
        self.groups = [Group(some, self.counts, device) for some in groups.values()]
        self.jobs = {job: places for group in self.groups for job, places in group.jobs.items()}
        self._active = jobs
        steady = max(self.counts) == 1 and len(self.jobs) == len(jobs) and all(job.alike for job in jobs)
        self.left = min(window.hold, *(job.left for job in jobs)) if steady else 1
        self._fixed = all(job.fixed for job in jobs)
        if self.left > 1:
            index = {id(job): i for i, job in enumerate(self.jobs)}
            self._job_of = torch.tensor([index[id(row.job)] for row in rows], device=device)
            # Cells of what is drawn from here on, (left, jobs).
            self._cells = torch.tensor([job.next_cells(self.left) for job in self.jobs], device=device).T
            self._drawn = torch.zeros(1, dtype=torch.int64, device=device)

    @property
    def ahead(self) -> int:
        """Count the steps that may be issued before the ids of the first are read: no request can end meanwhile."""
        return self.left if self._fixed else 1

    def draw(self, hidden: Tensor, decoder: Decoder) -> Tensor:
        """Return what every group draws, (2, jobs), of the rows' hidden states (rows * width, d): what the rows
        read next."""
        made = [group.draw(hidden, decoder) for group in self.groups]
        drawn = torch.cat(made, dim=1) if made else hidden.new_empty(2, 0)
        self.left -= 1
        if self.left:
            cells = self._cells.index_select(0, self._drawn)[0]
            ids = drawn[0].clamp(min=0).long().to(cells.device)
            self.tokens = torch.stack([ids, cells])[:, self._job_of, None]
            self._drawn += 1
        return drawn

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
