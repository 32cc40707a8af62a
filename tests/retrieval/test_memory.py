"""A bank: what it finds, how it grows and shrinks, what a kill leaves, and what is said of one that is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hashing import Hashing, texts, unit

from cm3.document import Document, Gap, Unreadable
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.retrieval import manifest
from cm3.retrieval.embed import embed
from cm3.retrieval.memory import Memory

COLOURS = ("red", "green", "blue")


def picture(colour: str) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (8, 6), colour)


def mixed() -> list[Document]:
    """Three of two parts, one of words and one of a picture."""
    both = [Document.of(f"a {c} field", picture(c), id=c, source="fields", license="MIT") for c in COLOURS]
    return [*both, Document.of("words alone", id="words", source="notes"), Document.of(picture("white"), id="bare")]


@pytest.fixture
def bank(tmp_path: Path) -> Memory:
    return Memory.build(tmp_path / "bank", mixed(), Hashing())


def vector(*parts: str | PIL.Image.Image) -> np.ndarray:
    return embed(Hashing(), [Document.of(*parts, id="q")]).vectors


def test_documents_come_back_and_are_found(bank: Memory) -> None:
    made = mixed()
    assert list(bank) == [d.id for d in made] and len(bank) == 5 and bank.width == 16
    assert bank.encoder_name == "hashing:1"
    for document in made:
        got = bank[document.id]
        assert got == document and got.meta == document.meta and got.source == document.source
        assert document.id in bank
    assert "nobody" not in bank and 5 not in bank
    assert np.array_equal(bank.vectors(["words", "red"]), embed(Hashing(), [made[3], made[0]]).vectors)
    assert bank.vectors([]).shape == (0, 16)
    (found,), scores = bank.search(vector("a green field"), 2)
    assert found[0] == "green" and scores.shape == (1, 2) and scores[0, 0] > scores[0, 1]
    (by_picture,), _ = bank.search(vector(picture("blue")), 1)
    assert by_picture == ["blue"]
    assert bank.report is not None and (bank.report.added, bank.report.skipped) == (5, ())


def test_a_search_is_the_order_of_the_inner_products(bank: Memory) -> None:
    queries = unit(np.random.default_rng(0).standard_normal((7, 16)))
    ids = list(bank)
    products = queries @ bank.vectors(ids).T
    found, scores = bank.search(queries, 5)
    assert found == [[ids[i] for i in row] for row in np.argsort(-products, 1)]
    assert np.allclose(scores, -np.sort(-products, 1), atol=1e-6)


def test_k_beyond_the_bank_gives_all_of_it(bank: Memory) -> None:
    (found,), scores = bank.search(vector("red"), 50)
    assert sorted(found) == sorted(bank) and scores.shape == (1, 5)


def test_the_same_documents_give_the_same_bytes(bank: Memory, tmp_path: Path) -> None:
    again = Memory.build(tmp_path / "again", mixed(), Hashing(), batch=2)
    files = sorted(p.relative_to(bank.folder) for p in bank.folder.rglob("*") if p.is_file())
    assert [str(f) for f in files] == [
        "manifest.json", "segment-0001/documents.sqlite", "segment-0001/images.f16",
        "segment-0001/vectors.f32",
    ]  # fmt: skip
    vectors = [(b.folder / "segment-0001/vectors.f32").read_bytes() for b in (bank, again)]
    assert vectors[0] == vectors[1] and list(again) == list(bank)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "bank"], "nothing is left beside them"


def test_vectors_in_half_precision(tmp_path: Path) -> None:
    half = Memory.build(tmp_path / "half", mixed(), Hashing(), dtype="float16")
    exact = embed(Hashing(), mixed()).vectors
    assert np.allclose(half.vectors(list(half)), exact, atol=1e-3)
    assert half.vectors(["red"]).dtype == np.float32
    assert half.info()["bytes"]["vectors"] == 5 * 16 * 2
    assert half.search(exact[1:2], 1)[0] == [["green"]]


def test_adding(bank: Memory) -> None:
    report = bank.add(texts(40), Hashing(), batch=16)
    assert report.added == 40 and len(bank) == 45 and list(bank)[5:7] == ["t0", "t1"]
    assert bank.search(vector("word7 red"), 1)[0] == [["t7"]]
    assert bank["t7"].text == "word7 red"
    found, scores = bank.search(vector("word7 red"), 45)
    assert len(set(found[0])) == 45 and (np.diff(scores[0]) <= 0).all(), "one order over both segments"
    opened = Memory.open(bank.folder)
    assert list(opened) == list(bank) and opened.search(vector("word7 red"), 3)[0] == [found[0][:3]]


def test_what_is_deleted_never_comes_back(bank: Memory) -> None:
    bank.add(texts(40), Hashing())
    assert bank.delete(["green", "t7", "t8"]) == 3
    assert bank.delete(["t9", "t9"]) == 1
    for memory in (bank, Memory.open(bank.folder)):
        assert len(memory) == 41 and "green" not in memory and "t7" not in memory
        assert not {"green", "t7", "t8", "t9"} & set(memory)
        (found,), scores = memory.search(vector("a green field"), 99)
        assert len(found) == len(set(found)) == 41 and not {"green", "t7", "t8", "t9"} & set(found)
        assert np.isfinite(scores).all()
        with pytest.raises(DataError, match=r"has no document 't7'"):
            memory["t7"]
    gone = [p.name for p in bank.folder.rglob("gone-*")]
    assert sorted(gone) == ["gone-000000001.npy", "gone-000000003.npy"], "lists that were replaced are taken away"
    bank.add([Document.of("green again", id="green")], Hashing())
    assert bank["green"].text == "green again" and list(bank)[-1] == "green"


def test_a_bank_can_become_empty_and_says_so(bank: Memory) -> None:
    bank.delete(list(bank))
    assert len(bank) == 0 and list(bank) == []
    with pytest.raises(DataError, match="bank': is empty; add documents to it"):
        bank.search(vector("red"), 1)
    bank.add(texts(2), Hashing())
    assert len(bank.search(vector("red"), 5)[0][0]) == 2


def test_a_reader_goes_on_with_what_it_opened(bank: Memory) -> None:
    reader = Memory.open(bank.folder)
    before = reader.search(vector("red"), 9)[0]
    bank.add(texts(30), Hashing())
    bank.delete(["red"])
    bank.delete(["green"])
    assert len(reader) == 5 and reader.search(vector("red"), 9)[0] == before and reader["red"].text == "a red field"
    assert len(Memory.open(bank.folder)) == 33


def test_two_that_write_do_not_lose_each_others_work(bank: Memory) -> None:
    other = Memory.open(bank.folder)
    other.add(texts(3), Hashing())
    bank.add(texts(3, 10), Hashing())
    bank.delete(["t1"])
    assert list(bank)[5:] == ["t0", "t2", "t10", "t11", "t12"]


def test_one_writes_at_a_time(bank: Memory) -> None:
    with manifest.writing(bank.folder):
        for write in (lambda: bank.add(texts(1), Hashing()), lambda: bank.delete(["red"])):
            with pytest.raises(DataError, match="bank': another process is writing to it; wait until it ends"):
                write()
        assert len(Memory.open(bank.folder)) == 5, "reading goes on"
    bank.delete(["red"])


def test_merging(bank: Memory, tmp_path: Path) -> None:
    bank.add(texts(30), Hashing())
    bank.delete(["green", "t3"])
    other = Memory.build(tmp_path / "other", texts(300, 100), Hashing(), about={"by": "hand"})
    merged = Memory.merge([bank.folder, other.folder], tmp_path / "merged")
    assert list(merged) == [*bank, *other] and len(merged.segments) == 1
    assert np.array_equal(merged.vectors(list(bank)), bank.vectors(list(bank)))
    assert merged["blue"] == bank["blue"] and merged["blue"].meta == {"license": "MIT"}
    assert merged.search(vector("word150 red"), 1)[0] == [["t150"]]
    assert len(Memory.merge([bank.folder], tmp_path / "anew")) == len(bank)
    with pytest.raises(DataError, match="ids that come twice: 'bare', 'blue', .*an id names one document"):
        Memory.merge([bank.folder, tmp_path / "anew"], tmp_path / "twice")
    strange = Memory.build(tmp_path / "strange", texts(3), Hashing(name="hashing:2"))
    with pytest.raises(CheckpointError, match="strange' was made with encoder 'hashing:2', .*bank' with 'hashing:1'"):
        Memory.merge([bank.folder, strange.folder], tmp_path / "mixed")
    with pytest.raises(ConfigError, match="no memory bank given"):
        Memory.merge([], tmp_path / "none")


def test_ids_that_come_twice_are_named(bank: Memory, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ids that come twice: 'blue', 'red'; an id names one document"):
        bank.add([*texts(3), *mixed()[:3:2]], Hashing())
    assert len(Memory.open(bank.folder)) == 5
    for batch in (2, 50):
        with pytest.raises(DataError, match="ids that come twice: 't1', 't2', 't3', 't4', 't5' and 3 more|'t1'"):
            Memory.build(tmp_path / f"twice{batch}", [*texts(20), *texts(8, 1)], Hashing(), batch=batch)


def test_damaged_pictures_are_left_out_and_listed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-200])
    with PIL.Image.open(tmp_path / "cut.jpg") as lazy:
        source = [
            *mixed(),
            Document.of("caption", lazy, id="cut"),
            Unreadable("odd", "not a picture"),
            Document.of(id="x"),
        ]
        made = Memory.build(tmp_path / "bank", source, Hashing())
    assert len(made) == 5 and made.report is not None
    assert [u.id for u in made.report.skipped] == ["cut", "odd", "x"]
    assert "truncated" in made.report.skipped[0].reason and "neither text nor picture" in made.report.skipped[2].reason
    assert made.info()["skipped"] == [vars(u) for u in made.report.skipped]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (Document.of("no name", source="here"), "a document of 'here' has no id"),
        (Document.of("a", Gap(), id="x"), "document 'x': has a gap; a memory bank holds whole documents"),
    ],
)
def test_documents_that_a_bank_does_not_take(tmp_path: Path, document: Document, told: str) -> None:
    with pytest.raises(DataError, match=told):
        Memory.build(tmp_path / "bank", [document], Hashing())


def test_a_source_without_documents(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the source holds no document; give captioned pictures, or text"):
        Memory.build(tmp_path / "bank", [], Hashing())
    with pytest.raises(DataError, match="none of 2 documents could be read; the first, 'a': broken; give"):
        Memory.build(tmp_path / "bank", [Unreadable("a", "broken"), Unreadable("b", "")], Hashing())
    assert len(Memory.build(tmp_path / "bank", texts(1), Hashing())) == 1, "nothing of it is in the way"


def test_an_encoder_that_gives_nonsense(tmp_path: Path) -> None:
    class Nan(Hashing):
        def texts(self, words: Any) -> np.ndarray:
            return super().texts(words) * np.where(np.arange(len(words)) == 2, np.nan, 1)[:, None]

    with pytest.raises(DataError, match="document 't2': the encoder gave a vector that is not finite"):
        Memory.build(tmp_path / "bank", texts(4), Nan())


def test_questions_that_have_no_answer(bank: Memory) -> None:
    with pytest.raises(ConfigError, match="k=0: must be at least 1"):
        bank.search(vector("red"), 0)
    with pytest.raises(DataError, match=r"queries of shape \(1, 5\), the bank's vectors are \(n, 16\)"):
        bank.search(np.ones((1, 5)), 1)
    with pytest.raises(DataError, match=r"queries of shape \(16,\)"):
        bank.search(np.ones(16), 1)
    for bad in (0.0, np.nan):
        queries = np.concatenate([np.ones((2, 16)), np.full((1, 16), bad)])
        with pytest.raises(DataError, match="query 2 is all zeros or not finite; a query needs at least one word"):
            bank.search(queries, 1)
    assert bank.search(np.ones((0, 16)), 3)[0] == []
    for ask in (lambda: bank["a"], lambda: bank.vectors(["red", "a"]), lambda: bank.delete(["red", "a"])):
        with pytest.raises(DataError, match=r"bank': has no document 'a'; `cm3 index search` shows ids"):
            ask()
    assert "red" in bank, "all or none"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"index": "hnsw"}, "index 'hnsw': must be one of auto, exact, ivf, pq"),
        ({"dtype": "int8"}, "dtype 'int8': must be float32 or float16"),
        ({"batch": 0}, "batch=0: must be at least 1"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Memory.build(tmp_path / "bank", texts(1), Hashing(), **settings)


def test_a_place_that_is_taken(bank: Memory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bank': is a memory bank already; add to it"):
        Memory.build(bank.folder, texts(1), Hashing())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file': is there already, delete it"):
        Memory.merge([bank.folder], tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert len(Memory.build(tmp_path / "empty", texts(1), Hashing())) == 1


def test_another_encoder_is_refused(bank: Memory) -> None:
    assert len(Memory.open(bank.folder, encoder=Hashing())) == 5
    for other in (Hashing(name="hashing:2"), Hashing(width=8)):
        with pytest.raises(CheckpointError, match="was made with encoder 'hashing:1' of width 16, not with"):
            Memory.open(bank.folder, encoder=other)
        with pytest.raises(CheckpointError, match="use that one, or build the bank again"):
            bank.add(texts(1), other)


def test_damage_is_told(bank: Memory, tmp_path: Path) -> None:
    bank.delete(["red"])

    def spoiled(name: str, how: Any) -> Path:
        folder = Path(shutil.copytree(bank.folder, tmp_path / "spoiled", dirs_exist_ok=True))
        path = folder / name
        data = how(path.read_bytes()) if how else None
        path.write_bytes(data) if data is not None else path.unlink()
        return folder

    def flipped(data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1])

    for name in ("documents.sqlite", "vectors.f32", "images.f16", "gone-000000001.npy"):
        for how, told in (
            (None, "is missing; restore it"),
            (lambda d: d[:-3], "bytes, its manifest says"),
            (flipped, "altered"),
        ):
            with pytest.raises(CheckpointError, match=f"{name}' .*{told}"):
                Memory.open(spoiled(f"segment-0001/{name}", how))
    page = json.loads((bank.folder / manifest.NAME).read_text())
    for text, told in (
        ("{", "manifest.json: is not readable JSON"),
        ("[]", "manifest.json holds a list and no object"),
        ("{}", "manifest.json is not a memory bank's"),
        (json.dumps({**page, "format": 2}), "is of format 2, this version reads 1; build it again"),
        (json.dumps({**page, "width": 17}), "manifest.json was altered"),
    ):
        with pytest.raises(CheckpointError, match=told):
            Memory.open(spoiled(manifest.NAME, lambda _, text=text: text.encode()))
    with pytest.raises(CheckpointError, match="no manifest.json; `cm3 index build` makes one"):
        Memory.open(tmp_path)
    with pytest.raises(CheckpointError, match="is a file; give the bank's folder"):
        Memory.open(bank.folder / manifest.NAME)
    folder = spoiled(manifest.NAME, lambda data: data)
    manifest.write(folder, {k: v for k, v in manifest.read(folder).items() if k != "about"})
    with pytest.raises(CheckpointError, match="manifest.json.about: is missing"):
        Memory.open(folder)


def test_a_large_file_is_read_only_when_asked(bank: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "SMALL", 100)
    path = bank.folder / "segment-0001" / "documents.sqlite"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert len(Memory.open(bank.folder)) == 5
    with pytest.raises(CheckpointError, match="documents.sqlite' was altered"):
        Memory.open(bank.folder, verify=True)


def test_a_store_that_is_not_readable_is_told(bank: Memory) -> None:
    path = bank.folder / "segment-0001" / "documents.sqlite"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CheckpointError, match="documents.sqlite': not readable .*; restore it from"):
        assert bank["red"].images


def test_info(bank: Memory) -> None:
    bank.add(texts(10), Hashing())
    bank.delete(["red", "t1"])
    told = bank.info()
    assert json.loads(json.dumps(told)) == told
    assert (told["documents"], told["deleted"], told["width"], told["encoder"]) == (13, 2, 16, "hashing:1")
    assert told["sources"] == {"": 1, "fields": 2, "notes": 1, "texts": 9}
    assert told["licenses"] == {"": 11, "MIT": 2}
    assert told["segments"] == [{"documents": 4, "kind": "exact"}, {"documents": 9, "kind": "exact"}]
    assert told["bytes_a_vector"] == 64 and told["bytes"]["vectors"] == 15 * 64
