"""The table of neighbours: what selection gives, no own picture, made on after a kill, told when damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import store_parts
from forks import forks
from ray_head import Head
from safetensors.numpy import load_file, save_file

from cm3.data import neighbours
from cm3.data.neighbours import Neighbours, find_neighbours
from cm3.data.prepare import prepare
from cm3.errors import CheckpointError, ConfigError, DataError, RequestError
from cm3.files import checksum, locked, sha256
from cm3.retrieval.select import SelectLaw
from cm3.retrieval.store_bank import StoreBank, known_by, lay_bank, neighbours_of
from cm3.store.store import Store

NUMBER = 23
ANY = SelectLaw(highest=1)
"""For an encoder whose weights are random, to which all pictures are alike."""


class About(NamedTuple):
    own: str
    source: str
    pictures: tuple[str, ...]


class Made:
    """A store in memory, of the vectors that a test draws: the part of a store that is read for neighbours."""

    encoder_name = "made"

    def __init__(self, names: Sequence[About], texts: np.ndarray, images: np.ndarray) -> None:
        self.names, self.texts, self.images = list(names), texts.astype(np.float16), images.astype(np.float16)
        self.path = self.fingerprint = hashlib.sha256(repr(self.names).encode() + self.texts.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def about(self, number: int) -> About:
        return self.names[number]

    def vectors(self, of: Literal["text", "image"]) -> np.ndarray:
        return self.texts if of == "text" else self.images


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


def captioned(pictures: int = 60, captions: int = 5, width: int = 64) -> Made:
    """Five captions a picture, at cosines as CLIP's: 0.3 of caption and picture, 0.8 of two captions of one picture.

    Every fourth picture is much like the one before it, and every eighth is the same, saved again.
    """
    rng = np.random.default_rng(0)
    things = unit(rng.normal(size=(pictures, width)))
    for i in range(pictures):
        if i % 4 == 3:
            things[i] = unit(things[i - 1] + (0.05 if i % 8 == 7 else 0.8) * things[i])
    turned = np.linalg.qr(rng.normal(size=(width, width)))[0]
    shown = unit(0.3 * things + 0.95 * unit(things @ turned))
    names, texts, images = [], [], []
    for i in range(pictures):
        for c in range(captions):
            names.append(About(f"{i}#{c}", "coco", (f"file {i}",)))
            texts.append(unit(things[i] + 0.5 * unit(rng.normal(size=width))))
            images.append(shown[i])
    return Made(names, np.stack(texts), np.stack(images))


def laid(store: Made, folder: Path, kind: str = "exact") -> StoreBank:
    folder.mkdir()
    lay_bank(store, folder, kind)
    return StoreBank(store, folder, kind)


def picture_of(store: Made, number: int) -> int:
    return int(store.names[number].own.partition("#")[0])


def alike(store: Made, a: int, other: Made, b: int) -> float:
    return float(unit(store.images[a].astype(float)) @ unit(other.images[b].astype(float)))


@pytest.mark.parametrize("highest", [0.9, 1.0])
def test_no_document_of_five_captions_finds_its_own_picture(tmp_path: Path, highest: float) -> None:
    store, law = captioned(), SelectLaw(highest=highest)
    bank = laid(store, tmp_path / "bank")
    nearest, _ = bank.search(unit(store.texts.astype(np.float32)), 5)
    own = np.mean([picture_of(store, n) == picture_of(store, f) for n, row in enumerate(nearest) for f in row])
    assert own > 0.5, "what a search alone would find"
    found = neighbours_of(bank, store, range(len(store)), law)
    assert min(map(len, found)) >= 3
    pairs = [(n, c.id) for n, row in enumerate(found) for c in row]
    assert [p for p in pairs if picture_of(store, p[0]) == picture_of(store, p[1])] == []
    near = [p for p in pairs if alike(store, p[0], store, p[1]) > 0.9]
    assert bool(near) == (highest == 1), "a picture saved again is kept out by the cosine alone"
    assert all(c.whole and len({c.id for c in row}) == len(row) for row in found for c in row)


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_nor_in_another_store_by_name_by_picture_or_by_likeness(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("faiss")
    store = captioned(250)
    texts, images = (np.concatenate([a, a[:1]]) for a in (store.texts, store.images))
    by_name = Made([n._replace(pictures=()) for n in store.names] + [About("9999#0", "", ())], texts, images)
    by_picture = Made([n._replace(source="b") for n in store.names], store.texts, store.images)
    by_likeness = Made([n._replace(source="b", pictures=()) for n in store.names], store.texts, store.images)
    for number, (other, law) in enumerate([(by_name, ANY), (by_picture, ANY), (by_likeness, SelectLaw())]):
        assert other.fingerprint != store.fingerprint
        found = neighbours_of(laid(other, tmp_path / f"{number}", kind), store, range(300), law)
        assert sum(map(len, found)) > 800
        pairs = [(n, c.id) for n, row in enumerate(found) for c in row]
        if other is by_name:  # which knows nothing of pictures: it is the document itself that stays out
            assert [p for p in pairs if store.names[p[0]][:2] == other.names[p[1]][:2]] == []
        else:
            assert [p for p in pairs if picture_of(store, p[0]) == picture_of(other, p[1])] == []


def test_the_same_words_do_not_come_again(tmp_path: Path) -> None:
    """Also under another picture; where the words are short of some, it is all of them that are compared."""
    rng = np.random.default_rng(1)
    texts, images = unit(rng.normal(size=(30, 32))), unit(rng.normal(size=(30, 32)))
    texts[7] = texts[3]
    store = Made([About(str(i), "", (str(i),)) for i in range(30)], texts, images)
    bank = laid(store, tmp_path / "bank")
    less = unit(store.texts.astype(np.float32) + 0.1 * rng.normal(size=(30, 32)).astype(np.float32))
    for searched in (None, less):
        found = [[c.id for c in row] for row in neighbours_of(bank, store, range(30), ANY, searched)]
        assert 7 not in found[3] and 3 not in found[7] and all(len(row) == 4 for row in found)


def test_documents_without_vectors_are_not_found_and_find_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    texts, images = unit(rng.normal(size=(20, 16))), unit(rng.normal(size=(20, 16)))
    texts[::2], images[::4] = 0, 0  # 0, 4, 8 ... have neither, 2, 6 ... a picture alone
    images[1] = 0
    store = Made([About(str(i), "", ()) for i in range(20)], texts, images)
    bank = laid(store, tmp_path / "bank")
    assert len(bank) == 15 and bank.whole([0, 1, 2, 3]) == [False, False, False, True]
    found = neighbours_of(bank, store, range(20), ANY)
    assert [n for n, row in enumerate(found) if not row] == [0, 4, 8, 12, 16]
    assert all(c.id % 4 for row in found for c in row)
    assert all(c.whole for n, row in enumerate(found) for c in row if n % 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores with vectors, and what they were made with."""
    root = tmp_path_factory.mktemp("stores")
    store_parts.tokenizers(root / "model")
    store_parts.encoder(root / "encoder")
    for seed, (name, count) in enumerate({"one": NUMBER, "two": 31}.items()):
        store_parts.photos(root / f"photos_{name}", count, seed)
        prepare([f"{root}/photos_{name}"], root / name, root / "model", unit=9, encoder=root / "encoder")
    return root


