"""Which documents of a bank each training document may be given, worked out once and kept on disk.

    documents -> vectors -> search in blocks, one part file each -> neighbours.safetensors

Searching while training would cost more than training does; the paper's authors stored neighbours with their data as
well (docs/paper.md 1.5). A table holds up to four neighbours for each document, found by `cm3.retrieval.select`, and
training draws from those.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cm3.errors import CheckpointError, DataError, RequestError
from cm3.files import on_disk, parse_json, replacing, said, write
from cm3.retrieval.embed import Vectors, plain_words
from cm3.retrieval.index import Progress
from cm3.retrieval.select import MOST, Bank, By, Candidate, SelectLaw, check, choose, shortlists

FORMAT = "cm3-neighbours-2"
BLOCK = 1024
"""Documents searched for at a time, and most that a kill loses."""

_WHOLE = 2
"""Bit of `kinds` that says whole; bit 0 says found by image."""


class IdBank(Bank, Protocol):
    """A bank that also names its documents."""

    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, id: str, /) -> bool: ...


class Neighbours:
    """A table of neighbours, memory-mapped. Make one with `compute`, read one with `open`."""

    def __init__(self, path: Path, about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """`tensors` as stored: `rows` int32 (n, m), -1 where there is none, `scores` float32 and `kinds` uint8.

        `names` are the ids of all documents that are a neighbour of some.
        """
        self.path, self.about = path, about
        self.encoder_name: str = about["encoder"]
        self._rows, self._scores, self._kinds = (tensors[name].numpy() for name in ("rows", "scores", "kinds"))
        self.names: list[str] = _decode(tensors["names"])
        self._place = {id: i for i, id in enumerate(_decode(tensors["ids"]))}

    @classmethod
    def compute(
        cls,
        path: str | Path,
        memory: IdBank,
        ids: Sequence[str],
        vectors: Vectors,
        *,
        law: SelectLaw | None = None,
        block: int = BLOCK,
        progress: Progress | None = None,
    ) -> Neighbours:
        """Find the neighbours in `memory` of documents `ids` with `vectors`, and write the table to the file `path`.

        `vectors` are by the bank's encoder; query dropout, where wanted, is the business of who makes them
        (`cm3.retrieval.select.as_query`). A document is no neighbour of itself, nor is one that shows its
        picture, under whatever caption or id (`cm3.retrieval.select`), or has its very words. Parts are kept in
        `path` + ".parts" until all is done, so a killed run goes on where it was; a table that is there
        already, of the same documents, bank and law, is opened as it is, and another one is replaced in one
        step. One process at a time may write to a path. `progress(done, n, "neighbours")` is called after each
        block. Raises `DataError` for no documents, ids that occur twice, and vectors of another number or
        width; `RequestError` for an empty bank.
        """
        path, law = Path(path), law or SelectLaw()
        if path.is_dir():
            raise DataError(f"neighbours {str(path)!r}: is a folder; give a file")
        check(memory, memory.encoder_name)
        if not ids or len(set(ids)) != len(ids):
            raise DataError("neighbours: takes one id for each of at least one document, each id once")
        width = memory.vectors([next(iter(memory))]).shape[1]
        if vectors.texts.shape != (len(ids), width) or vectors.images.shape != (len(ids), width):
            raise DataError(
                f"neighbours: {len(ids)} documents and a bank of width {width}, but vectors of shapes "
                f"{vectors.texts.shape} and {vectors.images.shape}; embed these documents with the bank's encoder"
            )
        job = {"law": dataclasses.asdict(law), "block": block, "encoder": memory.encoder_name}
        job["inputs"] = _digest_of_inputs(memory, ids, vectors)
        if path.exists():
            try:
                if (done := cls.open(path)).about["job"] == job:
                    return done
            except CheckpointError:
                pass  # damaged: written anew
        parts = path.with_name(f"{path.name}.parts")
        _start(parts, job)
        for start in range(0, len(ids), block):
            part = parts / f"{start:012d}.safetensors"
            stop = min(start + block, len(ids))
            of = {"start": start, "job": job}
            if not _is_whole(part, of):
                some = slice(start, stop)
                skip = [{id} for id in ids[some]]
                shown = _pictures(memory, ids[some], vectors.pictures[some])
                words = _words(memory, ids[some], vectors.words[some])
                found = shortlists(memory, vectors.texts[some], vectors.images[some], skip, law, shown, words)
                _write(part, _as_tensors(found, law.by_text + law.by_image), of)
            if progress is not None:
                progress(stop, len(ids), "neighbours")
        tensors = _joined([parts / f"{start:012d}.safetensors" for start in range(0, len(ids), block)], ids)
        _write(path, tensors, {"format": FORMAT, "encoder": memory.encoder_name, "job": job})
        shutil.rmtree(parts)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, memory: Bank | None = None) -> Neighbours:
        """Read a table; with `memory`, it must be one for that bank's encoder.

        Raises `CheckpointError` for a file that is missing, damaged, no table, or of another encoder.
        """
        path = Path(path)
        if not path.exists():
            raise CheckpointError(f"neighbours {str(path)!r}: no such file; compute the table first")
        about, tensors = _read(path)
        if about.get("format") != FORMAT:
            raise CheckpointError(f"neighbours {str(path)!r}: is no table of format {FORMAT}; compute it again")
        if not isinstance(about.get("encoder"), str) or not isinstance(about.get("job"), dict):
            raise CheckpointError(f"neighbours {str(path)!r}: does not say of what it was made; compute it again")
        _check_layout(path, tensors, (*_PART, "ids"))
        if memory is not None and memory.encoder_name != about["encoder"]:
            raise CheckpointError(
                f"neighbours {str(path)!r}: was computed with the encoder {about['encoder']!r}, the bank has "
                f"{memory.encoder_name!r}; compute the table again"
            )
        return cls(path, about, tensors)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, id: str) -> bool:
        return id in self._place

    def __iter__(self) -> Iterator[str]:
        """Ids of the documents that have neighbours here."""
        return iter(self._place)

    def ranked(self, id: str) -> list[Candidate]:
        """All neighbours of a document, best first. Raises `DataError` for one that is not in the table."""
        if id not in self._place:
            raise DataError(f"neighbours {str(self.path)!r}: has no document {id!r}; compute a table with it")
        at = self._place[id]
        found = []
        for row, score, kind in zip(self._rows[at], self._scores[at], self._kinds[at], strict=True):
            if row >= 0:
                by: By = "image" if kind & 1 else "text"
                found.append(Candidate(self.names[row], float(score), by, bool(kind & _WHOLE)))
        return found

    def of(self, id: str, k: int, rng: np.random.Generator | None = None) -> list[str]:
        """Ids of `k` neighbours of a document, drawn by `rng` in an order by chance, or the best first without it.

        Fewer where there are fewer. Raises `RequestError` for `k` outside 0..3, `DataError` as `ranked` does.
        """
        if not 0 <= k <= MOST:
            raise RequestError(f"k={k}: must be 0 to {MOST} documents")
        return [c.id for c in choose(self.ranked(id), k, rng)]


def _start(parts: Path, job: dict[str, Any]) -> None:
    """Make the folder of parts, or keep the one of a killed run of the same job; another job's is thrown away."""
    note, text = parts / "job.json", json.dumps(job, sort_keys=True)
    if parts.is_symlink() or parts.exists() and not parts.is_dir():
        raise DataError(f"neighbours: {str(parts)!r} is no folder of ours; move it away")
    with on_disk(parts):
        if parts.exists() and not (note.is_file() and note.read_bytes() == text.encode()):
            shutil.rmtree(parts)
        if not parts.exists():
            parts.mkdir(parents=True)
            write(note, text)


