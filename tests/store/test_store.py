"""Reading a token store: what was encoded comes back, by number and by id, from a disk and from far away."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import store_parts
from safetensors.numpy import load_file, save

from cm3.data.prepare import prepare
from cm3.document import Document
from cm3.errors import DataError
from cm3.files import checksum
from cm3.read.find import open_reader
from cm3.retrieval.embed import embed, load_encoder
from cm3.store.manifest import is_store
from cm3.store.record import Record
from cm3.store.shard import Batch, Shape, facts, key, pack
from cm3.store.store import Store
from cm3.store.write import duplicates
from cm3.tokens.on_disk import fingerprint, load_tokenizers
from cm3.vocab import Vocab

COUNT = 23


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokenizers, an encoder, pictures, and the store of them."""
    root = tmp_path_factory.mktemp("store")
    store_parts.tokenizers(root / "model")
    store_parts.photos(root / "photos", COUNT)
    store_parts.encoder(root / "encoder")
    prepare([f"{root}/photos"], root / "out", root / "model", unit=5, encoder=root / "encoder", license="CC0-1.0")
    return root


@pytest.fixture
def store(parts: Path) -> Store:
    return Store.open(parts / "out")


@pytest.fixture
def copy(parts: Path, tmp_path: Path) -> Path:
    """A store to be spoiled."""
    return Path(shutil.copytree(parts / "out", tmp_path / "out"))


def documents(parts: Path) -> list[Document]:
    found = list(open_reader(f"{parts}/photos"))
    assert all(isinstance(d, Document) for d in found)
    return [d for d in found if isinstance(d, Document)]


def test_tokens_are_those_of_the_codec(parts: Path, store: Store) -> None:
    codec = load_tokenizers(parts / "model").codec
    wanted = [codec.encode(d) for d in documents(parts)]
    assert len(store) == COUNT and store.vocab == codec.vocab
    assert store.lengths.tolist() == [t.length for t in wanted]
    order = np.random.default_rng(0).permutation(COUNT)
    for number, found in zip(order, store.tokens(order), strict=True):
        assert found.ids.dtype == found.cells.dtype == np.int32
        assert found.ids.tolist() == wanted[number].ids.tolist()
        assert found.cells.tolist() == wanted[number].cells.tolist()
    assert [t.ids.tolist() for t in store.tokens([3, 3])] == [wanted[3].ids.tolist()] * 2
    assert store.tokens([]) == []


def test_by_id_and_where_from(parts: Path, store: Store) -> None:
    for number, document in enumerate(documents(parts)):
        assert store.number(document.id) == store.number(document.id, "photos") == number
        about = store.about(number)
        assert (about.id, about.source, about.meta) == (document.id, "photos", {"license": "CC0-1.0"})
    with pytest.raises(DataError, match="has no document 'nobody'$"):
        store.number("nobody")
    with pytest.raises(DataError, match="has no document '000.png' of source 'flickr'"):
        store.number("000.png", "flickr")


def test_vectors_are_those_of_the_encoder_words_and_pictures_apart(parts: Path, store: Store) -> None:
    encoder = load_encoder(parts / "encoder")
    wanted = embed(encoder, documents(parts))
    assert store.encoder_name == encoder.name
    for what, rows in (("text", wanted.texts), ("image", wanted.images)):
        found = store.vectors(what)
        assert found is not None and found.shape == (COUNT, encoder.width) and found.dtype == np.float16
        assert found.has.all(), "each has words and a picture"
        np.testing.assert_allclose(found[:], rows, atol=1e-3)
        np.testing.assert_array_equal(found[np.array([[7, 2], [22, -1]])], np.asarray(found)[[[7, 2], [22, 22]]])
        np.testing.assert_array_equal(found[3:9], np.asarray(found)[3:9])
        assert found[5:5].shape == (0, encoder.width)
        with pytest.raises(IndexError, match="vectors: has rows 0 to 22"):
            found[np.array([23])]
    with pytest.raises(DataError, match="vectors 'sound': must be one of text, image"):
        store.vectors("sound")


