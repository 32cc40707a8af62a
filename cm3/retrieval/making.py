"""How a memory bank comes to be: in a hidden folder beside its place, a draft of a segment, then the manifest.

.bank.partial/segment-0001/ ...    embedded batch by batch, then indexed; goes on after a kill
.bank.partial/manifest.json        then it is moved to bank/
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm3.document import Document, Unreadable
from cm3.errors import ConfigError, DataError
from cm3.retrieval import manifest
from cm3.retrieval.index import Progress, choose
from cm3.retrieval.segment import SegmentDraft, vectors_name

if TYPE_CHECKING:
    from cm3.retrieval.embed import Encoder, VectorCache

Source = Iterable[Document | Unreadable]
"""Documents in a fixed order; what a reader could not read stands in its place, and is listed in the report."""


@dataclass(frozen=True)
class Report:
    """What became of the documents of a build or of an `add`."""

    added: int
    skipped: tuple[Unreadable, ...] = ()


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A hidden folder to make a bank in, `.NAME.partial`; it is moved to its place when the block ends well.

    Raises `ConfigError` for a place that is taken, `DataError` while another process makes the same bank.
    """
    _check_free(folder)
    root = folder.parent / f".{folder.name}.partial"
    root.mkdir(parents=True, exist_ok=True)
    with manifest.writing(root):
        yield root
        (root / "segment-0001" / "draft.json").unlink(missing_ok=True)
        _check_free(folder)
        root.replace(folder)


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is a memory bank already; add to it" if manifest.is_bank(folder) else "is there already"
        raise ConfigError(f"{str(folder)!r}: {what}, delete it, or choose another folder")


def settings_of(encoder: Encoder, index: str, dtype: str) -> dict[str, Any]:
    """What a bank is made with. Raises `ConfigError` for a setting that is none."""
    choose(index, 0)
    vectors_name(dtype)
    return {"encoder": encoder.name, "width": encoder.width, "dtype": dtype, "index": index}


def page_of(settings: Mapping[str, Any], about: Mapping[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The manifest of a bank."""
    head = {"format": manifest.FORMAT, "kind": manifest.KIND}
    return {**head, **settings, "about": dict(about), "segments": entries}


def add_segment(
    root: Path,
    number: int,
    settings: dict[str, Any],
    documents: Source,
    encoder: Encoder,
    known: Callable[[Sequence[str]], list[str]],
    batch: int,
    cache: VectorCache | None,
    progress: Progress | None,
) -> tuple[dict[str, Any], Report]:
    """Make a segment of documents; returns its entry for the manifest. See `Memory.build`."""
    if batch < 1:
        raise ConfigError(f"batch={batch}: must be at least 1")
    draft = SegmentDraft(root / f"segment-{number:04d}", settings)
    with contextlib.closing(draft.shelf):
        draft.fill(documents, encoder, known, batch=batch, cache=cache, progress=progress)
        skipped = tuple(draft.shelf.skipped())
    entry = finish(draft, progress)
    return entry, Report(entry["rows"], skipped)


def finish(draft: SegmentDraft, progress: Progress | None) -> dict[str, Any]:
    """Index a draft; returns its entry for the manifest. Takes it away where there is nothing in it."""
    try:
        return draft.finish(progress)
    except DataError:
        shutil.rmtree(draft.folder)
        raise
