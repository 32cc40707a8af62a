"""Scenes and named emblems with retrieved documents, as a source of training examples.

    plain      a scene by itself, as `cm3.scenes.data.scene_source` gives it
    scenes     a scene drawn and said anew, after one to three of its neighbours
    emblems    a train emblem drawn and said anew, after none to three documents: its own, as the retriever finds it,
               and others that are like it in name, in retrieved order

The bank holds train emblems and scenes (`bank_documents`); who is a neighbour of whom is worked out once
(`emblem_neighbours`). A document of the bank and the example after it share the word and what it stands for:
the phrase and the drawing are the example's own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from cm3.data.load import Source
from cm3.document import Document
from cm3.errors import ConfigError, DataError
from cm3.files import parse_json, write
from cm3.retrieval.embed import Encoder, Vectors, embed
from cm3.retrieval.memory import Memory
from cm3.retrieval.nearest import Progress
from cm3.retrieval.select import Candidate, SelectLaw, as_query, choose, shortlists
from cm3.scenes.data.scene_source import SceneSource, scene_document
from cm3.scenes.drawing import draw
from cm3.scenes.emblems import emblem, emblem_document, say
from cm3.scenes.scene import Scene, random_scene
from cm3.scenes.sentences import describe
from cm3.sequence.before import AugmentLaw, with_documents
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens

Kind = Literal["plain", "scenes", "emblems"]
CHUNK = 64
"""Documents of the bank that are tokenised at a time, always the same ones together."""

_EMBLEM, _SCENE = "query/emblem/train/", "query/scene/"
"""How ids of queries begin; a number follows, or the seed and the number of a scene."""


@dataclass(frozen=True)
class EmblemMix:
    """The mix of the examples. Raises `ConfigError` for shares that are none."""

    plain: float = 0.4
    """Share of scenes by themselves."""
    scenes: float = 0.2
    """Share of scenes after documents that are like them."""
    emblems: float = 0.4
    """Share of named emblems, after documents or without."""
    documents: AugmentLaw = field(default_factory=AugmentLaw)
    """Numbers of documents before an emblem; before a scene of `scenes` the same without 0."""
    alike: float = 0.0
    """Of the emblems, with the very picture of their document: copying is learnt soonest where it is exact."""
    shuffled: float = 0.0
    """Of the emblems after documents, with the very picture and with the codes of each picture in an order by chance:
    how pictures usually look helps little there, reading the same cell of the document does."""
    captions_only: float = 0.0
    """Of the plain scenes, as `objects` and `in_order`: see `cm3.scenes.data.scene_source.scene_document`."""
    objects: tuple[float, ...] = ()
    """Shares of plain scenes with 1, 2, 3, 4 objects; uniform where there are none."""
    in_order: float = 0.0
    """Share of the captions of plain scenes that name the objects in reading order."""

    def __post_init__(self) -> None:
        values = [getattr(self, kind) for kind in get_args(Kind)]
        if any(not 0 <= v <= 1 for v in values) or abs(sum(values) - 1) > 1e-6:
            raise ConfigError(
                f"mix.plain={self.plain}, mix.scenes={self.scenes}, mix.emblems={self.emblems}: are shares, must be in "
                "0..1 and add up to 1"
            )
        for name in ("alike", "shuffled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"mix.{name}={getattr(self, name)}: is a share, must be in 0..1")
        if self.scenes > 0 and not sum(self.documents.shares[1:]) > 0:
            raise ConfigError(
                f"mix.scenes={self.scenes}: needs documents, but mix.documents.shares={self.documents.shares} has none"
            )


@dataclass(frozen=True)
class Example:
    """Example of one number: its own document, and ids of the bank's documents to stand before it, in this order."""

    kind: Kind
    query: Document
    documents: tuple[str, ...] = ()
    own: str = ""
    """An emblem's own document, whether it stands before it or not."""
    shuffle: int | None = None
    """Seed of the orders of its pictures' codes."""


def bank_documents(emblems: int, scenes: int, size: int, seed: int) -> Iterator[Document]:
    """Return the documents of a training bank: train emblems 0 to `emblems` - 1, and `scenes` captioned scenes, `size`
    pixels."""
    for i in range(emblems):
        yield emblem_document(i, "train", size, seed)
    for i in range(scenes):
        parts = scene_document(seed, i, size).parts
        yield Document(parts, id=f"scene/{seed}/{i}", source="scenes/train", meta={"license": "MIT"})


