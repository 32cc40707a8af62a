"""Places of the records of a large annotations file: what the whole file says, found once, told if damaged."""

from __future__ import annotations

import json
import multiprocessing
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from cm3.errors import DataError
from cm3.read import places
from cm3.read.places import LISTS, NONE, Places, key_of


def drawn(rng: random.Random, n: int) -> dict[str, Any]:
    """A file with all that JSON has, between the lists and in the records."""
    words = ["", "na\u00efve \u65e5\u672c \U0001f600", 'a "quote" \\ [{', "\u2028", "x" * 300]
    ids = [*range(n), *(f"t{i}\u00e9" for i in range(n // 4))]

    def record() -> dict[str, Any]:
        made = {"id": rng.choice(ids), "image_id": rng.choice(ids), "caption": rng.choice(words), "d": {"id": [1, {}]}}
        return made | {"bbox": [rng.uniform(-1e9, 1e9), -0.0, 1e-30, rng.randint(-9, 9)], "e": [[], None, True]}

    return {
        "info": {"images": [1, 2], "year": 2017.5}, "images": [record() for _ in range(n)], "version": 1.0,
        "floats": [0.5, 1e5, -3, 7], "annotations": [record() for _ in range(2 * n)], "none": None,
        "licenses": [record()], "categories": [],
    }  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 7, 64, 5000])
@pytest.mark.parametrize(("ascii", "indent"), [(True, None), (False, None), (False, 1)])
def test_records_are_those_of_the_whole_file(
    tmp_path: Path, chunk: int, ascii: bool, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "CHUNK", chunk)
    content = drawn(random.Random(chunk), 12)
    path = tmp_path / "a.json"
    path.write_bytes(
        ("\ufeff" if indent else "").encode() + json.dumps(content, ensure_ascii=ascii, indent=indent).encode()
    )
    found = Places(path)
    for name in LISTS:
        rows = found.rows(name)
        assert sorted(found.number(row) for row in rows) == list(range(len(content[name])))
        for row in rows:
            assert found.record(row) == content[name][found.number(row)]
            assert found.where(row) == f"a.json, {name} record {found.number(row)}"
    for image in {record["image_id"] for record in content["annotations"]}:
        of = [found.record(row) for row in found.find("annotations", image)]
        assert sorted(map(repr, of)) == sorted(repr(r) for r in content["annotations"] if r["image_id"] == image)
    assert not found.find("annotations", 999) and not found.find("annotations", None)
    assert found.keys("annotations").tolist() == sorted(key_of(r["image_id"]) for r in content["annotations"])


def test_keys_of_ids() -> None:
    sound = [0, -1, 7, 10**15, "7", "a", "\u00e9"]
    assert len({key_of(id) for id in sound}) == len(sound) and NONE not in map(key_of, sound)
    assert [key_of(id) for id in (0, -1, 7)] == [0, -1, 7]
    none: list[Any] = [None, True, 1.0, "", [], {}, 2**62, -(2**62), float("nan")]
    assert set(map(key_of, none)) == {NONE}


def test_a_record_that_is_longer_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CHUNK", 16)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"annotations": [{"id": 1, "image_id": 2, "caption": "x" * 5000}]}))
    (row,) = Places(path).rows("annotations")
    assert len(Places(path).record(row)["caption"]) == 5000
    monkeypatch.setattr(places, "LONGEST", 1000)
    with pytest.raises(
        DataError, match=r"a.json': is not JSON \(Unterminated string .* at byte 17 of 50..\); download"
    ):
        Places(path)


def test_a_file_is_never_in_memory_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CHUNK", 1 << 16)
    path = tmp_path / "a.json"
    outline = [[i + 0.25 for i in range(200)]]
    made = [{"id": i, "image_id": i // 7, "segmentation": outline, "category_id": 1} for i in range(2000)]
    path.write_text(json.dumps({"annotations": made, "images": []}))
    tracemalloc.start()
    try:
        found = Places(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.rows("annotations")) == 2000 and path.stat().st_size > 2_000_000
    assert peak < path.stat().st_size / 2, "parsed it takes five times its size"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose places are kept, and where."""
    monkeypatch.setattr(places, "SMALL", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "a.json"
    path.write_text(json.dumps(drawn(random.Random(0), 20)))
    return path


def kept(path: Path) -> list[Path]:
    return sorted((path.parent / "cache" / "cm3").glob("*.npy"))


def content(found: Places) -> list[dict[str, Any]]:
    return [found.record(row) for name in LISTS for row in found.rows(name)]


def test_places_are_found_once_for_all(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = content(Places(cached))
    (table,) = kept(cached)
    with monkeypatch.context() as m:
        m.setattr(places, "_found", lambda path: pytest.fail("it was read again"))
        assert content(Places(cached)) == first
        (cached.parent / "b.json").write_bytes(cached.read_bytes())
        assert content(Places(cached.parent / "b.json")) == first, "whatever the file is called"
    for damage in (b"", table.read_bytes()[:100], b"no table"):
        table.write_bytes(damage)
        assert content(Places(cached)) == first and len(table.read_bytes()) > 100, "made again"
    cached.write_text(json.dumps(drawn(random.Random(1), 20)))
    assert content(Places(cached)) != first and len(kept(cached)) == 2


def test_where_nothing_can_be_kept(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cached.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cached.parent / "file"))
    assert content(Places(cached)) and not kept(cached)


def _count(path: str, cache: str, out: Any) -> None:
    import os

    os.environ["XDG_CACHE_HOME"] = cache
    found = places._found
    reads = []
    places.SMALL = 0
    places._found = lambda path: (reads.append(1), found(path))[1]  # type: ignore[func-returns-value]
    out.put((len(Places(Path(path)).rows("annotations")), len(reads)))


def test_of_several_processes_at_once_one_reads(cached: Path) -> None:
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    some = [context.Process(target=_count, args=(str(cached), str(cached.parent / "cache"), out)) for _ in range(4)]
    for process in some:
        process.start()
    told = [out.get(timeout=60) for _ in some]
    for process in some:
        process.join()
    assert [n for n, _ in told] == [40] * 4 and sum(reads for _, reads in told) == 1


def test_a_file_that_changes_is_told(cached: Path) -> None:
    found = Places(cached)
    cached.write_text("{}")
    with pytest.raises(DataError, match="a.json': was changed while it was in use; start again"):
        found.record(0)
    cached.unlink()
    with pytest.raises(DataError, match=r"a.json': cannot be read \(.*No such file.*\); check the file"):
        found.record(0)
    with pytest.raises(DataError, match=r"a.json': cannot be read \(.*No such file.*\); check the file"):
        Places(cached)
