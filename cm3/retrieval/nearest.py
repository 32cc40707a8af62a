"""Vectors -> the rows nearest to a query by inner product: exact up to a size, by FAISS's inverted lists above it.

    exact    all rows, torch's matrix product over the memory-mapped vectors; needs no FAISS
    ivf      projection -> inverted lists -> 8-bit codes; the best rows are scored again from the mapped vectors
    pq       the same with product quantisation: half the bytes, two thirds of the speed, for where memory binds

The projection keeps the fewest directions that hold `HOLD` of the vectors' squared length (of the second moment, not
centred: centring would change inner products). The scores that a search returns are true inner products in every kind.
How many lists a query visits is measured when the index is built, on rows of the bank itself (`RECALL`).

An index is built once and never changed: FAISS's HNSW and refined indexes refuse deletion, and a list that was added to
row by row is no longer the one that was measured. Rows that are gone are left out of the search by a bitmap.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from cm3.errors import CheckpointError, ConfigError, DiskError, did_you_mean
from cm3.files import said

Kind = Literal["exact", "ivf", "pq"]
Progress = Callable[[int, int, str], None]
"""Called with (done, total, what); total 0 where it is not known."""

EXACT_ROWS = 100_000
"""Up to so many rows `auto` searches all of them: 205 MB at width 512, some ten milliseconds a query."""
FEWEST = {"exact": 0, "ivf": 1_000, "pq": 10_000}
"""Fewer rows than this do not train an index of the kind; they are searched exactly."""
RECALL = 0.98
"""Share of the two nearest rows that the lists visited must hold, measured on rows of the bank as queries."""
HOLD = 0.95
SAMPLE = 256
POINTS_A_LIST = 64
ROWS_AT_ONCE, QUERIES_AT_ONCE = 65_536, 256


class Index(Protocol):
    """An index finds rows."""

    def search(self, queries: np.ndarray, k: int, gone: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows (q, k), best first; k is at most the number of rows that are not `gone` (rows,)
        bool."""
        ...


def choose(index: str, rows: int) -> Kind:
    """Return the kind of index for so many rows. Raises `ConfigError` for a name that is none."""
    known = ("auto", *get_args(Kind))
    if index not in known:
        raise ConfigError(f"index {index!r}: must be one of {', '.join(known)}.{did_you_mean(index, known)}")
    kind: Kind = {"exact": "exact", "pq": "pq"}.get(index, "ivf")  # type: ignore[assignment]
    return "exact" if rows < FEWEST[kind] or (index == "auto" and rows <= EXACT_ROWS) else kind


