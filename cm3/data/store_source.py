"""Token stores as what training reads from: several, mixed by weight, with retrieved documents where wanted.

    position -> Mixture -> store, number -> tokens (-> documents of its neighbours before it)
                cm3/data/order.py    cm3/store/store.py   cm3/sequence/before.py

Which document stands at a position follows from the seed, the weights and the lengths of the stores alone, so a run
that is resumed must be given the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from cm3.data.load import Source
from cm3.data.neighbours import Neighbours
from cm3.data.order import Mixture
from cm3.errors import DataError
from cm3.sequence.before import AugmentLaw, with_documents
from cm3.store.store import Store
from cm3.vocab import Tokens

LOOKED_AT = 100
"""Documents of a table, and of each store, that are looked for in the other before training."""
T = TypeVar("T")


class Retrieval(NamedTuple):
    """Which documents stand before an example, and how many.

    `table` names neighbours by id (`cm3.data.neighbours`), `bank` has their tokens, `law` draws a number of them, and
    as many as `length` has room for are taken. An example that the table does not have gets none.
    """

    table: Neighbours
    bank: Store
    law: AugmentLaw
    length: int


class StoreSource(Source):
    """`Source` (cm3/data/load.py) over stores. Each document comes once an epoch, each epoch in an order of its own."""

    together = 1

    def __init__(
        self,
        stores: Sequence[Store],
        weights: Sequence[float] = (),
        seed: int = 0,
        retrieval: Retrieval | None = None,
    ) -> None:
        """`weights`: shares of the documents; none means every document as often as any other.

        Raises `DataError` for no store, an empty one, stores (the bank too) that other tokenizers made, and a table of
        neighbours of other documents; `ConfigError` for weights as `Mixture` does.
        """
        if not stores:
            raise DataError("stores: none given; name at least one folder that `cm3 prepare` wrote")
        for store in stores:
            if not len(store):
                raise DataError(f"store {store.path!r}: has no document; leave it out")
        for store in [*stores, *([] if retrieval is None else [retrieval.bank])]:
            check_alike(stores[0], store)
        if retrieval is not None:
            check_table(retrieval, stores)
        self.stores, self.seed, self.retrieval = list(stores), seed, retrieval
        self.mixture = Mixture([len(store) for store in stores], weights, seed)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the documents that comes from each store."""
        return self.mixture.shares

    def sequences(self, positions: Sequence[int]) -> list[Tokens]:
        """Return tokens of the documents at these positions."""
        places = self.mixture.locate(positions)
        found: list[Tokens] = [Tokens.of([])] * len(places.sources)
        for which, store in enumerate(self.stores):
            mine = np.flatnonzero(places.sources == which)
            if mine.size:
                for at, tokens in zip(mine.tolist(), store.tokens(places.indices[mine]), strict=True):
                    found[at] = tokens
        return found if self.retrieval is None else self._augmented(self.retrieval, positions, found)

    def _augmented(self, retrieval: Retrieval, positions: Sequence[int], queries: list[Tokens]) -> list[Tokens]:
        table, bank, law, length = retrieval
        places = self.mixture.locate(positions)
        numbers: list[list[int]] = []
        for position, source, index, query in zip(positions, places.sources, places.indices, queries, strict=True):
            rng = np.random.default_rng([self.seed, 0xA6, position])
            k, id = law.draw(rng), self.stores[source].about(int(index)).id
            known = k > 0 and query.length < length and id in table
            numbers.append([bank.number(i) for i in table.of(id, k, rng)] if known else [])
        documents = iter(bank.tokens([n for some in numbers for n in some]))
        return [
            with_documents(query, [next(documents) for _ in some], bank.vocab, length) if some else query
            for query, some in zip(queries, numbers, strict=True)
        ]


def check_table(retrieval: Retrieval, stores: Sequence[Store]) -> None:
    """Raise `DataError` for a table that is of no document of these stores, or names none of the bank.

    `LOOKED_AT` of each are looked at, spread over all: a table of other documents would else be none, in silence.
    """
    table, bank = retrieval.table, retrieval.bank
    ids = _some(list(table))
    known = any(store.knows(id) for id in ids for store in stores)
    known = known or any(store.about(n).id in table for store in stores for n in _some(range(len(store))))
    if not known:
        raise DataError(f"neighbours {str(table.path)!r}: are of other documents than the stores'; compute them anew")
    rng = np.random.default_rng(0)
    names = [name for id in ids for name in table.of(id, 3, rng)]
    if names and not any(map(bank.knows, names)):
        raise DataError(f"neighbours {str(table.path)!r}: name no document of {bank.path!r}; compute them anew")


def _some(values: Sequence[T]) -> Sequence[T]:
    return values[:: max(1, len(values) // LOOKED_AT)]


def check_alike(one: Store, other: Store) -> None:
    """Raise `DataError` unless both were made with the same tokenizers."""
    for name, what in (
        ("vocab", "vocabulary"),
        ("text_fingerprint", "text tokenizer"),
        ("image_fingerprint", "image tokenizer"),
    ):
        if getattr(one, name) != getattr(other, name):
            raise DataError(
                f"store {other.path!r}: was prepared with another {what} than {one.path!r}; prepare both with the same "
                "model"
            )
