"""Web shards as img2dataset writes them: 00000.tar of 000000000.jpg, .txt, .json; whole, damaged, and from far away."""

from __future__ import annotations

import functools
import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tar_parts import jpg, one, pack, record, sample

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.read import webdataset as tars
from cm3.read.base import Unit
from cm3.read.find import open_reader
from cm3.read.webdataset import WebDataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three shards of two samples, and what img2dataset leaves beside."""
    root = tmp_path / "shards"
    root.mkdir()
    for shard in range(3):
        keys = [f"{shard:05d}{i:04d}" for i in range(2)]
        (root / f"{shard:05d}.tar").write_bytes(pack(*(sample(key, f"boat {key}") for key in keys)))
        (root / f"{shard:05d}_stats.json").write_text("{}")
        (root / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return root


def ids(reader: WebDataset) -> list[str]:
    return [document.id for document in reader if isinstance(document, Document)]


ALL = [f"{shard:05d}/{shard:05d}{i:04d}" for shard in range(3) for i in range(2)]


def test_a_folder_of_shards(root: Path) -> None:
    reader = WebDataset(root)
    assert reader.units() == [Unit("00000"), Unit("00001"), Unit("00002")]
    read = [d for unit in reader.units() for d in reader.read(unit)]
    assert [d.id for d in read] == ALL == ids(reader) == ids(reader)
    first = read[0]
    assert isinstance(first, Document) and [type(p) for p in first.parts] == [Text, Image]
    assert (first.text, first.source) == ("boat 000000000", "webdataset")
    assert first.images[0].pixels.size == (8, 6)
    assert first.meta == {
        "key": "000000000", "url": "http://example.org/000000000.jpg", "width": 8, "height": 6, "original_width": 80,
        "original_height": 60, "sha256": "ab12",
    }  # fmt: skip
    assert WebDataset.recognises(root) and WebDataset.recognises(root / "00000.tar") and not WebDataset.splits(root)
    assert not WebDataset.recognises(root.parent) and not WebDataset.recognises(root / "00000.parquet")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("{00000..00002}.tar", ALL),
        ("0000{1..2}.tar", ALL[2:]),
        ("{00000,00002}.tar", ALL[:2] + ALL[4:]),
        ("{00,}00{000..2}.tar", None),
        ("0000{0,1}.{tar,tar}", None),
    ],
)
def test_patterns(root: Path, pattern: str, found: list[str] | None) -> None:
    source = f"webdataset:{root}/{pattern}"
    if found is None:
        with pytest.raises(DataError, match="no such tar; check the path and the pattern|comes twice in"):
            open_reader(source)
    else:
        assert [d.id for d in open_reader(source)] == found


def test_lists_and_names_that_are_alike(root: Path) -> None:
    (root / "more").mkdir()
    (root / "more" / "00000.tar").write_bytes(pack(sample("x")))
    reader = WebDataset(f"{root}/more::{root}/00000.tar")
    assert ids(reader) == ["more/00000/x", "00000/000000000", "00000/000000001"]
    with pytest.raises(DataError, match="00000.tar': comes twice in .*; give each tar once"):
        WebDataset(f"{root}::{root}/00000.tar")


def test_digits_are_those_of_the_longer_end(root: Path) -> None:
    for i in (8, 9, 10):
        (root / f"s{i:02d}.tar").write_bytes(pack(sample("x")))
        (root / f"t{i}.tar").write_bytes(pack(sample("x")))
    for pattern, names in (("s{08..10}", ["s08", "s09", "s10"]), ("t{8..10}", ["t8", "t9", "t10"])):
        assert [unit.name for unit in WebDataset(f"{root}/{pattern}.tar").units()] == names
    with pytest.raises(DataError, match=r"\{10\.\.8\} counts down; write the smaller number first"):
        WebDataset(f"{root}/t{{10..8}}.tar")


def test_shards_from_elsewhere(root: Path) -> None:
    import fsspec

    with fsspec.open("memory://web/00001.tar", "wb") as file:
        file.write((root / "00001.tar").read_bytes())
    far = f"memory://web/{{00001..00001}}.tar::file://{root}/00002.tar"
    assert [d.id for d in open_reader(f"webdataset:{far}")] == ALL[2:]
    assert [d.id for d in open_reader(f"file://{root}/{{00000..00002}}.tar")] == ALL, "a URL needs no kind"
    assert list(WebDataset(f"file://{root}/00000.tar")) == list(WebDataset(root / "00000.tar"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files; of what is asked for as cut/ it sends the first two thirds and hangs up, as slow/ and waits."""

    def log_message(self, format: str, *args: Any) -> None:
        """Not on stderr."""

    def do_GET(self) -> None:
        how, _, name = self.path[1:].rpartition("/")
        if how not in ("cut", "slow"):
            return super().do_GET()
        data = (Path(self.directory) / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) * 2 // 3])
        self.wfile.flush()
        if how == "slow":
            time.sleep(0.6)


