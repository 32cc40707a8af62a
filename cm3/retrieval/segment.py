"""Part of a memory bank: so many documents with their vectors and an index of them. Written once, never changed.

    segment-0001/documents.sqlite    the documents (`cm3.retrieval.shelf`)
                 vectors.f32         their vectors, row after row; .f16 in half precision
                 images.f16          the vectors of their pictures alone, zeros for none; left out where none has one
                 index.faiss         where there are enough rows for one (`cm3.retrieval.index`)
                 draft.json          until it is finished: what it is made with

A draft that was killed goes on after the last document of it that is the source's own, when a source is given again;
what is another's is dropped.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cm3.document import Document, Unreadable
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.files import on_disk, parse_json, replacing, said, sync, write
from cm3.retrieval import manifest
from cm3.retrieval.index import Exact, Index, Progress, build_lists, choose, open_lists
from cm3.retrieval.shelf import Draft, Record, Shelf, as_text, pack

if TYPE_CHECKING:
    from cm3.retrieval.embed import Encoder

PIXELS_AT_ONCE = 1 << 26
"""A batch ends early when its pictures have so many pixels: large photographs would fill the memory."""


def vectors_name(dtype: str) -> str:
    """The file of a segment's vectors. Raises `ConfigError` for a type that is not stored."""
    if dtype not in manifest.VECTORS:
        raise ConfigError(f"dtype {dtype!r}: must be {' or '.join(manifest.VECTORS)}")
    return manifest.VECTORS[dtype][0]


def mapped(path: Path, rows: int, width: int, dtype: str) -> np.ndarray:
    """Vectors (rows, width) by memory map."""
    # Copy on write, though nobody writes: torch warns of arrays that are read-only. A plain array takes rows faster.
    return np.asarray(np.memmap(path, dtype=dtype, mode="c", shape=(rows, width)))