def made(root: Path, out: Path, stores: Sequence[str] = ("one",), bank: str = "two", **settings: Any) -> Neighbours:
    return find_neighbours([root / s for s in stores], root / bank, out, **{"law": ANY, "block": 4} | settings)


def everything(table: Neighbours) -> list[list[tuple[int, float, str, bool]]]:
    return [[(c.id, c.score, c.by, c.whole) for c in table.ranked(row)] for row in range(len(table))]


@pytest.mark.parametrize("block", [1, 5, 23, 100])
def test_a_table_holds_what_selection_gives(root: Path, tmp_path: Path, block: int) -> None:
    seen: list[tuple[int, int, str]] = []
    table = made(root, tmp_path / "t", ["one", "two"], block=block, progress=lambda *at: seen.append(at))
    stores = [Store.open(root / name) for name in ("one", "two")]
    (tmp_path / "parts").mkdir()
    lay_bank(stores[1], tmp_path / "parts", "exact")
    bank = StoreBank(stores[1], tmp_path / "parts", "exact")
    want = [row for store in stores for row in neighbours_of(bank, store, range(len(store)), ANY)]
    for row, expected in zip(everything(table), want, strict=True):
        assert row == [(c.id, pytest.approx(c.score, abs=1e-5), c.by, c.whole) for c in expected]
    assert [table.begin(store) for store in stores] == [0, NUMBER]
    assert table.begin(Made([], np.zeros((0, 2)), np.zeros((0, 2)))) is None
    assert seen[-1] == (NUMBER + 31, NUMBER + 31, "neighbours")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "t"]
    assert everything(Neighbours.open(tmp_path / "t")) == everything(table)
    assert sum(table.counts()) == len(table) and sum(n * f for f, n in enumerate(table.counts())) == sum(map(len, want))


