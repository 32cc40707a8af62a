"""Writing a store: shards first, then the index, then the manifest that counts on both.

finish     a store of the units that `cm3 prepare` made
Draft      a segment of documents in their order, which goes on after a kill
commit     what was added or deleted becomes part of the store, in one step
making     a store that appears whole: made in .NAME.partial, then moved
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from cm3.document import Document, Unreadable
from cm3.errors import Cm3Error, ConfigError, DataError, DiskError
from cm3.files import checksum, locked, on_disk, sha256, sync, write
from cm3.store import shard as shards
from cm3.store.manifest import DRAFT, FORMAT, KIND, NAME, checked, files_of, index_name, is_store, page
from cm3.store.place import Place, Tensors
from cm3.store.record import Record, Refused, as_text, record_of
from cm3.store.shard import Batch, Shape, is_report, license_of, shard_layout, shard_name, write_shard
from cm3.store.store import Progress, Store

LOCK = ".lock"
PIXELS = 1 << 26
"""A batch ends early when its pictures have so many pixels: large photographs would fill the memory."""

Source = Iterable[Document | Unreadable]
"""Documents in a fixed order; what a reader could not read stands in its place, and is listed in the report."""
Encode = Callable[[Sequence[Document]], tuple[np.ndarray, np.ndarray]]
"""Documents -> unit vectors (n, width) of their words and of their pictures, zeros for none."""
Build = Callable[[Store], dict[str, Any]]
"""Builds the index of a store's last segment, and returns the fields of `Built`."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of a store until the end of the block, or until this process is killed.

    Raises `DataError` where another process writes, `DiskError` where nothing may be written.
    """
    with locked(folder / LOCK, f"store {str(folder)!r}", DataError):
        yield


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """Give a hidden folder to make a store in, `.NAME.partial`; it is moved to its place when the block ends well.

    A refused write leaves nothing behind; one that was killed, or found the disk full, stays to go on with. Raises
    `ConfigError` for a place that is taken, `DataError` while another process makes the same store, `DiskError`.
    """
    root = folder.parent / f".{folder.name}.partial"
    with on_disk(folder):
        _check_free(folder)
        if root.is_symlink() or (root.exists() and not root.is_dir()):
            raise ConfigError(f"{str(root)!r}: is a link or a file where a store is to be made; take it away")
        above = [p for p in (root, *root.parents) if not p.exists()]
        root.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing(root))
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
            (folder / LOCK).unlink()
            sync(folder.parent)


def _check_free(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        what = "is a store already; add to it" if is_store(folder) else "is there already"
        raise ConfigError(f"{str(folder)!r}: {what}, delete it, or choose another folder")


Arrays = dict[str, np.ndarray]
"""Of documents: `lengths`, `images` (image tokens), `has`, `keys` (n, 2) and `digests` (n, 16); `kept`, where known."""


def columns(
    out: Path, first: int, reports: Sequence[dict[str, Any]], shape: Shape
) -> tuple[Arrays, list[dict[str, Any]]]:
    """Return what an index needs of the documents of shards `first` and on, and the shards' entries in a manifest."""
    place, tokens = Place(out), shape.entries is not None
    none = np.zeros(0, np.int32)
    found: dict[str, list[np.ndarray]] = {name: [none] for name in ("lengths", "images")}
    found |= {"has": [np.zeros(0, np.uint8)], "keys": [np.zeros((0, 2), np.uint64)]}
    found |= {"digests": [np.zeros((0, 16), np.uint8)]}
    entries = []
    for number, report in enumerate(reports, start=first):
        # Copied, so that one shard is open at a time: systems allow some 65,000 maps a process.
        shard, n = opened(place, number, report, shape), report["documents"]
        found["digests"].append(shard["digests"].copy())
        found["keys"].append(shard["keys"].copy())
        found["lengths"].append(np.diff(shard.borders("starts", "ids")) if tokens else np.zeros(n, np.int32))
        found["images"].append(shard["images"].copy() if tokens else np.zeros(n, np.int32))
        bits = np.zeros(n, np.uint8)
        for bit, what in enumerate(shards.VECTORS if shape.width is not None else ()):
            bits |= shard[what].any(1).astype(np.uint8) << bit
        found["has"].append(bits)
        entry = {name: report[name] for name in ("documents", "bytes", "sha256", "pictures")}
        entries.append(entry | {"names": shards.names_sum(shard)})
    return {name: np.concatenate(parts) for name, parts in found.items()}, entries


