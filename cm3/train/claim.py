"""The right to write to a run: one process has it, from its first byte to its last.

two trainings into one folder      the second is refused in one line, and has written nothing
one that ended meanwhile           so is one that has read what was there before the other began
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from cm3.errors import ConfigError
from cm3.files import locked

LOCK = ".lock"
"""In the folder of a run."""


@contextlib.contextmanager
def run_claimed(out: Path, look: Callable[[], object], seen: object) -> Iterator[None]:
    """Be the only process that writes to the run in `out` until the block ends.

    `look` says where things stand; it is `seen` where nobody went on with them since this process read them. Raises
    `ConfigError` where another process is at work there, or was.
    """
    what = f"run in {str(out)!r}"
    with locked(out / LOCK, what):
        if look() != seen:
            raise ConfigError(f"{what}: another process went on with it meanwhile; start again")
        yield
