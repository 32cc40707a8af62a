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

A document's number is 0 to `len(store)` - 1 in the order of the plan. Documents are stored unmasked, each
`</s> ... </s>`, without cells, which follow from the ids: an image's codes stand side by side in raster order.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cm3.data.shard import Place, Tensors, key
from cm3.errors import DataError
from cm3.vocab import Tokens, Vocab

FORMAT = 1
KIND = "cm3-tokens"
NAME = "manifest.json"
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
    """A JSON object from a file; an empty one where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shards/{number:05d}.safetensors"


def cells_of(ids: np.ndarray, vocab: Vocab) -> np.ndarray:
    """Cells int32 of whole documents one after the other: 1 + the place of an image code in its run, 0 elsewhere."""
    at = np.arange(ids.size, dtype=np.int32)
    code = vocab.is_image(ids)
    return at - np.maximum.accumulate(np.where(code, 0, at)) if ids.size else at


class Store:
    """A finished store, for reading. Make one with `cm3.data.prepare.prepare`, read one with `open`."""

    def __init__(self, place: Place, manifest: dict[str, Any], *, check: bool = False) -> None:
        """See `open`."""
        self.place, self.manifest, self.path = place, manifest, place.address
        self.vocab = Vocab(**manifest["vocab"])
        self.text_fingerprint: str = manifest["text_tokenizer"]
        """sha256 of tokenizer.json."""
        self.image_fingerprint: str = manifest["image_tokenizer"]["fingerprint"]
        """As `cm3.tokens.load.fingerprint` gives it."""
        self.image_size: int = manifest["image_tokenizer"]["size"]
        self.encoder_name: str | None = manifest["encoder"]
        self._check = check
        self._shards: dict[int, Tensors] = {}
        self._index = Tensors(place, "index.safetensors")
        self._begins = np.cumsum([0, *(s["documents"] for s in manifest["shards"])], dtype=np.int64)

    @classmethod
    def open(cls, path: str | Path, *, check: bool = False) -> Store:
        """Open the store of a folder, or of an address that fsspec reads (s3://..., gs://..., memory://...).

        The size of every file is compared with the manifest; with `check`, the checksum of each shard too when it is
        first read. Far away, a document's bytes are fetched when it is asked for. Raises `DataError` for what is no
        store, is not finished, or is missing a file.
        """
        place = Place(path)
        try:
            manifest = json.loads(place.read(NAME))
        except FileNotFoundError as error:
            try:
                place.read("plan.json")
                why = "is not finished; run the `cm3 prepare` that began it again, it goes on where it was"
            except OSError:
                why = "has no manifest.json; give a folder that `cm3 prepare` wrote"
            raise DataError(f"store {place.address!r}: {why}") from error
        except (OSError, ValueError) as error:
            raise DataError(
                f"store {place.address!r}: manifest.json cannot be read ({error}); give a folder that `cm3 prepare` "
                "wrote, or restore it"
            ) from error
        if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
            raise DataError(f"store {place.address!r}: manifest.json is not a token store's; give another folder")
        if manifest.get("format") != FORMAT:
            raise DataError(
                f"store {place.address!r}: is of format {manifest.get('format')}, this version reads {FORMAT}; "
                "prepare it again, or use the version that wrote it"
            )
        if manifest.get("sha256") != checksum(manifest):
            raise DataError(f"store {place.address!r}: manifest.json was altered (its checksum is another); restore it")
        sizes = place.sizes("shards") if manifest["shards"] else {}
        for number, shard in enumerate(manifest["shards"]):
            name = shard_name(number)
            if sizes.get(name) != shard["bytes"]:
                found = "is missing" if name not in sizes else f"has {sizes[name]} bytes, not {shard['bytes']}"
                raise DataError(f"store {place.address!r}: {name} {found}; restore it from a copy")
        return cls(place, manifest, check=check)

    def __len__(self) -> int:
        return int(self.manifest["documents"])

    @property
    def fingerprint(self) -> str:
        """A name for what it holds, sha256 in hexadecimal: of its manifest, which has the checksum of each file."""
        return checksum(self.manifest)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int32 (n,)."""
        return self._index["lengths"]

    def tokens(self, numbers: Sequence[int] | np.ndarray) -> list[Tokens]:
        """Tokens of documents, unmasked. Raises `IndexError` for a number that is none of them."""
        pieces = self._parts("ids", "starts", numbers)
        if not pieces:
            return []
        ids = np.concatenate(pieces).astype(np.int32)
        cells = cells_of(ids, self.vocab)
        ends = np.cumsum([p.size for p in pieces]).tolist()
        return [Tokens(ids[a:b], cells[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    def vectors(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Vectors float32 (n, width) of documents. Raises `DataError` for a store that was made without an encoder."""
        if self.encoder_name is None:
            raise DataError(f"store {self.path!r}: has no vectors; prepare it with an encoder")
        pieces = self._parts("vectors", None, numbers)
        width = int(self.manifest["width"])
        return np.concatenate([np.zeros((0, width), np.float32), *pieces]).astype(np.float32)

    def about(self, number: int) -> About:
        """Where a document came from."""
        return self._about(self._parts("names", "name_starts", [number])[0])

    def number(self, id: str, source: str | None = None) -> int:
        """The number of a document; the first that has the id, where several sources have one and none is named.

        Raises `DataError` for one that is not there.
        """
        keys = self._index["keys"]
        wanted = np.uint64(key(id))
        for at in range(int(np.searchsorted(keys, wanted)), int(np.searchsorted(keys, wanted, "right"))):
            number = int(self._index["numbers"][at])
            about = self.about(number)
            if about.id == id and source in (None, about.source):
                return number
        of = "" if source is None else f" of source {source!r}"
        raise DataError(f"store {self.path!r}: has no document {id!r}{of}")

    @cached_property
    def tokenizer_path(self) -> Path:
        """The text tokenizer's file; for a store far away, a copy that goes with this object."""
        if self.place.far is None:
            return Path(self.place.path("tokenizer.json"))
        folder = tempfile.mkdtemp(prefix="cm3-store-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "tokenizer.json"
        path.write_bytes(self.place.read("tokenizer.json"))
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
        files = dict(self.manifest["files"])
        files |= {shard_name(number): shard for number, shard in enumerate(self.manifest["shards"])}
        for done, (name, known) in enumerate(files.items(), start=1):
            self._compare(name, known)
            if progress is not None:
                progress(done, len(files), "")

    def _compare(self, name: str, known: dict[str, Any]) -> None:
        try:
            data = self.place.read(name)
        except OSError as error:
            raise DataError(f"store {self.path!r}: {name} cannot be read ({error}); restore it from a copy") from error
        if hashlib.sha256(data).hexdigest() != known["sha256"]:
            raise DataError(
                f"store {self.path!r}: {name} was altered (its checksum is another); restore it from a copy"
            )

    def _shard(self, number: int) -> Tensors:
        if (found := self._shards.get(number)) is None:
            if self._check:
                self._compare(shard_name(number), self.manifest["shards"][number])
            if len(self._shards) >= OPEN:
                self._shards.pop(next(iter(self._shards)))
            found = self._shards[number] = Tensors(self.place, shard_name(number))
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
            a, b = (row, row + 1) if starts is None else (shard[starts][row], shard[starts][row + 1])
            parts = shard.parts(tensor, list(zip(a.tolist(), b.tolist(), strict=True)))
            for at, part in zip(mine.tolist(), parts, strict=True):
                found[at] = part
        return found

    @staticmethod
    def _about(name: np.ndarray) -> About:
        return About(**json.loads(name.tobytes()))


def checksum(manifest: dict[str, Any]) -> str:
    """sha256 of all of a manifest but its own."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
