"""The manifest of a store, checked before a number of it is used, and the names of a store's files.

The manifest has the size and checksum of every other file, and one of itself. It names no file: those of a store have
the names that are written down here. It is replaced whole; what it counts on is written before it and never changed
after, so a reader goes on with what it opened while another process writes the next one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cm3.errors import DataError
from cm3.files import Facts, build, checksum, inside, parse_json
from cm3.store.shard import Shape
from cm3.vocab import Vocab

FORMAT = 2
KIND, TOKENS, BANK = "cm3-store", "cm3-tokens", "cm3-memory"
"""A store, and its two kinds before format 2 (cm3/store/old.py)."""
NAME, PLAN, WORDS, DRAFT = "manifest.json", "plan.json", "tokenizer.json", "draft.json"
MOST = 1 << 40
"""No count of a store is as large as that."""

_SHARD = {"documents": int, "bytes": int, "sha256": str, "names": str, "pictures": Facts}
_SHA = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageFacts:
    """The image tokenizer of a store, the side of its pictures in pixels, and how they are made square."""

    fingerprint: str
    size: int
    fit: str


@dataclass(frozen=True)
class Built:
    """The index of a segment's vectors (`cm3.retrieval.nearest.build_lists`)."""

    kind: Literal["exact", "ivf", "pq"] = "exact"
    lists: int = 1
    nprobe: int = 1
    dimensions: int = 1
    code_bytes: int = 1
    recall_at_2: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.nprobe <= self.lists < 1 << 31:
            raise ValueError(f"nprobe={self.nprobe}, lists={self.lists}: nprobe must be 1 to lists")


@dataclass(frozen=True)
class Segment:
    """A segment, which one command added: so many shards, and how they are searched."""

    shards: int
    index: Built = field(default_factory=Built)

    def __post_init__(self) -> None:
        if self.shards < 0:
            raise ValueError(f"shards={self.shards}: must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The fields of manifest.json, less `from` (the sources as they were given) and its own `sha256`."""

    format: int
    kind: str
    change: int = 0
    """How often documents were added or deleted since it was made."""
    unit: int | None = None
    max_text: int = 0
    license: str | None = None
    device: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    vocab: Vocab | None
    text_tokenizer: str | None
    image_tokenizer: ImageFacts | None
    encoder: str | None
    width: int | None
    index: str = "auto"
    """Kind of index that is built for new documents."""
    words: bool
    pictures: bool
    documents: int
    tokens: int
    text_tokens: int
    image_tokens: int
    truncated: int
    duplicates: dict[str, Any]
    deleted: int = 0
    skipped: dict[str, Any]
    passed: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, int]
    licenses: dict[str, int]
    segments: list[Segment]
    shards: list[dict[str, Any]]
    files: dict[str, Facts]

    def __post_init__(self) -> None:
        # One by one and plain, as there may be a million.
        for number, shard in enumerate(self.shards):
            if not _is_shard(shard, self.pictures):
                raise DataError(f"shards[{number}]: must have documents, bytes, sha256, names and pictures")
            if not (0 <= shard["documents"] < MOST and 0 <= shard["bytes"] < MOST):
                raise DataError(f"shards[{number}]: has a count below 0, or too large")
        if sum(s.shards for s in self.segments) != len(self.shards):
            raise DataError(f"segments: must have the {len(self.shards)} shards")
        if not 0 <= self.documents <= sum(shard["documents"] for shard in self.shards):
            raise DataError(f"documents={self.documents}: its shards have fewer")
        for name in ("tokens", "text_tokens", "image_tokens", "truncated", "change", "deleted"):
            if not 0 <= getattr(self, name) < MOST * MOST:
                raise DataError(f"{name}={getattr(self, name)}: must be at least 0")
        kinds = [{"index": {"kind": s.index.kind}} for s in self.segments]
        names = files_of({"change": self.change, "segments": kinds, "unit": self.unit, "vocab": self.vocab})
        if sorted(self.files) != sorted(names):
            raise DataError(f"files: must be {', '.join(names)}")
        if len({self.vocab is None, self.text_tokenizer is None, self.image_tokenizer is None}) > 1:
            raise DataError("vocab, text_tokenizer, image_tokenizer: must be there all, or none")
        if (self.encoder is None) != (self.width is None) or not 0 < (
            1 if self.width is None else self.width
        ) <= 1 << 20:
            raise DataError(f"width={self.width}: must be 1 to {1 << 20} with an encoder, and nothing without")
        if self.encoder is not None and (len(self.encoder) > 1000 or not self.encoder.isprintable()):
            raise DataError(f"encoder={self.encoder[:60]!r}: must be a name of at most 1000 characters that print")
        if self.index not in ("auto", "exact", "ivf", "pq"):
            raise DataError(f"index={self.index[:60]!r}: must be auto, exact, ivf or pq")
        if self.image_tokenizer is not None and self.image_tokenizer.size < 1:
            raise DataError(f"image_tokenizer.size={self.image_tokenizer.size}: must be at least 1")

    @property
    def shape(self) -> Shape:
        """Return the parts that are known of every document."""
        return Shape(None if self.vocab is None else self.vocab.size, self.width, self.words, self.pictures)


