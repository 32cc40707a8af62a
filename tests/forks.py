"""Processes for tests, forked from one server that has imported what they need: each costs milliseconds, not seconds.

A test process has one such server, with the imports of whoever starts it first; hence one list for all.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

IMPORTS = ["cm3.data.prepare", "cm3.read.picture_folder", "cm3.retrieval.pairs", "cm3.train.trainer", "torch._dynamo"]
"""The last is what torch imports for the first optimizer of a process."""


def forks() -> ForkServerContext:
    """The context whose processes are forked from that server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    return context
