"""Tensors of one file or of many as one mapping: safetensors and files of torch.save, in shards or whole.

A file is told by its contents, never by its name; a folder by its index, or by the files of weights in it. Nothing is
read but headers until a tensor is asked for. Files of model-parallel ranks (Meta's consolidated.00.pth ...) hold the
same names each: `ranks` says how many there are, and `read(name, rank)` gives a rank's part.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cm3.convert.mapped import MappedFile
from cm3.convert.pickles import Left, Pickled, Stored, is_pickled, read_pickled, walk
from cm3.convert.problems import refuse, some
from cm3.errors import CheckpointError
from cm3.files import inside, parse_json, read_json

SAFETENSORS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
}
"""Number types by safetensors' name."""
HEADER_BYTES = 100_000_000
"""Most bytes of a safetensors header: the library's own limit."""
GROUPS = ("state_dict", "ema", "model", "module")
"""Where the weights of a file of torch.save are, if not at the top: the first of these that is there."""
SUFFIXES = (".safetensors", ".pth", ".bin", ".pt", ".ckpt")
"""Names of files of weights in a folder without an index; the first kind that is there is taken."""
_COUNTED = re.compile(r"(.*?)(\d{5})-of-(\d{5})(\.[a-z]+)")
_RANKED = re.compile(r"(consolidated\.)(\d{2})(\.[a-z]+)")


class Entry(NamedTuple):
    """A tensor before it is read: its shape and number type, and the file that holds it (of rank 0)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    shard: str


@dataclass
class Shard:
    """One file: its `kind` ("safetensors" or "pickle"), its tensors, and what else is in it."""

    path: Path
    kind: str
    file: MappedFile
    tensors: dict[str, Stored]
    metadata: dict[str, str] = field(default_factory=dict)
    """Of safetensors."""
    groups: dict[str, int] = field(default_factory=dict)
    """Tensors of each group of a pickle, by its name; those at the top are in "" (see `GROUPS`)."""
    group: str = ""
    """The group that `tensors` are of."""
    nones: list[str] = field(default_factory=list)
    """Names with None for a tensor."""
    plain: dict[str, Any] = field(default_factory=dict)
    """Numbers, words and lists of a pickle outside its group of weights: epoch, hyper_parameters ..."""
    skipped: list[str] = field(default_factory=list)
    """Classes of objects of a pickle that were left out."""


class TensorFiles(Mapping[str, Entry]):
    """Name -> `Entry` over all shards; `read` gives a tensor. `shards` are the files, in order."""

    def __init__(self, path: Path, shards: Sequence[Shard]) -> None:
        """Join shards. Raises `CheckpointError` where they hold some names twice and are no ranks of one model."""
        self.path, self.shards = path, tuple(shards)
        counts = Counter(name for shard in self.shards for name in shard.tensors)
        # Ranks have the same names each; files of one whole have none in common.
        alike = len(self.shards) > 1 and sum(count > 1 for count in counts.values()) > len(counts) / 2
        self.ranks = len(self.shards) if alike else 1
        self._entries: dict[str, Entry] = {}
        self._at: dict[str, Shard] = {}
        wrong, twice = [], []
        for shard in self.shards:
            if alike and (lacking := [name for name in counts if name not in shard.tensors]):
                wrong.append(
                    f"{shard.path.name} lacks {some(lacking)}, which other files have; they are not of one model"
                )
            for name, stored in shard.tensors.items():
                if name not in self._at:
                    self._at[name] = shard
                    self._entries[name] = Entry(stored.shape, stored.dtype, shard.path.name)
                elif not alike:
                    twice.append(f"{name} ({self._at[name].path.name} and {shard.path.name})")
        if twice:
            wrong.append(f"{len(twice)} tensors are in two files: {some(twice)}; the shards are not of one model")
        refuse(path, wrong)

    @classmethod
    def open(cls, path: str | Path, group: str | None = None) -> TensorFiles:
        """Open a file of weights, or all those of a folder. `group` is the pickled dictionary to read (`GROUPS`).

        Raises `CheckpointError`, with all that is wrong: files missing, cut short, of another kind, with headers that
        lie, or with tensors other than the index says.
        """
        path = Path(path)
        if not path.is_dir():
            return cls(path, [open_shard(path, group)])
        index, names = listed(path)
        shards, wrong = [], []
        for name in names:
            try:
                found = inside(path, name, str(path), CheckpointError)
                if not found.exists():
                    wrong.append(f"{name} is missing")
                    continue
                shards.append(open_shard(found, group))
            except CheckpointError as error:
                wrong.append(str(error).removeprefix(f"{str(path / name)!r}: ").join((f"{name} ", "")))
        if index is not None:
            wrong += _against(index, shards)
        refuse(path, wrong)
        return cls(path, shards)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Return the bytes of all tensors, of all ranks, written without gaps."""
        return sum(stored.bytes for shard in self.shards for stored in shard.tensors.values())

    def check_unchanged(self) -> None:
        """Raise `CheckpointError` where a file is no longer the one that was opened."""
        for shard in self.shards:
            shard.file.check_unchanged()

    def shape(self, name: str, rank: int = 0) -> tuple[int, ...]:
        """Return the shape of a tensor, of a rank's part where there are ranks."""
        return self._stored(name, rank)[1].shape

    def read(self, name: str, rank: int = 0) -> Tensor:
        """Return a tensor, of a rank's part where there are ranks. It is the file's memory: do not write to it."""
        shard, stored = self._stored(name, rank)
        return shard.file.tensor(stored.start, stored.dtype, stored.shape, stored.stride)

    def _stored(self, name: str, rank: int) -> tuple[Shard, Stored]:
        if not 0 <= rank < self.ranks:
            raise CheckpointError(f"{str(self.path)!r}: has no rank {rank} of {self.ranks}")
        shard = self.shards[rank] if self.ranks > 1 else self._at[name]
        return shard, shard.tensors[name]


