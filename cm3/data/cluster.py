"""Units of a job done on a Ray cluster: the function that does one here, called there, on whatever nodes there are.

    numbers -> one actor a core, which opens the job once and gets the next number when it is done -> reports

Every folder and file of the job must be where every node sees it by the same path. Ray Data would do the same, but
through ray://HOST:10001 it cannot: Ray's client does not know the streams of results that it needs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from cm3.errors import Cm3Error, ConfigError, DataError

RETRIES = 3
"""How often a unit is tried again whose process died, with its node or for want of memory."""
PATIENCE_S = 10
"""Seconds in which a cluster's port must answer."""
CLIENT_TRIES = 3
"""How often a cluster is asked whose client server does not start: some crash at once (docs/cluster.md)."""


class Opened(Protocol):
    """A job that one process has opened."""

    def prepare(self, number: int, /) -> dict[str, Any]:
        """Do a unit, and return its report: plain values."""
        ...


class Job(Protocol):
    """Work in units: plain values, that travel to other processes and machines."""

    @property
    def device(self) -> str:
        """Say where a worker computes: each takes one GPU for `cuda`."""
        ...

    def open(self) -> Opened:
        """Open what a process needs for it."""
        ...


class Worker:
    """One of the cluster's processes. A fault of the user's comes back as words."""

    def __init__(self, job: Job, folder: str) -> None:
        with contextlib.suppress(OSError):  # where it is not seen, all paths have to be whole
            os.chdir(folder)
        self.job = job
        self.opened: Opened | None = None

    def begin(self) -> None:
        """Tell that there is room for this worker."""

    def do(self, number: int) -> tuple[int, dict[str, Any], str]:
        """Do a unit; returns its number, its report, and what was wrong."""
        try:
            self.opened = self.opened or self.job.open()
            return number, self.opened.prepare(number), ""
        except Cm3Error as error:
            return number, {}, str(error)


def map_units(
    address: str, job: Job, numbers: Sequence[int], *, workers: int = 0
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Do units on the cluster at `address` and give each (number, report) as it is done, in any order.

    `local` starts a cluster in this machine, with `workers` cores or all; a cluster that this process has joined is
    taken as it is. Raises `ConfigError` where Ray is not installed or not reached, and where its processes cannot do
    such work; `DataError` for what a unit raises.
    """
    needed = ["ray", "grpc"] if "://" in address else ["ray"]
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise ConfigError("--cluster needs Ray; install it with: pip install 'ray[client]'")
    import ray

    joined = ray.is_initialized()
    if not joined:
        join(ray, address, workers)
    try:
        graphics = 1 if job.device.startswith("cuda") else 0
        room = int(ray.cluster_resources().get("GPU" if graphics else "CPU", 1))
        most = max(1, min(room, workers or room, len(numbers)))
        yield from _mapped(ray, job, numbers, most, graphics)
    except (ray.exceptions.RayActorError, ConnectionError) as error:
        raise ConfigError(
            f"--cluster {address}: its processes ended ({_last(error)}); they need cm3leon of this version, and enough "
            "memory. The same command goes on where it was"
        ) from error
    finally:
        if not joined:
            ray.shutdown()


def _mapped(
    ray: Any, job: Job, numbers: Sequence[int], most: int, graphics: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give each of at most `most` workers a unit when it has nothing to do; one that there is no room for gets none."""
    kind = ray.remote(num_cpus=1, num_gpus=graphics, max_restarts=-1, max_task_retries=RETRIES)(Worker)
    asked: dict[Any, Any] = {}
    for _ in range(most):
        worker = kind.remote(job, os.getcwd())
        asked[worker.begin.remote()] = worker
    left, done = iter(numbers), 0
    while done < len(numbers):
        (answer, *_), _ = ray.wait(list(asked))
        worker, told = asked.pop(answer), ray.get(answer)
        if (number := next(left, None)) is not None:
            asked[worker.do.remote(number)] = worker
        if told is not None:
            number, report, problem = told
            if problem:
                raise DataError(problem)
            done += 1
            yield number, report


def join(ray: Any, address: str, workers: int, *, told: bool = False) -> None:
    """Join a cluster, or start one in this machine, as `map_units` does; `told`: show what its processes log.

    Raises `ConfigError` where it is not reached.
    """
    quiet: dict[str, Any] = {"log_to_driver": told, "logging_level": logging.ERROR}
    if address == "local":
        quiet |= {"include_dashboard": False, "num_cpus": workers or None}
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    remedy = "give local, ray://HOST:10001, or on a node of the cluster HOST:6379"
    try:
        if address not in ("local", "auto"):
            _listens(address if "://" in address else f"//{address}")
        if address.startswith("ray://"):
            remedy = (
                "a Ray of the same version has to listen there; if it asks for a token, set RAY_AUTH_MODE=token here"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of a port is in the error too
            _init(ray, address, quiet)
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own in the place of the caller's
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--cluster {address}: not reached ({_last(error)}); {remedy}") from error


def _init(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    """Join, and again where the cluster could not start a client server, which tells nothing of the next time."""
    for left in reversed(range(CLIENT_TRIES)):
        try:
            ray.init(address=address, **quiet)
            return
        except ConnectionError as error:
            if not left or "Starting Ray client server failed" not in str(error):
                raise


def _last(error: BaseException) -> str:
    """Return the last line of an error, which is what happened: those before it say where, for pages."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def _listens(address: str) -> None:
    """Raise `OSError` where nothing listens, which Ray would look for for half a minute, and `ValueError` for an
    address without a port."""
    place = urlsplit(address)
    if not place.hostname or place.port is None:
        raise ValueError("an address has a host and a port")
    socket.create_connection((place.hostname, place.port), PATIENCE_S).close()
