"""A real Ray cluster of this machine makes the very store that one process makes."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
from pathlib import Path
from unittest import mock

import pytest
import store_parts
from forks import python
from ray_head import Head
from store_parts import contents

from cm3.data.cluster import join, map_units
from cm3.data.prepare import prepare
from cm3.data.prepare_unit import Work
from cm3.errors import ConfigError

# Each of Ray's processes imports torch.
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cluster")
    store_parts.tokenizers(root / "model")
    photos = store_parts.photos(root / "photos", 20)
    (photos / "007.png").write_bytes(b"no picture")
    return root


@pytest.mark.slow
def test_a_cluster_goes_on_with_what_was_begun_here_and_makes_the_same_bytes(ray_head: Head, parts: Path) -> None:
    prepare([f"{parts}/photos"], parts / "alone", parts / "model", unit=4)
    shutil.copytree(parts / "alone", parts / "out")
    (parts / "out" / "manifest.json").unlink()
    for number in (1, 3, 4):
        (parts / "out" / f"shards/{number:05d}.json").unlink()
        (parts / "out" / f"shards/{number:05d}.safetensors").unlink()
    to = f"--out {parts}/out --model {parts}/model --unit 4 --cluster {ray_head.node} --workers 2 --json"
    ran = python("-m", "cm3", "prepare", f"{parts}/photos", *to.split(), env=ray_head.env)
    assert ran.returncode == 0, ran.stderr
    assert contents(parts / "out") == contents(parts / "alone")
    assert json.loads(ran.stdout.splitlines()[-1])["documents"] == 19


JOINED = """
import os, sys
import ray
from cm3.data.cluster import Worker, map_units
from cm3.data.prepare_unit import Work
from cm3.errors import ConfigError, DataError

address, root = sys.argv[1:]

class Ends:
    device = "cpu"
    def open(self):
        os._exit(1)

ray.init(address=address, log_to_driver=False)
for job in (Work(f"{root}/alone", f"{root}/no-model", None, 32, None, "cpu"), Ends()):
    try:
        print(list(map_units("local", job, [0])))
    except (ConfigError, DataError) as error:
        print("told:", type(error).__name__, error)
print("told:", ray.is_initialized())
"""


@pytest.mark.slow
def test_what_goes_wrong_there_is_told_here(ray_head: Head, parts: Path) -> None:
    """On a cluster that the process has joined, and does not leave."""
    ran = python("-c", JOINED, ray_head.node, parts, env=ray_head.env)
    assert ran.returncode == 0, ran.stderr
    told = [line.removeprefix("told: ") for line in ran.stdout.splitlines() if line.startswith("told: ")]
    one, two, joined = told  # Ray has lines of its own
    assert one.startswith("DataError tokenizers ") and "no-model': config.json cannot be read" in one
    assert two.startswith("ConfigError --cluster local: its processes ended (") and "enough memory" in two
    assert joined == "True"


class Busy:
    """A Ray whose cluster fails to start a client server so many times."""

    def __init__(self, times: int) -> None:
        self.left, self.asked = times, 0

    def init(self, **_: object) -> None:
        """Join it."""
        self.asked += 1
        if self.left:
            self.left -= 1
            raise ConnectionAbortedError(  # what Ray's client raises, with what the server says
                "Initialization failure from server:\nTraceback (most recent call last):\n  [...]\n"
                "RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err for detailed logs."
            )


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_busy_cluster_is_asked_again(times: int) -> None:
    ray = Busy(times)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(
                ConfigError, match=r"not reached \(RuntimeError: Starting Ray client server failed.*of the same version"
            )
            if times == 3
            else contextlib.nullcontext()
        ):
            join(ray, address, 0)
    assert ray.asked == min(times + 1, 3)


@pytest.mark.parametrize(("address", "lacking"), [("local", "ray"), ("ray://127.0.0.1:10001", "grpc")])
def test_without_ray_the_extra_is_named(parts: Path, address: str, lacking: str) -> None:
    work = Work(str(parts), str(parts), None, 32, None, "cpu")
    with (
        mock.patch.dict(sys.modules, {lacking: None}),
        pytest.raises(ConfigError, match=r"pip install 'ray\[client\]'"),
    ):
        list(map_units(address, work, [0]))
