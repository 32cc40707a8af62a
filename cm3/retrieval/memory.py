"""A memory bank: the documents of a store, found by the inner product of their vectors with a query's.

A bank is a store (cm3/store/store.py) with vectors. A document's is the mean of those of its words and of its pictures
(`cm3.retrieval.embed`). Adding writes a segment more, deleting leaves documents out of the index, and each ends in a
new manifest: no shard is changed or taken away, so whoever opened a bank goes on with what it opened; `merge` writes
one without what is gone, into a folder of its own. One process writes to a bank at a time, any number read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cm3.document import Document, Unreadable
from cm3.errors import CheckpointError, Cm3Error, ConfigError, DataError, DiskError
from cm3.files import replacing
from cm3.retrieval.nearest import Exact, Index, Progress, build_lists, choose, open_lists, ranked
from cm3.store.manifest import WORDS, lists_name, page
from cm3.store.record import Record
from cm3.store.shard import Batch, Shape, shard_name
from cm3.store.store import Store
from cm3.store.vectors import Means, Rows
from cm3.store.write import Draft, Report, Source, delete, making, writing

if TYPE_CHECKING:
    from cm3.retrieval.embed import Encoder
    from cm3.store.old import Bank

BATCH = 256
"""Documents that are embedded and kept at a time: what a kill can lose."""
IN_MEMORY = 1 << 28
"""Bytes of the vectors of a segment, at most, that are kept in memory once it was searched."""

By = Literal["both", "text", "image"]


class Memory:
    """A memory bank on disk, memory-mapped. `build`, `open` and `merge` make one."""

    report: Report | None = None
    """Report of the last `build` or `add` of this object."""

    def __init__(self, store: Store | Bank) -> None:
        """Raise `DataError` for a store without vectors."""
        self._load(store)

    def _load(self, store: Store | Bank) -> None:
        if store.encoder_name is None or store.width is None:
            raise DataError(
                f"store {store.path!r}: has no vectors; prepare it with an encoder, or make a bank by `cm3 index build`"
            )
        self.store, self.folder = store, Path(store.path)
        self.encoder_name: str = store.encoder_name
        self.width: int = store.width
        self.about: dict[str, Any] = store.facts.about
        self._indexes: dict[tuple[int, By], Index] = {}
        self._vectors: dict[str, Rows] = {}
        self._means: Means | None = None

    @classmethod
    def open(cls, folder: str | Path, *, encoder: Encoder | None = None, verify: bool = False) -> Memory:
        """Open a bank, of a folder or of an address as `Store.open` does; `verify` reads every byte.

        Raises `DataError` for one that is missing, damaged, or without vectors, `CheckpointError` for one that was made
        with another encoder.
        """
        memory = cls(_opened(folder))
        if encoder is not None:
            memory.check_encoder(encoder)
        if verify:
            memory.verify()
        return memory

    @classmethod
    def build(
        cls,
        folder: str | Path,
        documents: Source,
        encoder: Encoder,
        *,
        index: str = "auto",
        batch: int = BATCH,
        about: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Memory:
        """Make a bank. It appears whole or not at all; a build that was killed goes on where it was.

        `index`: auto, exact, ivf or pq (`cm3.retrieval.nearest`); `about`: anything to keep beside it. Damaged pictures
        are left out and listed in `report`. Raises `DataError` for ids that come twice in one source and for a source
        without documents, `ConfigError` for a folder that is there.
        """
        choose(index, 0)
        manifest = _fields(encoder.name, encoder.width, index, dict(about or {}))
        with making(Path(folder)) as root:
            report = _add(root, None, manifest, documents, encoder, batch, progress)
        made = cls.open(folder)
        made.report = report
        return made

    def verify(self, progress: Progress | None = None) -> None:
        """Read every file and compare its checksum. Raises `DataError` for the first that is damaged."""
        self.store.verify(progress)

    def __len__(self) -> int:
        return len(self.store)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and len(self.store.find(id)) == 1

    def __iter__(self) -> Iterator[str]:
        """Return ids, in the order in which they were added."""
        return self.store.ids()

    def __getitem__(self, id: str) -> Document:
        """Return a document; its pictures are decoded when their pixels are first asked for. Raises `DataError`."""
        return self.store.document(self._numbers([id])[0])

    def _numbers(self, ids: Sequence[str]) -> list[int]:
        """Return numbers of documents. Raises `DataError` naming the ids that are not there, and one that names
        several."""
        found = self.store.find_all(ids)
        if missing := [id for id, numbers in zip(ids, found, strict=True) if not numbers]:
            told = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise DataError(f"memory bank {str(self.folder)!r}: has no document {told}; `cm3 index search` shows ids")
        for id, numbers in zip(ids, found, strict=True):
            if len(numbers) > 1:
                named = self.store.about(numbers[0]).id
                raise DataError(
                    f"memory bank {str(self.folder)!r}: has several documents {id!r}; name one, as {named!r}"
                )
        return [numbers[0] for numbers in found]

    def search(self, vectors: np.ndarray, k: int, by: By = "both") -> tuple[list[list[str]], np.ndarray]:
        """Return the k documents of greatest inner product for each query of (q, width): ids, scores (q, k), best
        first.

        `by`: with the documents' vectors, or with those of their words or of their pictures alone. A `k` larger than
        the bank gives all of it. Raises `DataError` for an empty bank and for queries of another width, of zeros or not
        finite; `ConfigError` for k below 1.
        """
        numbers, scores = self.numbers(vectors, k, by)
        every, back = np.unique(numbers, return_inverse=True)
        ids = self.store.ids_of(every)
        return [[ids[at] for at in some] for some in back.reshape(numbers.shape)], scores

    def numbers(self, vectors: np.ndarray, k: int, by: By = "both") -> tuple[np.ndarray, np.ndarray]:
        """Search as `search` does, and return the documents' numbers (q, k) and scores."""
        if k < 1:
            raise ConfigError(f"k={k}: must be at least 1")
        queries = self._queries(vectors)
        if not len(self):
            raise DataError(f"memory bank {str(self.folder)!r}: is empty; add documents to it")
        kept, every = self.store.kept, []
        for number, (begin, end, _) in enumerate(self.store.spans()):
            a, b = np.searchsorted(kept, [begin, end]).tolist()
            if a < b:
                gone = np.ones(end - begin, bool)
                gone[kept[a:b] - begin] = False
                found = self._index(number, by).search(queries, min(k, b - a), gone if b - a < end - begin else None)
                every.append((found[0], np.searchsorted(kept, found[1] + begin)))
        scores, rows = (np.concatenate(parts, 1) for parts in zip(*every, strict=True))
        if not np.isfinite(scores).all():
            raise DataError(f"memory bank {str(self.folder)!r}: holds vectors that are not finite; build it again")
        scores, rows = ranked(scores, rows, k)
        return rows, scores

    def _index(self, number: int, by: By) -> Index:
        """Return what a segment is searched by, opened when it is first needed. Raises `DataError` for damage."""
        if (found := self._indexes.get((number, by))) is None:
            begin, end, built = self.store.spans()[number]
            vectors: Any
            if by == "both":
                vectors = Means(self.store.rows("text", begin, end), self.store.rows("image", begin, end))
            else:
                vectors = self.store.rows(by, begin, end)
            if built.kind != "exact" and by == "both":
                name = lists_name(number)
                assert isinstance(self.store, Store)
                self.store.compare(name, self.store.facts.files[name].sha256)
                found = open_lists(Path(self.store.place.path(name)), vectors, built.nprobe)
            else:
                small = len(vectors) * self.width * 4 <= IN_MEMORY
                found = Exact(vectors[: len(vectors)].astype(np.float32) if small else vectors)
            self._indexes[number, by] = found
        return found

    def _queries(self, vectors: np.ndarray) -> np.ndarray:
        queries = np.ascontiguousarray(vectors, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise DataError(f"search: queries of shape {queries.shape}, the bank's vectors are (n, {self.width})")
        lengths = (queries * queries).sum(1)
        bad = ~((lengths > 0) & (lengths < np.inf))
        if bad.any():
            raise DataError(
                f"search: query {bad.argmax()} is all zeros or not finite; a query needs at least one word or a picture"
            )
        return queries

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vectors (n, width) float32 of documents. Raises `DataError` for an id that is not there."""
        self._means = self._means or Means(self.rows("text"), self.rows("image"))
        return self._means[np.array(self._numbers(ids), np.int64)]

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, width) float32 of documents' pictures alone; zeros where none is, or none is known.

        Raises `DataError` for an id that is not there.
        """
        found = self.rows("image")[np.array(self._numbers(ids), np.int64)].astype(np.float32)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)

    def rows(self, what: Literal["text", "image"]) -> Rows:
        """Return vectors of the words or of the pictures of all documents, by number."""
        if what not in self._vectors:
            found = self.store.vectors(what)
            assert found is not None  # a bank has them
            self._vectors[what] = found
        return self._vectors[what]

    def pictures(self, ids: Sequence[str]) -> list[frozenset[bytes]]:
        """Return digests of each document's pictures (`cm3.store.record.shows`). Raises `DataError` as `images`."""
        return self.store.pixels(self._numbers(ids))

    def whole(self, ids: Sequence[str]) -> list[bool]:
        """Tell which documents have text and a picture. Raises `DataError` for an id that is not there."""
        numbers = np.array(self._numbers(ids), np.int64)
        return (self.rows("text").has[numbers] & self.rows("image").has[numbers]).tolist()

    def add(
        self,
        documents: Source,
        encoder: Encoder,
        *,
        batch: int = BATCH,
        progress: Progress | None = None,
    ) -> Report:
        """Add documents: all of them or none; what was killed goes on where it was. Raises as `build` does."""
        with self._writing() as store:
            self.check_encoder(encoder)
            if store.has_tokens or not store.facts.pictures:
                raise DataError(
                    f"store {store.path!r}: was prepared; prepare the documents that are to be added in the same way, "
                    "and merge both, `cm3 index build STORE STORE --out DIR`"
                )
            self.report = _add(self.folder, store, {}, documents, encoder, batch, progress)
        self._load(Store.open(self.folder))
        return self.report

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Store]:
        """Hold the bank's lock, with what is in it now. Raises `DataError` for what is not a folder of this version."""
        if not isinstance(self.store, Store):
            raise DataError(
                f"memory bank {str(self.folder)!r}: is of an earlier version, which is read only; `cm3 index build "
                f"{self.folder} --out DIR` makes one of it that can be changed"
            )
        if self.store.place.far is not None:
            raise DataError(f"memory bank {self.store.path!r}: is far away, and is read only; change a copy on a disk")
        with writing(self.folder):
            store = Store.open(self.folder)
            self._load(store)
            yield store

    def delete(self, ids: Sequence[str]) -> int:
        """Take documents away, all or none; returns how many. Raises `DataError` for an id that is not there."""
        with self._writing() as store:
            count = delete(store, self._numbers(ids))
        self._load(Store.open(self.folder))
        return count

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise `CheckpointError` for an encoder that is not the one that the bank was made with."""
        mine, other = (self.encoder_name, self.width), (encoder.name, encoder.width)
        if mine != other:
            raise CheckpointError(
                f"memory bank {str(self.folder)!r}: was made with encoder {mine[0]!r} of width {mine[1]}, not with "
                f"{other[0]!r} of width {other[1]}; use that one, or build the bank again"
            )

    @classmethod
    def merge(
        cls,
        folders: Sequence[str | Path],
        out: str | Path,
        *,
        index: str | None = None,
        progress: Progress | None = None,
    ) -> Memory:
        """Make one bank of several stores with vectors, or of one anew: a single segment without what was deleted.

        A merge that was killed goes on where it was. `index` is the first bank's if None. Raises `CheckpointError` for
        banks of different encoders, `DataError` for an id that is in two of them and for stores of different
        tokenizers, or that keep different things; `ConfigError` for `out` that is there.
        """
        if not folders:
            raise ConfigError("merge: no memory bank given; name at least one")
        banks = [cls.open(folder, verify=True) for folder in folders]
        first = banks[0].store
        for bank in banks[1:]:
            if (bank.encoder_name, bank.width) != (banks[0].encoder_name, banks[0].width):
                raise CheckpointError(
                    f"merge: {str(bank.folder)!r} was made with encoder {bank.encoder_name!r}, "
                    f"{first.path!r} with {banks[0].encoder_name!r}; merge banks of one encoder"
                )
            for name in ("vocab", "text_tokenizer", "image_tokenizer", "words", "pictures"):
                if getattr(bank.store.facts, name) != getattr(first.facts, name):
                    raise DataError(
                        f"merge: {str(bank.folder)!r} and {first.path!r} differ in {name}; merge stores of one"
                    )
        index = index or first.facts.index
        choose(index, 0)
        manifest = _fields(banks[0].encoder_name, banks[0].width, index, banks[0].about)
        for name in ("vocab", "text_tokenizer", "image_tokenizer", "words", "pictures"):
            manifest[name] = first.manifest.get(name, getattr(first.facts, name))
        shape = first.facts.shape
        with making(Path(out)) as root:
            of = [bank.store.fingerprint for bank in banks]
            with _drafting(root, 0, shape, {"of": of, "index": index}) as draft:
                draft.go_on()
                rows = islice(((b, n) for b in banks for n in range(len(b))), draft.documents, None)
                while some := list(islice(rows, BATCH)):
                    draft.append(_copied(some, shape, draft))
                    if progress:
                        progress(draft.documents, sum(map(len, banks)), "merging")
                if isinstance(first, Store) and first.has_tokens:
                    (root / WORDS).write_bytes(first.tokenizer_path.read_bytes())
                draft.commit(manifest, None, _builder(index, progress))
        return cls.open(out)

    def info(self) -> dict[str, Any]:
        """Return its contents: counts, sources, licences, kinds of index, bytes on disk, and those skipped."""
        facts, kept = self.store.facts, self.store.kept
        sizes = {"documents": sum(s["bytes"] for s in facts.shards)}
        sizes["pictures"] = sum(s["pictures"]["bytes"] for s in facts.shards if s["pictures"])
        sizes["index"] = sum(f.bytes for f in facts.files.values())
        segments = []
        for begin, end, built in self.store.spans():
            a, b = np.searchsorted(kept, [begin, end]).tolist()
            only = {"kind": built.kind} if built.kind == "exact" else vars(built)
            segments.append({"documents": b - a, **only})
        return {
            "folder": str(self.folder),
            "documents": len(self),
            "deleted": facts.deleted,
            "encoder": self.encoder_name,
            "width": self.width,
            "segments": segments,
            "sources": facts.sources,
            "licenses": facts.licenses,
            "bytes": {**sizes, "total": sum(sizes.values())},
            "bytes_a_vector": 4 * self.width,
            "skipped": [vars(u) for u in self.skipped()],
            "about": self.about,
        }

    def skipped(self) -> list[Unreadable]:
        """Return what could not be kept when the bank was made, as far as the reports of its shards are there."""
        reports = (page(self.folder / shard_name(n, "json")) for n in range(len(self.store.facts.shards)))
        found = (s for report in reports for s in report.get("skipped", ()))
        return [Unreadable(str(s["id"]), str(s["reason"])) for s in found]


def _opened(folder: str | Path) -> Store | Bank:
    """Open a store, or a bank of an earlier version."""
    from cm3.store import old  # for one release

    return old.Bank(Path(folder)) if old.is_bank(folder) else Store.open(folder)


def _fields(encoder: str, width: int, index: str, about: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a new bank's manifest."""
    tokens: dict[str, Any] = {"vocab": None, "text_tokenizer": None, "image_tokenizer": None}
    kept = {"words": True, "pictures": True, "index": index}
    return {"encoder": encoder, "width": width, "about": about, **tokens, **kept}