def listed(folder: Path) -> tuple[dict[str, str] | None, list[str]]:
    """Return the index of a folder, tensor -> file, None where it has none, and its files of weights in order.

    Files are those of the index, there or not; without one, those of the first kind of `SUFFIXES` that is there. Where
    their names count them (00001-of-00003), those that are missing are among them.
    """
    there = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    for suffix in SUFFIXES:
        indices = [name for name in there if name.endswith(f"{suffix}.index.json")]
        if len(indices) > 1:
            raise CheckpointError(f"{str(folder)!r}: has {len(indices)} indices, {some(indices)}; keep the one it has")
        if indices:
            page = read_json(folder / indices[0], str(folder))
            index = page.get("weight_map")
            if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
                raise CheckpointError(
                    f"{str(folder)!r}: {indices[0]} has no weight_map, tensor to file; fetch it again"
                )
            return index, sorted(set(index.values()))
        if names := [name for name in there if name.endswith(suffix)]:
            return None, _all_of(names)
    raise CheckpointError(
        f"{str(folder)!r}: has no file of weights ({', '.join(SUFFIXES)}); give the file, or the folder that has it"
    )


def _all_of(names: list[str]) -> list[str]:
    """Add the names that a count in the others says there are; of ranks, those below the last."""
    found = set(names)
    for name in names:
        if match := _COUNTED.fullmatch(name):
            before, _, count, after = match.groups()
            found |= {f"{before}{number:05}-of-{count}{after}" for number in range(1, min(int(count), 999) + 1)}
        elif match := _RANKED.fullmatch(name):
            before, rank, after = match.groups()
            found |= {f"{before}{number:02}{after}" for number in range(int(rank))}
    return sorted(found)


def _against(index: Mapping[str, str], shards: Sequence[Shard]) -> list[str]:
    """List where files hold other tensors than their index says."""
    wrong = []
    for shard in shards:
        said = {name for name, file in index.items() if file == shard.path.name}
        if lacking := sorted(said - shard.tensors.keys()):
            wrong.append(f"{shard.path.name} lacks {some(lacking)}, which the index says it has")
        if extra := sorted(shard.tensors.keys() - said):
            wrong.append(f"{shard.path.name} has {some(extra)}, of which the index says nothing")
    return wrong


def open_shard(path: Path, group: str | None = None) -> Shard:
    """Open one file of weights. Raises `CheckpointError` with all that is wrong with it."""
    file = MappedFile(path)
    head = file.bytes(0, 64)
    if is_pickled(head):
        return _pickled(read_pickled(path), group)
    if head[8:9] == b"{":
        return _safetensors(file)
    told = "a pointer of Git LFS: fetch the file itself" if head.startswith(b"version https://git-lfs") else ""
    told = told or "no safetensors and no file of torch.save; fetch it again, or give another"
    raise CheckpointError(f"{str(path)!r}: is {told}")


