"""Training from token stores: every document of each once an epoch, in its share, with its neighbours before it."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import store_parts
from safetensors.numpy import save_file

from cm3.data.lanes import merge_states
from cm3.data.load import Loader
from cm3.data.neighbours import Neighbours, find_neighbours
from cm3.data.pack import Batch
from cm3.data.prepare import prepare
from cm3.data.store_source import Retrieval, StoreSource
from cm3.errors import ConfigError, DataError
from cm3.files import checksum, sha256
from cm3.retrieval.select import SelectLaw
from cm3.sequence.before import AugmentLaw
from cm3.sequence.mask import MaskLaw, cm3_unmask
from cm3.store.store import Store
from cm3.tokens.on_disk import load_tokenizers
from cm3.vocab import Tokens

SIZES = {"a": 13, "b": 29}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of one model, and one of a model with other masks."""
    root = tmp_path_factory.mktemp("stores")
    model = store_parts.tokenizers(root / "model")
    encoder = store_parts.encoder(root / "encoder")
    for seed, (name, count) in enumerate(SIZES.items()):
        store_parts.photos(root / f"photos_{name}", count, seed)
        prepare([f"{root}/photos_{name}"], root / name, model, unit=6, encoder=encoder)
    prepare([f"{root}/photos_a"], root / "masks", model, masks=8)
    return root


@pytest.fixture
def stores(root: Path) -> list[Store]:
    return [Store.open(root / name) for name in SIZES]


def loader(source: StoreSource, length: int = 160, **changes: object) -> Loader:
    settings = {"windows": 4, "length": length, "seed": 2} | changes
    return Loader(source, source.stores[0].vocab, MaskLaw(), **settings)  # type: ignore[arg-type]


def documents(batch: Batch, source: StoreSource) -> list[bytes]:
    """The documents of a batch, unmasked: their ids as bytes."""
    found = []
    for ids, cells, numbers in zip(batch.ids, batch.cells, batch.documents, strict=True):
        for n in range(1, numbers.max() + 1):
            tokens = cm3_unmask(Tokens.of(ids[numbers == n], cells[numbers == n]), source.stores[0].vocab)
            found.append(tokens.ids.astype(np.int32).tobytes())
    return found


def test_every_document_of_every_store_comes_once_an_epoch(stores: list[Store]) -> None:
    source = StoreSource(stores, [1, 1], seed=3)
    got = source.sequences(range(260))
    places = source.mixture.locate(range(260))
    for which, store in enumerate(stores):
        known = {t.ids.tobytes(): n for n, t in enumerate(store.tokens(range(len(store))))}
        mine = [known[t.ids.tobytes()] for t, s in zip(got, places.sources, strict=True) if s == which]
        epochs = [mine[i : i + len(store)] for i in range(0, len(mine) - len(store) + 1, len(store))]
        assert len(epochs) >= 4 and all(sorted(epoch) == list(range(len(store))) for epoch in epochs)
        assert epochs[0] != epochs[1]
    for tokens in got:
        assert (tokens.cells > 0).sum() == 16  # cells come with them


def test_documents_do_not_depend_on_which_are_asked_for_with_them(stores: list[Store]) -> None:
    source = StoreSource(stores, seed=3)
    together = source.sequences(range(40))
    for i in (0, 7, 39):
        alone = StoreSource(stores, seed=3).sequences([i])[0]
        assert np.array_equal(alone.ids, together[i].ids) and np.array_equal(alone.cells, together[i].cells)
    assert source.sequences([]) == []


def test_shares_are_as_asked(stores: list[Store]) -> None:
    assert StoreSource(stores).shares == pytest.approx((13 / 42, 29 / 42), abs=1e-5)
    source = StoreSource(stores, [3, 1])
    assert source.shares == (0.75, 0.25)
    assert Counter(source.mixture.locate(range(400)).sources.tolist())[0] == pytest.approx(300, abs=2)