class EmblemTable(dict[str, list[Candidate[str]]]):
    """Id of a query -> what it may get, best first."""

    def of(self, id: str, k: int, rng: np.random.Generator | None = None) -> list[str]:
        """Return ids of `k` of them, drawn by `rng` in an order by chance, or the best first without it."""
        return [c.id for c in choose(self[id], k, rng)]


def emblem_neighbours(
    path: str | Path,
    memory: Memory,
    encoder: Encoder,
    *,
    scenes: int,
    size: int,
    seed: int,
    law: SelectLaw | None = None,
    progress: Progress | None = None,
) -> EmblemTable:
    """Return the table for `EmblemSource`: neighbours of every train emblem of a bank, and of `scenes` other train
    scenes.

    An emblem is searched for by a phrase that its document in the bank does not use, as a prompt would be; a scene by
    its caption less `law.dropout` of its words, and by its picture of `size` pixels. Written to the file `path`, and
    read where it is there already, of the same queries, bank and law.
    """
    law = law or SelectLaw()
    queries = []
    for id in sorted(memory):
        if id.startswith("emblem/train/"):
            number = int(id.rpartition("/")[2])
            rng, this, known = np.random.default_rng([seed, 0xE1, number]), emblem(number, "train"), memory[id].text
            while (said := say(this, rng)) == known:
                pass
            queries.append(Document.of(said, id=_EMBLEM + str(number)))
    for i in range(scenes):
        rng = np.random.default_rng([seed, 0xE2, i])
        document = _said_and_drawn(_scene(seed, i), size, rng, f"{_SCENE}{seed}/{i}")
        queries.append(as_query(document, law, rng))
    vectors, ids = embed(encoder, queries), [q.id for q in queries]
    job = _digest(memory, ids, vectors, law)
    if (made := _table(Path(path), job)) is not None:
        return made
    table = EmblemTable()
    for start in range(0, len(ids), 1024):
        some = slice(start, start + 1024)
        texts, images, shown = vectors.texts[some], vectors.images[some], vectors.pictures[some]
        found = shortlists(memory, texts, images, [{id} for id in ids[some]], law, shown, texts)
        table.update(zip(ids[some], found, strict=True))
        if progress is not None:
            progress(len(table), len(ids), "neighbours")
    rows = {id: [dataclasses.astuple(c) for c in found] for id, found in table.items()}
    write(path, json.dumps({"job": job, "rows": rows}))
    return table


def _table(path: Path, job: str) -> EmblemTable | None:
    """Return the table of a file; None where there is none, or one of another job."""
    try:
        page = parse_json(path.read_bytes(), str(path))
        if page["job"] == job:
            return EmblemTable({id: [Candidate(*row) for row in rows] for id, rows in page["rows"].items()})
    except (OSError, DataError, KeyError, TypeError):
        pass
    return None


def _digest(memory: Memory, ids: Sequence[str], vectors: Vectors, law: SelectLaw) -> str:
    """Return a hash of all that neighbours follow from."""
    names = sorted(memory)
    digest = hashlib.sha256(json.dumps([dataclasses.astuple(law), memory.encoder_name, ids, names]).encode())
    for array in (vectors.texts, vectors.images, memory.vectors(names), memory.images(names)):
        digest.update(np.ascontiguousarray(array, np.float32).data)
    return digest.hexdigest()


