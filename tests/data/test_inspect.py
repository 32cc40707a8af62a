"""What is found in a dataset, and what is wrong with it: exact in full, spread in a sample, small in memory."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from cm3.data.inspect import SIDE, Report, inspect, quantiles
from cm3.document import Document, Unreadable
from cm3.errors import DataError
from cm3.picture import open_picture
from cm3.read.base import SPREAD, Reader, Records, Unit, even
from cm3.read.walk import Passed


def packed(width: int, height: int, mode: str = "RGB", format: str = "PNG") -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).convert(mode).save(buffer, format)
    return buffer.getvalue()


class Listed(Records):
    """A dataset of documents that a function makes, to know which of them were asked for."""

    kind, source = "listed", "listed/all"

    def __init__(self, documents: list[Document | str]) -> None:
        self.documents = documents
        self.asked: list[int] = []

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return False

    def __len__(self) -> int:
        return len(self.documents)

    def name(self, index: int) -> str:
        return f"name-{index}"

    def document(self, index: int) -> Document:
        self.asked.append(index)
        found = self.documents[index]
        if isinstance(found, str):
            raise DataError(found)
        return found


class Pieces(Reader):
    """A dataset in pieces that do not say how long they are, and whether each was closed."""

    kind = source = "pieces"

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.open, self.read_from = 0, list[str]()

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return False

    def units(self, size: int = 1000) -> list[Unit]:
        return [Unit(str(i)) for i in range(len(self.lengths))]

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        self.open += 1
        self.read_from.append(unit.name)
        try:
            for i in range(self.lengths[int(unit.name)]):
                yield Document.of(f"text {i}", id=f"{unit.name}/{i}", source="pieces")
        finally:
            self.open -= 1


def many(n: int) -> Listed:
    return Listed([Document.of("x" * i, id=str(i), source="listed/all") for i in range(1, n + 1)])


def test_everything_is_counted() -> None:
    shared = open_picture(packed(30, 20))
    documents: list[Document | str] = [
        Document.of("a dog", shared, id="1", source="s/a", license="CC0-1.0"),
        Document.of("a dog on a beach", shared, id="2", source="s/a", license="CC0-1.0"),
        Document.of("one", open_picture(packed(8, 40, "L", "JPEG")), "two", id="3", source="s/b", license=4),
        Document.of("words alone", id="4", source="s/b"),
        Document.of(open_picture(packed(30, 20, "CMYK", "JPEG")), id="5", source="s/b"),
    ]
    calls: list[tuple[int, int]] = []
    report = inspect(Listed(documents), None, progress=lambda done, total: calls.append((done, total)))
    assert report.exact and report.documents == report.read == 5
    assert (report.with_text, report.texts, report.with_picture, report.pictures) == (4, 5, 4, 4)
    assert report.captions == {"min": 5, "median": 6, "p95": 16, "max": 16}
    assert report.widths == {"min": 8, "median": 30, "p95": 30, "max": 30}
    assert report.heights == {"min": 20, "median": 20, "p95": 40, "max": 40}
    assert report.sizes == {"30x20": 3, "8x40": 1}
    assert report.modes == {"RGB": 2, "L": 1, "CMYK": 1} and report.formats == {"PNG": 2, "JPEG": 2}
    assert report.sources == {"s/b": 3, "s/a": 2} and report.licenses == {"CC0-1.0": 2, "": 2, "4": 1}
    assert report.problems == {} and report.source == "listed/all"
    assert calls == [(i, 5) for i in range(1, 6)]


def test_what_is_wrong_is_grouped_by_reason_with_ids() -> None:
    cut = packed(64, 64, format="JPEG")
    documents: list[Document | str] = [
        f"{i:012}.jpg: no such file beside the annotations that name it" for i in range(9)
    ]
    documents += ["cat.jpg: no such file beside the annotations that name it", "line 7: 'caption' is None"]
    documents += [Document.of("x", open_picture(cut[: len(cut) // 2]), id="cut", source="s")]
    documents += [Document.of("x" * n, id=f"long-{n}", source="s") for n in (10_000, 10_001)]
    documents += [Document.of("  ", id="blank", source="s"), Document((), id="nothing", source="s")]
    documents += [Document.of("again", id="blank", source="s")]
    report = inspect(Listed(documents), None)
    told = {reason: (problem.count, problem.ids) for reason, problem in report.problems.items()}
    (cut_short,) = [reason for reason in told if "cannot be read" in reason]
    assert told.pop(cut_short) == (1, ["cut"])
    assert told == {
        "...: no such file beside the annotations that name it": (10, [f"name-{i}" for i in range(5)]),
        "line ...: ... is None": (1, ["name-10"]),
        "a caption of more than 10000 characters": (1, ["long-10001"]),
        "an empty caption": (1, ["blank"]),
        "neither text nor picture": (1, ["nothing"]),
        "an id that was there before": (1, ["blank"]),
    }
    assert next(iter(report.problems)).startswith("...: no such file"), "the commonest first"
    assert next(iter(report.problems.values())).example.startswith("000000000000.jpg: no such file")
    assert report.read == len(documents) and not {"cut", "nothing"} & {d.id for d in report.samples}


@pytest.mark.parametrize("n", [1, 2, 7, 50, 99, 100, 101, 10**6])
def test_a_sample_is_spread_over_records(n: int) -> None:
    reader = many(100)
    report = inspect(reader, n)
    assert report.read == len(reader.asked) == min(n, 100) and report.documents == 100
    assert reader.asked == sorted(set(reader.asked)) and reader.asked[0] == 0
    assert report.exact == (n >= 100)
    if n > 1:
        gaps = np.diff(reader.asked)
        assert reader.asked[-1] == 99 and gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("pieces", [1, 3, SPREAD + 5])
def test_a_sample_is_spread_over_pieces_and_closes_them(pieces: int) -> None:
    reader = Pieces([100] * pieces)
    report = inspect(reader, 60)
    assert report.read == 60 and report.documents is None and not report.exact
    assert len(reader.read_from) == min(pieces, SPREAD) and reader.open == 0
    assert reader.read_from[-1] == str(pieces - 1)
    assert inspect(reader, None).documents == 100 * pieces
    assert len(list(Pieces([1, 5, 1]).spread(30))) == 7


@pytest.mark.parametrize("sample", [None, 30])
def test_samples_are_spread_and_small(sample: int | None) -> None:
    assert [d.id for d in inspect(many(1), sample).samples] == ["1"]
    ids = [int(d.id) for d in inspect(many(1000), sample, samples=6).samples]
    assert len(ids) == 6 and ids[0] == 1 and ids[-1] > 800 and np.diff(ids).max() < 300
    assert inspect(many(10), sample, samples=0).samples == ()
    large = open_picture(packed(1200, 300, "L"))
    (document,) = inspect(Listed([Document.of(large, id="1")]), sample).samples
    assert document.images[0].pixels.size == (SIDE, SIDE // 4) and document.images[0].pixels.mode == "RGB"


def test_the_report_is_json() -> None:
    report = inspect(Listed([Document.of("x", open_picture(packed(4, 4)), id="1"), "broken 1"]), None)
    values = json.loads(json.dumps(report.json()))
    assert values["problems"] == {"broken ...": {"count": 1, "ids": ["name-1"], "example": "broken 1"}}
    assert "samples" not in values and report.samples
    assert values.keys() == vars(Report("")).keys() - {"samples"}


def test_quantiles_are_those_of_the_sorted_values() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 19, 20, 21, 1000):
        values = rng.integers(0, 50, n).tolist()
        ordered = sorted(values)
        found = quantiles(Counter(values))
        assert found is not None
        assert (found["min"], found["max"]) == (ordered[0], ordered[-1])
        assert found["median"] == np.quantile(values, 0.5, method="lower")
        assert found["p95"] == np.quantile(values, 0.95, method="inverted_cdf")
    assert quantiles(Counter()) is None


def test_even() -> None:
    assert even(10, 1) == [0] and even(3, 5) == [0, 1, 2] and even(10, 4) == [0, 3, 6, 9] and even(0, 3) == []


@pytest.mark.parametrize("sample", [None, 5])
def test_no_documents_are_refused(sample: int | None) -> None:
    with pytest.raises(DataError, match="listed/all: has no document; check that its files are complete"):
        inspect(Listed([]), sample)
    with pytest.raises(DataError, match="pieces: has no document"):
        inspect(Pieces([]), sample)


def test_what_the_reader_passed_over_is_told() -> None:
    class Passing(Listed):
        @property
        def passed(self) -> Passed:
            found = Passed()
            found.add("hidden", ".x", 3)
            return found

    report = inspect(Passing([Document.of("x", id="1")]), None)
    assert report.passed == report.json()["passed"] == {"hidden": {"count": 3, "names": [".x"]}}
    assert inspect(Listed([Document.of("x", id="1")]), None).passed == {}
