"""Token stores under damage: how many of many trials were told, how many gave exactly the right data, none else.

    python benchmarks/reliability_store.py --json                    # the counts of docs/reliability.md; minutes
    python benchmarks/reliability_store.py --trials 50

    read         one file of a store is damaged (a shard, the index, plan, tokenizer or manifest), then all is read
    far          the same of a store in object storage, of which the documents' own bytes are fetched
    prepare      the same, then the command that made the store is given again
    unfinished   the same of a store that was killed before its end: the command must end in the very bytes, or tell
    neighbours   a table of neighbours is damaged, then read; or a part of one that is half made, then it is made on
    forged       a value of the manifest or of a header is made odd, and all checksums are right, as an attacker would

Damages: bits flipped, cut, extended, emptied, a page zeroed, taken from another store, exchanged with another file of
the same, deleted, moved, replaced by a folder, by a pipe, or by a link: outside, to the same bytes outside, to itself,
to nothing. `told` trials raised one line of `Cm3Error`; of them `elsewhere` named another file than the damaged one.
`right` ones gave what the whole store gives. `wrong` gave something else (of a forged store anything may be what its
maker meant: `right`), `raw` raised another error, `hang` took over a minute, `touched` changed a file outside.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import PIL.Image
import torch

from cm3.data.neighbours import Neighbours, find_neighbours
from cm3.data.prepare import prepare
from cm3.errors import Cm3Error
from cm3.files import checksum
from cm3.model.bundle import find
from cm3.retrieval.nearest import Progress
from cm3.retrieval.select import SelectLaw
from cm3.store.shard import facts
from cm3.store.store import Store
from cm3.tokens.text import TextTokenizer

KINDS = ("read", "far", "prepare", "unfinished", "neighbours", "forged")
SHARE = {"read": 10, "far": 4, "prepare": 2, "unfinished": 4, "neighbours": 3, "forged": 3}
RESULTS = ("told", "elsewhere", "right", "wrong", "raw", "hang", "touched")
GOOD = RESULTS[:3]
PATIENCE = 60.0
"""Seconds after which a trial is a hang."""
DOCUMENTS, UNIT, BLOCK = 18, 3, 5
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 7, 2**31, 2**63, 10**18, 10**299, 0.5, 1e300, "", "x", "../x", [], [0], [1, 2], [[]],
    {}, {"a": 1}, [0, 2**62], "x" * 9999,
)  # fmt: skip


def make(folder: Path, seed: int) -> None:
    """A store with pictures, words and vectors, and what it was made of; `seed` changes every byte of its documents."""
    rng = np.random.default_rng(seed)
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for i in range(DOCUMENTS):
        if i % 3:
            pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).resize((48, 48), PIL.Image.Resampling.NEAREST).save(photos / f"{i:03d}.png")
        (photos / f"{i:03d}.txt").write_text(f"document {i} of {rng.integers(10**9)}")
    remake(folder, folder / "store")


def remake(folder: Path, out: Path) -> None:
    """Give the command that made the store of `folder`."""
    scenes = find("scenes")
    prepare([str(folder / "photos")], out, scenes, unit=UNIT, encoder=scenes / "encoder", license="CC0-1.0")


class Half(Exception):
    """Ends a table that is made when some of its parts are done."""


class Tables:
    """Makes tables of the neighbours that the documents of one store have in another."""

    def __init__(self, queries: Path, bank: Path) -> None:
        self.queries, self.bank = queries / "store", bank / "store"

    def compute(self, path: Path, progress: Progress | None = None) -> Neighbours:
        """Make a table, or go on with it."""
        law = SelectLaw(highest=1.0)
        return find_neighbours([self.queries], self.bank, path, law=law, block=BLOCK, progress=progress)

    def half(self, path: Path) -> None:
        """Leave a table that is not finished."""

        def stop(done: int, of: int, what: str) -> None:
            if what == "neighbours" and done >= 2 * BLOCK:
                raise Half

        with contextlib.suppress(Half):
            self.compute(path, stop)


def ranked(table: Neighbours) -> list[Any]:
    """All that a table gives."""
    return [table.encoder_name, table.stores, table.bank, [table.ranked(row) for row in range(len(table))]]


def everything(store: Store) -> list[Any]:
    """All that a store gives."""
    numbers = range(len(store))
    words = TextTokenizer.load(store.tokenizer_path)
    found: list[Any] = [(t.ids.tolist(), t.cells.tolist()) for t in store.tokens(numbers)]
    about = [store.about(n) for n in numbers]
    found += [tuple(a) for a in about] + [store.number(a.id, a.source) for a in about]
    vectors = [np.asarray(rows).tolist() for of in ("text", "image") if (rows := store.vectors(of)) is not None]
    return [*found, store.lengths.tolist(), *vectors, words.size, store.vocab, store.fingerprint]


def documents(store: Store) -> list[Any]:
    """Tokens and ids of all documents."""
    numbers = range(len(store))
    return [(t.ids.tolist(), store.about(n).id) for n, t in zip(numbers, store.tokens(numbers), strict=True)]


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, with a hash of it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def flipped(rng: random.Random, data: bytes) -> bytes:
    """One to eight bits turned."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def zeroed(rng: random.Random, data: bytes) -> bytes:
    """A page of zeros."""
    start = rng.randrange(len(data))
    length = min(rng.choice((1, 16, 512, 4096)), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def damage(rng: random.Random, path: Path, root: Path, other: Path, outside: Path) -> str:
    """Spoil the file `path` of the folder `root`; `other` is such a folder too. Returns how it was done."""
    data = path.read_bytes()
    name = path.relative_to(root)
    siblings = [p for p in sorted(path.parent.glob(f"*{path.suffix}")) if p != path]
    ways: dict[str, Callable[[], object]] = {
        "flipped": lambda: path.write_bytes(flipped(rng, data)),
        "cut": lambda: path.write_bytes(data[: rng.randrange(len(data))]),
        "extended": lambda: path.write_bytes(data + rng.randbytes(rng.choice((1, 8, 4096)))),
        "emptied": lambda: path.write_bytes(b""),
        "zeroed": lambda: path.write_bytes(zeroed(rng, data)),
        "of another": lambda: path.write_bytes((other / name).read_bytes()),
        "exchanged": lambda: _exchange(path, rng.choice(siblings)) if siblings else path.write_bytes(data[::-1]),
        "deleted": path.unlink,
        "moved": lambda: path.rename(path.with_name(f"{path.name}.old")),
        "a folder": lambda: _replace(path, path.mkdir),
        "a pipe": lambda: _replace(path, lambda: os.mkfifo(path)),
        "a link": lambda: _replace(path, lambda: path.symlink_to(outside / "letter.txt")),
        "a link to the same": lambda: _replace(path, lambda: path.symlink_to(outside / "same"), outside / "same"),
        "a link to itself": lambda: _replace(path, lambda: path.symlink_to(path)),
        "a link to nothing": lambda: _replace(path, lambda: path.symlink_to(outside / "nothing")),
    }
    often = ("flipped", "flipped", "flipped", "cut", "extended", "zeroed", "zeroed", "of another", "exchanged")
    way = rng.choice([*often, *ways])
    ways[way]()
    return way


def _replace(path: Path, make: Callable[[], object], away: Path | None = None) -> None:
    if away is None:
        path.unlink()
    else:
        path.rename(away)
    make()


def _exchange(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of JSON values."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def forge(rng: random.Random, store: Path) -> str:
    """Make a value of a manifest, or of the header of a file, odd, with right checksums. Returns the file's name."""
    page = json.loads((store / "manifest.json").read_text())
    target = rng.choice(["manifest.json", "manifest.json", "index.safetensors", "shards/00001.safetensors"])
    if target == "manifest.json":
        container, key = rng.choice(places(page))
        how = rng.randrange(4)
        if how == 0 and isinstance(container, dict):
            container[rng.choice(["../x", "more", ""])] = container.pop(key)
        else:
            container[key] = rng.choice(ODD)
    else:
        data = (store / target).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        container, key = rng.choice(places(header))
        container[key] = rng.choice([*ODD, "F64", "I8", "U8"])
        raw = json.dumps(header).encode()
        made = (len(raw) if rng.random() < 0.9 else rng.choice((0, 1, 2**31, 2**63))).to_bytes(8, "little") + raw
        (store / target).write_bytes(made + data[8 + length :])
        known = page["shards"][1] if target.startswith("shards") else page["files"][target]
        known.update(facts((store / target).read_bytes()))
    page["sha256"] = checksum(page)
    (store / "manifest.json").write_text(json.dumps(page))
    return target


class Trials:
    """The whole stores and tables of a process, and one trial after the other."""

    def __init__(self, work: Path) -> None:
        self.work, self.one, self.two = work, work / "one", work / "two"
        self.whole = everything(Store.open(self.one / "store"))
        self.bytes = tree(self.one / "store")
        self.tables = Tables(self.one, self.two)
        self.table = ranked(Neighbours.open(self.one / "table"))

    def run(self, kind: str, seed: int) -> tuple[str, str]:
        """What became of a trial (`told`, `right`, ...), and the words of the error or how the file was damaged."""
        rng = random.Random(seed)
        outside = self.work / "outside"
        shutil.rmtree(outside, ignore_errors=True)
        shutil.rmtree(self.work / "trial", ignore_errors=True)
        outside.mkdir()
        (outside / "letter.txt").write_text("dear")
        name, what = "", ""
        try:
            name, what, check = getattr(self, f"_{kind}")(rng, self.work / "trial", outside)
            # What was damaged is settled; from here on the library is on trial.
            before = tree(outside), tree(self.two)
            try:
                result = "right" if check() else "wrong"
            except Cm3Error as error:
                result, what = "told", f"{what} {name}: {error}"
                if "\n" in str(error):
                    result = "raw"
                elif Path(name).name not in str(error):
                    result = "elsewhere"
            except Exception as error:
                result, what = "raw", f"{what} {name}: {type(error).__name__}: {error}"
            if (tree(outside), tree(self.two)) != before:
                result = "touched"
        finally:
            shutil.rmtree(self.work / "trial", ignore_errors=True)
        return result, what or name

    def _spoilt(self, rng: random.Random, trial: Path, outside: Path, *more: str) -> tuple[Path, str, str]:
        store = Path(shutil.copytree(self.one / "store", trial / "store"))
        shards = [f"shards/{i:05d}.safetensors" for i in range(DOCUMENTS // UNIT)]
        name = rng.choice([*shards, *["index.safetensors", "plan.json", "tokenizer.json", *more] * 2])
        return store, name, damage(rng, store / name, store, self.two / "store", outside)

    def _read(self, rng: random.Random, trial: Path, outside: Path) -> tuple[str, str, Callable[[], bool]]:
        store, name, what = self._spoilt(rng, trial, outside, "manifest.json")
        return name, what, lambda: everything(Store.open(store)) == self.whole

    def _far(self, rng: random.Random, trial: Path, outside: Path) -> tuple[str, str, Callable[[], bool]]:
        store, name, what = self._spoilt(rng, trial, outside, "manifest.json")
        memory = fsspec.filesystem("memory")
        if memory.exists("/trial"):
            memory.rm("/trial", recursive=True)
        for path in (p for p in store.rglob("*") if p.is_file()):
            memory.pipe_file(f"/trial/{path.relative_to(store)}", path.read_bytes())
        whole = documents(Store.open(self.one / "store"))
        return name, what, lambda: documents(Store.open("memory://trial")) == whole

    def _prepare(self, rng: random.Random, trial: Path, outside: Path) -> tuple[str, str, Callable[[], bool]]:
        store, name, what = self._spoilt(rng, trial, outside, "manifest.json")

        def check() -> bool:
            remake(self.one, store)
            return everything(Store.open(store)) == self.whole

        return name, what, check

    def _unfinished(self, rng: random.Random, trial: Path, outside: Path) -> tuple[str, str, Callable[[], bool]]:
        reports = [f"shards/{i:05d}.json" for i in range(DOCUMENTS // UNIT)]
        store, name, what = self._spoilt(rng, trial, outside, rng.choice(reports))
        (store / "manifest.json").unlink()

        def check() -> bool:
            remake(self.one, store)
            return {n: h for n, h in tree(store).items() if not n.endswith(".old")} == self.bytes

        return name, what, check

    def _neighbours(self, rng: random.Random, trial: Path, outside: Path) -> tuple[str, str, Callable[[], bool]]:
        trial.mkdir()
        if rng.random() < 0.5:
            shutil.copyfile(self.one / "table", trial / "table")
            # Another whole table is no damage: it is itself.
            what = damage(rng, trial / "table", trial, self.work / "noise", outside)
            return "table", what, lambda: ranked(Neighbours.open(trial / "table")) == self.table
        shutil.copytree(self.one / "half.parts", trial / "half.parts")
        part = rng.choice(sorted((trial / "half.parts").glob("*")))
        what = damage(rng, part, trial, self.two, outside)
        return part.name, what, lambda: ranked(self.tables.compute(trial / "half")) == self.table

    def _forged(self, rng: random.Random, trial: Path, outside: Path) -> tuple[str, str, Callable[[], bool]]:
        store = Path(shutil.copytree(self.one / "store", trial / "store"))
        name = forge(rng, store)

        def check() -> bool:
            opened = Store.open(store)
            opened.info()
            everything(opened)
            opened.verify()
            return True

        return name, "forged", check


def prepared(work: Path) -> None:
    """Make the whole stores and tables, `one` that is damaged and `two` whose parts take the place of its."""
    torch.set_num_threads(1)  # as in `serve`: vectors come out in other bits on another number
    one, two = work / "one", work / "two"
    make(one, 1)
    make(two, 2)
    (work / "noise").mkdir()
    (work / "noise" / "table").write_bytes(random.Random(0).randbytes(5000))
    for queries, bank in ((one, two), (two, one)):
        tables = Tables(queries, bank)
        tables.compute(queries / "table")
        tables.half(queries / "half")


def serve(work: Path, line: Connection) -> None:
    """Run the trials that are asked for, until there is none."""
    torch.set_num_threads(1)
    bench = Trials(work)
    while (asked := line.recv()) is not None:
        line.send(bench.run(*asked))


def trials(work: Path, number: int, seed: int, verbose: bool = False) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts of results by kind, and the words of those that are bad."""
    prepared(work)
    context = multiprocessing.get_context("spawn")
    kinds = [kind for kind in KINDS for _ in range(max(1, round(number * SHARE[kind] / sum(SHARE.values()))))]
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    bad: list[str] = []
    worker = None
    for at, kind in enumerate(kinds):
        if worker is None:
            line, end = context.Pipe()
            worker = context.Process(target=serve, args=(work, end), daemon=True)
            worker.start()
            end.close()
        line.send((kind, seed * 1_000_003 + at))
        try:
            result, what = line.recv() if line.poll(PATIENCE) else ("hang", "")
        except EOFError:
            result, what = "raw", "the process ended"
        if result in ("hang",) or what == "the process ended":
            worker.kill()
            worker.join()
            worker = None
        counts[kind][result] += 1
        if result not in GOOD or verbose and result == "elsewhere":
            bad.append(f"{kind} {at}: {result}: {what}")
    if worker is not None:
        line.send(None)
        worker.join()
    return counts, bad


def main() -> None:
    """Run the trials and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    parser.add_argument("--verbose", action="store_true", help="show the words that name another file, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cm3-reliability-") as work:
        counts, bad = trials(Path(work), args.trials, args.seed, args.verbose)
    print(f"{'':<12}{'trials':>8}" + "".join(f"{name:>11}" for name in RESULTS), file=sys.stderr)
    for kind, found in counts.items():
        print(f"{kind:<12}{sum(found.values()):>8}" + "".join(f"{found[n]:>11}" for n in RESULTS), file=sys.stderr)
    for line in bad:
        print(line, file=sys.stderr)
    if args.json:
        rows = {
            kind: {"trials": sum(found.values()), **{n: found[n] for n in RESULTS}} for kind, found in counts.items()
        }
        print(json.dumps({"seed": args.seed, "kinds": rows}))
    sys.exit(0 if all(result in GOOD for found in counts.values() for result in found) else 1)


if __name__ == "__main__":
    main()
