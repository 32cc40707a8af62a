"""One thread (or as many as CM3_TEST_THREADS says), no network, and reproducible property tests, for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported. Two OpenMP threads on two busy cores spin against each other: a decode step goes from 8 ms
# to 385 ms, above all under xdist. Sums come out in other bits with two, so the suite has to pass with two as well.
os.environ["OMP_NUM_THREADS"] = os.environ.get("CM3_TEST_THREADS", "1")
# Without it a missing hub file costs half a minute of retries, and a test must not need the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import pytest
import torch
from ray_head import Head, head

THREADS = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(THREADS)

# No deadline: on a shared machine one slow example says nothing about the code.
hypothesis.settings.register_profile("dev", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("dev"), derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def same_threads() -> None:
    """Undo what a command under test set: sums come out in other bits on another number of threads."""
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A Ray cluster that runs, which all test processes share."""
    pytest.importorskip("ray")
    base = tmp_path_factory.getbasetemp()
    with head(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) as one:
        yield one


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures and captions beside the checkout; the test is skipped where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder
