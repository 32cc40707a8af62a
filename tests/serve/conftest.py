"""The embedded model, and a real server of it for a file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_server import Running, running

import cm3
from cm3.generate import CM3Leon


@pytest.fixture(scope="session")
def model() -> CM3Leon:
    return cm3.load("scenes")


@pytest.fixture(scope="module")
def server(model: CM3Leon) -> Iterator[Running]:
    with running(model) as one:
        yield one