def test_an_epoch_goes_through_the_loader_on_changing_ranks(stores: list[Store]) -> None:
    source = StoreSource(stores, seed=3)
    found: Counter[bytes] = Counter()
    state = None
    for ranks in (1, 2, 4, 2, 1, 4):
        steps: list[list[tuple]] = []
        for rank in range(ranks):
            made = loader(StoreSource(stores, seed=3), rank=rank, ranks=ranks, state=state)
            steps.append(list(itertools.islice(made, 3)))
            found.update(d for batch, _ in steps[-1] for d in documents(batch, source))
        state = merge_states([rank[-1][1] for rank in steps])
    assert state is not None
    waiting = [p for lane in state.lanes.values() for p in lane.waiting]
    found.update(t.ids.tobytes() for t in source.sequences(waiting))
    ahead = [p for n, lane in state.lanes.items() for p in range(n, lane.next, state.windows)]
    assert found == Counter(t.ids.tobytes() for t in source.sequences(ahead))
    assert state.documents > 2 * sum(SIZES.values())


def test_windows_of_stored_pictures_are_full(stores: list[Store]) -> None:
    made = loader(StoreSource(stores, seed=3), length=1024)
    list(itertools.islice(made, 8))
    assert made.counts.padding < 0.02 and made.counts.skipped == 0


@pytest.fixture(scope="module")
def table(root: Path) -> Path:
    """Neighbours of the documents of the store b among those of the store a; ids of the two are the same names."""
    law = SelectLaw(highest=1)  # to weights that are random all pictures are alike
    return find_neighbours([root / "b"], root / "a", root / "table", law=law).path


def test_neighbours_stand_before_their_example(stores: list[Store], table: Path) -> None:
    known, law = Neighbours.open(table), AugmentLaw((0.2, 0.2, 0.3, 0.3))
    a, b = stores
    plain = StoreSource([b], seed=3)
    source = StoreSource([b], seed=3, retrieval=Retrieval(known, a, law, 512))
    codec = load_tokenizers(table.parent / "model").codec
    lengths: Counter[int] = Counter()
    for position, (tokens, query) in enumerate(
        zip(source.sequences(range(200)), plain.sequences(range(200)), strict=True)
    ):
        number = int(plain.mixture.locate([position]).indices[0])
        assert tokens.ids[-query.length + 1 :].tolist() == query.ids[1:].tolist()
        whole = codec.decode(tokens)
        lengths[len(whole.images) - 1] += 1
        before = [p.text for p in whole.parts[:-2] if hasattr(p, "text")]
        of = [codec.decode(t).text for t in a.tokens([c.id for c in known.ranked(number)])]
        assert len(before) == len(whole.images) - 1 == len(set(before)) and set(before) <= set(of)
    assert all(lengths[k] > 3 for k in range(4))
    # What there is room for: a query, and one document of about its size.
    short = StoreSource([b], seed=3, retrieval=Retrieval(known, a, law, 80))
    assert max(t.length for t in short.sequences(range(100))) <= 80
    one = source.sequences([17])[0]
    assert np.array_equal(one.ids, source.sequences(range(30))[17].ids)


def test_of_several_stores_each_gets_its_own(root: Path, stores: list[Store], tmp_path: Path) -> None:
    (tmp_path / "words.jsonl").write_text('{"id": "other", "text": "words"}\n{"id": "more", "text": "some"}')
    prepare([f"{tmp_path}/words.jsonl"], tmp_path / "words", root / "model")
    words, (a, b) = Store.open(tmp_path / "words"), stores
    known = find_neighbours([a.path, b.path], a.path, tmp_path / "both", law=SelectLaw(highest=1))
    mixed = [b, words, a]
    plain = StoreSource(mixed, [1, 1, 1], seed=3)
    source = StoreSource(mixed, [1, 1, 1], seed=3, retrieval=Retrieval(known, a, AugmentLaw((0.0, 1.0)), 512))
    places = plain.mixture.locate(range(120))
    begins = {0: len(a), 2: 0}
    ids = {n: t.ids[1:-1].tolist() for n, t in enumerate(a.tokens(range(len(a))))}
    for which, number, tokens, query in zip(
        places.sources.tolist(),
        places.indices.tolist(),
        source.sequences(range(120)),
        plain.sequences(range(120)),
        strict=True,
    ):
        before = tokens.ids[1 : tokens.length - query.length].tolist()
        if which == 1:
            assert not before, "a store without vectors has no neighbours"
        else:
            assert before in [ids[c.id] for c in known.ranked(begins[which] + number)]


