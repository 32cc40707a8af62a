"""Common Crawl's own files and parquet as texts: entered anywhere, damage told, the sample drawn by the seed."""

from __future__ import annotations

import gzip
import io
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from forks import python

from cm3.data import text_stream
from cm3.data.text_stream import TextStream
from cm3.errors import DataError

PAGES = [f"page {i}\n" + "na\u00efve \u4e2d\u6587 text " * (i % 7) + f"{i * i}\n" for i in range(120)]


def record(kind: str, body: bytes, type: str = "text/plain", **more: str) -> bytes:
    """A record of WARC as Common Crawl writes it."""
    head = {"WARC-Type": kind, "WARC-Target-URI": "https://example.org/", **more, "Content-Type": type}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"WARC/1.0\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


INFO = record("warcinfo", b"Software-Info: ia-web-commons\r\n", "application/warc-fields")


def members(pages: Sequence[str] = PAGES) -> list[bytes]:
    """The file's packed records, the first of which is about the file."""
    return [gzip.compress(one) for one in (INFO, *(record("conversion", page.encode()) for page in pages))]


def wet(path: Path, packed: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(packed))
    return path


@pytest.fixture(params=[97, 1000, 1 << 23])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of this many bytes, most of which begin inside a record."""
    monkeypatch.setattr(text_stream, "PIECE", request.param)
    return request.param


def test_every_page_comes_once_and_whole(tmp_path: Path, piece: int) -> None:
    pytest.importorskip("warcio")
    stream = TextStream([wet(tmp_path / "a.warc.wet.gz", members())])
    for _ in range(2):
        assert list(stream) == PAGES and stream.whole and not stream.skipped
    shuffled = TextStream([tmp_path], limit=10**9, seed=1)
    assert sorted(shuffled) == sorted(PAGES) and shuffled.whole


@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")  # of its own
def test_a_file_that_the_library_wrote(tmp_path: Path, piece: int) -> None:
    writer_of = pytest.importorskip("warcio.warcwriter")
    with (tmp_path / "a.warc.wet.gz").open("wb") as file:
        writer = writer_of.WARCWriter(file, gzip=True)
        writer.write_record(writer.create_warcinfo_record("a.warc.wet.gz", {"software": "x"}))
        for i, page in enumerate(PAGES):
            body = io.BytesIO(page.encode())
            writer.write_record(
                writer.create_warc_record(f"http://a/{i}", "conversion", body, warc_content_type="text/plain")
            )
    stream = TextStream([tmp_path])
    assert list(stream) == PAGES and not stream.skipped


def test_the_sample_follows_from_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed reads the same sample anew: nothing is kept of it."""
    pytest.importorskip("warcio")
    monkeypatch.setattr(text_stream, "PIECE", 1000)
    for name, pages in (("a", PAGES[:60]), ("b", PAGES[60:])):
        wet(tmp_path / f"{name}.warc.wet.gz", members(pages))
    taken = [list(TextStream([tmp_path], limit=3000, seed=seed)) for seed in (0, 1)]
    assert taken[0] != taken[1] and all(set(texts) < set(PAGES) for texts in taken)
    numbers = [PAGES.index(text) for text in taken[0]]
    assert min(numbers) < 60 <= max(numbers), "of both files"
    broken = iter(TextStream([tmp_path], limit=3000, seed=0))
    list(itertools.islice(broken, 3))
    del broken
    code = (
        "import sys; from cm3.data import text_stream; text_stream.PIECE = 1000; "
        "print(ascii(list(text_stream.TextStream([sys.argv[1]], limit=3000, seed=0))))"
    )
    again = python("-c", code, tmp_path, timeout=120)
    assert again.stdout == f"{taken[0]!a}\n", again.stderr


def flipped(data: bytes) -> bytes:
    """A packed record whose sum at the end is another."""
    return data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]


def test_damaged_records_are_told_and_left_out(tmp_path: Path, piece: int) -> None:
    pytest.importorskip("warcio")
    packed = members()
    lost = {3: flipped(packed[3]), 40: packed[40][:20], 41: b"\0" * 500, 90: packed[90][: len(packed[90]) // 2]}
    stream = TextStream([wet(tmp_path / "a.warc.wet.gz", [lost.get(i, one) for i, one in enumerate(packed)])])
    assert list(stream) == [page for i, page in enumerate(PAGES, 1) if i not in lost]
    assert list(stream.skipped) == ["a record of a.warc.wet.gz that is damaged; download it again"]
    assert 3 <= stream.skipped.total() <= 4, "what lies side by side may be told once"


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_file_that_is_cut_short_is_one_line(tmp_path: Path, piece: int, cut: int) -> None:
    pytest.importorskip("warcio")
    path = wet(tmp_path / "a.warc.wet.gz", members())
    path.write_bytes(path.read_bytes()[:-cut])
    stream = TextStream([path])
    assert list(stream) == PAGES[:-1]
    assert stream.skipped == {"the end of a.warc.wet.gz, which is cut short; download it again": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no header\r\n\r\n", "that has no header of WARC; download it again"),
        (record("conversion", b"x" * 50)[:-30], "that is not as its header says; download it again"),
        (record("conversion", b"x")[:-4] + b"more", "that is not as its header says; download it again"),
        (
            record("conversion", b"x").replace(b"Length: 1", b"Length: -1"),
            "that is not as its header says; download it again",
        ),
        (record("conversion", b"\xff"), "that is not UTF-8"),
        (
            record("conversion", b"x", **{"WARC-Block-Digest": "sha1:" + "A" * 32}),
            "that is not as its header says; download it again",
        ),
        (record("conversion", b"x" * 6000), "that has more than 5000 bytes; pack each record by itself"),
    ],
)
def test_records_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], data: bytes, reason: str
) -> None:
    pytest.importorskip("warcio")
    monkeypatch.setattr(text_stream, "RECORD", 5000)
    path = wet(tmp_path / "a.warc.wet.gz", [*members(PAGES[:2]), gzip.compress(data), *members(PAGES[2:4])])
    stream = TextStream([path])
    assert list(stream) == PAGES[:4]
    (told,) = stream.skipped
    assert told.startswith(f"a record of a.warc.wet.gz {reason}")
    assert capfd.readouterr() == ("", ""), "the library may not print either"