def _safetensors(file: MappedFile) -> Shard:
    length = int.from_bytes(file.bytes(0, 8), "little")
    if length > min(HEADER_BYTES, file.size - 8):
        raise CheckpointError(
            f"{str(file.path)!r}: says that its header has {length} bytes, of {file.size}; it is cut short or damaged: "
            "fetch it again"
        )
    page = parse_json(file.bytes(8, 8 + length), f"{str(file.path)!r}: the header", CheckpointError)
    if not isinstance(page, dict):
        raise CheckpointError(f"{str(file.path)!r}: has a header that is no object; fetch it again")
    metadata = page.pop("__metadata__", {})
    metadata = {k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, dict) else {}
    room, wrong, spans = file.size - 8 - length, [], []
    tensors: dict[str, Stored] = {}
    for name, said in page.items():
        try:
            kind, shape, (start, stop) = said["dtype"], said["shape"], said["data_offsets"]
            numbers = [start, stop, *shape]
        except (TypeError, KeyError, ValueError):
            numbers = [-1]
        if any(type(n) is not int or n < 0 or n >= 1 << 62 for n in numbers):
            wrong.append(f"{name!r:.120} has no number type, shape and place in the header")
            continue
        if not isinstance(kind, str) or kind not in SAFETENSORS:
            wrong.append(f"{name!r:.120} is of the number type {kind!r:.20}, which torch does not have")
            continue
        dtype = SAFETENSORS[kind]
        if stop - start != (needs := math.prod(shape) * dtype.itemsize):
            wrong.append(f"{name!r:.120} has {stop - start} bytes, and its shape {shape!s:.60} in {kind} takes {needs}")
        spans.append((start, stop, name))
        tensors[name] = Stored(dtype, tuple(shape), _plain_stride(shape), 8 + length + start, name)
    at = 0
    for start, stop, name in sorted(spans):
        if start != at:
            wrong.append(f"{name!r:.120} begins at byte {start} of the data, where the one before it ends at {at}")
        at = max(at, stop)
    if at > room:
        wrong.append(f"is cut short: its header tells of {at} bytes of tensors, and there are {room}")
    elif at < room and not wrong:
        wrong.append(f"has {room - at} bytes that no tensor has")
    refuse(file.path, wrong)
    return Shard(file.path, "safetensors", file, tensors, metadata)


def _plain_stride(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _pickled(found: Pickled, group: str | None) -> Shard:
    """Choose the group of weights of a file of torch.save."""
    path = found.file.path
    tree = found.tree if isinstance(found.tree, dict) else {"": found.tree}
    leaves = {str(key): list(walk(value)) for key, value in tree.items()}
    tensors = {key: sum(isinstance(leaf, Stored) for _, leaf in of) for key, of in leaves.items()}
    groups = {key: count for key, count in tensors.items() if count and isinstance(tree.get(key), dict)}
    top = sum(isinstance(value, Stored) for value in tree.values())
    if top:
        groups = {"": top} | groups
    if not groups:
        left = f"; it left out {some(found.skipped)}" if found.skipped else ""
        raise CheckpointError(f"{str(path)!r}: holds no tensors{left}; give a file of weights")
    if group is None:
        known = [name for name in ("", *GROUPS) if name in groups]
        if not known and len(groups) > 1:
            raise CheckpointError(
                f"{str(path)!r}: has tensors in {some(list(groups))}, and none is known to be weights"
            )
        group = known[0] if known else next(iter(groups))
    elif group not in groups:
        raise CheckpointError(f"{str(path)!r}: has no tensors in {group!r:.60}; it has them in {some(list(groups))}")
    weights = {k: v for k, v in tree.items() if not isinstance(v, dict)} if group == "" else tree[group]
    shard = Shard(path, "pickle", found.file, {}, groups=groups, group=group, skipped=found.skipped)
    for name, leaf in walk(weights):
        if isinstance(leaf, Stored):
            shard.tensors[name] = leaf
        elif leaf is None:
            shard.nones.append(name)
        elif group == "":
            shard.plain[name] = _without(leaf)
    shard.plain |= {key: _without(v) for key, v in tree.items() if key != group and key not in groups and group != ""}
    return shard


def _without(value: Any) -> Any:
    """Return a value with words in place of tensors and of objects that were left out."""
    if isinstance(value, Stored):
        return f"a tensor of shape {value.shape}"
    if isinstance(value, Left):
        return f"{value.name}, left out"
    if isinstance(value, dict):
        return {str(key): _without(item) for key, item in value.items()}
    return [_without(item) for item in value] if isinstance(value, list) else value