def test_the_bank_is_found_among_the_stores_or_given(root: Path, stores: list[Store], table: Path) -> None:
    law, (a, b) = AugmentLaw(), stores
    assert Retrieval.open(table, "", [b, a], law, 100).bank is a
    assert Retrieval.open(table, root / "a", [b], law, 100).bank.path == a.path
    told = (
        "table': name documents of the bank '.*/a', which is none of the stores, or was made anew since; give data.bank"
    )
    with pytest.raises(ConfigError, match=told):
        Retrieval.open(table, "", [b], law, 100)


def test_stores_that_do_not_fit_are_refused(root: Path, stores: list[Store], table: Path) -> None:
    with pytest.raises(DataError, match="stores: none given; name at least one folder that `cm3 prepare` wrote"):
        StoreSource([])
    other = Store.open(root / "masks")
    with pytest.raises(DataError, match="/masks': was prepared with another vocabulary than .*/a'; prepare both with"):
        StoreSource([stores[0], other])
    with pytest.raises(DataError, match="was prepared with another vocabulary"):
        StoreSource(stores, retrieval=Retrieval(Neighbours.open(table), other, AugmentLaw(), 100))
    model = Path(shutil.copytree(root / "model", root / "model2"))
    text = (model / "tokenizer.json").read_text()
    (model / "tokenizer.json").write_text(text + "\n")
    prepare([f"{root}/photos_a"], root / "text", model)
    with pytest.raises(DataError, match="/text': was prepared with another text tokenizer than"):
        StoreSource([stores[0], Store.open(root / "text")])
    with pytest.raises(ConfigError, match="must be one for each of 2"):
        StoreSource(stores, [1.0])


def test_a_table_of_other_documents_is_refused(root: Path, stores: list[Store], table: Path, tmp_path: Path) -> None:
    known, (a, b) = Neighbours.open(table), stores
    other = "table': are of other documents than those of the store '.*/a', or it was made anew since; make the table"
    for some in ([a], [a, b]):
        with pytest.raises(DataError, match=other):
            StoreSource(some, retrieval=Retrieval(known, a, AugmentLaw(), 100))
    with pytest.raises(
        DataError, match="table': name documents of the bank '.*/a', and '.*/b' is another, or was made"
    ):
        StoreSource([b], retrieval=Retrieval(known, b, AugmentLaw(), 100))
    # The same pictures, prepared otherwise since.
    again = prepare([f"{root}/photos_b"], tmp_path / "b", root / "model", max_text=9, encoder=root / "encoder")
    assert again.documents == len(b)
    with pytest.raises(DataError, match="are of other documents than those of the store"):
        StoreSource([Store.open(tmp_path / "b")], retrieval=Retrieval(known, a, AugmentLaw(), 100))
    few = StoreSource([b], retrieval=Retrieval(known, a, AugmentLaw(), 100), most=3)
    assert {t.ids.tobytes() for t in StoreSource([b], most=3).sequences(range(9))} == {
        t.ids.tobytes() for t in b.tokens(range(3))
    }
    assert few.sequences([0]), "a part of its store"


def test_a_store_without_documents_is_refused(root: Path, stores: list[Store], tmp_path: Path) -> None:
    empty = Path(shutil.copytree(root / "b", tmp_path / "b"))
    page = json.loads((empty / "manifest.json").read_text())
    none = np.zeros(0, np.int64)
    index = {"kept": none, "lengths": none.astype(np.int32), "has": none.astype(np.uint8)}
    index |= {"keys": none.astype(np.uint64), "numbers": none}
    save_file(index, empty / "index.safetensors")
    size = (empty / "index.safetensors").stat().st_size
    page["files"]["index.safetensors"] = {"bytes": size, "sha256": sha256(empty / "index.safetensors")}
    page |= {"documents": 0}
    (empty / "manifest.json").write_text(json.dumps(page | {"sha256": checksum(page)}))
    with pytest.raises(DataError, match="/b': has no document; leave it out"):
        StoreSource([stores[0], Store.open(empty)])
