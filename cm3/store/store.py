"""The document store: tokens, words, pictures and vectors of documents, by number and by id, near or in object storage.

    STORE/manifest.json                     totals, size and checksum of everything else (cm3/store/manifest.py)
          plan.json                         what `cm3 prepare` was to make, and how: written first (cm3/data/prepare.py)
          tokenizer.json                    the text tokenizer, where there are tokens
          shards/00000.safetensors ...      documents: names, tokens, vectors (cm3/store/shard.py)
          shards/00000.pictures ...         their pictures, as the bytes that they came in
          shards/00000.json ...             what became of a shard; that it is there means that the shard is done
          index.safetensors                 kept     int64 (n,)    place among all that is in the shards, of each
                                                                   document that is no duplicate and not deleted
                                            lengths  int32 (n,)    its tokens
                                            has      uint8 (n,)    bit 0: a vector of words, bit 1: of pictures
                                            keys     uint64 (n,)   sorted hashes of ids, and
                                            numbers  int64 (n,)    whose they are
          lists-0000.faiss                  where a segment has enough rows to be searched by one

Tokens, words, pictures and vectors are optional, for all documents of a store alike. A document's number is 0 to
`len(store)` - 1. Tokens are stored unmasked, each `</s> ... </s>`, without cells, which follow from the ids: an image's
codes stand side by side in raster order. The documents that one command added are a segment: shards that nothing
changes later.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cm3.document import Document, Image, Part, Text, check_text
from cm3.errors import DataError
from cm3.files import checksum, on_disk, parse_json
from cm3.sequence.segments import cells_of
from cm3.store.manifest import BANK, NAME, PLAN, TOKENS, WORDS, Built, Manifest, checked, index_name
from cm3.store.place import Layout, Place, Tensors
from cm3.store.record import Picture, Record, is_of
from cm3.store.shard import VECTORS, Shape, digest, key, names_sum, shard_layout, shard_name
from cm3.store.vectors import Stored
from cm3.vocab import Tokens, Vocab

OPEN = 16_384
"""Shards that are kept open at most; systems allow some 65,000 maps a process."""

Progress = Callable[[int, int, str], None]


class About(NamedTuple):
    """The origin of a document."""

    id: str
    """Its id in its source; SOURCE#ID where the store has it of several sources."""
    source: str
    meta: dict[str, Any]
    pictures: tuple[str, ...] = ()
    """Digests of its pictures' files, in hexadecimal."""
    own: str = ""
    """Its id in its source, alone."""

    @property
    def picture(self) -> str:
        """Return the digest of its first picture; empty where it has none."""
        return self.pictures[0] if self.pictures else ""


def index_layout(documents: int) -> Layout:
    """Return the tensors of the index of so many documents."""
    n = (documents,)
    layout: Layout = {"kept": (np.int64, n), "lengths": (np.int32, n), "has": (np.uint8, n)}
    return {**layout, "keys": (np.uint64, n), "numbers": (np.int64, n)}


