"""Units of a job done on a Ray cluster: the function that does one here, mapped there, on whatever nodes there are.

    numbers -> ray.data.from_items -> one actor a core, which opens the job once -> reports

Every folder and file of the job must be where every node sees it by the same path.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from cm3.errors import Cm3Error, ConfigError, DataError
from cm3.files import said


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

    def __init__(self, job: Job) -> None:
        self.job = job
        self.opened: Opened | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do a unit."""
        number, report, problem = int(row["number"]), "", ""
        try:
            self.opened = self.opened or self.job.open()
            report = json.dumps(self.opened.prepare(number))
        except Cm3Error as error:
            problem = str(error)
        return {"number": number, "report": report, "problem": problem}


def map_units(
    address: str, job: Job, numbers: Sequence[int], *, workers: int = 0
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Do units on the cluster at `address` and give each (number, report) as it is done, in any order.

    `local` starts a cluster in this machine, with `workers` cores or all; a cluster that this process has joined is
    taken as it is. Raises `ConfigError` where Ray is not installed or not reached, `DataError` for what a unit raises.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--cluster needs Ray; install it with: pip install 'ray[data]'")
    import ray
    import ray.data

    joined = ray.is_initialized()
    if not joined:
        join(ray, address, workers)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        graphics = 1 if job.device.startswith("cuda") else 0
        room = ray.cluster_resources().get("GPU" if graphics else "CPU", 1)
        most = max(1, min(int(room), workers or int(room), len(numbers)))
        rows = ray.data.from_items([{"number": n} for n in numbers], override_num_blocks=len(numbers))
        worker: Any = Worker  # Ray makes one in each actor
        done = rows.map(worker, fn_constructor_args=(job,), concurrency=(1, most), num_cpus=1, num_gpus=graphics)
        for row in done.iter_rows():
            if row["problem"]:
                raise DataError(row["problem"])
            yield int(row["number"]), json.loads(row["report"])
    finally:
        if not joined:
            ray.shutdown()


def join(ray: Any, address: str, workers: int, *, told: bool = False) -> None:
    """Join a cluster, or start one in this machine, as `map_units` does; `told`: show what its processes log.

    Raises `ConfigError` where it is not reached.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": told, "logging_level": logging.ERROR}
    if address == "local":
        quiet |= {"include_dashboard": False, "num_cpus": workers or None}
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **quiet)
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own in the place of the caller's
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--cluster {address}: not reached ({said(error)}); give local or ray://HOST:10001"
        ) from error