def opened(place: Place, number: int, report: dict[str, Any], shape: Shape) -> Tensors:
    """Return a shard by its report."""
    name = shard_name(number)
    return Tensors(place, name, report["bytes"], shard_layout(report["documents"], shape), place.array(name))


def name_of(shard: Tensors, row: int) -> dict[str, Any]:
    """Return the JSON of a document of a shard that was written here."""
    begins = shard.borders("name_starts", "names")
    found: dict[str, Any] = json.loads(shard["names"][begins[row] : begins[row + 1]].tobytes())
    return found


def finish(
    out: Path,
    plan: dict[str, Any],
    shape: Shape,
    reports: Sequence[dict[str, Any]],
    passed: dict[str, Any],
    about: dict[str, Any],
    examples: int,
) -> None:
    """Write the index and the manifest of a store whose units are all done.

    A document is dropped when an earlier one that is kept has the same content, or the same id in the same source.
    Shards are not touched: the index leaves out what is dropped.
    """
    place, (arrays, entries) = Place(out), columns(out, 0, reports, shape)
    why = duplicates(arrays["digests"], arrays["keys"])
    kept = np.flatnonzero(why == 0)
    counts = counted(reports)
    ids: list[str] = []
    starts = np.cumsum([0, *(r["documents"] for r in reports)])
    at_hand = -1
    for at in np.flatnonzero(why).tolist():
        number = int(np.searchsorted(starts, at, "right")) - 1
        if number != at_hand:
            at_hand, found = number, opened(place, number, reports[number], shape)
        name = name_of(found, at - int(starts[number]))
        counts.without(name)
        ids += [name["id"]] if len(ids) < examples else []
    manifest = {name: value for name, value in plan.items() if name not in ("units", "sources")} | {
        "about": about,
        "truncated": sum(r["truncated"] for r in reports),
        "duplicates": {"content": int((why == 1).sum()), "id": int((why == 2).sum()), "examples": ids},
        "skipped": skips(reports, examples),
        "passed": passed,
        "from": plan["sources"],
        **counts.json(),
        "segments": [{"shards": len(reports)}],
        "shards": entries,
    }
    commit(out, manifest, {name: array[kept] for name, array in arrays.items()} | {"kept": kept})


@dataclass
class Counts:
    """Documents by source and by licence."""

    sources: Counter[str]
    licenses: Counter[str]

    def without(self, name: dict[str, Any]) -> None:
        """Count a document less."""
        self.sources[name["source"]] -= 1
        self.licenses[license_of(name["meta"])] -= 1

    def json(self) -> dict[str, dict[str, int]]:
        """Return those that are left, as the manifest has them."""
        both = {"sources": self.sources, "licenses": self.licenses}
        return {what: {name: n for name, n in sorted(counts.items()) if n} for what, counts in both.items()}


def counted(reports: Iterable[dict[str, Any]]) -> Counts:
    """Return the counts of shards by their reports, or of manifests."""
    found = Counts(Counter(), Counter())
    for report in reports:
        found.sources.update(report["sources"])
        found.licenses.update(report["licenses"])
    return found


def skips(reports: Iterable[dict[str, Any]], examples: int) -> dict[str, dict[str, Any]]:
    """Return what was left out, by kind of problem: `count`, and the first `examples`."""
    found: dict[str, dict[str, Any]] = {}
    for skip in (s for r in reports for s in r["skipped"]):
        kind = found.setdefault(skip["kind"], {"count": 0, "examples": []})
        kind["count"] += 1
        if len(kind["examples"]) < examples:
            kind["examples"].append({"id": skip["id"], "reason": skip["reason"]})
    return found