def _add(
    root: Path,
    store: Store | None,
    manifest: dict[str, Any],
    documents: Source,
    encoder: Encoder,
    batch: int,
    progress: Progress | None,
) -> Report:
    """Make a segment of documents: the first of a store, or one more."""
    from cm3.retrieval.embed import embed

    if batch < 1:
        raise ConfigError(f"batch={batch}: must be at least 1")

    def encode(some: Sequence[Document]) -> tuple[np.ndarray, np.ndarray]:
        found = embed(encoder, some)
        return found.texts.astype(np.float16), found.images.astype(np.float16)

    def known(record: Record) -> bool:
        return store is not None and bool(store.find(record.id, record.source))

    first, index = (0, manifest["index"]) if store is None else (len(store.facts.shards), store.facts.index)
    settings = {"encoder": encoder.name, "width": encoder.width, "index": index, "first": first}
    with _drafting(root, first, Shape(None, encoder.width, True, True), settings) as draft:
        draft.fill(documents, encode, known, batch=batch, progress=progress)
        draft.check_kept()
        draft.commit(manifest, store, _builder(index, progress))
    return Report(draft.documents, draft.skipped, draft.resumed, draft.dropped)


@contextlib.contextmanager
def _drafting(root: Path, first: int, shape: Shape, settings: dict[str, Any]) -> Iterator[Draft]:
    """Begin a draft of a segment. One that is refused is taken away; one that was killed, or had no room, stays."""
    draft = Draft(root, first, shape, settings)
    try:
        yield draft
    except Cm3Error as error:
        if not isinstance(error, DiskError):
            draft.forget()
        raise


def _builder(index: str, progress: Progress | None) -> Callable[[Store], dict[str, Any]]:
    """Return what builds the inverted lists of a store's last segment, where it has rows for that."""

    def build(store: Store) -> dict[str, Any]:
        number, (begin, end, _) = len(store.facts.segments) - 1, store.spans()[-1]
        kind = choose(index, end - begin)
        if kind == "exact":
            return {"kind": kind}
        means = Means(store.rows("text", begin, end), store.rows("image", begin, end))
        with replacing(Path(store.path) / lists_name(number)) as part:
            return build_lists(means, kind, part, progress)

    return build


def _copied(some: Sequence[tuple[Memory, int]], shape: Shape, draft: Draft) -> Batch:
    """Return documents of banks as they are, to be written again."""
    made = Batch()
    for bank, number in some:
        store = bank.store
        made.records.append(store.record(number))
        made.text.append(bank.rows("text")[np.array([number])])
        made.image.append(bank.rows("image")[np.array([number])])
        if shape.entries is not None:
            assert isinstance(store, Store)
            made.tokens.append(store.tokens([number])[0].ids)
            made.images.append(int(store.vocab.is_image(made.tokens[-1]).sum()))
    draft.refuse_twice(made.records)
    return made
