"""A bank from a stranger: whatever its manifest, links and tables say, nothing outside its folder is touched."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hashing import Hashing, texts

from cm3.document import Document, Unreadable
from cm3.errors import CheckpointError, Cm3Error
from cm3.files import checksum
from cm3.retrieval import manifest
from cm3.retrieval.embed import embed
from cm3.retrieval.memory import Memory

SEGMENT = "segment-0001"


def documents() -> list[Document]:
    return [Document.of(f"{c} field", PIL.Image.new("RGB", (8, 6), c), id=c) for c in ("red", "green", "blue")]


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    made = Memory.build(tmp_path / "bank", documents(), Hashing())
    made.delete(["blue"])
    return made.folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("mine")
    return folder


def state(folder: Path) -> dict[str, bytes | str]:
    return {str(p): p.read_bytes() if p.is_file() else "folder" for p in sorted(folder.rglob("*"))}


def written(bank: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as a stranger would, sum and all."""
    page = json.loads((bank / manifest.NAME).read_text())
    page.pop("sha256")
    change(page)
    (bank / manifest.NAME).write_text(json.dumps({**page, "sha256": checksum(page)}))


def use(bank: Path) -> None:
    """Everything that reads or writes a bank."""
    memory = Memory.open(bank)
    memory.search(embed(Hashing(), [Document.of("red field")]).vectors, 2)
    assert [memory[id].images[0].pixels.size for id in memory]
    memory.add(texts(3), Hashing())
    memory.delete(["red"])
    Memory.merge([bank], bank.parent / "merged")


def entry(page: dict[str, Any]) -> dict[str, Any]:
    return page["segments"][0]


