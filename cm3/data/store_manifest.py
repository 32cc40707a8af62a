"""What a token store's manifest says, checked before a number of it is used.

The manifest has the size and checksum of every other file, and one of itself. It names no file: those of a store have
the names that are written down here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cm3.errors import DataError
from cm3.files import Facts, build, checksum
from cm3.vocab import Vocab

FORMAT = 1
KIND = "cm3-tokens"
NAME = "manifest.json"
FILES = ("index.safetensors", "plan.json", "tokenizer.json")
"""The files of a store beside its manifest and its shards."""
MOST = 1 << 40
"""No count of a store is as large as that."""

_SHARD = {"documents": int, "bytes": int, "sha256": str, "names": str}
_OLDER = _SHARD.keys() - {"names"}


@dataclass(frozen=True)
class ImageFacts:
    """Which image tokenizer made a store, the side of its pictures in pixels, and how they are made square."""

    fingerprint: str
    size: int
    fit: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The fields of manifest.json, less `from` (the sources as they were given) and its own `sha256`."""

    format: int
    kind: str
    unit: int
    max_text: int = 0
    license: str | None = None
    device: str = ""
    vocab: Vocab
    text_tokenizer: str
    image_tokenizer: ImageFacts
    encoder: str | None
    width: int | None
    documents: int
    tokens: int
    text_tokens: int
    image_tokens: int
    truncated: int
    duplicates: dict[str, Any]
    skipped: dict[str, Any]
    passed: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, int]
    licenses: dict[str, int]
    shards: list[dict[str, Any]]
    files: dict[str, Facts]

    def __post_init__(self) -> None:
        # One by one and plain, as there may be a million.
        for number, shard in enumerate(self.shards):
            known = shard.keys() == _SHARD.keys() or shard.keys() == _OLDER
            if not known or any(type(value) is not _SHARD[name] for name, value in shard.items()):
                raise DataError(f"shards[{number}]: must have documents, bytes, sha256 and names")
            if not (0 <= shard["documents"] < MOST and 0 <= shard["bytes"] < MOST):
                raise DataError(f"shards[{number}]: has a count below 0, or too large")
        if not 0 <= self.documents <= sum(shard["documents"] for shard in self.shards):
            raise DataError(f"documents={self.documents}: its shards have fewer")
        for name in ("tokens", "text_tokens", "image_tokens", "truncated"):
            if not 0 <= getattr(self, name) < MOST * MOST:
                raise DataError(f"{name}={getattr(self, name)}: must be at least 0")
        if sorted(self.files) != sorted(FILES):
            raise DataError(f"files: must be {', '.join(FILES)}")
        if (self.encoder is None) != (self.width is None) or not 0 < (self.width or 1) < MOST:
            raise DataError(f"width={self.width}: must be at least 1 with an encoder, and nothing without")
        if self.image_tokenizer.size < 1:
            raise DataError(f"image_tokenizer.size={self.image_tokenizer.size}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class UnitReport:
    """The report of a unit: the fields of shards/NNNNN.json. `bytes` and `sha256` are those of its shard."""

    documents: int
    bytes: int
    sha256: str
    tokens: int
    image_tokens: int
    truncated: int
    sources: dict[str, int]
    licenses: dict[str, int]
    skipped: list[dict[str, str]]
    passed: dict[str, Any] = field(default_factory=dict)
    check: str
    """sha256 of the rest."""


def is_report(page: dict[str, Any]) -> bool:
    """Tell whether a JSON object is a unit's report, as it was written."""
    try:
        return build(UnitReport, page, "report", DataError).check == checksum(page, "check")
    except DataError:
        return False


def checked(page: Any, where: str) -> Manifest:
    """Return the manifest that a JSON value is. `where` names the store. Raises `DataError` naming what is wrong."""
    if not isinstance(page, dict) or page.get("kind") != KIND:
        raise DataError(f"{where}: {NAME} is not a token store's; give another folder")
    if page.get("format") != FORMAT:
        raise DataError(
            f"{where}: is of format {page.get('format')!r:.40}, this version reads {FORMAT}; prepare it again, or use "
            "the version that wrote it"
        )
    if page.get("sha256") != checksum(page):
        raise DataError(f"{where}: {NAME} was altered (its checksum is another); restore it")
    left = {name: value for name, value in page.items() if name not in ("from", "sha256")}
    return build(Manifest, left, f"{where}: {NAME}", DataError)