class Segment:
    """A finished segment, open for reading."""

    def __init__(self, folder: Path, page: dict[str, Any], width: int, dtype: str) -> None:
        """`page`: its entry in the manifest. Raises `CheckpointError` for a file that is missing or another."""
        self.folder, self.page, self.rows = folder, page, int(page["rows"])
        self.check()
        self.gone = self._gone(page.get("gone"))
        self.live = self.rows - (0 if self.gone is None else int(self.gone.sum()))
        self.shelf = Shelf(folder / manifest.DOCUMENTS)
        if self.shelf.rows != self.rows:
            raise CheckpointError(
                f"memory bank: {str(self.shelf.path)!r} has {self.shelf.rows} documents, its manifest says "
                f"{self.rows}; restore it from a copy"
            )
        self.vectors = mapped(folder / vectors_name(dtype), self.rows, width, dtype)
        images = folder / manifest.IMAGES
        self.images = mapped(images, self.rows, width, "float16") if images.name in page["files"] else None
        """Unit vectors (rows, width) of the documents' pictures alone; None where no document is known to have one."""
        self._index: Index | None = None

    def check(self, *, whole: bool = False, progress: Progress | None = None) -> None:
        """Compare every file with the manifest; large ones by size only, unless `whole`."""
        files = self.page["files"]
        for number, (name, known) in enumerate(files.items()):
            manifest.check(self.folder / name, known, whole=whole)
            if whole and progress:
                progress(number + 1, len(files), f"checking {self.folder.name}")
        if whole and (damage := self.shelf.damage()):
            raise CheckpointError(f"memory bank: {str(self.shelf.path)!r} is damaged ({damage}); restore it")

    def _gone(self, page: dict[str, Any] | None) -> np.ndarray | None:
        """Which rows (n,) are deleted."""
        if page is None:
            return None
        path = self.folder / page["file"]
        manifest.check(path, page["facts"], whole=True)
        mask = np.zeros(self.rows, bool)
        mask[_rows_in(path, page["rows"], self.rows)] = True
        return mask

    @property
    def index(self) -> Index:
        """The index that searches it; opened when it is first needed, so that a bank can be read without FAISS.

        The whole file that every search reads is compared with its checksum first: the vectors, or the lists. Raises
        `CheckpointError` for a damaged one.
        """
        if self._index is None:
            settings, files = self.page["index"], self.page["files"]
            name = manifest.INDEX if settings["kind"] != "exact" else next(n for n in files if n.startswith("vectors."))
            if files[name]["bytes"] > manifest.SMALL:  # a smaller one was read when the segment was opened
                manifest.check(self.folder / name, files[name], whole=True)
            self._index = (
                Exact(self.vectors)
                if settings["kind"] == "exact"
                else open_lists(self.folder / manifest.INDEX, self.vectors, int(settings["nprobe"]))
            )
        return self._index

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows (q, min(k, live)), best first. Raises `CheckpointError` for vectors of NaN."""
        scores, rows = self.index.search(queries, min(k, self.live), self.gone)
        if not np.isfinite(scores).all() or (rows < 0).any():
            raise CheckpointError(
                f"memory bank: {str(self.folder)!r} holds vectors that are not finite; build it again"
            )
        return scores, rows

    def is_live(self, row: int) -> bool:
        """Whether a row is not deleted."""
        return self.gone is None or not self.gone[row]

    def ids(self) -> Iterator[tuple[int, str]]:
        """Rows and ids that are not deleted, in order."""
        return ((row, id) for row, id in self.shelf.ids() if self.is_live(row))

    def delete(self, rows: Sequence[int]) -> dict[str, Any]:
        """Write down that rows are gone; returns the new entry for the manifest. Raises `DiskError`."""
        every = np.union1d(np.flatnonzero(self.gone) if self.gone is not None else [], rows).astype(np.int64)
        path = self.folder / f"gone-{len(every):09d}.npy"
        with replacing(path) as part, part.open("wb") as file:
            np.save(file, every, allow_pickle=False)
        return {**self.page, "gone": {"file": path.name, "rows": len(every), "facts": manifest.facts(path)}}


def _rows_in(path: Path, number: int, rows: int) -> np.ndarray:
    """Return the row numbers in a file that `Segment.delete` wrote: `number` of them, rising, below `rows`."""
    if path.stat().st_size != number * 8 + 128:  # of NumPy's header, which is padded to 128 bytes
        raise CheckpointError(f"memory bank: {str(path)!r} does not hold {number} rows; restore it from a copy")
    try:
        found = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except Exception as error:  # NumPy raises many kinds
        raise CheckpointError(f"memory bank: {str(path)!r} cannot be read ({said(error)}); restore it") from error
    right = found.dtype == np.int64 and found.shape == (number,) and (np.diff(found) > 0).all()
    if not right or found[0] < 0 or found[-1] >= rows:
        raise CheckpointError(f"memory bank: {str(path)!r} names rows that are not there; restore it from a copy")
    return found


class SegmentDraft:
    """A segment that is being made."""

    resumed = 0
    """How many items of the source an earlier run had finished."""
    dropped = False
    """Whether the draft of another source, or of other settings, was dropped."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Begin one, or go on with one that was killed. `settings`: encoder, width, dtype, index, of what.

        A draft with other settings, or of which something is missing, is dropped. Raises `DiskError` where nothing can
        be written, `CheckpointError` where a link stands in the place.
        """
        self.folder, self.settings = folder, settings
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise CheckpointError(f"memory bank: {str(folder)!r} is a link or a file, and no segment; take it away")
        self.path, self.images = folder / vectors_name(settings["dtype"]), folder / manifest.IMAGES
        with on_disk(folder):
            if folder.exists() and not self._goes_on():
                self.dropped = any(folder.iterdir())
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / "draft.json", json.dumps(settings) + "\n")
            self.path.touch()
            self.images.touch()
        self.shelf = Draft(folder / manifest.DOCUMENTS)
        self._fit()

    def _goes_on(self) -> bool:
        """Tell whether what is in the folder is a draft of ours with these settings, to its last file."""
        needed = {"draft.json", manifest.DOCUMENTS, self.path.name, self.images.name}
        files = {file.name: file for file in self.folder.iterdir()}
        if any(f.is_symlink() or not f.is_file() for f in files.values()) or not needed <= set(files):
            return False
        for name in set(files) - needed - {f"{manifest.DOCUMENTS}-journal"}:
            files[name].unlink()  # what a kill left of writing it, or an index that is built anew
        try:
            before = parse_json((self.folder / "draft.json").read_bytes(), "draft")
            if before != json.loads(json.dumps(self.settings)):
                return False
            draft = Draft(self.folder / manifest.DOCUMENTS)
        except (CheckpointError, DataError):
            return False
        width = self.settings["width"]
        sizes = (self.path, np.dtype(self.settings["dtype"]).itemsize), (self.images, 2)
        whole = all(path.stat().st_size >= draft.rows * width * each for path, each in sizes)
        draft.close()
        return whole

    def _fit(self) -> None:
        """Cut the vectors to the documents that were committed: a kill leaves more of them."""
        for path, each in ((self.path, np.dtype(self.settings["dtype"]).itemsize), (self.images, 2)):
            with on_disk(path):
                os.truncate(path, self.shelf.rows * self.settings["width"] * each)

    def fill(
        self,
        documents: Iterable[Document | Unreadable],
        encoder: Encoder,
        known: Callable[[Sequence[str]], list[str]],
        *,
        batch: int,
        progress: Progress | None,
    ) -> None:
        """Embed documents and keep them, those that an earlier run finished left out.

        `known`: which of some ids the bank has already. Raises `DataError` for ids that come twice, `DiskError`.
        """
        total = len(documents) if isinstance(documents, Sized) else 0
        stream = self._pass_finished(iter(documents))
        waiting: list[tuple[Record, Document] | Unreadable] = []
        done, pixels = self.resumed, 0
        for item in stream:
            waiting.append(item if isinstance(item, Unreadable) else pack(item))
            if not isinstance(waiting[-1], Unreadable):
                pixels += sum(i.pixels.width * i.pixels.height for i in waiting[-1][1].images)
            if len(waiting) >= batch or pixels >= PIXELS_AT_ONCE:
                done, pixels = done + self._flush(waiting, encoder, known), 0
                if progress:
                    progress(done, total, "embedding")
        done += self._flush(waiting, encoder, known)
        if progress:
            progress(done, total, "embedding")

    def _pass_finished(self, stream: Iterator[Document | Unreadable]) -> Iterator[Document | Unreadable]:
        """Step over what an earlier run finished of this very source; what is another's is dropped.

        Each document is read again and compared, with its pictures; nothing is encoded.
        """
        before = self.shelf.rows + self.shelf.skips
        for kept in self.shelf.journal():
            item = next(stream, None)
            if item is None or _summary(item) != kept:
                stream = stream if item is None else itertools.chain([item], stream)
                break
            self.resumed += 1
        if self.resumed < before:
            self.dropped = True
            self.shelf.cut(self.resumed)
            self._fit()
        return stream

    def _flush(
        self,
        waiting: list[tuple[Record, Document] | Unreadable],
        encoder: Encoder,
        known: Callable[[Sequence[str]], list[str]],
    ) -> int:
        from cm3.retrieval.embed import embed

        kept = [item for item in waiting if not isinstance(item, Unreadable)]
        self.refuse_twice([record.id for record, _ in kept], known)
        vectors = images = np.empty((0, self.settings["width"]), np.float32)
        if kept:
            found = embed(encoder, [document for _, document in kept])
            vectors, images = found.vectors, found.images
        if not np.isfinite(vectors).all():
            bad = kept[int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])][0].id
            raise DataError(f"document {bad!r}: the encoder gave a vector that is not finite; check the encoder")
        self.append([item if isinstance(item, Unreadable) else item[0] for item in waiting], vectors, images)
        number = len(waiting)
        waiting.clear()
        return number

    def refuse_twice(self, ids: Sequence[str], known: Callable[[Sequence[str]], list[str]] | None = None) -> None:
        """Raise `DataError` naming ids that come twice, here or in the bank."""
        seen: set[str] = set()
        again = [id for id in ids if id in seen or seen.add(id)]  # type: ignore[func-returns-value]
        twice = sorted({*again, *self.shelf.taken(ids), *(known(ids) if known else [])})
        if twice:
            more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
            raise DataError(
                f"ids that come twice: {', '.join(map(repr, twice[:5]))}{more}; an id names one document of a memory "
                "bank, delete or rename one of them"
            )

    def append(self, items: Sequence[Record | Unreadable], vectors: np.ndarray, images: np.ndarray) -> None:
        """Keep a batch; it is on the disk when this returns. `vectors`, `images` (records among the items, width).

        Raises `DiskError` where there is no room.
        """
        for path, rows, dtype in ((self.path, vectors, self.settings["dtype"]), (self.images, images, "float16")):
            with on_disk(path):
                with path.open("ab") as file:
                    file.write(np.ascontiguousarray(rows, dtype).tobytes())
                sync(path)
        for item in items:
            self.shelf.skip(item) if isinstance(item, Unreadable) else self.shelf.put(item)
        self.shelf.commit()

    def finish(self, progress: Progress | None) -> dict[str, Any]:
        """Build the index; returns the entry for the manifest.

        Raises `DataError` where no document was kept, `DiskError`.
        """
        rows, names = self.shelf.rows, [manifest.DOCUMENTS, self.path.name]
        if self.shelf.has_pictures:
            names.append(self.images.name)
        self.shelf.close()
        if not rows:
            skipped = Shelf(self.folder / manifest.DOCUMENTS).skipped()
            first = next((f"; the first, {u.id!r}: {u.reason}" for u in skipped), "")
            told = f"none of {len(skipped)} documents could be read{first}" if first else "the source holds no document"
            raise DataError(f"{told}; give captioned pictures, or text")
        vectors = mapped(self.path, rows, self.settings["width"], self.settings["dtype"])
        kind = choose(self.settings["index"], rows)
        index: dict[str, Any] = {"kind": kind}
        if kind != "exact":
            with replacing(self.folder / manifest.INDEX) as part:
                index = build_lists(vectors, kind, part, progress)
            names.append(manifest.INDEX)
        files = {name: manifest.facts(self.folder / name) for name in names}
        return {"name": self.folder.name, "rows": rows, "index": index, "files": files}


def settle(folder: Path, entry: dict[str, Any]) -> None:
    """Take away what a draft has and a finished segment does not: its note, and vectors of pictures that are none."""
    for name in {"draft.json", manifest.IMAGES} - set(entry["files"]):
        (folder / name).unlink(missing_ok=True)


def _summary(item: Document | Unreadable) -> Record | str:
    """Return an item of a source as `Draft.journal` gives it."""
    made = item if isinstance(item, Unreadable) else pack(item)
    if isinstance(made, Unreadable):
        return as_text(made.id)
    record = made[0]
    parts = tuple(p if isinstance(p, str) else hashlib.sha256(p).digest() for p in record.parts)
    return Record(record.id, record.source, record.meta, parts, record.pixels)
