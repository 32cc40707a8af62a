"""Around a request: bodies that are too long or too slow, and those for which there is no room, are not read."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from running_server import Running, running
from starlette.responses import StreamingResponse

from cm3.generate import CM3Leon
from cm3.serve.limits import Settings
from cm3.serve.service import Service
from cm3.serve.sse import event_stream


@contextlib.contextmanager
def connected(server: Running) -> Iterator[socket.socket]:
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as client:
        yield client


def head(length: int, more: str = "", path: str = "/v1/images/generations") -> bytes:
    kind = "content-type: application/json\r\n"
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{kind}content-length: {length}\r\n{more}\r\n".encode()


def status(client: socket.socket) -> int:
    """The status of the next answer, which is read to its end."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(1)
    length = next(line for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length"))
    left = int(length.split(b":")[1])
    while left:
        left -= len(client.recv(left))
    return int(answer.split()[1])


def test_a_body_that_says_it_is_too_long_is_not_asked_for(model: CM3Leon) -> None:
    with running(model, Settings(body_mb=0.01)) as server, connected(server) as client:
        client.sendall(head(20_000, "expect: 100-continue\r\n"))
        assert status(client) == 413, "and not 100, which asks for the body"


def test_a_body_that_is_packed_is_told_so(model: CM3Leon) -> None:
    with running(model) as server:
        told = server.ask("/v1/images/generations", gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
        plain = server.ask("/v1/images/generations", {}, headers={"content-encoding": "identity"})
    assert (told.status, plain.status) == (415, 400)
    assert told.error["message"] == "content-encoding 'gzip': is not read here; send the body as it is"


def test_a_client_that_goes_on_to_send_hears_why_and_can_ask_again(model: CM3Leon) -> None:
    with running(model, Settings(body_mb=0.01)) as server, connected(server) as client:
        client.sendall(head(3_000_000))
        for _ in range(30):
            client.sendall(b"x" * 100_000)
        assert status(client) == 413
        client.sendall(head(2) + b"{}")
        assert status(client) == 400, "the connection is kept, and the rest of the body is no request"


def test_a_body_that_does_not_come_is_given_up(model: CM3Leon) -> None:
    with running(model, Settings(time_limit_s=0.05)) as server, connected(server) as client:
        client.sendall(head(100) + b"{")
        assert status(client) == 408


def test_a_client_that_does_not_read_is_left(model: CM3Leon) -> None:
    left = threading.Event()

    async def endless() -> AsyncGenerator[dict[str, Any]]:
        try:
            while True:
                yield {"type": "much", "data": "x" * 1_000_000}
        finally:
            left.set()

    def routes(service: Service) -> APIRouter:
        one = APIRouter()

        @one.post("/v1/endless", response_model=None)
        async def much() -> StreamingResponse:
            return await event_stream(endless())

        return one

    with running(model, Settings(time_limit_s=0.2), routes=routes) as server, connected(server) as client:
        client.sendall(head(0, path="/v1/endless"))
        assert left.wait(60)


def test_requests_beside_the_works_have_their_bound(model: CM3Leon) -> None:
    """With a queue of one, there is room for a work and another request, be its body unread; a third is refused."""
    entered = threading.Semaphore(0)

    def waiting(service: Service) -> APIRouter:
        routes = APIRouter()

        @routes.post("/v1/wait")
        async def wait(request: Request) -> None:
            entered.release()
            await request.body()
            await asyncio.Event().wait()

        return routes

    with running(model, Settings(queue=1, grace_s=0), routes=waiting) as server:
        with connected(server) as one, connected(server) as two, connected(server) as three:
            for client in (one, two):
                client.sendall(head(100, path="/v1/wait"))
                assert entered.acquire(timeout=60)
            three.sendall(head(100, path="/v1/wait", more="expect: 100-continue\r\n"))
            assert status(three) == 429
            assert server.ask("/v1/models").status == 200


def test_a_full_queue_refuses_before_pictures_are_read(model: CM3Leon) -> None:
    with running(model, Settings(queue=1)) as server, connected(server) as client:
        server.service.active = 1
        client.sendall(head(100, "expect: 100-continue\r\n"))
        assert status(client) == 429
        server.service.active = 0