@pytest.fixture
def host(root: Path) -> Iterator[str]:
    """The shards on a server of this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_shards_over_http(host: str) -> None:
    reader = open_reader(f"{host}/{{00000..00002}}.tar?token=x.y/z")
    assert [unit.name for unit in reader.units()] == ["00000", "00001", "00002"]
    assert [d.id for d in reader] == ALL
    with pytest.raises(DataError, match=r"00007.tar': cannot be opened \(HTTP Error 404: .*; check the path"):
        list(WebDataset(f"{host}/00007.tar"))


@pytest.mark.parametrize("how", ["cut", "slow"])
def test_a_server_that_stops_is_not_taken_for_a_damaged_tar(
    root: Path, host: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "TIMEOUT", 0.3)
    (root / "long.tar").write_bytes(pack(*(sample(str(i)) for i in range(9))))
    with pytest.raises(DataError, match=r"long.tar': reading stopped after \d documents \(.*\); try again"):
        list(WebDataset(f"{host}/{how}/long.tar"))
    spoilt = (root / "long.tar").read_bytes()
    (root / "long.tar").write_bytes(spoilt[:1000] + b"x" * 1000 + spoilt[2000:])
    assert isinstance(list(WebDataset(f"{host}/long.tar"))[-1], Unreadable), "that is one"


@pytest.mark.parametrize("url", ["nosuch://host/a.tar", "memory://gone/a.tar", "http://127.0.0.1:1/a.tar"])
def test_what_cannot_be_opened_is_named(url: str) -> None:
    with pytest.raises(DataError, match=f"{url}': cannot be opened .*; check the path, or fetch it again"):
        list(WebDataset(url))


def test_a_protocol_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match="s3://bucket/a.tar': needs a package that is not installed; Install s3fs"):
        list(WebDataset("s3://bucket/a.tar"))


def test_what_goes_together(tmp_path: Path) -> None:
    read = one(
        tmp_path / "x.tar",
        [("dir/a.JPG", jpg()), ("dir/a.cls", b"3"), ("dir/a.txt", b"\xef\xbb\xbf capital \n")],
        {"other/a.png": jpg("blue"), "other/a.seg.png": b"no picture", "other/a.txt": b"named png, but a JPEG"},
        {"only.webp": jpg()},
        {"words.txt": b"words alone"},
        {"empty.txt": b""},
        {"told.jpg": jpg(), "told.json": record("told", " in the json ")},
        {"both.jpg": jpg(), "both.txt": b"short", "both.json": record("both", "the alt text", license="CC-BY")},
        {"__index__.json": b"{}", ".hidden": b"x", "noextension": b"x"},
        {"v1.5.jpg": jpg("green"), "v1.5.txt": b"a key ends at its first dot"},
    )
    documents = [d for d in read if isinstance(d, Document)]
    assert [(d.id, d.text, len(d.images)) for d in documents] == [
        ("x/dir/a", "capital", 1),
        ("x/other/a", "named png, but a JPEG", 1),
        ("x/only", "", 1),
        ("x/words", "words alone", 0),
        ("x/empty", "", 0),
        ("x/told", "in the json", 1),
        ("x/both", "short", 1),
    ]
    assert documents[1].images[0].pixels.format == "JPEG" and documents[0].meta == {"key": "dir/a"}
    assert documents[6].meta["caption"] == "the alt text" and documents[6].meta["license"] == "CC-BY"
    assert "caption" not in documents[5].meta
    assert read[-1] == Unreadable("x/v1", "has neither picture nor words, only 5.jpg, 5.txt")


def test_what_of_the_json_is_kept(tmp_path: Path) -> None:
    more = {
        "similarity": 0.31, "NSFW": "UNLIKELY", "LICENSE": "?", "uid": "f00", "flag": True, "none": None,
        "nan": float("nan"), "long": "x" * 3000, "list": [1], "exif": "{}", "status": "success",
    }  # fmt: skip
    (document,) = one(tmp_path / "x.tar", sample("a", **more))
    assert isinstance(document, Document)
    meta = {n: v for n, v in document.meta.items() if n not in json.loads(record("a", "")) or n == "status"}
    assert meta == {"similarity": 0.31, "NSFW": "UNLIKELY", "license": "?", "uid": "f00", "flag": True, "list": [1]}
    json.dumps(dict(document.meta), allow_nan=False)


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"a.txt": b"caf\xe9"}, "its caption: is not UTF-8 at byte 3; save it again"),
        ({"a.jpg": b""}, "picture of 0 bytes: is empty; save it again"),
        ({"a.jpg": b"<html>"}, "picture of 6 bytes: not a picture; give a PNG, JPEG or WebP file"),
        ({"a.json": b"{"}, "its .json: is not readable JSON (Expecting property name"),
        ({"a.json": b"caf\xe9"}, "its .json: is not readable JSON ("),
        (
            {"a.json": b'{"simhash": 1' + b"0" * 400 + b"}"},
            "its .json: is not readable JSON (a whole number of 401 digits",
        ),
        ({"a.json": b"[" * 100_000}, "its .json: is nested too deep to be read; flatten it"),
        ({"a.json": b'{"url": "\\ud800"}'}, "its .json has a lone surrogate U+D800"),
        (
            {"a.json": record("a", "", status="failed_to_download")},
            "its status is 'failed_to_download', not 'success': the picture was never fetched",
        ),
    ],
)
def test_a_sample_that_is_wrong_stands_in_its_place(tmp_path: Path, spoilt: dict[str, bytes], reason: str) -> None:
    before, bad, after = one(tmp_path / "x.tar", sample("0"), {**sample("a"), **spoilt}, sample("b"))
    assert isinstance(before, Document) and isinstance(after, Document)
    assert isinstance(bad, Unreadable) and bad.id == "x/a" and reason in bad.reason


def test_of_two_samples_of_one_key_the_first_is_kept(tmp_path: Path) -> None:
    twice = [*sample("a", "first").items(), *sample("a", "second").items()]
    read = one(tmp_path / "x.tar", twice, sample("b"), {"a.jpg": jpg(), "a.txt": b"third"})
    assert [d.id for d in read] == ["x/a", "x/a", "x/b", "x/a"]
    assert [d.text for d in read if isinstance(d, Document)] == ["first", "A boat"]
    assert read[1] == read[3] == Unreadable("x/a", "its key comes twice in the tar; the first sample is kept")


def test_captions_of_any_length_are_passed_on(tmp_path: Path) -> None:
    first, second = one(tmp_path / "x.tar", sample("a", ""), sample("b", "x" * 100_000))
    assert isinstance(first, Document) and isinstance(second, Document)
    assert (first.text, len(first.images), len(second.text)) == ("", 1, 100_000)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2"])
def test_a_tar_may_be_packed(tmp_path: Path, mode: str) -> None:
    (tmp_path / "x.tar.gz").write_bytes(pack(sample("a"), mode=mode))
    assert ids(WebDataset(tmp_path)) == ["x/a"]


def test_a_cut_tar_gives_what_is_whole(tmp_path: Path) -> None:
    data, path = pack(*(sample(str(i)) for i in range(4))), tmp_path / "x.tar"
    path.write_bytes(data)
    whole = list(WebDataset(path))
    counts = []
    for cut in range(0, len(data.rstrip(b"\0")) + 512, 256):
        path.write_bytes(data[:cut])
        *read, last = WebDataset(path)
        assert read == whole[: len(read)], "nothing that is half a document"
        assert isinstance(last, Unreadable) and last.id == "x"
        assert f"x.tar: is damaged or cut short after {len(read)} documents (" in last.reason
        assert last.reason.endswith("; fetch it again")
        counts.append(len(read))
    assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3, 4}, "the last whole sample too"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_damage_anywhere_is_no_crash(tmp_path: Path, mode: str) -> None:
    data, rng = pack(*(sample(str(i)) for i in range(3)), mode=mode), np.random.default_rng(0)
    for _ in range(150):
        spoilt = np.frombuffer(data, np.uint8).copy()
        spoilt[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        (tmp_path / "x.tar").write_bytes(spoilt.tobytes())
        assert all(isinstance(d, Document | Unreadable) for d in WebDataset(tmp_path / "x.tar"))


def test_names_that_are_not_utf8_have_an_id_all_the_same(tmp_path: Path) -> None:
    (document,) = one(tmp_path / "x.tar", {"caf\udce9.txt": b"strange name"})
    assert isinstance(document, Document) and document.id == "x/caf\\xe9" and document.meta == {"key": "caf\\xe9"}


def test_what_is_no_set_of_shards_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="00009.tar': no such tar; check the path and the pattern, or fetch it again"):
        WebDataset(f"{root}/{{00009,00000}}.tar")
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="empty': holds no .tar; give the folder that holds the shards"):
        WebDataset(root / "empty")
    with pytest.raises(DataError, match="web shards have no splits; leave @val away"):
        open_reader(f"webdataset:{root}@val")
