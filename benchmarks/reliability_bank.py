"""Memory banks under damage, kills, full disks and strangers' manifests: what is told, what is right, and what is not.

    python benchmarks/reliability_bank.py --json       # 1,000 damaged banks, 100 kills, 100 full disks; some minutes
    python benchmarks/reliability_bank.py --damaged 50 --kills 8 --full 8

Each damaged bank is a copy of a good one with one thing changed: bits flipped, a file cut, filled up, zeroed or
missing, files or folders exchanged with another bank's, links in the place of files, a manifest altered (its own
checksum made right, as a stranger would), or the documents altered and every checksum of the manifest made right. A
process of its own opens it, asks everything, then adds, deletes and merges. It counts as

    told      a Cm3Error of one line
    right     every answer is the good bank's: ids, scores, documents, pictures, vectors
    wrong     another answer, and no word
    raw       an exception of another kind, or the process ended
    hung      no end within a minute
    touched   something outside the bank's folder was opened, changed or made

A kill (SIGKILL) comes at a time by chance in a build, an add, a delete or a merge; a full disk is a limit on the size
of files. After each the bank must be whole, as before or as after, and giving the command again must end as without
the kill, with nothing left beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import PIL.Image
import torch
from safetensors.numpy import load_file, save

from cm3.document import Document, Unreadable
from cm3.errors import Cm3Error, DiskError
from cm3.files import checksum
from cm3.retrieval.memory import Memory
from cm3.store.manifest import NAME
from cm3.store.shard import facts

WIDTH, SECONDS = 16, 60
FORK = multiprocessing.get_context("fork")
OUTCOMES = ("told", "right", "wrong", "raw", "hung", "touched")
PATHS = {"open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod",
         "os.listdir", "os.scandir", "shutil.rmtree"}  # fmt: skip
"""What Python tells of before it does it (`sys.addaudithook`), with the path first."""


class Hashed:
    """An encoder without weights: unit vectors by the hash of each word and of a picture's mean colour."""

    name, width = "hashed:1", WIDTH

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._unit([sum(self._word(w) for w in text.split()) for text in texts])

    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        return self._unit([self._word(str(np.asarray(i.convert("RGB")).mean((0, 1)).round())) for i in images])

    def _word(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(WIDTH)

    def _unit(self, rows: Any) -> np.ndarray:
        rows = np.asarray(rows, np.float64)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def captioned(start: int, number: int) -> list[Document | Unreadable]:
    """Documents with pictures, a few of words alone, and one that could not be read."""
    made: list[Document | Unreadable] = [Unreadable(f"cut {start}", "cut short")]
    for i in range(start, start + number):
        noise = np.random.default_rng(i).integers(0, 256, (12, 12, 3), np.uint8)
        parts: list[Any] = [f"word{i} and word{i % 7}", *([PIL.Image.fromarray(noise)] if i % 5 else [])]
        made.append(Document.of(*parts, id=f"d{i}", source="drawn", license="CC0-1.0", number=i))
    return made


def good_banks(root: Path) -> list[Path]:
    """Three banks: two segments and deleted rows; one segment; inverted lists."""
    one = Memory.build(root / "one", captioned(0, 40), Hashed())
    one.add(captioned(100, 25), Hashed())
    one.delete(["d3", "d105", "d20"])
    Memory.build(root / "two", captioned(0, 40)[:30], Hashed())
    Memory.build(root / "lists", captioned(0, 1200), Hashed(), index="ivf")
    return [root / name for name in ("one", "two", "lists")]


def answers(bank: Memory) -> str:
    """The digest of everything that a bank says."""
    told = hashlib.sha256()
    ids = list(bank)
    queries = Hashed().texts([f"word{i}" for i in (0, 5, 33, 101, 700)])
    found, scores = bank.search(queries, 7)
    told.update(json.dumps([len(bank), ids, found, bank.encoder_name, bank.width]).encode() + scores.tobytes())
    told.update(bank.vectors(ids).tobytes() + bank.images(ids).tobytes())
    told.update(json.dumps([sorted(d.hex() for d in some) for some in bank.pictures(ids)]).encode())
    for id in ids:
        document = bank[id]
        told.update(json.dumps([document.id, document.text, document.source, dict(document.meta)]).encode())
        for image in document.images:
            told.update(image.pixels.convert("RGB").tobytes())
    return told.hexdigest()


# Damage: each takes a copy of a bank and the other banks, and says whether the answers may rightly be others.


def files_of(bank: Path) -> list[Path]:
    return sorted(p for p in bank.rglob("*") if p.is_file() and p.name != ".lock")


def flip(bank: Path, others: Sequence[Path], outside: Path, rng: random.Random) -> None:
    """One to eight bits of one file."""
    path = rng.choice(files_of(bank))
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(bank: Path, others: Sequence[Path], outside: Path, rng: random.Random) -> None:
    """A file shorter, longer, zeroed in part, empty, or missing."""
    path = rng.choice(files_of(bank))
    data = path.read_bytes()
    at = rng.randrange(len(data))
    kinds = [data[:at], data + rng.randbytes(rng.randint(1, 5000)), data[:at] + bytes(len(data) - at), b"", None]
    made = rng.choice(kinds)
    path.unlink() if made is None else path.write_bytes(made)


def swap(bank: Path, others: Sequence[Path], outside: Path, rng: random.Random) -> None:
    """A file, or all shards, of another bank or of another place in this one."""
    if rng.random() < 0.3:
        shutil.rmtree(bank / "shards")
        shutil.copytree(rng.choice(others) / "shards", bank / "shards")
        return
    path = rng.choice(files_of(bank))
    alike = rng.random() < 0.9
    given = [f for o in (*others, bank) for f in files_of(o) if f != path and (f.suffix == path.suffix or not alike)]
    data = (rng.choice(given) if given else bank / NAME).read_bytes()
    path.write_bytes(data)


def link(bank: Path, others: Sequence[Path], outside: Path, rng: random.Random) -> None:
    """A link in the place of a file, of the shards, or of what is written next; to the same, elsewhere, or nowhere."""
    next_ones = [".lock", "draft.json", ".manifest.json.part", "index.000003.safetensors"]
    names = [*files_of(bank), bank / "shards", *(bank / name for name in next_ones)]
    path = rng.choice(names)
    away = outside / "moved"
    if path.is_dir():
        shutil.copytree(path, away)
        shutil.rmtree(path)
    elif path.exists():
        shutil.copy(path, away)
        path.unlink()
    targets = [outside / "canary", outside, outside / "nowhere", *([away] if away.exists() else [])]
    path.symlink_to(rng.choice(targets))


def alter(bank: Path, others: Sequence[Path], outside: Path, rng: random.Random) -> None:
    """A manifest that a stranger wrote, its own checksum right. How many lists are searched stays: others are right."""
    good = json.loads((bank / NAME).read_text())["segments"]
    page = _altered(bank, outside, rng)
    named = page.get("segments")
    for entry, old in zip(named if isinstance(named, list) else [], good, strict=False):
        index = entry.get("index") if isinstance(entry, dict) else None
        if isinstance(index, dict) and type(index.get("nprobe")) is int and "nprobe" in old.get("index", {}):
            index["nprobe"] = old["index"]["nprobe"]
    (bank / NAME).write_text(json.dumps({**page, "sha256": checksum(page)}))


def _altered(bank: Path, outside: Path, rng: random.Random) -> dict[str, Any]:
    page: dict[str, Any] = json.loads((bank / NAME).read_text())
    page.pop("sha256")
    values: list[Any] = [
        None, True, -1, 0, 1, 7, 10**9, 10**30, 1.5, "", "x", "../outside/canary", str(outside / "canary"), "a/b",
        "shards/00001.safetensors", "index.000002.safetensors",
        "draft.json", [], [1], {}, {"a": 1}, "x" * 3000, "\ud800", "\0",
    ]  # fmt: skip
    nodes = list(_nodes(page))
    holder, key = rng.choice(nodes)
    kind = rng.random()
    if kind < 0.6:
        holder[key] = rng.choice(values)
    elif kind < 0.75:
        del holder[key]
    elif kind < 0.9 and isinstance(holder, dict):
        holder[rng.choice(["../../outside/canary", str(outside / "new"), "more", "gone", "name"])] = holder.pop(key)
    else:
        other, place = rng.choice(nodes)
        with contextlib.suppress(KeyError, IndexError):
            holder[key] = json.loads(json.dumps(other[place]))
    return page


def _nodes(page: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(page) if isinstance(page, dict) else range(len(page)):
        yield page, key
        if isinstance(page[key], dict | list):
            yield from _nodes(page[key])


def forge(bank: Path, others: Sequence[Path], outside: Path, rng: random.Random) -> None:
    """Documents with bits flipped in what says of them, and the manifest's checksums made right after it."""
    path = rng.choice(sorted(bank.glob("shards/*.safetensors")))
    tensors = load_file(path)
    name = rng.choice(["names", "name_starts", "name_sums", "shown", "shown_starts", "pixels", "blobs"])
    data = bytearray(tensors[name].tobytes())
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    tensors[name] = np.frombuffer(bytes(data), tensors[name].dtype).reshape(tensors[name].shape)
    path.write_bytes(save(tensors))
    page = json.loads((bank / NAME).read_text())
    page["shards"][int(path.stem)].update(facts(path.read_bytes()))
    (bank / NAME).write_text(json.dumps({**page, "sha256": checksum(page)}))


KINDS: dict[str, Callable[[Path, Sequence[Path], Path, random.Random], None]] = {
    "bits flipped": flip,
    "cut, filled, missing": cut,
    "swapped with another's": swap,
    "links": link,
    "manifest altered": alter,
    "documents forged": forge,
}


def state(folder: Path) -> list[tuple[str, str, int]]:
    """Everything in a folder: names, contents, and when it was changed."""
    found = []
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        held = "link" if path.is_symlink() else path.read_bytes().hex() if path.is_file() else "folder"
        found.append((str(path), held, facts.st_mtime_ns))
    return found


def one_thread() -> None:
    """Compute in this thread: those of OpenMP do not come along into a fork, and whoever waits for them hangs."""
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)


def child(work: Callable[[], str], seconds: float = SECONDS) -> str:
    """What a process of its own says; "raw" where it ends in another way, "hung" where it does not end."""
    ours, theirs = FORK.Pipe(False)

    def run() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        one_thread()
        try:
            theirs.send(work())
        except Cm3Error as error:
            theirs.send("told" if "\n" not in str(error) and len(str(error)) < 2000 else f"raw message {error}")
        except BaseException as error:
            theirs.send(f"raw {type(error).__name__}: {error}"[:500])
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    theirs.close()
    try:
        said = ours.recv() if ours.poll(seconds) else "hung"
    except EOFError:
        said = "raw end of the process"
    if said == "hung":
        process.kill()
    process.join()
    return said


def use(bank: Path, want: str, outside: Path) -> str:
    """Ask everything, then write to it; watches what Python opens outside the bank."""
    touched: list[str] = []
    away = os.path.realpath(outside)

    def watch(event: str, values: tuple[Any, ...]) -> None:
        if event in PATHS and values and isinstance(values[0], str | bytes | os.PathLike):
            path = os.fsdecode(values[0]).removeprefix("file://").partition("?")[0]
            if event == "open" and int(values[2] or 0) & os.O_NOFOLLOW:
                path = os.path.join(os.path.realpath(os.path.dirname(path)), "itself")  # a link is refused
            if os.path.realpath(path).startswith(away):
                touched.append(f"{event} {path}")

    sys.addaudithook(watch)
    outcome = "told"
    try:
        outcome = "right" if answers(Memory.open(bank, encoder=Hashed())) == want else "wrong"
    except Cm3Error as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            raise
    steps: list[Callable[[], object]] = [
        lambda: Memory.open(bank).info(),
        lambda: Memory.open(bank).verify(),
        lambda: Memory.open(bank).add(captioned(5000, 4), Hashed()),
        lambda: Memory.open(bank).delete(["d5", "d6"]),
        lambda: Memory.merge([bank], bank.parent / "merged"),
    ]
    for step in steps:
        with contextlib.suppress(Cm3Error):
            step()
    return f"touched {touched[0]}" if touched else outcome


def damaged(root: Path, number: int, seed: int, bad: list[str]) -> dict[str, Counter[str]]:
    """`number` damaged banks, by kind: how many of each outcome."""
    one_thread()  # as those who answer, whose scores are compared with these to the bit
    good = good_banks(root / "good")
    want = {bank: answers(Memory.open(bank)) for bank in good}
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for trial in range(number):
        rng = random.Random(f"{seed} damage {trial}")
        kind = list(KINDS)[trial % len(KINDS)]
        # The bank of inverted lists is the larger; it comes more seldom.
        bank = rng.choice([good[0], good[0], good[1], good[2]])
        work = root / "work"
        (outside := work / "outside").mkdir(parents=True)
        (outside / "canary").write_text("alive")
        copy = Path(shutil.copytree(bank, work / "in" / "bank"))
        KINDS[kind](copy, [b for b in good if b != bank], outside, rng)
        before = state(outside)
        said = child(lambda copy=copy, bank=bank, outside=outside: use(copy, want[bank], outside))
        if state(outside) != before:
            said = "touched by a change"
        outcome = said.split()[0]
        counts[kind][outcome] += 1
        if outcome not in ("told", "right"):
            bad.append(f"damage {trial}, {kind}, {bank.name}: {said}")
        shutil.rmtree(work)
    return counts


def commands(work: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """What is killed: the bank that it makes or changes, and the command."""
    return {
        "build": (work / "new", lambda: Memory.build(work / "new", captioned(0, 60), Hashed(), batch=4)),
        "build with lists": (
            work / "new",
            lambda: Memory.build(work / "new", captioned(0, 1100), Hashed(), index="ivf", batch=100),
        ),
        "add": (work / "bank", lambda: Memory.open(work / "bank").add(captioned(300, 40), Hashed(), batch=4)),
        "delete": (work / "bank", lambda: Memory.open(work / "bank").delete([f"d{i}" for i in range(5, 15)])),
        "merge": (work / "new", lambda: Memory.merge([work / "bank"], work / "new")),
    }


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def stopped(root: Path, number: int, seed: int, how: str, bad: list[str]) -> dict[str, Counter[str]]:
    """`number` commands that are killed, or find the disk full: how many end whole, and how many were in time."""
    good = good_banks(root / "good")[0]
    kinds = list(commands(root))
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    seconds: dict[str, float] = {}
    ends: dict[str, tuple[str, list[str], str]] = {}
    for trial in range(-len(kinds), number):
        kind = kinds[trial % len(kinds)]
        rng = random.Random(f"{seed} {how} {trial}")
        work = root / "work"
        shutil.copytree(good, work / "bank")
        place, command = commands(work)[kind]
        before = answers(Memory.open(place)) if place.exists() else "none"
        if trial < 0:  # once to its end, for what it should come to
            start = time.perf_counter()
            command()
            seconds[kind] = time.perf_counter() - start
            ends[kind] = answers(Memory.open(place)), names(work), before
            shutil.rmtree(work)
            continue
        end, left, _ = ends[kind]
        said = kill(command, rng.uniform(0, seconds[kind])) if how == "kill" else fill(command, rng.randrange(200_000))
        outcome = "whole"
        try:
            now = answers(Memory.open(place, verify=True)) if place.exists() else "none"
            if now not in (before, end):
                outcome = "wrong"
            elif now != end:
                command()
                if answers(Memory.open(place, verify=True)) != end:
                    outcome = "wrong"
                elif names(work) != left:
                    outcome = "left"
        except Exception as error:
            outcome = f"raw {type(error).__name__}: {error}"
        if said.startswith("raw"):
            outcome = said
        counts[kind][outcome.split()[0]] += 1
        counts[kind]["stopped"] += said in ("killed", "told")
        if outcome != "whole":
            bad.append(f"{how} {trial}, {kind}: {outcome}; {sorted(set(names(work)) ^ set(left))[:4]}")
        shutil.rmtree(work)
    return counts


def kill(command: Callable[[], object], seconds: float) -> str:
    """Run a command in a process of its own and kill it after a time."""

    def run() -> None:
        one_thread()
        command()

    process = FORK.Process(target=run)
    process.start()
    process.join(seconds)
    in_time = process.is_alive()
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return "killed" if in_time else "ended"


def fill(command: Callable[[], object], limit: int) -> str:
    """Run a command in a process of its own whose files may not be larger than a limit, as if the disk were full."""

    def limited() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            command()
        except DiskError:
            return "told"
        return "ended"

    said = child(limited)
    return f"raw: not as a DiskError, {said}" if said not in ("told", "ended") else said


def measure(damage: int, kills: int, full: int, seed: int, root: Path) -> dict[str, Any]:
    """All three, with the sums over their kinds."""
    bad: list[str] = []
    parts = {
        "damaged": damaged(root / "damaged", damage, seed, bad),
        "killed": stopped(root / "killed", kills, seed, "kill", bad),
        "disk full": stopped(root / "full", full, seed, "full", bad),
    }
    rows = [
        {"name": f"{part}: {kind}", "trials": sum(c for o, c in counts.items() if o != "stopped"), **counts}
        for part, kinds in parts.items()
        for kind, counts in kinds.items()
    ]
    sums = {part: dict(sum(kinds.values(), Counter())) for part, kinds in parts.items()}
    return {"seed": seed, "rows": rows, "sums": sums, "bad": bad}


def main(argv: Sequence[str] | None = None) -> int:
    """Try and print; exit code 1 where anything was wrong, raw, hung, touched or left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damaged", type=int, default=1000, help="damaged banks")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--full", type=int, default=100, help="disks that are full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="cm3-reliability-") as scratch:
        report = measure(args.damaged, args.kills, args.full, args.seed, Path(scratch))
    for row in report["rows"]:
        told = ", ".join(f"{value} {name}" for name, value in row.items() if name not in ("name", "trials"))
        print(f"{row['name']:<36}{row['trials']:>6}  {told}")
    for line in report["bad"]:
        print(line)
    if args.json:
        print(json.dumps(report))
    return 1 if report["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
