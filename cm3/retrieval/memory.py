"""A memory bank: documents, found by the inner product of their vectors with a query's.

    bank/manifest.json        what it is made of (`cm3.retrieval.manifest`)
         segment-0001/ ...    documents, vectors and an index of them (`cm3.retrieval.segment`)

Adding writes a segment more, deleting a list of rows that are gone, and each ends in a new manifest. No segment is
changed or taken away, so whoever opened a bank goes on with what it opened; `merge` writes one without what is gone,
into a folder of its own. One process writes to a bank at a time, any number read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cm3.document import Document
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.files import sync
from cm3.retrieval import manifest
from cm3.retrieval.index import Progress, choose, ranked
from cm3.retrieval.making import Report, Source, add_segment, drafting, making, page_of, settings_of
from cm3.retrieval.segment import Segment, settle
from cm3.retrieval.shelf import Record

if TYPE_CHECKING:
    from cm3.retrieval.embed import Encoder

BATCH = 256
"""Documents that are embedded and kept at a time: what a kill can lose."""


class Memory:
    """A memory bank on disk, memory-mapped. `build`, `open` and `merge` make one."""

    report: Report | None = None
    """What the last `build` or `add` of this object did."""

    def __init__(self, folder: Path, page: dict[str, Any]) -> None:
        """Open what a manifest names; see `open`."""
        self.folder = folder
        self._load(page)

    def _load(self, page: dict[str, Any]) -> None:
        """Take over a page that `manifest.read` checked, or this class made."""
        width, dtype = page["width"], page["dtype"]
        self.segments = [Segment(self.folder / s["name"], s, width, dtype) for s in page["segments"]]
        self.encoder_name: str = page["encoder"]
        self.about: dict[str, Any] = page["about"]
        self.width, self.page = width, page
        self._live = sum(s.live for s in self.segments)
        starts = [0, *accumulate(s.rows for s in self.segments)]
        # Segments with something in them, and the number of their first row in the bank.
        self._parts = [(s, start) for s, start in zip(self.segments, starts, strict=False) if s.live]

    @classmethod
    def build(
        cls,
        folder: str | Path,
        documents: Source,
        encoder: Encoder,
        *,
        index: str = "auto",
        dtype: str = "float32",
        batch: int = BATCH,
        about: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Memory:
        """Make a bank. It appears whole or not at all; a build that was killed goes on where it was.

        `index`: auto, exact, ivf or pq (`cm3.retrieval.index`); `dtype` of the stored vectors: float32 or float16;
        `about`: anything to keep beside it. Damaged pictures are left out and listed in `report`. Raises `DataError`
        for ids that come twice and for a source without documents, `ConfigError` for a folder that is there.
        """
        settings = settings_of(encoder, index, dtype)
        with making(Path(folder)) as root:
            entry, report = add_segment(root, 1, settings, documents, encoder, lambda ids: [], batch, progress)
            settle(root / entry["name"], entry)
            manifest.write(root, page_of(settings, dict(about or {}), [entry]))
        made = cls.open(folder)
        made.report = report
        return made

    @classmethod
    def open(cls, folder: str | Path, *, encoder: Encoder | None = None, verify: bool = False) -> Memory:
        """Open a bank by memory map. Sums of small files and sizes of large ones are compared; `verify` reads all.

        Raises `CheckpointError` for a bank that is missing, damaged, of another version, or made with another encoder.
        """
        folder = Path(folder)
        page = manifest.read(folder)
        while True:
            try:
                memory = cls(folder, page)
                break
            except CheckpointError:
                # Another process may have replaced the manifest, and a list of rows gone, while we read.
                again = manifest.read(folder)
                if again == page:
                    raise
                page = again
        if encoder is not None:
            memory.check_encoder(encoder)
        if verify:
            memory.verify()
        return memory

    def verify(self, progress: Progress | None = None) -> None:
        """Read every file and compare its checksum. Raises `CheckpointError` for the first that is damaged."""
        for segment in self.segments:
            segment.check(whole=True, progress=progress)

    def __len__(self) -> int:
        return self._live

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self._find(id) is not None

    def __iter__(self) -> Iterator[str]:
        """Ids, in the order in which they were added."""
        return (id for segment in self.segments for _, id in segment.ids())

    def __getitem__(self, id: str) -> Document:
        """A document; its pictures are decoded when their pixels are first asked for. Raises `DataError`."""
        found = self._find(id)
        if found is None:
            raise self._unknown([id])
        segment, row = found
        document = segment.shelf.document(row)
        if document.id != id:
            raise CheckpointError(
                f"memory bank: {str(segment.shelf.path)!r} has another document for {id!r}; restore it"
            )
        return document

    def _find(self, id: str) -> tuple[Segment, int] | None:
        for segment in self.segments:
            row = segment.shelf.row(id)
            if row is not None and segment.is_live(row):
                return segment, row
        return None

    def _unknown(self, ids: Sequence[str]) -> DataError:
        told = ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        return DataError(f"memory bank {str(self.folder)!r}: has no document {told}; `cm3 index search` shows ids")

    def _places(self, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Id -> (number of its segment, row). Raises `DataError` naming the ids that are not there."""
        places = {
            id: (number, row)
            for number, segment in enumerate(self.segments)
            for id, row in segment.shelf.rows_of(ids).items()
            if segment.is_live(row)
        }
        if missing := [id for id in ids if id not in places]:
            raise self._unknown(missing)
        return places

    def search(self, vectors: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
        """The k documents of greatest inner product for each query of (q, width): ids, scores (q, k), best first.

        A `k` larger than the bank gives all of it. Raises `DataError` for an empty bank and for queries of another
        width, of zeros or not finite; `ConfigError` for k below 1.
        """
        if k < 1:
            raise ConfigError(f"k={k}: must be at least 1")
        queries = self._queries(vectors)
        if not self._live:
            raise DataError(f"memory bank {str(self.folder)!r}: is empty; add documents to it")
        found = [(segment.search(queries, k), start) for segment, start in self._parts]
        scores, rows = found[0][0][0], found[0][0][1] + found[0][1]
        if len(found) > 1:
            rows = np.concatenate([r + start for (_, r), start in found], 1)
            scores, rows = ranked(np.concatenate([s for (s, _), _ in found], 1), rows, k)
        return self._ids(rows.tolist()), scores

    def _queries(self, vectors: np.ndarray) -> np.ndarray:
        queries = np.ascontiguousarray(vectors, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise DataError(f"search: queries of shape {queries.shape}, the bank's vectors are (n, {self.width})")
        lengths = (queries * queries).sum(1)
        bad = ~((lengths > 0) & (lengths < np.inf))
        if bad.any():
            raise DataError(
                f"search: query {bad.argmax()} is all zeros or not finite; a query needs at least one word or a picture"
            )
        return queries

    def _ids(self, rows: list[list[int]]) -> list[list[str]]:
        names: dict[int, str] = {}
        every = {row for some in rows for row in some}
        for segment, start in self._parts:
            mine = [row - start for row in every if start <= row < start + segment.rows]
            found = segment.shelf.ids_of(mine)
            if len(found) < len(mine):
                raise CheckpointError(
                    f"memory bank: {str(segment.shelf.path)!r} lacks documents; restore it from a copy"
                )
            names.update((row + start, id) for row, id in found.items())
        return [[names[row] for row in some] for some in rows]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """The stored vectors (n, width) float32 of documents. Raises `DataError` for an id that is not there."""
        places = self._places(ids)
        rows = [self.segments[places[id][0]].vectors[places[id][1]] for id in ids]
        return np.array(rows, np.float32).reshape(len(ids), self.width)

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, width) float32 of documents' pictures alone; zeros where none is, or none is known.

        A bank that was made before there were such vectors knows none. Raises `DataError` for an id that is not there.
        """
        places = self._places(ids)
        found = np.zeros((len(ids), self.width), np.float32)
        for at, id in enumerate(ids):
            segment = self.segments[places[id][0]]
            if segment.images is not None:
                found[at] = segment.images[places[id][1]]
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)

    def pictures(self, ids: Sequence[str]) -> list[frozenset[bytes]]:
        """Of each document what its pictures show (`cm3.retrieval.picture.digest`). Raises `DataError` as `images`."""
        places = self._places(ids)
        return [self.segments[number].shelf.pixels(row) for number, row in map(places.__getitem__, ids)]

    def add(
        self,
        documents: Source,
        encoder: Encoder,
        *,
        batch: int = BATCH,
        progress: Progress | None = None,
    ) -> Report:
        """Add documents: all of them or none; what was killed goes on where it was. Raises as `build` does."""
        settings = settings_of(encoder, self.page["index"], self.page["dtype"])
        with manifest.writing(self.folder):
            self._load(manifest.read(self.folder))
            self.check_encoder(encoder)
            number = max(int(s.folder.name.rpartition("-")[2]) for s in self.segments) + 1
            if number > manifest.MANY:
                raise DataError(
                    f"memory bank {str(self.folder)!r}: has segment {manifest.MANY}, the last there can be; merge it "
                    "into a new one, `cm3 index build BANK --out DIR`"
                )
            entry, report = add_segment(self.folder, number, settings, documents, encoder, self._taken, batch, progress)
            sync(self.folder)
            self._replace([*self.page["segments"], entry])
        self.report = report
        return report

    def _taken(self, ids: Sequence[str]) -> list[str]:
        return [id for s in self.segments for id, row in s.shelf.rows_of(ids).items() if s.is_live(row)]

    def delete(self, ids: Sequence[str]) -> int:
        """Take documents away, all or none; returns how many. Raises `DataError` for an id that is not there."""
        with manifest.writing(self.folder):
            self._load(manifest.read(self.folder))
            places = self._places(ids)
            entries, before = [], []
            for number, segment in enumerate(self.segments):
                rows = [row for at, row in places.values() if at == number]
                if rows and segment.page.get("gone"):
                    before.append(segment.folder / segment.page["gone"]["file"])
                entries.append(segment.delete(rows) if rows else segment.page)
            self._replace(entries)
            for path in before:
                path.unlink(missing_ok=True)  # a reader has read it already, or reads the manifest again
        return len(places)

    def _replace(self, entries: list[dict[str, Any]]) -> None:
        page = {**self.page, "segments": entries}
        manifest.write(self.folder, page)
        settle(self.folder / entries[-1]["name"], entries[-1])
        self._load(page)

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise `CheckpointError` for an encoder that is not the one that the bank was made with."""
        mine, other = (self.encoder_name, self.width), (encoder.name, encoder.width)
        if mine != other:
            raise CheckpointError(
                f"memory bank {str(self.folder)!r}: was made with encoder {mine[0]!r} of width {mine[1]}, not with "
                f"{other[0]!r} of width {other[1]}; use that one, or build the bank again"
            )

    @classmethod
    def merge(
        cls,
        folders: Sequence[str | Path],
        out: str | Path,
        *,
        index: str | None = None,
        progress: Progress | None = None,
    ) -> Memory:
        """Make one bank of several, or of one anew: a single segment without what was deleted.

        What was killed goes on where it was. `index` is the first bank's if None. Raises `CheckpointError` for banks of
        different encoders, `DataError` for an id that is in two of them, `ConfigError` for `out` that is there.
        """
        if not folders:
            raise ConfigError("merge: no memory bank given; name at least one")
        banks = [cls.open(folder, verify=True) for folder in folders]
        first = banks[0]
        for bank in banks[1:]:
            if (bank.encoder_name, bank.width) != (first.encoder_name, first.width):
                raise CheckpointError(
                    f"merge: {str(bank.folder)!r} was made with encoder {bank.encoder_name!r}, "
                    f"{str(first.folder)!r} with {first.encoder_name!r}; merge banks of one encoder"
                )
        settings = {name: first.page[name] for name in ("encoder", "width", "dtype", "index")}
        settings["index"] = index or settings["index"]
        choose(settings["index"], 0)
        settings["of"] = [[str(b.folder.name), b.page["segments"]] for b in banks]
        with making(Path(out)) as root:
            with drafting(root / manifest.segment_name(1), settings) as draft:
                rows = islice(_rows(banks), draft.shelf.rows, None)
                while some := list(islice(rows, BATCH)):
                    records: list[Record] = [segment.shelf.record(row) for segment, row in some]
                    draft.refuse_twice([record.id for record in records])
                    draft.append(records, *_stacked(some))
                    if progress:
                        progress(draft.shelf.rows, sum(map(len, banks)), "merging")
                entry = draft.finish(progress)
            del settings["of"]
            settle(root / entry["name"], entry)
            manifest.write(root, page_of(settings, first.about, [entry]))
        return cls.open(out)

    def info(self) -> dict[str, Any]:
        """What it holds and how: counts, sources, licences, kinds of index, bytes on disk, what was skipped."""
        sizes = {"documents": 0, "vectors": 0, "images": 0, "index": 0}
        counts: dict[str, dict[str, int]] = {"source": {}, "license": {}}
        for segment in self.segments:
            for name, known in segment.page["files"].items():
                sizes[name.split(".")[0]] += known["bytes"]
            gone = None if segment.gone is None else np.flatnonzero(segment.gone).tolist()
            for what, total in counts.items():
                minus = segment.shelf.count(what, gone) if gone else {}
                for value, number in segment.shelf.count(what).items():
                    total[value] = total.get(value, 0) + number - minus.get(value, 0)
        rows = sum(s.rows for s in self.segments)
        skipped = [vars(u) for s in self.segments for u in s.shelf.skipped()]
        return {
            "folder": str(self.folder),
            "documents": len(self),
            "deleted": rows - len(self),
            "encoder": self.encoder_name,
            "width": self.width,
            "dtype": self.page["dtype"],
            "segments": [{"documents": s.live, **s.page["index"]} for s in self.segments],
            "sources": {value: n for value, n in counts["source"].items() if n},
            "licenses": {value: n for value, n in counts["license"].items() if n},
            "bytes": {**sizes, "total": sum(sizes.values())},
            "bytes_a_vector": round((sizes["vectors"] + sizes["index"]) / rows, 1),
            "skipped": skipped,
            "about": self.about,
        }


def _stacked(some: Sequence[tuple[Segment, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of rows, and of their pictures alone."""
    zeros = np.zeros(some[0][0].vectors.shape[1], np.float16)
    images = [zeros if segment.images is None else segment.images[row] for segment, row in some]
    return np.stack([segment.vectors[row] for segment, row in some]), np.stack(images)


def _rows(banks: Sequence[Memory]) -> Iterator[tuple[Segment, int]]:
    return ((segment, row) for bank in banks for segment in bank.segments for row, _ in segment.ids())
