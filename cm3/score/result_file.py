"""The page that is kept of a result: what it takes to repeat it, and to compare it with another.

    Result --manifest--> page, plain JSON --write_result--> FILE --read_result--> Page, checked

Two runs on the same predictions give the same page, but for `hardware`, `seconds` and `date`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from cm3.errors import ConfigError, DataError, shown
from cm3.files import build, parse_json, said, sha256, write
from cm3.score.bootstrap import DRAWS, FEW, LEVEL, Interval, intervals
from cm3.score.result import Result

KIND, FORMAT = "cm3-result", 1
LIBRARIES = ("cm3", "torch", "numpy", "PIL", "transformers")
"""The libraries that can change a figure; those that were loaded are named with their versions."""
CLOSE = 1e-4
"""How far a figure may be from the mean of its items, relatively: a scorer may have summed in single precision."""

NAMED = 5
"""Most names in a warning."""

_SHA = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """References or predictions: the sha256 of their bytes, and where they were."""

    sha256: str
    """Of a folder: of the names and the sums of its files in order (`digest`)."""
    path: str | None = None
    """As it was given; None where only a sum was."""
    files: int | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        if not _SHA.fullmatch(self.sha256):
            raise ValueError(f"sha256={shown(self.sha256)}: must be a sha256 in hexadecimal")


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """The settings of the intervals."""

    level: float = LEVEL
    draws: int = DRAWS
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Page:
    """The fields of the page, less `kind` and `format`."""

    suite: str
    version: int
    """Of the suite: it rises whenever the same predictions would get another figure."""
    figures: dict[str, float]
    n: int
    settings: dict[str, Any]
    warnings: tuple[str, ...]
    intervals: dict[str, Interval | None]
    """Figure -> its interval; None for a figure that is no mean of items, or of fewer than two."""
    bootstrap: Bootstrap
    items: dict[str, dict[str, float]]
    references: dict[str, Source]
    predictions: dict[str, Source]
    made: dict[str, Any] = field(default_factory=dict)
    """How the predictions were made, as far as that is known: model, seed, sampling."""
    versions: dict[str, str]
    hardware: dict[str, Any]
    seconds: float
    date: str

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"n={self.n}: must be at least 0")
        if self.figures.keys() != self.intervals.keys():
            raise ValueError("intervals: must name the figures, each once")
        for name, values in self.items.items():
            if name not in self.figures:
                raise ValueError(f"items.{name}: is no figure; they are {', '.join(self.figures)}")
            if not values:
                raise ValueError(f"items.{name}: is empty; leave it out")
            mean = math.fsum(value / len(values) for value in values.values())  # no sum can be too large
            if not math.isclose(self.figures[name], mean, rel_tol=CLOSE, abs_tol=1e-8):
                raise ValueError(f"figures.{name}={self.figures[name]}: must be the mean of its items, {mean:.6g}")
        for name, interval in self.intervals.items():
            if interval is not None and interval[0] > interval[1]:
                raise ValueError(f"intervals.{name}={list(interval)}: must be from the lower end to the upper")
            if interval is not None and name not in self.items:
                raise ValueError(f"intervals.{name}: is one of items, and items.{name} is missing; restore the file")


def manifest(
    result: Result,
    suite: str,
    version: int,
    references: Mapping[str, str | Path],
    predictions: Mapping[str, str | Path],
    seconds: float,
    **more: Any,
) -> dict[str, Any]:
    """Return the page of a result, plain JSON.

    `references` and `predictions` have a path by a name of what is there, or a sha256 in hexadecimal where the caller
    has one; a change of any reference makes results incomparable. `seconds` is the time taken. `more` says how the
    predictions were made, where a model made them: model (its `digest`), seed, sampling; plain values.

    Raises `DataError` for a path that cannot be read, for a figure that is no number, and for one that is not the mean
    of its items; `ConfigError` for a setting that JSON does not have.
    """
    items = {name: {str(id): float(v) for id, v in values.items()} for name, values in result.items.items()}
    figures = {name: float(value) for name, value in result.figures.items()}
    found = intervals(items)
    warnings = [*result.warnings, *too_few({name: len(values) for name, values in items.items()})]
    machine = hardware()  # first, as it loads torch, whose version is then told whatever was loaded before
    page = {
        "kind": KIND,
        "format": FORMAT,
        "suite": suite,
        "version": version,
        "figures": figures,
        "n": result.n,
        "settings": _plain(result.settings, "settings"),
        "warnings": warnings,
        "intervals": {name: None if (ends := found.get(name)) is None else list(ends) for name in figures},
        "bootstrap": asdict(Bootstrap()),
        "items": items,
        "references": {name: source(of) for name, of in references.items()},
        "predictions": {name: source(of) for name, of in predictions.items()},
        "made": _plain(more, "made"),
        "versions": versions(),
        "hardware": machine,
        "seconds": round(float(seconds), 3),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    check_result(page, suite)
    return page


def write_result(path: str | Path, page: Mapping[str, Any]) -> None:
    """Write a page whole or not at all. Raises `DiskError` for a disk that is full or a place that takes no file."""
    write(path, json.dumps(page, indent=1, allow_nan=False) + "\n")


def read_result(path: str | Path) -> Page:
    """Read a page back. Raises `DataError` for a file that is missing or holds none; see `check_result`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"result {str(path)!r}: cannot be read ({error.strerror or said(error)})") from error
    return check_result(parse_json(data, f"result {str(path)!r}"), str(path))


