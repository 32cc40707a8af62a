"""A server that is told to stop: what runs is answered whole, and a second signal ends it at once."""

from __future__ import annotations

import socket
import threading
import time
from urllib.parse import urlsplit

from running_server import Answer, Running, running

from cm3.generate import CM3Leon
from cm3.serve.limits import Settings

HEAD = b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def connected(server: Running) -> socket.socket:
    place = urlsplit(server.url)
    return socket.create_connection((place.hostname, place.port), timeout=60)


def test_what_runs_is_answered_whole_before_the_threads_stop(model: CM3Leon) -> None:
    """An answer of a chat goes to the desk several times after its work is done."""
    answers: list[Answer] = []
    body = {"messages": [{"role": "user", "content": "a red circle"}], "modalities": ["image"]}
    with running(model) as server:
        asking = threading.Thread(target=lambda: answers.append(server.ask("/v1/chat/completions", body)))
        asking.start()
        while not server.service.loop.load.running:
            time.sleep(0.001)
    asking.join()
    assert answers[0].status == 200, answers[0].data
    assert answers[0].json["choices"][0]["message"]["content"][0]["type"] == "image_url"
    assert not server.service.loop.alive


def test_a_second_signal_ends_what_runs_at_once(model: CM3Leon) -> None:
    body = b'{"prompt": "a", "n": 10, "candidates": 16}'
    with running(model, Settings(grace_s=1e6)) as server:
        with connected(server) as client:
            client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
            while not server.service.loop.load.running:
                time.sleep(0.001)
            server.server.should_exit = server.server.force_exit = True
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 503")
    assert not server.service.loop.alive and server.service.loop.load.blocks == 0


def test_a_body_that_is_still_to_come_at_the_end_is_told_so(model: CM3Leon) -> None:
    with running(model, Settings(grace_s=0)) as server:
        server.server.config.timeout_graceful_shutdown = 0
        with connected(server) as client:
            client.sendall(HEAD + b"content-length: 100\r\nexpect: 100-continue\r\n\r\n")
            assert client.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n", "it is read"
            server.server.should_exit = True
            answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503") and b"server_error" in answer