def duplicates(digests: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return why each document is dropped, uint8 (n,): 0 it is kept, 1 for its content, 2 for its id.

    `digests` uint8 (n, 16), `keys` uint64 (n, 2). Only those that share a content or an id with another are looked at
    one by one.
    """
    found = np.zeros(len(digests), np.uint8)
    views = [np.ascontiguousarray(a).view("V16").reshape(-1) for a in (digests, keys)]
    shared = np.zeros(len(digests), bool)
    for view in views:
        _, back, counts = np.unique(view, return_inverse=True, return_counts=True)
        shared |= (counts > 1)[back]
    contents: set[bytes] = set()
    names: set[bytes] = set()
    for at in np.flatnonzero(shared).tolist():
        content, name = views[0][at].tobytes(), views[1][at].tobytes()
        if content in contents or name in names:
            found[at] = 1 if content in contents else 2
            continue
        contents.add(content)
        names.add(name)
    return found


def commit(out: Path, manifest: dict[str, Any], arrays: Arrays, build: Build | None = None) -> None:
    """Write an index of the documents that are `kept`, and a manifest with their totals; what it replaces goes."""
    manifest = {"change": 0, "deleted": 0} | manifest
    keys = arrays["keys"][:, 0]
    order = np.argsort(keys, kind="stable")
    index: Arrays = {
        "kept": arrays["kept"].astype(np.int64),
        "lengths": arrays["lengths"].astype(np.int32),
        "has": arrays["has"].astype(np.uint8),
        "keys": np.ascontiguousarray(keys[order]),
        "numbers": order.astype(np.int64),
    }
    data = save(index)
    name = index_name(manifest["change"])
    before = set(manifest.get("files", {}))
    write(out / name, data)
    tokens, image_tokens = (int(arrays[name].sum(dtype=np.int64)) for name in ("lengths", "images"))
    manifest |= {
        "format": FORMAT,
        "kind": KIND,
        "documents": len(keys),
        "tokens": tokens,
        "text_tokens": tokens - image_tokens,
        "image_tokens": image_tokens,
        "files": {name: shards.facts(data)},
    }
    names = files_of(manifest)
    manifest["files"] |= {n: _facts(out / n) for n in names if n != name}
    if build is not None:
        about = checked(signed(manifest), f"store {str(out)!r}")
        try:
            manifest["segments"][-1]["index"] = build(Store(Place(out), manifest, about, check=True))
        except Cm3Error:
            (out / name).unlink()  # no manifest counts on it
            raise
        manifest["files"] |= {n: _facts(out / n) for n in files_of(manifest) if n not in names}
    write(out / NAME, shards.page_bytes(signed(manifest)))
    for old in before - set(manifest["files"]):
        (out / old).unlink(missing_ok=True)  # a reader has read it already, or reads the manifest again


def signed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with its own checksum."""
    return manifest | {"sha256": checksum(manifest)}


def delete(store: Store, numbers: Sequence[int]) -> int:
    """Take documents away from a store that nobody else writes to; returns how many. Their space stays taken."""
    gone = np.unique(np.asarray(numbers, np.int64))
    left = np.ones(len(store), bool)
    left[gone] = False
    counts = counted([store.manifest])
    for number in gone.tolist():
        counts.without(store.name(number))
    page = {**_plain(store.manifest), **counts.json()}
    page |= {"change": store.facts.change + 1, "deleted": store.facts.deleted + len(gone)}
    commit(Path(store.path), page, {name: array[left] for name, array in _arrays(store).items()})
    return len(gone)


def _arrays(store: Store) -> Arrays:
    """Return what an index needs of a store's documents."""
    found = {"kept": store.kept, "lengths": store.lengths, "images": store.image_tokens(), "has": store.has}
    return found | {"keys": store.id_keys()[:, None]}


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _plain(manifest: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({name: value for name, value in manifest.items() if name != "sha256"}))


@dataclass(frozen=True)
class Report:
    """The outcome of the documents of a build or of an `add`."""

    added: int
    skipped: tuple[Unreadable, ...] = ()
    resumed: int = field(default=0, compare=False)
    """How many documents of the source an earlier run, which was killed, had finished."""
    dropped: bool = field(default=False, compare=False)
    """Whether what such a run had made of other documents, or with other settings, was dropped."""


class Draft:
    """A segment of a store that is being made, shard by shard."""

    resumed = 0
    """How many items of the source an earlier run had finished."""
    dropped = False
    """Whether shards of another source, or of other settings, were dropped."""

    def __init__(self, out: Path, first: int, shape: Shape, settings: dict[str, Any]) -> None:
        """Begin one at shard `first`, or go on with one that was killed; one of other `settings` is dropped.

        Raises `DiskError` where nothing can be written, `DataError` where a link stands in the place.
        """
        self.out, self.first, self.shape = out, first, shape
        self.reports: list[dict[str, Any]] = []
        self._keys: set[tuple[int, int]] = set()
        if (out / "shards").is_symlink():
            raise DataError(f"store {str(out)!r}: shards is a link, through which nothing is written; take it away")
        with on_disk(out):
            (out / "shards").mkdir(parents=True, exist_ok=True)
        if page(out / DRAFT) != json.loads(json.dumps(settings)):
            self._drop(first)
            write(out / DRAFT, json.dumps(settings) + "\n")

    @property
    def documents(self) -> int:
        """Count the documents that are kept so far."""
        return sum(r["documents"] for r in self.reports)

    def _drop(self, first: int) -> None:
        """Take away all shards from one on."""
        for path in sorted((self.out / "shards").iterdir()):
            stem, _, end = path.name.lstrip(".").partition(".")
            if stem.isdigit() and int(stem) >= first:
                self.dropped |= end == "json"
                path.unlink()

    def forget(self) -> None:
        """Take away all that was made."""
        self._drop(self.first)
        (self.out / DRAFT).unlink(missing_ok=True)

    def shard(self, number: int) -> tuple[dict[str, Any], Tensors] | None:
        """Return the report and the tensors of a shard that an earlier run finished; None where there is none."""
        report, path = page(self.out / shard_name(number, "json")), self.out / shard_name(number)
        pictures = self.out / shard_name(number, "pictures")
        if (
            not is_report(report)
            or not is_whole(path, report)
            or (self.shape.pictures and not is_whole(pictures, report["pictures"]))
        ):
            return None
        try:
            return report, opened(Place(self.out), number, report, self.shape)
        except DataError:
            return None

    def go_on(self) -> None:
        """Count all shards that an earlier run finished as done, for a source that is known to be the same."""
        while (found := self.shard(self.first + len(self.reports))) is not None:
            self._done(*found)
        self._drop(self.first + len(self.reports))
        self.dropped = False

    def _done(self, report: dict[str, Any], tensors: Tensors) -> None:
        self.reports.append(report)
        self._keys.update(map(tuple, tensors["keys"].tolist()))

    def fill(
        self,
        documents: Source,
        encode: Encode,
        known: Callable[[Record], bool],
        *,
        batch: int,
        progress: Progress | None,
    ) -> None:
        """Encode documents and keep them, those that an earlier run finished left out.

        `known`: whether the store has one already. Raises `DataError` for ids that come twice in one source, and for
        a document without an id or with a gap; `DiskError`.
        """
        total = len(documents) if isinstance(documents, Sized) else 0
        waiting: list[_Row] = []
        pixels = 0
        stream = self._pass_finished(iter(documents))
        done = self.resumed
        for item in stream:
            waiting.append(row := _row(item))
            if not isinstance(row, Unreadable):
                pixels += sum(i.pixels.width * i.pixels.height for i in row[1].images)
            if len(waiting) >= batch or pixels >= PIXELS:
                self._flush(waiting, encode, known)
                done, pixels, waiting = done + len(waiting), 0, []
                if progress:
                    progress(done, total, "embedding")
        if waiting:
            self._flush(waiting, encode, known)
        if progress:
            progress(done + len(waiting), total, "embedding")

    def _pass_finished(self, stream: Iterator[Document | Unreadable]) -> Iterator[Document | Unreadable]:
        """Step over the shards that an earlier run finished of this very source; what is another's is dropped.

        Each document is read again and compared, with its pictures; nothing is encoded.
        """
        while (found := self.shard(self.first + len(self.reports))) is not None:
            report, tensors = found
            some = list(itertools.islice(stream, report["documents"] + len(report["skipped"])))
            rows = [_row(item) for item in some]
            kept = [row for row in rows if not isinstance(row, Unreadable)]
            left = [
                (row.id, at - number)
                for number, (at, row) in enumerate(
                    (at, row) for at, row in enumerate(rows) if isinstance(row, Unreadable)
                )
            ]
            same = left == [(s["id"], s["at"]) for s in report["skipped"]] and len(kept) == report["documents"]
            if not same or not all(_same(record, tensors, at) for at, (record, _) in enumerate(kept)):
                stream = itertools.chain(some, stream)
                break
            self.resumed += len(some)
            self._done(report, tensors)
        self._drop(self.first + len(self.reports))
        return stream

    def _flush(self, waiting: Sequence[_Row], encode: Encode, known: Callable[[Record], bool]) -> None:
        rows = [row for row in waiting if not isinstance(row, Unreadable)]
        self.refuse_twice([record for record, _ in rows], known)
        made = Batch()
        for row in waiting:
            if isinstance(row, Unreadable):
                made.skip(row.id, "unreadable", row.reason)
            else:
                made.records.append(row[0])
        if rows:
            vectors = encode([document for _, document in rows])
            finite = np.isfinite(vectors[0]).all(1) & np.isfinite(vectors[1]).all(1)
            if not finite.all():
                bad = rows[int((~finite).argmax())][0].id
                raise DataError(f"document {bad!r}: the encoder gave a vector that is not finite; check the encoder")
            made.text, made.image = [vectors[0]], [vectors[1]]
        self.append(made)

    def append(self, batch: Batch) -> None:
        """Write a shard; it is on the disk when this returns. Raises `DiskError` where there is no room."""
        number = self.first + len(self.reports)
        self.reports.append(write_shard(self.out, number, batch, self.shape, {}))
        self._keys.update((shards.key(r.id), shards.key(r.source)) for r in batch.records)

    def refuse_twice(self, records: Sequence[Record], known: Callable[[Record], bool] = lambda record: False) -> None:
        """Raise `DataError` naming ids that come twice in one source, here or in the store, where one is `known`."""
        seen, twice = set[tuple[int, int]](), set[str]()
        for record in records:
            name = shards.key(record.id), shards.key(record.source)
            if name in seen or name in self._keys or known(record):
                twice.add(record.id)
            seen.add(name)
        if twice:
            ids = sorted(twice)
            more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
            raise DataError(
                f"ids that come twice: {', '.join(map(repr, ids[:5]))}{more}; an id names one document of its source, "
                "delete or rename one of them"
            )

    @property
    def skipped(self) -> tuple[Unreadable, ...]:
        """Return what is left out so far."""
        return tuple(Unreadable(s["id"], s["reason"]) for r in self.reports for s in r["skipped"])

    def check_kept(self) -> None:
        """Raise `DataError` where no document was kept."""
        if not self.documents:
            skipped = self.skipped
            first = f"; the first, {skipped[0].id!r}: {skipped[0].reason}" if skipped else ""
            told = f"none of {len(skipped)} documents could be read{first}" if first else "the source holds no document"
            raise DataError(f"{told}; give captioned pictures, or text")

    def commit(self, manifest: dict[str, Any], store: Store | None, build: Build | None) -> None:
        """Make it part of the store: a first segment with the fields of `manifest`, or one more of `store`."""
        reports = self.reports
        arrays, entries = columns(self.out, self.first, reports, self.shape)
        arrays["kept"] = np.arange(len(arrays["keys"]), dtype=np.int64)
        if store is None:
            page = manifest | {"duplicates": {"content": 0, "id": 0, "examples": []}, "segments": [], "shards": []}
            page |= {"truncated": 0, "skipped": skips(reports, 10), **counted(reports).json()}
        else:
            page = _plain(store.manifest) | counted([store.manifest, *reports]).json()
            page |= {"change": store.facts.change + 1}
            for kind, found in skips(reports, 10).items():
                old = page["skipped"].setdefault(kind, {"count": 0, "examples": []})
                old["count"] += found["count"]
                old["examples"] = [*old["examples"], *found["examples"]][:10]
            arrays["kept"] += int(store.begins[-1])
            arrays["keys"] = arrays["keys"][:, :1]
            arrays = {name: np.concatenate([array, arrays[name]]) for name, array in _arrays(store).items()}
        page["segments"] += [{"shards": len(reports)}]
        page["shards"] += entries
        commit(self.out, page, arrays, build)
        (self.out / DRAFT).unlink(missing_ok=True)


_Row = tuple[Record, Document] | Unreadable


def _row(item: Document | Unreadable) -> _Row:
    """Return an item of a source as a row. Raises `DataError` for a document that has no id, or a gap."""
    if isinstance(item, Unreadable):
        return Unreadable(as_text(item.id), as_text(item.reason))
    if not item.id:
        raise DataError(f"a document of {item.source or 'no source'!r} has no id; give each document one of its own")
    try:
        return record_of(item)
    except Refused as error:
        if error.kind == "hole":
            raise DataError(f"document {item.id!r}: has a gap; a memory bank holds whole documents") from error
        return Unreadable(as_text(item.id), as_text(str(error)))


def _same(record: Record, tensors: Tensors, row: int) -> bool:
    """Tell whether a document of a shard is this one, with its pictures."""
    names, begins = tensors["names"], tensors.borders("name_starts", "names")
    a, b = tensors.borders("shown_starts", "shown")[row : row + 2].tolist()
    return (
        names[begins[row] : begins[row + 1]].tobytes() == record.json(True)
        and tensors["shown"][a:b].tobytes() == b"".join(p.digest for p in record.pictures)
        and tensors["pixels"][a:b].tobytes() == b"".join(p.pixels for p in record.pictures)
    )


def is_whole(path: Path, known: dict[str, Any] | None) -> bool:
    """Tell whether a file is there, itself and no link, as it was written."""
    if known is None or path.is_symlink() or not path.is_file() or path.stat().st_size != known["bytes"]:
        return False
    return sha256(path) == known["sha256"]
