"""Two replicas on a real Ray of this machine: asked, streamed from, left, and stopped while they work."""

from __future__ import annotations

import os
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_server import Running

from cm3.cli.serve import Serve
from cm3.errors import CheckpointError, ConfigError, RequestError
from cm3.serve.keys import Keys
from cm3.serve.limits import Settings

SECRET = "studio-secret-0123456789"
BEARER = {"authorization": f"Bearer {SECRET}"}


def build_with(keys: str, settings: Settings) -> Any:
    """What each replica serves: the application, and a route that draws as events. It travels by value."""

    def build(replica: str) -> Any:
        import torch
        from fastapi import FastAPI
        from starlette.responses import StreamingResponse

        import cm3
        from cm3.serve.app import create_app
        from cm3.serve.keys import Keys
        from cm3.serve.service import Service
        from cm3.serve.sse import event_stream

        torch.set_num_threads(1)
        service = Service(cm3.load("scenes"), settings)
        app: FastAPI = create_app(service, Keys.read(None, keys), replica=replica)

        async def drawn(pictures: int) -> Any:
            def layout() -> Any:
                return service.model.prepare(["a red circle"] * pictures, seeds=list(range(pictures)), candidates=1)

            async for place, chunk in service.stream(layout):
                yield {"type": "rows", "replica": replica, "place": place, "rows": chunk.rows}

        @app.post("/v1/watch")
        async def watch(pictures: int) -> StreamingResponse:
            return await event_stream(drawn(pictures))

        return app

    return build


class Asker(Running):
    """Asks the address; what a replica holds is only seen by its measures."""

    def measures(self) -> dict[str, dict[str, float]]:
        """Measures without further labels of each replica that answers, until both have."""
        found: dict[str, dict[str, float]] = {}
        while len(found) < 2:
            families = text_string_to_metric_families(self.ask("/metrics").data.decode())
            samples = [s for family in families for s in family.samples if len(s.labels) == 1]
            found[samples[0].labels["replica"]] = {s.name: s.value for s in samples}
        return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_two_replicas_answer_stream_let_go_and_end_what_runs() -> None:
    pytest.importorskip("ray.serve")
    from cm3.serve.replicas import replicas

    settings = Settings(grace_s=60)
    keys = Keys.read(None, f"studio {SECRET} concurrent 8")
    streamed: list[bytes] = []
    begun = threading.Event()

    def watch(url: str) -> None:
        request = urllib.request.Request(f"{url}/v1/watch?pictures=4", b"", BEARER)
        with urllib.request.urlopen(request, timeout=120) as answer:
            for line in answer:
                streamed.append(line)
                begun.set()

    with (
        mock.patch.dict(os.environ, {"RAY_USAGE_STATS_ENABLED": "0"}),
        replicas(build_with(keys.text, settings), 2, "127.0.0.1", 0, settings) as url,
    ):
        server = Asker(url, None)  # type: ignore[arg-type]
        assert server.ask("/ready").json == {"status": "ready"}
        answer = server.ask("/v1/models", headers={**BEARER, "x-request-id": "mine"})
        assert answer.status == 200 and answer.json["data"][0]["id"] == "scenes"
        assert answer.headers["x-request-id"] == "mine"
        refused = server.ask("/v1/models")
        assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
        assert len(server.measures()) == 2, "both answer"

        # A stream comes as it is drawn: its first event is there long before its last.
        request = urllib.request.Request(f"{url}/v1/watch?pictures=4", b"", BEARER)
        with urllib.request.urlopen(request, timeout=120) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert len(stream.headers.get_all("x-request-id")) == 1
            assert b'"rows":1' in stream.readline() + stream.readline()
        # and who leaves it frees the work at the next step
        while sum(held["cm3_cancelled_total"] for held in server.measures().values()) < 1:
            pass
        while any(held["cm3_cache_blocks_used"] + held["cm3_works"] for held in server.measures().values()):
            pass

        watcher = threading.Thread(target=watch, args=(url,))
        watcher.start()
        assert begun.wait(120)
    watcher.join()
    assert streamed[-2:] == [b"data: [DONE]\n", b"\n"], "what ran when it stopped came to its end"
    assert sum(b'"rows":0' in line for line in streamed) == 4
    with pytest.raises(OSError):
        server.ask("/ready")


def serve(*args: str) -> dict[str, Any]:
    return Serve.parse(args, "cm3 serve").run()


def test_what_is_wrong_is_told_before_ray_starts(tmp_path: Path, loggers_put_back: None) -> None:
    with mock.patch.dict(sys.modules, {"ray": None, "ray.serve": None}):
        with pytest.raises(ConfigError, match=r"cm3 serve needs ray.serve; pip install 'cm3leon\[replicas\]'"):
            serve("--ray")
    pytest.importorskip("ray.serve")
    with pytest.raises(RequestError, match="--replicas 0: must be at least 1"):
        serve("--ray", "--replicas", "0")
    with pytest.raises(ConfigError, match="--device cuda:1: with --ray each replica has a GPU of its own"):
        serve("--ray", "--device", "cuda:1")
    with pytest.raises(CheckpointError, match="no such folder"):
        serve(str(tmp_path / "none"), "--ray")
    with pytest.raises(ConfigError, match="none: the file of API keys cannot be read"):
        serve("--keys", str(tmp_path / "none"))
