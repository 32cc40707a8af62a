"""A bank from a stranger: whatever its manifest, links and tables say, nothing outside its folder is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hashing import Hashing, texts
from safetensors.numpy import load_file, save

from cm3.document import Document, Unreadable
from cm3.errors import Cm3Error, DataError
from cm3.files import checksum
from cm3.retrieval.embed import embed
from cm3.retrieval.memory import Memory
from cm3.store.manifest import NAME
from cm3.store.shard import facts, key


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
    page = json.loads((bank / NAME).read_text())
    page.pop("sha256")
    change(page)
    (bank / NAME).write_text(json.dumps({**page, "sha256": checksum(page)}))


def use(bank: Path) -> None:
    """Everything that reads or writes a bank."""
    memory = Memory.open(bank)
    memory.search(embed(Hashing(), [Document.of("red field")]).vectors, 2)
    assert [memory[id].images[0].pixels.size for id in memory]
    memory.add(texts(3), Hashing())
    memory.delete(["red"])
    Memory.merge([bank], bank.parent / "merged")


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "file above": lambda p: p["files"].update({"../../outside/file": {"bytes": 4, "sha256": "0" * 64}}),
    "no files": lambda p: p.update(files={}),
    "no facts": lambda p: p["files"].update({"index.000001.safetensors": None}),
    "bytes text": lambda p: p["shards"][0].update(bytes="192"),
    "bytes negative": lambda p: p["shards"][0].update(bytes=-1),
    "pictures none": lambda p: p["shards"][0].update(pictures=None),
    "pictures text": lambda p: p["shards"][0].update(pictures="00000.pictures"),
    "pictures' sum": lambda p: p["shards"][0]["pictures"].update(sha256="00"),
    "pictures negative": lambda p: p["shards"][0]["pictures"].update(bytes=-1),
    "documents huge": lambda p: p.update(documents=10**30),
    "documents true": lambda p: p.update(documents=True),
    "width none": lambda p: p.update(width=0),
    "width huge": lambda p: p.update(width=10**9),
    "width missing": lambda p: p.update(width=None),
    "index": lambda p: p.update(index="hnsw"),
    "kind ivf without lists": lambda p: p["segments"][0].update(index={"kind": "ivf", "lists": 4, "nprobe": 1}),
    "kind unknown": lambda p: p["segments"][0].update(index={"kind": "flat"}),
    "index null": lambda p: p["segments"][0].update(index=None),
    "nprobe": lambda p: p["segments"][0].update(index={"kind": "exact", "nprobe": -3}),
    "encoder number": lambda p: p.update(encoder=5),
    "encoder long": lambda p: p.update(encoder="clip:" + "x" * 5000),
    "encoder no text": lambda p: p.update(encoder="clip:\ud800/b"),
    "encoder null": lambda p: p.update(encoder=None),
    "about list": lambda p: p.update(about=[]),
    "segments none": lambda p: p.update(segments=[]),
    "segments null": lambda p: p.update(segments=None),
    "segment null": lambda p: p.update(segments=[None]),
    "segment twice": lambda p: p.update(segments=[p["segments"][0]] * 2),
    "segments less": lambda p: p["segments"][0].update(shards=-1),
    "words": lambda p: p.update(words=False),
    "vocabulary": lambda p: p.update(vocab={"size": 3}),
    "change": lambda p: p.update(change=-1),
    "change huge": lambda p: p.update(change=10**12),
    "deleted": lambda p: p.update(deleted="1"),
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
    with pytest.raises(DataError, match="manifest.json|store") as told:
        use(bank)
    assert "\n" not in str(told.value) and len(str(told.value)) < 700
    assert (state(outside), state(bank)) == before


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "NaN", "[" * 100_000, '{"a":' * 50_000, '{"format": 1e999}', f'{{"format": {"9" * 400}}}'],
)
def test_a_manifest_that_is_no_page_is_one_line(bank: Path, text: str) -> None:
    (bank / NAME).write_text(text)
    with pytest.raises(DataError, match="manifest.json") as told:
        Memory.open(bank)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["shards", "manifest.json", "index.000001.safetensors", "shards/00000.safetensors",
                                  "shards/00000.pictures"])  # fmt: skip
def test_links_that_lead_out_of_a_bank_are_not_followed(bank: Path, tmp_path: Path, name: str) -> None:
    """Even where they lead to the very files."""
    path, away = bank / name, tmp_path / "away"
    path.rename(away)
    path.symlink_to(away)
    before = state(away) if away.is_dir() else away.read_bytes()
    with pytest.raises(DataError, match="is a link that leads outside"):
        use(bank)
    assert (state(away) if away.is_dir() else away.read_bytes()) == before


def test_a_folder_that_the_user_names_may_be_a_link(bank: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bank)
    assert len(Memory.open(tmp_path / "link")) == 2


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
    with pytest.raises(DataError, match="is a link that leads outside"):
        use(folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["manifest.json", "index.000001.safetensors", "shards/00000.safetensors"])
def test_pipes_in_a_bank_do_not_hang(bank: Path, name: str) -> None:
    (bank / name).unlink()
    os.mkfifo(bank / name)
    with pytest.raises(DataError, match="is no file|is missing"):
        Memory.open(bank)


LEFT = [".lock", ".manifest.json.part", ".manifest.json.00000000.part", "index.000002.safetensors", "draft.json",
        ".index.000002.safetensors.part", "shards/00001.safetensors", "shards/00001.json", "shards/00001.pictures",
        "shards/.00001.safetensors.00000000.part", "lists-0001.faiss"]  # fmt: skip


@pytest.mark.parametrize("dangling", [True, False])
@pytest.mark.parametrize("name", LEFT)
def test_writing_follows_no_link_that_lies_in_wait(bank: Path, outside: Path, name: str, dangling: bool) -> None:
    """Where a bank's own names for what it writes next are links already."""
    link = bank / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    target = outside / ("new" if dangling else "file")
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
    with pytest.raises(Cm3Error, match="is a link or a file where a store is to be made; take it away"):
        Memory.build(tmp_path / "new", documents(), Hashing())
    assert state(outside) == before
    (tmp_path / "other").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Cm3Error, match="other': is there already, delete it"):
        Memory.build(tmp_path / "other", documents(), Hashing())


