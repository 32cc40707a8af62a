"""The token store: documents that are tokens already, by number and by id, on a disk or in object storage.

    STORE/plan.json                     what it was to be made of, and how: written first (cm3/data/prepare.py)
          tokenizer.json                the text tokenizer
          shards/00000.safetensors ...  the documents of a unit of a source (cm3/data/shard.py)
          shards/00000.json ...         what became of the unit; that it is there means that the unit is done
          index.safetensors             kept     int64 (n,)    place among all that is in the shards, of each document
                                                               that is no duplicate
                                        lengths  int32 (n,)    its tokens
                                        keys     uint64 (n,)   sorted hashes of ids, and
                                        numbers  int64 (n,)    whose they are
          manifest.json                 totals, size and checksum of everything else: written last
                                        (cm3/data/store_manifest.py)

A document's number is 0 to `len(store)` - 1 in the order of the plan. Documents are stored unmasked, each
`</s> ... </s>`, without cells, which follow from the ids: an image's codes stand side by side in raster order.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cm3.data.shard import Layout, Place, Tensors, digest, key, names_sum, shard_layout
from cm3.data.store_manifest import FILES, KIND, NAME, Manifest, checked
from cm3.errors import DataError
from cm3.files import checksum, inside, on_disk, parse_json
from cm3.sequence.segments import cells_of
from cm3.vocab import Tokens

OPEN = 16_384
"""Shards that are kept open at most; systems allow some 65,000 maps a process."""

Progress = Callable[[int, int, str], None]


class About(NamedTuple):
    """Where a document came from."""

    id: str
    source: str
    meta: dict[str, Any]


def is_store(folder: str | Path) -> bool:
    """Whether a folder is a token store, finished or not."""
    return any(page(Path(folder) / name).get("kind") == KIND for name in (NAME, "plan.json"))


def page(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file of a store; an empty one where there is none, or something else."""
    try:
        if stat.S_ISREG(inside(path.parent, path.name, "store").stat().st_mode):
            found = parse_json(path.read_bytes(), path.name)
            return found if isinstance(found, dict) else {}
    except (OSError, DataError):
        pass
    return {}


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shards/{number:05d}.safetensors"


def index_layout(documents: int) -> Layout:
    """Return the tensors of the index of so many documents."""
    n = (documents,)
    return {"kept": (np.int64, n), "lengths": (np.int32, n), "keys": (np.uint64, n), "numbers": (np.int64, n)}


