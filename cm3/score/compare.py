"""Two results of one suite -> the difference of each figure, and whether it could as well be chance.

check_comparable(first, other)   what they have to share, or an error; what they differ in, as warnings
compare(first, other)            each figure of both: a, b, b - a, its interval, and a verdict
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cm3.errors import RequestError, shown
from cm3.score.bootstrap import Interval, difference
from cm3.score.result_file import NAMED, Page, too_few

Verdict = Literal["higher", "lower", "noise", "same", "unknown"]
SAID: Mapping[Verdict, str] = {
    "higher": "higher: the interval lies above 0",
    "lower": "lower: the interval lies below 0",
    "noise": "noise: the interval holds 0",
    "same": "the same on every item",
    "unknown": "no interval: no mean of items that both have, so this may be noise",
}
"""A verdict on b against a, in words. Which way is better, a figure does not say."""


@dataclass(frozen=True)
class Row:
    """A figure of two results; of one that is a mean, over the items that both have."""

    a: float
    b: float
    difference: float
    """b - a."""
    interval: Interval | None
    n: int | None
    """Number of items that both have; None for a figure that is no mean of items."""
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """A result `b` against a result `a`."""

    warnings: tuple[str, ...]
    only_a: tuple[str, ...]
    """Ids of the items that a alone has."""
    only_b: tuple[str, ...]
    figures: Mapping[str, Row]


def check_comparable(a: Page, b: Page, names: tuple[str, str], *, anyway: bool = False) -> list[str]:
    """Return what the two differ in that a reader has to know, a line each. `names` are theirs, for messages.

    Raises `RequestError` for results of other suites, of other versions of one, and of other references, naming them;
    for settings that differ too, but with `anyway` they are a warning.
    """
    first, other = names
    told = f"{first} and {other}"
    if (a.suite, a.version) != (b.suite, b.version):
        suites = f"{a.suite!r} version {a.version} and {b.suite!r} version {b.version}"
        raise RequestError(f"{told}: are of {suites}; compare results of one suite and version")
    sums = [{name: of.sha256 for name, of in page.references.items()} for page in (a, b)]
    if apart := _apart(*sums):
        raise RequestError(f"{told}: have other references ({', '.join(apart)}); score both against the same ones")
    warnings = []
    if apart := _apart(a.settings, b.settings):
        which = "; ".join(f"{name}: {_of(a.settings, name)} and {_of(b.settings, name)}" for name in apart)
        if not anyway:
            raise RequestError(f"{told}: have other settings ({which}); score both alike, or give --anyway")
        warnings.append(f"settings differ, so the figures may not be comparable ({which})")
    if apart := _apart(a.figures, b.figures, keys=True):
        warnings.append(f"only one of the two has the figures {', '.join(apart)}")
    if apart := [name for name in _apart(a.made, b.made) if name != "model"]:
        which = "; ".join(f"{name}: {_of(a.made, name)} and {_of(b.made, name)}" for name in apart)
        warnings.append(f"the predictions were made otherwise, beside the model ({which})")
    if apart := [name for name in a.versions if a.versions[name] != b.versions.get(name, a.versions[name])]:
        which = "; ".join(f"{name}: {a.versions[name]} and {b.versions[name]}" for name in apart)
        warnings.append(f"the versions of libraries differ ({which})")
    of_a, of_b = ({source.sha256 for source in page.predictions.values()} for page in (a, b))
    if of_a and of_a == of_b:
        warnings.append("both are of the very same predictions")
    return warnings


def compare(a: Page, b: Page, names: tuple[str, str], *, anyway: bool = False) -> Comparison:
    """Return how `b` differs from `a`. Raises as `check_comparable`."""
    warnings = check_comparable(a, b, names, anyway=anyway)
    ids_a, ids_b = (set().union(*page.items.values()) for page in (a, b))
    only_a, only_b = sorted(ids_a - ids_b), sorted(ids_b - ids_a)
    for name, only in zip(names, (only_a, only_b), strict=True):
        if only:
            first = ", ".join(only[:NAMED]) + (", ..." if len(only) > NAMED else "")
            warnings.append(
                f"{name} alone has {len(only)} items ({first}); the figures here are of those that both have"
            )
    rows = {name: _row(a, b, name) for name in a.figures if name in b.figures}
    warnings += too_few({name: row.n for name, row in rows.items() if row.n is not None})
    return Comparison(tuple(warnings), tuple(only_a), tuple(only_b), rows)


def _row(a: Page, b: Page, name: str) -> Row:
    found = difference(a.items.get(name, {}), b.items.get(name, {}))
    if found is None:
        apart = b.figures[name] - a.figures[name]
        return Row(a.figures[name], b.figures[name], apart, None, None, "unknown")
    verdict: Verdict = "unknown"
    if found.interval is not None:
        verdict = "noise" if found.noise else "higher" if found.difference > 0 else "lower"
        if found.interval == (0.0, 0.0) and all(b.items[name].get(id, v) == v for id, v in a.items[name].items()):
            verdict = "same"
    return Row(found.a, found.b, found.difference, found.interval, found.n, verdict)


def _apart(a: Mapping[str, Any], b: Mapping[str, Any], *, keys: bool = False) -> list[str]:
    """Return the names that the two do not share, or have other values of."""
    names = sorted(a.keys() | b.keys())
    return [n for n in names if (n in a) != (n in b) or not (keys or a[n] == b[n])]


def _of(settings: Mapping[str, Any], name: str) -> str:
    return shown(settings[name]) if name in settings else "not set"
