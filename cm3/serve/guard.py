"""Around every request: the limits of its body, an answer to what failed, and the end for a client that leaves.

A body that says it is too long, and one for which the service has no room, are refused before they are read.

client --receive--> pump --Channel--> application        the pump sees a client leave, and cancels the application
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cm3.errors import shown
from cm3.serve.logs import note
from cm3.serve.problem import Problem, problem_of
from cm3.serve.service import Service, stopped


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._most = int(service.settings.body_mb * 1e6)
        self._here = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request; whatever else there is passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asks = scope["method"] == "POST"
        self._here += asks
        try:
            if (refused := self._refused(scope)) is not None:
                note(refused)
                await JSONResponse(refused.body, refused.status, refused.headers)(scope, receive, send)
            else:
                await self._serve(scope, receive, send)
        finally:
            self._here -= asks

    def _refused(self, scope: Scope) -> Problem | None:
        """Return why a request is refused before its body is read, None for one that is not. Beside the works of the
        service it has room for as many whose bodies are read or whose answers are sent."""
        headers = Headers(scope=scope)
        length, coding = headers.get("content-length", ""), headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            rule = "is not read here; send the body as it is"
            return Problem(415, f"content-encoding {shown(coding)}: {rule}", None, "unsupported_media_type")
        if length.isdecimal() and int(length) > self._most:
            return self._too_long()
        if scope["method"] == "POST":
            try:
                self._service.check_room(max(self._service.active, self._here - 1 - self._service.settings.queue))
            except Problem as problem:
                return problem
        return None

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
            try:
                async with asyncio.timeout(self._service.settings.time_limit_s):
                    await send(message)
            except TimeoutError:  # a client that does not read is as one that left
                application.cancel()
                await asyncio.sleep(0)

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
            refused = None if application in done else pump.result()
        except asyncio.CancelledError:  # uvicorn's, when its time to stop is over
            if not self._service.closing:
                raise
            refused = stopped()
        finally:
            await self._stopped(application)
            await self._stopped(pump)
        if refused is not None and not started:
            note(refused)
            await JSONResponse(refused.body, refused.status, refused.headers)(scope, receive, answer)

    async def _pump(self, receive: Receive, messages: asyncio.Queue[Message]) -> Problem | None:
        """Hand messages on until the client leaves; returns the problem of a body that is too long, or too slow."""
        size, seconds = 0, self._service.settings.time_limit_s
        try:
            async with asyncio.timeout(seconds) as limit:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    size += len(message.get("body", b""))
                    if size > self._most:
                        return self._too_long()
                    await messages.put(message)
                    if not message.get("more_body", False):
                        limit.reschedule(None)
        except TimeoutError:
            return Problem(408, f"the body took longer than {seconds:g} s, the server's limit; send it faster, or less")

    def _too_long(self) -> Problem:
        limit = f"{self._most / 1e6:g} MB"
        return Problem(413, f"the body is longer than {limit}, the server's limit; send smaller pictures")

    @staticmethod
    async def _stopped(task: asyncio.Future[Any]) -> None:
        task.cancel()
        await asyncio.wait([task])