def _pictures(memory: IdBank, ids: Sequence[str], given: Sequence[Set[bytes]]) -> list[Set[bytes]]:
    """Return what the pictures of documents show, as far as it was given or the bank has the document."""
    known = list(given) or [frozenset[bytes]()] * len(ids)
    return [one or (memory.pictures([id])[0] if id in memory else one) for id, one in zip(ids, known, strict=True)]


def _words(memory: IdBank, ids: Sequence[str], given: Sequence[str]) -> list[str]:
    """What documents say, as far as it was given or the bank has the document."""
    known = list(given) or [""] * len(ids)
    return [one or (plain_words(memory[id].text) if id in memory else one) for id, one in zip(ids, known, strict=True)]


def _as_tensors(found: list[list[Candidate]], width: int) -> dict[str, torch.Tensor]:
    """Shortlists as arrays; `rows` points into `names`, the ids found here."""
    names = sorted({c.id for row in found for c in row})
    place = {id: i for i, id in enumerate(names)}
    rows = torch.full((len(found), width), -1, dtype=torch.int32)
    scores = torch.zeros((len(found), width), dtype=torch.float32)
    kinds = torch.zeros((len(found), width), dtype=torch.uint8)
    for i, row in enumerate(found):
        for j, c in enumerate(row):
            rows[i, j], scores[i, j] = place[c.id], c.score
            kinds[i, j] = _WHOLE * c.whole + (c.by == "image")
    return {"rows": rows, "scores": scores, "kinds": kinds, "names": _encode(names)}


