"""The one thread that steps the engine, and what asks it from an event loop.

    event loop:  submit(requests) -> Ticket -> async for news        cancel()
    thread:      orders -> engine.add, engine.cancel -> engine.poll -> news of all tickets, one call a step

The engine is touched by the thread alone. Orders are taken between steps, so a ticket that is cancelled frees its rows
at the next. Requests wait here, and go to the engine when it has rows for them, one of each ticket in turn: who asks
for much at once leaves room for those who ask for little.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple

from cm3.engine.engine import Engine
from cm3.engine.request import Dropped, Load, Request, Result
from cm3.vocab import Tokens

LOG = logging.getLogger("cm3.serve")


class News(NamedTuple):
    """Tokens that one of a ticket's requests wrote, by its place among them, and with the last of them its result."""

    place: int
    tokens: Tokens
    result: Result | None


class Ticket:
    """Requests that were handed in together. One that is not `watched` is told of its first tokens and of results.
    `begun`: when the engine took up the first of them, in seconds of `time.monotonic`."""

    def __init__(self, requests: Sequence[Request], orders: queue.SimpleQueue[Order], watched: bool) -> None:
        self.requests, self.watched, self.done = tuple(requests), watched, False
        self.begun: float | None = None
        self.told = False
        self.loop = asyncio.get_running_loop()
        self._orders = orders
        self._news: asyncio.Queue[list[News] | Exception] = asyncio.Queue()

    async def news(self) -> AsyncIterator[News]:
        """Yield what comes until every request has its result. Raises what a request or the engine failed with."""
        left = len(self.requests)
        while left:
            some = await self._news.get()
            if isinstance(some, Exception):
                raise some
            for one in some:
                left -= one.result is not None
                yield one
        self.done = True

    def cancel(self) -> None:
        """Take out of the engine what is not done. After the end it does nothing."""
        if not self.done:
            self.done = True
            self._orders.put(("cancel", self))

    def hear(self, some: list[News] | Exception) -> None:
        """Take news, in the event loop."""
        self._news.put_nowait(some)


Order = tuple[str, Ticket | None]


class EngineLoop:
    """Steps an engine while there is work. `start` it, and `stop` it at the end."""

    def __init__(self, new_engine: Callable[[], Engine], max_streams: int) -> None:
        """Take what makes an engine, and how many streams that runs side by side."""
        self._new_engine, self._engine = new_engine, new_engine()
        self._max_streams = max_streams
        self.load = self._engine.load
        """How much of the engine is in use, as it was between two steps: other threads see no more of it."""
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._places: dict[int, tuple[Ticket, int]] = {}
        self._waiting: dict[Ticket, deque[int]] = {}
        """The places of requests that the engine has not got yet; the next is of the first ticket."""
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Tell whether the thread runs, and has an engine."""
        return self._thread.is_alive() and not self._failed

    def start(self) -> None:
        """Begin to step."""
        self._thread.start()

    def stop(self) -> None:
        """Drop what runs, and wait for the end of the thread."""
        self._orders.put(("stop", None))
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, requests: Sequence[Request], watched: bool = True) -> Ticket:
        """Take requests in, from an event loop; they start at the next step for which the engine has room."""
        ticket = Ticket(requests, self._orders, watched)
        self._orders.put(("add", ticket))
        return ticket

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            LOG.error("no engine can be made any more; every request is told so", exc_info=error)
            self._failed, self.load = True, Load(0, 0, 0, 0, 0)
            tell({ticket: error for ticket in (*self._waiting, *(ticket for ticket, _ in self._places.values()))})
            while (ticket := self._orders.get()[1]) is not None:
                tell({ticket: error})

    def _serve(self) -> None:
        while self._obey():
            self._hand_in()
            self._note_load()
            now = time.monotonic()
            try:
                events = self._engine.poll()
            except Dropped as error:
                for id in error.ids:
                    if id in self._places:
                        self._fail(self._places[id][0], error)
                continue
            except Exception as error:
                self._replace(error)
                continue
            for id in (*self._engine.running, *(event.id for event in events)):
                if id in self._places:
                    ticket = self._places[id][0]
                    ticket.begun = ticket.begun or now
            told: dict[Ticket, list[News]] = {}
            for event in events:
                if event.id in self._places:
                    ticket, place = self._places[event.id]
                    if event.result is not None:
                        del self._places[event.id]
                    if ticket.watched or not ticket.told or event.result is not None:
                        told.setdefault(ticket, []).append(News(place, event.tokens, event.result))
                    ticket.told = True
            tell(told)
        self._note_load()

    def _obey(self) -> bool:
        """Take the orders that are there, and wait for one where there is nothing to do; returns whether to go on."""
        while True:
            idle = not self._engine.busy and not self._waiting
            if idle:
                self._note_load()
            try:
                order, ticket = self._orders.get(block=idle)
            except queue.Empty:
                return True
            if ticket is None:
                for other in {*self._waiting, *(other for other, _ in self._places.values())}:
                    self._leave(other)
                return False
            if order == "add" and ticket.requests:
                self._waiting[ticket] = deque(range(len(ticket.requests)))
            else:
                self._leave(ticket)

    def _hand_in(self) -> None:
        """Give the engine what it has rows for: one request of each ticket in turn, and none while one waits there."""
        load = self._engine.load
        room = 0 if load.waiting else self._max_streams - load.streams
        while self._waiting and room > 0:
            ticket, places = next(iter(self._waiting.items()))
            del self._waiting[ticket]
            request = ticket.requests[place := places.popleft()]
            try:
                self._places[self._engine.add(request)] = ticket, place
            except Exception as error:
                self._fail(ticket, error)
                continue
            room -= len(request.streams)
            if places:
                self._waiting[ticket] = places  # behind the others

    def _note_load(self) -> None:
        load = self._engine.load
        self.load = load._replace(waiting=load.waiting + sum(map(len, self._waiting.values())))

    def _leave(self, ticket: Ticket) -> None:
        self._waiting.pop(ticket, None)
        for id in [id for id, (other, _) in self._places.items() if other is ticket]:
            del self._places[id]
            self._engine.cancel(id)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self._leave(ticket)
        tell({ticket: error})

    def _replace(self, error: Exception) -> None:
        """Tell what runs that it failed, and go on with another engine: nothing is known of the state of this one."""
        LOG.error("the engine failed; what ran is told so, and another takes its place", exc_info=error)
        error.__traceback__ = None  # its frames hold the engine that failed, whose memory the next one needs
        failed = {ticket for ticket, _ in self._places.values()}
        tell(dict.fromkeys(failed, error))
        self._places.clear()
        self._waiting = {ticket: places for ticket, places in self._waiting.items() if ticket not in failed}
        del self._engine
        self._engine = self._new_engine()


def tell(told: Mapping[Ticket, list[News] | Exception]) -> None:
    """Give news, from the engine's thread: each call wakes an event loop, at the price of many steps of Python."""
    for loop in {ticket.loop for ticket in told}:
        some = [(ticket, news) for ticket, news in told.items() if ticket.loop is loop]
        try:
            loop.call_soon_threadsafe(_hand_out, some)
        except RuntimeError:  # the event loop is closed: nobody waits for it
            LOG.debug("news for tickets whose event loop is gone")


def _hand_out(some: list[tuple[Ticket, list[News] | Exception]]) -> None:
    for ticket, news in some:
        ticket.hear(news)
