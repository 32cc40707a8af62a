"""Service: prompts that are laid out -> generations, or what comes of them meanwhile.

    layout --desk--> Prepared --engine loop--> tokens --Filling--> chunks, results --desk--> Generation

The desk is one thread for all that blocks: encoding and decoding pictures, retrieval, the layout of prompts. The event
loop never waits for the model.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from cm3.document import Document
from cm3.engine.request import Result
from cm3.errors import Cm3Error
from cm3.generate import Chunk, CM3Leon, Generation
from cm3.generate.prepared import Prepared
from cm3.generate.streaming import Filling
from cm3.generate.thinking import gone_on
from cm3.serve.engine_loop import EngineLoop
from cm3.serve.limits import Settings
from cm3.serve.problem import Problem
from cm3.vocab import Tokens, Vocab

LOG = logging.getLogger("cm3.serve")
P = ParamSpec("P")
T = TypeVar("T")
Layout = Callable[[], Sequence[Prepared]]
"""Prompts as they are laid out, in the desk's thread: `CM3Leon.prepare` or `prepare_task` with what they want."""


@dataclass
class Usage:
    """Tokens that were read and written, by modality. Those that stand around texts and pictures count as text.
    `cached_in`: of those of prompts, how many were read before and not again."""

    text_in: int = 0
    image_in: int = 0
    text_out: int = 0
    image_out: int = 0
    cached_in: int = 0

    def told(
        self, read: str = "input", written: str = "output", more_in: Sequence[str] = (), more_out: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return them as an interface has them, by its names of what is read and written; `more_in` and `more_out` are
        its further names: "cached", and others of what there is none of here."""
        counts: dict[str, Any] = {}
        for name, text, image, more in (
            (read, self.text_in, self.image_in, more_in),
            (written, self.text_out, self.image_out, more_out),
        ):
            counts[f"{name}_tokens"] = text + image
            further = {f"{other}_tokens": self.cached_in if other == "cached" else 0 for other in more}
            counts[f"{name}_tokens_details"] = {"text_tokens": text, "image_tokens": image, **further}
        return {**counts, "total_tokens": counts[f"{read}_tokens"] + counts[f"{written}_tokens"]}


@dataclass
class Work:
    """One piece of work and its times, in seconds of `time.monotonic`; None for what has not happened.

    arrived: it was asked for. started: its prompts were laid out and went to the engine. begun: the engine took up the
    first of them. first_token: the first token of it was written. first_rows: the first rows of a picture stood. ended:
    it was done, failed or was left; `outcome` says which: "done", "cancelled", "refused" (the input's fault) or
    "failed".
    """

    arrived: float
    started: float | None = None
    begun: float | None = None
    first_token: float | None = None
    first_rows: float | None = None
    ended: float | None = None
    outcome: str = ""
    usage: Usage = field(default_factory=Usage)
    documents: Sequence[Document] = ()
    """Its prompts."""


WORKS: ContextVar[list[Work]] = ContextVar("works")
"""Where the pieces of work of one HTTP request are noted, for its line in the log; set by whoever wants them."""


DRAWS: ContextVar[Callable[[int], None]] = ContextVar("draws", default=lambda pictures: None)
"""Told how many pictures a piece of work will draw, before it goes to the engine; raises `Problem` for too many."""


class Update(NamedTuple):
    """A part of the answer to one of the prompts that were laid out together, by its place among them."""

    place: int
    chunk: Chunk


class Made(NamedTuple):
    """Generations, one for each prompt that was laid out, and the tokens that they took."""

    generations: list[Generation]
    usage: Usage


class Stream:
    """The answer to a layout, part by part; iterate it once. `usage` is whole at the end, and `written` has what was
    written for each prompt that is done, by its place.

    The work is a task of its own, since an iterator may be begun in one task and ended in another.
    """

    def __init__(self, service: Service, layout: Layout, watched: bool) -> None:
        self._service, self._layout, self._watched = service, layout, watched
        self._updates: asyncio.Queue[Update | Exception | None] = asyncio.Queue()
        self.usage = Usage()
        self.written: dict[int, Usage] = {}

    async def __aiter__(self) -> AsyncGenerator[Update]:
        """Yield updates; the last of each prompt has its generation. Raises as `Service.stream`."""
        task = asyncio.create_task(self._work())
        try:
            while (update := await self._updates.get()) is not None:
                if isinstance(update, Exception):
                    raise update
                yield update
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _work(self) -> None:
        end = None
        try:
            async with self._service.admitted() as work:
                self.usage = work.usage
                prepared = await self._service.desk(self._layout)
                count_in(prepared, self._service.model.vocab, self.usage)
                work.documents = [p.document for p in prepared]
                DRAWS.get()(sum(any(hole.kind == "image" for hole in p.prompt.holes) for p in prepared))
                work.started = time.monotonic()
                await self._draw(await self._thought(prepared, work), work)
        except Exception as error:
            end = error
        finally:
            self._updates.put_nowait(end)

    async def _draw(self, prepared: Sequence[Prepared], work: Work) -> None:
        model = self._service.model
        # Of several candidates it is not known yet which one is kept, so nothing of them can be shown.
        fillings = {
            i: Filling(*p.asked, p.requests[0], model.codec)
            for i, p in enumerate(prepared)
            if self._watched and len(p.requests) == 1
        }
        async with aclosing(self._news(prepared, work, watched=bool(fillings))) as news:
            async for i, tokens, results in news:
                work.first_token = work.first_token or time.monotonic()
                for chunk in fillings[i].take(tokens) if i in fillings else ():
                    if chunk.rows:
                        work.first_rows = work.first_rows or time.monotonic()
                    self._updates.put_nowait(Update(i, chunk))
                if results:
                    best, done = await self._service.desk(_finished, model, prepared[i], results)
                    thought = self.written.get(i, Usage())
                    self.written[i] = count_out(best.tokens, model.vocab, self.usage)
                    self.written[i].text_out += thought.text_out
                    self._updates.put_nowait(Update(i, Chunk(generation=done)))

    async def _thought(self, prepared: Sequence[Prepared], work: Work) -> Sequence[Prepared]:
        """Return what was prepared with its thoughts thought, beside all that the engine writes meanwhile."""
        ready = list(prepared)
        while asked := {i: p.thinking.asked for i, p in enumerate(ready) if p.thinking is not None}:
            places = list(asked)
            async with aclosing(self._news(list(asked.values()), work, watched=False)) as news:
                async for at, _, results in news:
                    if results:
                        i = places[at]
                        best, done = await self._service.desk(_finished, self._service.model, asked[i], results)
                        thought = count_out(best.tokens, self._service.model.vocab, self.usage)
                        thought.text_out += self.written.get(i, Usage()).text_out
                        self.written[i] = thought
                        ready[i] = await self._service.desk(gone_on, ready[i], done)
        return ready

    async def _news(
        self, prepared: Sequence[Prepared], work: Work, *, watched: bool
    ) -> AsyncGenerator[tuple[int, Tokens, list[Result]]]:
        """Yield what the engine writes of each prompt, by its place, and with its last tokens the results of its
        candidates."""
        places = [(i, j) for i, p in enumerate(prepared) for j in range(len(p.requests))]
        results: list[dict[int, Result]] = [{} for _ in prepared]
        ticket = self._service.loop.submit([r for p in prepared for r in p.requests], watched=watched)
        try:
            async for place, tokens, result in ticket.news():
                i, j = places[place]
                work.begun = work.begun or ticket.begun
                if result is not None:
                    results[i][j] = result
                done = result is not None and len(results[i]) == len(prepared[i].requests)
                if done:
                    count_cached(prepared, results, self.usage)
                yield i, tokens, [results[i][k] for k in range(len(results[i]))] if done else []
        finally:
            ticket.cancel()


def _finished(model: CM3Leon, prepared: Prepared, results: Sequence[Result]) -> tuple[Result, Generation]:
    best = model.best(prepared, results)
    return best, model.finish(prepared, best)


class Service:
    """A model that many ask at once. `start` it in an event loop, and `close` it there.

    `observers` are called with each piece of work when it has ended.
    """

    def __init__(self, model: CM3Leon, settings: Settings | None = None) -> None:
        self.model, self.settings = model, settings or Settings()
        self.name, self.began = model.bundle.name, int(time.time())
        self.loop = EngineLoop(functools.partial(model.new_engine, keep_gb=self.settings.keep_gb), model.max_streams)
        self.observers: list[Callable[[Work], None]] = []
        self.closing = False
        self.active = 0
        self._desk = ThreadPoolExecutor(1, "desk")
        self._bank: asyncio.Future[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ends: deque[float] = deque(maxlen=32)

    @property
    def ready(self) -> bool:
        """Tell whether requests are taken."""
        return self.loop.alive and not self.closing

    def warm_up(self) -> None:
        """Draw once, before `start`: what is laid out and compiled at first use is there for the first who asks."""
        self.model.generate("a picture", candidates=1)

    def start(self) -> None:
        """Begin to step the engine, in a thread of its own, and in another to open the memory bank."""
        self.loop.start()
        if self.model.retriever.has_memory:
            self._bank = asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1, "bank"), self._open_bank)

    def _open_bank(self) -> None:
        try:
            _ = self.model.memory
        except (Cm3Error, OSError) as error:  # whoever needs it is told again
            LOG.warning("the memory bank cannot be opened: %s", error)

    async def bank(self) -> None:
        """Wait until the memory bank was opened, which takes seconds, so that the desk need not, where others wait for
        it too. Raises `Problem` 504 past the time limit."""
        if self._bank is not None and not self._bank.done():
            async with self._in_time():
                await asyncio.wait([self._bank])

    async def drain(self, grace_s: float | None = None) -> None:
        """Take no more, let what runs finish for so many seconds, by default the settings', then end it with a 503."""
        self.closing = True
        try:
            await asyncio.wait_for(self._idle.wait(), self.settings.grace_s if grace_s is None else grace_s)
        except TimeoutError:
            for task in self._tasks:
                task.cancel()
            await self._idle.wait()

    async def close(self) -> None:
        """Drain, and stop the threads. An answer may still need the desk when its work is done, so send all before."""
        await self.drain()
        await asyncio.to_thread(self.loop.stop)
        self._desk.shutdown()

    async def desk(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Do blocking work in the desk's thread, in the order in which it comes. Raises `Problem` 504 where it is not
        done within the time limit, and what the work raises; it is not begun any more then."""
        async with self._in_time():
            return await asyncio.get_running_loop().run_in_executor(self._desk, lambda: work(*args, **options))

    async def make(self, layout: Layout) -> Made:
        """Return what is made of a layout; raises as `stream`."""
        stream = Stream(self, layout, watched=False)
        made: dict[int, Generation] = {}
        async for place, chunk in stream:
            assert chunk.generation is not None, "unwatched, only ends are told"
            made[place] = chunk.generation
        return Made([made[i] for i in range(len(made))], stream.usage)

    def stream(self, layout: Layout) -> Stream:
        """Return what comes of a layout, to be iterated: `async for place, chunk in service.stream(layout)`. Of several
        candidates only the end is told, so lay it out with one.

        Raises there `Problem`: 429 where the queue is full, 503 where the server stops, 504 past the time limit; and
        what the layout and the engine raise. Leaving the iterator cancels the work at the engine's next step.
        """
        return Stream(self, layout, watched=True)

    def check_room(self, number: int) -> None:
        """Raise `Problem` where no work is taken: 503, and 429 where `number` requests are as many as may wait or
        run."""
        if not self.ready:
            raise Problem(503, "the server is stopping; ask another, or again in a while", headers={"retry-after": "5"})
        if number >= self.settings.queue:
            wait = {"retry-after": str(self.patience)}
            raise Problem(429, f"{number} requests wait or run, which is the most; try again", None, "full", wait)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[Work]:
        """Count a piece of work in, note its times, and bound them; raises `Problem` where it is not taken."""
        self.check_room(self.active)
        work = Work(time.monotonic())
        WORKS.get([]).append(work)
        task = asyncio.current_task()
        assert task is not None
        self.active += 1
        self._idle.clear()
        self._tasks.add(task)
        work.outcome = "failed"
        try:
            async with self._in_time():
                yield work
            work.outcome = "done"
        except asyncio.CancelledError:
            work.outcome = "cancelled"
            if self.closing:
                raise stopped() from None
            raise
        except (Problem, ValueError) as error:  # of the latter are all errors that the input causes
            late = isinstance(error, Problem) and error.status >= 500
            work.outcome = "failed" if late else "refused"
            raise
        finally:
            work.ended = time.monotonic()
            self._ends.append(work.ended)
            self._tasks.discard(task)
            self.active -= 1
            if not self.active:
                self._idle.set()
            for observer in self.observers:
                observer(work)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Bound what is waited for by the time limit. Raises `Problem` 504."""
        bound = asyncio.timeout(self.settings.time_limit_s)
        try:
            async with bound:
                yield
        except TimeoutError as error:
            if not bound.expired():
                raise
            limit = f"{self.settings.time_limit_s:g} s"
            message = f"the answer took longer than {limit}, the server's limit; ask for less, or later"
            raise Problem(504, message, None, "timeout") from error

    @property
    def patience(self) -> int:
        """Return the seconds after which a place is likely free: those between the last works that ended, 1 to 60."""
        if len(self._ends) < 2:
            return 1
        return min(60, max(1, math.ceil((self._ends[-1] - self._ends[0]) / (len(self._ends) - 1))))


def stopped() -> Problem:
    """Return the problem of a request that was not answered when the server's grace was over."""
    return Problem(503, "the server stopped before the answer was done; ask again")


def count_in(prepared: Sequence[Prepared], vocab: Vocab, usage: Usage) -> None:
    """Count the tokens of prompts, with the documents before them; of equal ones, one."""
    prompts = {p.requests[0].streams[0].ids.tobytes(): p.requests[0].streams[0].ids for p in prepared if p.requests}
    for ids in prompts.values():
        pictures = _codes(ids, vocab)
        usage.image_in += pictures
        usage.text_in += len(ids) - pictures


def count_out(tokens: Tokens, vocab: Vocab, usage: Usage) -> Usage:
    """Count tokens that were written, of candidates those of the one that is kept, and return them alone."""
    pictures = _codes(tokens.ids, vocab)
    own = Usage(image_out=pictures, text_out=tokens.length - pictures)
    usage.image_out += own.image_out
    usage.text_out += own.text_out
    return own


def count_cached(prepared: Sequence[Prepared], results: Sequence[Mapping[int, Result]], usage: Usage) -> None:
    """Count the tokens of prompts that were read before, of those with results; of equal ones, what the first had."""
    least: dict[bytes, int] = {}
    for p, some in zip(prepared, results, strict=True):
        for j, result in some.items():
            ids = p.requests[j].streams[0].ids.tobytes()
            least[ids] = min(least.get(ids, result.cached), result.cached)
    usage.cached_in = sum(least.values())


def _codes(ids: np.ndarray, vocab: Vocab) -> int:
    return int(((ids >= vocab.image_start) & (ids < vocab.image_start + vocab.image)).sum())