def altered(bank: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change a shard as a stranger would, and the manifest's sums after it."""
    path = bank / "shards/00000.safetensors"
    tensors = load_file(path)
    change(tensors)
    path.write_bytes(save(tensors))
    written(bank, lambda p: p["shards"][0].update(facts(path.read_bytes())))


def names(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[dict[str, np.ndarray]], object]:
    """Return what changes the JSON of a shard's documents."""

    def made(tensors: dict[str, np.ndarray]) -> None:
        starts, data = tensors["name_starts"], tensors["names"].tobytes()
        pages = [json.loads(data[a:b]) for a, b in zip(starts, starts[1:], strict=False)]
        change(pages)
        texts = [json.dumps(page).encode() for page in pages]
        tensors["names"] = np.frombuffer(b"".join(texts), np.uint8)
        tensors["name_starts"] = np.cumsum([0, *map(len, texts)])
        shown = zip(tensors["shown"], tensors["pixels"], strict=True)  # each has one picture
        sums = [key(t + s.tobytes() + p.tobytes()) for t, (s, p) in zip(texts, shown, strict=True)]
        tensors["name_sums"] = np.array(sums, np.uint64)

    return made


@pytest.mark.parametrize(
    "change",
    [
        names(lambda p: p[0].update(id=5)),
        names(lambda p: p[0].update(source=None)),
        names(lambda p: p[0].update(meta=[])),
        names(lambda p: p[0].update(more=1)),
        names(lambda p: p[0].pop("parts")),
        names(lambda p: p[0].update(parts={})),
        names(lambda p: p[0].update(parts=[7777])),
        names(lambda p: p[0].update(parts=[-1])),
        names(lambda p: p[0].update(parts=[10**30])),
        names(lambda p: p[0].update(parts=[True])),
        names(lambda p: p[0].update(parts=[[1]])),
        names(lambda p: p[0].update(parts=["a \ud83d"])),
        names(lambda p: p[0].update(parts=None)),
        lambda t: t["blobs"].__setitem__((0, 0), -1),
        lambda t: t["blobs"].__setitem__((0, 1), 2**40),
        lambda t: t["blobs"].__setitem__((0, 1), 2**62),
        lambda t: t["blobs"].__setitem__((0, 0), 5),
        lambda t: t["shown"].__setitem__((0, 0), t["shown"][0, 0] ^ 1),
        lambda t: t["shown_starts"].__setitem__(1, 3),
        lambda t: t["names"].fill(0x5B),
    ],
)
def test_odd_documents_are_told(bank: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    altered(bank, change)
    with pytest.raises(DataError) as told:
        memory = Memory.open(bank)
        memory.search(embed(Hashing(), [Document.of("green field")]).vectors, 2)
        assert [memory[id].images for id in memory]
    assert "\n" not in str(told.value)


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


def test_vectors_that_are_not_finite_are_told(bank: Path) -> None:
    altered(bank, lambda t: t["text"].fill(np.nan))
    with pytest.raises(DataError, match="holds vectors that are not finite; build it again"):
        Memory.open(bank).search(np.ones((1, 16)), 2)


def test_files_of_banks_are_not_exchanged(bank: Path, tmp_path: Path) -> None:
    other = Memory.build(tmp_path / "other", [*documents()[:2], Document.of("yellow", id="blue")], Hashing()).folder
    for name in ("00000.safetensors", "00000.pictures"):
        folder = Path(shutil.copytree(bank, tmp_path / f"mixed-{name}"))
        shutil.copy(other / "shards" / name, folder / "shards" / name)
        with pytest.raises(DataError, match=f"{name} (was altered|has [0-9]+ bytes)"):
            use(folder)
