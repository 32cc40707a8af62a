"""The memory bank against FAISS: queries a second, recall, opening, memory and bytes, measured in one run.

    python benchmarks/retrieval.py --json            # one million vectors; 7 GB of disk, 7 GB of memory
    python benchmarks/retrieval.py --n 100000 --index ivf --threads 1 --cpu

With --cpu rates are by processor seconds, which other work on the machine disturbs little; for one thread only.

Data are drawn, as no million captioned pictures come with this repository: unit vectors of width 512 in 20,000 clusters
(at most one for 50 vectors) whose sizes follow Zipf's law, spread over 48 dimensions with noise in all 512, and queries
drawn in the same way. Real vectors give other recalls; a bank measures its own when it is built (`cm3 index info`).

    peer of a search     faiss.IndexFlatIP, exact, over the same vectors
    peer of our layer    FAISS alone on the bank's own index file: the same lists, re-ranked by faiss.IndexRefine
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, CLUSTERS, SPREAD, INNER, NOISE = 512, 20_000, 48, 0.6, 0.05
QUERIES, ONE_BY_ONE, ROUNDS = 1000, 50, 3
CLOCK = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter


def draw(n: int, clusters: int, seed: int) -> np.ndarray:
    """Unit vectors (n, WIDTH) float32 as the module says."""
    world = np.random.default_rng(0)
    basis = np.linalg.qr(world.standard_normal((WIDTH, SPREAD)))[0].T.astype(np.float32)
    centres = world.standard_normal((clusters, SPREAD)).astype(np.float32)
    share = 1 / np.arange(1, clusters + 1)
    rng = np.random.default_rng(seed)
    which = rng.choice(clusters, n, p=share / share.sum())
    inner = centres[which] + np.float32(INNER) * rng.standard_normal((n, SPREAD), np.float32)
    rows = inner @ basis + np.float32(NOISE) * rng.standard_normal((n, WIDTH), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Drawn:
    """An encoder whose text "17" is vector 17 of the file, and the documents "0", "1", ... themselves."""

    name, width = "drawn:1", WIDTH

    def __init__(self, path: Path) -> None:
        self.rows = np.memmap(path, np.float32, "r").reshape(-1, WIDTH)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array(self.rows[[int(text) for text in texts]])

    def images(self, images: Sequence[Any]) -> np.ndarray:
        raise NotImplementedError("there are no pictures in this benchmark")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        from cm3.document import Document

        return (Document.of(str(i), id=str(i), source="drawn") for i in range(len(self)))


def stage_draw(work: Path, n: int, index: str) -> dict[str, Any]:
    """Write the vectors and the queries."""
    clusters = max(1, min(CLUSTERS, n // 50))
    with (work / "vectors").open("wb") as file:
        for start in range(0, n, 50_000):
            file.write(draw(min(50_000, n - start), clusters, 1 + start).tobytes())
    np.save(work / "queries.npy", draw(QUERIES, clusters, 2**32))
    return {}


def stage_build(work: Path, n: int, index: str) -> dict[str, Any]:
    """Build the bank. Nothing is encoded, so the time is that of storing and indexing."""
    from cm3.retrieval.memory import Memory

    drawn = Drawn(work / "vectors")
    stamps: dict[str, float] = {}
    wall, busy = time.perf_counter(), time.process_time()

    def progress(done: int, total: int, what: str) -> None:
        stamps.setdefault(what, time.process_time() - busy)

    bank = Memory.build(work / "bank", drawn, drawn, index=index, batch=10_000, progress=progress)
    seconds = {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - busy, 1)}
    if "training the index" in stamps:
        seconds["cpu_s_storing"] = round(stamps["training the index"], 1)
        seconds["cpu_s_training"] = round(stamps["indexing"] - stamps["training the index"], 1)
    info = bank.info()
    return {**seconds, "index": info["segments"][0], "bytes": info["bytes"], "bytes_a_vector": info["bytes_a_vector"]}


def stage_serve(work: Path, n: int, index: str) -> dict[str, Any]:
    """Open the bank by memory map and search it, in a process of its own."""
    import faiss  # noqa: F401, its own memory is not the bank's

    from cm3.retrieval.memory import Memory

    queries = np.load(work / "queries.npy")
    before, own = peak_mb(), peak_mb("RssAnon")
    bank = Memory.open(work / "bank")
    bank.search(queries, 2)
    return {"before_mb": before, "own_mb": peak_mb("RssAnon") - own}


def stage_serve_exact(work: Path, n: int, index: str) -> dict[str, Any]:
    """The same of FAISS's exact index, read from its file."""
    import faiss

    queries = np.load(work / "queries.npy")
    before, own = peak_mb(), peak_mb("RssAnon")
    flat = faiss.read_index(str(work / "flat.faiss"))
    flat.search(queries[:64], 2)
    return {"before_mb": before, "own_mb": peak_mb("RssAnon") - own}


