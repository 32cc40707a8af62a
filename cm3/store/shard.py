"""Documents of a store in files: shards/NNNNN.safetensors, .pictures beside it, and .json, which says that it is done.

    names          uint8 (c,)             JSON {"id", "source", "meta"} of each document, one after the other, and
                                          "parts" where words are kept: strings, and numbers of its pictures
    name_starts    int64 (d + 1,)         where each document's begins; the last is c
    name_sums      uint64 (d,)            hash of it, and of what is in `shown` and `pixels` of the document
    digests        uint8 (d, 16)          hash of a document's tokens; without tokens, of its words and pictures
    keys           uint64 (d, 2)          hash of its id, hash of its source
    shown          uint8 (p, 16)          digests of the documents' pictures, of the bytes of each file
    shown_starts   int64 (d + 1,)         where each document's begin
    ids            uint16, int32 (t,)     tokens of all documents, one after the other
    starts         int64 (d + 1,)         where each document's begin
    images         int32 (d,)             how many of its tokens are image codes
    pixels         uint8 (p, 16)          where words are kept: digests of what each picture shows
    blobs          int64 (p, 2)           where pictures are kept: first byte and length of each in NNNNN.pictures
    text, image    float16 (d, w)         unit vectors of words and of pictures, zeros for none

A shard appears whole or not at all, is read by name and by part, and is never changed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from cm3.errors import DataError
from cm3.files import build, checksum, write
from cm3.store.place import Layout, Tensors
from cm3.store.record import Picture, Record

VECTORS = ("text", "image")


class Shape(NamedTuple):
    """The parts that are known of every document of a store."""

    entries: int | None
    """Entries of the vocabulary of its tokens; None without tokens."""
    width: int | None
    """Of its vectors; None without."""
    words: bool
    pictures: bool


class Skip(NamedTuple):
    """A document that is left out, after `at` others of its shard: which kind of problem it has, and which."""

    id: str
    kind: str
    reason: str
    at: int = 0


@dataclass
class Batch:
    """The documents of a shard."""

    records: list[Record] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    """How many tokens of each are image codes."""
    text: list[np.ndarray] = field(default_factory=list)
    """Vectors float16 (w,), or (n, w) of several."""
    image: list[np.ndarray] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    truncated: int = 0

    def skip(self, id: str, kind: str, reason: str) -> None:
        """Note a document that is left out."""
        self.skipped.append(Skip(id, kind, reason, len(self.records)))


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """The outcome of a shard's documents: the fields of shards/NNNNN.json. `bytes` and `sha256` are the shard's."""

    documents: int
    bytes: int
    sha256: str
    pictures: dict[str, Any] | None = None
    """The same of NNNNN.pictures, where it is there."""
    tokens: int
    image_tokens: int
    truncated: int
    sources: dict[str, int]
    licenses: dict[str, int]
    skipped: list[dict[str, Any]]
    passed: dict[str, Any] = field(default_factory=dict)
    check: str
    """sha256 of the rest."""


def is_report(page: dict[str, Any]) -> bool:
    """Tell whether a JSON object is a shard's report, as it was written."""
    try:
        return build(ShardReport, page, "report", DataError).check == checksum(page, "check")
    except DataError:
        return False


def shard_name(number: int, end: str = "safetensors") -> str:
    """Return the file of a shard."""
    return f"shards/{number:05d}.{end}"


def write_shard(out: Path, number: int, batch: Batch, shape: Shape, passed: dict[str, Any]) -> dict[str, Any]:
    """Write a shard and after it its report, which says that it is done; returns the report. Raises `DiskError`."""
    tensors, pictures = pack(batch, shape)
    data = save(tensors)
    report: dict[str, Any] = facts(data) | {
        "documents": len(batch.records),
        "pictures": facts(pictures) if shape.pictures else None,
        "tokens": sum(map(len, batch.tokens)),
        "image_tokens": sum(batch.images),
        "truncated": batch.truncated,
        "sources": dict(Counter(r.source for r in batch.records)),
        "licenses": dict(Counter(license_of(r.meta) for r in batch.records)),
        "skipped": [s._asdict() for s in batch.skipped],
        "passed": passed,
    }
    report["check"] = checksum(report, "check")
    if shape.pictures:
        write(out / shard_name(number, "pictures"), pictures)
    write(out / shard_name(number), data)
    write(out / shard_name(number, "json"), page_bytes(report))
    return report


