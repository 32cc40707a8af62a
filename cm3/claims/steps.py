"""A plan of steps, each done once: what is finished is recorded with the hash of all that decides it.

    Step -- digest of its settings and of the steps that it needs --> OUT/steps/NAME-DIGEST.json    done: its result
                                                                      OUT/work/NAME-DIGEST/         what it works in

A step with another setting, or that needs one with another, is another step: it gets another digest, and old records
stay where they are. A kill costs at most what the step under way cannot take up again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cm3.claims import drawn_world as world
from cm3.claims import measures
from cm3.convert.image_files import open_image_tokenizer, write_image_tokenizer
from cm3.errors import ConfigError
from cm3.files import locked, read_json, write
from cm3.model import bundle as bundles
from cm3.model.sizes import parameters
from cm3.runs import PretrainRun
from cm3.sequence.mask import MaskLaw
from cm3.train.checkpoint import last
from cm3.train.config import plain

Results = Mapping[str, Mapping[str, Any]]
"""Name of a step -> its result, plain values."""
Told = Callable[[str, int, int, float, float], None]
"""Called after each step: its name, how many are done of how many, the seconds it took now, and an estimate of those
that the rest will take."""


@dataclass(frozen=True)
class Step:
    """A part of a plan."""

    name: str
    do: Callable[[Path, Results], dict[str, Any]]
    """Given a folder of its own, which is as the last try left it, and what the steps before gave; a result with
    "stopped" is none: a signal came."""
    settings: Mapping[str, Any]
    """All that decides the result, plain values."""
    seconds: float
    """Estimate of its price."""
    needs: tuple[str, ...] = ()
    """Steps that must be done before."""
    serves: tuple[int, ...] = ()
    """Numbers of the statements that it is for."""


def for_statements(steps: Sequence[Step], numbers: Sequence[int]) -> list[Step]:
    """Return the steps of some statements, in order, and those that they need."""
    wanted = set[str]()
    for step in reversed(steps):
        if step.name in wanted or {*numbers} & {*step.serves}:
            wanted |= {step.name, *step.needs}
    return [step for step in steps if step.name in wanted]


def digests(steps: Sequence[Step]) -> dict[str, str]:
    """Return the digest of each step, by name.

    Raises `ConfigError` for a name that stands there twice, and for a step that needs one that does not stand before
    it.
    """
    found: dict[str, str] = {}
    for step in steps:
        if step.name in found:
            raise ConfigError(f"step {step.name!r}: stands there twice; give each a name of its own")
        if lacking := [name for name in step.needs if name not in found]:
            raise ConfigError(f"step {step.name!r}: needs {lacking[0]!r}, which does not stand before it")
        page = [step.name, step.settings, [found[name] for name in step.needs]]
        found[step.name] = hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()[:12]
    return found


def work(steps: Sequence[Step], out: str | Path, told: Told = lambda *_: None) -> dict[str, Any]:
    """Do what is not done yet, in order. Returns {"results": ... by step, "processor_s": ...}, or {"stopped": signal}.

    Seconds, and those of the processor, are of the last try of a step: of what a kill cost they know nothing.

    Raises `ConfigError` as `digests` does, and where another process works in `out`; `CheckpointError` for a record
    that is damaged.
    """
    names, out = digests(steps), Path(out)
    results: dict[str, Mapping[str, Any]] = {}
    seconds: dict[str, float] = {}
    processor = 0.0
    with locked(out / ".lock", f"plan in {str(out)!r}"):
        for number, step in enumerate(steps, 1):
            mark = f"{step.name}-{names[step.name]}"
            record, spent = out / "steps" / f"{mark}.json", 0.0
            if not record.exists():
                began, worked = time.perf_counter(), time.process_time()
                result = step.do(out / "work" / mark, results)
                if "stopped" in result:
                    return {"stopped": result["stopped"]}
                spent = time.perf_counter() - began
                page = {"step": step.name, "settings": step.settings, "seconds": round(spent, 1)}
                page |= {"processor_s": round(time.process_time() - worked, 1), "result": result}
                write(record, json.dumps(page))
            kept = read_json(record, f"record {str(record)!r}")
            results[step.name], seconds[step.name] = kept["result"], kept["seconds"]
            processor += kept["processor_s"]
            told(step.name, number, len(steps), spent, left(steps[number:], steps[:number], seconds))
    return {"results": results, "processor_s": processor}


def left(rest: Sequence[Step], done: Sequence[Step], seconds: Mapping[str, float]) -> float:
    """Return an estimate of the seconds of the rest: their prices, times what those that are done took over theirs."""
    priced = sum(step.seconds for step in done)
    taken = sum(seconds[step.name] for step in done)
    return sum(step.seconds for step in rest) * (taken / priced if priced and taken else 1.0)


def trained(
    name: str, run: PretrainRun, seconds: float, after: str = "", about: str = "", serves: tuple[int, ...] = ()
) -> Step:
    """Return the step of a run, which goes on from its last checkpoint; `after`: the step whose model it begins with.

    Without one it begins from nothing, with the tokenizers of the bundle that ships, which `about` names by checksum.
    """

    def do(folder: Path, results: Results) -> dict[str, Any]:
        if last(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)  # of a try that was killed before its first checkpoint
        begun: dict[str, Any] = {"init": str(folder.parent / results[after]["bundle"])} if after else {}
        if not after:
            tokenizer = folder.parent / "image_tokenizer"
            if not (tokenizer / "config.json").exists():
                write_image_tokenizer(open_image_tokenizer(world.BUNDLE), tokenizer)
            if not folder.exists():
                write(folder / "tokenizer.json", (world.BUNDLE / "tokenizer.json").read_bytes())
            begun["image_tokenizer"] = str(tokenizer)
        made = dataclasses.replace(run, out=str(folder), **begun).run(progress=False, resume=True)
        if "stopped" in made:
            return {"stopped": made["stopped"]}
        config = bundles.load(folder / "bundle", weights=False).decoder.config
        return {"bundle": f"{folder.name}/bundle", "parameters": parameters(config), "tokens": tokens_of(run)}

    settings = plain(dataclasses.asdict(run)) | {"world": about, "kind": type(run.data).__name__}
    for free in ("out", "init", "image_tokenizer", "threads", "save_every", "log_every"):
        settings.pop(free)
    settings["data"].pop("encoder", None)  # a path; it is one of the bundle's files
    return Step(name, do, settings, seconds, (after,) if after else (), serves)


def tokens_of(run: PretrainRun) -> int:
    """Return the tokens that a run trains on, those that pad the ends of windows included."""
    return run.steps * run.windows * run.length


def measured(
    name: str,
    measure: str,
    seconds: float,
    of: str = "",
    about: str = "",
    serves: tuple[int, ...] = (),
    **settings: Any,
) -> Step:
    """Return the step of a function of measures.py; `of`: the step whose model it measures, or the bundle's name."""

    def do(folder: Path, results: Results) -> dict[str, Any]:
        model = str(folder.parent / results[of]["bundle"]) if of in results else of
        found: dict[str, Any] = getattr(measures, measure)(*([model] if of else []), **settings)
        return found

    decides = {"measure": measure, "version": measures.VERSION, "world": about, **plain(_nested(settings))}
    return Step(name, do, decides, seconds, () if of in ("", world.NAME) else (of,), serves)


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: dataclasses.asdict(v) if isinstance(v, MaskLaw) else v for k, v in settings.items()}