def stage_search(work: Path, n: int, index: str) -> dict[str, Any]:
    """Queries a second, recall and opening, ours and the peers' by turns."""
    import faiss

    from cm3.retrieval.memory import Memory
    from cm3.retrieval.nearest import candidates

    queries = np.load(work / "queries.npy")
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(np.array(Drawn(work / "vectors").rows))
    faiss.write_index(flat, str(work / "flat.faiss"))
    bank, opening = opened(lambda: Memory.open(work / "bank"))
    path = work / "bank" / "lists-0000.faiss"
    ways: dict[str, Callable[[np.ndarray], Any]] = {
        "ours": lambda q: bank.search(q, 2),
        "exact": lambda q: flat.search(q, 2),
    }
    result: dict[str, Any] = {"open_s": opening}
    if path.exists():
        built = bank.store.facts.segments[0].index
        alone, result["open_alone_s"] = opened(lambda: faiss.read_index(str(path)))
        mapped = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        for lists in (alone, mapped):
            faiss.extract_index_ivf(lists).nprobe = built.nprobe
        refined = faiss.IndexRefine(mapped, flat)
        refined.k_factor = candidates(2) / 2
        ways["refined"] = lambda q: refined.search(q, 2)
        ways["codes"] = lambda q: mapped.search(q, candidates(2))
    for name, search in ways.items():
        search(queries[:64])
        result[f"{name}_batch"] = result[f"{name}_one"] = 0.0
    for _ in range(ROUNDS):
        for name, search in ways.items():
            some = queries if name != "exact" else queries[:256]
            start = CLOCK()
            search(some)
            result[f"{name}_batch"] = max(result[f"{name}_batch"], len(some) / (CLOCK() - start))
            start = CLOCK()
            for query in queries[:ONE_BY_ONE]:
                search(query[None])
            result[f"{name}_one"] = max(result[f"{name}_one"], ONE_BY_ONE / (CLOCK() - start))
    truth = flat.search(queries, 2)[1]
    found = np.array([[int(i) for i in ids] for ids in bank.search(queries, 2)[0]])
    result["recall"] = float(np.mean([len(set(a) & set(b)) / 2 for a, b in zip(found, truth, strict=True)]))
    return result


def opened(open_it: Callable[[], Any]) -> tuple[Any, float]:
    """What is opened, and the seconds of the quickest of three."""
    best = float("inf")
    for _ in range(3):
        start = CLOCK()
        made = open_it()
        best = min(best, CLOCK() - start)
    return made, best


def peak_mb(what: str = "VmHWM") -> float:
    """The most memory that this process has held, in MB; `RssAnon`: what it holds now, mapped files left out."""
    try:  # of this program alone; what getrusage gives is inherited from the parent
        status = Path("/proc/self/status").read_text()
        return int(status.split(f"{what}:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(n: int, index: str, threads: int, work: Path, clock: str = "wall") -> dict[str, Any]:
    """Every stage in a process of its own, then the table."""
    done = {}
    for name in ("draw", "build", "search", "serve", "serve_exact"):
        sys.stderr.write(f"{name} ...\n")
        command = [sys.executable, __file__, "--stage", name, "--n", str(n), "--index", index, "--work", str(work)]
        env = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "BENCH_CLOCK": clock,
        }
        ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        done[name] = json.loads(ran.stdout.splitlines()[-1])
    search, build = done["search"], done["build"]
    exact = 4 * WIDTH
    rows = [
        row(f"search, batch of {QUERIES}", search["ours_batch"], search["exact_batch"], "queries/s"),
        row("search, one query", search["ours_one"], search["exact_one"], "queries/s"),
        row("recall@2 against exact", search["recall"], 1.0, "share"),
    ]
    if "refined_batch" in search:
        for of in ("batch", "one"):
            rows.append(row(f"our layer over FAISS, {of}", search[f"ours_{of}"], search[f"refined_{of}"], "queries/s"))
        rows.append(row("over FAISS without re-ranking", search["ours_batch"], search["codes_batch"], "queries/s"))
        rows.append(row("opening, to FAISS without map", search["open_s"], search["open_alone_s"], "s", less=True))
    both = [done["serve"], done["serve_exact"]]
    rows.append(row("memory to open and search", *(d["peak_mb"] - d["before_mb"] for d in both), "MB", less=True))
    rows.append(row("of it, not a mapped file", *(d["own_mb"] for d in both), "MB", less=True))
    rows.append(row("bytes a vector in the index", build["bytes"]["index"] / n or exact, exact, "bytes", less=True))
    rows.append(row("bytes a vector on disk", build["bytes_a_vector"], exact, "bytes", less=True))
    about = {
        "n": n,
        "width": WIDTH,
        "threads": threads,
        "clock": clock,
        "open_s": round(search["open_s"], 4),
        "build": build,
    }
    return {"rows": rows, **about, "data": f"drawn, {max(1, min(CLUSTERS, n // 50))} clusters"}


def row(name: str, ours: float, peer: float, unit: str, *, less: bool = False) -> dict[str, Any]:
    """A line of the table; `less` where the smaller is the better."""
    ratio = peer / max(ours, 1e-9) if less else ours / max(peer, 1e-9)
    return {"name": name, "ours": round(ours, 4), "peer": round(peer, 4), "ratio": round(ratio, 3), "unit": unit}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="number of vectors")
    parser.add_argument("--index", default="auto", choices=["auto", "exact", "ivf", "pq"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="count processor seconds, not the clock's; one thread only")
    parser.add_argument("--work", type=Path, help="folder to work in, kept; without it, a temporary one")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.cpu and args.threads != 1:
        parser.error("--cpu counts the seconds of all threads together; give --threads 1")
    if args.stage:
        made = globals()[f"stage_{args.stage}"](args.work, args.n, args.index)
        print(json.dumps({**made, "peak_mb": round(peak_mb(), 1)}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        if args.work:
            args.work.mkdir(parents=True, exist_ok=True)
        report = measure(args.n, args.index, args.threads, args.work or Path(scratch), "cpu" if args.cpu else "wall")
    for r in report["rows"]:
        print(f"{r['name']:<34}{r['ours']:>12} {r['peer']:>12} {r['unit']:<10} x{r['ratio']}")
    build = report["build"]
    print(
        f"opening {report['open_s']} s; building {build['wall_s']} s, at most {build['peak_mb']} MB; {build['index']}"
    )
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