NAMES = [
    "../outside",
    "/etc",
    "segment-0001/../../outside",
    "",
    ".",
    "segment-1",
    "segment-00001",
    "a/b",
    "segment-0001\n",
]
CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"name {name!r}": lambda p, name=name: entry(p).update(name=name) for name in NAMES},
    **{
        f"gone {name!r}": lambda p, name=name: entry(p)["gone"].update(file=name)
        for name in ("../../outside/file", "/etc/passwd", "draft.json", "vectors.f32", "gone-1.npy", "")
    },
    "file above": lambda p: entry(p)["files"].update({"../../outside/file": {"bytes": 4, "sha256": "0" * 64}}),
    "file unknown": lambda p: entry(p)["files"].update({"more.bin": {"bytes": 4, "sha256": "0" * 64}}),
    "no files": lambda p: entry(p).update(files={}),
    "files a list": lambda p: entry(p).update(files=["vectors.f32"]),
    "no facts": lambda p: entry(p)["files"].update({"vectors.f32": None}),
    "bytes text": lambda p: entry(p)["files"]["vectors.f32"].update(bytes="192"),
    "bytes negative": lambda p: entry(p)["files"]["documents.sqlite"].update(bytes=-1),
    "sum short": lambda p: entry(p)["files"]["vectors.f32"].update(sha256="00"),
    "rows huge": lambda p: entry(p).update(rows=10**30),
    "rows none": lambda p: entry(p).update(rows=0),
    "rows true": lambda p: entry(p).update(rows=True),
    "rows text": lambda p: entry(p).update(rows="3"),
    "rows other": lambda p: entry(p).update(rows=2),
    "rows float": lambda p: entry(p).update(rows=3.0),
    "width huge": lambda p: p.update(width=10**12),
    "width zero": lambda p: p.update(width=0),
    "width text": lambda p: p.update(width="16"),
    "width other": lambda p: p.update(width=8),
    "dtype": lambda p: p.update(dtype="object"),
    "dtype list": lambda p: p.update(dtype=["float32"]),
    "index": lambda p: p.update(index="hnsw"),
    "kind ivf without lists": lambda p: entry(p).update(index={"kind": "ivf", "lists": 4, "nprobe": 1}),
    "kind unknown": lambda p: entry(p).update(index={"kind": "flat"}),
    "kind missing": lambda p: entry(p).update(index={}),
    "index null": lambda p: entry(p).update(index=None),
    "nprobe": lambda p: entry(p).update(index={"kind": "exact", "nprobe": -3}),
    "encoder number": lambda p: p.update(encoder=5),
    "encoder long": lambda p: p.update(encoder="clip:" + "x" * 5000),
    "encoder no text": lambda p: p.update(encoder="clip:\ud800/b"),
    "encoder null": lambda p: p.update(encoder=None),
    "about list": lambda p: p.update(about=[]),
    "segments none": lambda p: p.update(segments=[]),
    "segments object": lambda p: p.update(segments={}),
    "segments null": lambda p: p.update(segments=None),
    "segment null": lambda p: p.update(segments=[None]),
    "segment twice": lambda p: p.update(segments=[entry(p), entry(p)]),
    "gone rows": lambda p: entry(p)["gone"].update(rows=10**15),
    "gone true": lambda p: entry(p).update(gone=True),
    "gone no facts": lambda p: entry(p)["gone"].pop("facts"),
    "format text": lambda p: p.update(format="1" * 500),
    "format true": lambda p: p.update(format=True),
    "kind": lambda p: p.update(kind="other"),
    "more": lambda p: p.update(more=1),
    "no segments": lambda p: p.pop("segments"),
    "no width": lambda p: p.pop("width"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_of_odd_values_is_one_line(bank: Path, outside: Path, name: str) -> None:
    written(bank, CHANGES[name])
    before = state(outside), state(bank)
    with pytest.raises(CheckpointError, match="manifest.json|memory bank") as told:
        use(bank)
    assert "\n" not in str(told.value) and len(str(told.value)) < 700
    assert (state(outside), state(bank)) == before


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "NaN", "[" * 100_000, '{"a":' * 50_000, '{"format": 1e999}', f'{{"format": {"9" * 400}}}'],
)
def test_a_manifest_that_is_no_page_is_one_line(bank: Path, text: str) -> None:
    (bank / manifest.NAME).write_text(text)
    with pytest.raises(CheckpointError, match="manifest.json") as told:
        Memory.open(bank)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        SEGMENT,
        "manifest.json",
        *(f"{SEGMENT}/{n}" for n in ("documents.sqlite", "vectors.f32", "images.f16", "gone-000000001.npy")),
    ],
)
def test_links_in_a_bank_are_not_followed(bank: Path, tmp_path: Path, name: str) -> None:
    """Even where they lead to the very files."""
    if not name:
        (tmp_path / "link").symlink_to(bank)
        assert len(Memory.open(tmp_path / "link")) == 2, "a folder that the user names may be one"
        return
    path, away = bank / name, tmp_path / "away"
    path.rename(away)
    path.symlink_to(away)
    before = state(away) if away.is_dir() else away.read_bytes()
    with pytest.raises(CheckpointError, match="is a link; a bank holds its files itself, copy it there"):
        use(bank)
    assert (state(away) if away.is_dir() else away.read_bytes()) == before


def test_a_snapshot_of_the_hub_is_links_and_is_read(bank: Path, tmp_path: Path) -> None:
    blobs, folder = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0" / "memory"
    blobs.mkdir(parents=True)
    for number, path in enumerate(p for p in sorted(bank.rglob("*")) if p.is_file()):
        path.rename(blobs / str(number))
        link = folder / path.relative_to(bank)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    memory = Memory.open(folder)
    assert sorted(memory) == ["green", "red"] and memory["red"].text == "red field"
    outside = tmp_path / "outside"
    outside.write_bytes((blobs / "1").read_bytes())
    for link in (p for p in folder.rglob("*") if p.is_symlink() and p.resolve() == (blobs / "1").resolve()):
        link.unlink()
        link.symlink_to(outside)
    with pytest.raises(CheckpointError, match="is a link"):
        Memory.open(folder)


