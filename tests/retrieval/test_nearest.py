"""Finding rows: exact search equals the matrix product, inverted lists come near it, and what is gone stays gone."""

from __future__ import annotations

import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from hashing import unit

from cm3.document import Document
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.retrieval import nearest as module
from cm3.retrieval.memory import Memory
from cm3.retrieval.nearest import EXACT_ROWS, Exact, Lists, build_lists, choose, open_lists, projection, ranked


def clustered(rows: int, seed: int, width: int = 96) -> np.ndarray:
    """Unit vectors about 40 centres, most of them in 24 dimensions."""
    world, rng = np.random.default_rng(0), np.random.default_rng(seed)
    basis = np.linalg.qr(world.standard_normal((width, 24)))[0].T
    centres = world.standard_normal((40, 24))
    inner = centres[rng.integers(0, 40, rows)] + 0.5 * rng.standard_normal((rows, 24))
    return unit(inner @ basis + 0.02 * rng.standard_normal((rows, width)))


VECTORS, QUERIES = clustered(3000, 1), clustered(50, 2)


def nearest(queries: np.ndarray, k: int, gone: np.ndarray | None = None) -> np.ndarray:
    """Rows by the plain matrix product."""
    products = queries @ VECTORS.T
    if gone is not None:
        products[:, gone] = -np.inf
    return np.argsort(-products, 1, kind="stable")[:, :k]


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Lists:
    path = tmp_path_factory.mktemp("index") / "index.faiss"
    page = build_lists(VECTORS, "ivf", path)
    assert page["kind"] == "ivf" and page["lists"] == 256 and page["code_bytes"] == page["dimensions"] == 64
    assert page["recall_at_2"] >= module.RECALL
    return open_lists(path, VECTORS, page["nprobe"])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_exact_search_is_the_matrix_product(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    whole = Exact(VECTORS.astype(dtype)).search(QUERIES, 7)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 700)
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 13)
    scores, rows = Exact(VECTORS.astype(dtype)).search(QUERIES, 7)
    assert recall(rows, nearest(QUERIES, 7)) > (0.999 if dtype == "float32" else 0.95)
    assert np.array_equal(rows, whole[1]) and np.allclose(scores, whole[0], atol=1e-6)
    assert np.allclose(scores, np.take_along_axis(QUERIES @ VECTORS.T, rows, 1), atol=1e-3)
    assert scores.dtype == np.float32 and (np.diff(scores, axis=1) <= 0).all()


def test_what_is_gone_is_not_found(lists: Lists) -> None:
    gone = np.zeros(len(VECTORS), bool)
    gone[nearest(QUERIES, 3).ravel()] = True
    for index in (Exact(VECTORS), lists):
        scores, rows = index.search(QUERIES, 5, gone)
        assert not gone[rows].any() and np.isfinite(scores).all()
        assert recall(rows, nearest(QUERIES, 5, gone)) > 0.95


def test_lists_come_near_and_tell_true_scores(lists: Lists) -> None:
    scores, rows = lists.search(QUERIES, 2)
    assert recall(rows, nearest(QUERIES, 2)) >= 0.95
    assert np.allclose(scores, np.take_along_axis(QUERIES @ VECTORS.T, rows, 1), atol=2e-3)
    again = np.concatenate([lists.search(q[None], 2)[1] for q in QUERIES])
    assert np.array_equal(rows, again), "in a batch as alone"


def test_lists_that_hold_too_little_are_not_the_end(lists: Lists) -> None:
    few = Lists(faiss.clone_index(lists.index), VECTORS, 1)  # the other tests search in more lists than one
    gone = np.ones(len(VECTORS), bool)
    gone[:40] = False
    scores, rows = few.search(QUERIES, 5, gone)
    assert np.isfinite(scores).all() and np.array_equal(rows, nearest(QUERIES, 5, gone))
    scores, rows = few.search(QUERIES, 900)
    assert rows.shape == (50, 900) and recall(rows, nearest(QUERIES, 900)) > 0.999