def test_by_words_less_some_as_the_paper_does(root: Path, tmp_path: Path) -> None:
    plain = made(root, tmp_path / "plain", ["two"])
    encoder = root / "encoder"
    none = made(root, tmp_path / "none", ["two"], law=dataclasses.replace(ANY, dropout=0), encoder=encoder)
    for row, other in zip(everything(plain), everything(none), strict=True):
        # Words embedded anew are those that were kept, but for the rounding of what is kept.
        assert [score for _, score, _, _ in row] == pytest.approx([score for _, score, _, _ in other], abs=2e-3)
    law = dataclasses.replace(ANY, dropout=0.6)
    found = [everything(made(root, tmp_path / f"{n}", ["two"], law=law, encoder=encoder, seed=n % 2)) for n in range(3)]
    assert found[0] == found[2] != found[1] and found[0] != everything(plain)
    assert all(n not in [c[0] for c in row] for some in found for n, row in enumerate(some))
    # The words are those that the store keeps: it need not have tokens.
    prepare([f"{root}/photos_two"], tmp_path / "words", None, unit=9, encoder=encoder)
    less = find_neighbours([tmp_path / "words"], root / "two", tmp_path / "less", law=law, block=4, encoder=encoder)
    assert everything(less) == found[0]


def test_a_document_is_known_by_the_id_that_its_source_gave_it(root: Path, tmp_path: Path) -> None:
    prepare([f"{root}/photos_one", f"{root}/photos_two"], tmp_path / "both", None, unit=9, encoder=root / "encoder")
    one, both = Store.open(root / "one"), Store.open(tmp_path / "both")
    at = both.number("000.png", "photos_one")
    assert both.about(at).id == "photos_one#000.png" and both.about(at).own == one.about(0).id == "000.png"
    assert known_by(both.about(at)) == known_by(one.about(0))
    assert not known_by(one.about(0)) & known_by(both.about(both.number("000.png", "photos_two")))


