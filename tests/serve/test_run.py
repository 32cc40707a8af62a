"""A server that is told to stop: what runs is answered whole, and a second signal ends it at once."""

from __future__ import annotations

import threading
import time

from running_server import Answer, running

from cm3.generate import CM3Leon


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
