"""A suite: requests in a fixed order, each with its seed, and the figures of what a model gave to them.

    dataset --lines--> requests.jsonl --drawn as a file of prompts--> records --score--> Result
        \\------------- references, in the layout of their owners -------^

A suite knows no model. It lists the same requests whenever it is started, by whichever process, so who draws them may
be killed and may be many (docs/batch.md). A line is one of `cm3 generate --prompts`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import PIL.Image

from cm3.document import Document, Image, Unreadable
from cm3.errors import ConfigError, DataError
from cm3.files import write
from cm3.read.base import Reader
from cm3.read.find import open_reader, parse_source
from cm3.read.random_access import Numbered
from cm3.score.result import Result

Line = dict[str, Any]
Progress = Callable[[int, int], object]
"""Called with how many are done, and how many there are."""
_STREAM = 0x5017E
"""Keeps the choice of items apart from all else with the same seed."""


class Encoder(Protocol):
    """The part of `cm3.retrieval.embed.Encoder` that pictures are ranked by."""

    name: str

    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return unit vectors float32 (n, width)."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors float32 (n, width)."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """The wishes of a user to a suite. Those from `protocol` on are for some suites alone: `Suite.takes`."""

    source: str = ""
    n: int | None = None
    """Most items; None for all."""
    seed: int = 0
    skip_bad: bool = False
    """Leave out what cannot be read or drawn, and say so in the result."""
    plain: bool = False
    size: int = 256
    """Side of the model's pictures, in pixels."""
    grid: tuple[int, int] = (32, 32)
    """Rows and columns of their codes."""
    tuned: tuple[str, ...] = ()
    """Tasks that the model was tuned for."""
    world: Mapping[str, Any] | None = None
    """What the model says it knows: `about.world` of its config.json."""
    device: str = "cpu"
    """Where scorers with a network of their own run."""
    protocol: str | None = None
    features: str | None = None
    reference: str | None = None
    best_of: int | None = None
    encoder: Encoder | None = None
    """What pictures are ranked by; None for the likelihood of the model."""


