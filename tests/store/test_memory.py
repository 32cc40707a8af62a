"""A bank: what it finds, how it grows and shrinks, what a kill leaves, and what is said of one that is damaged."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import store_parts
from hashing import Hashing, texts, unit

from cm3.data.prepare import prepare
from cm3.document import Document, Gap, Unreadable
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.retrieval.embed import embed, load_encoder
from cm3.retrieval.memory import Memory
from cm3.store.manifest import NAME
from cm3.store.store import Store
from cm3.store.write import writing

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
    wanted = embed(Hashing(), [made[3], made[0]])
    np.testing.assert_allclose(bank.vectors(["words", "red"]), wanted.vectors, atol=1e-3)
    np.testing.assert_allclose(bank.images(["words", "red"]), wanted.images, atol=1e-3)
    assert bank.vectors([]).shape == (0, 16)
    assert bank.whole(list(bank)) == [True] * 3 + [False] * 2 and bank.whole([]) == []
    (found,), scores = bank.search(vector("a green field"), 2)
    assert found[0] == "green" and scores.shape == (1, 2) and scores[0, 0] > scores[0, 1]
    (by_words,), scores = bank.search(embed(Hashing(), mixed()[1:2]).texts, 1, "text")
    assert by_words == ["green"] and abs(scores[0, 0] - 1) < 2e-3, "with the words alone, a document's own are nearest"
    (by_image,), scores = bank.search(embed(Hashing(), mixed()[1:2]).images, 9, "image")
    assert by_image[0] == "green" and abs(scores[0, 0] - 1) < 2e-3
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
    again = Memory.build(tmp_path / "again", mixed(), Hashing())
    files = sorted(p.relative_to(bank.folder) for p in bank.folder.rglob("*") if p.is_file())
    names = [
        "index.safetensors",
        "manifest.json",
        *(f"shards/00000.{end}" for end in ("json", "pictures", "safetensors")),
    ]
    assert [str(f) for f in files] == names
    assert all((bank.folder / f).read_bytes() == (again.folder / f).read_bytes() for f in files)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "bank"], "nothing is left beside them"


def test_a_bank_is_a_store(bank: Memory) -> None:
    store = Store.open(bank.folder)
    assert [store.document(n) for n in range(5)] == mixed() and not store.has_tokens
    assert store.fingerprint == bank.store.fingerprint
    bank.delete(["green"])
    store = Store.open(bank.folder)
    left = [d for d in mixed() if d.id != "green"]
    assert [store.document(n) for n in range(4)] == left and [store.number(d.id) for d in left] == [0, 1, 2, 3]
    text = store.vectors("text")
    assert text is not None and text.has.tolist() == [True, True, True, False]
    np.testing.assert_allclose(text[:], embed(Hashing(), left).texts, atol=1e-3)


def test_adding(bank: Memory) -> None:
    report = bank.add(texts(40), Hashing(), batch=16)
    assert report.added == 40 and len(bank) == 45 and list(bank)[5:7] == ["t0", "t1"]
    assert bank.search(vector("word7 red"), 1)[0] == [["t7"]]
    assert bank["t7"].text == "word7 red"
    found, scores = bank.search(vector("word7 red"), 45)
    assert len(set(found[0])) == 45 and (np.diff(scores[0]) <= 0).all(), "one order over both segments"
    opened = Memory.open(bank.folder)
    assert list(opened) == list(bank) and opened.search(vector("word7 red"), 3)[0] == [found[0][:3]]


def test_an_add_without_faiss_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Memory.build(tmp_path / "bank", mixed(), Hashing(), index="ivf")
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="needs FAISS"):
        bank.add([Document.of(f"number {n}", id=str(n)) for n in range(1000)], Hashing())
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before and len(bank) == 5


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
    assert [p.name for p in bank.folder.glob("index*")] == ["index.000003.safetensors"], "those replaced are taken away"
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
    with writing(bank.folder):
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
    assert list(merged) == [*bank, *other] and len(merged.store.facts.segments) == 1
    assert np.array_equal(merged.vectors(list(bank)), bank.vectors(list(bank)))
    assert merged["blue"] == bank["blue"] and merged["blue"].meta == {"license": "MIT"}
    assert merged.search(vector("word150 red"), 1)[0] == [["t150"]]
    assert len(Memory.merge([bank.folder], tmp_path / "anew")) == len(bank)
    with pytest.raises(
        DataError, match="ids that come twice: 'bare', 'blue', .*an id names one document of its source"
    ):
        Memory.merge([bank.folder, tmp_path / "anew"], tmp_path / "twice")
    strange = Memory.build(tmp_path / "strange", texts(3), Hashing(name="hashing:2"))
    with pytest.raises(CheckpointError, match="strange' was made with encoder 'hashing:2', .*bank' with 'hashing:1'"):
        Memory.merge([bank.folder, strange.folder], tmp_path / "mixed")
    with pytest.raises(ConfigError, match="no memory bank given"):
        Memory.merge([], tmp_path / "none")


def test_ids_that_come_twice_are_named(bank: Memory, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ids that come twice: 'blue', 'red'; an id names one document of its source"):
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
        ({"batch": 0}, "batch=0: must be at least 1"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Memory.build(tmp_path / "bank", texts(1), Hashing(), **settings)


def test_a_place_that_is_taken(bank: Memory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bank': is a store already; add to it"):
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

    def used(folder: Path) -> None:
        memory = Memory.open(folder)
        memory.search(vector("red"), 3)
        assert [memory[id].images for id in memory]
        memory.verify()

    for name in ("shards/00000.safetensors", "shards/00000.pictures", "index.000001.safetensors"):
        for how, told in ((None, "is missing; restore it"), (lambda d: d[:-3], "bytes|altered"), (flipped, "altered")):
            with pytest.raises(DataError, match=f"{name} .*{told}"):
                used(spoiled(name, how))
        spoiled(name, lambda data: (bank.folder / name).read_bytes())  # noqa: B023
    page = json.loads((bank.folder / NAME).read_text())
    for text, told in (
        ("{", "manifest.json: is not readable JSON"),
        ("[]", "manifest.json is not a store's"),
        ("{}", "manifest.json is not a store's"),
        (json.dumps({**page, "format": 7}), "is of format 7, this version reads 2; make it again"),
        (json.dumps({**page, "width": 17}), "manifest.json was altered"),
    ):
        with pytest.raises(DataError, match=told):
            Memory.open(spoiled(NAME, lambda _, text=text: text.encode()))
    with pytest.raises(
        DataError, match="no manifest.json; give a folder that `cm3 prepare` or `cm3 index build` wrote"
    ):
        Memory.open(tmp_path)


def test_pictures_are_read_whole_only_when_asked(bank: Memory) -> None:
    path = bank.folder / "shards" / "00000.pictures"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert len(Memory.open(bank.folder)) == 5
    with pytest.raises(DataError, match="00000.pictures was altered"):
        Memory.open(bank.folder, verify=True)


def test_a_store_without_vectors_is_no_bank(tmp_path: Path) -> None:
    store_parts.tokenizers(tmp_path / "model")
    store_parts.photos(tmp_path / "photos", 2)
    prepare([f"{tmp_path}/photos"], tmp_path / "out", tmp_path / "model")
    with pytest.raises(DataError, match="has no vectors; prepare it with an encoder, or make a bank by `cm3 index"):
        Memory.open(tmp_path / "out")


def test_a_prepared_store_with_vectors_is_a_bank(tmp_path: Path) -> None:
    model, encoder = store_parts.tokenizers(tmp_path / "model"), store_parts.encoder(tmp_path / "encoder")
    store_parts.photos(tmp_path / "photos", 9)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for path in (tmp_path / "photos").iterdir():
            if (int(path.stem) < 5) == (name == "one"):
                shutil.copyfile(path, tmp_path / name / path.name)
        prepare([str(tmp_path / name)], tmp_path / f"{name}.store", model, unit=2, encoder=encoder, pictures=True)
    loaded = load_encoder(encoder)
    bank = Memory.open(tmp_path / "one.store", encoder=loaded)
    assert bank.about == {"encoder": str(encoder)}
    query = embed(loaded, [bank["003.png"]]).vectors
    ids = list(bank)
    assert bank.search(query, 1)[0] == [[ids[int((bank.vectors(ids) @ query[0]).argmax())]]]
    with pytest.raises(DataError, match="was prepared; prepare the documents that are to be added in the same way"):
        bank.add(texts(1), loaded)
    before = bank.store.tokens([4])  # type: ignore[attr-defined]
    bank.delete(["003.png"])
    store = Store.open(tmp_path / "one.store")
    assert len(store) == 4 and store.tokens([3])[0].ids.tolist() == before[0].ids.tolist()
    assert store.info()["tokens"] == int(store.lengths.sum()) and store.info()["image_tokens"] == 4 * 16
    with pytest.raises(DataError, match="was added to or deleted from since; prepare another, and leave out retry"):
        prepare(
            [str(tmp_path / "one")], tmp_path / "one.store", model, unit=2, encoder=encoder, pictures=True, retry=True
        )
    Memory.merge([tmp_path / "one.store", tmp_path / "two.store"], tmp_path / "both")
    both, two = Store.open(tmp_path / "both"), Store.open(tmp_path / "two.store")
    assert len(both) == 8 and both.vocab == two.vocab and both.text_fingerprint == two.text_fingerprint
    for number in range(4):
        other = both.number(two.about(number).id)
        assert both.tokens([other])[0].ids.tolist() == two.tokens([number])[0].ids.tolist()
        assert both.document(other) == two.document(number)
    both.verify()
    assert both.info()["image_tokens"] == 8 * 16
    prepare([str(tmp_path / "two")], tmp_path / "words", model, unit=2, encoder=encoder)
    with pytest.raises(DataError, match="merge: .*words' and .*one.store' differ in pictures; merge stores of one"):
        Memory.merge([tmp_path / "one.store", tmp_path / "words"], tmp_path / "mixed")


def test_info(bank: Memory) -> None:
    bank.add(texts(10), Hashing())
    bank.delete(["red", "t1"])
    told = bank.info()
    assert json.loads(json.dumps(told)) == told
    assert (told["documents"], told["deleted"], told["width"], told["encoder"]) == (13, 2, 16, "hashing:1")
    assert told["sources"] == {"": 1, "fields": 2, "notes": 1, "texts": 9}
    assert told["licenses"] == {"": 11, "MIT": 2}
    assert told["segments"] == [{"documents": 4, "kind": "exact"}, {"documents": 9, "kind": "exact"}]
    assert told["bytes_a_vector"] == 64 and told["bytes"]["pictures"] > 0
