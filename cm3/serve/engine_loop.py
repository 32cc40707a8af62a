"""The one thread that steps the engine, and what asks it from an event loop.

    event loop:  submit(requests) -> Ticket -> async for news        cancel()
    thread:      orders -> engine.add, engine.cancel -> engine.poll -> news of all tickets, one call a step

The engine is touched by the thread alone. Orders are taken between steps, so a ticket that is cancelled frees its rows
at the next.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
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

    def __init__(self, new_engine: Callable[[], Engine]) -> None:
        self._new_engine, self._engine = new_engine, new_engine()
        self.load = self._engine.load
        """How much of the engine is in use, as it was between two steps: other threads see no more of it."""
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._places: dict[int, tuple[Ticket, int]] = {}
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
            tell({ticket: error for ticket, _ in self._places.values()})
            while (ticket := self._orders.get()[1]) is not None:
                tell({ticket: error})

    def _serve(self) -> None:
        while self._obey():
            self.load, now = self._engine.load, time.monotonic()
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
        self.load = self._engine.load

    def _obey(self) -> bool:
        """Take the orders that are there, and wait for one where there is nothing to do; returns whether to go on."""
        while True:
            if not self._engine.busy:
                self.load = self._engine.load
            try:
                order, ticket = self._orders.get(block=not self._engine.busy)
            except queue.Empty:
                return True
            if ticket is None:
                self._leave([id for id in self._places])
                return False
            if order == "add":
                self._add(ticket)
            else:
                self._leave([id for id, (other, _) in self._places.items() if other is ticket])

    def _add(self, ticket: Ticket) -> None:
        for place, request in enumerate(ticket.requests):
            try:
                self._places[self._engine.add(request)] = ticket, place
            except Exception as error:
                self._fail(ticket, error)
                return

    def _leave(self, ids: list[int]) -> None:
        for id in ids:
            del self._places[id]
            self._engine.cancel(id)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self._leave([id for id, (other, _) in self._places.items() if other is ticket])
        tell({ticket: error})

    def _replace(self, error: Exception) -> None:
        """Tell what runs that it failed, and go on with another engine: nothing is known of the state of this one."""
        LOG.error("the engine failed; what ran is told so, and another takes its place", exc_info=error)
        error.__traceback__ = None  # its frames hold the engine that failed, whose memory the next one needs
        tell({ticket: error for ticket, _ in self._places.values()})
        self._places.clear()
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
