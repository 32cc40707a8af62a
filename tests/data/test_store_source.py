"""Training from token stores: every document of each once an epoch, in its share, with its neighbours before it."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import store_parts

from cm3.data.lanes import merge_states
from cm3.data.load import Loader
from cm3.data.neighbours import Neighbours
from cm3.data.pack import Batch
from cm3.data.prepare import prepare
from cm3.data.store_source import Retrieval, StoreSource
from cm3.document import Document
from cm3.errors import ConfigError, DataError
from cm3.read.find import open_reader
from cm3.retrieval.embed import embed, load_encoder
from cm3.retrieval.memory import Memory
from cm3.sequence.before import AugmentLaw
from cm3.sequence.mask import MaskLaw, cm3_unmask
from cm3.store.store import Store
from cm3.tokens.load import load_tokenizers
from cm3.vocab import Tokens

SIZES = {"a": 13, "b": 29}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of one model, and one of a model with other masks."""
    root = tmp_path_factory.mktemp("stores")
    model = store_parts.tokenizers(root / "model")
    for seed, (name, count) in enumerate(SIZES.items()):
        store_parts.photos(root / f"photos_{name}", count, seed)
        prepare([f"{root}/photos_{name}"], root / name, model, unit=6)
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
    """Neighbours of the documents of the store b among those of the store a."""
    encoder = load_encoder(store_parts.encoder(root / "encoder"))
    bank, queries = ([d for d in open_reader(f"{root}/photos_{n}") if isinstance(d, Document)] for n in "ab")
    memory = Memory.build(root / "memory", bank, encoder)
    # Ids of the two stores are the same names; only some of b have neighbours.
    queries = [q for q in queries if q.id not in memory][:10]
    assert len(queries) == 10
    Neighbours.compute(root / "table", memory, [q.id for q in queries], embed(encoder, queries))
    return root / "table"


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
        id = b.about(int(plain.mixture.locate([position]).indices[0])).id
        assert tokens.ids[-query.length + 1 :].tolist() == query.ids[1:].tolist()
        whole = codec.decode(tokens)
        lengths[len(whole.images) - 1] += id in known
        before = [p.text for p in whole.parts[:-2] if hasattr(p, "text")]
        of = [codec.decode(a.tokens([a.number(c.id)])[0]).text for c in known.ranked(id)] if id in known else []
        assert len(before) == len(whole.images) - 1 and set(before) <= set(of)
    assert all(lengths[k] > 3 for k in range(4))
    # What there is room for: a query, and one document of about its size.
    short = StoreSource([b], seed=3, retrieval=Retrieval(known, a, law, 80))
    assert max(t.length for t in short.sequences(range(100))) <= 80
    one = source.sequences([17])[0]
    assert np.array_equal(one.ids, source.sequences(range(30))[17].ids)


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


def test_a_table_of_other_documents_is_refused(stores: list[Store], table: Path, tmp_path: Path) -> None:
    known, (a, b) = Neighbours.open(table), stores
    (tmp_path / "words.jsonl").write_text('{"id": "other", "text": "words"}')
    prepare([f"{tmp_path}/words.jsonl"], tmp_path / "other", table.parent / "model")
    other = Store.open(tmp_path / "other")
    with pytest.raises(DataError, match="table': are of other documents than the stores'; compute them anew"):
        StoreSource([a], retrieval=Retrieval(known, a, AugmentLaw(), 100))
    with pytest.raises(DataError, match="table': name no document of '.*/other'; compute them anew"):
        StoreSource([b], retrieval=Retrieval(known, other, AugmentLaw(), 100))
    assert StoreSource([a, b], retrieval=Retrieval(known, a, AugmentLaw(), 100)).sequences([0])
    assert StoreSource([b.first(3)], retrieval=Retrieval(known, a, AugmentLaw(), 100)).sequences([0]), (
        "a part of its store"
    )


def test_a_store_without_documents_is_refused(stores: list[Store]) -> None:
    stores[1] = stores[1].first(0)
    with pytest.raises(DataError, match="/b': has no document; leave it out"):
        StoreSource(stores)
