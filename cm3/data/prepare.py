"""Sources -> document store (cm3/store/store.py), exactly once, however often it is killed on the way.

    plan.json -> units, each a shard and then its report (cm3/data/prepare_unit.py), in any order, by one process, by
    several, or by a cluster -> duplicates dropped, index.safetensors -> manifest.json

The plan is fixed before anything is encoded, and a unit's bytes depend on the plan and its documents alone. So the same
command, given again after a kill, does the units that have no report and ends in the very bytes of an unbroken run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from cm3.data.prepare_unit import Desk, Work
from cm3.errors import ConfigError, DataError, DiskError
from cm3.files import on_disk, sha256, write
from cm3.read.base import UNIT
from cm3.read.find import open_reader
from cm3.read.walk import Passed
from cm3.store.manifest import FORMAT, KIND, NAME, PLAN, WORDS, page
from cm3.store.shard import is_report, page_bytes, shard_name
from cm3.store.store import Progress, Store
from cm3.store.write import finish, is_whole, writing
from cm3.tokens.on_disk import MASKS, text_fingerprint
from cm3.weights import settled

MAX_TEXT = 1024
EXAMPLES = 10


@dataclass(frozen=True)
class Report:
    """The outcome of the documents. All but `seconds` is kept in the store."""

    documents: int
    """Kept."""
    tokens: int
    text_tokens: int
    """Everything but image codes: text, `</s>` and `<break>`."""
    image_tokens: int
    truncated: int
    """Documents, duplicates among them, of which a text was cut to the most tokens allowed."""
    duplicates: dict[str, Any]
    """`content` and `id`: how many were dropped because an earlier document has the same tokens, or the same id in the
    same source; `examples`: ids of the first."""
    skipped: dict[str, dict[str, Any]]
    """By kind of problem: `count`, and `examples`, the first ids with reasons."""
    passed: dict[str, dict[str, Any]]
    """Files that the readers passed over, which are no documents: by kind, `count` and the first `names`."""
    seconds: float


def prepare(
    sources: Sequence[str],
    out: str | Path,
    model: str | Path | None,
    *,
    text: str | Path | None = None,
    masks: int = MASKS,
    encoder: str | Path | None = None,
    pictures: bool = False,
    unit: int = UNIT,
    max_text: int = MAX_TEXT,
    license: str | None = None,
    workers: int = 0,
    cluster: str | None = None,
    device: str = "cpu",
    strict: bool = False,
    retry: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Make the store `out` of `sources` ([KIND:]PATH[@SPLIT]), or go on with it.

    `model`, `text` and `masks` are those of `cm3.tokens.on_disk.load_tokenizers`; without a model there are no tokens.
    With `encoder` (`cm3.retrieval.embed.load_encoder`) vectors of each document's words and of its pictures are kept
    too, and its words; with `pictures` its words, and its pictures as the bytes they came in. `unit` documents are a
    shard, where a dataset is not in pieces of its own. `license` is noted for documents that have none. Work is done by
    this process, by `workers` others, or by the Ray cluster at `cluster`; the store comes out the same.

    With `retry` the units in which a document was skipped are done again, also those of a finished store, which then
    is the one that a first run over the sources as they are now would make. Without it what was skipped stays so.
    Raises `DataError` for a folder that holds something else or another plan, for sources of which no document can be
    kept (nothing is left of the store, so the same command looks again), while another process writes there, and with
    `strict` for the first document that has to be skipped; `DiskError` where the disk is full or may not be written to.
    """
    began = time.monotonic()
    for name, value, low in (("unit", unit, 1), ("max_text", max_text, 1), ("workers", workers, 0)):
        if value < low:
            raise ConfigError(f"{name}={value}: must be at least {low}")
    if not sources:
        raise ConfigError("sources: none given; name at least one, [KIND:]PATH[@SPLIT]")
    if model is None and encoder is None and not pictures:
        raise ConfigError("prepare: nothing to keep of the documents; give a model, an encoder, or pictures")
    out = Path(out)
    model, text, encoder = (None if path is None else str(path) for path in (model, text, encoder))
    work = Work(str(out.resolve()), model, text, masks, encoder, str(settled(device)), pictures)
    with on_disk(out):
        _check_ours(out)
    desk = Desk(work)
    plan = _plan(desk, sources, unit, max_text, license)
    with _alone(out):
        _begin(out, plan, desk, retry)
        desk.plan = plan
        if retry:
            _look_again(out, len(plan["units"]))
        if not (out / NAME).exists():
            reports = _reports(out, len(plan["units"]))
            todo = [n for n in range(len(plan["units"])) if n not in reports]
            counter = _Counter(plan, reports, progress)
            for report in reports.values():
                _check_strict(report, strict)
            with contextlib.closing(_done(desk, todo, workers, cluster, counter.tick)) as units:
                for number, report in units:
                    _check_strict(report, strict)
                    reports[number] = report
                    counter.done(number, report)
            made = [reports[n] for n in sorted(reports)]
            if not any(report["documents"] for report in made):
                _forget(out, len(made))
                raise DataError(_nothing(sources, made))
            listed = [reader.listed for reader in desk.readers.values()]
            passed = Passed.of_all((*listed, *(Passed.of(r.get("passed", {})) for r in made))).json()
            finish(out, plan, desk.shape, made, passed, {"encoder": encoder} if encoder else {}, EXAMPLES)
        _sweep(out)
    known = Store.open(out).manifest
    if strict and known["skipped"]:
        kind, found = next(iter(known["skipped"].items()))
        raise DataError(_strictly(found["examples"][0] | {"kind": kind}))
    kept = {f.name: known[f.name] for f in dataclasses.fields(Report) if f.name in known}
    return Report(**{"passed": {}, **kept}, seconds=time.monotonic() - began)


