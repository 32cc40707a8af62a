"""SIGTERM and SIGINT ask a run to stop: it saves at the end of the step, and can be resumed.

    with Signals() as signals:
        ...  signals.name      "" or "SIGTERM"

A SIGINT after that interrupts the step, as it would any program. More SIGTERMs change nothing: schedulers and launchers
may each send one.

Before the first step, and after the last, there is no step to end: there SIGTERM raises `Terminated`, which unwinds
what is at work, so that nothing is left half written. A module that is being imported is imported first.

    with terminable():
        ...  set-up         SIGTERM -> Terminated
        with Signals():     SIGTERM -> noted
        ...  export         SIGTERM -> Terminated
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

CAUGHT = (signal.SIGTERM, signal.SIGINT)
STOPPED = 75
"""Exit code of a run that was stopped so: EX_TEMPFAIL of sysexits.h, not done and worth another start."""


class Terminated(BaseException):
    """SIGTERM came where there is no step to save. No `Exception`: nothing may take it for an error to be mended."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` in the block when SIGTERM comes, once; outside of the main thread nothing is caught."""
    waited = 0

    def caught(number: int, frame: FrameType | None) -> None:
        nonlocal waited
        if waited < 100 and _importing(frame):
            # Libraries in C++ end the process where an exception comes in the middle of their import. It is over soon.
            waited += 1
            again = threading.Timer(0.05, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        # Once: what unwinds is not to be interrupted again by those who send it twice.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, caught)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _importing(frame: FrameType | None) -> bool:
    """Tell whether a module is being imported where a signal came."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


class Signals:
    """Catches the two while it is entered, in the main thread; in another it catches nothing."""

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._caught) for number in CAUGHT}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = self.name or signal.Signals(number).name