@pytest.mark.parametrize("name", ["manifest.json", f"{SEGMENT}/vectors.f32", f"{SEGMENT}/documents.sqlite"])
def test_pipes_in_a_bank_do_not_hang(bank: Path, name: str) -> None:
    (bank / name).unlink()
    os.mkfifo(bank / name)
    if name != "manifest.json":
        written(bank, lambda p: entry(p)["files"][Path(name).name].update(bytes=0) if "sqlite" in name else None)
    with pytest.raises(CheckpointError, match="is no file|has 0 bytes"):
        Memory.open(bank)


LEFT = [".lock", ".manifest.json.part", ".manifest.json.00000000.part", "segment-0002", f"{SEGMENT}/gone-000000002.npy",
        f"{SEGMENT}/.gone-000000002.npy.part", f"{SEGMENT}/draft.json", "segment-0002/documents.sqlite",
        "segment-0002/vectors.f32", "segment-0002/draft.json", "segment-0002/.index.faiss.part"]  # fmt: skip


@pytest.mark.parametrize("dangling", [True, False])
@pytest.mark.parametrize("name", LEFT)
def test_writing_follows_no_link_that_lies_in_wait(bank: Path, outside: Path, name: str, dangling: bool) -> None:
    """Where a bank's own names for what it writes next are links already."""
    link = bank / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    target = outside / ("new" if dangling else "file" if name != "segment-0002" else ".")
    link.symlink_to(target)
    before = state(outside)
    for step in (
        lambda: Memory.open(bank).add(texts(30), Hashing(), batch=7),
        lambda: Memory.open(bank).delete(["red"]),
        lambda: Memory.merge([bank], bank.parent / "merged"),
    ):
        try:
            step()
        except Cm3Error as error:
            assert "\n" not in str(error)
        assert state(outside) == before
    assert len(Memory.open(bank)) in (1, 2, 31, 32), "each step whole or refused"


def test_a_hidden_folder_that_is_a_link_is_not_built_in(outside: Path, tmp_path: Path) -> None:
    (tmp_path / ".new.partial").symlink_to(outside)
    before = state(outside)
    with pytest.raises(Cm3Error, match="is a link or a file where a bank is to be made; take it away"):
        Memory.build(tmp_path / "new", documents(), Hashing())
    assert state(outside) == before
    (tmp_path / "other").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Cm3Error, match="other': is there already, delete it"):
        Memory.build(tmp_path / "other", documents(), Hashing())


def altered(bank: Path, *statements: str) -> None:
    """Change the documents as a stranger would, and the manifest's sums after it."""
    path = bank / SEGMENT / "documents.sqlite"
    store = sqlite3.connect(path)
    store.executescript("; ".join(statements))
    store.close()
    written(bank, lambda p: entry(p)["files"].update({path.name: manifest.facts(path)}))


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE VIEW more AS SELECT 1"],
        ["CREATE TRIGGER t AFTER INSERT ON skipped BEGIN DELETE FROM documents; END"],
        ["CREATE INDEX i ON documents (source)"],
        ["CREATE TABLE more (a)"],
        ["DROP TABLE skipped"],
        ["ALTER TABLE documents RENAME TO d", "CREATE VIEW documents AS SELECT * FROM d"],
        ["DELETE FROM documents WHERE row = 2"],
        ["DELETE FROM documents WHERE row = 0"],
        ["DELETE FROM documents WHERE row = 1"],
        ["UPDATE documents SET row = 5 WHERE row = 1"],
        ["UPDATE documents SET id = CAST('x' AS BLOB) WHERE row = 1"],
        ["UPDATE documents SET id = CAST(x'ff' AS TEXT) WHERE row = 1"],
        ["UPDATE documents SET id = 'other' WHERE row = 1"],
        ["UPDATE documents SET meta = '[]'"],
        ["UPDATE documents SET parts = '[7777]'"],
        ["UPDATE documents SET parts = '[1.5]'"],
        ["UPDATE documents SET parts = '[[1]]'"],
        ["UPDATE documents SET parts = '{}'"],
        ["UPDATE documents SET parts = 'x'"],
        [f"UPDATE documents SET parts = '[{10**30}]'"],
        ["UPDATE pictures SET data = x'00'"],
        ["DELETE FROM pictures"],
        ["UPDATE documents SET sum = x'00'"],
        ["UPDATE documents SET source = 5, meta = x'00'"],
    ],
)
def test_odd_tables_are_told(bank: Path, statements: list[str]) -> None:
    altered(bank, *statements)
    with pytest.raises(CheckpointError) as told:
        memory = Memory.open(bank)
        memory.search(embed(Hashing(), [Document.of("green field")]).vectors, 2)
        assert [memory[id].images for id in memory]
    assert "\n" not in str(told.value)


