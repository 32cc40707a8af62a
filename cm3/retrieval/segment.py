"""Part of a memory bank: so many documents with their vectors and an index of them. Written once, never changed.

    segment-0001/documents.sqlite    the documents (`cm3.retrieval.shelf`)
                 vectors.f32         their vectors, row after row; .f16 in half precision
                 index.faiss         where there are enough rows for one (`cm3.retrieval.index`)
                 draft.json          until it is finished: what it is made with

A draft that was killed goes on after the last batch that was finished, when it is given the same source again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cm3.document import Document, Unreadable
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.retrieval import manifest
from cm3.retrieval.index import Exact, Index, Progress, build_lists, choose, open_lists
from cm3.retrieval.shelf import Draft, Record, Shelf, pack

if TYPE_CHECKING:
    from cm3.retrieval.embed import Encoder, VectorCache

DTYPES = {"float32": "f32", "float16": "f16"}
PIXELS_AT_ONCE = 1 << 26
"""A batch ends early when its pictures have so many pixels: large photographs would fill the memory."""


def vectors_name(dtype: str) -> str:
    """The file of a segment's vectors. Raises `ConfigError` for a type that is not stored."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r}: must be {' or '.join(DTYPES)}")
    return f"vectors.{DTYPES[dtype]}"


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
        self.shelf = Shelf(folder / "documents.sqlite")
        self.vectors = mapped(folder / vectors_name(dtype), self.rows, width, dtype)
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
        mask[np.load(path, allow_pickle=False)] = True
        return mask

    @property
    def index(self) -> Index:
        """What searches it; opened when it is first needed, so that a bank can be read without FAISS."""
        if self._index is None:
            settings = self.page["index"]
            self._index = (
                Exact(self.vectors)
                if settings["kind"] == "exact"
                else open_lists(self.folder / "index.faiss", self.vectors, int(settings["nprobe"]))
            )
        return self._index

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows (q, min(k, live)), best first."""
        return self.index.search(queries, min(k, self.live), self.gone)

    def is_live(self, row: int) -> bool:
        """Whether a row is not deleted."""
        return self.gone is None or not self.gone[row]

    def ids(self) -> Iterator[tuple[int, str]]:
        """Rows and ids that are not deleted, in order."""
        return ((row, id) for row, id in self.shelf.ids() if self.is_live(row))

    def delete(self, rows: Sequence[int]) -> dict[str, Any]:
        """Write down that rows are gone; returns the new entry for the manifest."""
        every = np.union1d(np.flatnonzero(self.gone) if self.gone is not None else [], rows).astype(np.int64)
        name = f"gone-{len(every):09d}.npy"
        part = self.folder / f".{name}.part"
        with part.open("wb") as file:
            np.save(file, every, allow_pickle=False)
        part.replace(self.folder / name)
        gone = {"file": name, "rows": len(every), "facts": manifest.facts(self.folder / name)}
        return {**self.page, "gone": gone}


class SegmentDraft:
    """A segment that is being made."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Begin one, or go on with one that was killed. `settings`: encoder, width, dtype, index, of what.

        Raises `DataError` for a draft with other settings.
        """
        self.folder, self.settings = folder, settings
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "draft.json"
        if note.exists():
            self._compare(json.loads(note.read_text()))
        else:
            manifest.replace(note, json.dumps(settings) + "\n")
        self.shelf = Draft(folder / "documents.sqlite")
        self.path = folder / vectors_name(settings["dtype"])
        self.path.touch()
        size = self.shelf.rows * settings["width"] * np.dtype(settings["dtype"]).itemsize
        if self.path.stat().st_size < size:
            raise CheckpointError(f"unfinished {str(self.folder)!r}: {self.path.name} is too short; delete that folder")
        with self.path.open("r+b") as file:
            file.truncate(size)  # a batch that was killed before its documents were committed

    def _compare(self, before: dict[str, Any]) -> None:
        for name, value in self.settings.items():
            if before.get(name) != value:
                raise DataError(
                    f"unfinished {str(self.folder)!r}: was begun with {name} {before.get(name)!r}, not {value!r}; "
                    "give the same to go on, or delete that folder to start again"
                )

    def fill(
        self,
        documents: Iterable[Document | Unreadable],
        encoder: Encoder,
        known: Callable[[Sequence[str]], list[str]],
        *,
        batch: int,
        cache: VectorCache | None,
        progress: Progress | None,
    ) -> None:
        """Embed documents and keep them, those that an earlier run finished left out.

        `known`: which of some ids the bank has already. Raises `DataError` for ids that come twice, and for a source
        that is not the one of the earlier run.
        """
        total = len(documents) if isinstance(documents, Sized) else 0
        stream = iter(documents)
        waiting: list[tuple[Record, Document] | Unreadable] = []
        done, pixels = self._pass_finished(stream), 0
        for item in stream:
            waiting.append(item if isinstance(item, Unreadable) else pack(item))
            if not isinstance(waiting[-1], Unreadable):
                pixels += sum(i.pixels.width * i.pixels.height for i in waiting[-1][1].images)
            if len(waiting) >= batch or pixels >= PIXELS_AT_ONCE:
                done, pixels = done + self._flush(waiting, encoder, known, cache), 0
                if progress:
                    progress(done, total, "embedding")
        done += self._flush(waiting, encoder, known, cache)
        if progress:
            progress(done, total, "embedding")

    def _pass_finished(self, stream: Iterator[Document | Unreadable]) -> int:
        """Step over what an earlier run finished, comparing it; returns how much that was."""
        done = 0
        for id, source, text in self.shelf.journal():
            item = next(stream, None)
            same = item is not None and item.id == id
            if isinstance(item, Document) and source is not None:
                same = same and (item.source, item.text) == (source, text)
            if not same:
                raise DataError(
                    f"unfinished {str(self.folder)!r}: item {done} of its source was {id!r}, now it is "
                    f"{'not there' if item is None else repr(item.id)} or has other text; give the same source to go "
                    "on, or delete that folder to start again"
                )
            done += 1
        return done

    def _flush(
        self,
        waiting: list[tuple[Record, Document] | Unreadable],
        encoder: Encoder,
        known: Callable[[Sequence[str]], list[str]],
        cache: VectorCache | None,
    ) -> int:
        from cm3.retrieval.embed import embed

        kept = [item for item in waiting if not isinstance(item, Unreadable)]
        self.refuse_twice([record.id for record, _ in kept], known)
        vectors = np.empty((0, self.settings["width"]), np.float32)
        if kept:
            vectors = embed(encoder, [document for _, document in kept], cache=cache).vectors
        if not np.isfinite(vectors).all():
            bad = kept[int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])][0].id
            raise DataError(f"document {bad!r}: the encoder gave a vector that is not finite; check the encoder")
        self.append([item if isinstance(item, Unreadable) else item[0] for item in waiting], vectors)
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

    def append(self, items: Sequence[Record | Unreadable], vectors: np.ndarray) -> None:
        """Keep a batch; it is on the disk when this returns. `vectors` (records among the items, width)."""
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(vectors, self.settings["dtype"]).tobytes())
        manifest.sync(self.path)
        for item in items:
            self.shelf.skip(item) if isinstance(item, Unreadable) else self.shelf.put(item)
        self.shelf.commit()

    def finish(self, progress: Progress | None) -> dict[str, Any]:
        """Build the index; returns the entry for the manifest. Raises `DataError` where no document was kept."""
        rows = self.shelf.rows
        self.shelf.close()
        if not rows:
            skipped = Shelf(self.folder / "documents.sqlite").skipped()
            first = next((f"; the first, {u.id!r}: {u.reason}" for u in skipped), "")
            told = f"none of {len(skipped)} documents could be read{first}" if first else "the source holds no document"
            raise DataError(f"{told}; give captioned pictures, or text")
        vectors = mapped(self.path, rows, self.settings["width"], self.settings["dtype"])
        kind = choose(self.settings["index"], rows)
        index: dict[str, Any] = {"kind": kind}
        names = ["documents.sqlite", self.path.name]
        if kind != "exact":
            part = self.folder / ".index.faiss.part"
            index = build_lists(vectors, kind, part, progress)
            part.replace(self.folder / "index.faiss")
            names.append("index.faiss")
        files = {name: manifest.facts(self.folder / name) for name in names}
        return {"name": self.folder.name, "rows": rows, "index": index, "files": files}
