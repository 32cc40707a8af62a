"""Checkpoints of a run: everything that the next step depends on, written beside the training, on any number of ranks.

    checkpoints/00000400/                             whole, or not there: written under a hidden name, then renamed
        shard-00001-model-00001-of-00001.safetensors  tensors of rank 0, by torch.distributed.checkpoint; one a rank
        state.json                                    step, loader, config, vocabulary: plain values
        manifest.json                                 size and sha256 of every other file
    checkpoints/00000600/                             the last one is the one with the greatest number

`save` copies the tensors and returns; a thread writes them. Nothing in a checkpoint is a pickle.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from cm3.errors import CheckpointError, ConfigError, DivergedError
from cm3.files import FULL, check_folder, parse_json, said, sha256, sync
from cm3.parallel import Mesh
from cm3.train.collective import Ranks
from cm3.weights import not_finite

FORMAT = 1
LEAVE = 60
"""Seconds that a run which failed waits for its last checkpoint."""
KIND = "cm3-checkpoint"
OLD = "checkpoint.pt"
"""Files of runs that an earlier version trained."""
HIDDEN = re.compile(r"\.\d{8,}(\.old)?")
"""A checkpoint on its way in, or out."""
MANIFEST, STATE, SUFFIX = "manifest.json", "state.json", ".safetensors"


class Checkpoints:
    """The checkpoints of one run. Every process makes one and calls the same methods in the same order.

    The folder is one that all processes see. `keep`: how many of the newest stay; one whose step is a multiple of
    `milestone` stays for ever, 0 is none.
    """

    def __init__(self, folder: Path, mesh: Mesh, keep: int = 2, milestone: int = 0) -> None:
        self.folder, self.keep, self.milestone = folder, keep, milestone
        self.ranks = Ranks(mesh)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def latest(self) -> int | None:
        """Return the step of the last checkpoint; None where there is none."""
        return self.ranks.together(lambda: max(steps(self.folder), default=None))[0]

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Copy the tensors and begin to write them; `state` is plain values, equal on every process.

        Waits for the save before this one. Raises `CheckpointError`, on every process, where that one failed;
        `DivergedError` for a tensor that is not finite, and writes nothing.
        """
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self.wait()
        if name := self._not_finite(tensors):
            raise DivergedError(
                f"step {step}: {name} has values that are not finite; lower the learning rate; the "
                "last checkpoint is good: go on from it with --resume"
            )
        # The format knows no other layout in memory, such as channels last.
        dense = {name: t if isinstance(t, DTensor) else t.contiguous() for name, t in tensors.items()}
        copies = DefaultStager(StagingOptions(False, False, False, False)).stage(dense)
        text = json.dumps({"format": FORMAT, "step": step, **state})
        self._thread = threading.Thread(target=self._run, args=(step, copies, text), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until what was begun is written. Raises `CheckpointError`, on every process, where it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def leave(self) -> None:
        """Give what was begun time to end, whatever came of it."""
        if self._thread is not None:
            self._thread.join(LEAVE)

    def read(self, step: int | None = None) -> tuple[int, dict[str, Any]]:
        """Check a checkpoint, the last one by default, and read its plain values: (step, state).

        Raises `CheckpointError`, on every process, naming the file that is missing or was altered.
        """
        known = self.ranks.together(lambda: sorted(steps(self.folder)))[0]
        if not known or step not in (None, *known):
            why = (
                f" of step {step}, but of {', '.join(map(str, known))}" if known else "; start the run without --resume"
            )
            raise CheckpointError(f"checkpoints in {str(self.folder)!r}: there is none{why}")
        found = known[-1] if step is None else step
        self.ranks.together(lambda: self._check(found))
        try:
            return found, parse_json((self._path(found) / STATE).read_bytes(), STATE, nan=True)
        except (OSError, ValueError) as error:
            raise self._broken(found, STATE, f"cannot be read ({error})") from error

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill these tensors, sharded or not, in place, with those of the same names in a checkpoint that was checked.

        Raises `CheckpointError`, on every process, for a name that it lacks, another shape, and values that are not
        finite.
        """
        import torch.distributed.checkpoint as dcp

        _quiet()
        reader = dcp.HuggingFaceStorageReader(str(self._path(step)))
        try:
            dcp.load(
                dict(tensors),
                storage_reader=reader,
                process_group=self.ranks.group,
                no_dist=self.ranks.group is None,
            )
        except dcp.CheckpointException as error:
            raise CheckpointError(
                f"checkpoint {str(self._path(step))!r}: does not fit this run ({_reason(error)}); give the settings "
                "that it was made with, or another out"
            ) from error
        if name := self._not_finite(tensors):
            raise self._broken(step, name, "has values that are not finite")

    def _not_finite(self, tensors: Mapping[str, Tensor]) -> str:
        """Return the first tensor, of any process, with such a value."""
        local = {n: t.to_local() if isinstance(t, DTensor) else t for n, t in tensors.items()}
        return next(filter(None, self.ranks.gather(not_finite(local))), "")

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:08d}"

    def _run(self, step: int, copies: Any, text: str) -> None:
        try:
            self._write(step, copies, text)
        except Exception as error:
            hidden = self._hidden(step)
            if self.ranks.main:
                shutil.rmtree(hidden, ignore_errors=True)
            last = max(steps(self.folder), default=None)
            kept = "there is no earlier one" if last is None else f"the one of step {last} is kept"
            self._error = CheckpointError(
                f"checkpoint {str(self._path(step))!r}: can not be written ({_reason(error)}); {kept}; make room or "
                "mend that, then go on with --resume"
            )
            self._error.__cause__ = error

    def _hidden(self, step: int) -> Path:
        return self.folder / f".{step:08d}"

    def _write(self, step: int, copies: Any, text: str) -> None:
        import torch.distributed.checkpoint as dcp

        class Writer(dcp.HuggingFaceStorageWriter):
            """Tells what this process wrote: on NFS a folder is for a moment not the same to all who list it."""

            def write_data(self, plan: Any, planner: Any) -> Any:
                written = super().write_data(plan, planner)
                mine.update(result.storage_data.relative_path for result in written.wait())
                return written

        _quiet()
        hidden, ranks, mine = self._hidden(step), self.ranks, set[str]()
        ranks.together(lambda: self._clean(hidden) if ranks.main else None)
        try:
            dcp.save(
                copies,
                storage_writer=Writer(str(hidden), save_distributed=True),
                process_group=ranks.group,
                no_dist=ranks.group is None,
            )
        except dcp.CheckpointException as error:
            raise RuntimeError(_reason(error)) from error
        told = ranks.together(lambda: {name: _digest(hidden / name) for name in sorted(mine)})
        files = {name: digest for part in told for name, digest in part.items()}
        ranks.together(lambda: self._finish(step, text, files) if ranks.main else None)

    def _clean(self, hidden: Path) -> None:
        """Remove what a killed run left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if HIDDEN.fullmatch(path.name) and path.is_dir():
                shutil.rmtree(path)
        hidden.mkdir()

    def _finish(self, step: int, text: str, files: dict[str, Any]) -> None:
        hidden, path = self._hidden(step), self._path(step)
        _put(hidden / STATE, text)
        files[STATE] = _digest(hidden / STATE)
        _put(hidden / MANIFEST, json.dumps({"kind": KIND, "format": FORMAT, "files": files}, indent=1) + "\n")
        for folder in (hidden, self.folder):
            sync(folder)
        self._remove(path)
        os.replace(hidden, path)
        sync(self.folder)
        for old in sorted(steps(self.folder))[: -self.keep]:
            if not (self.milestone and old % self.milestone == 0):
                self._remove(self._path(old))

    def _remove(self, path: Path) -> None:
        if path.exists():
            # Hidden first: half a checkpoint must not stand under a whole one's name.
            gone = path.with_name(f".{path.name}.old")
            os.replace(path, gone)
            shutil.rmtree(gone)

    def _check(self, step: int) -> None:
        """Compare this process's share of the files with the manifest."""
        path = self._path(step)
        try:
            manifest = parse_json((path / MANIFEST).read_bytes(), MANIFEST)
            files: dict[str, list[Any]] = dict(manifest["files"])
            if manifest["kind"] != KIND or manifest["format"] != FORMAT:
                raise ValueError(f"is of format {manifest['format']}, this version reads {FORMAT}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._broken(step, MANIFEST, f"cannot be read ({error})") from error
        for name in sorted(p.name for p in path.glob(f"*{SUFFIX}")):
            if name not in files:
                raise self._broken(step, name, "is not one of its files")
        for name in [STATE, *sorted(files)[self.ranks.number :: self.ranks.count]]:
            file = path / name
            if not file.is_file():
                raise self._broken(step, name, "is missing")
            if _digest(file) != files.get(name):
                raise self._broken(step, name, "was altered (its checksum is not the manifest's)")

    def _broken(self, step: int, name: str, why: str) -> CheckpointError:
        before = max((s for s in steps(self.folder) if s < step), default=None)
        remedy = "start again" if before is None else f"go on from step {before}"
        return CheckpointError(
            f"checkpoint {str(self._path(step))!r}: {name} {why}; restore it, or delete that folder to {remedy}"
        )


def steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, in no order."""
    if not folder.is_dir():
        return []
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir()]


def last(out: Path) -> int | None:
    """Return the step of the last checkpoint of the run in `out`; None where there is none."""
    return max(steps(out / "checkpoints"), default=None)


def check_new(out: Path, resume: bool) -> None:
    """Refuse to write over a run that is in `out`, unless it is to be continued, and where no folder can be.

    Raises `ConfigError`, and makes nothing.
    """
    check_folder(out, f"out={str(out)!r}")
    if not resume and ((out / OLD).exists() or last(out) is not None):
        raise ConfigError(f"out={str(out)!r}: holds a run already; continue it with --resume, or give another --out")


def _digest(path: Path) -> list[Any]:
    """Return [size in bytes, sha256]; a list, as JSON gives it back."""
    return [path.stat().st_size, sha256(path)]


def _put(path: Path, text: str) -> None:
    path.write_text(text)
    sync(path)


def _reason(error: BaseException) -> str:
    """Return one line of what went wrong, on the first process where it did."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (first, _) = next(iter(sorted(failures.items())))
        return f"process {rank}: {_reason(first)}"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full: {error.strerror}"
    return said(error)


def _quiet() -> None:
    # torch warns that one process is one process.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