def earlier(bank: Path, *statements: str) -> None:
    """A bank as it was before there were sums of documents and vectors of pictures alone."""
    altered(
        bank,
        "CREATE TABLE d (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, meta TEXT NOT NULL, "
        "parts TEXT NOT NULL)",
        "INSERT INTO d SELECT row, id, source, meta, parts FROM documents",
        *statements,
        "DROP TABLE documents",
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET name = 'documents', tbl_name = 'documents', "
        "sql = replace(sql, 'TABLE d ', 'TABLE documents ') WHERE name = 'd'",
        "UPDATE sqlite_master SET name = 'sqlite_autoindex_documents_1', tbl_name = 'documents' WHERE tbl_name = 'd'",
    )
    (bank / SEGMENT / manifest.IMAGES).unlink()
    written(bank, lambda p: entry(p)["files"].pop(manifest.IMAGES))


def test_earlier_banks_are_read_and_never_show_a_documents_own_picture(bank: Path, tmp_path: Path) -> None:
    whole = Memory.open(bank)
    want, pictures = [whole[id] for id in whole], whole.pictures(list(whole))
    earlier(bank)
    memory = Memory.open(bank, verify=True)
    assert [memory[id] for id in memory] == want and memory.pictures(list(memory)) == pictures
    assert not memory.images(list(memory)).any()
    merged = Memory.merge([bank], tmp_path / "merged")
    assert [merged[id] for id in merged] == want and merged.pictures(list(merged)) == pictures
    memory.add(texts(3), Hashing())
    assert len(Memory.open(bank, verify=True)) == 5


def test_text_that_an_earlier_bank_kept_and_nothing_reads_is_told(bank: Path) -> None:
    earlier(bank, "UPDATE d SET parts = '[\"a \\ud83d\"]' WHERE id = 'red'")
    memory = Memory.open(bank)
    told = "document 'red': its text has a lone surrogate U\\+D83D.*; delete it from the bank"
    with pytest.raises(CheckpointError, match=told):
        memory["red"]
    memory.delete(["red"])
    assert memory["green"].text == "green field"


def test_what_is_no_text_is_left_out_and_listed(tmp_path: Path) -> None:
    source = [
        *documents(),
        Document.of("a smile \ud83d", id="text"),
        Document.of("a\0b", id="nul"),
        Document.of("a", id="id \udcff"),
        Document.of("a", id="source", source="\ud800"),
        Document.of("a", id="license", license="\ud83d"),
        Document.of("a", id="nan", score=float("nan")),
        Document.of("a", id="object", made=object()),
        Unreadable("\udcff.jpg", "cut\udcff short"),
    ]
    made = Memory.build(tmp_path / "bank", source, Hashing())
    assert list(made) == ["red", "green", "blue"] and made.report is not None
    reasons = {u.id: u.reason for u in made.report.skipped}
    assert list(reasons) == ["text", "nul", "id \\udcff", "source", "license", "nan", "object", "\\udcff.jpg"]
    for id, what in (("text", "text"), ("id \\udcff", "id"), ("source", "source"), ("license", "meta")):
        assert f"its {what} has a lone surrogate U+D" in reasons[id]
    assert all("its meta is not plain JSON" in reasons[id] for id in ("nan", "object"))
    assert "its text has a NUL character" in reasons["nul"] and reasons["\\udcff.jpg"] == "cut\\udcff short"
    assert "\udcff" not in made and made.info()["skipped"] == [vars(u) for u in made.report.skipped]
    with pytest.raises(Cm3Error, match="has no document"):
        made["\udcff"]