def _plan(desk: Desk, sources: Sequence[str], unit: int, max_text: int, license: str | None) -> dict[str, Any]:
    desk.readers = {i: open_reader(source) for i, source in enumerate(sources)}
    units = [[i, *u] for i, reader in desk.readers.items() for u in reader.units(unit)]
    if not units:
        raise DataError(f"{', '.join(map(repr, sources))}: no document in there; check the sources")
    found = desk.tokenizers
    image = None if found is None else {"fingerprint": found.image, "size": desk.image.size, "fit": desk.image.fit}
    return {
        "format": FORMAT,
        "kind": KIND,
        "sources": list(sources),
        "unit": unit,
        "max_text": max_text,
        "license": license,
        "device": torch.device(desk.work.device).type,
        "vocab": None if found is None else desk.codec.vocab.to_dict(),
        "text_tokenizer": None if found is None else text_fingerprint(found.text),
        "image_tokenizer": image,
        "encoder": None if desk.encoder is None else desk.encoder.name,
        **{name: getattr(desk.shape, name) for name in ("width", "words", "pictures")},
        "units": units,
    }


def _check_ours(out: Path) -> None:
    """Raise `DataError` where `out` holds something that is no store."""
    if out.exists() and not out.is_dir():
        raise DataError(f"store {str(out)!r}: is a file; give a folder")
    if (out / "shards").is_symlink():
        raise DataError(
            f"store {str(out)!r}: shards is a link, through which nothing is written; choose another folder"
        )
    if out.is_dir() and page(out / PLAN).get("kind") != KIND:
        if (out / NAME).exists() and page(out / NAME).get("kind") == KIND:
            raise DataError(f"store {str(out)!r}: plan.json is missing or was altered; restore it from a copy")
        if any(not p.name.startswith(".") and p.name != "shards" for p in out.iterdir()):
            if os.path.lexists(out / PLAN) or (out / "shards").exists():
                raise DataError(
                    f"store {str(out)!r}: the folder holds something else, or a store whose plan.json is missing or "
                    "was altered; choose another, restore it, or empty it"
                )
            raise DataError(f"store {str(out)!r}: the folder holds something else; choose another, or empty it")


def _begin(out: Path, plan: dict[str, Any], desk: Desk, retry: bool) -> None:
    """Write the plan, or compare with the one that is there."""
    _check_ours(out)  # again, now that nobody else writes
    if (out / NAME).exists():
        finished = Store.open(out)
        finished.check_files()
        if retry and finished.facts.change:
            raise DataError(
                f"store {str(out)!r}: was added to or deleted from since; prepare another, and leave out retry"
            )
    known = page(out / PLAN)
    for name in plan if known else ():
        if plan[name] != known.get(name):
            if name == "units":
                was, now = f"{len(known['units'])} pieces of the sources", f"{len(plan['units'])}, or others"
            else:
                was, now = (repr(p.get(name))[:120] for p in (known, plan))
            raise DataError(
                f"store {str(out)!r}: was begun with another {name}: {was}, now {now}; give the same command, or "
                "choose another folder"
            )
    with on_disk(out):
        (out / "shards").mkdir(exist_ok=True)
    _sweep(out)
    if known != plan:  # it is not there, or has something more
        write(out / PLAN, page_bytes(plan))
    words = out / WORDS
    if desk.tokenizers is None:
        return
    if words.is_symlink() or not words.is_file() or sha256(words) != plan["text_tokenizer"]:
        write(words, desk.tokenizers.text.read_bytes())


def _reports(out: Path, units: int) -> dict[int, dict[str, Any]]:
    """Return the reports of units that are done: report and shard are both there, as they were written."""
    found = {}
    for number in range(units):
        report = page(out / shard_name(number, "json"))
        if is_report(report):
            files = {"safetensors": report} | ({"pictures": report["pictures"]} if report["pictures"] else {})
            if all(is_whole(out / shard_name(number, end), known) for end, known in files.items()):
                found[number] = report
    return found


def _look_again(out: Path, units: int) -> None:
    """Make the units undone in which a document was skipped. After a kill the same command goes on with the rest."""
    skipped = []
    for number in range(units):
        path = out / shard_name(number, "json")
        if page(path).get("skipped") != []:
            skipped.append(path)
    if skipped:
        (out / NAME).unlink(missing_ok=True)
        for path in skipped:
            path.unlink(missing_ok=True)