class Store:
    """A finished store, for reading. Make one with `cm3.data.prepare.prepare`, read one with `open`."""

    def __init__(self, place: Place, manifest: dict[str, Any], about: Manifest, *, check: bool) -> None:
        """See `open`; `about` is `manifest`, checked."""
        self.place, self.manifest, self.path = place, manifest, place.address
        self.vocab = about.vocab
        self.text_fingerprint = about.text_tokenizer
        """sha256 of tokenizer.json."""
        self.image_fingerprint = about.image_tokenizer.fingerprint
        """As `cm3.tokens.load.fingerprint` gives it."""
        self.image_size = about.image_tokenizer.size
        self.encoder_name = about.encoder
        self._facts, self._check = about, check
        self._first: int | None = None
        self._shards: dict[int, Tensors] = {}
        self._compared: set[int] = set()
        self._begins = np.cumsum([0, *(s["documents"] for s in about.shards)], dtype=np.int64)

    @classmethod
    def open(cls, path: str | Path, *, check: bool | None = None) -> Store:
        """Open the store of a folder, or of an address that fsspec reads (s3://..., gs://..., memory://...).

        The size of every file is compared with the manifest, and its checksum once, when it is first read. Far away
        that is so of all but shards: of those the bytes of a document are fetched when it is asked for, and its tokens
        compared with their own hash. `check` says otherwise: True fetches each shard whole once, to be compared; False
        compares tokens alone in a folder too. Raises `DataError` for what is no store, is not finished, or is missing
        a file.
        """
        place = Place(path)
        try:
            data = place.read(NAME)
        except FileNotFoundError as error:
            try:
                place.read("plan.json")
                why = (
                    f"is not finished, as it has no {NAME}; run the `cm3 prepare` that began it again, it goes on "
                    "where it was"
                )
            except (FileNotFoundError, DataError):
                why = f"has no {NAME}; give a folder that `cm3 prepare` wrote"
            raise DataError(f"{place.said}: {why}") from error
        manifest = parse_json(data, f"{place.said}: {NAME}")
        about = checked(manifest, place.said)
        sizes = place.sizes("shards") if about.shards else {}
        for number, shard in enumerate(about.shards):
            name = shard_name(number)
            if sizes.get(name) != shard["bytes"]:
                found = "is missing" if name not in sizes else f"has {sizes[name]} bytes, not {shard['bytes']}"
                raise DataError(f"{place.said}: {name} {found}; restore it from a copy")
        store = cls(place, manifest, about, check=place.far is None if check is None else check)
        _ = store._index
        return store

    def first(self, number: int) -> Store:
        """Return the store of the first `number` documents of this one, which has more."""
        found = copy.copy(self)
        found._first = number
        return found

    def __len__(self) -> int:
        return self._facts.documents if self._first is None else self._first

    @property
    def fingerprint(self) -> str:
        """A name for what it holds, sha256 in hexadecimal: of its manifest, which has the checksum of each file."""
        return checksum(self.manifest if self._first is None else self.manifest | {"first": self._first})

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int32 (n,)."""
        return self._index["lengths"][: len(self)]

    def tokens(self, numbers: Sequence[int] | np.ndarray) -> list[Tokens]:
        """Return tokens of documents, unmasked.

        Raises `IndexError` for a number that is none of them, `DataError` for a file that is not as it was written.
        """
        pieces = self._parts("ids", "starts", numbers)
        if not pieces:
            return []
        sizes = np.array([p.size for p in pieces])
        ids = np.concatenate(pieces).astype(np.int32)
        if (wrong := self.lengths[np.asarray(numbers, np.int64)] != sizes).any():
            raise self._wrong(numbers, wrong, "other lengths than the index says")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.vocab.size:
            wrong = np.array([p.size > 0 and not 0 <= p.min() <= p.max() < self.vocab.size for p in pieces])
            raise self._wrong(numbers, wrong, f"token ids outside its vocabulary of {self.vocab.size}")
        if not self._check:
            known = self._parts("digests", None, numbers)
            wrong = np.array([digest(p) != k.tobytes() for p, k in zip(pieces, known, strict=True)])
            if wrong.any():
                raise self._wrong(numbers, wrong, "tokens that were altered (their hash is another)")
        cells = cells_of(ids, self.vocab)
        ends = np.cumsum(sizes).tolist()
        return [Tokens(ids[a:b], cells[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    def vectors(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Vectors float32 (n, width) of documents. Raises `DataError` for a store that was made without an encoder."""
        if (width := self._facts.width) is None:
            raise DataError(f"store {self.path!r}: has no vectors; prepare it with an encoder")
        pieces = self._parts("vectors", None, numbers)
        return np.concatenate([np.zeros((0, width), np.float32), *pieces]).astype(np.float32)

    def about(self, number: int) -> About:
        """Return where a document came from. Raises as `tokens` does."""
        name = self._parts("names", "name_starts", [number])[0]
        try:
            found = parse_json(name.tobytes(), "name")
            about = About(**found)
            if isinstance(about.id, str) and isinstance(about.source, str) and isinstance(about.meta, dict):
                known = None if self._check else self._parts("keys", None, [number])[0][0].tolist()
                if known in (None, [key(about.id), key(about.source)]):
                    return about
        except (DataError, TypeError):
            pass
        raise self._wrong([number], np.array([True]), "a name that is none")

    def number(self, id: str, source: str | None = None) -> int:
        """The number of a document; the first that has the id, where several sources have one and none is named.

        Raises `DataError` for one that is not there.
        """
        keys = self._index["keys"]
        wanted = np.uint64(key(id))
        for at in range(int(np.searchsorted(keys, wanted)), int(np.searchsorted(keys, wanted, "right"))):
            number = int(self._index["numbers"][at])
            if number >= len(self):
                continue
            about = self.about(number)
            if about.id == id and source in (None, about.source):
                return number
        of = "" if source is None else f" of source {source!r}"
        raise DataError(f"store {self.path!r}: has no document {id!r}{of}")

    def knows(self, id: str) -> bool:
        """Tell whether the store, also where this is but its `first` part, has a document of this id, by its hash."""
        keys, wanted = self._index["keys"], np.uint64(key(id))
        return bool(np.searchsorted(keys, wanted) < np.searchsorted(keys, wanted, "right"))

    @cached_property
    def tokenizer_path(self) -> Path:
        """The text tokenizer's file; for a store far away, a copy that goes with this object.

        Raises `DataError` for a file that is not as it was written.
        """
        data = self._compare("tokenizer.json", self._facts.files["tokenizer.json"].sha256)
        if self.place.far is None:
            return Path(self.place.path("tokenizer.json"))
        folder = tempfile.mkdtemp(prefix="cm3-store-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "tokenizer.json"
        with on_disk(path):
            path.write_bytes(data)
        return path

    def info(self) -> dict[str, Any]:
        """What it holds, as plain values: totals, duplicates, what was skipped, sources and licences."""
        left = ("shards", "files", "sha256", "kind")
        shards = self.manifest["shards"]
        size = sum(s["bytes"] for s in shards) + sum(f["bytes"] for f in self.manifest["files"].values())
        found = {name: value for name, value in self.manifest.items() if name not in left}
        return found | {"shards": len(shards), "bytes": size}

    def verify(self, progress: Progress | None = None) -> None:
        """Read every byte. Raises `DataError` naming the first file that is not as it was written."""
        files = {name: facts.sha256 for name, facts in self._facts.files.items()}
        files |= {shard_name(n): s["sha256"] for n, s in enumerate(self._facts.shards)}
        for done, (name, known) in enumerate(files.items(), start=1):
            self._compare(name, known)
            if progress is not None:
                progress(done, len(files), "")

    def check_files(self) -> None:
        """Raise `DataError` where the plan or the text tokenizer is not as it was written."""
        for name in FILES[1:]:
            self._compare(name, self._facts.files[name].sha256)

    def _compare(self, name: str, known: str, raw: np.ndarray | None = None) -> bytes:
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
        name = shard_name(int(np.searchsorted(self._begins, self._index["kept"][number], "right")) - 1)
        return DataError(f"store {self.path!r}: {name} has {how}, in document {number}; restore it from a copy")

    @cached_property
    def _index(self) -> Tensors:
        """The index, which is read whole, and checked."""
        name, about = FILES[0], self._facts
        raw = self.place.array(name)
        self._compare(name, about.files[name].sha256, raw)
        index = Tensors(self.place, name, raw.size, index_layout(about.documents), raw)
        kept, numbers = index["kept"], index["numbers"]
        if about.documents and not (
            0 <= kept[0] and kept[-1] < self._begins[-1] and bool((kept[1:] > kept[:-1]).all())
            and 0 <= numbers.min() and numbers.max() < about.documents and index["lengths"].min() >= 0
        ):  # fmt: skip
            raise index.wrong("names documents that are not there")
        return index

    def _shard(self, number: int) -> Tensors:
        if (found := self._shards.get(number)) is None:
            name, known = shard_name(number), self._facts.shards[number]
            raw = self.place.array(name) if self.place.far is None else None
            if raw is not None and raw.size != known["bytes"]:
                raise DataError(
                    f"store {self.path!r}: {name} was altered (its size is another); restore it from a copy"
                )
            if self._check and number not in self._compared:
                self._compare(name, known["sha256"], raw)
                self._compared.add(number)
            if len(self._shards) >= OPEN:
                self._shards.pop(next(iter(self._shards)))
            layout = shard_layout(known["documents"], self.vocab.size, self._facts.width)
            found = Tensors(self.place, name, known["bytes"], layout, raw)
            # Stores of before have no such sum.
            if not self._check and known.get("names", "") not in ("", names_sum(found)):
                raise found.wrong("was altered (its documents are others)")
            self._shards[number] = found
        return found

    def _parts(self, tensor: str, starts: str | None, numbers: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The rows of a tensor that belong to each of these documents; a row each, where there are no `starts`."""
        wanted = np.asarray(numbers, dtype=np.int64).reshape(-1)
        if wanted.size and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(
                f"store {self.path!r}: has documents 0 to {len(self) - 1}, asked for {list(numbers)!r:.60}"
            )
        if not wanted.size:
            return []
        places = self._index["kept"][wanted]
        shards = np.searchsorted(self._begins, places, side="right") - 1
        rows = places - self._begins[shards]
        found: list[np.ndarray] = [np.zeros(0)] * len(places)
        order = np.argsort(shards, kind="stable")
        borders = np.flatnonzero(np.diff(shards[order], prepend=-1)).tolist()
        for begin, end in zip(borders, [*borders[1:], len(order)], strict=True):
            mine = order[begin:end]
            shard, row = self._shard(int(shards[mine[0]])), rows[mine]
            if tensor in ("digests", "keys"):
                _ = shard[tensor]  # small: all of it at once, and kept
            begins = None if starts is None else shard.borders(starts, tensor)
            a, b = (row, row + 1) if begins is None else (begins[row], begins[row + 1])
            parts = shard.parts(tensor, list(zip(a.tolist(), b.tolist(), strict=True)))
            for at, part in zip(mine.tolist(), parts, strict=True):
                found[at] = part
        return found
