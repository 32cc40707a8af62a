"""The embedded model, a real server of it for a file of tests, and a tab of a browser that is open at it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from browser_tab import BROWSER, WIDE, Tab
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("axe_playwright_python")
    if BROWSER is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def tab(browser: Any, server: Running) -> Iterator[Tab]:
    context = browser.new_context(viewport=WIDE, permissions=["clipboard-read", "clipboard-write"])
    opened = Tab(context, server.url)
    yield opened
    context.close()
    assert opened.wrong == []
    assert {url for url in opened.asked if not url.startswith((server.url, "blob:"))} == set()