def _forget(out: Path, units: int) -> None:
    """Delete all that `prepare` wrote there."""
    for name in (NAME, PLAN, WORDS):
        (out / name).unlink(missing_ok=True)
    for number in range(units):
        for end in ("safetensors", "pictures", "json"):
            (out / shard_name(number, end)).unlink(missing_ok=True)


def _nothing(sources: Sequence[str], reports: Sequence[dict[str, Any]]) -> str:
    where = ", ".join(map(repr, sources))
    skipped = [skip for report in reports for skip in report["skipped"]]
    if not skipped:
        return f"{where}: no document in there; check the sources"
    first = f"{skipped[0]['id']!r}: {skipped[0]['reason']} ({skipped[0]['kind']})"
    return (
        f"{where}: none of {len(skipped)} documents can be kept, and no store was made; the first is {first}; mend "
        "them and give the same command again"
    )


def _done(
    desk: Desk, todo: list[int], workers: int, cluster: str | None, tick: Callable[[int], object]
) -> Generator[tuple[int, dict[str, Any]]]:
    """Do units, and give each with its report."""
    if not todo:
        return
    if cluster is not None:
        from cm3.data.cluster import map_units

        yield from map_units(cluster, desk.work, todo, workers=workers)
    elif workers == 0:
        for number in todo:
            yield number, desk.prepare(number, tick)
    else:
        yield from _with_processes(desk.work, todo, min(workers, len(todo)))


def _with_processes(work: Work, todo: list[int], workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
    context = multiprocessing.get_context("spawn")  # a fork would carry torch's threads and locks along
    ends, stop = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_open, initargs=(work, ends))
    left = iter(todo)
    running: dict[Future[dict[str, Any]], int] = {}
    try:
        while True:
            for number in left:
                running[pool.submit(_prepare, number)] = number
                if len(running) >= 2 * workers:
                    break
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "prepare: a worker process died, perhaps for want of memory; take fewer workers, and run the same command "
            "again, it goes on where it was"
        ) from error
    finally:
        if running:  # nobody waits for what they do
            stop.send(None)
        pool.shutdown(cancel_futures=True)
        ends.close()
        stop.close()


_desk: list[Desk] = []
"""The one desk of a worker process."""


def _open(work: Work, ends: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent is the one to answer
    threading.Thread(target=_end_with_parent, args=(ends,), daemon=True).start()
    _desk[:] = [Desk(work)]


def _end_with_parent(ends: Connection) -> None:
    """End when the parent says so or was killed: a worker would wait for work for ever, with both ends of its queue."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel, ends])
    os.kill(os.getpid(), signal.SIGTERM)


def _prepare(number: int) -> dict[str, Any]:
    return _desk[0].prepare(number)


class _Counter:
    """Tells progress in documents. The length of units that do not say it is guessed from those that are done."""

    def __init__(self, plan: dict[str, Any], reports: dict[int, dict[str, Any]], progress: Progress | None) -> None:
        self.sizes: dict[int, int] = {n: stop - start for n, (_, _, start, stop) in enumerate(plan["units"])}
        self.progress = progress
        self.finished = 0
        self.left = set(self.sizes)
        for number, report in reports.items():
            self._count(number, report)
        self.tick(0)

    def _count(self, number: int, report: dict[str, Any]) -> None:
        self.left.discard(number)
        self.sizes[number] = report["documents"] + len(report["skipped"])
        self.finished += self.sizes[number]

    def done(self, number: int, report: dict[str, Any]) -> None:
        """Note that a unit is done."""
        self._count(number, report)
        self.tick(0)

    def tick(self, more: int) -> None:
        """Count so many documents more, of a unit that is not done."""
        if self.progress is None:
            return
        ended = len(self.sizes) - len(self.left)
        guess = self.finished // ended if ended else 0
        total = self.finished + sum(self.sizes[n] or guess for n in self.left)
        self.progress(self.finished + more, max(total, self.finished + more), "")


def _check_strict(report: dict[str, Any], strict: bool) -> None:
    if strict and report["skipped"]:
        raise DataError(_strictly(report["skipped"][0]))


def _strictly(skip: dict[str, str]) -> str:
    return f"document {skip['id']!r}: {skip['reason']} ({skip['kind']}); mend it, or leave out strict to skip it"


def _sweep(out: Path) -> None:
    """Delete what a killed run left half written."""
    for path in [*out.glob(".*.part"), *out.glob("shards/.*.part")]:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Be the only one who writes a store, until the end of the block or until this process is killed.

    Where no store comes of it, nothing is left. A disk that is full is told with what to do.
    """
    try:
        with writing(out):
            try:
                yield
            finally:
                if not (out / PLAN).exists():
                    with contextlib.suppress(OSError):  # it holds something
                        (out / "shards").rmdir()
    except DiskError as error:
        more = "; what is done stays, and the same command goes on" if (out / PLAN).exists() else ""
        raise DiskError(f"{error}{more}") from error