class Suite(ABC):
    """Requests of a dataset, and how answers to them are scored. `name` and `version` say which: what changes a figure
    changes the version."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    task: ClassVar[str | None] = None
    """The instruction task that is asked, for which a model may not have been tuned."""
    kinds: ClassVar[tuple[str, ...]] = ()
    """Readers of its dataset; empty for a suite that has no source, or reads it by itself."""
    standard: ClassVar[int | None] = None
    """Number of items where nothing is said; None for all."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """The fields of `Asking` that are for some suites alone, and for this one."""

    def __init__(self, asking: Asking, out: Path, update: Progress = lambda done, total: None) -> None:
        """Take a folder to write to. Raises `ConfigError` for what the suite does not take."""
        for name in ("protocol", "features", "reference", "best_of", "encoder"):
            if getattr(asking, name) is not None and name not in self.takes:
                raise ConfigError(f"suite {self.name}: takes no {name.replace('_', '-')}; leave it out")
        if asking.plain and self.task is None:
            raise ConfigError(f"suite {self.name}: asks for no task, so there is nothing to ask plain; leave it out")
        self.asking, self.out, self.update = asking, out, update
        self.warnings: list[str] = []
        if self.task not in (None, *asking.tuned):
            self.warnings.append(f"the model was not tuned for task {self.task!r}: expect little of it")
        self.bad: list[Unreadable] = []
        self.pictures = Pictures(asking.source, out)
        self.references: dict[str, Path | str] = {}
        """What the figures are measured against, by its use: files, or sums of what is in none."""
        self.predictions: dict[str, Path] = {}
        """Files of what the model gave."""

    @abstractmethod
    def lines(self) -> Iterator[Line]:
        """Yield the requests. Raises `DataError` for what cannot be read, unless that is to be left out."""

    @abstractmethod
    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        """Score what came of the requests: records of `results.jsonl`, in order. Raises `DataError` for one that could
        not be drawn, unless those are to be left out."""

    @cached_property
    def reader(self) -> Reader:
        """Open the dataset. Raises `DataError` for one of another kind."""
        found = parse_source(self.asking.source)
        if found.kind is None and len(self.kinds) == 1 and "://" not in found.path:
            found = found._replace(kind=self.kinds[0])  # a folder may hold several
        reader = open_reader(found)
        if reader.kind not in self.kinds:
            raise DataError(
                f"suite {self.name}: {self.asking.source!r} is of {reader.kind}, must be of {' or '.join(self.kinds)}"
            )
        split = str(getattr(reader, "split", None) or "")
        if split.startswith("train"):
            self.warnings.append(f"split {split!r}: models are trained on it; a figure of it says nothing of others")
        return reader

    @cached_property
    def documents(self) -> Numbered:
        """Return the documents of the dataset by number."""
        return Numbered(self.reader, self.asking.source)

    def chosen(self, total: int) -> list[int]:
        """Return the numbers of the items that are asked for, in order: all, or as many as wanted, by the seed."""
        n = self.asking.n or self.standard
        if n is None or n >= total:
            return list(range(total))
        drawn = np.random.default_rng([self.asking.seed, _STREAM]).permutation(total)[:n]
        return sorted(drawn.tolist())

    def seed(self, number: int) -> int:
        """Return the seed of an item: the same whichever others are asked for."""
        return self.asking.seed + number

    def asks(self, number: int, id: int | str, **request: Any) -> Line:
        """Return the line that asks for the suite's task."""
        plain = {"plain": True} if self.asking.plain else {}
        return {"id": id, "seed": self.seed(number), "task": self.task, "request": request, **plain}

    def leave_out(self, id: object, reason: str) -> None:
        """Note an item that cannot be measured."""
        self.bad.append(Unreadable(str(id), reason))

    def read(self, document: Document | Unreadable) -> Document | None:
        """Return a document; None, noted, for one that cannot be read."""
        if isinstance(document, Unreadable):
            self.leave_out(document.id, document.reason)
            return None
        return document

    def check(self, found: int) -> None:
        """Raise `DataError` for bad items, unless they are to be left out, and where there are no others."""
        if self.bad and not (self.asking.skip_bad and found):
            first, few = self.bad[0], f"{len(self.bad)} items of {self.asking.source!r}"
            told = f"{few} cannot be measured" if found else f"none of {few} can be measured"
            remedy = "mend them, or give --skip-bad, which the result tells" if found else "give another source"
            raise DataError(f"suite {self.name}: {told}, the first {first.id}: {first.reason}; {remedy}")
        if not found:
            raise DataError(f"suite {self.name}: {self.asking.source!r} has nothing for it; give another split")

    def made(self, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the records that were drawn. Raises `DataError` for others, unless they are to be left out."""
        found = 0
        for record in records:
            if "error" in record:
                self.leave_out(record["id"], record["error"])
                continue
            found += 1
            yield record
        self.check(found)

    def result(self, scored: Result, **settings: Any) -> Result:
        """Return a scorer's result with what the suite has to say of it."""
        more = list(self.warnings)
        if self.bad:
            more.append(f"{len(self.bad)} items were left out, the first {self.bad[0].id}: {self.bad[0].reason}")
        split = getattr(self.reader, "split", None) if self.kinds else None
        told = {"split": split} if split else {}
        asked = {"asked": self.asking.n or self.standard or "all", "seed": self.asking.seed, **told, **settings}
        return Result(scored.figures, scored.n, {**asked, **scored.settings}, (*scored.warnings, *more), scored.items)

    def keep(self, name: str, content: Any) -> Path:
        """Write a JSON file that owners' programs read, whole or not at all; returns where."""
        path = self.out / name
        write(path, json.dumps(content) + "\n")
        return path


class Pictures:
    """Names of pictures in requests: those that the source's folder has as files, or copies in `out`."""

    def __init__(self, source: str, out: Path) -> None:
        path = Path(parse_source(source).path) if source else out
        self.below, self.out = path.parent if path.is_file() else path, out
        self.root: Path | None = None
        """The folder that names are relative to."""

    def name(self, image: Image) -> str:
        """Return the name of a picture, which is copied where no file of the source holds it and it alone."""
        place, root = image.place, self.out
        if place is not None and place.offset == 0 and Path(place.path).is_relative_to(self.below):
            if Path(place.path).stat().st_size == place.size:
                root = self.below
        self.root = self.root or root
        if self.root == self.below != self.out:
            if root != self.root:
                raise DataError(f"{self.below}: some pictures are files and some are not; write them in one way")
            assert place is not None
            return Path(place.path).relative_to(root).as_posix()
        name = f"given/{image.digest.hex()}"
        if not (self.out / name).exists():
            write(self.out / name, image.file())
        return name


def texts(record: Mapping[str, Any]) -> str:
    """Return the one text of a record, on one line."""
    (text,) = record["texts"]
    return " ".join(text.split())