class Killed(Exception):
    """Stands for a kill between two blocks."""


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each search has had."""
    search, seen = StoreBank.search, list[int]()

    def counted(self: StoreBank, vectors: np.ndarray, k: int) -> tuple[list[list[int]], np.ndarray]:
        seen.append(len(vectors))
        return search(self, vectors, k)

    monkeypatch.setattr(StoreBank, "search", counted)
    return seen


def killed_at(root: Path, path: Path, at: int, **settings: Any) -> None:
    def stop(done: int, of: int, what: str) -> None:
        if what == "neighbours" and done == at:
            raise Killed

    with pytest.raises(Killed):
        made(root, path, progress=stop, **settings)


def test_a_killed_run_goes_on_where_it_was(root: Path, tmp_path: Path, searched: list[int]) -> None:
    whole, path = made(root, tmp_path / "whole"), tmp_path / "t"
    killed_at(root, path, 12)
    assert not path.exists() and (tmp_path / "t.parts").is_dir()
    (tmp_path / "t.parts" / ".000000003.safetensors.00000077.part").write_bytes(
        b"half"
    )  # what a kill in mid-write leaves
    searched.clear()
    assert everything(made(root, path)) == everything(whole)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sum(searched) == 2 * (NUMBER - 12), "by text and by image, for those that were left"
    searched.clear()
    assert everything(made(root, path)) == everything(whole) and not searched, "a finished table is opened"
    path.write_bytes(path.read_bytes()[:-5])
    assert everything(made(root, path)) == everything(whole) and searched, "and damaged, it is made anew"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t", "whole"]


def test_another_job_does_not_go_on_with_this_one(root: Path, tmp_path: Path) -> None:
    jobs: list[dict[str, Any]] = [
        {},
        {"law": dataclasses.replace(ANY, by_text=1)},
        {"bank": "one"},
        {"stores": ["two"]},
        {"encoder": root / "encoder"},
        {"encoder": root / "encoder", "seed": 1},
    ]
    for number, (before, job) in enumerate(zip(jobs, jobs[1:], strict=False)):
        path = tmp_path / f"{number}"
        killed_at(root, path, 8, **before)
        want = everything(made(root, tmp_path / "want", **job))
        assert everything(made(root, path, **job)) == want
        # A finished table of another job is replaced.
        assert everything(made(root, path, **before)) != want


def test_a_damaged_part_is_made_again(root: Path, tmp_path: Path, searched: list[int]) -> None:
    whole, path = made(root, tmp_path / "whole"), tmp_path / "t"
    killed_at(root, path, 16)
    parts = sorted((tmp_path / "t.parts").glob("0*.safetensors"))
    assert len(parts) == 4
    data, third = parts[0].read_bytes(), parts[3].read_bytes()
    parts[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    parts[1].write_bytes(data[:50])
    parts[2].write_bytes(third)  # whole, and another's
    (tmp_path / "t.parts" / "stranger.safetensors").write_bytes(data)
    searched.clear()
    assert everything(made(root, path)) == everything(whole)
    assert sum(searched) == 2 * (NUMBER - 4), "three parts of four again, beside those that were left"
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    # A link in the place of the folder of parts is not followed.
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    (tmp_path / "u.parts").symlink_to(mine)
    with pytest.raises(DataError, match=r"u.parts' is no folder of ours; move it away"):
        made(root, tmp_path / "u")
    assert (mine / "letter.txt").read_text() == "dear"


def test_training_draws_some_of_them(root: Path, tmp_path: Path) -> None:
    table = made(root, tmp_path / "t")
    row = next(n for n in range(NUMBER) if len(table.ranked(n)) == 4)
    every = [c.id for c in table.ranked(row)]
    for k in range(4):
        assert table.of(row, k) == every[:k]
        draws = [table.of(row, k, np.random.default_rng(s)) for s in range(60)]
        assert draws == [table.of(row, k, np.random.default_rng(s)) for s in range(60)]
        assert all(len(d) == k == len(set(d)) for d in draws)
    assert {d for draw in draws for d in draw} == set(every)
    assert len({tuple(d) for d in draws}) > 12
    with pytest.raises(RequestError, match="k=4: must be 0 to 3 documents"):
        table.of(row, 4)


def made_there(head: Head, root: Path, out: Path) -> None:
    """The same on a cluster."""
    os.environ |= head.env
    made(root, out, block=8, cluster=head.node, workers=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_finds_what_this_machine_finds(ray_head: Head, root: Path, tmp_path: Path) -> None:
    here = made(root, tmp_path / "here", block=8)
    killed_at(root, tmp_path / "there", 8, block=8)
    process = forks().Process(target=made_there, args=(ray_head, root, tmp_path / "there"))
    process.start()
    process.join()
    assert process.exitcode == 0
    there = Neighbours.open(tmp_path / "there")
    assert everything(there) == [
        [(*c[:1], pytest.approx(c[1], abs=1e-5), *c[2:]) for c in row] for row in everything(here)
    ]


def changed(store: Path, to: Path, **says: str) -> Path:
    """A copy of a store that says other things of itself."""
    shutil.copytree(store, to)
    page = json.loads((to / "manifest.json").read_text()) | says
    (to / "manifest.json").write_text(json.dumps(page | {"sha256": checksum(page)}))
    return to


def without_vectors(store: Path, to: Path) -> Path:
    """A copy of a store whose vectors are all zeros."""
    shutil.copytree(store, to)
    page = json.loads((to / "manifest.json").read_text())
    for number, facts in enumerate(page["shards"]):
        path = to / f"shards/{number:05d}.safetensors"
        tensors = load_file(path)
        save_file({name: t * 0 if t.dtype == np.float16 else t for name, t in tensors.items()}, path)
        facts.update(bytes=path.stat().st_size, sha256=sha256(path))
    (to / "manifest.json").write_text(json.dumps(page | {"sha256": checksum(page)}))
    return to


def test_stores_that_have_no_neighbours_are_refused(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    prepare([f"{root}/photos_one"], tmp_path / "bare", root / "model")
    for stores, bank in (([tmp_path / "bare"], root / "one"), ([root / "one"], tmp_path / "bare")):
        with pytest.raises(
            DataError, match="store '.*/bare': has no vectors; prepare it with an encoder, `cm3 prepare --"
        ):
            find_neighbours(stores, bank, out)
    other = changed(root / "one", tmp_path / "other", encoder="clip:other")
    with pytest.raises(
        DataError, match="other': was prepared with the encoder 'clip:other', the bank '.*two' with 'pairs:"
    ):
        find_neighbours([other], root / "two", out)
    with pytest.raises(DataError, match="store '.*one': is given twice; give each once"):
        made(root, out, ["one", "one"])
    with pytest.raises(DataError, match="neighbours: no store given; name at least one"):
        made(root, out, [])
    store_parts.encoder(tmp_path / "another", seed=1)
    with pytest.raises(
        DataError, match="another': is 'pairs:.*', and the bank '.*two' was prepared with 'pairs:.*'; give that one"
    ):
        made(root, out, encoder=tmp_path / "another")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(DataError, match="other': none of its documents has a vector; prepare it with an encoder"):
        find_neighbours([root / "one"], without_vectors(root / "two", tmp_path / "other"), out)
    with pytest.raises(ConfigError, match="block=0: must be at least 1"):
        made(root, out, block=0)
    with pytest.raises(ConfigError, match="index 'flat': must be one of auto, exact, ivf, pq"):
        made(root, out, index="flat")
    with pytest.raises(DataError, match="is a folder; give a file"):
        made(root, tmp_path)
    with (
        locked(tmp_path / "t.lock", "test"),
        pytest.raises(DataError, match="neighbours '.*t': another process is writing to it; wait until it ends"),
    ):
        made(root, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["another", "bare", "other"]


def test_without_ray_nothing_is_left(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--cluster needs Ray"):
        made(root, tmp_path / "t", cluster="local")
    assert list(tmp_path.iterdir()) == []
    killed_at(root, tmp_path / "t", 8)
    with pytest.raises(ConfigError, match="--cluster needs Ray"):
        made(root, tmp_path / "t", cluster="local")
    assert len(list((tmp_path / "t.parts").glob("0*.safetensors"))) == 2


def test_a_damaged_or_foreign_table_is_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "t"
    with pytest.raises(CheckpointError, match=r"neighbours '.*': no such file; make the table first, `cm3 neighbours`"):
        Neighbours.open(path)
    table = made(root, path)
    with pytest.raises(DataError, match="name documents of the bank '.*two', and '.*one' is another, or was made anew"):
        table.check_bank(Store.open(root / "one"))
    table.check_bank(Store.open(root / "two"))
    good = path.read_bytes()
    (tmp_path / "cut").write_bytes(good[:-9])
    with pytest.raises(CheckpointError, match="damaged .*; make the table again"):
        Neighbours.open(tmp_path / "cut")
    (tmp_path / "flipped").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"was altered \(its checksum is another\); make the table again"):
        Neighbours.open(tmp_path / "flipped")
    # Words of its header, which no tensor holds.
    for old, new in ((b"pairs:", b"clips:"), (b'"I64"', b'"F64"'), (b"by_text", b"by_tent")):
        assert good.count(old)
        (tmp_path / "flipped").write_bytes(good.replace(old, new))
        with pytest.raises(CheckpointError, match="flipped'.*make (it|the table) again"):
            Neighbours.open(tmp_path / "flipped")
    with pytest.raises(CheckpointError, match="is no file; make the table again"):
        Neighbours.open(tmp_path)
    save_file({"a": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="is no table of format cm3-neighbours-3; make it again"):
        Neighbours.open(tmp_path / "other")


@pytest.mark.parametrize(
    "change",
    [
        lambda t, a: t.update(rows=t["rows"][1:], scores=t["scores"][1:], kinds=t["kinds"][1:]),
        lambda t, a: t["rows"].fill_(10**6),
        lambda t, a: t["rows"].fill_(-2),
        lambda t, a: a.pop("encoder"),
        lambda t, a: a.update(encoder=7),
        lambda t, a: a.update(stores=None),
        lambda t, a: a.update(stores=[{"path": "x"}]),
        lambda t, a: a.pop("bank"),
        lambda t, a: a["bank"].update(documents="many"),
        lambda t, a: a["bank"].update(more=1),
        lambda t, a: a["stores"][0].update(documents=-1),
    ],
)
def test_a_table_that_is_none_is_told(
    root: Path, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]
) -> None:
    """With a checksum that is right, as somebody might write one."""
    made(root, tmp_path / "t", block=100)
    about, tensors = neighbours._read(tmp_path / "t")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors, about)
    neighbours._lay(tmp_path / "t", {k: v for k, v in about.items() if k != "sha256"}, lambda: [tensors])
    with pytest.raises(CheckpointError, match="neighbours '.*t'"):
        Neighbours.open(tmp_path / "t")