class EmblemSource(Source):
    """`Source` (cm3/data/load.py) of tokenised examples; the bank's documents are tokenised when first met and kept."""

    def __init__(
        self,
        codec: Codec,
        memory: Memory,
        neighbours: EmblemTable,
        seed: int,
        mix: EmblemMix | None = None,
        length: int | None = None,
    ) -> None:
        """Take `neighbours` of `emblem_neighbours` for this bank. `length`: most tokens of an example
        (`with_documents`).

        Raises `ConfigError` as `SceneSource` does; `DataError` for a table of documents that the bank lacks, or
        has no queries of a kind that `mix` asks for.
        """
        self.codec, self.memory, self.neighbours, self.seed = codec, memory, neighbours, seed
        self.mix, self.length = mix or EmblemMix(), length
        self.plain = SceneSource(
            codec,
            seed,
            captions_only=self.mix.captions_only,
            objects=self.mix.objects,
            in_order=self.mix.in_order,
        )
        self._emblems = [id for id in neighbours if id.startswith(_EMBLEM)]
        self._scenes = [id for id in neighbours if id.startswith(_SCENE)]
        for kind, share, ids in (
            ("emblems", self.mix.emblems, self._emblems),
            ("scenes", self.mix.scenes, self._scenes),
        ):
            if share > 0 and not ids:
                raise DataError(f"mix.{kind}={share}: the table of neighbours has none; compute it with some")
        self._order = sorted(memory)
        self._place = {id: i for i, id in enumerate(self._order)}
        if missing := next((c.id for row in neighbours.values() for c in row if c.id not in self._place), None):
            raise DataError(f"neighbours: name the document {missing!r}, which the bank lacks; compute the table again")
        self._kept: dict[int, list[Tokens]] = {}

    def sequences(self, positions: Sequence[int]) -> list[Tokens]:
        """Return tokens of these examples."""
        examples = [self.example(i) for i in positions]
        queries = self.codec.encode_many([e.query for e in examples])
        return [self._laid_out(example, query) for example, query in zip(examples, queries, strict=True)]

    def _laid_out(self, example: Example, query: Tokens) -> Tokens:
        documents = [self._document(id) for id in example.documents]
        if example.shuffle is not None:
            ids = (*example.documents, example.own)
            *documents, query = (
                self._shuffled(t, id, example.shuffle) for t, id in zip((*documents, query), ids, strict=True)
            )
        return with_documents(query, documents, self.codec.vocab, self.length)

    def _shuffled(self, tokens: Tokens, id: str, seed: int) -> Tokens:
        codes, ids = tokens.cells > 0, tokens.ids.copy()
        # By the document's place, so that an emblem and its own document are shuffled alike, and all others otherwise.
        ids[codes] = np.random.default_rng([seed, self._place[id]]).permutation(ids[codes])
        return Tokens(ids, tokens.cells)

    def example(self, index: int) -> Example:
        """Return the parts of example `index`: a function of the seed and the number alone."""
        rng = np.random.default_rng([self.seed, 0xE3, index])
        mix, kinds = self.mix, get_args(Kind)
        shares = np.array([getattr(mix, kind) for kind in kinds])
        kind: Kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
        if kind == "plain":
            return Example(kind, self.plain.document(index))
        if kind == "scenes":
            id = self._scenes[int(rng.integers(len(self._scenes)))]
            table_seed, number = (int(part) for part in id.removeprefix(_SCENE).split("/"))
            query = _said_and_drawn(_scene(table_seed, number), self.plain.size, rng, str(index))
            k = 0
            while k == 0:
                k = mix.documents.draw(rng)
            return Example(kind, query, tuple(self.neighbours.of(id, k, rng)))
        id = self._emblems[int(rng.integers(len(self._emblems)))]
        this = emblem(int(id.removeprefix(_EMBLEM)), "train")
        text = say(this, rng)
        own = id.removeprefix("query/")
        # In retrieved order, as documents stand before a prompt (cm3/retrieval/live.py).
        documents = tuple(self.neighbours.of(id, mix.documents.draw(rng)))
        shuffle = int(rng.integers(2**31)) if mix.shuffled and documents and rng.random() < mix.shuffled else None
        if shuffle is not None or (mix.alike and rng.random() < mix.alike):
            picture = self.memory[own].images[0].pixels
        else:
            picture = draw(this.scene, self.plain.size, rng)
        query = Document.of(text, picture, id=str(index), source="emblems/train")
        return Example(kind, query, documents, own, shuffle)

    def _document(self, id: str) -> Tokens:
        chunk, at = divmod(self._place[id], CHUNK)
        if chunk not in self._kept:
            # Always the same ones together: an image tokenizer may round differently in another batch.
            ids = self._order[chunk * CHUNK : (chunk + 1) * CHUNK]
            self._kept[chunk] = self.codec.encode_many([self.memory[i] for i in ids])
        return self._kept[chunk][at]


def _scene(seed: int, number: int) -> Scene:
    return random_scene(np.random.default_rng([seed, 0xE4, number]), "train")


def _said_and_drawn(scene: Scene, size: int, rng: np.random.Generator, id: str) -> Document:
    caption = describe(scene, rng)
    return Document.of(caption, draw(scene, size, rng), id=id, source="scenes/train")
