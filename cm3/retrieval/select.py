"""Which documents of a bank a query gets: relevant, whole, and unlike each other (paper section 2.1, after RA-CM3).

    query -> its words less 20% -> candidates by text, candidates by picture -> at most two of each -> K of those

Scores are inner products of the query's text or image vector with a document's vector, which is the mean of its own
two. A candidate is left out when it is the query itself, when it is too much like the query, or too much like a
document chosen before it.

Likeness is measured of like with like, for the picture and the caption of one thing are far from each other (a cosine
of 0.3 for CLIP), so that a document which shows the query's very picture scores no more than 0.65. Too much like the
query is a document that shows one of its pictures, to the pixel, or says its words, but for letters' size and space,
where these are known; whose pictures' vector has a cosine above `highest`
with that of the query's pictures; that, having text and picture as the query has, has such a cosine with the query's
mean; or that scores more than `highest`. Too much like a chosen document is one whose mean, or whose pictures' vector,
has such a cosine with that document's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from cm3.document import Document, Part, Text
from cm3.errors import CheckpointError, ConfigError, RequestError
from cm3.retrieval.embed import Encoder, embed, plain_words

By = Literal["text", "image"]
"""What of the query found a document."""
MOST = 3
"""Most documents put before one query."""

_WIDER = 16
"""How many times more candidates are looked at where the first ones leave places empty."""
_ROUNDING = 1e-5
"""What float32 may add to a score that is exactly `highest`."""


class Bank(Protocol):
    """The part of `cm3.retrieval.memory.Memory` that is read here."""

    @property
    def encoder_name(self) -> str: ...
    def __len__(self) -> int: ...
    def __getitem__(self, id: str, /) -> Document: ...
    def search(self, vectors: np.ndarray, k: int, /) -> tuple[list[list[str]], np.ndarray]: ...
    def vectors(self, ids: Sequence[str], /) -> np.ndarray: ...
    def images(self, ids: Sequence[str], /) -> np.ndarray: ...
    def pictures(self, ids: Sequence[str], /) -> Sequence[Set[bytes]]: ...


@dataclass(frozen=True)
class Retrieved:
    """A document, how relevant it is (inner product, -1..1), and what of the query found it.

    A document that somebody chose ("hand") has no score, NaN.
    """

    document: Document
    score: float
    by: By | Literal["hand"]


@dataclass(frozen=True)
class Candidate:
    """A document of a bank by its id. `whole`: it has text and a picture."""

    id: str
    score: float
    by: By
    whole: bool


@dataclass(frozen=True)
class SelectLaw:
    """How documents are selected; the defaults are the paper's. Raises `ConfigError` for a value out of range."""

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
    memory: Bank,
    encoder: Encoder,
    query: Document,
    k: int,
    *,
    law: SelectLaw | None = None,
    rng: np.random.Generator | None = None,
    exclude: Iterable[str] = (),
) -> list[Retrieved]:
    """At most `k` documents of a bank for a query, which may have text, pictures and gaps.

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


def check(memory: Bank, encoder_name: str) -> None:
    """Raise `RequestError` for an empty bank, `CheckpointError` for one of another encoder."""
    if len(memory) == 0:
        raise RequestError("memory bank: is empty, there is nothing to retrieve; add documents or ask for retrieve=0")
    if memory.encoder_name != encoder_name:
        raise CheckpointError(
            f"memory bank: was built with the encoder {memory.encoder_name!r}, this one is {encoder_name!r}; "
            "use the same encoder or build the bank again"
        )


def as_query(document: Document, law: SelectLaw, rng: np.random.Generator | None = None) -> Document:
    """What of a document is searched with: its text, less the words that `rng` drops, and its pictures without gaps.

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
    """The text without some of its words, each left out with probability `share`; one stays where all would go."""
    words = text.split()
    kept = [word for word, keep in zip(words, rng.random(len(words)) >= share, strict=True) if keep]
    return " ".join(kept or words[int(rng.integers(len(words))) :][:1])


def choose(found: Sequence[Candidate], k: int, rng: np.random.Generator | None = None) -> list[Candidate]:
    """At most `k` of a shortlist: in its order, or by chance; one that is not whole only where no whole one is left."""
    if rng is not None:
        found = [found[i] for i in rng.permutation(len(found))]
    return sorted(found, key=lambda c: not c.whole)[:k]


