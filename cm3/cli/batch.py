"""`cm3 generate --prompts`: a file of prompts, of any length, becomes a folder of pictures and texts.

    prompts.jsonl -> batch.json                      the plan: what was asked, of which model
                  -> 000000/ 000001/ ...             units of so many lines, each there whole or not at all
                       0000000-0.png  results.jsonl
                  -> results.jsonl                   those of all units, joined in order

A unit's bytes depend on the plan and its lines alone. So the same command, given again after a kill, draws the units
that are not there and ends in the bytes of an unbroken run, on any number of processes, which need not speak with each
other: each draws its share, and the one that finds all units there joins them. Lines are read as their unit is drawn,
and of all others only the place in the file is kept, 8 bytes each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import PIL.Image
import torch

from cm3.cli.batch_lines import SETTINGS, Asked, Line, Piece, Sample
from cm3.cli.options import Progress
from cm3.cli.outputs import png, settings_note
from cm3.data.cluster import map_units
from cm3.document import Document, Gap, Image, Part, Text, check_text
from cm3.engine.request import Sampling
from cm3.errors import Cm3Error, ConfigError, DataError, RequestError, whole_number
from cm3.files import (
    build,
    check_folder,
    checksum,
    inside,
    locked,
    parse_json,
    read_json,
    replacing,
    replacing_folder,
    sha256,
    write,
)
from cm3.generate import CM3Leon, Generation, Reply, as_document
from cm3.generate.cm3leon import MOST, sample_seeds
from cm3.generate.likelihood import document_likelihoods, option_likelihoods
from cm3.generate.prepared import Prepared
from cm3.generate.settings import SAMPLED, check_names
from cm3.generate.tasks import read_reply
from cm3.read.base import BLOCK, line_starts
from cm3.tasks import find_task
from cm3.tasks.template import PICTURES
from cm3.weights import settled

A = TypeVar("A")
B = TypeVar("B")
PLAN, RESULTS = "batch.json", "results.jsonl"
FORMAT, KIND = 1, "cm3 batch"
UNIT = 256
"""Lines of a unit."""
TOGETHER = 256
"""Most pictures and texts of one run of the engine, held in memory: some times as many as it has streams."""
LONGEST = 1 << 20
"""Bytes of the longest line."""
JUDGED = 16
"""Documents that are judged together."""
TOLD = 10
"""Bad lines that the summary names."""
OF_A_LINE = (RequestError, ConfigError, DataError)
"""Errors that a line can cause: it is told and written down, and the others go on."""


@dataclass(frozen=True)
class Batch:
    """A file of prompts, the folder for what is made of it, and the settings of lines that have none of their own.

    It is the job of `cm3.data.cluster`: plain values, that travel. `model`: arguments of `CM3Leon.load`. `starts`: see
    `cm3.read.base.line_starts`. `pictures`: folder that lines name pictures from, links followed, where a program of
    ours has written them; a stranger's lines name those beside their file, and none that leads out.
    """

    prompts: str
    out: str
    model: dict[str, Any]
    settings: dict[str, Any]
    unit: int
    starts: array[int]
    pictures: str = ""

    @classmethod
    def of(
        cls,
        prompts: Path,
        out: Path,
        model: dict[str, Any],
        settings: dict[str, Any],
        unit: int = UNIT,
        pictures: str | Path = "",
    ) -> Batch:
        """Look where the lines are. Raises `RequestError` for a file that is missing or empty, and for settings that no
        line may have."""
        settings = {name: value for name, value in settings.items() if value is not None}
        Sampling(**{name: value for name, value in settings.items() if name in SAMPLED})
        whole_number("seed", settings["seed"], 0, 2**63 - 1, RequestError)
        if not prompts.is_file():
            raise RequestError(f"--prompts {prompts}: no such file; give one of JSON lines")
        try:
            with prompts.open("rb") as file:
                if not any(block.strip() for block in iter(lambda: file.read(BLOCK), b"")):
                    raise RequestError(f'--prompts {prompts}: holds no line; write one as {{"prompt": "a red circle"}}')
                file.seek(0)
                starts = line_starts(file)
        except OSError as error:
            raise RequestError(f"--prompts {prompts}: cannot be read ({error.strerror}); check its rights") from error
        folder = str(Path(pictures).resolve()) if pictures else ""
        return cls(str(prompts.resolve()), str(out.resolve()), model, settings, unit, starts, folder)

    @property
    def device(self) -> str:
        """Say where a worker computes."""
        return str(settled(self.model["device"]))

    @property
    def lines(self) -> int:
        """Count the lines of the file, blank ones too."""
        return len(self.starts) - 1

    @property
    def units(self) -> int:
        """Count the units."""
        return -(-self.lines // self.unit)

    @property
    def name(self) -> str:
        """Return the name of the file of prompts."""
        return Path(self.prompts).name

    def open(self) -> Desk:
        """Load the model."""
        return Desk(self, CM3Leon.load(**self.model))

    def folder(self, number: int) -> Path:
        """Return the folder of a unit."""
        return Path(self.out, f"{number:06d}")

    def lines_of(self, number: int) -> range:
        """Return the numbers of a unit's lines, from 0."""
        return range(number * self.unit, min((number + 1) * self.unit, self.lines))

    def read(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Yield (number, bytes) of each line of a unit that is not blank, of a line that is too long the beginning."""
        with open(self.prompts, "rb") as file:
            for at in self.lines_of(number):
                file.seek(self.starts[at])
                text = file.read(min(self.starts[at + 1] - self.starts[at], LONGEST + 1))
                if text.strip():
                    yield at, text

    def results(self, number: int) -> list[dict[str, Any]] | None:
        """Return the results of a unit that is done; None where it is not there, or lacks a line or a file."""
        try:
            text = (self.folder(number) / RESULTS).read_bytes()
            found = [parse_json(line, RESULTS) for line in text.splitlines()]
            if [one["line"] for one in found] != [at + 1 for at, _ in self.read(number)]:
                return None
            for one in found:
                for name, size in zip(one.get("files", ()), one.get("bytes", ()), strict=True):
                    if Path(self.out, name).stat().st_size != size:
                        return None
        except (OSError, DataError, LookupError, TypeError, ValueError, AttributeError):
            return None
        return found

    def begin(self, model: CM3Leon) -> None:
        """Write the plan, or compare with the one that is there. Raises `RequestError` where that is another, and for a
        folder that holds something else."""
        out, device = Path(self.out), torch.device(self.device).type
        bank = self.model["memory"] is not None or self.settings.get("retrieve")
        own = str(next(model.decoder.parameters()).dtype).removeprefix("torch.")
        files = model.bundle.source.files if model.bundle.source is not None else {}
        plan = {
            "format": FORMAT,
            "kind": KIND,
            "prompts": sha256(self.prompts),
            "unit": self.unit,
            "model": checksum({"files": files, "sampling": model.bundle.sampling, "about": model.bundle.about}),
            "device": device,
            "dtype": own if device == model.device.type else self.model["dtype"],  # where a cluster has other devices
            "tp": tp if (tp := self.model.get("tp", 1)) > 1 else None,
            "memory": model.memory.store.fingerprint if bank else None,
            **{name: self.settings.get(name) for name in ("n", "seed", *SETTINGS)},
        }
        others = [p for p in out.iterdir() if not p.name.startswith(".")] if out.exists() else []
        if not (out / PLAN).exists():  # looked for after the others: whoever writes one of them has written it before
            if others:
                raise RequestError(f"--out {out}: the folder holds something else; choose another, or empty it")
            write(out / PLAN, json.dumps(plan, indent=1) + "\n")
            return
        known = read_json(out / PLAN, f"--out {out}", RequestError)
        for name in plan:
            if plan[name] != known.get(name):
                what, (was, now) = f"another {name}", (str(one.get(name))[:60] for one in (known, plan))
                if name == "prompts":
                    what = f"other prompts than {self.name} has now"
                raise RequestError(
                    f"--out {out}: was begun with {what}: {was}, now {now}; give the same command and the same "
                    "file, or choose another folder"
                )

    def join(self) -> dict[str, Any] | None:
        """Join the results of all units, and count them; None where a unit is not done."""
        told: dict[str, Any] = dict.fromkeys(("lines", "made", "failed", "pictures", "texts", "warned"), 0)
        errors: list[str] = []
        if not all(self.folder(number).is_dir() for number in range(self.units)):
            return None
        try:
            with replacing(Path(self.out, RESULTS)) as part, part.open("wb") as file:
                for number in range(self.units):
                    for one in self._joined(number, file):
                        told["lines"] += 1
                        told["failed" if "error" in one else "made"] += 1
                        told["pictures"] += len(one.get("files", ()))
                        told["texts"] += len(one.get("texts", ()))
                        told["warned"] += bool(one.get("warnings"))
                        errors += [one["error"]] if "error" in one and len(errors) < TOLD else []
        except _Unfinished:
            return None
        for lock in Path(self.out).glob(".rank*.lock"):  # of ranks that were killed
            with contextlib.suppress(Cm3Error), locked(lock, self.out):
                pass
        return {"results": str(Path(self.out, RESULTS)), **told, "errors": errors}

    def _joined(self, number: int, file: IO[bytes]) -> list[dict[str, Any]]:
        found = self.results(number)
        if found is None:
            raise _Unfinished
        file.write((self.folder(number) / RESULTS).read_bytes())
        return found


class _Unfinished(Exception):
    """A unit is not done."""


class Desk:
    """A batch that one process has opened."""

    def __init__(self, batch: Batch, model: CM3Leon) -> None:
        self.batch, self.model = batch, model

    def prepare(self, number: int, tick: Callable[[int], object] = lambda more: None) -> dict[str, Any]:
        """Draw a unit. Returns what is wrong with its lines, `errors`, and how many it has; calls `tick` with how many
        of its answers are there. Where others share the model, the first of them alone keeps what is drawn."""
        folder = self.batch.folder(number)
        with replacing_folder(folder) if self.model.leads else _passing() as building:
            records = self._records(number, building, tick)
            lines = "".join(json.dumps(one) + "\n" for one in records)
            (building / RESULTS).write_text(lines, encoding="utf-8")
        errors = [one["error"] for one in records if "error" in one]
        return {"lines": len(self.batch.lines_of(number)), "errors": errors}

    def agreed(self, units: Sequence[int]) -> Sequence[int]:
        """Return the units of the first of the processes that share the model, on each of them."""
        if self.model.mesh is None:
            return units
        from cm3.parallel.decoding import told

        found: list[int] = told(list(units), self.model.mesh)
        return found

    def _records(self, number: int, building: Path, tick: Callable[[int], object]) -> list[dict[str, Any]]:
        """Make what a unit's lines ask for, write the pictures, and return a record of each line, in order."""
        records: dict[int, dict[str, Any]] = {}
        samples: list[Sample] = []
        judged: list[Asked] = []
        for at, text in self.batch.read(number):
            records[at] = {"line": at + 1, "id": None}
            try:
                asked = self._asked(at, text, records[at])
            except OF_A_LINE as error:
                self._refuse(records[at], error, building)
            else:
                if asked.judged:
                    judged.append(asked)
                    continue
                samples += [Sample(asked, i, seed) for i, seed in enumerate(sample_seeds(asked.seed, asked.n))]
        total = len(judged) + len(samples)
        for start in range(0, len(judged), JUDGED):
            few = judged[start : start + JUDGED]
            for asked, found in zip(few, _each(self._judged, few), strict=True):
                if isinstance(found, Cm3Error):
                    self._refuse(records[asked.at], found, building)
                else:
                    records[asked.at] |= found
            tick(min(start + JUDGED, len(judged)))
        for start in range(0, len(samples), TOGETHER):
            some = [s for s in samples[start : start + TOGETHER] if "error" not in records[s.asked.at]]
            for sample, made in zip(some, self._made(some), strict=True):
                record = records[sample.asked.at]
                if isinstance(made, Cm3Error):
                    self._refuse(record, made, building)
                elif "error" not in record:
                    self._keep(record, sample, made, building)
            tick(min(len(judged) + start + TOGETHER, total))
        return [records[at] for at in sorted(records)]

    def _asked(self, at: int, text: bytes, record: dict[str, Any]) -> Asked:
        """Read a line; its id is noted in `record` before anything else is looked at."""
        if len(text) > LONGEST:
            raise DataError(f"has more than {LONGEST} bytes; cut it into several lines")
        values = parse_json(text, "line", DataError)
        if not isinstance(values, dict):
            raise DataError('is no object; write it as {"prompt": "a red circle"}')
        check_text(values, "line")
        if type(values.get("id")) in (str, int):
            record["id"] = values["id"]
        check_names(values, Line)
        line = build(Line, values, "line", DataError)
        if sum(one is not None for one in (line.prompt, line.task, line.document)) != 1:
            raise DataError('must have a "prompt", a "task" and its "request", or a "document", and one of these alone')
        if (line.task is None) != (line.request is None):
            raise DataError('a "task" and its "request", the fields by name, go together; give both')
        given = {name: value for name, value in vars(line).items() if value is not None and name in values}
        if line.task is None and (beside := sorted({"template", "plain", "image_guidance", "options"} & given.keys())):
            raise DataError(f'{beside[0]}: is for a "task"; leave it out')
        given = {**self.batch.settings, **given}
        settings = {name: given[name] for name in SETTINGS if name in given}
        n = whole_number("n", given["n"], 1, MOST, DataError)
        seed = given["seed"] + (at if line.seed is None else 0)
        return Asked(at, line, n, whole_number("seed", seed, 0, 2**63 - 1, DataError), settings)

    def _refuse(self, record: dict[str, Any], error: Cm3Error, building: Path) -> None:
        """Make a record one of an error, and take away what the line has made."""
        for name in record.pop("files", ()):
            (building / Path(name).name).unlink(missing_ok=True)
        told = str(error).removeprefix("line").lstrip(".: ")  # as `build` and the like begin
        kept = {"line": record["line"], "id": record["id"]}
        record.clear()
        record |= kept | {"error": f"{self.batch.name}, line {kept['line']}: {told}"}

    def _made(self, samples: list[Sample]) -> list[Generation | Reply | Cm3Error]:
        """Make samples of whatever lines in one run of the engine, which is full until the last of them wait no more.

        Where something is refused, each half is tried by itself, so that the error is that of its line.
        """
        alike: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            alike.setdefault(sample.asked.alike, []).append(i)
        found: list[Any] = [None] * len(samples)
        for places in alike.values():
            for i, one in zip(places, _each(self._prepared, [samples[i] for i in places]), strict=True):
                found[i] = one
        ready = [i for i, one in enumerate(found) if not isinstance(one, Cm3Error)]
        for i, made in zip(ready, _each(self._drawn, [(samples[i], found[i]) for i in ready]), strict=True):
            found[i] = made
        return found

    def _prepared(self, samples: Sequence[Sample]) -> list[Prepared]:
        """Lay out samples whose settings but for those of how to sample are the same."""
        lines = {s.asked.at: s.asked.line for s in samples}
        line, shared = samples[0].asked.line, samples[0].asked.shared
        options: Any = {"seeds": [s.seed for s in samples], "each": [s.asked.own for s in samples], **shared}
        if line.task is None:
            prompts = {at: self._prompt(one.prompt) for at, one in lines.items()}
            return self.model.prepare([prompts[s.asked.at] for s in samples], **options)
        requests = {at: self._request(one.request or {}) for at, one in lines.items()}
        options |= {"template": line.template, "plain": line.plain}
        return self.model.prepare_task(find_task(line.task), [requests[s.asked.at] for s in samples], **options)

    def _drawn(self, ready: Sequence[tuple[Sample, Prepared]]) -> list[Generation | Reply]:
        made = self.model.make([prepared for _, prepared in ready])
        found: list[Generation | Reply] = []
        for (sample, _), one in zip(ready, made, strict=True):
            line = sample.asked.line
            plain = self.model.puts_picture_first(line.plain)
            found.append(one if line.task is None else read_reply(find_task(line.task), one, line.template, plain))
        return found

    def _judged(self, some: Sequence[Asked]) -> list[dict[str, Any]]:
        """Say how likely documents are, and options as answers."""
        whole = [Document(self._parts(one.line.document, "document")) for one in some if one.line.document is not None]
        likely = iter(document_likelihoods(self.model, whole))
        found: list[dict[str, Any]] = []
        for _, line, *_ in some:
            if line.task is None:
                found.append(next(likely))
                continue
            request, options = self._request(line.request or {}), line.options or ()
            task = find_task(line.task)
            chances = option_likelihoods(self.model, task, request, options, line.template, line.plain)
            found.append({"options": chances})
        return found

    def _prompt(self, prompt: str | list[Any] | None) -> Document:
        """Return a prompt as a document: words, or a list of words, pictures and gaps."""
        parts = self._parts(prompt, "prompt") if isinstance(prompt, list) else prompt or ""
        return as_document(parts, self.model.vocab.grammar)

    def _parts(self, pieces: Sequence[Any], what: str) -> tuple[Part, ...]:
        parts: list[Part] = []
        for i, one in enumerate(pieces):
            if isinstance(one, str):
                parts.append(Text(one))
                continue
            piece = build(Piece, one, f"{what}[{i}]", DataError)
            if piece.gap is not None:
                parts.append(Gap(piece.gap))
            else:
                picture = self._picture(piece.image, f"{what}[{i}]")
                parts.append(picture if piece.box is None else picture.with_gap(piece.box))
        return tuple(parts)

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a task, with the pictures of the files that they name."""
        return {k: self._picture(v, f"request.{k}") if k in PICTURES else v for k, v in request.items()}

    def _picture(self, name: object, what: str) -> Image:
        if self.batch.pictures:
            return Image.open(Path(self.batch.pictures, str(name)))
        return Image.open(inside(Path(self.batch.prompts).parent, name, what))

    def _keep(self, record: dict[str, Any], sample: Sample, made: Generation | Reply, building: Path) -> None:
        """Write a picture, and note what was made in the record of its line."""
        asked, line = sample.asked, sample.asked.line
        whole = made.generation if isinstance(made, Reply) else made
        if sample.number == 0:
            record |= {"seed": asked.seed, "files": [], "bytes": [], "texts": [], "scores": []}
            record |= {"warnings": list(made.warnings), "attribution": whole.attribution}
            record |= {"left_out": [one.document.id for one in whole.left_out]}
            record |= {"settings": {"n": asked.n, **asked.settings}}
        pictures: list[PIL.Image.Image] = []
        mixed = whole.prompt.interleaved
        if isinstance(made, Reply):
            pictures = [v for v in made.fields.values() if not isinstance(v, str)][:1]
            if not pictures:
                record["texts"].append(made.text)
                record.setdefault("fields", []).append(made.fields)
        elif mixed:
            pictures = [part.pixels for part in whole.filled[0] if isinstance(part, Image)]
        else:
            holes = [part for part in whole.prompt.parts if isinstance(part, Gap) or getattr(part, "gap", None)]
            if any(hole != Gap("text") for hole in holes):
                pictures = [whole.image]
            if Gap("text") in holes:
                record["texts"].append(whole.text)
        record["scores"] += whole.scores
        if any(whole.thoughts):
            record.setdefault("thoughts", []).extend(whole.thoughts)
        said = {"prompt": line.prompt} if line.task is None else {"task": line.task, "request": line.request}
        notes = {name: v if isinstance(v, str) else json.dumps(v) for name, v in said.items()}
        notes |= {"model": str(self.batch.model["name"]), **settings_note(asked.settings)}
        notes |= {"seed": str(asked.seed), "number": str(sample.number)}
        notes |= {"attribution": json.dumps(whole.attribution)} if whole.attribution else {}
        files: list[str] = []
        for i, picture in enumerate(pictures):
            data = png(picture, notes)
            name = f"{record['line']:07d}-{sample.number}{f'-{i}' if mixed else ''}.png"
            (building / name).write_bytes(data)
            files.append(f"{self.batch.folder(asked.at // self.batch.unit).name}/{name}")
            record["bytes"].append(len(data))
        record["files"] += files
        if mixed:
            names = iter(files)
            parts = [{"text": p.text} if isinstance(p, Text) else {"image": next(names)} for p in whole.filled[0]]
            record.setdefault("answers", []).append(parts)


def _each(work: Callable[[Sequence[A]], Sequence[B]], some: Sequence[A]) -> list[B | Cm3Error]:
    """Do `work` on all; where that is refused, on each half by itself. Returns what it gives for each, or its error."""
    if not some:
        return []
    try:
        return list(work(some))
    except OF_A_LINE as error:
        if len(some) == 1:
            return [error]
    half = len(some) // 2
    return _each(work, some[:half]) + _each(work, some[half:])


@contextlib.contextmanager
def _passing() -> Iterator[Path]:
    """Give a folder that is taken away."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def draw(
    batch: Batch, rank: int, ranks: int, cluster: str | None, update: Progress, tell: Callable[[str], object]
) -> dict[str, Any] | None:
    """Draw the units of a share, `rank` of `ranks`, that are not there; with the last one of all, join their results.

    Returns the counts of all results, None where units of other ranks are not done. `update` is called with lines,
    `tell` with what is wrong with a line. Raises `RequestError` as `Batch.begin` does and while another process draws
    the same share; `DiskError` where the disk is full or may not be written to.
    """
    out = f"--out {batch.out}"
    check_folder(batch.out, out, RequestError)
    away = cluster is not None and not batch.device.startswith("cpu")  # only those of the cluster need have it
    desk = (dataclasses.replace(batch, model={**batch.model, "device": "cpu"}) if away else batch).open()
    if not desk.model.leads:
        for number in desk.agreed([]):
            desk.prepare(number)
        return None
    with locked(Path(batch.out, f".rank{rank}.lock"), out, RequestError):
        batch.begin(desk.model)
        share = range(rank, batch.units, ranks)
        todo = desk.agreed([number for number in share if batch.results(number) is None])
        total, left = (sum(len(batch.lines_of(number)) for number in some) for some in (share, todo))
        update(total - left, total)
        with contextlib.closing(_drawn(desk, todo, cluster, lambda more: update(total - left + more, total))) as units:
            for number, report in units:
                for error in report["errors"]:
                    tell(error)
                left -= len(batch.lines_of(number))
                update(total - left, total)
        return batch.join()


def _drawn(
    desk: Desk, todo: Sequence[int], cluster: str | None, tick: Callable[[int], object]
) -> Generator[tuple[int, dict[str, Any]]]:
    """Draw units, and yield each with its report."""
    if cluster is not None and todo:
        yield from map_units(cluster, desk.batch, todo)
    else:
        for number in todo:
            yield number, desk.prepare(number, tick)
