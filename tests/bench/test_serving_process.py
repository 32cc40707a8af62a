"""A server in a process of its own, and the client that measures it: whole and chunked answers, events, failures."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cm3.bench.serving import Client, serving
from cm3.errors import ConfigError

SERVER = r"""
import asyncio, sys

async def serve(reader, writer):
    while head := await reader.readuntil(b"\r\n\r\n"):
        path = head.split()[1]
        size = [int(line.split(b": ")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")]
        body = await reader.readexactly(size[0]) if size else b""
        if path == b"/stream":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (b'event: a\ndata: {"x": 1}\n\nda', b'ta: {"x": 2}\n\n', b"data: [DONE]\n\n"):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            writer.write(b"0\r\n\r\n")
        elif path == b"/cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            writer.close()
            return
        else:
            said = b'{"path": "%s", "body": "%s"}' % (path, body)
            closes = b"Connection: close\r\n" if path == b"/last" else b""
            writer.write(b"HTTP/1.1 404 No\r\n%sContent-Length: %d\r\n\r\n%s" % (closes, len(said), said))
            if closes:
                writer.close()
                return

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("listens at http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def ask() -> Any:
    with serving([sys.executable, "-c", SERVER]) as server:
        assert server.cpu_s is None or server.cpu_s >= 0
        assert server.memory is None or server.memory > 1 << 20

        async def whole(work: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
            client = Client(server.url)
            try:
                return await work(client)
            finally:
                client.close()
                await asyncio.sleep(0)  # the loop closes the connection at its next turn

        yield lambda work: asyncio.run(whole(work))


def test_answers_are_read_whole_on_one_connection(ask: Any) -> None:
    async def work(client: Client) -> Any:
        return [await client.ask(*one) for one in (("/a",), ("/b", b"words"), ("/last",), ("/c",))]

    a, b, last, c = ask(work)
    assert (a.status, a.json) == (404, {"path": "/a", "body": ""})
    assert b.json == {"path": "/b", "body": "words"}
    assert last.headers["connection"] == "close" and c.json["path"] == "/c", "and on another where it was closed"


def test_events_are_read_over_the_bounds_of_pieces(ask: Any) -> None:
    async def work(client: Client) -> Any:
        return await client.ask("/stream", b"{}"), await client.ask("/a")

    streamed, after = ask(work)
    assert [event for _, event in streamed.events] == [{"x": 1}, {"x": 2}] and len(streamed.pieces) == 3
    assert after.json["path"] == "/a"


def test_one_who_leaves_asks_again_on_another_connection(ask: Any) -> None:
    async def work(client: Client) -> Any:
        answer = client.hear("/stream", b"{}")
        head = await anext(answer)
        await answer.aclose()
        await asyncio.sleep(0)
        return head, await client.ask("/a")

    head, after = ask(work)
    assert head.status == 200 and after.json["path"] == "/a"


def test_an_answer_that_is_cut_is_an_error(ask: Any) -> None:
    async def work(client: Client) -> Any:
        await client.ask("/cut")

    with pytest.raises(asyncio.IncompleteReadError):
        ask(work)


@pytest.mark.parametrize(("program", "last"), [("raise SystemExit('no model here')", "no model here"), ("", "nothing")])
def test_a_server_that_ends_is_told_with_its_last_line(program: str, last: str) -> None:
    with (
        pytest.raises(ConfigError, match=f"serves nothing; the last that it said: {last}"),
        serving([sys.executable, "-c", program]),
    ):
        pass