def index_name(change: int) -> str:
    """Return the file of the index after so many changes."""
    return "index.safetensors" if change == 0 else f"index.{change:06d}.safetensors"


def lists_name(segment: int) -> str:
    """Return the file of the inverted lists that a segment is searched by."""
    return f"lists-{segment:04d}.faiss"


def files_of(manifest: dict[str, Any]) -> list[str]:
    """Return the files that a manifest counts on, beside the shards."""
    found = [index_name(manifest["change"])]
    exact = [segment.get("index", {}).get("kind", "exact") == "exact" for segment in manifest["segments"]]
    found += [lists_name(number) for number, plain in enumerate(exact) if not plain]
    found += [PLAN] if manifest.get("unit") is not None else []
    return found + ([WORDS] if manifest["vocab"] is not None else [])


def _is_shard(shard: dict[str, Any], pictures: bool) -> bool:
    if shard.keys() != _SHARD.keys():
        return False
    known = shard["pictures"]
    if pictures:
        if not isinstance(known, dict) or known.keys() != {"bytes", "sha256"} or type(known["bytes"]) is not int:
            return False
        if known["bytes"] < 0 or not isinstance(known["sha256"], str) or not _SHA.fullmatch(known["sha256"]):
            return False
    elif known is not None:
        return False
    return all(type(shard[name]) is kind for name, kind in _SHARD.items() if name != "pictures")


def page(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file of a store; an empty one where there is none, or something else."""
    try:
        found = inside(path.parent, path.name, "store")
        if found.is_file():
            made = parse_json(found.read_bytes(), path.name)
            return made if isinstance(made, dict) else {}
    except (OSError, DataError):
        pass
    return {}


def is_store(folder: str | Path) -> bool:
    """Tell whether a folder is a store, finished or not, or one of format 1: tokens, or a memory bank."""
    kinds = (KIND, TOKENS, BANK)
    return any(page(Path(folder) / name).get("kind") in kinds for name in (NAME, PLAN))


def checked(page: Any, where: str) -> Manifest:
    """Return the manifest that a JSON value is. `where` names the store. Raises `DataError` naming what is wrong."""
    if not isinstance(page, dict) or page.get("kind") != KIND:
        raise DataError(f"{where}: {NAME} is not a store's; give another folder")
    if page.get("format") != FORMAT:
        raise DataError(
            f"{where}: is of format {str(page.get('format'))[:20]}, this version reads {FORMAT}; make it again, or use "
            "the version that wrote it"
        )
    if page.get("sha256") != checksum(page):
        raise DataError(f"{where}: {NAME} was altered (its checksum is another); restore it")
    left = {name: value for name, value in page.items() if name not in ("from", "sha256")}
    return build(Manifest, left, f"{where}: {NAME}", DataError)