def test_the_same_vectors_give_the_same_index(tmp_path: Path) -> None:
    told: list[str] = []
    pages = [build_lists(VECTORS, "ivf", tmp_path / name, lambda done, total, what: told.append(what)) for name in "ab"]
    assert pages[0] == pages[1] and (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert told[:2] == ["training the index", "indexing"]


def test_product_quantisation_takes_half_the_bytes(tmp_path: Path, lists: Lists) -> None:
    vectors, queries = clustered(10_000, 3)[:, :8], clustered(50, 4)[:, :8]
    page = build_lists(vectors, "pq", tmp_path / "index.faiss")
    assert page["kind"] == "pq" and 2 * page["code_bytes"] == page["dimensions"]
    found = open_lists(tmp_path / "index.faiss", vectors, page["nprobe"]).search(queries, 2)[1]
    assert recall(found, Exact(vectors).search(queries, 2)[1]) > 0.8


def test_the_projection_keeps_what_is_long() -> None:
    kept = projection(VECTORS, np.arange(0, 3000, 2))
    assert kept.shape == (64, 96) and np.allclose(kept @ kept.T, np.eye(64), atol=1e-5)
    assert np.allclose((VECTORS @ kept.T) @ (QUERIES @ kept.T).T, VECTORS @ QUERIES.T, atol=0.02)
    noise = unit(np.random.default_rng(0).standard_normal((3000, 96)))
    assert projection(noise, np.arange(3000)).shape == (96, 96), "where all directions are alike none is left out"


def test_equal_scores_come_in_the_order_of_their_rows() -> None:
    scores = np.array([[1.0, 3.0, 1.0, 3.0]], np.float32)
    assert ranked(scores, np.array([[9, 8, 2, 4]]), 3)[1].tolist() == [[4, 8, 2]]


@pytest.mark.parametrize(
    ("index", "rows", "kind"),
    [
        ("auto", EXACT_ROWS, "exact"),
        ("auto", EXACT_ROWS + 1, "ivf"),
        ("exact", 10**9, "exact"),
        ("ivf", 999, "exact"),
        ("ivf", 1000, "ivf"),
        ("pq", 9999, "exact"),
        ("pq", 10_000, "pq"),
    ],
)
def test_the_kind_by_size(index: str, rows: int, kind: str) -> None:
    assert choose(index, rows) == kind


def test_a_name_that_is_none() -> None:
    with pytest.raises(ConfigError, match="index 'ivff': must be one of auto, exact, ivf, pq. Did you mean 'ivf'"):
        choose("ivff", 0)


def test_without_faiss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"needs FAISS, which is not installed: pip install faiss-cpu"):
        build_lists(VECTORS, "ivf", tmp_path / "index.faiss")
    assert Exact(VECTORS).search(QUERIES, 1)[1].tolist() == nearest(QUERIES, 1).tolist()


def test_a_file_that_is_no_index(lists: Lists, tmp_path: Path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"nothing" * 10)
    with pytest.raises(CheckpointError, match="index '.*index.faiss': not readable .*; restore it"):
        open_lists(tmp_path / "index.faiss", VECTORS, 4)
    build_lists(VECTORS[:1500], "ivf", tmp_path / "index.faiss")
    with pytest.raises(CheckpointError, match="is of 1500 x 96 vectors, the bank has 3000 x 96; restore it"):
        open_lists(tmp_path / "index.faiss", VECTORS, 4)


class Given:
    """An encoder whose text "17" is vector 17."""

    name, width = "given:1", VECTORS.shape[1]

    def texts(self, texts: list[str]) -> np.ndarray:
        return VECTORS[[int(text) for text in texts]]

    def images(self, images: list[object]) -> np.ndarray:
        raise AssertionError("no pictures here")


def numbered(start: int, stop: int) -> list[Document]:
    return [Document.of(str(i), id=str(i)) for i in range(start, stop)]


def test_a_bank_with_lists(tmp_path: Path) -> None:
    bank = Memory.build(tmp_path / "bank", numbered(0, 1500), Given(), index="ivf", batch=500)
    bank.add(numbered(1500, 1700), Given())
    bank.add(numbered(1700, 3000), Given(), batch=1000)
    assert [s.index.kind for s in bank.store.facts.segments] == ["ivf", "exact", "ivf"]
    first = nearest(QUERIES, 1)[:, 0]
    bank.delete([str(i) for i in sorted(set(first.tolist()))])
    gone = np.isin(np.arange(3000), first)
    for memory in (bank, Memory.open(bank.folder)):
        ids, scores = memory.search(QUERIES, 4)
        rows = np.array([[int(i) for i in some] for some in ids])
        assert not gone[rows].any() and recall(rows, nearest(QUERIES, 4, gone)) > 0.95
        assert np.allclose(scores, np.take_along_axis(QUERIES @ VECTORS.T, rows, 1), atol=2e-3)
    merged = Memory.merge([bank.folder], tmp_path / "merged")
    assert [s.index.kind for s in merged.store.facts.segments] == ["ivf"] and len(merged) == 3000 - gone.sum()
    rows = np.array([[int(i) for i in some] for some in merged.search(QUERIES, 4)[0]])
    assert recall(rows, nearest(QUERIES, 4, gone)) > 0.95
    path = bank.folder / "lists-0000.faiss"
    data = path.read_bytes()
    for spoilt in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(spoilt)
        with pytest.raises(DataError, match="lists-0000.faiss was altered"):
            Memory.open(bank.folder).search(QUERIES, 4)