@pytest.mark.parametrize("rows", [[0, 0], [1, 0], [-1, 1], [0, 3], [2**40, 2**41]])
def test_lists_of_gone_rows_that_are_none(bank: Path, rows: list[int]) -> None:
    path = bank / SEGMENT / "gone-000000002.npy"
    np.save(path, np.array(rows, np.int64))
    written(bank, lambda p: entry(p).update(gone={"file": path.name, "rows": 2, "facts": manifest.facts(path)}))
    with pytest.raises(CheckpointError, match="names rows that are not there; restore it from a copy"):
        Memory.open(bank)


def test_a_list_of_gone_rows_is_not_believed_about_its_size(bank: Path) -> None:
    path = bank / SEGMENT / "gone-000000001.npy"
    for array, told in (
        (np.zeros(1), "rows that are not"),
        (np.zeros((1, 1), np.int64), "rows that are not"),
        (np.arange(2), "hold 1 rows"),
    ):
        np.save(path, array)
        written(bank, lambda p: entry(p)["gone"].update(facts=manifest.facts(path)))
        with pytest.raises(CheckpointError, match=told):
            Memory.open(bank)
    path.write_bytes(path.read_bytes()[:128].replace(b"(2,)", b"(9999999999999,)").ljust(136, b" ")[:136])
    written(bank, lambda p: entry(p)["gone"].update(facts=manifest.facts(path)))
    with pytest.raises(CheckpointError, match="cannot be read|rows that are not"):
        Memory.open(bank)


def test_vectors_that_are_not_finite_are_told(bank: Path) -> None:
    path = bank / SEGMENT / "vectors.f32"
    np.full((3, 16), np.nan, np.float32).tofile(path)
    written(bank, lambda p: entry(p)["files"].update({path.name: manifest.facts(path)}))
    with pytest.raises(CheckpointError, match="holds vectors that are not finite; build it again"):
        Memory.open(bank).search(np.ones((1, 16)), 2)


def test_the_next_segment_never_takes_the_place_of_one_that_is_named(bank: Path) -> None:
    (bank / SEGMENT).rename(bank / "segment-0007")
    written(bank, lambda p: entry(p).update(name="segment-0007"))
    memory = Memory.open(bank)
    memory.add(texts(2), Hashing())
    assert [s.folder.name for s in memory.segments] == ["segment-0007", "segment-0008"]
    (bank / "segment-0008").rename(bank / "segment-9999")
    written(bank, lambda p: p["segments"][1].update(name="segment-9999"))
    with pytest.raises(Cm3Error, match="has segment 9999, the last there can be; merge it into a new one"):
        Memory.open(bank).add(texts(2, 9), Hashing())


def test_files_of_banks_are_not_exchanged(bank: Path, tmp_path: Path) -> None:
    other = Memory.build(tmp_path / "other", [*documents()[:2], Document.of("yellow", id="blue")], Hashing()).folder
    for name in ("documents.sqlite", "vectors.f32", "images.f16"):
        folder = Path(shutil.copytree(bank, tmp_path / f"mixed-{name}"))
        shutil.copy(other / SEGMENT / name, folder / SEGMENT / name)
        with pytest.raises(CheckpointError, match=f"{name}' (was altered|has [0-9]+ bytes)"):
            Memory.open(folder)