def test_vectors_of_what_is_not_there_are_zeros_and_masked(parts: Path, tmp_path: Path) -> None:
    folder = store_parts.photos(tmp_path / "some", 2)
    (folder / "alone.txt").write_text("words alone")
    (folder / "001.txt").unlink()
    prepare([str(folder)], tmp_path / "out", parts / "model", unit=2, encoder=parts / "encoder")
    store = Store.open(tmp_path / "out")
    text, image = store.vectors("text"), store.vectors("image")
    assert text is not None and image is not None
    has = {id: (bool(t), bool(i)) for id, t, i in zip(store.ids(), text.has, image.has, strict=True)}
    assert has == {"000.png": (True, True), "001.png": (False, True), "alone.txt": (True, False)}
    assert not text[~text.has].any() and not image[~image.has].any()


def test_a_store_without_vectors_or_words_says_so(parts: Path, tmp_path: Path) -> None:
    prepare([f"{parts}/photos"], tmp_path / "bare", parts / "model", unit=50)
    bare = Store.open(tmp_path / "bare")
    assert bare.vectors("text") is None and bare.vectors("image") is None
    with pytest.raises(DataError, match="has no words; prepare it with --pictures, or with an encoder"):
        bare.document(0)


def test_documents_come_back_with_the_bytes_of_their_pictures(parts: Path, tmp_path: Path) -> None:
    prepare([f"{parts}/photos"], tmp_path / "out", None, unit=5, pictures=True)
    store = Store.open(tmp_path / "out")
    assert not store.has_tokens and store.vectors("text") is None
    for address in (str(tmp_path / "out"), far_copy(tmp_path / "out")):
        store = Store.open(address)
        assert [store.document(n) for n in range(COUNT)] == documents(parts)
        (picture,) = store.record(3).pictures
        assert picture.data == (parts / "photos" / "003.png").read_bytes()
        assert store.about(3).picture == picture.digest.hex() and store.pixels([3]) == [{picture.pixels}]
        store.verify()
    with pytest.raises(DataError, match="has no tokens; prepare it with a model"):
        store.tokens([0])
    with pytest.raises(DataError, match="has no pictures; prepare it with --pictures"):
        Store.open(parts / "out").document(0)
    assert Store.open(parts / "out").record(0).parts[0] == "a picture number 0 of 0", "words are kept with vectors"


def test_captions_of_one_picture_are_known_to_share_it(parts: Path, tmp_path: Path) -> None:
    folder = store_parts.photos(tmp_path / "some", 2)
    for i in range(4):
        shutil.copyfile(folder / "000.png", folder / f"copy{i}.png")
        (folder / f"copy{i}.txt").write_text(f"another caption {i}")
    digests = []
    for name, options in (("tokens", {}), ("whole", {"pictures": True})):
        prepare([str(folder)], tmp_path / name, parts / "model", **options)
        store = Store.open(tmp_path / name)
        digests.append([store.about(n).picture for n in range(len(store))])
        assert len(set(digests[-1])) == 2 and digests[-1].count(digests[-1][0]) == 5
    assert digests[0] == digests[1], "whether pictures are kept or not"
    whole = (tmp_path / "whole" / "shards" / "00000.pictures").stat().st_size
    assert whole == sum((folder / f"00{i}.png").stat().st_size for i in range(2)), "equal pictures are stored once"


def test_a_picture_that_was_altered_is_told_when_it_is_read(parts: Path, tmp_path: Path) -> None:
    prepare([f"{parts}/photos"], tmp_path / "out", None, unit=5, pictures=True)
    path = tmp_path / "out" / "shards" / "00001.pictures"
    data = bytearray(path.read_bytes())
    data[len(data) - 30] ^= 1
    path.write_bytes(data)
    store = Store.open(tmp_path / "out")
    assert store.document(5).images
    with pytest.raises(DataError, match=r"shards/00001.pictures was altered \(a picture of document 9\); restore it"):
        store.document(9)
    with pytest.raises(DataError, match="shards/00001.pictures was altered"):
        store.verify()