def pack(batch: Batch, shape: Shape) -> tuple[dict[str, np.ndarray], bytes]:
    """Return the tensors of a shard, and the bytes of its pictures."""
    names = [r.json(shape.words) for r in batch.records]
    every = [p for r in batch.records for p in r.pictures]
    if shape.entries is None:
        digests = [r.digest() for r in batch.records]
    else:
        digests = [digest(t) for t in batch.tokens]
    tensors = {
        "names": np.frombuffer(b"".join(names), np.uint8),
        "name_starts": _starts([len(n) for n in names]),
        "name_sums": np.array(
            [key(n + _shown(r, shape)) for n, r in zip(names, batch.records, strict=True)], np.uint64
        ),
        "digests": _hashes(digests),
        "keys": np.array([(key(r.id), key(r.source)) for r in batch.records], np.uint64).reshape(-1, 2),
        "shown": _hashes([p.digest for p in every]),
        "shown_starts": _starts([len(r.pictures) for r in batch.records]),
    }
    pictures: dict[bytes, tuple[int, Picture]] = {}
    if shape.entries is not None:
        ids = np.concatenate([np.zeros(0, np.int32), *batch.tokens])
        tensors["ids"] = ids.astype(_id_type(shape.entries))
        tensors["starts"] = _starts([len(t) for t in batch.tokens])
        tensors["images"] = np.array(batch.images, np.int32)
    if shape.words:
        tensors["pixels"] = _hashes([p.pixels for p in every])
    if shape.pictures:
        end = 0
        for picture in every:  # equal ones once, as one picture has many captions
            if picture.digest not in pictures:
                pictures[picture.digest] = (end, picture)
                end += len(picture.data)
        places = [(pictures[p.digest][0], len(p.data)) for p in every]
        tensors["blobs"] = np.array(places, np.int64).reshape(-1, 2)
    if shape.width is not None:
        for what in VECTORS:
            rows = [np.zeros((0, shape.width), np.float16), *(np.atleast_2d(v) for v in getattr(batch, what))]
            tensors[what] = np.concatenate(rows).astype(np.float16)
    return tensors, b"".join(p.data for _, p in pictures.values())


def shard_layout(documents: int, shape: Shape) -> Layout:
    """Return the tensors of a shard with so many documents."""
    d = documents
    layout: dict[str, tuple[type[np.generic], tuple[int | None, ...]]] = {
        "names": (np.uint8, (None,)),
        "name_starts": (np.int64, (d + 1,)),
        "name_sums": (np.uint64, (d,)),
        "digests": (np.uint8, (d, 16)),
        "keys": (np.uint64, (d, 2)),
        "shown": (np.uint8, (None, 16)),
        "shown_starts": (np.int64, (d + 1,)),
    }
    if shape.entries is not None:
        layout["ids"] = (_id_type(shape.entries), (None,))
        layout |= {"starts": (np.int64, (d + 1,)), "images": (np.int32, (d,))}
    if shape.words:
        layout["pixels"] = (np.uint8, (None, 16))
    if shape.pictures:
        layout["blobs"] = (np.int64, (None, 2))
    if shape.width is not None:
        layout |= {what: (np.float16, (d, shape.width)) for what in VECTORS}
    return layout


def digest(ids: np.ndarray) -> bytes:
    """Return 16 bytes of a hash of a document's tokens."""
    return hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=16).digest()


def key(name: str | bytes) -> int:
    """Return 64 bits of a hash of an id, of a source, or of a name's bytes."""
    data = name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def names_sum(shard: Tensors) -> str:
    """Return the sha256 of the hashes of a shard's documents, which vouch for documents read by part."""
    some = ("digests", "keys", "name_sums")
    return hashlib.sha256(b"".join(shard[name].tobytes() for name in some if name in shard)).hexdigest()


def license_of(meta: dict[str, Any]) -> str:
    """Return the licence that is noted of a document, empty for none."""
    known = meta.get("license")
    return "" if known is None else str(known)


def facts(data: bytes) -> dict[str, Any]:
    """Return the facts that a store keeps of a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def page_bytes(page: dict[str, Any]) -> bytes:
    """Return a JSON object as the bytes of its file."""
    return (json.dumps(page, indent=1, sort_keys=True) + "\n").encode()


def _shown(record: Record, shape: Shape) -> bytes:
    """Return the digests of a document's pictures, as a shard has them."""
    pixels = [p.pixels for p in record.pictures] if shape.words else []
    return b"".join([*(p.digest for p in record.pictures), *pixels])


def _hashes(values: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, 16)


def _id_type(entries: int) -> type[np.generic]:
    return np.uint16 if entries <= 1 << 16 else np.int32


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.array([0, *itertools.accumulate(lengths)], np.int64)