def test_only_pages_as_plain_text_are_taken(tmp_path: Path) -> None:
    pytest.importorskip("warcio")
    others = [
        record("response", b"HTTP/1.1 200 OK\r\n\r\nhello", "application/http"),
        record("conversion", b"{}", "a/b"),
    ]
    right = record("conversion", b"taken", "text/plain; charset=utf-8")
    stream = TextStream([wet(tmp_path / "a.warc.wet.gz", map(gzip.compress, (INFO, *others, right)))])
    assert list(stream) == ["taken"] and stream.skipped == {"a WARC record that is no page as plain text": 2}
    whole = wet(tmp_path / "a.warc.wet.gz", [gzip.compress(INFO + right * 3)])
    assert list(TextStream([whole])) == ["taken"] * 3, "also where several records are packed together"


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "warcio", None)
    with pytest.raises(DataError, match=r"a.warc.wet.gz': needs the library 'warcio'; pip install warcio"):
        TextStream([wet(tmp_path / "a.warc.wet.gz", members())])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"a.parquet': needs the library 'pyarrow'; pip install pyarrow"):
        TextStream([tmp_path / "a.parquet"])


def rows_of(path: Path, columns: dict[str, list[object]], rows: int = 50) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return path


@pytest.mark.parametrize("held", [1, 32])
def test_every_row_comes_once(tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """In the hub's layout, in any order, however few files may be open."""
    monkeypatch.setattr(text_stream, "OPEN", held)
    monkeypatch.setattr(text_stream, "ROWS", 7)
    (tmp_path / "data").mkdir()
    for part, pages in enumerate((PAGES[:70], PAGES[70:])):
        rows_of(
            tmp_path / "data" / f"train-0000{part}-of-00002.parquet", {"url": ["u"] * len(pages), "text": pages}, 20
        )
    stream = TextStream([tmp_path])
    assert list(stream) == PAGES and stream.whole and not stream.skipped
    shuffled = TextStream([tmp_path], limit=10**9, seed=3)
    assert sorted(shuffled) == sorted(PAGES) and shuffled.whole
    one, two = (list(TextStream([tmp_path], limit=2000, seed=seed)) for seed in (0, 0))
    assert one == two and 0 < len(one) < 120


@pytest.mark.parametrize("held", [1, 3, 32])
def test_packed_lines_do_not_depend_on_how_many_files_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(text_stream, "PIECE", 60)
    paths = []
    for i in range(5):
        paths.append(tmp_path / f"{i}.txt.gz")
        noise = np.random.default_rng(i).integers(10**6, 10**7, 40)
        paths[-1].write_bytes(gzip.compress("".join(f"{i} {n}\n" for n in noise).encode()))
    everything = list(TextStream(paths, limit=10**6, seed=4))
    monkeypatch.setattr(text_stream, "OPEN", held)
    assert list(TextStream(paths, limit=10**6, seed=4)) == everything and len(set(everything)) == 200


def test_rows_by_other_names_and_without_a_text(tmp_path: Path) -> None:
    path = rows_of(tmp_path / "a.parquet", {"caption": ["a", None, "", "b"], "n": [1, 2, 3, 4]})
    stream = TextStream([path])
    assert list(stream) == ["a", "b"] and stream.skipped == {"a row without a text in UTF-8": 2}
    assert list(TextStream([rows_of(tmp_path / "b.parquet", {"captions": [["a", "b"], []]})])) == ["a", "b"]
    assert list(TextStream([rows_of(tmp_path / "c.parquet", {"caption": ["c"], "text": ["t"]})])) == ["t"]
    assert list(TextStream([rows_of(tmp_path / "d.parquet", {"text": ["t"] * 0})])) == []
    import pyarrow

    bad = pyarrow.Array.from_buffers(pyarrow.string(), 3, pyarrow.array([b"a", b"\xff", b"c"]).buffers())
    stream = TextStream([rows_of(tmp_path / "e.parquet", {"text": bad})])
    assert list(stream) == ["a", "c"] and stream.skipped == {"a row without a text in UTF-8": 1}


def test_parquet_that_is_refused(tmp_path: Path) -> None:
    path = rows_of(tmp_path / "a.parquet", {"label": [1], "url": ["x"]})
    with pytest.raises(DataError, match="a.parquet': has no column 'text' or 'caption' but label, url; rename one"):
        TextStream([path])
    whole = rows_of(tmp_path / "b.parquet", {"text": PAGES}).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="b.parquet': is damaged .*; download it again"):
        TextStream([tmp_path / "b.parquet"])
    (tmp_path / "b.parquet").write_bytes(whole[:4] + bytes(600) + whole[604:])
    with pytest.raises(DataError, match="b.parquet': is damaged .*; download it again"):
        list(TextStream([tmp_path / "b.parquet"]))
