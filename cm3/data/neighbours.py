"""Tables of neighbours: the documents of a bank that each document of stores may be given, kept on disk.

    stores, bank -> blocks of documents, searched for here or on Ray, a part file each -> TABLE

Searching while training would cost more than training does; the paper's authors stored neighbours with their data as
well (docs/paper.md 1.5). A table holds up to four neighbours for each document, found by `cm3.retrieval.select`, and
training draws from those. Vectors are those that `cm3 prepare --encoder` kept: nothing is read or embedded again, but,
with an encoder, the words of each document less some (`SelectLaw.dropout`).

Documents are named by their numbers: row n of a table is document n of its stores, one store after the other, and what
stands in it are numbers of the bank. Stores and bank are named by the fingerprint of what they hold, so that no id can
be mistaken for one of another source, and that every document named is there is known before training starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open

from cm3.data.cluster import map_units
from cm3.errors import CheckpointError, ConfigError, DataError, RequestError
from cm3.files import build, locked, on_disk, parse_json, replacing, said, write
from cm3.retrieval.embed import Encoder, load_encoder
from cm3.retrieval.nearest import Progress
from cm3.retrieval.nearest import choose as kind_of_index
from cm3.retrieval.select import MOST, By, Candidate, SelectLaw, choose, drop_words
from cm3.retrieval.store_bank import ROWS, Documents, StoreBank, lay_bank, neighbours_of, unit_vectors
from cm3.store.store import Store
from cm3.weights import settled

FORMAT = "cm3-neighbours-3"
BLOCK = 1024
"""Documents searched for at a time, and most that a kill loses, for each process."""

_WHOLE = 2
"""Bit of `kinds` that says whole; bit 0 says found by image."""
_LAYOUT: dict[str, tuple[str, torch.dtype]] = {
    "rows": ("I64", torch.int64),
    "scores": ("F32", torch.float32),
    "kinds": ("U8", torch.uint8),
}
"""The tensors (n, m) of a table and of its parts, in the order in which they stand in the file."""


@dataclass(frozen=True)
class Named:
    """A store as a table names it."""

    path: str
    fingerprint: str
    documents: int

    @classmethod
    def of(cls, store: Documents) -> Named:
        """Name a store."""
        return cls(str(store.path), store.fingerprint, len(store))


class Neighbours:
    """A table of neighbours, memory-mapped. Make one with `find_neighbours`, read one with `open`."""

    def __init__(self, path: Path, about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Take `tensors` as stored, (n, m): `rows` int64, -1 where there is none, `scores` float32 and `kinds`
        uint8."""
        self.path, self.about = path, about
        self.encoder_name: str = about["encoder"]
        self.stores: list[Named] = [build(Named, one, f"neighbours {str(path)!r}") for one in about["stores"]]
        """The stores whose documents have neighbours here, one after the other."""
        self.bank: Named = build(Named, about["bank"], f"neighbours {str(path)!r}")
        self._rows, self._scores, self._kinds = (tensors[name].numpy() for name in _LAYOUT)

    @classmethod
    def open(cls, path: str | Path) -> Neighbours:
        """Read a table. Raises `CheckpointError` for a file that is missing, damaged, or no table."""
        path = Path(path)
        if not path.exists():
            raise CheckpointError(f"neighbours {str(path)!r}: no such file; make the table first, `cm3 neighbours`")
        about, tensors = _read(path)
        where = f"neighbours {str(path)!r}"
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{where}: is no table of format {FORMAT}; make it again")
        if not (isinstance(about.get("encoder"), str) and isinstance(about.get("stores"), list) and "bank" in about):
            raise CheckpointError(f"{where}: does not say of what it was made; make it again")
        table = cls(path, about, tensors)
        rows = tensors["rows"]
        fit = len(rows) == sum(store.documents for store in table.stores)
        if not fit or (rows.numel() and not -1 <= int(rows.min()) <= int(rows.max()) < table.bank.documents):
            raise CheckpointError(f"{where}: names documents that its stores and bank do not have; make it again")
        return table

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self, store: Documents) -> int | None:
        """Return the row of the first document of a store; None for a store that has no neighbours here."""
        at = 0
        for named in self.stores:
            if named.fingerprint == store.fingerprint:
                return at
            at += named.documents
        return None

    def check_bank(self, store: Documents) -> None:
        """Raise `DataError` unless a store is the bank that the neighbours were found in."""
        if store.fingerprint != self.bank.fingerprint:
            raise DataError(
                f"neighbours {str(self.path)!r}: name documents of the bank {self.bank.path!r}, and {store.path!r} is "
                "another, or was made anew since; give that bank, or make the table again"
            )

    def counts(self) -> list[int]:
        """Return how many documents have 0, 1, 2 ... neighbours."""
        found = (self._rows >= 0).sum(axis=1)
        return np.bincount(found, minlength=self._rows.shape[1] + 1).tolist()

    def ranked(self, row: int) -> list[Candidate[int]]:
        """Return all neighbours of a document, by number of the bank, best first."""
        found = []
        for number, score, kind in zip(self._rows[row], self._scores[row], self._kinds[row], strict=True):
            if number >= 0:
                by: By = "image" if kind & 1 else "text"
                found.append(Candidate(int(number), float(score), by, bool(kind & _WHOLE)))
        return found

    def of(self, row: int, k: int, rng: np.random.Generator | None = None) -> list[int]:
        """Return `k` neighbours of a document, drawn by `rng` in an order by chance, or the best first without it.

        Fewer where there are fewer. Raises `RequestError` for `k` outside 0..3.
        """
        if not 0 <= k <= MOST:
            raise RequestError(f"k={k}: must be 0 to {MOST} documents")
        return [c.id for c in choose(self.ranked(row), k, rng)]


