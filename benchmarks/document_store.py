"""The store's own files against Lance's, by turns in one process: random reads, scans of vectors, size, damage.

    pip install --target /tmp/lance pylance lance-namespace
    python benchmarks/document_store.py --target /tmp/lance --json

Documents of 100 to 1,100 tokens, with vectors of `WIDTH` (ours has room for a picture's beside it); both read the same
batches. Damage is one bit of a file of data, flipped, and then everything read: told in words, right all the same,
or given as if it were right.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cm3.errors import Cm3Error
from cm3.files import write
from cm3.store.manifest import FORMAT, KIND, WORDS
from cm3.store.record import Record
from cm3.store.shard import Batch, Shape, facts, write_shard
from cm3.store.store import Store
from cm3.store.write import finish
from cm3.vocab import Vocab

UNIT, WIDTH, BATCH, ROUNDS, FLIPS = 1000, 512, 32, 300, 60
VOCAB = Vocab()


def drawn(start: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Tokens of the documents of a shard, and their vectors."""
    rng = np.random.default_rng(start)
    tokens = [
        rng.integers(VOCAB.text_start, VOCAB.image_start, n).astype(np.int32) for n in rng.integers(100, 1101, UNIT)
    ]
    return tokens, rng.standard_normal((UNIT, WIDTH)).astype(np.float16)


def make_ours(folder: Path, documents: int) -> None:
    """Write a store as `cm3 prepare` does."""
    shape = Shape(VOCAB.size, WIDTH, words=True, pictures=False)
    write(folder / WORDS, b"{}")
    reports = []
    for number, start in enumerate(range(0, documents, UNIT)):
        tokens, vectors = drawn(start)
        records = [Record(f"{start + i:09d}", "drawn", {}) for i in range(UNIT)]
        batch = Batch(records, tokens, [0] * UNIT, [vectors], [np.zeros_like(vectors)])
        reports.append(write_shard(folder, number, batch, shape, {}))
    plan = {
        "format": FORMAT, "kind": KIND, "unit": None, "sources": [], "vocab": dataclasses.asdict(VOCAB),
        "text_tokenizer": facts(b"{}")["sha256"], "image_tokenizer": {"fingerprint": "x", "size": 256, "fit": "crop"},
        "encoder": "drawn", **shape._asdict(),
    }  # fmt: skip
    del plan["entries"]
    finish(folder, plan, shape, reports, {}, {}, 10)


def make_theirs(folder: Path, documents: int) -> None:
    """Write the same with Lance."""
    import lance
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        for start in range(0, documents, UNIT):
            tokens, vectors = drawn(start)
            flat = pa.array(np.concatenate(tokens).astype(np.uint16))
            borders = pa.array(np.cumsum([0, *map(len, tokens)]).astype(np.int32))
            columns = {
                "id": pa.array([f"{start + i:09d}" for i in range(UNIT)]),
                "ids": pa.ListArray.from_arrays(borders, flat),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH),
            }
            yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    schema = next(batches()).schema
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), folder)


def tokens_of(dataset: Any, rows: np.ndarray) -> list[np.ndarray]:
    """Read tokens with Lance."""
    column = dataset.take(rows.tolist(), columns=["ids"]).column("ids").combine_chunks()
    borders, flat = column.offsets.to_numpy(), column.values.to_numpy().astype(np.int32)
    return [flat[a:b] for a, b in zip(borders[:-1], borders[1:], strict=True)]


def by_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each way, the median; and the median of the ratios of the pairs."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(1e3 * (time.perf_counter() - began))
    ours, theirs = times.values()
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    return {name: round(statistics.median(some), 3) for name, some in times.items()} | {"ratio": round(ratio, 2)}


def flipped(path: Path, read: Callable[[], object]) -> dict[str, int]:
    """What becomes of reading, one bit of a file being another."""
    rng, data, good = np.random.default_rng(0), path.read_bytes(), read()
    counts: Counter[str] = Counter()
    assert read() == good
    for _ in range(FLIPS):
        spoilt = bytearray(data)
        spoilt[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        try:
            counts["right" if read() == good else "given as if right"] += 1
        except (Cm3Error, Exception):
            counts["told"] += 1
    path.write_bytes(data)
    return dict(counts)


def measure(root: Path, documents: int) -> dict[str, Any]:
    """All of it."""
    import lance

    made: dict[str, Any] = {"documents": documents, "lance": lance.__version__}
    ours, theirs = root / "ours", root / "lance"
    for name, make, folder in (("ours", make_ours, ours), ("lance", make_theirs, theirs)):
        began = time.perf_counter()
        make(folder, documents)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        made[f"write {name}"] = {"s": round(time.perf_counter() - began, 1), "MB": round(size / 1e6)}
    made["open, ms"] = by_turns({"ours": lambda: Store.open(ours), "lance": lambda: lance.dataset(theirs)}, 5)
    store, dataset, rng = Store.open(ours), lance.dataset(theirs), np.random.default_rng(1)
    store.tokens(range(0, documents, UNIT))  # each shard is compared with its checksum once
    rows = np.zeros(BATCH, np.int64)

    def draw() -> list[np.ndarray]:
        rows[:] = rng.integers(0, documents, BATCH)
        return [t.ids for t in store.tokens(rows)]

    assert all(map(np.array_equal, draw(), tokens_of(dataset, rows)))
    made["batch of 32, ms"] = by_turns({"ours": draw, "lance": lambda: tokens_of(dataset, rows)}, ROUNDS)
    vectors = store.vectors("text")
    assert vectors is not None

    def scan() -> float:
        return max(float(vectors[at : at + 8192].max()) for at in range(0, documents, 8192))

    def their_scan() -> float:
        some = dataset.to_batches(columns=["vector"], batch_size=8192)
        return max(float(b.column("vector").values.to_numpy(zero_copy_only=False).max()) for b in some)

    assert scan() == their_scan()
    made["scan of vectors, ms"] = by_turns({"ours": scan, "lance": their_scan}, 5)
    some = rng.integers(0, documents, 256)
    made["256 vectors, ms"] = by_turns(
        {"ours": lambda: vectors[some], "lance": lambda: dataset.take(some.tolist(), columns=["vector"])}, 20
    )
    make_ours(root / "few", UNIT)
    make_theirs(root / "few.lance", UNIT)

    def everything() -> list[Any]:
        found = Store.open(root / "few")
        return [[t.ids.tolist() for t in found.tokens(range(UNIT))], np.asarray(found.vectors("text")).tobytes()]

    made["one bit flipped, ours"] = flipped(root / "few/shards/00000.safetensors", everything)
    (data,) = (root / "few.lance/data").iterdir()
    made["one bit flipped, lance"] = flipped(data, lambda: lance.dataset(root / "few.lance").to_table())
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="", help="folder where pylance lies, if not installed")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args()
    sys.path += [args.target] if args.target else []
    with tempfile.TemporaryDirectory(prefix="cm3-store-") as root:
        made = measure(Path(root), args.documents)
    print(json.dumps(made) if args.json else "\n".join(f"{name:<24}{value}" for name, value in made.items()))


if __name__ == "__main__":
    main()
