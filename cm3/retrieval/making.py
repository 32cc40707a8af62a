"""How a memory bank comes to be: in a hidden folder beside its place, a draft of a segment, then the manifest.

.bank.partial/segment-0001/ ...    embedded batch by batch, then indexed; goes on after a kill
.bank.partial/manifest.json        then it is moved to bank/
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm3.document import Document, Unreadable
from cm3.errors import Cm3Error, ConfigError, DiskError
from cm3.files import on_disk, sync
from cm3.retrieval import manifest
from cm3.retrieval.index import Progress, choose
from cm3.retrieval.segment import SegmentDraft, vectors_name

if TYPE_CHECKING:
    from cm3.retrieval.embed import Encoder

Source = Iterable[Document | Unreadable]
"""Documents in a fixed order; what a reader could not read stands in its place, and is listed in the report."""


@dataclass(frozen=True)
class Report:
    """What became of the documents of a build or of an `add`."""

    added: int
    skipped: tuple[Unreadable, ...] = ()
    resumed: int = field(default=0, compare=False)
    """How many documents of the source an earlier run, which was killed, had finished."""
    dropped: bool = field(default=False, compare=False)
    """Whether what such a run had made of other documents, or with other settings, was dropped."""


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A hidden folder to make a bank in, `.NAME.partial`; it is moved to its place when the block ends well.

    What is refused leaves nothing behind; what was killed, or found the disk full, stays to go on with. Raises
    `ConfigError` for a place that is taken, `DataError` while another process makes the same bank, `DiskError`.
    """
    root = folder.parent / f".{folder.name}.partial"
    with on_disk(folder):
        _check_free(folder)
        if root.is_symlink() or (root.exists() and not root.is_dir()):
            raise ConfigError(f"{str(root)!r}: is a link or a file where a bank is to be made; take it away")
        above = [p for p in (root, *root.parents) if not p.exists()]
        root.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(manifest.writing(root))
        try:
            yield root
            _check_free(folder)
        except Cm3Error as error:
            if not isinstance(error, DiskError):
                shutil.rmtree(root, ignore_errors=True)
                for made in above[1:]:
                    with contextlib.suppress(OSError):  # somebody else may have put something there meanwhile
                        made.rmdir()
            raise
        with on_disk(folder):
            sync(root)
            root.replace(folder)
            (folder / manifest.LOCK).unlink()
            sync(folder.parent)


def _check_free(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
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
    progress: Progress | None,
) -> tuple[dict[str, Any], Report]:
    """Make a segment of documents; returns its entry for the manifest. See `Memory.build`."""
    if batch < 1:
        raise ConfigError(f"batch={batch}: must be at least 1")
    with drafting(root / manifest.segment_name(number), settings) as draft:
        draft.fill(documents, encoder, known, batch=batch, progress=progress)
        skipped = tuple(draft.shelf.skipped())
        entry = draft.finish(progress)
    return entry, Report(entry["rows"], skipped, draft.resumed, draft.dropped)


@contextlib.contextmanager
def drafting(folder: Path, settings: dict[str, Any]) -> Iterator[SegmentDraft]:
    """Begin a draft of a segment. One that is refused is taken away; one that was killed, or had no room, stays."""
    draft = SegmentDraft(folder, settings)
    try:
        with contextlib.closing(draft.shelf):
            yield draft
    except Cm3Error as error:
        if not isinstance(error, DiskError):
            shutil.rmtree(folder, ignore_errors=True)
        raise
