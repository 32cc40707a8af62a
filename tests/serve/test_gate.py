"""The gate before a real server: ids, keys, limits, measures and lines of the log, as clients and readers see them."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import APIRouter
from prometheus_client.parser import text_string_to_metric_families
from running_server import Running, running
from starlette.responses import StreamingResponse

from cm3.cli.serve import Operations
from cm3.generate import CM3Leon
from cm3.serve.gate import request_id
from cm3.serve.keys import Keys
from cm3.serve.service import Service
from cm3.serve.sse import event_stream

SECRET = "studio-secret-0123456789"
BEARER = {"authorization": f"Bearer {SECRET}"}


@pytest.fixture
def guarded(model: CM3Leon) -> Iterator[Running]:
    """A server with a key, of three requests a minute."""
    with running(model, keys=Keys.read(None, f"studio {SECRET} requests-per-minute 3")) as server:
        yield server


class Lines(logging.Handler):
    """The fields of the lines of requests. A line is written when its answer is sent, so a reader waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "fields"):
            self.told.put(record.fields)

    def next(self) -> dict[str, Any]:
        return self.told.get(timeout=60)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The log as it comes."""
    logger, handler = logging.getLogger("cm3.serve"), Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def measures(server: Running) -> dict[tuple[str, ...], float]:
    """What /metrics says when nothing else runs: (name, label values...) -> value."""
    while True:
        answer = server.ask("/metrics")
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain; version=")
        families = text_string_to_metric_families(answer.data.decode())
        found = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
        if found["cm3_requests_in_flight",] == 1:
            return found


def test_a_harmless_id_is_kept_and_another_is_made() -> None:
    for given in ("a", "Job-7_x.2", "a" * 128):
        assert request_id(given) == given
    for given in (None, "", "a" * 129, "a b", "a\n", "a/b", "\u00e9", "x\r\nset-cookie: y"):
        made = request_id(given)
        assert made != given and request_id(made) == made
    assert request_id(None) != request_id(None)


def test_what_is_of_someone_wants_a_key(guarded: Running) -> None:
    for path in ("/v1/models", "/v1", "/v2/other", "/pages/x", "//v1/models"):
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = guarded.ask(path, headers=headers)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer" and answer.headers["x-request-id"]
    assert [guarded.ask(path).status for path in ("/health", "/ready", "/metrics", "/openapi.json")] == [200] * 4


def test_a_key_opens_and_its_limit_is_told(guarded: Running) -> None:
    answers = [guarded.ask("/v1/models", headers=BEARER) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    assert answers[3].error["code"] == "rate_limit_exceeded" and 0 < int(answers[3].headers["retry-after"]) <= 20
    assert answers[3].headers["x-request-id"]


def test_each_answer_is_measured_by_route(guarded: Running) -> None:
    for _ in range(4):
        guarded.ask("/v1/models", headers=BEARER)
    guarded.ask("/v1/models")
    guarded.ask("/nowhere")
    found = measures(guarded)
    assert found["cm3_requests_total", "/v1/models", "200"] == 3
    assert [found["cm3_requests_total", "other", s] for s in ("401", "429")] == [2, 1], (
        "refused before a route is known"
    )
    assert found["cm3_refused_total", "limit"] == 1 and found["cm3_refused_total", "key"] == 2


def test_unknown_paths_are_one_route(server: Running) -> None:
    for path in ("/nowhere", "/v1/none", "/v1/models/parrot", "/page/../v1", "/%00"):
        server.ask(path)
    found = measures(server)
    known = {"/v1/models", "/v1/models/{model:path}", "/health", "/ready", "/metrics", "/openapi.json", "other"}
    assert {labels[0] for name, *labels in found if name == "cm3_requests_total"} <= known
    assert found["cm3_requests_total", "other", "404"] == 4


def test_each_request_has_a_line(guarded: Running, lines: Lines) -> None:
    guarded.ask("/v1/models", headers={**BEARER, "x-request-id": "mine"})
    first = lines.next()
    guarded.ask("/v1/models?key=secret", headers={"authorization": "Bearer wrong-wrong-wrong"})
    second = lines.next()
    assert (first["request_id"], first["key"], first["route"], first["status"]) == ("mine", "studio", "/v1/models", 200)
    assert first["seconds"] >= 0 and "error" not in first and "cut_off" not in first
    assert (second["status"], second["error"], second["method"]) == (401, "invalid_api_key", "GET")
    assert "key" not in second and "wrong" not in json.dumps(second) and "secret" not in json.dumps(second)


def drawing(service: Service) -> APIRouter:
    """Routes that draw as the real ones do: at once, and as events."""
    routes = APIRouter()

    def layout() -> Any:
        return service.model.prepare(["a red circle"], seeds=[0], candidates=1)

    async def events() -> AsyncGenerator[dict[str, Any]]:
        async for _, chunk in service.stream(layout):
            yield {"type": "rows", "rows": chunk.rows}

    async def breaking() -> AsyncGenerator[dict[str, Any]]:
        yield {"type": "rows", "rows": 1}
        raise KeyError("of ours")

    @routes.post("/v1/draw")
    async def draw() -> dict[str, int]:
        return vars((await service.make(layout)).usage)

    @routes.post("/v1/watch")
    async def watch() -> StreamingResponse:
        return await event_stream(events())

    @routes.post("/v1/break")
    async def broken() -> StreamingResponse:
        return await event_stream(breaking())

    return routes


def test_what_the_service_made_is_told_and_counted(model: CM3Leon, lines: Lines) -> None:
    keys = Keys.read(None, f"studio {SECRET} pictures-per-minute 1")
    with running(model, routes=drawing, keys=keys, log_prompts=True) as server:
        first = server.ask("/v1/draw", b"", headers=BEARER)
        told = lines.next()
        second = server.ask("/v1/draw", b"", headers=BEARER)
        assert first.status == 200 and second.status == 429
        assert second.error["code"] == "rate_limit_exceeded" and int(second.headers["retry-after"]) > 30
        assert second.headers["x-ratelimit-remaining-images"] == "0"
        found = measures(server)
    refused = lines.next()
    assert told["tokens"] == {name: n for name, n in first.json.items() if n}
    assert told["prompts"] == ["a red circle <gap>"]
    assert refused["status"] == 429 and refused["error"] == "rate_limit_exceeded"
    codes = model.grid[0] * model.grid[1]
    assert found["cm3_tokens_total", "out", "image"] == first.json["image_out"] == codes
    for name in ("queue", "first_token", "first_pixels"):
        assert found[f"cm3_{name}_seconds_count",] == (1 if name != "first_pixels" else 0)
    assert found["cm3_cache_blocks",] > found["cm3_cache_blocks_used",] == 0


def test_a_stream_is_measured_to_its_end(model: CM3Leon, lines: Lines) -> None:
    with running(model, routes=drawing) as server:
        answer = server.ask("/v1/watch", b"")
        found = measures(server)
    assert answer.data.endswith(b"data: [DONE]\n\n") and answer.data.count(b'"rows"') >= 2
    assert found["cm3_first_pixels_seconds_count",] == found["cm3_first_token_seconds_count",] == 1
    told = lines.next()
    assert told["tokens"]["image_out"] and "cut_off" not in told and "key" not in told


def test_a_client_that_leaves_is_told(model: CM3Leon, lines: Lines) -> None:
    with running(model, routes=drawing) as server:
        place = urlsplit(server.url)
        with socket.create_connection((place.hostname, place.port), timeout=60) as client:
            client.sendall(b"POST /v1/watch HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            assert client.recv(1)
        left = lines.next()
        found = measures(server)
    assert (left["route"], left["status"], left["cut_off"]) == ("/v1/watch", 200, True)
    assert found["cm3_cancelled_total",] == 1


def test_one_at_a_time_until_it_ends_or_its_client_leaves(model: CM3Leon, lines: Lines) -> None:
    entered = threading.Event()

    def waiting(service: Service) -> APIRouter:
        routes = APIRouter()

        @routes.post("/v1/wait")
        async def wait() -> None:
            entered.set()
            await asyncio.Event().wait()

        return routes

    with running(model, routes=waiting, keys=Keys.read(None, f"studio {SECRET} concurrent 1")) as server:
        place = urlsplit(server.url)
        with socket.create_connection((place.hostname, place.port), timeout=60) as client:
            head = f"POST /v1/wait HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nauthorization: Bearer {SECRET}\r\n\r\n"
            client.sendall(head.encode())
            assert entered.wait(60)
            answer = server.ask("/v1/models", headers=BEARER)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert lines.next()["status"] == 429
        left = lines.next()
        assert (left["route"], left["status"], left["cut_off"]) == ("/v1/wait", 499, True)
        assert server.ask("/v1/models", headers=BEARER).status == 200


def test_an_error_in_a_stream_is_told_and_counted(model: CM3Leon, lines: Lines) -> None:
    with running(model, routes=drawing) as server:
        answer = server.ask("/v1/break", b"")
        found = measures(server)
    assert b"server_error" in answer.data and b"of ours" not in answer.data
    told = lines.next()
    assert (told["status"], told["error"]) == (200, "server_error")
    assert found["cm3_refused_total", "failed"] == 1


def test_a_server_for_one_machine_is_asked_by_its_own_names(model: CM3Leon) -> None:
    """A page from elsewhere that leads a name of its own to this machine gets nothing, not even the page."""
    names = Operations(allow_host=("studio.example",)).hosts("127.0.0.1", Keys())
    with running(model, hosts=names) as server:
        port = urlsplit(server.url).port
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "studio.example", "Studio.Example:443"):
            assert server.ask("/v1/models", headers={"host": host}).status == 200, host
        for host in (f"elsewhere.example:{port}", "127.0.0.1.elsewhere.example", "[::1", ""):
            for path in ("/", "/v1/models", "/metrics"):
                told = server.ask(path, headers={"host": host})
                assert (told.status, told.error["code"]) == (403, "host_not_allowed"), (host, path)
                assert "or start it with --allow-host NAME" in told.error["message"]


def test_names_are_looked_at_where_anyone_of_this_machine_may_ask() -> None:
    keys = Keys.read(None, f"studio {SECRET}")
    own = {"127.0.0.1", "localhost", "::1"}
    assert Operations().hosts("127.0.0.1", Keys()) == own
    assert Operations().hosts("127.0.0.1", keys) is None
    assert Operations().hosts("0.0.0.0", Keys()) is None
    assert Operations(allow_host=("a.example",)).hosts("0.0.0.0", keys) == {"a.example", "0.0.0.0", *own}