def test_the_same_id_of_two_sources_is_named_with_its_source(parts: Path, tmp_path: Path) -> None:
    store_parts.photos(tmp_path / "one", 3)
    store_parts.photos(tmp_path / "two", 2, seed=1)
    prepare([f"{tmp_path}/one", f"{tmp_path}/two"], tmp_path / "out", parts / "model")
    store = Store.open(tmp_path / "out")
    ids = list(store.ids())
    assert ids == ["one#000.png", "one#001.png", "002.png", "two#000.png", "two#001.png"]
    assert [store.number(id) for id in ids] == list(range(5)) and all(map(store.knows, ids))
    assert not store.knows("two#nobody") and (store.number("001.png", "one"), store.number("001.png", "two")) == (1, 4)
    assert store.number("one#002.png") == 2, "with its source where that is not needed, too"
    with pytest.raises(DataError, match="has several documents '001.png'; name one, as 'one#001.png'"):
        store.number("001.png")


@pytest.mark.parametrize("numbers", [[COUNT], [-1], [0, 10**9]])
def test_numbers_outside(store: Store, numbers: list[int]) -> None:
    with pytest.raises(IndexError, match="has documents 0 to 22, asked for"):
        store.tokens(numbers)


def far_copy(folder: Path) -> str:
    """The address of a copy of a store in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    if memory.exists("/far"):
        memory.rm("/far", recursive=True)
    for path in (p for p in folder.rglob("*") if p.is_file()):
        memory.pipe_file(f"/far/{path.relative_to(folder)}", path.read_bytes())
    return "memory://far"


def test_far_away_it_is_read_by_byte_ranges(parts: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    far = Store.open(far_copy(parts / "out"))
    numbers = [11, 0, 22, 12, 11]
    for near, other in zip(store.tokens(numbers), far.tokens(numbers), strict=True):
        assert near.ids.tolist() == other.ids.tolist() and near.cells.tolist() == other.cells.tolist()
    assert far.lengths.tolist() == store.lengths.tolist() and far.about(9) == store.about(9)
    assert far.number("009.png") == 9
    for what in ("text", "image"):
        np.testing.assert_array_equal(far.vectors(what)[numbers], store.vectors(what)[numbers])  # type: ignore[index]
    assert far.tokenizer_path.read_bytes() == store.tokenizer_path.read_bytes()
    assert far.info() == store.info()
    far.verify()
    # Of a shard that is open, a document's own bytes and no more.
    asked: list[int] = []
    ranges = far.place.far.cat_ranges
    monkeypatch.setattr(
        far.place.far, "cat_ranges", lambda p, a, b: asked.append(sum(b) - sum(a)) or ranges(p, a, b), raising=True
    )
    far.tokens([12])
    assert asked == [2 * int(store.lengths[12])]
    with pytest.raises(
        DataError, match="has no manifest.json; give a folder that `cm3 prepare` or `cm3 index build` wrote"
    ):
        Store.open("memory://nowhere")
    with pytest.raises(DataError, match="store 'nothing://here': cannot be reached"):
        Store.open("nothing://here")
    assert Store.open(f"file://{parts}/out").tokens([3])[0].ids.tolist() == store.tokens([3])[0].ids.tolist()


def test_verify_names_the_file_that_was_altered(parts: Path, copy: Path) -> None:
    calls: list[tuple[int, int]] = []
    Store.open(copy).verify(lambda done, total, label: calls.append((done, total)))
    assert calls == [(i, 8) for i in range(1, 9)], "5 shards, index, plan, tokenizer"
    shard = copy / "shards" / "00003.safetensors"
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="shards/00003.safetensors was altered"):
        Store.open(copy).verify()
    opened = Store.open(copy)
    opened.tokens([0])
    with pytest.raises(DataError, match="shards/00003.safetensors was altered"):
        opened.tokens([15])


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a store, and give it the checksum that it then has."""
    page = json.loads((folder / "manifest.json").read_text())
    change(page)
    page["sha256"] = checksum(page)
    (folder / "manifest.json").write_text(json.dumps(page))


