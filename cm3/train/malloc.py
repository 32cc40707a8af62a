"""malloc: freed memory is kept by the process: a step on a processor asks for the same large blocks as the step before.

By default the C library gives each of them back to the system, and the next step pays for zeroed pages again: a seventh
of the time of a step of a small model (docs/speed.md). The most memory in use is the same.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Of glibc's malloc.h: bytes free at the top before they are given back, and blocks that are mapped each by itself."""


def keep_freed() -> bool:
    """Let the C library keep what is freed, from now on. Returns whether it could be told: glibc alone can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # -1 as a size is the largest there is.
    return bool(mallopt(TRIM_THRESHOLD, -1)) and bool(mallopt(MMAP_MAX, 0))
