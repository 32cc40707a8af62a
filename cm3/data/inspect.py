"""The contents and the faults of a dataset, of a sample that is spread over it or of all of it.

    reader --> documents --> Report     counts, lengths of captions, sizes and modes of pictures, licences,
                                        problems (reason -> how many, which), samples to look at

Every picture that is looked at is decoded to its end, because a file that opens may still be cut short. Memory does not
grow with the dataset, apart from 8 bytes of each id (about 100 as Python keeps them) to find the ids that come twice.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cm3.document import Document, Image, Part, Text, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb
from cm3.read.base import Reader, even

LONG = 10_000
"""Characters; a caption of more is reported."""
EXAMPLES = 5
"""Ids that are named for each problem."""
SIDE = 512
"""Longer side, in pixels, of the pictures that are kept as samples."""

_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|[^\s:;,()]*[\d/][^\s:;,()]*|[^\s:;,()]+\.\w{2,5}\b")
"""Parts of a reason that differ from document to document: quoted words, numbers, files."""


@dataclass
class Problem:
    """A fault: the number of documents that have it, the ids of the first, and the message of the very first."""

    count: int = 0
    ids: list[str] = field(default_factory=list)
    example: str = ""


@dataclass
class Report:
    """The findings in `read` documents; `documents` is how many there are, None where only reading all would tell.

    `exact` says that all were read. `captions`, `widths` and `heights` are min, median, p95 and max (characters of a
    document's text, pixels), None where there was nothing to measure. `sizes` are the commonest (width, height).
    `sources`, `licenses`, `modes` and `formats` count documents and pictures. `problems` are by reason. `passed` is
    what the reader passed over, which is no document: by kind, `count` and the first `names`.
    """

    source: str
    documents: int | None = None
    read: int = 0
    exact: bool = False
    with_text: int = 0
    with_picture: int = 0
    texts: int = 0
    pictures: int = 0
    captions: dict[str, int] | None = None
    widths: dict[str, int] | None = None
    heights: dict[str, int] | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    licenses: dict[str, int] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)
    passed: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: tuple[Document, ...] = ()

    def json(self) -> dict[str, Any]:
        """Return all but the samples, as plain values."""
        values = asdict(replace(self, samples=()))
        del values["samples"]
        return values


def inspect(
    reader: Reader,
    sample: int | None = 200,
    *,
    samples: int = 6,
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Look at about `sample` documents spread over the dataset, or at all of them where it is None.

    `samples` documents, spread likewise, are kept with their pictures scaled down. `progress(done, total)` is called
    after each document, with a total of 0 where it is not known. Raises `DataError` for a dataset without documents.
    """
    total = reader.count
    found = _Found(samples)
    expected = total if sample is None else sample if total is None else min(sample, total)
    for document in reader if sample is None else reader.spread(sample):
        found.add(document)
        if progress is not None:
            progress(found.report.read, max(expected or 0, found.report.read) if expected else 0)
    report = found.finish()
    if not report.read:
        raise DataError(f"{reader.source}: has no document; check that its files are complete")
    exact = sample is None or report.read == total
    documents = report.read if exact else total
    return replace(report, source=reader.source, exact=exact, documents=documents, passed=reader.passed.json())


class _Found:
    """The findings so far."""

    def __init__(self, samples: int) -> None:
        self.report = Report("")
        self.ids: set[bytes] = set()
        self.lengths, self.widths, self.heights = Counter[int](), Counter[int](), Counter[int]()
        self.sizes, self.modes, self.formats = Counter[str](), Counter[str](), Counter[str]()
        self.sources, self.licenses = Counter[str](), Counter[str]()
        self.kept = _Every(samples)

    def add(self, document: Document | Unreadable) -> None:
        """Look at a document."""
        report, id = self.report, document.id
        report.read += 1
        digest = hashlib.blake2b(id.encode(errors="surrogatepass"), digest_size=8).digest()
        if digest in self.ids:
            self._problem("an id that was there before", id)
        self.ids.add(digest)
        if isinstance(document, Unreadable):
            self._problem(document.reason, id)
            return
        self.sources[document.source] += 1
        self.licenses[license_of(document)] += 1
        self._text(document)
        pictures = [self._picture(image, id) for image in document.images]
        report.pictures += len(pictures)
        report.with_picture += bool(pictures)
        if not document.parts:
            self._problem("neither text nor picture", id)
        elif all(pictures):
            self.kept.add(document)

    def finish(self) -> Report:
        """Return the findings."""
        return replace(
            self.report,
            captions=quantiles(self.lengths),
            widths=quantiles(self.widths),
            heights=quantiles(self.heights),
            sizes=dict(self.sizes.most_common(EXAMPLES)),
            modes=dict(self.modes.most_common()),
            formats=dict(self.formats.most_common()),
            sources=dict(self.sources.most_common()),
            licenses=dict(self.licenses.most_common()),
            problems=dict(sorted(self.report.problems.items(), key=lambda p: -p[1].count)),
            samples=self.kept.pick(),
        )

    def _text(self, document: Document) -> None:
        texts = [part.text for part in document.parts if isinstance(part, Text)]
        if not texts:
            return
        length = sum(map(len, texts))
        self.report.texts += len(texts)
        self.report.with_text += 1
        self.lengths[length] += 1
        if not document.text.strip():
            self._problem("an empty caption", document.id)
        if length > LONG:
            self._problem(f"a caption of more than {LONG} characters", document.id, f"{length} characters")

    def _picture(self, image: Image, id: str) -> bool:
        """Note a picture; returns whether it can be decoded."""
        pixels = image.pixels
        self.formats[getattr(pixels, "format", None) or "none"] += 1
        self.modes[pixels.mode] += 1
        self.widths[pixels.width] += 1
        self.heights[pixels.height] += 1
        self.sizes[f"{pixels.width}x{pixels.height}"] += 1
        try:
            rgb(pixels)
        except DataError as error:
            self._problem(str(error), id)
            return False
        return True

    def _problem(self, reason: str, id: str, example: str = "") -> None:
        kind = reason if example else " ".join(_PARTICULAR.sub("...", reason).split())
        problem = self.report.problems.setdefault(kind, Problem())
        problem.count += 1
        if len(problem.ids) < EXAMPLES:
            problem.ids.append(id)
        problem.example = problem.example or example or reason


class _Every:
    """Between `n` and 2 `n` of the documents that were added, evenly apart, however many come."""

    def __init__(self, n: int) -> None:
        self.n, self.step, self.seen = n, 1, 0
        self.kept: list[Document] = []

    def add(self, document: Document) -> None:
        """See one more document."""
        if self.n and self.seen % self.step == 0:
            self.kept.append(replace(document, parts=tuple(_small(part) for part in document.parts)))
            if len(self.kept) > 2 * self.n:
                self.kept, self.step = self.kept[::2], 2 * self.step
        self.seen += 1

    def pick(self) -> tuple[Document, ...]:
        """Return `n` of them, or all there are."""
        return tuple(self.kept[i] for i in even(len(self.kept), self.n))


def license_of(document: Document) -> str:
    """Return the licence that a document says it has, by its name where the dataset gives one; empty where it says
    none."""
    found = document.meta.get("license_name", document.meta.get("license"))
    return "" if found is None else str(found)


def quantiles(counts: Counter[int]) -> dict[str, int] | None:
    """Return least, median, 95th percentile and greatest of counted values; None of none. A quantile is one of the
    values."""
    total = counts.total()
    if not total:
        return None
    wanted = {"min": 0, "median": (total - 1) // 2, "p95": -(-95 * total // 100) - 1, "max": total - 1}
    ends = list(itertools.accumulate(counts[value] for value in sorted(counts)))
    ordered = sorted(counts)
    return {name: ordered[next(i for i, end in enumerate(ends) if rank < end)] for name, rank in wanted.items()}


def _small(part: Part) -> Part:
    """Return a picture scaled down to look at, so that some large ones do not fill the memory."""
    if not isinstance(part, Image):
        return part
    picture = rgb(part.pixels).copy()
    picture.thumbnail((SIDE, SIDE))
    return Image(picture)
