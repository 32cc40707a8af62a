"""A list of documents as a source without end: every document once an epoch, each epoch in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence

from cm3.data.order import Mixture
from cm3.document import Document
from cm3.errors import DataError
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens


class DocumentSource:
    """`Source` (cm3/data/load.py) over documents that fit in memory. Each is tokenised once and kept."""

    def __init__(self, documents: Sequence[Document], codec: Codec, seed: int) -> None:
        """Raise `DataError` where there is no document; `ConfigError` for a seed out of range."""
        if not documents:
            raise DataError("documents: there are none; check the path and the split")
        self.documents, self.codec = documents, codec
        self._order = Mixture([len(documents)], seed=seed)
        self._kept: dict[int, Tokens] = {}

    def tokens(self, indices: Sequence[int]) -> list[Tokens]:
        """Tokens of documents `indices` of the stream."""
        places = self._order.locate(indices).indices.tolist()
        new = sorted(set(places) - set(self._kept))
        for place, tokens in zip(new, self.codec.encode_many([self.documents[p] for p in new]), strict=True):
            self._kept[place] = tokens
        return [self._kept[p] for p in places]