def check_result(page: Any, where: str) -> Page:
    """Return the page that a JSON value is. `where` names it in messages.

    Raises `DataError` for a value that is no page, for one of another format, for a field that is missing or of another
    kind, for a figure with an interval and without items, and for one that is not the mean of its items.
    """
    if not isinstance(page, Mapping) or page.get("kind") != KIND:
        raise DataError(f"result {where!r}: is none; give a file that a verb of `cm3 eval` wrote with --out")
    if page.get("format") != FORMAT:
        raise DataError(
            f"result {where!r}: is of format {shown(page.get('format'))}, this version reads {FORMAT}; score the "
            "predictions again, or use the version that wrote it"
        )
    left = {name: value for name, value in page.items() if name not in ("kind", "format")}
    return build(Page, left, f"result {where!r}", DataError)


def too_few(numbers: Mapping[str, int]) -> list[str]:
    """Return a line on the figures, by number of items, whose intervals are of too few; none where there are none."""
    few = [name for name, number in numbers.items() if 1 < number < FEW]
    named = ", ".join(few[:NAMED]) + (", ..." if len(few) > NAMED else "")
    return [f"of fewer than {FEW} items an interval is too narrow: {named}"] if few else []


def source(of: str | Path) -> dict[str, Any]:
    """Return the fields of the `Source` that a path leads to, or that a sha256 stands for."""
    if isinstance(of, str) and _SHA.fullmatch(of):
        return {"sha256": of}
    return {"path": str(of), **digest(of)}


def digest(path: str | Path) -> dict[str, Any]:
    """Return sha256, number of files and bytes of a file or of a folder, which are streamed.

    The sum of a folder is that of `NAME\\0SHA256\\n` of its files in the order of their names, in folders of it too;
    hidden files are the system's, or parts of unfinished writers, and do not count. Raises `DataError` for a path that
    cannot be read, for one that is neither a file nor a folder, and for a folder without a file.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            if path.exists() and not path.is_file():
                raise DataError(f"{str(path)!r}: is neither a file nor a folder; give one of them")
            return {"sha256": sha256(path), "files": 1, "bytes": path.stat().st_size}
        whole, number, size = hashlib.sha256(), 0, 0
        for name in sorted(_below(path)):
            whole.update(f"{name}\0{sha256(path / name)}\n".encode("utf-8", "surrogateescape"))
            number, size = number + 1, size + (path / name).stat().st_size
    except OSError as error:
        where = error.filename or path
        raise DataError(f"{str(where)!r}: cannot be read ({error.strerror or said(error)})") from error
    if not number:
        raise DataError(f"{str(path)!r}: has no file; give a folder that holds some")
    return {"sha256": whole.hexdigest(), "files": number, "bytes": size}


def is_of(source: Source, path: Path) -> bool:
    """Tell whether a path holds what a source was of. Where number and sizes tell, nothing is read: a page that names
    a whole disk costs no more than one that does not."""
    try:
        names = list(islice(_below(path), (source.files or 0) + 1)) if path.is_dir() else [""]
        sizes = [(path / name).stat().st_size for name in names]
        if (len(sizes), sum(sizes)) != (source.files, source.bytes):
            return False
        return bool(digest(path)["sha256"] == source.sha256)
    except (DataError, OSError):
        return False


def _below(folder: Path) -> Iterator[str]:
    """Yield the names of the files below a folder, with `/` between the parts. Links are followed, each folder once;
    pipes and links that lead nowhere hold nothing, and are passed over."""

    def refuse(error: OSError) -> None:
        raise error

    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        inner = {name: os.path.realpath(Path(place, name)) for name in sorted(folders) if not name.startswith(".")}
        folders[:] = [name for name, real in inner.items() if real not in seen]
        seen.update(inner.values())
        for name in names:
            if not name.startswith(".") and (found := Path(place, name)).is_file():
                yield found.relative_to(folder).as_posix()


def versions() -> dict[str, str]:
    """Return the version of Python and of each of `LIBRARIES` that is loaded."""
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in LIBRARIES}
    return {"python": platform.python_version(), **{name: str(v) for name, v in found.items() if v is not None}}


def hardware() -> dict[str, Any]:
    """Return the processor, its instruction sets that count here, the threads, and the GPU where one was used."""
    import torch

    from cm3.precision import flags

    name = platform.processor() or platform.machine()
    try:
        said_there = re.search(
            r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE
        )
        name = said_there[1].strip() if said_there else name
    except OSError:
        pass  # another system than Linux
    found = {"processor": name, "flags": flags(), "threads": torch.get_num_threads()}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_initialized() else {})


def _plain(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return values as JSON gives them back."""
    try:
        made: dict[str, Any] = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: must be plain values that JSON has ({said(error)})") from error
    return made
