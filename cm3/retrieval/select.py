"""The choice of documents of a bank for a query: relevant, whole, and unlike each other (paper section 2.1, after
RA-CM3).

    query -> its words less 20% -> candidates by text, candidates by picture -> at most two of each -> K of those

Scores are inner products of the query's text or image vector with a document's vector, which is the mean of its own
two. A candidate is left out when it is the query itself, when it is too much like the query, or too much like a
document chosen before it.

Likeness is measured of like with like, for the picture and the caption of one thing are far from each other (a cosine
of 0.3 for CLIP), so that a document which shows the query's very picture scores no more than 0.65. Too much like the
query is a document

    by identity       that is the query, or has one of its pictures under another name or caption
    by its pictures   whose pictures' vector has a cosine above `highest` with that of the query's pictures
    as a whole        that, having text and picture as the query has, has such a cosine with the query's mean
    by its words      that says what the query says: the same vector, as an encoder gives it to words of other case
    by its score      that scores more than `highest`

Too much like a chosen document is one whose mean, or whose pictures' vector, has such a cosine with that document's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from cm3.document import Document, Part, Text
from cm3.errors import CheckpointError, ConfigError, RequestError
from cm3.retrieval.embed import Encoder, embed

By = Literal["text", "image"]
"""The part of the query that found a document."""
MOST = 3
"""Most documents put before one query."""

_WIDER = 16
"""How many times more candidates are looked at where the first ones leave places empty."""
_ROUNDING = 1e-5
"""Rounding in float32 of a score that is exactly `highest`."""
_SAME = 1 - 1e-4
"""Cosine of two vectors of the same words, once they are rounded to float16."""

K = TypeVar("K", str, int)
"""A document's name in its bank: the id in a memory bank, the number in a store."""


class Bank(Protocol[K]):
    """Documents to choose from. Arrays are float32, rows in the order of the names that are asked for."""

    @property
    def encoder_name(self) -> str: ...
    def __len__(self) -> int: ...
    def search(self, vectors: np.ndarray, k: int, /) -> tuple[list[list[K]], np.ndarray]:
        """Return names and scores (n, k) of the documents nearest to each of n vectors, best first."""
        ...

    def vectors(self, ids: Sequence[K], /) -> np.ndarray:
        """Return means of the unit vectors of text and pictures."""
        ...

    def images(self, ids: Sequence[K], /) -> np.ndarray:
        """Return unit vectors of pictures alone, zeros where there are none."""
        ...

    def pictures(self, ids: Sequence[K], /) -> Sequence[Set[bytes]]:
        """Return digests of each document's pictures, and whatever else it shares with none but its copies."""
        ...

    def whole(self, ids: Sequence[K], /) -> Sequence[bool]:
        """Tell whether documents have text and a picture."""
        ...


class DocumentBank(Bank[str], Protocol):
    """A bank that gives its documents: `cm3.retrieval.memory.Memory`."""

    def __getitem__(self, id: str, /) -> Document: ...


@dataclass(frozen=True)
class Retrieved:
    """A document, how relevant it is (inner product, -1..1), and what of the query found it.

    A document that somebody chose ("hand") has no score, NaN.
    """

    document: Document
    score: float
    by: By | Literal["hand"]


@dataclass(frozen=True)
class Candidate(Generic[K]):
    """A document of a bank by its name there. `whole`: it has text and a picture."""

    id: K
    score: float
    by: By
    whole: bool


@dataclass(frozen=True)
class SelectLaw:
    """The law by which documents are selected; the defaults are the paper's. Raises `ConfigError` for a value out of
    range."""

    by_text: int = 2
    """Most documents found by the query's text."""
    by_image: int = 2
    """Most documents found by its picture. A query that has only one of the two gets both numbers by that one."""
    highest: float = 0.9
    """A candidate whose score, or whose cosine of picture with picture or of mean with mean, is more is too much like
    the query, or like a document chosen before; 1 lets every one pass but those that show the query's very picture."""
    dropout: float = 0.2
    """Share of the query's words that are left out, each by chance, when there is a generator."""
    candidates: int = 32
    """How many are looked at by text and by picture each; 16 times as many where these leave places empty."""

    def __post_init__(self) -> None:
        if self.by_text < 0 or self.by_image < 0 or self.by_text + self.by_image < 1:
            raise ConfigError(
                f"select.by_text={self.by_text}, select.by_image={self.by_image}: must be 0 or more, and one at least 1"
            )
        if not -1 <= self.highest <= 1:
            raise ConfigError(f"select.highest={self.highest}: is a cosine, must be in -1..1; 1 is no limit")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"select.dropout={self.dropout}: is a share of words, must be at least 0 and below 1")
        if self.candidates < self.by_text + self.by_image:
            raise ConfigError(
                f"select.candidates={self.candidates}: must be at least by_text + by_image = "
                f"{self.by_text + self.by_image}"
            )


