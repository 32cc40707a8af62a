"""A run of `cm3 convert`: from one layout to another, file by file, resumed where it was stopped.

Files are made in a hidden folder beside the place, .NAME.converting, with a note of the plan and of each that is done.
At the end they become the place in one step. The same command goes on after the last file that was done; another plan,
or a source that was changed, begins anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from cm3.bars import bar
from cm3.convert.language_models import Model, is_bundle, open_model
from cm3.convert.problems import told_of
from cm3.convert.targets import Step, steps_of
from cm3.errors import CheckpointError, Cm3Error, ConfigError
from cm3.files import check_folder, locked, on_disk, parse_json, replacing_folder, write
from cm3.model.bundle import check_place
from cm3.sequence.turns import prompt_format

_NOTE = "converting.json"
_LAST = {"bundle": "config.json", "chameleon-hf": "config.json", "chameleon-meta": "params.json"}


def convert(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    shards: int | None = None,
    dtype: str | None = None,
    text_tokenizer: str | Path | None = None,
    image_tokenizer: str | Path | None = None,
    size: int | None = None,
    prompts: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the model of `source` to the folder `out` in the layout `to`; returns what it is and was.

    `shards` and `dtype` as `steps_of` has them; the tokenizers and `size` as `open_model`; `prompts` is the format that
    a bundle is asked in (`cm3.sequence.turns`), None that of the source. Weights are read and written one by one.
    Raises `ConfigError` for a place that holds anything but a bundle where one is written, and that is the source or in
    a bundle that is, and one `CheckpointError` that lists all that is wrong with the source: then nothing is written.
    Where a weight is no number, a bundle was altered, or the source is changed meanwhile, what was made of it is taken
    away.
    """
    out = Path(out).expanduser()
    _check(Path(source).expanduser(), out, to)
    model = open_model(source, text_tokenizer, image_tokenizer, size)
    if prompts is not None:
        if to != "bundle":
            raise ConfigError(f"prompts={prompts!r}: a bundle alone says how it is asked; leave it out with to={to!r}")
        model = model._replace(about={**model.about, "prompt_format": prompts})
        prompt_format(model.about, model.ids.vocab)
    steps, last = steps_of(model, to, shards, dtype)
    plan = _plan(model, [to, str(shards), str(dtype), *(f"{s.file} {s.bytes}" for s in steps)])
    out = Path(os.path.realpath(out))
    work = out.with_name(f".{out.name}.converting")
    with locked(out.with_name(f".{out.name}.converting.lock"), f"{str(out)!r}"):
        done = _begun(work, plan)
        try:
            # A bundle's weights are summed beside the writing: by itself that would take a third of the time.
            with ThreadPoolExecutor(1) as beside:
                checked = beside.submit(model.check)
                with bar(to, total=sum(step.bytes for step in steps), unit="B", wanted=progress) as shown:
                    for step in steps:
                        _carry_out(work, step, done, plan, shown.update)
                checked.result()
            if model.weights is not None:
                model.weights.check_unchanged()
        except CheckpointError:  # of the source: the same command would not go on
            shutil.rmtree(work, ignore_errors=True)
            raise
        with on_disk(out):
            (work / _LAST[to]).write_text(last({name: found["sha256"] for name, found in done.items()}))
            with replacing_folder(out) as building:
                for path in sorted(work.iterdir()):
                    if path.name != _NOTE:
                        os.rename(path, building / path.name)
                os.chmod(building, 0o755)
            shutil.rmtree(work)
    c = model.config
    return {
        "out": str(out), "to": to, **{n: model.converted[n] for n in ("from", "shards") if n in model.converted},
        "files": len(steps) + 1, "bytes": sum(step.bytes for step in steps), "d_model": c.d_model, "layers": c.layers,
        "heads": c.heads, "kv_heads": c.kv_heads or c.heads, "order": c.norm_order, "vocabulary": c.vocab_size,
        "warnings": told_of(model.converted),
    }  # fmt: skip


def _check(source: Path, out: Path, to: str) -> None:
    """Raise `ConfigError` where nothing may be written."""
    here, there = Path(os.path.realpath(source)), Path(os.path.realpath(out))
    if there.is_symlink():
        raise ConfigError(f"{str(out)!r}: is a link that leads in a circle; give another folder")
    if here == there:
        raise ConfigError(f"{str(out)!r}: is the source itself; give another folder")
    if here in there.parents and is_bundle(here):
        raise ConfigError(f"{str(out)!r}: lies in the bundle that is the source; give a folder outside")
    if to == "bundle":
        check_place(out)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r}: is there already; give a new folder")
    check_folder(out.parent, repr(str(out)))


def _plan(model: Model, facts: list[str]) -> str:
    """Return a name for what is to be done: of another plan nothing is taken over."""
    shards = () if model.weights is None else model.weights.shards
    states = [(str(shard.path.resolve()), shard.path.stat()) for shard in shards]
    facts = [*facts, *(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in states)]
    image = hashlib.sha256()  # of all digits: VQGAN.fingerprint rounds
    for name, tensor in model.image.vqgan.state_dict().items():
        image.update(name.encode())
        image.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    facts += [
        image.hexdigest(),
        repr(model.image.vqgan.config),
        str(model.image.size),
        repr(sorted(model.image.about.items())),
        repr(model.config),
        hashlib.sha256(model.text).hexdigest(),
        repr(sorted(model.converted.items())),
        repr(model.about),
        repr(model.sampling),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _begun(work: Path, plan: str) -> dict[str, dict[str, Any]]:
    """Return the files that are done, name -> bytes and sha256, of the same plan; of another, or of none, begin."""
    try:
        note = parse_json((work / _NOTE).read_bytes(), _NOTE)
        if note["plan"] == plan:
            return {n: found for n, found in note["done"].items() if (work / n).stat().st_size == found["bytes"]}
    except (OSError, Cm3Error, TypeError, KeyError, AttributeError):
        pass
    with on_disk(work):
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
    return {}


def _carry_out(work: Path, step: Step, done: dict[str, dict[str, Any]], plan: str, made: Callable[[int], Any]) -> None:
    """Write one file and note it, or leave it where that was done."""
    if step.file in done:
        made(step.bytes)
        return
    path = work / step.file
    done[step.file] = dataclasses.asdict(step.write(path, made))
    with on_disk(path):
        os.chmod(path, 0o644)
    write(work / _NOTE, json.dumps({"plan": plan, "done": done}))
