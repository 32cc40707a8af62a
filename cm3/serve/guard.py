"""Around every request: the limit of its body, an answer to what failed, and the end for a client that leaves.

client --receive--> pump --Channel--> application        the pump sees a client leave, and cancels the application
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cm3.serve.limits import Settings
from cm3.serve.logs import note
from cm3.serve.problem import Problem, problem_of


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._most = app, int(settings.body_mb * 1e6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request; whatever else there is passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
            await send(message)

        async def served() -> None:
            try:
                await self._app(scope, messages.get, answer)
            except Exception as error:
                problem = problem_of(error)
                note(problem, error)
                if not started:
                    await JSONResponse(problem.body, problem.status, dict(problem.headers))(scope, receive, answer)

        messages: asyncio.Queue[Message] = asyncio.Queue(8)
        application = asyncio.ensure_future(served())
        pump = asyncio.ensure_future(self._pump(receive, messages))
        try:
            done, _ = await asyncio.wait({application, pump}, return_when=asyncio.FIRST_COMPLETED)
            if application in done:
                return
            await self._stopped(application)
            if (too_long := pump.result()) is not None and not started:
                note(too_long)
                await JSONResponse(too_long.body, too_long.status)(scope, receive, answer)
        finally:
            await self._stopped(application)
            await self._stopped(pump)

    async def _pump(self, receive: Receive, messages: asyncio.Queue[Message]) -> Problem | None:
        """Hand messages on until the client leaves; returns the problem of a body that is too long."""
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            size += len(message.get("body", b""))
            if size > self._most:
                limit = f"{self._most / 1e6:g} MB"
                return Problem(413, f"the body is longer than {limit}, the server's limit; send smaller pictures")
            await messages.put(message)

    @staticmethod
    async def _stopped(task: asyncio.Future[Any]) -> None:
        task.cancel()
        await asyncio.wait([task])