class Exact:
    """Every row against every query."""

    def __init__(self, vectors: np.ndarray) -> None:
        """Search `vectors` (n, w), float32 or float16, usually memory-mapped."""
        self.vectors = vectors

    def search(self, queries: np.ndarray, k: int, gone: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            scores[some], rows[some] = self._search(torch.from_numpy(queries[some]), k, gone)
        return scores, rows

    def _search(self, queries: torch.Tensor, k: int, gone: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        best, rows = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
        for start in range(0, len(self.vectors), ROWS_AT_ONCE):
            chunk = torch.from_numpy(self.vectors[start : start + ROWS_AT_ONCE]).float()
            scores = queries @ chunk.T  # (q, rows)
            if gone is not None:
                scores.masked_fill_(torch.from_numpy(gone[start : start + ROWS_AT_ONCE]), -torch.inf)
            top = scores.topk(min(k, len(chunk)))
            best, rows = torch.cat([best, top.values], 1), torch.cat([rows, top.indices + start], 1)
            if best.shape[1] > k:
                best, order = best.topk(k)
                rows = rows.gather(1, order)
        return ranked(best.numpy(), rows.numpy(), k)


class Lists:
    """FAISS's inverted lists, re-ranked from the vectors."""

    def __init__(self, index: Any, vectors: np.ndarray, nprobe: int) -> None:
        """Take `index`: one that `build_lists` made or `open_lists` mapped; `vectors` (n, w): what it was made of."""
        self.index, self.vectors = index, vectors
        self._lists = library().extract_index_ivf(index)
        self._gone: np.ndarray | None = None
        self._params: Any = None
        self.nprobe = nprobe

    @property
    def nprobe(self) -> int:
        """Return how many lists a query visits."""
        return self._lists.nprobe

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        self._lists.nprobe = value
        self._gone = self._params = None

    def search(self, queries: np.ndarray, k: int, gone: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`. Where the lists visited hold too few rows, all rows are searched."""
        ask = candidates(k)
        if 4 * ask >= len(self.vectors):
            return Exact(self.vectors).search(queries, k, gone)
        found = self._candidates(queries, ask, gone)
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        step = max(1, (1 << 22) // (ask * self.vectors.shape[1]))  # vectors of 16 MB at a time stay in the cache
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            near = self.vectors[found[some]].astype(np.float32, copy=False)  # (q, ask, w); -1 gives some vector
            again = np.matmul(near, queries[some, :, None])[..., 0]
            again[found[some] < 0] = -np.inf
            scores[some], rows[some] = ranked(again, found[some], k)
        short = scores[:, -1] == -np.inf
        if short.any():
            scores[short], rows[short] = Exact(self.vectors).search(queries[short], k, gone)
        return scores, rows

    def _candidates(self, queries: np.ndarray, ask: int, gone: np.ndarray | None) -> np.ndarray:
        """Return rows (q, ask) by the codes, -1 where the lists hold no more."""
        if gone is not self._gone:
            faiss = library()
            self._gone, self._params = gone, None
            if gone is not None:
                live = faiss.IDSelectorBitmap(np.packbits(~gone, bitorder="little"))
                lists = faiss.SearchParametersIVF(nprobe=self.nprobe, sel=live)
                self._params = faiss.SearchParametersPreTransform(index_params=lists)
        return self.index.search(queries, ask, params=self._params)[1]


def candidates(k: int) -> int:
    """Return how many rows are scored again for the best `k`."""
    return max(16, 8 * k)


def ranked(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best k of (q, n) candidates, best first; equal scores in the order of their rows."""
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    line = np.arange(len(rows))[:, None]
    return scores[line, order], rows[line, order]


def build_lists(vectors: Any, kind: Kind, path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Build an `ivf` or `pq` index of vectors (n, w) and write it to `path`.

    Returns what a bank's manifest keeps of it: kind, lists, nprobe, dimensions and bytes of a code, recall measured.
    The same vectors give the same index. Raises `ConfigError` where FAISS is not installed, `DiskError`.
    """
    faiss = library()
    rows, width = vectors.shape
    lists = 2 ** max(0, round(np.log2(4 * np.sqrt(rows))))
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(rows)[: POINTS_A_LIST * lists])
    matrix = projection(vectors, chosen[:: max(1, len(chosen) // ROWS_AT_ONCE)])  # (dimensions, w)
    sample = np.concatenate([some @ matrix.T for some in pieces(vectors, chosen)])
    dimensions = len(matrix)
    turn = faiss.LinearTransform(width, dimensions, False)
    faiss.copy_array_to_vector(matrix.ravel(), turn.A)
    turn.is_trained = True
    code = "SQ8" if kind == "ivf" else f"PQ{dimensions // 2 if dimensions % 2 == 0 else dimensions}"
    inner = faiss.index_factory(dimensions, f"IVF{lists},{code}", faiss.METRIC_INNER_PRODUCT)
    trained = [inner.cp]
    if kind == "pq":
        inner.do_polysemous_training = False  # minutes, for a kind of search that is not used here
        inner.pq.cp.niter = 10
        trained.append(inner.pq.cp)
    for clustering in trained:
        # More points cost time and gain little; fewer than FAISS likes would have it write to stderr.
        clustering.max_points_per_centroid, clustering.min_points_per_centroid = POINTS_A_LIST, 1
    if progress:
        progress(0, rows, "training the index")
    inner.train(sample)
    index = faiss.IndexPreTransform(turn, inner)
    for start in range(0, rows, ROWS_AT_ONCE):
        index.add(vectors[start : start + ROWS_AT_ONCE].astype(np.float32, copy=False))
        if progress:
            progress(min(rows, start + ROWS_AT_ONCE), rows, "indexing")
    built = Lists(index, vectors, 1)
    recall = calibrate(built, lists, rng)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise DiskError(f"{str(path)!r}: cannot be written ({said(error)}); make room, or mend the disk") from error
    return {
        "kind": kind,
        "lists": lists,
        "nprobe": built.nprobe,
        "dimensions": dimensions,
        "code_bytes": int(inner.code_size),
        "recall_at_2": recall,
    }


def pieces(vectors: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Return some rows, a few thousand at a time, in float32."""
    return (vectors[rows[i : i + 4096]].astype(np.float32, copy=False) for i in range(0, len(rows), 4096))


def projection(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the directions (d, w) of most squared length of some rows: the fewest of 64, 128 ... that hold `HOLD` of
    it."""
    width = vectors.shape[1]
    moment = np.zeros((width, width))
    for some in pieces(vectors, rows):
        moment += some.T @ some
    values, directions = np.linalg.eigh(moment)
    held = np.cumsum(values[::-1]) / values.sum()
    dimensions = next((d for d in (64, 128, 256, 512) if d < width and held[d - 1] >= HOLD), width)
    return np.ascontiguousarray(directions[:, ::-1][:, :dimensions].T, np.float32)


def calibrate(index: Lists, lists: int, rng: np.random.Generator) -> float:
    """Set the least `nprobe`, by steps of about a third, whose recall@2 reaches `RECALL`; returns that recall.

    Queries are rows of the bank, each without itself. A row that scores as high as the second best counts as found.
    """
    queries = index.vectors[rng.permutation(len(index.vectors))[:SAMPLE]].astype(np.float32)
    least = Exact(index.vectors).search(queries, 3)[0][:, 2:] - 1e-6  # the row itself and the two nearest
    recall = 0.0
    steps = sorted({min(lists, round(2 ** (i / 2))) for i in range(2, 40)})
    for index.nprobe in [s for s in steps if s >= lists // 128]:
        recall = float((index.search(queries, 3)[0] >= least).sum(1).clip(1, 3).mean() - 1) / 2
        if recall >= RECALL:
            break
    return round(recall, 4)


def open_lists(path: Path, vectors: np.ndarray, nprobe: int) -> Lists:
    """Memory-map an index that `build_lists` wrote. Raises `CheckpointError` for a file that is none."""
    faiss = library()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[-1] if str(error) else "it asks for too much memory"
        raise CheckpointError(f"index {str(path)!r}: not readable ({reason}); restore it from a copy") from error
    if not isinstance(index, faiss.IndexPreTransform):
        raise CheckpointError(f"index {str(path)!r}: is a {type(index).__name__}, none of ours; restore it from a copy")
    if (index.ntotal, index.d) != vectors.shape:
        raise CheckpointError(
            f"index {str(path)!r}: is of {index.ntotal} x {index.d} vectors, the bank has "
            f"{vectors.shape[0]} x {vectors.shape[1]}; restore it from a copy"
        )
    return Lists(index, vectors, nprobe)


def library() -> Any:
    """Return FAISS. Raises `ConfigError` where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its SWIG types, under Python 3.12 and later
            import faiss
    except ImportError as error:
        raise ConfigError(
            "a memory bank of this size needs FAISS, which is not installed: pip install faiss-cpu"
        ) from error
    return faiss
