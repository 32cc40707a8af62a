"""Who may write: one process to a run, a sweep, or a file that is learnt, from its first byte to its last.

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
def claimed(lock: Path, what: str, look: Callable[[], object] = lambda: None, seen: object = None) -> Iterator[None]:
    """Hold `lock` until the block ends; then it is gone, and so are the folders that were made for it and hold nothing.

    `look` says where things stand; it is `seen` where nobody went on with them since this process read them. Raises
    `ConfigError` where another process is at work there, or was.
    """
    made = [folder for folder in lock.parents if not folder.exists()]
    with locked(lock, what):
        try:
            if look() != seen:
                raise ConfigError(f"{what}: another process went on with it meanwhile; start again")
            yield
        finally:
            # It is still held: who waits for this very file sees that it is gone.
            lock.unlink(missing_ok=True)
            for folder in made:
                with contextlib.suppress(OSError):  # it has something in it
                    folder.rmdir()


def run_claimed(out: Path, look: Callable[[], object], seen: object) -> contextlib.AbstractContextManager[None]:
    """Be the only process that writes to the run in `out`; see `claimed`."""
    return claimed(out / LOCK, f"run in {str(out)!r}", look, seen)