def select(
    memory: DocumentBank,
    encoder: Encoder,
    query: Document,
    k: int,
    *,
    law: SelectLaw | None = None,
    rng: np.random.Generator | None = None,
    exclude: Iterable[str] = (),
) -> list[Retrieved]:
    """Return at most `k` documents of a bank for a query, which may have text, pictures and gaps.

    Without `rng` (generation): the best first, those that are whole before those that are not. With `rng` (training):
    some of the query's words are left out, and `k` of the up to four found come in an order by chance; the same
    generator gives the same documents. The query's own id and those in `exclude` are left out. Fewer than `k` come
    back where no more are left. Raises `RequestError` for `k` outside 0..3, for an empty bank, and for a query with
    neither text nor picture; `CheckpointError` for a bank of another encoder.
    """
    law = law or SelectLaw()
    if not 0 <= k <= MOST:
        raise RequestError(f"retrieve={k}: must be 0 to {MOST} documents")
    if k == 0:
        return []
    check(memory, encoder.name)
    vectors = embed(encoder, [as_query(query, law, rng)])
    skip = {query.id, *exclude} - {""}
    found = shortlists(memory, vectors.texts, vectors.images, [skip], law, vectors.pictures)[0]
    return [Retrieved(memory[c.id], c.score, c.by) for c in choose(found, k, rng)]


def check(memory: Bank[K], encoder_name: str) -> None:
    """Raise `RequestError` for an empty bank, `CheckpointError` for one of another encoder."""
    if len(memory) == 0:
        raise RequestError("memory bank: is empty, there is nothing to retrieve; add documents or ask for retrieve=0")
    if memory.encoder_name != encoder_name:
        raise CheckpointError(
            f"memory bank: was built with the encoder {memory.encoder_name!r}, this one is {encoder_name!r}; "
            "use the same encoder or build the bank again"
        )


def as_query(document: Document, law: SelectLaw, rng: np.random.Generator | None = None) -> Document:
    """Return the parts of a document to search with: its text, less the words that `rng` drops, and its pictures
    without gaps.

    Raises `RequestError` where there is neither text nor picture.
    """
    text = document.text.strip()
    if not text and not document.images:
        raise RequestError("query: has neither text nor a picture; give words or a picture to search with")
    if text and rng is not None:
        text = drop_words(text, law.dropout, rng)
    parts: list[Part] = [Text(text)] if text else []
    return Document((*parts, *document.images), id=document.id)


def drop_words(text: str, share: float, rng: np.random.Generator) -> str:
    """Return the text without some of its words, each left out with probability `share`; one stays where all would
    go."""
    words = text.split()
    kept = [word for word, keep in zip(words, rng.random(len(words)) >= share, strict=True) if keep]
    return " ".join(kept or words[int(rng.integers(len(words))) :][:1])


def choose(found: Sequence[Candidate[K]], k: int, rng: np.random.Generator | None = None) -> list[Candidate[K]]:
    """Return at most `k` of a shortlist: in its order, or by chance; one that is not whole only where no whole one is
    left.

    Generation takes the best, best first, as a user wants what is most relevant (paper.md 1.5). Training takes an order
    by chance, as the authors' code does: a model that always saw the best document at one place would learn to copy
    from there, and each epoch should show others. So where there is no room for all, generation leaves out the least
    relevant, training whichever stand first.
    """
    if rng is not None:
        found = [found[i] for i in rng.permutation(len(found))]
    return sorted(found, key=lambda c: not c.whole)[:k]


def shortlists(
    memory: Bank[K],
    texts: np.ndarray,
    images: np.ndarray,
    skip: Sequence[Set[K]],
    law: SelectLaw,
    pictures: Sequence[Set[bytes]] = (),
    own: np.ndarray | None = None,
) -> list[list[Candidate[K]]]:
    """Return for each of n queries the documents that it may get, best first, at most `by_text + by_image` of them.

    `texts` and `images` (n, w) are the queries' unit vectors, zeros for what a query does not have; `skip` (n) the
    names that it must not get; `pictures` (n) what it is known by, as `Bank.pictures`. `own` (n, w), of queries that
    are documents, are vectors of all their words, of which `texts` may leave some out: one that says the same is left
    out. Whole documents come before those that have text or pictures alone.
    """
    known: _Known[K] = _Known(memory)
    queries = [
        _Query(image, text if own is None else own[i], own is not None, ids, pictures[i] if pictures else frozenset())
        for i, (text, image, ids) in enumerate(zip(texts, images, skip, strict=True))
    ]
    window = law.candidates
    found = [
        _pick(known, candidates, query, law)
        for candidates, query in zip(_candidates(memory, texts, images, window), queries, strict=True)
    ]
    places = law.by_text + law.by_image
    short = [i for i, chosen in enumerate(found) if len(chosen) < places] if window < len(memory) else []
    if short:
        wider = _candidates(memory, texts[short], images[short], window * _WIDER)
        for i, candidates in zip(short, wider, strict=True):
            found[i] = _pick(known, candidates, queries[i], law)
    return found


