"""Statistics and distance of FID: ours, streamed, against numpy and scipy on everything at once, as pytorch-fid does.

    python benchmarks/evaluate_fid.py                        # 30,000 vectors of 2,048, some two processor minutes
    python benchmarks/evaluate_fid.py --n 2000 --width 256 --json

Time is of the processor, one thread, in one run; memory is the peak of what numpy holds. Both take the same vectors,
float32 in batches of 64, and their results are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy.linalg
import torch

from cm3.score.frechet import Gaussian, Statistics, frechet

BATCH = 64


def batches(n: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Yield vectors of which some directions vary more than others, as those of networks do."""
    rng = np.random.default_rng(seed)
    scale = np.geomspace(1, 0.01, width, dtype=np.float32)
    for at in range(0, n, BATCH):
        yield rng.standard_normal((min(BATCH, n - at), width), dtype=np.float32) * scale + np.float32(seed) / 50


def streamed(n: int, width: int, seed: int) -> tuple[Gaussian, float]:
    """Return the statistics and the seconds that they took."""
    statistics, took = Statistics(width), 0.0
    for rows in batches(n, width, seed):
        began = time.process_time()
        statistics.add(rows)
        took += time.process_time() - began
    began = time.process_time()
    made = statistics.gaussian()
    return made, took + time.process_time() - began


def at_once(n: int, width: int, seed: int) -> tuple[Gaussian, float]:
    """The same as pytorch-fid: all vectors in one array of float64, numpy's mean and covariance."""
    rows, at = np.empty((n, width)), 0
    for some in batches(n, width, seed):
        rows[at : at + len(some)] = some
        at += len(some)
    began = time.process_time()
    made = Gaussian(rows.mean(0), np.cov(rows, rowvar=False), n)
    return made, time.process_time() - began


def by_root(a: Gaussian, b: Gaussian) -> float:
    """The distance as pytorch-fid computes it."""
    root = scipy.linalg.sqrtm(a.sigma @ b.sigma).real
    return float(np.square(a.mu - b.mu).sum() + np.trace(a.sigma) + np.trace(b.sigma) - 2 * np.trace(root))


def peak(made: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and the most megabytes that it held."""
    tracemalloc.start()
    result = made()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, most / 1e6


def timed(made: Callable[[], float]) -> tuple[float, float]:
    """Return what a call returns, and its seconds."""
    began = time.process_time()
    result = made()
    return result, time.process_time() - began


def main() -> int:
    """Print a table; the last line is JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=30_000, help="vectors of a side")
    parser.add_argument("--width", type=int, default=2048, help="dimensions")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    args = parser.parse_args()
    if args.n < 2 or args.width < 1:
        parser.error(f"--n {args.n} --width {args.width}: must be at least 2 vectors of 1 dimension")
    torch.set_num_threads(1)
    (ours, took), held = peak(lambda: streamed(args.n, args.width, 1))
    (theirs, their_time), their_held = peak(lambda: at_once(args.n, args.width, 1))
    apart = float(np.abs(ours.sigma - theirs.sigma).max() / np.abs(theirs.sigma).max())
    other, _ = streamed(args.n, args.width, 2)
    distance, quick = timed(lambda: frechet(ours, other))
    want, slow = timed(lambda: by_root(ours, other))
    of = f"{args.n} vectors of {args.width}"
    rows = [
        {"name": f"statistics of {of}", "ours": took, "peer": their_time, "ratio": their_time / took, "unit": "s"},
        {"name": f"memory for {of}", "ours": held, "peer": their_held, "ratio": their_held / held, "unit": "MB"},
        {"name": f"distance in {args.width}", "ours": quick, "peer": slow, "ratio": slow / quick, "unit": "s"},
    ]
    for row in rows:
        print(f"{row['name']:<40}{row['ours']:>10.3f}{row['peer']:>10.3f} {row['unit']:<4}{row['ratio']:>8.2f}x")
    print(f"covariances differ by {apart:.1e}, distances by {abs(distance / want - 1):.1e}")
    if args.json:
        same = {"covariance": apart, "distance": abs(distance / want - 1)}
        print(json.dumps({"rows": rows, "n": args.n, "width": args.width, "differ": same}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
