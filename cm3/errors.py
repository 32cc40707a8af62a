"""What can go wrong because of something the user gave us, and how it is said.

A message names what is wrong, where, the rule, and the remedy, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Cm3Error(Exception):
    """Base of every error that the caller can mend. The command line turns it into one line and exit code 2."""


class ConfigError(Cm3Error, ValueError):
    """A setting or an argument that is unknown, out of range, or contradicts another."""


class DataError(Cm3Error, ValueError):
    """An input (image, text, dataset) that is missing, unreadable or malformed."""


class CheckpointError(Cm3Error, ValueError):
    """A bundle or checkpoint that is missing, damaged, or does not fit what it is loaded into."""


class RequestError(Cm3Error, ValueError):
    """A generation request that cannot be served as asked."""


class DiskError(Cm3Error, OSError):
    """A disk that is full, or a place that may not be written to. What was there before is whole."""


class DivergedError(Cm3Error, FloatingPointError):
    """Training met a loss that it must not learn from. It was not learnt from, and the last checkpoint is good."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known name nearest to `name`, or `""` where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
