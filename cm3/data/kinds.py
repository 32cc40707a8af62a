"""Kinds of real data: documents of any reader, token stores, and instruction tasks.

    DocumentData   folders, COCO's layout, web shards, JSON lines, the hub: read and tokenised as a run goes on
    StoreData      token stores that `cm3 prepare` wrote, with retrieved documents where there is a table of neighbours
    TaskData       examples of instruction tasks, made on the fly of datasets, and stores among them

docs/training.md says which suits what; cm3/data/kind.py says what each must give.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cm3 import files
from cm3.data.documents import DocumentSource, Subset, split
from cm3.data.kind import Batches, Context, Data, Made
from cm3.data.load import Source
from cm3.data.pictures import Pairs, Pictures
from cm3.data.store_source import Retrieval, StoreSource
from cm3.data.task_source import ExampleLaw, StorePart, TaskPart, TaskSource, mixture_of
from cm3.document import Document
from cm3.errors import ConfigError, DataError
from cm3.picture import rgb
from cm3.read.find import open_reader
from cm3.read.random_access import Numbered
from cm3.retrieval.accuracy import among_hundred
from cm3.retrieval.embed import Encoder
from cm3.sequence.before import AugmentLaw
from cm3.store.store import Store
from cm3.tasks.examples import find_task
from cm3.tokens.on_disk import fingerprint, text_fingerprint

STORE = "store"
"""Stands for a task where the source is a token store."""
WRITTEN = "TASK=[KIND:]PATH[@SPLIT]"
"""The form of a dataset of a task."""


@dataclass(frozen=True)
class DocumentData(Data):
    """Captioned pictures of any reader, tokenised as they are met. Large amounts are better prepared (`StoreData`)."""

    sources: tuple[str, ...]
    """Where they are, each [KIND:]PATH[@SPLIT]: a folder, COCO's layout, web shards, JSON lines, the hub ..."""
    seed: int = 1
    """Draws the order of each epoch."""
    holdout: float = 0.02
    """Share of the pictures that is never trained on, for validation; 0 trains on all."""
    workers: int = 0
    """Processes that read and decode pictures ahead, for an image tokenizer and a CLIP; 0 reads as it goes."""

    def texts(self) -> Iterator[str]:
        """Yield the words of all documents that are trained on."""
        for part in self._parts[0]:
            for i in range(len(part)):
                if isinstance(found := part[i], Document):
                    yield found.text

    def source(self, run: Context) -> DocumentSource:
        """Return the documents that are trained on."""
        return DocumentSource(self._parts[0], run.codec, self.seed)

    def held_out(self, run: Context) -> DocumentSource:
        """Return those that are not. Raises `ConfigError` where there are none."""
        if not self.holdout:
            raise ConfigError("validate_every: nothing is held out; give --data.holdout 0.02, or 0")
        return DocumentSource(self._parts[1], run.codec, self.seed)

    def prompts(self, run: Context, number: int = 8) -> list[Document]:
        """Return documents held out, or spread over those that are trained on."""
        trained, held = self._parts
        part = next(part for part in [*held, *trained] if len(part))
        some = [part[i] for i in range(0, len(part), max(1, len(part) // number))]
        return [d for d in some if isinstance(d, Document) and d.text.strip() and _shown(d)][:number]

    def pictures(self, size: int, batch: int, keep: int = 0) -> Batches:
        """Return the pictures, each once an epoch."""
        return Pictures(self._named(), size, batch, self.seed, holdout=self.holdout, workers=self.workers)

    def pairs(self, size: int, batch: int) -> Batches:
        """Return the pictures, each with two of its captions."""
        return Pairs(self._named(), size, batch, self.seed, holdout=self.holdout, workers=self.workers)

    def measure(self, encoder: Encoder, pairs: Batches, seed: int) -> dict[str, float]:
        """Return the number of pairs, and how often a caption finds its picture, first or among five of at most 100.

        The pairs are those held out; where none are, those of a batch of training, learnt by heart.
        """
        some = pairs.held_out() or pairs.batch(0)
        texts, images = encoder.texts([pair.text for pair in some]), encoder.images([pair.image for pair in some])
        name = "held_out" if pairs.held_out() else "training"
        return {**among_hundred(name, texts, images), f"{name}_pairs": len(some)}

    def given(self, source: Source) -> dict[str, Any]:
        """Return a name for the documents."""
        assert isinstance(source, DocumentSource)
        return {"documents": [documents_digest(part) for part in source.parts]}

    def _named(self) -> tuple[str, ...]:
        if not self.sources:
            raise ConfigError("data.sources: there are none; give some, each [KIND:]PATH[@SPLIT]")
        return self.sources

    @functools.cached_property
    def _parts(self) -> tuple[list[Subset], list[Subset]]:
        """Return what is trained on and what is held out, a part for each source; read once."""
        both = split([Numbered(open_reader(source), source) for source in self._named()], self.holdout)
        return [one for one, _ in both], [other for _, other in both]


@dataclass(frozen=True)
class StoreData(Data):
    """Token stores that `cm3 prepare` wrote. They bring their text tokenizer and vocabulary.

    Resume with the same ones: which document comes when follows from them, their weights and the seed.
    """

    stores: tuple[str, ...]
    """Folders of stores."""
    weights: tuple[float, ...] = ()
    """Share of the documents that comes from each, in any unit; none means every document as often as any other."""
    seed: int = 1
    """Draws the order of each epoch."""
    neighbours: str = ""
    """Table of the stores, as `cm3 neighbours` makes it: which documents are put before an example."""
    bank: str = ""
    """Store that those documents are taken from; none means the one of the stores that is the table's bank."""
    documents: AugmentLaw = field(default_factory=AugmentLaw)
    """How many of them."""
    validation: str = ""
    """Store of documents that are not trained on, for `validate_every`."""

    def made(self) -> Made | None:
        """Return what the first store was made with, None where it is not on this machine."""
        store = self.opened()[0]
        return Made(store.vocab, store.tokenizer_path.read_bytes(), store.image_size or 0)

    def source(self, run: Context) -> StoreSource:
        """Return the stores, mixed, with retrieved documents where there is a table of them.

        Raises `ConfigError` where another tokenizer made them than the run has.
        """
        stores, retrieval = self.opened(), None
        if other := _other(stores[0], run):
            raise ConfigError(
                f"data.stores={self.stores}: were prepared with another {other} than this run has; give init, "
                f"image_tokenizer and image_size (theirs is {stores[0].image_size}) as they were, or prepare again"
            )
        if self.neighbours:
            retrieval = Retrieval.open(self.neighbours, self.bank, stores, self.documents, run.context)
        return StoreSource(stores, self.weights, self.seed, retrieval)

    def held_out(self, run: Context) -> StoreSource:
        """Return the store `validation`."""
        if not self.validation:
            raise ConfigError(
                "validate_every: there are no documents held out; give 0, or --data.validation with a store of others"
            )
        return StoreSource([Store.open(self.validation)], seed=self.seed)

    def prompts(self, run: Context, number: int = 8) -> list[Document]:
        """Return documents that have words and a picture, spread over the first store: not a picture's captions."""
        store = self.opened()[0]
        some, v = store.tokens(range(0, len(store), max(1, len(store) // 256))), store.vocab
        both = [t for t in some if v.is_image(t.ids).any() and v.is_text(t.ids).any()]
        return [run.codec.decode(t) for t in both[:: max(1, len(both) // number)][:number]]

    def given(self, source: Source) -> dict[str, Any]:
        """Return names of the stores and of the table."""
        found: dict[str, Any] = {"stores": [store.fingerprint for store in self.opened()]}
        return found | ({"neighbours": files.sha256(self.neighbours)} if self.neighbours else {})

    def opened(self) -> list[Store]:
        """Return the stores. Raises `ConfigError` where there is none."""
        if not self.stores:
            raise ConfigError("data.stores: there are none; give at least one that `cm3 prepare` wrote")
        return [Store.open(path) for path in self.stores]


@dataclass(frozen=True)
class TaskData(Data):
    """Instruction tasks of real datasets, made on the fly, and token stores among them (cm3/data/task_source.py).

    Resume with the same ones: which example comes when follows from them, their shares and the seed.
    """

    sources: tuple[str, ...]
    """TASK=[KIND:]PATH[@SPLIT], such as `vqa2=vqa2:data/vqa2@train2014`, or `store=PATH` for a token store. A source's
    name is its task's; a second one of the same task is `vqa2#2`, and so on."""
    seed: int = 1
    """Draws the order of the examples, and the examples of a document."""
    weights: dict[str, float] = field(default_factory=dict)
    """Shares of sources by name, in 0..1; what they leave is divided by sizes, up- and down-sampled."""
    caps: dict[str, int] = field(default_factory=dict)
    """Most documents of a source that are used, by name: the first of its order."""
    up: float = 3.0
    """Most often that a document of a source without a weight is to come, by sizes (the paper has 3)."""
    down: float = 0.3
    """Least often, likewise (the paper has 0.3)."""
    balanced: bool = False
    """The same share for tasks that give a picture, those that give a text, and stores."""
    law: ExampleLaw = field(default_factory=ExampleLaw)
    controls: str = ""
    """Folder of control images; none means beside the pictures. docs/tasks.md says what they are called."""
    neighbours: str = ""
    """Table of the stores, as `cm3 neighbours` makes it: which documents are put before an example of theirs."""
    bank: str = ""
    """Store that those documents are taken from; none means the one of the stores that is the table's bank."""
    documents: AugmentLaw = field(default_factory=AugmentLaw)
    """How many of them."""
    holdout: float = 0.0
    """Share of each dataset's pictures that is never trained on, for validation."""
    validation: tuple[str, ...] = ()
    """Sources that are not trained on, written as `sources`, for `validate_every`; none means the share held out."""

    def source(self, run: Context) -> TaskSource:
        """Return the sources, opened and mixed.

        Raises `ConfigError` for a source that is not written TASK=SOURCE, an unknown task, a dataset that it is not
        made of, a store that other tokenizers made, neighbours without a store, and weights that sum to nothing or name
        no source; `DataError` for a dataset that cannot be read, is empty, or has nothing for its task.
        """
        parts = self._opened(self.sources, "data.sources", run)
        mix = mixture_of(
            parts, weights=self.weights, caps=self.caps, up=self.up, down=self.down, balanced=self.balanced
        )
        return TaskSource(parts, mix, run.codec, self.seed, self.law)

    def held_out(self, run: Context) -> TaskSource:
        """Return the sources `validation`, or what is held out of each dataset, every source by its size."""
        if self.validation:
            parts = self._opened(self.validation, "data.validation", run)
        elif self.holdout:
            parts = self._opened(self.sources, "data.sources", run, held_out=True)
        else:
            parts = []
        if not parts:  # a store has nothing held out
            raise ConfigError(
                "validate_every: there are no documents held out; give --data.holdout 0.02, --data.validation "
                "with sources of others, or 0"
            )
        mix = mixture_of(parts, weights={}, caps={}, up=self.up, down=self.down, balanced=self.balanced)
        return TaskSource(parts, mix, run.codec, self.seed, self.law)

    def given(self, source: Source) -> dict[str, Any]:
        """Return names of the datasets, the stores and the table."""
        assert isinstance(source, TaskSource)
        found: dict[str, Any] = {"neighbours": files.sha256(self.neighbours)} if self.neighbours else {}
        for part in source.parts:
            stored = part.store.fingerprint if isinstance(part, StorePart) else documents_digest(part.documents)
            found[f"source {part.name}"] = stored
        return found

    def tasks(self) -> tuple[str, ...]:
        """Return the tasks of the sources, each once."""
        named = dict.fromkeys(source.partition("=")[0] for source in self.sources)
        return tuple(task for task in named if task != STORE)

    @functools.cached_property
    def _datasets(self) -> dict[str, tuple[Subset, Subset]]:
        """Return what is trained on and what is held out of each dataset of `sources`; read once, split together."""
        return _split_by_path(_paths(self.sources), self.holdout)

    def _opened(
        self, sources: Sequence[str], where: str, run: Context, *, held_out: bool = False
    ) -> list[TaskPart | StorePart]:
        """Return a part for each source: what is trained on, or `held_out`; a store has nothing held out."""
        if not sources:
            raise ConfigError(f"{where}: there are none; give some, each {WRITTEN} or {STORE}=PATH")
        named = named_sources(sources, where, f"{WRITTEN} or {STORE}=PATH")
        stores = {name: _store(path, run) for task, name, path in named if task == STORE}
        retrieval = None
        if self.neighbours and where == "data.sources":  # what is held out is looked at by itself
            if not stores:
                raise ConfigError(
                    f"data.neighbours={self.neighbours!r}: are of a store's documents; give one, store=PATH"
                )
            opened_stores = list(stores.values())
            retrieval = Retrieval.open(self.neighbours, self.bank, opened_stores, self.documents, run.context)
        controls = Path(self.controls) if self.controls else None
        wanted = {name: find_task(task) for task, name, _ in named if task != STORE}
        datasets = self._datasets if where == "data.sources" else _split_by_path(_paths(sources), 0.0)
        parts: list[TaskPart | StorePart] = []
        for task, name, path in named:
            if task != STORE:
                parts.append(TaskPart(name, wanted[name], datasets[path][held_out], controls))
            elif not held_out:
                parts.append(StorePart(name, stores[name], self.seed, retrieval))
        return parts


def named_sources(sources: Sequence[str], where: str, written: str = WRITTEN) -> list[tuple[str, str, str]]:
    """Return sources of tasks as (task, name, path), the name being the task's, of a second one of the same task
    `vqa2#2`.

    Raises `ConfigError` for one that is not `written` so, naming `where` it stands. The task need not be known.
    """
    named: list[tuple[str, str, str]] = []
    for source in sources:
        task, equals, path = source.partition("=")
        if not (equals and task and path):
            raise ConfigError(f"{where}: {source!r} must be written {written}")
        number = sum(task == other for other, _, _ in named) + 1
        named.append((task, f"{task}#{number}" if number > 1 else task, path))
    return named


def _paths(sources: Sequence[str]) -> list[str]:
    """Return the datasets of sources of tasks, each once: one may serve several tasks."""
    return list(dict.fromkeys(path for task, _, path in named_sources(sources, "data.sources") if task != STORE))


def _split_by_path(paths: Sequence[str], share: float) -> dict[str, tuple[Subset, Subset]]:
    """Open datasets, and split them together, so that a picture of two of them is on one side."""
    return dict(zip(paths, split([Numbered(open_reader(path), path) for path in paths], share), strict=True))


def _shown(document: Document) -> bool:
    """Tell whether a document has a picture that can be read to its end."""
    try:
        for image in document.images:
            rgb(image.pixels)
    except DataError:
        return False
    return bool(document.images)


def documents_digest(documents: Sequence[Document] | Numbered | Subset, most: int = 64) -> str:
    """Return a name for a list of documents: how many there are, and the words of at most so many, spread evenly."""
    hashed = hashlib.sha256(str(len(documents)).encode())
    for at in range(0, len(documents), max(1, len(documents) // most)):
        document = documents[at]
        told = (document.id, document.text) if isinstance(document, Document) else (document.id, document.reason)
        hashed.update(repr(told).encode())
    return hashed.hexdigest()


def _store(path: str, run: Context) -> Store:
    store = Store.open(path)
    if not len(store):
        raise DataError(f"store {path!r}: has no document; leave it out")
    if other := _other(store, run):
        raise ConfigError(f"store {path!r}: was prepared with another {other} than this run has; prepare it again")
    return store


def _other(store: Store, run: Context) -> str:
    """Name what of a run's tokenizers a store was not prepared with; nothing where all are the same."""
    assert run.codec.image is not None  # a run has pictures
    pairs = {
        "text tokenizer": (store.text_fingerprint, text_fingerprint(run.tokenizer)),
        "image tokenizer or size": (store.image_fingerprint, fingerprint(run.codec.image)),
        "vocabulary": (store.vocab, run.codec.vocab),
    }
    return next((what for what, (theirs, ours) in pairs.items() if theirs != ours), "")