def shortlists(
    memory: Bank,
    texts: np.ndarray,
    images: np.ndarray,
    skip: Sequence[Set[str]],
    law: SelectLaw,
    pictures: Sequence[Set[bytes]] = (),
    words: Sequence[str] = (),
) -> list[list[Candidate]]:
    """For each of n queries the documents that it may get, best first, at most `by_text + by_image` of them.

    `texts` and `images` (n, w) are the queries' unit vectors, zeros for what a query does not have; `skip` (n) the
    ids that it must not get; `pictures` (n) the digests of what its pictures show, and `words` (n) what it says
    (`plain_words`), or nothing where they are unknown.
    Whole documents come before those that have text or pictures alone.
    """
    known = _Known(memory)
    queries = [
        _Query(text, image, ids, pictures[i] if pictures else frozenset(), words[i] if words else "")
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
class _Query:
    """The unit vectors (w,) of a query, zeros for what it has not; what it must not get; its pictures and words."""

    text: np.ndarray
    image: np.ndarray
    skip: Set[str]
    pictures: Set[bytes]
    words: str


class _Known:
    """Facts of a bank's documents, looked up once for all queries of a block."""

    def __init__(self, memory: Bank) -> None:
        self.memory = memory
        self._whole: dict[str, bool] = {}
        self._words: dict[str, str] = {}
        self._pictures: dict[str, Set[bytes]] = {}

    def whole(self, id: str) -> bool:
        """Tell whether a document has text and a picture."""
        if id not in self._whole:
            document = self.memory[id]
            self._words[id] = plain_words(document.text)
            self._whole[id] = bool(self._words[id]) and bool(document.images)
        return self._whole[id]

    def words(self, id: str) -> str:
        """What a document says, as `plain_words`."""
        self.whole(id)
        return self._words[id]

    def pictures(self, id: str) -> Set[bytes]:
        """Return the digests of what its pictures show."""
        if id not in self._pictures:
            (self._pictures[id],) = self.memory.pictures([id])
        return self._pictures[id]


_Found = tuple[str, float, By]


def _candidates(memory: Bank, texts: np.ndarray, images: np.ndarray, window: int) -> list[list[_Found]]:
    """For each query what its text and its pictures find, best first; equal scores in order of id."""
    merged: list[list[_Found]] = [[] for _ in texts]
    by: By
    for by, vectors in (("text", texts), ("image", images)):
        has = np.flatnonzero(np.abs(vectors).max(axis=1, initial=0) > 0)
        if not len(has):
            continue
        ids, scores = memory.search(np.ascontiguousarray(vectors[has], np.float32), min(window, len(memory)))
        for i, row, values in zip(has.tolist(), ids, scores.tolist(), strict=True):
            merged[i] += [(id, score, by) for id, score in zip(row, values, strict=False)]
    return [sorted(row, key=lambda c: (-c[1], c[0])) for row in merged]


def _pick(known: _Known, candidates: list[_Found], query: _Query, law: SelectLaw) -> list[Candidate]:
    """Walk candidates from the best and take what the law allows."""
    room: dict[By, int] = {"text": law.by_text, "image": law.by_image}
    kinds = {by for _, _, by in candidates}
    if len(kinds) == 1:
        room = dict.fromkeys(kinds, law.by_text + law.by_image)
    limit = law.highest + _ROUNDING if law.highest < 1 else np.inf
    candidates = [c for c in candidates if c[0] not in query.skip and c[1] <= limit]
    if not candidates:
        return []
    ids = np.array([id for id, _, _ in candidates], dtype=object)
    vectors = _unit(known.memory.vectors(list(ids)))
    images = known.memory.images(list(ids))
    shows: np.ndarray = np.asarray(images.any(axis=1))
    alive = ~shows | (images @ query.image <= limit) if query.image.any() else np.ones(len(ids), dtype=bool)
    whole_alike: list[bool] = np.asarray(vectors @ _unit(query.text + query.image) > limit).tolist()
    if not (query.text.any() and query.image.any()):
        whole_alike = [False] * len(ids)
    chosen = []
    for wanted in (True, False):
        for i, (id, score, by) in enumerate(candidates):
            if not alive[i] or not room[by] or known.whole(id) != wanted:
                continue
            copied = bool(query.words) and query.words == known.words(id)
            if copied or (wanted and whole_alike[i]) or (query.pictures and query.pictures & known.pictures(id)):
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
