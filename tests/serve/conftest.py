"""The embedded model, and a real server of it for a file of tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from running_server import Running, running

import cm3
from cm3.generate import CM3Leon
from cm3.serve.logs import LOGGERS


@pytest.fixture(scope="session")
def model() -> CM3Leon:
    return cm3.load("scenes")


@pytest.fixture(scope="module")
def server(model: CM3Leon) -> Iterator[Running]:
    with running(model) as one:
        yield one


@pytest.fixture
def loggers_put_back() -> Iterator[None]:
    """For tests that set a server's logs up: the loggers are as before afterwards."""
    known = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in known]
    yield
    logging.captureWarnings(False)
    for logger, (handlers, propagate, level) in zip(known, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
