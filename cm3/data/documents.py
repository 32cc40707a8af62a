"""Documents of readers as a source without end: every document once an epoch, each epoch in an order of its own.

    reader -> Numbered -> split by picture  -> trained on  -> Mixture -> position -> document -> tokens
                                            -> held out

A picture's file decides, so that its five captions are all trained on or all held out, as in cm3/data/pictures.py.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

import numpy as np

from cm3.data.load import Source
from cm3.data.order import Mixture
from cm3.document import Document, Unreadable
from cm3.errors import ConfigError, DataError
from cm3.picture import rgb
from cm3.read.random_access import Numbered
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens

TRIES = 1000
"""Documents in a row that may be unreadable before a source is taken for one that cannot be read."""


class Subset:
    """Some documents of a reader, by numbers of their own."""

    def __init__(self, documents: Numbered, numbers: np.ndarray) -> None:
        """Take the documents `numbers`, int64 (n,)."""
        self.documents, self.numbers = documents, numbers
        self.reader, self.name = documents.reader, documents.name

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Document | Unreadable:
        return self.documents[int(self.numbers[index])]


def split(sources: Sequence[Numbered], share: float) -> list[tuple[Subset, Subset]]:
    """Return of each source the documents to train on, and those held out: about `share` of the pictures, one at least.

    Which are held out follows from the pictures alone, so that one that lies in two sources is on one side. Raises
    `ConfigError` for a `share` outside 0..0.5, and where nothing is left on one side.
    """
    check_holdout(share)
    numbers = [np.arange(len(documents)) for documents in sources]
    if not (share and any(map(len, sources))):
        return [(Subset(source, all_), Subset(source, all_[:0])) for source, all_ in zip(sources, numbers, strict=True)]
    drawn = [chances([_digest(source[i]) for i in range(len(source))]) for source in sources]
    # Of few pictures chance may hold out none, or all.
    every = np.concatenate(drawn)
    least, most = every.min(), every.max()
    if least == most:
        told = ", ".join(repr(source.name) for source in sources)
        raise ConfigError(f"data.holdout={share}: {told}: has one picture; give more, or 0")
    border = min(max(share, np.nextafter(least, 1)), most)
    return [
        (Subset(source, all_[chance >= border]), Subset(source, all_[chance < border]))
        for source, all_, chance in zip(sources, numbers, drawn, strict=True)
    ]


def check_holdout(share: float) -> None:
    """Raise `ConfigError` for what is no share to hold out."""
    if not 0 <= share <= 0.5:
        raise ConfigError(f"data.holdout={share}: is a share, must be in 0..0.5")


def chances(digests: Sequence[bytes] | np.ndarray) -> np.ndarray:
    """Return a number in 0..1 for each digest of 16 bytes, or row of uint8 (n, 16): one below a share is held out."""
    rows = digests if isinstance(digests, np.ndarray) else np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
    return np.ascontiguousarray(rows[:, :8]).view(">u8")[:, 0].astype(np.float64) / 2**64


def _digest(document: Document | Unreadable) -> bytes:
    """Return the digest of a document's first picture's file; of its id, where it has none that can be read."""
    if isinstance(document, Document) and document.images:
        with contextlib.suppress(DataError):  # of a picture that its reader decoded, and that is cut short
            return document.images[0].digest
    return hashlib.blake2b(document.id.encode(), digest_size=16).digest()


class DocumentSource(Source):
    """`Source` (cm3/data/load.py) over documents of readers. The tokens of each are made once and kept."""

    def __init__(self, parts: Sequence[Sequence[Document] | Numbered | Subset], codec: Codec, seed: int) -> None:
        """Raise `DataError` where there is no document, or none that can be read; `ConfigError` for a bad seed."""
        if not sum(map(len, parts)):
            raise DataError("documents: there are none; check the path and the split")
        self.parts, self.codec = [part for part in parts if len(part)], codec
        self._order = Mixture([len(part) for part in self.parts], seed=seed)
        self._kept: dict[tuple[int, int], Tokens] = {}
        self._left_out: dict[tuple[int, int], Unreadable] = {}
        for part in range(len(self.parts)):
            self.document(part, 0)  # refused before anything is written

    def sequences(self, positions: Sequence[int]) -> list[Tokens]:
        """Return tokens of the documents at these positions.

        Where one cannot be read, the first after it that can stands in its place. Raises `DataError` where none of a
        thousand can.
        """
        places = self._order.locate(positions)
        asked = list(zip(places.sources.tolist(), places.indices.tolist(), strict=True))
        new = sorted(set(asked) - set(self._kept))
        made = self.codec.encode_many([self.document(*place) for place in new])
        self._kept |= dict(zip(new, made, strict=True))
        return [self._kept[place] for place in asked]

    def document(self, part: int, number: int) -> Document:
        """Return a document of a part, its pictures decoded to their end, or the first after it that can be read."""
        documents, reason = self.parts[part], ""
        for step in range(min(TRIES, len(documents))):
            at = (number + step) % len(documents)
            found = documents[at]
            try:
                if isinstance(found, Unreadable):
                    raise DataError(found.reason)
                for image in found.images:
                    rgb(image.pixels)
                return found
            except DataError as error:
                self._left_out[part, at] = Unreadable(found.id, str(error))
                reason = reason or f"{found.id!r}: {error}"
        raise DataError(
            f"documents: none of {min(TRIES, len(documents))} in a row can be read; the first is {reason}; mend the "
            "source, or leave it out"
        )

    def left_out(self) -> Sequence[Unreadable]:
        """Return the documents that were asked for so far and could not be read."""
        return list(self._left_out.values())
