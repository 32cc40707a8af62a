"""Which documents of a bank a query gets: relevant, whole, and unlike each other (paper section 2.1, after RA-CM3).

    query -> its words less 20% -> candidates by text, candidates by picture -> at most two of each -> K of those

Scores are inner products of the query's text or image vector with a document's vector, which is the mean of its own
two. A candidate is left out when it is the query itself, when it is too much like the query, or too much like a
document chosen before it. The rule against too much likeness is the law's `highest` for both: the candidate's score,
and the cosine between two documents' vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from cm3.document import Document, Part, Text
from cm3.errors import CheckpointError, ConfigError, RequestError
from cm3.retrieval.embed import Encoder, embed

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
    """A candidate that scores more is too much like the query, and one whose cosine with a chosen document is more,
    too much like that; 1 lets every one pass."""
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
    found = shortlists(memory, vectors.texts, vectors.images, [skip], law)[0]
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
    memory: Bank, texts: np.ndarray, images: np.ndarray, skip: Sequence[set[str]], law: SelectLaw
) -> list[list[Candidate]]:
    """For each of n queries the documents that it may get, best first, at most `by_text + by_image` of them.

    `texts` and `images` (n, w) are the queries' unit vectors, zeros for what a query does not have; `skip` (n) the
    ids that it must not get. Whole documents come before those that have text or pictures alone.
    """
    whole: dict[str, bool] = {}
    window = law.candidates
    found = [
        _pick(memory, candidates, ids, law, whole)
        for candidates, ids in zip(_candidates(memory, texts, images, window), skip, strict=True)
    ]
    places = law.by_text + law.by_image
    short = [i for i, chosen in enumerate(found) if len(chosen) < places] if window < len(memory) else []
    if short:
        wider = _candidates(memory, texts[short], images[short], window * _WIDER)
        for i, candidates in zip(short, wider, strict=True):
            found[i] = _pick(memory, candidates, skip[i], law, whole)
    return found


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


def _pick(
    memory: Bank, candidates: list[_Found], skip: set[str], law: SelectLaw, whole: dict[str, bool]
) -> list[Candidate]:
    """Walk candidates from the best and take what the law allows. `whole` remembers which documents are whole."""
    room: dict[By, int] = {"text": law.by_text, "image": law.by_image}
    kinds = {by for _, _, by in candidates}
    if len(kinds) == 1:
        room = dict.fromkeys(kinds, law.by_text + law.by_image)
    limit = law.highest + _ROUNDING if law.highest < 1 else np.inf
    candidates = [c for c in candidates if c[0] not in skip and c[1] <= limit]
    if not candidates:
        return []
    ids = np.array([id for id, _, _ in candidates], dtype=object)
    vectors = memory.vectors(list(ids))
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    alive = np.ones(len(candidates), dtype=bool)
    chosen = []
    for wanted in (True, False):
        for i, (id, score, by) in enumerate(candidates):
            if not alive[i] or not room[by]:
                continue
            if id not in whole:
                document = memory[id]
                whole[id] = bool(document.text.strip()) and bool(document.images)
            if whole[id] == wanted:
                chosen.append(Candidate(id, score, by, wanted))
                room[by] -= 1
                alive &= (vectors @ vectors[i] <= limit) & (ids != id)
    return chosen
