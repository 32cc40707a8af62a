"""A Ray cluster as a user starts one, for all processes of a run of the tests: two cores, the loopback, a token."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from cm3.files import write

TRIES, PATIENCE_S = 5, 120
"""Ray gives its own processes fifteen seconds to come up, which a busy machine may not have."""
_started: list[subprocess.Popen[bytes]] = []


@atexit.register
def _leave_none() -> None:
    """End those that are left where a run of the tests was broken off."""
    for process in _started:
        process.terminate()


class Head(NamedTuple):
    """Where it is reached, from anywhere and from its own node, and the environment of those who may.

    From anywhere takes a process more for each who asks, and its half a minute; one test does so.
    """

    address: str
    node: str
    env: dict[str, str]


@contextlib.contextmanager
def head(base: Path) -> Iterator[Head]:
    """Start it, or take the one that another test process has noted in the folder `base`; the last to leave ends it."""
    note, lock = base / "ray.json", FileLock(base / "ray.lock")
    with lock:
        about = json.loads(note.read_text()) if note.exists() else _start()
        write(note, json.dumps(about | {"users": about["users"] + 1}))
    try:
        yield Head(about["address"], about["node"], os.environ | about["env"])
    finally:
        with lock:
            about = json.loads(note.read_text())
            write(note, json.dumps(about | {"users": about["users"] - 1}))
            if about["users"] == 1:
                note.unlink()
                _end(about)


def _start() -> dict[str, Any]:
    # Without the second, Ray takes the machine's address in the network for 127.0.0.1.
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": str(PATIENCE_S)}
    # As docs/cluster.md says: without it a client's server crashes now and then before it begins.
    env |= {"GRPC_ENABLE_FORK_SUPPORT": "0"}
    for _ in range(TRIES):
        folder = Path(tempfile.mkdtemp(prefix="ray"))  # a socket's path has to be short
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = (
            f"start --head --block --node-ip-address 127.0.0.1 --port 0 --ray-client-server-port {port} --num-cpus 2"
        )
        words += " --min-worker-port 0 --max-worker-port 0 --dashboard-agent-listen-port 0 --include-dashboard false"
        command = [Path(sys.executable).with_name("ray"), *words.split(), "--object-store-memory", "100000000"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--temp-dir", folder], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | env
            )
        _started.append(process)
        about = {
            "address": f"ray://127.0.0.1:{port}",
            "env": env,
            "pid": process.pid,
            "folder": str(folder),
            "users": 0,
        }
        if _is_up(process, folder / "log", port):
            return about | {"node": (folder / "ray_current_cluster").read_text()}
        told = (folder / "log").read_text()
        _end(about)
    raise AssertionError(f"no cluster comes up:\n{told}")


def _is_up(process: subprocess.Popen[bytes], log: Path, port: int) -> bool:
    end = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < end:
        if "Ray runtime started" in log.read_text():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
        time.sleep(0.1)
    return False


def _end(about: dict[str, Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(about["pid"], signal.SIGTERM)
    for process in _started:
        if process.pid == about["pid"]:
            process.wait(60)
    shutil.rmtree(about["folder"], ignore_errors=True)