@dataclass(frozen=True, eq=False)
class _Query(Generic[K]):
    """The unit vectors (w,) of a query, zeros for what it has not; what it must not get, and what it is known by."""

    image: np.ndarray
    text: np.ndarray
    document: bool
    """Whether the words are a document's, which must not come once more."""
    skip: Set[K]
    pictures: Set[bytes]


class _Known(Generic[K]):
    """Facts of a bank's documents, looked up once for all queries of a block."""

    def __init__(self, memory: Bank[K]) -> None:
        self.memory: Bank[K] = memory
        self._whole: dict[K, bool] = {}
        self._pictures: dict[K, Set[bytes]] = {}

    def whole(self, id: K) -> bool:
        """Tell whether a document has text and a picture."""
        if id not in self._whole:
            (self._whole[id],) = self.memory.whole([id])
        return self._whole[id]

    def pictures(self, id: K) -> Set[bytes]:
        """Return what a document is known by."""
        if id not in self._pictures:
            (self._pictures[id],) = self.memory.pictures([id])
        return self._pictures[id]


def _candidates(memory: Bank[K], texts: np.ndarray, images: np.ndarray, window: int) -> list[list[tuple[K, float, By]]]:
    """Return for each query what its text and its pictures find, best first; equal scores in order of name."""
    merged: list[list[tuple[K, float, By]]] = [[] for _ in texts]
    by: By
    for by, vectors in (("text", texts), ("image", images)):
        has = np.flatnonzero(np.abs(vectors).max(axis=1, initial=0) > 0)
        if not len(has):
            continue
        ids, scores = memory.search(np.ascontiguousarray(vectors[has], np.float32), min(window, len(memory)))
        for i, row, values in zip(has.tolist(), ids, scores.tolist(), strict=True):
            merged[i] += [(id, score, by) for id, score in zip(row, values, strict=False)]
    return [sorted(row, key=lambda c: (-c[1], c[0])) for row in merged]


def _pick(
    known: _Known[K], candidates: list[tuple[K, float, By]], query: _Query[K], law: SelectLaw
) -> list[Candidate[K]]:
    """Walk candidates from the best and take what the law allows."""
    room: dict[By, int] = {"text": law.by_text, "image": law.by_image}
    kinds = {by for _, _, by in candidates}
    if len(kinds) == 1:
        room = dict.fromkeys(kinds, law.by_text + law.by_image)
    limit = law.highest + _ROUNDING if law.highest < 1 else np.inf
    candidates = [c for c in candidates if c[0] not in query.skip and c[1] <= limit]
    if not candidates:
        return []
    names = [id for id, _, _ in candidates]
    ids = np.array(names, dtype=object)
    means, images = known.memory.vectors(names), known.memory.images(names)
    vectors = _unit(means)
    shows: np.ndarray = np.asarray(images.any(axis=1))
    alive = ~shows | (images @ query.image <= limit) if query.image.any() else np.ones(len(ids), dtype=bool)
    if query.document and query.text.any():
        texts = _unit(np.where(shows[:, None], 2 * means - images, means))
        alive &= texts @ query.text <= _SAME
    whole_alike: list[bool] = np.asarray(vectors @ _unit(query.text + query.image) > limit).tolist()
    if not (query.text.any() and query.image.any()):
        whole_alike = [False] * len(ids)
    chosen: list[Candidate[K]] = []
    for wanted in (True, False):
        for i, (id, score, by) in enumerate(candidates):
            if not alive[i] or not room[by] or known.whole(id) != wanted:
                continue
            if (wanted and whole_alike[i]) or (query.pictures and query.pictures & known.pictures(id)):
                alive &= ids != id
                continue
            chosen.append(Candidate(id, score, by, wanted))
            room[by] -= 1
            alive &= (vectors @ vectors[i] <= limit) & (ids != id)
            if shows[i]:
                alive &= ~shows | (images @ images[i] <= limit)
    return chosen


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