class Store:
    """A finished store, for reading. `cm3.data.prepare` and `cm3.retrieval.memory` make one, `open` reads one."""

    def __init__(
        self,
        place: Place,
        manifest: dict[str, Any],
        about: Manifest,
        *,
        check: bool,
        layout: Callable[[int, Shape], Layout] = shard_layout,
        indexed: Callable[[int], Layout] = index_layout,
    ) -> None:
        """See `open`; `about` is `manifest`, checked."""
        self.place, self.manifest, self.path = place, manifest, place.address
        self.facts, self._check = about, check
        self.encoder_name, self.width = about.encoder, about.width
        self._layout, self._indexed = layout, indexed
        self._shards: dict[int, Tensors] = {}
        self._compared: set[int] = set()
        self.begins = np.cumsum([0, *(s["documents"] for s in about.shards)], dtype=np.int64)
        """Place of the first document of each shard."""

    @classmethod
    def open(cls, path: str | Path, *, check: bool | None = None) -> Store:
        """Open the store of a folder, or of an address that fsspec reads (s3://..., gs://..., memory://...).

        The size of every file is compared with the manifest, and its checksum once, when it is first read; a picture is
        compared with its digest. Far away that is so of all but shards: of those the bytes of a document are fetched
        when it is asked for, and its tokens and its name compared with their own hashes. `check` says otherwise: True
        fetches each shard whole once, to be compared; False compares documents alone in a folder too. Raises
        `DataError` for what is no store, is not finished, or is missing a file.
        """
        place = Place(path)
        known = _page(place)
        while True:
            try:
                return cls._opened(place, known, check)
            except DataError:
                # Another process may have replaced the manifest, and the index that it names, while we read.
                again = _page(place)
                if again == known:
                    raise
                known = again

    @classmethod
    def _opened(cls, place: Place, manifest: Any, check: bool | None) -> Store:
        check = place.far is None if check is None else check
        kind = manifest.get("kind") if isinstance(manifest, dict) else None
        if kind == BANK:
            raise DataError(
                f"{place.said}: is a memory bank of an earlier version; `cm3 index build {place.address} --out DIR` "
                "makes a store of it"
            )
        if kind == TOKENS:
            from cm3.store import old  # for one release

            about = old.checked(manifest, place.said)
            layout = partial(old.shard_layout, manifest)
            store = cls(place, manifest, about, check=check, layout=layout, indexed=old.index_layout)
        else:
            about = checked(manifest, place.said)
            store = cls(place, manifest, about, check=check)
        wanted = {shard_name(n): s["bytes"] for n, s in enumerate(about.shards)}
        if about.pictures:
            wanted |= {shard_name(n, "pictures"): s["pictures"]["bytes"] for n, s in enumerate(about.shards)}
        sizes = place.sizes("shards") if wanted else {}
        for name, size in wanted.items():
            if sizes.get(name) != size:
                found = "is missing" if name not in sizes else f"has {sizes[name]} bytes, not {size}"
                raise DataError(f"{place.said}: {name} {found}; restore it from a copy")
        _ = store._index
        return store

    def __len__(self) -> int:
        return self.facts.documents

    @property
    def fingerprint(self) -> str:
        """Return a name for what it holds: the sha256 of its manifest, which has the checksum of each file."""
        return checksum(self.manifest)

    @property
    def has_tokens(self) -> bool:
        """Tell whether it has tokens, and so a vocabulary and tokenizers."""
        return self.facts.vocab is not None

    @property
    def vocab(self) -> Vocab:
        """Return the vocabulary of its tokens. Raises `DataError` where it has none."""
        return self._tokenized(self.facts.vocab)

    @property
    def text_fingerprint(self) -> str:
        """Return sha256 of tokenizer.json. Raises as `vocab`."""
        return self._tokenized(self.facts.text_tokenizer)

    @property
    def image_fingerprint(self) -> str:
        """Return the fingerprint of its image tokenizer (`cm3.tokens.on_disk.fingerprint`). Raises as `vocab`."""
        return self._tokenized(self.facts.image_tokenizer).fingerprint

    @property
    def image_size(self) -> int:
        """Return the side in pixels of the pictures that were tokenized. Raises as `vocab`."""
        return self._tokenized(self.facts.image_tokenizer).size

    def _tokenized(self, value: Any) -> Any:
        if value is None:
            raise DataError(f"store {self.path!r}: has no tokens; prepare it with a model")
        return value

    @property
    def lengths(self) -> np.ndarray:
        """Count the tokens of each document, int32 (n,)."""
        return self._index["lengths"]

    @property
    def kept(self) -> np.ndarray:
        """Return the place of each document among all that is in the shards, int64 (n,), rising."""
        return self._index["kept"]

    @property
    def has(self) -> np.ndarray:
        """Return which vectors each document has, uint8 (n,): bit 0 of words, bit 1 of pictures."""
        return self._index["has"]

    def tokens(self, numbers: Sequence[int] | np.ndarray) -> list[Tokens]:
        """Return tokens of documents, unmasked.

        Raises `IndexError` for a number that is none of them, `DataError` for a store without tokens and for a file
        that is not as it was written.
        """
        vocab = self.vocab
        pieces = self._parts("ids", "starts", numbers)
        if not pieces:
            return []
        sizes = np.array([p.size for p in pieces])
        ids = np.concatenate(pieces).astype(np.int32)
        if (wrong := self.lengths[np.asarray(numbers, np.int64)] != sizes).any():
            raise self._wrong(numbers, wrong, "other lengths than the index says")
        if ids.size and not 0 <= ids.min() <= ids.max() < vocab.size:
            wrong = np.array([p.size > 0 and not 0 <= p.min() <= p.max() < vocab.size for p in pieces])
            raise self._wrong(numbers, wrong, f"token ids outside its vocabulary of {vocab.size}")
        if not self._check:
            known = self._parts("digests", None, numbers)
            wrong = np.array([digest(p) != k.tobytes() for p, k in zip(pieces, known, strict=True)])
            if wrong.any():
                raise self._wrong(numbers, wrong, "tokens that were altered (their hash is another)")
        cells = cells_of(ids, vocab)
        ends = np.cumsum(sizes).tolist()
        return [Tokens(ids[a:b], cells[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    def vectors(self, what: str) -> Stored | None:
        """Return vectors of all documents, of their "text" or of their "image"; None for a store without.

        Raises `DataError` for another word.
        """
        if what not in VECTORS:
            raise DataError(f"vectors {what!r}: must be one of {', '.join(VECTORS)}")
        if self.width is None:
            return None
        has = (self.has & (1 << VECTORS.index(what))).astype(bool)
        kept = self.kept
        whole = bool(len(kept)) and int(kept[-1]) - int(kept[0]) + 1 == len(kept)
        shape = len(kept), self.width
        return Stored(self, what, shape, int(kept[0]) if whole else 0, None if whole else kept, has)

    def about(self, number: int) -> About:
        """Return where a document came from. Raises as `tokens` does."""
        name = self.name(number)
        pictures = tuple(d.tobytes().hex() for d in self._of(number, "shown", "shown_starts"))
        return About(self._id(name["id"], name["source"]), name["source"], name["meta"], pictures, name["id"])

    def _id(self, id: str, source: str) -> str:
        """Return an id as the store names it."""
        return id if self._count(key(id)) <= 1 else f"{source}#{id}"

    def ids_of(self, numbers: Sequence[int] | np.ndarray) -> list[str]:
        """Return ids of documents. Raises as `tokens` does."""
        return [self._id(name["id"], name["source"]) for name in self._names(numbers)]

    def name(self, number: int) -> dict[str, Any]:
        """Return what a shard says of a document: `id`, `source`, `meta`, perhaps `parts`. Raises as `tokens` does."""
        return self._names([number])[0]

    def _names(self, numbers: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Return what shards say of documents, checked."""
        layout = self._layout(0, self.facts.shape)
        names = self._parts("names", "name_starts", numbers)
        told = [part.tobytes() for part in names]
        shown = [self._parts(t, "shown_starts", numbers) for t in ("shown", "pixels") if t in layout]
        sums = self._parts("name_sums", None, numbers) if "name_sums" in layout else None
        keys = None if sums is not None or self._check else self._parts("keys", None, numbers)  # of format 1
        found = []
        for at, data in enumerate(told):
            page: Any = None
            with contextlib.suppress(DataError):
                page = parse_json(data, "name")
            right = isinstance(page, dict) and {"id", "source", "meta"} <= page.keys() <= {*_NAME, "parts"}
            right = right and isinstance(page["meta"], dict)
            right = right and isinstance(page["id"], str) and isinstance(page["source"], str)
            right = right and (not self.facts.words or isinstance(page.get("parts"), list))
            if right and sums is not None:
                right = int(sums[at][0]) == key(b"".join([data, *(part[at].tobytes() for part in shown)]))
            elif right and keys is not None:
                right = keys[at][0].tolist() == [key(page["id"]), key(page["source"])]
            if not right:
                raise self._wrong([numbers[at]], np.array([True]), "a name that is none")
            found.append(page)
        return found

    def _of(self, number: int, tensor: str, starts: str | None) -> np.ndarray:
        """Return the part of a tensor that belongs to a document; nothing where the store has no such tensor."""
        if tensor not in self._layout(0, self.facts.shape):
            return np.zeros(0, np.uint8)
        return self._parts(tensor, starts, [number])[0]

    def record(self, number: int) -> Record:
        """Return all that is stored of a document, its tokens and vectors aside.

        Its pictures have no bytes where the store keeps none. Raises `DataError` for a store without words, and as
        `tokens` does.
        """
        name, shape = self.name(number), self.facts.shape
        if not shape.words:
            raise DataError(f"store {self.path!r}: has no words; prepare it with --pictures, or with an encoder")
        shown, pixels = (self._of(number, t, "shown_starts") for t in ("shown", "pixels"))
        blobs = self._of(number, "blobs", "shown_starts") if shape.pictures else np.zeros((len(shown), 2), np.int64)
        parts: list[str | Picture] = []
        try:
            for part in name["parts"]:
                if isinstance(part, str):
                    check_text(part)
                    parts.append(part)
                elif type(part) is int and 0 <= part < len(shown):
                    digests = shown[part].tobytes(), pixels[part].tobytes()
                    data = self._picture(number, blobs[part].tolist(), digests[0]) if shape.pictures else b""
                    parts.append(Picture(data, *digests))
                else:
                    raise DataError("a part is neither words nor a picture")
            check_text(name["meta"], "its meta")
        except DataError as error:
            if "restore it" in str(error):
                raise
            raise DataError(f"store {self.path!r}: document {name['id']!r}: {error}; restore it from a copy") from error
        return Record(name["id"], name["source"], name["meta"], tuple(parts))

    def _picture(self, number: int, blob: list[int], known: bytes) -> bytes:
        start, length = blob
        shard = int(np.searchsorted(self.begins, self._index["kept"][number], "right")) - 1
        name, size = shard_name(shard, "pictures"), self.facts.shards[shard]["pictures"]["bytes"]
        if 0 <= start and 0 <= length and start + length <= size:
            data = self.place.part(name, start, start + length)
            try:
                if is_of(data, known):
                    return data
            except DataError:
                pass
        raise DataError(
            f"{self.place.said}: {name} was altered (a picture of document {number}); restore it from a copy"
        )

    def document(self, number: int) -> Document:
        """Return a document; its pictures are decoded when their pixels are first asked for. Raises as `record`."""
        record = self.record(number)
        if record.pictures and not self.facts.pictures:
            raise DataError(f"store {self.path!r}: has no pictures; prepare it with --pictures")
        parts: list[Part] = []
        for part in record.parts:
            parts.append(Text(part) if isinstance(part, str) else Image(data=part.data))
        return Document(tuple(parts), id=self._id(record.id, record.source), source=record.source, meta=record.meta)

    def pixels(self, numbers: Sequence[int] | np.ndarray) -> list[frozenset[bytes]]:
        """Return digests of what documents' pictures show (`cm3.store.record.shows`), where words are kept."""
        if not self.facts.words:
            return [frozenset()] * len(numbers)
        parts = self._parts("pixels", "shown_starts", numbers)
        return [frozenset(p.tobytes() for p in part) for part in parts]

    def number(self, id: str, source: str | None = None) -> int:
        """Return the number of a document, by ID, or by SOURCE#ID where several sources have it.

        Raises `DataError` for one that is not there, and for an id that is not enough.
        """
        found = self.find(id, source)
        if len(found) == 1:
            return found[0]
        of = "" if source is None else f" of source {source!r}"
        if not found:
            raise DataError(f"store {self.path!r}: has no document {id!r}{of}")
        raise DataError(
            f"store {self.path!r}: has several documents {id!r}{of}; name one, as {self.about(found[0]).id!r}"
        )

    def id_keys(self) -> np.ndarray:
        """Return hashes of the documents' ids, uint64 (n,)."""
        found = np.empty(self.facts.documents, np.uint64)
        found[self._index["numbers"]] = self._index["keys"]
        return found

    def image_tokens(self) -> np.ndarray:
        """Count the image codes among each document's tokens, int32 (n,)."""
        found = np.zeros(len(self), np.int32)
        for number, mine, row in self.by_shard(self.kept if self.has_tokens else self.kept[:0]):
            found[mine] = self.shard(number)["images"][row]
        return found

    def spans(self) -> list[tuple[int, int, Built]]:
        """Return first place, last place + 1, and index of each segment, among all that is in the shards."""
        shards = np.cumsum([0, *(s.shards for s in self.facts.segments)])
        ends = [(int(self.begins[a]), int(self.begins[b])) for a, b in itertools.pairwise(shards.tolist())]
        return [(*both, s.index) for both, s in zip(ends, self.facts.segments, strict=True)]

    def rows(self, what: str, begin: int, end: int) -> Stored:
        """Return vectors by place among all that is in the shards, those that are not kept too. See `vectors`."""
        kept = self._index["kept"]
        mine = slice(*np.searchsorted(kept, [begin, end]).tolist())
        has = np.zeros(end - begin, bool)
        has[kept[mine] - begin] = self._index["has"][mine] & (1 << VECTORS.index(what))
        return Stored(self, what, (end - begin, self.width or 0), begin, None, has)

    def find(self, id: str, source: str | None = None) -> list[int]:
        """Return the numbers of all documents that an id may name."""
        return self.find_all([id], source)[0]

    def find_all(self, ids: Sequence[str], source: str | None = None) -> list[list[int]]:
        """Return the numbers of all documents that each id may name, together."""
        tries: list[tuple[int, str | None, str, int]] = []
        for at, id in enumerate(ids):
            ways = [(source, id)]
            if source is None and "#" in id:
                ways += [(id[:cut], id[cut + 1 :]) for cut, letter in enumerate(id) if letter == "#"]
            tries += [(at, wanted, own, n) for wanted, own in ways for n in self._with_key(key(own))]
        found: list[set[int]] = [set() for _ in ids]
        for (at, wanted, own, number), name in zip(tries, self._names([t[3] for t in tries]), strict=True):
            if name["id"] == own and wanted in (None, name["source"]):
                found[at].add(number)
        return [sorted(some) for some in found]

    def _with_key(self, wanted: int) -> list[int]:
        keys = self._index["keys"]
        a, b = (int(np.searchsorted(keys, np.uint64(wanted), side)) for side in ("left", "right"))
        return self._index["numbers"][a:b].tolist()

    def _count(self, wanted: int) -> int:
        return len(self._with_key(wanted))

    def knows(self, id: str) -> bool:
        """Tell whether the store has a document of this id, by its hash."""
        return any(self._count(key(own)) for own in (id, *(id[at + 1 :] for at, c in enumerate(id) if c == "#")))

    def ids(self) -> Iterator[str]:
        """Yield the id of every document, in order."""
        batches = (range(at, min(at + 1000, len(self))) for at in range(0, len(self), 1000))
        return (id for some in batches for id in self.ids_of(some))

    @cached_property
    def tokenizer_path(self) -> Path:
        """Return the text tokenizer's file; for a store far away, a copy that goes with this object.

        Raises `DataError` for a file that is not as it was written, and as `vocab`.
        """
        self._tokenized(self.facts.vocab)
        data = self.compare(WORDS, self.facts.files[WORDS].sha256)
        if self.place.far is None:
            return Path(self.place.path(WORDS))
        folder = tempfile.mkdtemp(prefix="cm3-store-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / WORDS
        with on_disk(path):
            path.write_bytes(data)
        return path

    def info(self) -> dict[str, Any]:
        """Return its contents, as plain values: totals, duplicates, what was skipped, sources and licences."""
        left = ("shards", "files", "sha256", "kind")
        shards = self.manifest["shards"]
        size = sum(s["bytes"] for s in shards) + sum(f["bytes"] for f in self.manifest["files"].values())
        size += sum(s["pictures"]["bytes"] for s in shards if s.get("pictures"))
        found = {name: value for name, value in self.manifest.items() if name not in left}
        return found | {"shards": len(shards), "bytes": size}

    def verify(self, progress: Progress | None = None) -> None:
        """Read every byte. Raises `DataError` naming the first file that is not as it was written."""
        files = {name: facts.sha256 for name, facts in self.facts.files.items()}
        files |= {shard_name(n): s["sha256"] for n, s in enumerate(self.facts.shards)}
        if self.facts.pictures:
            files |= {shard_name(n, "pictures"): s["pictures"]["sha256"] for n, s in enumerate(self.facts.shards)}
        for done, (name, known) in enumerate(files.items(), start=1):
            self.compare(name, known)
            if progress is not None:
                progress(done, len(files), "")

    def check_files(self) -> None:
        """Raise `DataError` where the plan or the text tokenizer is not as it was written."""
        for name in (PLAN, WORDS):
            if name in self.facts.files:
                self.compare(name, self.facts.files[name].sha256)

    def compare(self, name: str, known: str, raw: np.ndarray | None = None) -> bytes:
        """Raise `DataError` unless a file is as the manifest says; `raw` is the file, which else is read and given."""
        try:
            data = self.place.read(name) if raw is None else b""
        except FileNotFoundError as error:
            raise DataError(f"store {self.path!r}: {name} is missing; restore it from a copy") from error
        if hashlib.sha256(data if raw is None else raw.data).hexdigest() != known:
            raise DataError(
                f"store {self.path!r}: {name} was altered (its checksum is another); restore it from a copy"
            )
        return data

    def _wrong(self, numbers: Sequence[int] | np.ndarray, wrong: np.ndarray, how: str) -> DataError:
        """Return what is wrong with the first of these documents that is."""
        number = int(np.asarray(numbers)[np.flatnonzero(wrong)[0]])
        name = shard_name(int(np.searchsorted(self.begins, self._index["kept"][number], "right")) - 1)
        return DataError(f"store {self.path!r}: {name} has {how}, in document {number}; restore it from a copy")

    @cached_property
    def _index(self) -> dict[str, np.ndarray]:
        """Return the index, which is read whole, and checked."""
        about = self.facts
        name = index_name(about.change)
        raw = self.place.array(name)
        self.compare(name, about.files[name].sha256, raw)
        index = Tensors(self.place, name, raw.size, self._indexed(about.documents), raw)
        kept, numbers = index["kept"], index["numbers"]
        if about.documents and not (
            0 <= kept[0] and kept[-1] < self.begins[-1] and bool((kept[1:] > kept[:-1]).all())
            and 0 <= numbers.min() and numbers.max() < about.documents and index["lengths"].min() >= 0
        ):  # fmt: skip
            raise index.wrong("names documents that are not there")
        return {"has": np.zeros(about.documents, np.uint8)} | index.known

    def shard(self, number: int) -> Tensors:
        """Return a shard, compared with its checksum when it is first read."""
        if (found := self._shards.get(number)) is None:
            name, known = shard_name(number), self.facts.shards[number]
            raw = self.place.array(name) if self.place.far is None else None
            if raw is not None and raw.size != known["bytes"]:
                raise DataError(
                    f"store {self.path!r}: {name} was altered (its size is another); restore it from a copy"
                )
            if self._check and number not in self._compared:
                self.compare(name, known["sha256"], raw)
                self._compared.add(number)
            if len(self._shards) >= OPEN:
                self._shards.pop(next(iter(self._shards)))
            layout = self._layout(known["documents"], self.facts.shape)
            found = Tensors(self.place, name, known["bytes"], layout, raw)
            # Stores of before have no such sum.
            if not self._check and known.get("names", "") not in ("", names_sum(found)):
                raise found.wrong("was altered (its documents are others)")
            self._shards[number] = found
        return found

    def by_shard(self, places: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield each shard that has some of these places, which of them, and their rows in it."""
        if not places.size:
            return
        shards = np.searchsorted(self.begins, places, side="right") - 1
        order = np.argsort(shards, kind="stable")
        borders = np.flatnonzero(np.diff(shards[order], prepend=-1)).tolist()
        for begin, end in zip(borders, [*borders[1:], len(order)], strict=True):
            mine = order[begin:end]
            number = int(shards[mine[0]])
            yield number, mine, places[mine] - self.begins[number]

    def _parts(self, tensor: str, starts: str | None, numbers: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Return the rows of a tensor that belong to each of these documents; a row each, where there are no
        `starts`."""
        wanted = np.asarray(numbers, dtype=np.int64).reshape(-1)
        if wanted.size and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(
                f"store {self.path!r}: has documents 0 to {len(self) - 1}, asked for {list(numbers)!r:.60}"
            )
        if not wanted.size:
            return []
        found: list[np.ndarray] = [np.zeros(0)] * len(wanted)
        for number, mine, row in self.by_shard(self._index["kept"][wanted]):
            shard = self.shard(number)
            if tensor in ("digests", "keys", "name_sums", "shown", "pixels"):
                _ = shard[tensor]  # small: all of it at once, and kept
            begins = None if starts is None else shard.borders(starts, tensor)
            a, b = (row, row + 1) if begins is None else (begins[row], begins[row + 1])
            parts = shard.parts(tensor, list(zip(a.tolist(), b.tolist(), strict=True)))
            for at, part in zip(mine.tolist(), parts, strict=True):
                found[at] = part
        return found


_NAME = ("id", "source", "meta")


def _page(place: Place) -> Any:
    """Return the manifest of a place, not checked yet."""
    try:
        data = place.read(NAME)
    except FileNotFoundError as error:
        try:
            place.read(PLAN)
            why = f"is not finished, as it has no {NAME}; run the `cm3 prepare` that began it again, it goes on"
        except (FileNotFoundError, DataError):
            why = f"has no {NAME}; give a folder that `cm3 prepare` or `cm3 index build` wrote"
        raise DataError(f"{place.said}: {why}") from error
    return parse_json(data, f"{place.said}: {NAME}")
