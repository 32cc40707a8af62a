"""The gate that every request passes, in and out: its API key and limits, its measures, its line in the log.

    request -> id -> key, else 401 -> limits, else 429 -> the application -> x-request-id, x-ratelimit-* -> metrics, log

A pure ASGI layer, since it must see answers that are streamed, and must not hold them up. It stands around `Guard`.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cm3.errors import shown
from cm3.serve.keys import Key, Keys
from cm3.serve.logs import CALL, OTHER, Call, note
from cm3.serve.problem import Problem
from cm3.serve.prometheus import Metrics
from cm3.serve.service import DRAWS, WORKS

LEFT = 499
"""The status in logs and metrics of a request whose client left before an answer began."""
OPEN = ("/", "/health", "/ready", "/metrics", "/openapi.json")
"""Paths that want no key, as all below /page/: they tell nothing of anyone."""

_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Gate:
    """An ASGI application around another one."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        metrics: Metrics,
        log_prompts: bool = False,
        hosts: Collection[str] | None = None,
    ) -> None:
        """Take `hosts`, the names by which the server may be asked; None is any."""
        self._app, self._keys, self._metrics, self._log_prompts = app, keys, metrics, log_prompts
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request; whatever else there is passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, given = scope["path"], Headers(scope=scope)
        call = Call(request_id(given.get("x-request-id")), scope["method"], path)
        scope.setdefault("state", {})["request_id"] = call.id
        CALL.set(call)
        WORKS.set(call.works)
        key: Key | None = None

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = call.id
                headers.update(key.headers if key is not None else {})
            await send(message)
            call.whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        self._metrics.begin()
        try:
            with contextlib.ExitStack() as held:
                self._check_host(given.get("host", ""))
                if path not in OPEN and not path.startswith("/page/"):
                    key = self._keys.find(given.get("authorization"))
                if key is not None:
                    call.key = key.name
                    DRAWS.set(key.draw)
                    held.enter_context(key.request())
                await self._app(scope, receive, answer)
        except Problem as problem:
            note(problem)
            await JSONResponse(problem.body, problem.status, problem.headers)(scope, receive, answer)
        finally:
            call.status = call.status or LEFT
            route = getattr(scope.get("route"), "path", OTHER)
            self._metrics.end(call, route)
            call.tell(route, self._log_prompts)

    def _check_host(self, host: str) -> None:
        """Raise `Problem` 403 for a name that is none of the server's.

        A page from elsewhere can have its own name lead to this machine, and then a browser lets it ask, and read, as
        the server's own page does.
        """
        if self._hosts is None:
            return
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:  # a bracket that is not closed
            name = None
        if name not in self._hosts:
            told = f"host {shown(host[:100])}: is no name of this server, which is for this machine alone"
            raise Problem(
                403, f"{told}; ask for 127.0.0.1, or start it with --allow-host NAME", None, "host_not_allowed"
            )


def request_id(given: str | None) -> str:
    """Return the id that a client gave, where it is harmless, or a new one."""
    return given if given is not None and _HARMLESS.fullmatch(given) else uuid.uuid4().hex