def rewrite(folder: Path, name: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change tensors of a file of a store, and have the manifest say that it is so."""
    tensors = load_file(folder / name)
    change(tensors)
    data = save(tensors)
    (folder / name).write_bytes(data)

    def resign(page: dict[str, Any]) -> None:
        shards = name.startswith("shards")
        known = page["shards"][int(name[7:12])] if shards else page["files"][name]
        known.update(facts(data))

    forge(folder, resign)


def test_far_away_each_document_is_compared_with_its_own_hash(copy: Path) -> None:
    shard = copy / "shards" / "00003.safetensors"
    whole = shard.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    where = json.loads(whole[8 : 8 + header])["ids"]["data_offsets"][0] + 8 + header
    data = bytearray(whole)
    data[where + 4] ^= 1  # a token of document 15
    shard.write_bytes(data)
    for address in (far_copy(copy), str(copy)):
        store = Store.open(address, check=False)
        assert len(store.tokens([14, 16])) == 2
        with pytest.raises(DataError, match=r"00003.safetensors has tokens that were altered .* in document 15;"):
            store.tokens([16, 15])
        with pytest.raises(DataError, match="00003.safetensors was altered"):
            Store.open(address, check=True).tokens([16])
    names = json.loads(whole[8 : 8 + header])["names"]["data_offsets"][0] + 8 + header
    data = bytearray(whole)
    data[whole.index(b'"015.png"', names) + 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"00003.safetensors has a name that is none, in document 15;"):
        Store.open(far_copy(copy)).about(15)


def test_token_ids_outside_the_vocabulary_are_told(copy: Path, store: Store) -> None:
    rewrite(copy, "shards/00001.safetensors", lambda t: t["ids"].__setitem__(3, store.vocab.size))
    opened = Store.open(copy)
    told = rf"00001.safetensors has token ids outside its vocabulary of {store.vocab.size}, in document 5;"
    with pytest.raises(DataError, match=told):
        opened.tokens([6, 5])
    assert opened.tokens([6])[0].ids.tolist() == store.tokens([6])[0].ids.tolist()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("starts"), "must hold names, name_starts, .*, ids, starts"),
        (lambda t: t.update(ids=t["ids"].astype(np.int32)), r"must hold ids as uint16 \(n\)"),
        (lambda t: t.update(images=t["images"][:-1]), r"must hold images as int32 \(5\)"),
        (lambda t: t.update(text=t["text"][:, :3].copy()), r"must hold text as float16 \(5, 16\)"),
        (lambda t: t["starts"].__setitem__(2, 10**6), "has starts that are no places of its ids"),
        (lambda t: t["starts"].__setitem__(0, -1), "has starts that are no places of its ids"),
        (lambda t: t["starts"].__setitem__(1, t["starts"][1] - 1), "has other lengths than the index says"),
        (lambda t: t["name_starts"].__setitem__(-1, 1), "has name_starts that are no places of its names"),
        (lambda t: t["names"].fill(0x5B), "has a name that is none, in document 5"),
        (lambda t: t["names"].fill(0xFF), "has a name that is none, in document 5"),
    ],
)
def test_a_shard_of_another_layout_is_told(copy: Path, change: Callable[[dict[str, Any]], object], told: str) -> None:
    rewrite(copy, "shards/00001.safetensors", change)
    with pytest.raises(DataError, match=f"shards/00001.safetensors {told}"):
        store = Store.open(copy)
        store.tokens(range(10))
        store.about(5)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["kept"].__setitem__(-1, 10**15),
        lambda t: t["kept"].__setitem__(0, -1),
        lambda t: t["kept"].__setitem__(3, 2),
        lambda t: t["numbers"].__setitem__(0, 99),
        lambda t: t["lengths"].__setitem__(0, -5),
        lambda t: t.update(kept=t["kept"][:-1]),
        lambda t: t.pop("keys"),
    ],
)
def test_an_index_of_documents_that_are_not_there_is_told(
    copy: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    rewrite(copy, "index.safetensors", change)
    with pytest.raises(DataError, match=r"index.safetensors (names documents that are not there|must hold)"):
        Store.open(copy)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "has no header"),
        (b"\xff" * 20, "has no header"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "has no header"),
        ((9).to_bytes(8, "little") + b"not json ", "is not readable JSON"),
        ((60_000).to_bytes(8, "little") + b"[" * 60_000, "nested too deep|not readable JSON"),
        ((2).to_bytes(8, "little") + b"[]", "must hold kept"),
    ],
)
def test_a_header_that_is_none_is_told(copy: Path, data: bytes, told: str) -> None:
    (copy / "index.safetensors").write_bytes(data)
    forge(copy, lambda page: page["files"]["index.safetensors"].update(facts(data)))
    with pytest.raises(DataError, match=f"index.safetensors.*({told})"):
        Store.open(copy)


ODD = [None, True, -1, 1.5, 10**30, "x", "", [], [None], {}, {"x": 1}]


def test_odd_manifests_are_told(copy: Path) -> None:
    """Whatever stands in a field, it is read as it was or refused in words."""
    text = (copy / "manifest.json").read_text()
    page = json.loads(text)
    places: list[list[Any]] = [[name] for name in page if name != "sha256"]
    places += [["vocab", name] for name in page["vocab"]] + [
        ["image_tokenizer", name] for name in page["image_tokenizer"]
    ]
    places += [["shards", 0], *(["shards", 1, name] for name in page["shards"][1])]
    places += [["files", "index.safetensors"], ["files", "index.safetensors", "sha256"]]
    refused = 0

    def put(page: dict[str, Any], place: list[Any], value: Any) -> None:
        for step in place[:-1]:
            page = page[step]
        page[place[-1]] = value

    for place in places:
        for value in ODD:
            forge(copy, lambda page, place=place, value=value: put(page, place, value))  # type: ignore[misc]
            try:
                store = Store.open(copy)
                store.tokens(range(len(store)))
                store.about(0)
                store.tokenizer_path  # noqa: B018
                store.verify()
                store.info()
            except DataError as error:
                assert str(copy) in str(error) and "\n" not in str(error)
                refused += 1
            (copy / "manifest.json").write_text(text)
    assert refused > len(places) * len(ODD) / 2


def test_a_manifest_names_no_file(copy: Path) -> None:
    secret = copy.parent / "secret"
    secret.write_text("mine")
    forge(copy, lambda page: page["files"].update({"../secret": facts(b"mine")}))
    with pytest.raises(DataError, match=r"manifest.json: files: must be index.safetensors, plan.json, tokenizer.json$"):
        Store.open(copy)


@pytest.mark.parametrize("name", ["manifest.json", "index.safetensors", "shards/00001.safetensors", "tokenizer.json"])
def test_links_that_lead_outside_are_refused(copy: Path, name: str) -> None:
    def read() -> None:
        store = Store.open(copy)
        store.tokens(range(len(store)))
        _ = store.tokenizer_path

    outside = copy.parent / "elsewhere"
    shutil.move(copy / name, outside)
    (copy / name).symlink_to(outside)
    with pytest.raises(DataError, match=f"'{name}' is a link that leads outside"):
        read()
    # A link to another file of the store is as good as the file, and a folder is none.
    (copy / name).unlink()
    shutil.move(outside, copy / "shards" / "moved")
    (copy / name).symlink_to(copy / "shards" / "moved")
    read()
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(DataError, match=f"{name} is (no file|missing)"):
        read()


@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(copy: Path) -> None:
    for name in ("index.safetensors", "tokenizer.json", "manifest.json"):
        data = (copy / name).read_bytes()
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(DataError, match=f"{name} is no file"):
            Store.open(copy).check_files()
        (copy / name).unlink()
        (copy / name).write_bytes(data)
    assert len(Store.open(copy)) == COUNT


def test_what_is_wrong_is_seen_at_opening(copy: Path) -> None:
    shard = copy / "shards" / "00001.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"00001.safetensors has {len(data) - 1} bytes, not {len(data)}; restore"):
        Store.open(copy)
    shard.unlink()
    with pytest.raises(DataError, match="00001.safetensors is missing; restore"):
        Store.open(copy)
    shard.write_bytes(data)
    manifest = copy / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"documents": 23', '"documents": 24'))
    with pytest.raises(DataError, match="manifest.json was altered"):
        Store.open(copy)
    manifest.write_text(text.replace('"format": 2', '"format": 9'))
    with pytest.raises(DataError, match="is of format 9, this version reads 2"):
        Store.open(copy)
    manifest.write_text("{}")
    with pytest.raises(DataError, match="is not a store's"):
        Store.open(copy)
    manifest.write_text("{")
    with pytest.raises(DataError, match="manifest.json: is not readable JSON"):
        Store.open(copy)
    manifest.unlink()
    assert is_store(copy)
    with pytest.raises(
        DataError,
        match="is not finished, as it has no manifest.json; run the `cm3 prepare` that began it again, it goes on",
    ):
        Store.open(copy)
    (copy / "plan.json").unlink()
    assert not is_store(copy)
    with pytest.raises(DataError, match="has no manifest.json; give a folder that"):
        Store.open(copy)
    manifest.write_text(text)
    (copy / "index.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(DataError, match="index.safetensors was altered"):
        Store.open(copy)


def test_info_counts(store: Store, parts: Path) -> None:
    info = store.info()
    assert (info["documents"], info["shards"]) == (COUNT, 5)
    assert info["sources"] == {"photos": COUNT} and info["licenses"] == {"CC0-1.0": COUNT}
    assert info["tokens"] == int(store.lengths.sum()) and info["image_tokens"] == 16 * COUNT
    assert info["from"] == [f"{parts}/photos"]
    assert store.image_fingerprint == fingerprint(load_tokenizers(parts / "model").codec.image)  # type: ignore[arg-type]
    json.dumps(info)


def test_a_fingerprint_names_what_a_store_holds(parts: Path, store: Store, copy: Path, tmp_path: Path) -> None:
    assert store.fingerprint == Store.open(copy).fingerprint == store.manifest["sha256"], "wherever it is"
    prepare([f"{parts}/photos"], tmp_path / "other", parts / "model", unit=5, max_text=9)
    assert Store.open(tmp_path / "other").fingerprint != store.fingerprint


def test_a_shard_is_safetensors_of_the_described_layout(parts: Path, tmp_path: Path) -> None:
    found = load_file(parts / "out/shards/00000.safetensors")
    assert {n: (str(t.dtype), t.shape[1:]) for n, t in found.items()} == {
        "ids": ("uint16", ()),
        "starts": ("int64", ()),
        "images": ("int32", ()),
        "names": ("uint8", ()),
        "name_starts": ("int64", ()),
        "name_sums": ("uint64", ()),
        "shown": ("uint8", (16,)),
        "shown_starts": ("int64", ()),
        "pixels": ("uint8", (16,)),
        "digests": ("uint8", (16,)),
        "keys": ("uint64", (2,)),
        "text": ("float16", (16,)),
        "image": ("float16", (16,)),
    }
    assert found["starts"].tolist()[-1] == len(found["ids"]) and len(found["starts"]) == 6
    wide = tmp_path / "wide"
    batch = Batch([Record("a", "", {})], [np.array([2, 65_536, 2])], [0])
    wide.write_bytes(save(pack(batch, Shape(65_537, None, False, False))[0]))
    assert load_file(wide)["ids"].dtype == np.int32 and load_file(wide)["ids"].tolist() == [2, 65_536, 2]
    assert Vocab().size == 1 << 16, "the paper's vocabulary fits 16 bits"


def one_by_one(digests: list[int], keys: list[int]) -> list[int]:
    """Why each document is dropped, as the docstring of `finish` says it."""
    contents, names, found = set[int](), set[int](), []
    for content, name in zip(digests, keys, strict=True):
        why = 1 if content in contents else 2 if name in names else 0
        found.append(why)
        if not why:
            contents.add(content)
            names.add(name)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_duplicates_are_those_of_the_plain_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contents, names = rng.integers(0, 12, 30), rng.integers(0, 12, 30)
    digests = np.zeros((30, 16), np.uint8)
    digests[:, 15] = contents
    keys = np.array([(key(str(n)), key("s")) for n in names], np.uint64)
    assert duplicates(digests, keys).tolist() == one_by_one(contents.tolist(), names.tolist())
