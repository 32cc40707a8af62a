"""Token stores as what training reads from: several, mixed by weight, with retrieved documents where wanted.

    position -> Mixture -> store, number -> tokens (-> documents of its neighbours before it)
                cm3/data/order.py    cm3/store/store.py   cm3/sequence/before.py

Which document stands at a position follows from the seed, the weights and the lengths of the stores alone, so a run
that is resumed must be given the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from cm3.data.load import Source
from cm3.data.neighbours import Neighbours
from cm3.data.order import Mixture
from cm3.errors import ConfigError, DataError
from cm3.sequence.before import AugmentLaw, with_documents
from cm3.store.store import Store
from cm3.vocab import Tokens


class Retrieval(NamedTuple):
    """The documents before an example, and their number.

    `table` names neighbours by their numbers in `bank` (`cm3.data.neighbours`), which has their tokens, `law` draws a
    number of them, and as many as `length` has room for are taken.
    """

    table: Neighbours
    bank: Store
    law: AugmentLaw
    length: int

    @classmethod
    def open(cls, table: str | Path, bank: str | Path, stores: Sequence[Store], law: AugmentLaw, length: int) -> Self:
        """Open a table, and the store that is its bank: `bank`, or, where that is empty, the one of `stores` that is.

        Raises `CheckpointError` for what is no table, `ConfigError` where none of the stores is its bank.
        """
        known = Neighbours.open(table)
        if bank:
            return cls(known, Store.open(bank), law, length)
        for store in stores:
            if store.fingerprint == known.bank.fingerprint:
                return cls(known, store, law, length)
        raise ConfigError(
            f"neighbours {str(table)!r}: name documents of the bank {known.bank.path!r}, which is none of the stores, "
            "or was made anew since; give data.bank (--data.bank STORE), or make the table again"
        )

    def begins(self, stores: Sequence[Store]) -> list[int | None]:
        """Return the row of the table at which each store's documents begin; None for a store without vectors.

        So it is known before a step that every neighbour is there. Raises `DataError` for another bank than the
        table's, and for a store that has vectors, or all stores, without a place in the table.
        """
        table = self.table
        table.check_bank(self.bank)
        found = [table.begin(store) for store in stores]
        for store, begin in zip(stores, found, strict=True):
            if begin is None and (store.encoder_name is not None or not any(b is not None for b in found)):
                raise DataError(
                    f"neighbours {str(table.path)!r}: are of other documents than those of the store {store.path!r}, "
                    "or it was made anew since; make the table again, of all stores"
                )
        return found


class StoreSource(Source):
    """`Source` (cm3/data/load.py) over stores. Each document comes once an epoch, each epoch in an order of its own."""

    together = 1

    def __init__(
        self,
        stores: Sequence[Store],
        weights: Sequence[float] = (),
        seed: int = 0,
        retrieval: Retrieval | None = None,
        most: int | None = None,
    ) -> None:
        """Mix documents by `weights`, their shares; none means every document as often as any other. `most`: how many
        documents of each store are taken, the first; all, where it is None.

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
        self.begins = [] if retrieval is None else retrieval.begins(stores)
        self.stores, self.seed, self.retrieval = list(stores), seed, retrieval
        sizes = [len(store) if most is None else min(most, len(store)) for store in stores]
        self.mixture = Mixture(sizes, weights, seed)

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the share of the documents that comes from each store."""
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
            k, begin = law.draw(rng), self.begins[source]
            known = begin is not None and k > 0 and query.length < length
            numbers.append(table.of(begin + int(index), k, rng) if known else [])
        documents = iter(bank.tokens([n for some in numbers for n in some]))
        return [
            with_documents(query, [next(documents) for _ in some], bank.vocab, length) if some else query
            for query, some in zip(queries, numbers, strict=True)
        ]


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
