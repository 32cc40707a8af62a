"""Describing pictures: seconds to the first token and seconds in all, of this checkout and of another in one run.

    python benchmarks/describe.py --json                               # 512 pictures to the first token, 64 described
    python benchmarks/describe.py --before ../old --rounds 3           # the same of the checkout ../old, by turns
    python benchmarks/describe.py --first 128 --pictures 16 --threads 1 --cpu

Pictures are drawn scenes that the model in the package was not trained on, all different, and are made before the clock
runs; so is the model, which has described one picture by then. Both checkouts are asked the same by the same Python,
each in a process of its own that lives through the run, and they take turns, so that whatever disturbs the machine
disturbs both; a figure is the median of its rounds. At temperature 0 they have to write the same texts, or nothing is
reported.

    first token    `generate_many` of the pictures without retrieval, to the end of the engine's first step
    described      `generate_many` of the pictures at temperature 0, to the end

With --cpu the seconds are those of the processor, which other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
SEED = 11


class _First(Exception):
    """The first token is there; the rest is not waited for."""


def serve(threads: int, cpu: bool) -> None:
    """Answer each line of stdin, `{"what": ..., "n": ...}`, with a line of what it took, in the checkout at hand."""
    import numpy as np
    import torch

    import cm3
    from cm3.scenes import draw, random_scene

    torch.set_num_threads(threads)
    clock = time.process_time if cpu else time.perf_counter
    model = cm3.load("scenes")

    def pictures(n: int) -> list[Any]:
        rng = np.random.default_rng(SEED)
        return [draw(random_scene(rng), model.image_size, rng) for _ in range(n)]

    def stop(done: int, total: int) -> None:
        raise _First

    model.generate(pictures(1)[0], temperature=0.0, max_tokens=4, candidates=1)
    print(json.dumps({"at": str(Path(cm3.__file__).parents[1])}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        n, texts = asked["n"], []
        some = pictures(n)
        start = clock()
        if asked["what"] == "first":
            try:
                model.generate_many(some, seeds=list(range(n)), progress=stop)
            except _First:
                pass
        else:
            made = model.generate_many(some, seeds=list(range(n)), temperature=0.0)
            texts = [one.text for one in made]
        print(json.dumps({"seconds": clock() - start, "texts": texts}), flush=True)


class Build:
    """A checkout in a process of its own."""

    def __init__(self, checkout: Path, threads: int, cpu: bool) -> None:
        if not (checkout / "cm3").is_dir():
            raise SystemExit(f"{checkout}: has no cm3; give the root of a checkout")
        env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--serve", "--threads", str(threads), *(["--cpu"] if cpu else [])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=checkout
        )
        at = Path(self._line()["at"])
        if at != checkout:
            raise SystemExit(f"{checkout}: Python imports cm3 from {at}; give the root of a checkout")

    def ask(self, what: str, n: int) -> dict[str, Any]:
        """Seconds, and the texts where all is described."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"what": what, "n": n}) + "\n")
        self.process.stdin.flush()
        return self._line()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of a checkout ended with {self.process.wait()}; see above")
        found: dict[str, Any] = json.loads(line)
        return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every round of both builds, by turns, as the table."""
    builds: dict[str, Build] = {}
    took: dict[tuple[str, str], list[float]] = {}
    try:
        if args.before is not None:
            builds["peer"] = Build(args.before.resolve(), args.threads, args.cpu)
        builds["ours"] = Build(HERE, args.threads, args.cpu)
        for _ in range(args.rounds):
            texts = []
            for name, build in builds.items():
                took.setdefault((name, "first"), []).append(build.ask("first", args.first)["seconds"])
                described = build.ask("described", args.pictures)
                took.setdefault((name, "described"), []).append(described["seconds"])
                texts.append(described["texts"])
            if any(other != texts[0] for other in texts):
                different = sum(a != b for a, b in zip(*texts, strict=True))
                raise SystemExit(f"the two builds describe {different} of {args.pictures} pictures in other words")
    finally:
        for build in builds.values():
            build.close()
    middle = {key: statistics.median(values) for key, values in took.items()}
    rows = [
        row(f"first token of {args.first} pictures", middle["ours", "first"], middle.get(("peer", "first"))),
        row(f"{args.pictures} pictures described", middle["ours", "described"], middle.get(("peer", "described"))),
    ]
    about = {"first": args.first, "pictures": args.pictures, "rounds": args.rounds, "threads": args.threads}
    about |= {"clock": "cpu" if args.cpu else "wall"}
    return {"rows": rows, **about, "all": {"/".join(key): values for key, values in took.items()}}


def row(name: str, ours: float, peer: float | None) -> dict[str, Any]:
    """A line of the table; the ratio is how many times as long the other build takes."""
    ratio = None if peer is None else round(peer / ours, 2)
    return {"name": name, "ours": round(ours, 3), "peer": peer and round(peer, 3), "ratio": ratio, "unit": "s"}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=512, help="pictures to the first token")
    parser.add_argument("--pictures", type=int, default=64, help="pictures to describe")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="root of another checkout, to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="count processor seconds, not the clock's; one thread only")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.cpu and args.threads != 1:
        parser.error("--cpu counts the seconds of all threads together; give --threads 1")
    if min(args.first, args.pictures, args.rounds, args.threads) < 1:
        parser.error("numbers must be at least 1")
    if args.serve:
        serve(args.threads, args.cpu)
        return
    report = measure(args)
    for r in report["rows"]:
        peer = "" if r["peer"] is None else f"{r['peer']:>12} x{r['ratio']}"
        print(f"{r['name']:<34}{r['ours']:>12} {r['unit']}{peer}")
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