def find_neighbours(
    stores: Sequence[str | Path],
    bank: str | Path,
    out: str | Path,
    *,
    law: SelectLaw | None = None,
    encoder: str | Path | None = None,
    seed: int = 0,
    index: str = "auto",
    block: int = BLOCK,
    cluster: str | None = None,
    workers: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Neighbours:
    """Find the neighbours in the store `bank` of every document of `stores`, and write the table to the file `out`.

    A document gets neither itself nor its own picture under another caption, nor a near copy: see
    `cm3.retrieval.select`. With `encoder`, the stores' own, documents are searched for by their words less
    `law.dropout` of them, drawn from `seed`, which are embedded anew on `device`; without, by the vectors kept.

    Work is done by this process, or by `workers` cores (0: all) of the Ray cluster at `cluster`, `block` documents at a
    time. Parts are kept in `out` + ".parts" until all is done, so a killed run goes on where it was; a table that is
    there already, of the same stores, bank and law, is opened as it is, and another one is replaced in one step.
    `progress(done, documents, label)` is called after each block. Raises `DataError` for stores without vectors, of
    another encoder than the bank, given twice, or without a document, and while another process writes there;
    `ConfigError` for an index that is none.
    """
    out, law = Path(out), law or SelectLaw()
    if out.is_dir():
        raise DataError(f"neighbours {str(out)!r}: is a folder; give a file")
    if block < 1:
        raise ConfigError(f"block={block}: must be at least 1")
    opened, kept = [Store.open(store) for store in stores], Store.open(bank)
    _check_stores(opened, kept)
    if encoder is not None and (name := load_encoder(encoder, device=device).name) != kept.encoder_name:
        raise DataError(
            f"encoder {str(encoder)!r}: is {name!r}, and the bank {kept.path!r} was prepared with "
            f"{kept.encoder_name!r}; give that one, or none"
        )
    kind = kind_of_index(index, len(kept))
    job: dict[str, Any] = {
        "law": dataclasses.asdict(law),
        "block": block,
        "index": kind,
        "encoder": kept.encoder_name,
        "dropped": None if encoder is None else seed,
        "stores": [store.fingerprint for store in opened],
        "bank": kept.fingerprint,
    }
    if out.exists():
        try:
            if (done := Neighbours.open(out)).about.get("job") == job:
                return done
        except CheckpointError:
            pass  # damaged: written anew
    parts = out.with_name(f"{out.name}.parts")
    with locked(out.with_name(f"{out.name}.lock"), f"neighbours {str(out)!r}", DataError), _started(parts, job):
        search = Search(
            tuple(str(store.path) for store in opened), str(kept.path), str(parts.resolve()), law, kind, block,
            None if encoder is None else str(encoder), seed, str(settled(device)), json.dumps(job, sort_keys=True),
        )  # fmt: skip
        lay_bank(kept, parts, kind, progress)
        if not len(StoreBank(kept, parts, kind)):
            shutil.rmtree(parts)
            raise DataError(f"store {kept.path!r}: none of its documents has a vector; prepare it with an encoder")
        units = search.units(opened)
        todo = [n for n in range(len(units)) if not _is_whole(search.part(n), n, search.job)]
        total, left = sum(map(len, opened)), sum(units[n].stop - units[n].start for n in todo)
        if progress is not None:
            progress(total - left, total, "neighbours")
        for number in _done(search, todo, cluster, workers):
            left -= units[number].stop - units[number].start
            if progress is not None:
                progress(total - left, total, "neighbours")
        named = {"stores": [vars(Named.of(store)) for store in opened], "bank": vars(Named.of(kept))}
        about = {"format": FORMAT, "encoder": kept.encoder_name, **named, "job": job}
        _lay(out, about, lambda: (_read(search.part(number))[1] for number in range(len(units))))
        shutil.rmtree(parts)
    return Neighbours.open(out)


def _check_stores(stores: Sequence[Store], bank: Store) -> None:
    """Raise `DataError` for stores that have no neighbours in this bank."""
    if not stores:
        raise DataError("neighbours: no store given; name at least one that `cm3 prepare --encoder` wrote")
    for store in [bank, *stores]:
        if store.encoder_name is None:
            raise DataError(
                f"store {store.path!r}: has no vectors; prepare it with an encoder, `cm3 prepare --encoder ENCODER`"
            )
        if store.encoder_name != bank.encoder_name:
            raise DataError(
                f"store {store.path!r}: was prepared with the encoder {store.encoder_name!r}, the bank {bank.path!r} "
                f"with {bank.encoder_name!r}; prepare both with the same"
            )
        if not len(store):
            raise DataError(f"store {store.path!r}: has no document; leave it out")
    fingerprints = [store.fingerprint for store in stores]
    for number, store in enumerate(stores):
        if store.fingerprint in fingerprints[:number]:
            raise DataError(f"store {store.path!r}: is given twice; give each once")


def _done(search: Search, todo: Sequence[int], cluster: str | None, workers: int) -> Iterator[int]:
    """Do units, and give each."""
    if cluster is not None and todo:
        for number, _ in map_units(cluster, search, todo, workers=workers):
            yield number
    elif todo:
        opened = search.open()
        for number in todo:
            opened.prepare(number)
            yield number


class Unit(NamedTuple):
    """Documents `start` to `stop` of a store, by its place among the stores."""

    store: int
    start: int
    stop: int


@dataclass(frozen=True)
class Search:
    """All that a process needs to search: plain values, that travel to other processes and machines (`cluster.Job`)."""

    stores: tuple[str, ...]
    bank: str
    parts: str
    """Folder of the parts."""
    law: SelectLaw
    index: str
    block: int
    encoder: str | None
    seed: int
    device: str
    job: str
    """Of which job the parts are, as JSON."""

    def open(self) -> Searcher:
        """Open stores, bank and encoder."""
        return Searcher(self)

    def units(self, stores: Sequence[Documents]) -> list[Unit]:
        """Return the blocks of the opened stores; none reaches over two of them."""
        return [
            Unit(number, start, min(start + self.block, len(store)))
            for number, store in enumerate(stores)
            for start in range(0, len(store), self.block)
        ]

    def part(self, number: int) -> Path:
        """Return the file of a unit."""
        return Path(self.parts) / f"{number:09d}.safetensors"


class Searcher:
    """Stores, bank and encoder, opened once by each process."""

    def __init__(self, search: Search) -> None:
        """Raise what opening stores and encoder raises."""
        self.search = search
        self.stores = [Store.open(path) for path in search.stores]
        self.bank = StoreBank(Store.open(search.bank), Path(search.parts), search.index)
        self.units = search.units(self.stores)
        self.encoder: Encoder | None = None
        if search.encoder is not None:
            self.encoder = load_encoder(search.encoder, device=search.device)

    def prepare(self, number: int) -> dict[str, Any]:
        """Find the neighbours of a unit, and write its part."""
        at, start, stop = self.units[number]
        store, law, numbers = self.stores[at], self.search.law, range(start, stop)
        texts = None if self.encoder is None else self._less(at, numbers)
        tensors = _as_tensors(neighbours_of(self.bank, store, numbers, law, texts), law.by_text + law.by_image)
        _lay(self.search.part(number), {"number": number, "job": self.search.job}, lambda: [tensors])
        return {"documents": len(numbers)}

    def _less(self, at: int, numbers: range) -> np.ndarray:
        """Return vectors of what documents of a store say less some words, each drawn by the document's number."""
        assert self.encoder is not None
        store = self.stores[at]
        found = unit_vectors(store, "text", slice(numbers.start, numbers.stop))
        rows = np.flatnonzero(found.any(axis=1))
        texts = []
        for number in (rows + numbers.start).tolist():
            rng = np.random.default_rng([self.search.seed, 0xD0, number])
            words = " ".join(part for part in store.name(number)["parts"] if isinstance(part, str))
            texts.append(drop_words(words, self.search.law.dropout, rng))
        for start in range(0, len(rows), 64):
            found[rows[start : start + 64]] = self.encoder.texts(texts[start : start + 64])
        return found


@contextlib.contextmanager
def _started(parts: Path, job: dict[str, Any]) -> Iterator[None]:
    """Make the folder of parts, or keep the one of a killed run of the same job; another job's is thrown away.

    A job that is refused for its settings (no FAISS, no cluster) before a part is done leaves no folder.
    """
    note, text = parts / "job.json", json.dumps(job, sort_keys=True)
    if parts.is_symlink() or parts.exists() and not parts.is_dir():
        raise DataError(f"neighbours: {str(parts)!r} is no folder of ours; move it away")
    with on_disk(parts):
        if parts.exists() and not (note.is_file() and note.read_bytes() == text.encode()):
            shutil.rmtree(parts)
        if not parts.exists():
            parts.mkdir(parents=True)
            write(note, text)
    try:
        yield
    except ConfigError:
        if not any(parts.glob("[0-9]*.safetensors")):
            shutil.rmtree(parts)
        raise


def _as_tensors(found: list[list[Candidate[int]]], width: int) -> dict[str, torch.Tensor]:
    """Return shortlists as arrays (n, width)."""
    tensors = {name: torch.zeros((len(found), width), dtype=dtype) for name, (_, dtype) in _LAYOUT.items()}
    tensors["rows"].fill_(-1)
    for i, row in enumerate(found):
        for j, c in enumerate(row):
            tensors["rows"][i, j], tensors["scores"][i, j] = c.id, c.score
            tensors["kinds"][i, j] = _WHOLE * c.whole + (c.by == "image")
    return tensors


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what a file says of itself, and its tensors, mapped. Raises `CheckpointError` for one that was altered."""
    where = f"neighbours {str(path)!r}"
    if not path.is_file():
        raise CheckpointError(f"{where}: is no file; make the table again")
    try:
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {}).get("about", "{}"), "about")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors and torch raise their own kinds
        raise CheckpointError(f"{where}: damaged ({said(error)}); make the table again") from error
    if not isinstance(about, dict) or about.get("format", FORMAT) != FORMAT or "sha256" not in about:
        raise CheckpointError(f"{where}: is no table of format {FORMAT}; make it again")
    shape = tensors["rows"].shape if "rows" in tensors else ()
    fit = {name: (t.dtype, t.shape) for name, t in tensors.items()} == {n: (d, shape) for n, (_, d) in _LAYOUT.items()}
    if not fit or len(shape) != 2:
        raise CheckpointError(f"{where}: holds something else than a table; make it again")
    if about["sha256"] != _digest(about, [tensors]):
        raise CheckpointError(f"{where}: was altered (its checksum is another); make the table again")
    return about, tensors


def _is_whole(part: Path, number: int, job: str) -> bool:
    """Tell whether a part is there as it was written, of that job and unit."""
    try:
        about, _ = _read(part)
    except CheckpointError:
        return False
    return (about.get("number"), about.get("job")) == (number, job)


def _lay(path: Path, about: dict[str, Any], pieces: Callable[[], Iterable[dict[str, torch.Tensor]]]) -> None:
    """Write a safetensors file of tensors that come in pieces, whole or not at all, with a checksum.

    `pieces` is called several times, so that no more than one of them is in memory.
    """
    rows, width = 0, 0
    for piece in pieces():
        rows, width = rows + len(piece["rows"]), piece["rows"].shape[1]
    header: dict[str, Any] = {"__metadata__": {"about": json.dumps(about | {"sha256": _digest(about, pieces())})}}
    at = 0
    for name, (spelt, dtype) in _LAYOUT.items():
        stop = at + rows * width * dtype.itemsize
        header[name] = {"dtype": spelt, "shape": [rows, width], "data_offsets": [at, stop]}
        at = stop
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with replacing(path) as part, open(part, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in _LAYOUT:
            for piece in pieces():
                file.write(piece[name].contiguous().numpy().data)


def _digest(about: dict[str, Any], pieces: Iterable[dict[str, torch.Tensor]]) -> str:
    """Return the sha256 of what a file says of itself, and of its tensors row by row, in however many pieces."""
    rest = {name: value for name, value in about.items() if name != "sha256"}
    digests = {name: hashlib.sha256() for name in _LAYOUT}
    for piece in pieces:
        for name, digest in digests.items():
            for start in range(0, len(piece[name]), ROWS):
                digest.update(piece[name][start : start + ROWS].contiguous().numpy().data)
    whole = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for digest in digests.values():
        whole.update(digest.digest())
    return whole.hexdigest()
