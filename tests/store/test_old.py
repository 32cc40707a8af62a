"""Stores and banks of format 1, made by the version before: they are read as they were, and are not written to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import store_parts
from hashing import Hashing, texts

from cm3.data.prepare import prepare
from cm3.document import Document
from cm3.errors import DataError
from cm3.files import checksum
from cm3.model.bundle import find
from cm3.retrieval.embed import embed
from cm3.retrieval.memory import Memory
from cm3.store.manifest import is_store
from cm3.store.store import Store

OLD = Path(__file__).parent / "old"
"""A token store of `store_parts.photos` with a twin and a picture that is none, and a bank of `whole` and two texts
more, of which "green" and "t0" were deleted."""


def whole() -> list[Document]:
    colours = ("red", "green", "blue")
    both = [
        Document.of(f"a {c} field", PIL.Image.new("RGB", (8, 6), c), id=c, source="fields", license="MIT")
        for c in colours
    ]
    return [
        *both,
        Document.of("words alone", id="words", source="notes"),
        Document.of(PIL.Image.new("RGB", (8, 6), "white"), id="bare"),
        *texts(2),
    ]


def kept() -> list[Document]:
    return [d for d in whole() if d.id not in ("green", "t0")]


def test_a_token_store_holds_what_one_of_today_does(tmp_path: Path) -> None:
    old = Store.open(OLD / "tokens")
    store_parts.photos(tmp_path / "photos", 5)
    prepare([f"{tmp_path}/photos"], tmp_path / "out", store_parts.tokenizers(tmp_path / "model"), license="CC0-1.0")
    new = Store.open(tmp_path / "out")
    assert len(old) == len(new) == 5 and old.vocab == new.vocab and list(old.ids()) == list(new.ids())
    assert (old.text_fingerprint, old.image_fingerprint) == (new.text_fingerprint, new.image_fingerprint)
    for check in (True, False):
        old = Store.open(OLD / "tokens", check=check)
        for one, other in zip(old.tokens(range(5)), new.tokens(range(5)), strict=True):
            assert one.ids.tolist() == other.ids.tolist() and one.cells.tolist() == other.cells.tolist()
        assert [old.about(n)[:3] for n in range(5)] == [new.about(n)[:3] for n in range(5)]
        assert old.about(2).pictures == () and old.number("003.png") == 3 and old.knows("004.png")
    assert old.lengths.tolist() == new.lengths.tolist() and old.info()["duplicates"]["content"] == 1
    assert old.vectors("text") is None, "theirs were means, which nothing read"
    assert old.tokenizer_path.read_bytes() == new.tokenizer_path.read_bytes() and is_store(OLD / "tokens")
    old.verify()


def test_a_damaged_token_store_is_told(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(OLD / "tokens", tmp_path / "copy"))
    shard = copy / "shards" / "00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="00000.safetensors was altered"):
        Store.open(copy).tokens([0])
    page = json.loads((copy / "manifest.json").read_text())
    for change, told in (
        ({"format": 3}, "of format 3, this version reads 1 and 2"),
        ({"shards": 5}, "no list of shards"),
    ):
        made = page | change
        (copy / "manifest.json").write_text(json.dumps(made | {"sha256": checksum(made)}))
        with pytest.raises(DataError, match=told):
            Store.open(copy)
    (copy / "manifest.json").write_text(json.dumps(page | {"documents": 6}))
    with pytest.raises(DataError, match="manifest.json was altered"):
        Store.open(copy)


def test_a_bank_holds_what_it_held() -> None:
    bank = Memory.open(OLD / "bank", encoder=Hashing(), verify=True)
    assert list(bank) == [d.id for d in kept()] and bank.about == {"by": "hand"}
    assert [bank[id] for id in bank] == kept() and bank["red"].meta == {"license": "MIT"}
    wanted = embed(Hashing(), kept())
    np.testing.assert_allclose(bank.vectors(list(bank)), wanted.vectors, atol=1e-3)
    np.testing.assert_allclose(bank.images(list(bank)), wanted.images, atol=1e-3)
    assert bank.pictures(list(bank)) == list(wanted.pictures)
    (found,), scores = bank.search(wanted.vectors[:1], 9)
    products = wanted.vectors @ wanted.vectors[0]
    assert found == [list(bank)[i] for i in np.argsort(-products)] and "green" not in bank
    np.testing.assert_allclose(scores[0], -np.sort(-products), atol=1e-3)
    info = bank.info()
    assert (info["documents"], info["deleted"], info["licenses"]) == (5, 2, {"MIT": 2, "": 3})


def test_a_bank_becomes_a_store(tmp_path: Path) -> None:
    made = Memory.merge([OLD / "bank"], tmp_path / "new")
    assert [made[id] for id in made] == kept() and isinstance(made.store, Store)
    wanted = embed(Hashing(), kept())
    for what, rows in (("text", wanted.texts), ("image", wanted.images)):
        found = made.store.vectors(what)
        assert found is not None and found.has.tolist() == rows.any(1).tolist()
        np.testing.assert_allclose(found[:], rows, atol=2e-3)
    made.add(texts(1, 50), Hashing())
    assert len(Memory.open(tmp_path / "new", verify=True)) == 6


def test_a_bank_of_before_is_read_only() -> None:
    bank = Memory.open(OLD / "bank")
    for write in (lambda: bank.add(texts(1), Hashing()), lambda: bank.delete(["red"])):
        with pytest.raises(
            DataError, match="is of an earlier version, which is read only; `cm3 index build .*--out DIR`"
        ):
            write()
    with pytest.raises(
        DataError, match="is a memory bank of an earlier version; `cm3 index build .* makes a store of it"
    ):
        Store.open(OLD / "bank")


def test_a_damaged_bank_is_told(tmp_path: Path) -> None:
    names = ["segment-0001/documents.sqlite", "segment-0001/vectors.f32", "segment-0001/images.f16"]
    for name in [*names, "segment-0001/gone-000000001.npy"]:
        for change in (lambda d: d[:-3], lambda d: d[:-1] + bytes([d[-1] ^ 1]), None):
            copy = Path(shutil.copytree(OLD / "bank", tmp_path / "copy", dirs_exist_ok=True))
            data = (copy / name).read_bytes()
            (copy / name).write_bytes(change(data)) if change else (copy / name).unlink()
            with pytest.raises(DataError, match=f"{Path(name).name} (has|was altered|is missing)"):
                Memory.open(copy)
    copy = Path(shutil.copytree(OLD / "bank", tmp_path / "other"))
    page = json.loads((copy / "manifest.json").read_text())
    for place, value in (("name", "../bank/segment-0001"), ("rows", 10**9), ("files", {"../x": {}}), ("gone", True)):
        made = page | {"segments": [page["segments"][0] | {place: value}]}
        (copy / "manifest.json").write_text(json.dumps(made | {"sha256": checksum(made)}))
        with pytest.raises(DataError) as told:
            Memory.open(copy)
        assert "\n" not in str(told.value)


def test_the_bank_of_the_embedded_model_opens() -> None:
    bank = Memory.open(find("scenes") / "memory", verify=True)
    first = next(iter(bank))
    assert len(bank) > 100 and bank[first].images and bank.search(bank.vectors([first]), 1)[1][0, 0] > 0