def _joined(parts: Sequence[Path], ids: Sequence[str]) -> dict[str, torch.Tensor]:
    """The parts as one table."""
    blocks = [_read(part)[1] for part in parts]
    names = sorted({id for b in blocks for id in _decode(b["names"])})
    place = {id: i for i, id in enumerate(names)}
    for b in blocks:
        # The last entry is for -1, no neighbour.
        moved = torch.tensor([*(place[id] for id in _decode(b["names"])), -1], dtype=torch.int32)
        b["rows"] = moved[b["rows"].long()]
    joined = {name: torch.cat([b[name] for b in blocks]).contiguous() for name in ("rows", "scores", "kinds")}
    return joined | {"names": _encode(names), "ids": _encode(list(ids))}


def _encode(strings: Sequence[str]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(json.dumps(list(strings)).encode(), np.uint8).copy())


def _decode(tensor: torch.Tensor) -> list[str]:
    """Return the strings of a tensor. Raises `DataError` where it has none."""
    strings = parse_json(tensor.numpy().tobytes(), "ids")
    if not isinstance(strings, list) or not all(isinstance(s, str) for s in strings):
        raise DataError("ids: are no list of strings")
    return strings


_PART = ("rows", "scores", "kinds", "names")
_DTYPES = {"rows": torch.int32, "scores": torch.float32}
"""All others are uint8."""


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what a file says of itself, and its tensors. Raises `CheckpointError` for one that was altered."""
    where = f"neighbours {str(path)!r}"
    if not path.is_file():
        raise CheckpointError(f"{where}: is no file; compute the table again")
    try:
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {}).get("about", "{}"), "about")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors and torch raise their own kinds
        raise CheckpointError(f"{where}: damaged ({said(error)}); compute the table again") from error
    if not isinstance(about, dict) or about.get("format", FORMAT) != FORMAT or "sha256" not in about:
        raise CheckpointError(f"{where}: is no table of format {FORMAT}; compute it again")
    if about["sha256"] != _digest(about, tensors):
        raise CheckpointError(f"{where}: was altered (its checksum is another); compute the table again")
    return about, tensors


def _check_layout(path: Path, tensors: dict[str, torch.Tensor], names: Sequence[str]) -> None:
    """Raise `CheckpointError` for tensors that are no table, or no part of one."""
    try:
        shape = tensors["rows"].shape
        known = len(_decode(tensors["names"]))
        fit = sorted(tensors) == sorted(names) and len(shape) == 2
        fit = fit and all(t.dtype == _DTYPES.get(name, torch.uint8) for name, t in tensors.items())
        fit = fit and all(tensors[name].shape == shape for name in _PART[:3])
        if fit and shape.numel():
            fit = -1 <= int(tensors["rows"].min()) and int(tensors["rows"].max()) < known
        if fit and "ids" in names:
            ids = _decode(tensors["ids"])
            fit = len(ids) == shape[0] == len(set(ids))
    except (KeyError, TypeError, DataError):
        fit = False
    if not fit:
        raise CheckpointError(f"neighbours {str(path)!r}: holds something else than a table; compute it again")


def _is_whole(part: Path, of: dict[str, Any]) -> bool:
    """Tell whether a part is there as it was written, of that job and those documents."""
    try:
        about, tensors = _read(part)
        _check_layout(part, tensors, _PART)
    except CheckpointError:
        return False
    return {name: value for name, value in about.items() if name != "sha256"} == of


def _write(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write a file so that it is there whole or not at all, with a checksum of all that it says."""
    about = about | {"sha256": _digest(about, tensors)}
    with replacing(path) as part:
        save_file(tensors, part, metadata={"about": json.dumps(about)})


def _digest(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    rest = {name: value for name, value in about.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_of_inputs(memory: IdBank, ids: Sequence[str], vectors: Vectors) -> str:
    """What the neighbours follow from, beside the law: the documents' ids and vectors, and the bank's."""
    digest = hashlib.sha256(json.dumps(list(ids)).encode())
    for array in (vectors.texts, vectors.images):
        digest.update(np.ascontiguousarray(array, np.float32).data)
    digest.update(json.dumps([sorted(d.hex() for d in some) for some in vectors.pictures]).encode())
    digest.update(json.dumps(vectors.words).encode())
    names = sorted(memory)
    for start in range(0, len(names), 1 << 16):
        some = names[start : start + (1 << 16)]
        digest.update(json.dumps(some).encode())
        for array in (memory.vectors(some), memory.images(some)):
            digest.update(np.ascontiguousarray(array, np.float32).data)
    return digest.hexdigest()
