"""`cm3 serve --ray`: two replicas on a real Ray of this machine, asked by the official client, and stopped at work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cm3.cli.serve import Serve
from cm3.errors import CheckpointError, ConfigError, RequestError
from cm3.serve import replicas

SECRET = "studio-secret-0123456789"


class Command:
    """The command as it runs; `errors`: the file of its stderr."""

    def __init__(self, errors: Path) -> None:
        own = {"RAY_USAGE_STATS_ENABLED": "0", "CM3_API_KEYS": f"studio {SECRET}", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "cm3", "serve", "--ray"]
        command += "--replicas 2 --port 0 --threads 1 --grace 60 --log json".split()
        self.errors = errors
        with errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, env=os.environ | own, text=True
            )
        assert self.process.stdout is not None
        said = next((line for line in self.process.stdout if "served at" in line), "")
        if not said:
            self.process.communicate(timeout=120)
        assert said, errors.read_text()
        assert said.startswith("stickers is served at ") and said.endswith(" by 2 replicas\n")
        self.url = said.split()[4]

    def measures(self) -> dict[str, dict[str, float]]:
        """Return each replica's measures that have no other label; asks until both have answered."""
        found: dict[str, dict[str, float]] = {}
        while len(found) < 2:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
                families = text_string_to_metric_families(answer.read().decode())
            samples = [s for family in families for s in family.samples if len(s.labels) == 1]
            found[samples[0].labels["replica"]] = {s.name: s.value for s in samples}
        return found

    def sum(self, *names: str) -> float:
        """Return the sum of measures over both replicas."""
        return sum(held[name] for held in self.measures().values() for name in names)

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of its log; Ray puts a replica's name before each, and has lines of its own with braces."""
        ours = [line for line in self.errors.read_text().splitlines() if '"message": ' in line]
        return [json.loads(line[line.index("{") :].rpartition("}")[0] + "}") for line in ours]


def test_what_ray_starts_is_patient_unless_something_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    ready, health = replicas._PATIENCE
    monkeypatch.setenv(ready, "7")
    monkeypatch.delenv(health, raising=False)
    with replicas._patient():
        assert os.environ[ready] == "7" and os.environ[health] == "60"
    assert os.environ[ready] == "7" and health not in os.environ


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """Two replicas, ended by SIGTERM if the test has not done so."""
    pytest.importorskip("ray.serve")
    one = Command(tmp_path / "errors")
    yield one
    one.process.terminate()
    one.process.communicate(timeout=120)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_two_replicas_answer_stream_let_go_and_end_what_runs(command: Command) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{command.url}/v1", api_key=SECRET, max_retries=0)
    raw = client.models.with_raw_response.list(extra_headers={"x-request-id": "mine"})
    assert [model.id for model in raw.parse()] == ["stickers"] and raw.headers["x-request-id"] == "mine"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()

    def stream(pictures: int) -> Any:
        return client.images.generate(prompt="a red circle", n=pictures, stream=True, partial_images=3)

    # Pictures come while they are drawn, and who leaves frees what is not drawn yet.
    with stream(4) as events:
        assert next(iter(events)).type == "image_generation.partial_image"
    while command.sum("cm3_cancelled_total") < 1:
        pass
    while command.sum("cm3_cache_blocks_used", "cm3_works"):
        pass

    # What runs when the server is stopped comes to its end.
    seen: list[str] = []
    begun = threading.Event()

    def watch() -> None:
        for event in stream(4):
            seen.append(event.type)
            begun.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert begun.wait(120)
    command.process.terminate()
    watcher.join()
    command.process.communicate(timeout=120)
    assert command.process.returncode == 0
    assert seen.count("image_generation.completed") == 4 and seen.count("image_generation.partial_image") == 12
    asked = [line for line in command.lines() if line["message"] == "request"]
    told = {(line["status"], line.get("key"), line.get("cut_off", False)): line for line in asked}
    assert len(asked) == 4 and len(told) == 3, "two replicas write in any order"
    assert (401, None, False) in told and (200, "studio", True) in told, "one was refused, one was left"
    assert sorted(bool(line.get("tokens")) for line in asked if line.get("key") and not line.get("cut_off")) == [
        False,
        True,
    ]
    assert "mine" in [line["request_id"] for line in asked]


def serve(*args: str) -> dict[str, Any]:
    return Serve.parse(args, "cm3 serve").run()


def test_what_is_wrong_is_told_before_ray_starts(tmp_path: Path, loggers_put_back: None) -> None:
    with mock.patch.dict(sys.modules, {"ray": None, "ray.serve": None}):
        with pytest.raises(
            ConfigError, match=r"cm3 serve needs ray.serve, which is not installed: pip install 'cm3leon\[replicas\]'"
        ):
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
