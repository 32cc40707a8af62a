"""A real server in a thread, and a way to ask it without a client."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from cm3.generate import CM3Leon
from cm3.serve.app import create_app
from cm3.serve.limits import Settings
from cm3.serve.run import Server, config, listening
from cm3.serve.service import Service


@dataclass
class Answer:
    """The status, the headers and the body of an answer."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


@dataclass
class Running:
    """A server that runs. `url` has no slash at its end."""

    url: str
    service: Service
    server: Server

    def ask(
        self, path: str, body: Any = None, method: str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Ask for a path; a body that is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = {} if body is None or isinstance(body, bytes) else {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, {**kind, **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


@contextmanager
def running(
    model: CM3Leon,
    settings: Settings | None = None,
    routes: Callable[[Service], APIRouter] | None = None,
    **app_options: Any,
) -> Iterator[Running]:
    """Serve a model on a free port of the loopback, in a thread, and stop it at the end. `routes`: further ones."""
    service = Service(model, settings)
    app = create_app(service, **app_options)
    if routes is not None:
        app.include_router(routes(service))
    place = listening("127.0.0.1", 0)
    told = threading.Event()
    urls: list[str] = []
    server = Server(config(app, service), service, lambda url: (urls.append(url), told.set()))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[place]),))
    thread.start()
    try:
        assert told.wait(60)
        yield Running(urls[0], service, server)
    finally:
        server.should_exit = True
        thread.join()
