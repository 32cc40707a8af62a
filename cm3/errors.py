"""Errors that a user's input can cause, and the form of their messages.

A message names what is wrong, where, the rule, and the remedy, in one line.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real


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
    """A disk that is full, or a place that may not be written to. Files that were there before are whole."""


class DivergedError(Cm3Error, FloatingPointError):
    """Training met a loss that it must not learn from. It was not learnt from, and the last checkpoint is good."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known name nearest to `name`, or `""` where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def whole_number(
    name: str, value: object, low: int = 1, high: int | None = None, error: type[Cm3Error] = ConfigError, of: str = ""
) -> int:
    """Return `value`, an integer of Python or numpy from `low` to `high`, as an int. `of`: of what it is a number.

    Raises `error` for what is out of range and for what is no integer: 2.0, True, "2", None.
    """
    number = value if type(value) is int else None
    if number is None and type(value) is not bool and isinstance(value, Integral):
        number = int(value)
    if number is None or number < low or (high is not None and number > high):
        limits = f"at least {low}"
        if high is not None:
            limits = f"{low} to 2**{high.bit_length()} - 1" if high > 10**9 else f"{low} to {high}"
        raise error(f"{name}={shown(value)}: must be an integer, {limits} {of}".rstrip())
    return number


def real_number(
    name: str, value: object, ok: Callable[[float], bool], rule: str, error: type[Cm3Error] = ConfigError
) -> float:
    """Return `value`, a finite number of Python or numpy for which `ok` holds, as a float, without a negative zero.

    Raises `error`, that it must be `rule`, for any other: NaN, a bool, a string, an integer beyond every float.
    """
    number = value if type(value) is float else math.nan
    if type(value) is not float and type(value) is not bool and isinstance(value, Real):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not (math.isfinite(number) and ok(number)):
        raise error(f"{name}={shown(value)}: must be {rule}")
    return number + 0.0


def shown(value: object) -> str:
    """Return a value that was refused, short and in one line."""
    try:
        text = str(value) if isinstance(value, Real) else repr(value)
    except Exception:  # an integer of over 4,300 digits has no string; a stranger's object may do anything
        text = f"({type(value).__name__})"
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:56]} ..."
