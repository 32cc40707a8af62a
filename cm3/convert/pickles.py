"""Files of torch.save, read without running them: tensors, plain values, and a list of all else, which is left out.

A pickle is a program that may call anything by name. Python's own reader looks each name up and calls it; here a small
machine of our own carries out the stack operations, and the only calls that it knows are those that build a tensor of
bytes in the file. Any other object (a Lightning callback, argparse.Namespace, omegaconf's) becomes a mark without
contents. Nothing of the file is ever imported, called or looked up.

    torch's zip          NAME/data.pkl, NAME/data/KEY: the pickle, and the bytes of each storage
    torch's old format   magic number, version, system, the pickle, keys of storages, then for each its count and bytes
"""

from __future__ import annotations

import io
import math
import pickletools
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cm3.convert.mapped import MappedFile
from cm3.convert.problems import refuse, some
from cm3.errors import CheckpointError
from cm3.files import said

PICKLE_BYTES = 1 << 26
"""Most bytes of a pickle without its tensors: ten thousand tensors take two million."""
STEPS = 20_000_000
"""Most operations of a pickle."""
DEPTH, NODES = 16, 2_000_000
"""Most dictionaries inside each other, and entries of all, in which tensors are looked for."""
DIMENSIONS = 64
"""Most dimensions of a tensor: torch's own limit."""
SPREAD = 1 << 20
"""Numbers of a tensor that may be more than its storage has (an expanded one)."""
MAGIC = 0x1950A86A20F9469CFC6C
"""First value of torch's old format."""

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
"""Number types of torch's storages, by the class that a file names."""
DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        *STORAGES.values(),
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    )
}
"""Number types by torch's name."""
ATTACKS = {
    "os",
    "posix",
    "nt",
    "subprocess",
    "runpy",
    "importlib",
    "socket",
    "shutil",
    "ctypes",
    "pty",
    "code",
    "webbrowser",
}
"""Modules that no weights have a use for."""
_CALLS = {"eval", "exec", "compile", "__import__", "open", "input", "breakpoint"}


class Stored(NamedTuple):
    """A tensor in a file: where its first number lies, in bytes; `stride` in numbers; the storage it is a view of."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int
    storage: str

    @property
    def bytes(self) -> int:
        """Return the bytes of its numbers, written without gaps."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass
class Pickled:
    """A file of torch.save: `tree` as it was saved, with `Stored`, `Left` and plain values; what was `skipped`."""

    file: MappedFile
    tree: Any
    skipped: list[str] = field(default_factory=list)


class Left(NamedTuple):
    """An object that was left out: its class."""

    name: str


class _Global(NamedTuple):
    module: str
    name: str


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype | None  # None: bytes
    numbers: int


class _View(NamedTuple):
    """A tensor before it is known where its storage lies."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Bad(Exception):
    """A pickle that cannot be what torch writes."""


_MARK = object()


def read_pickled(path: str | Path) -> Pickled:
    """Read a file of torch.save. Its tensors stay on the disk.

    Raises `CheckpointError`, with all that is wrong, for a file of another kind, one cut short, tensors that lie
    outside their storage, and a pickle that asks for what no weights have a use for.
    """
    file = MappedFile(path)
    try:
        return _zip(file) if file.bytes(0, 2) == b"PK" else _old(file)
    except _Bad as error:
        raise CheckpointError(f"{str(path)!r}: {said(error)}; fetch it again") from error
    except (RecursionError, ValueError) as error:  # nested without end, or too long to be told
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{str(path)!r}: holds values that cannot be told; fetch it again") from error


def is_pickled(head: bytes) -> bool:
    """Tell whether the first bytes of a file are those of torch.save, of either format."""
    return head.startswith((b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"))


def _zip(file: MappedFile) -> Pickled:
    try:
        with zipfile.ZipFile(file.path) as archive:
            members = archive.infolist()
            ends = archive.start_dir
            programs = [m for m in members if m.filename.rpartition("/")[2] == "data.pkl"]
            if len(programs) != 1:
                raise _Bad(f"is a zip with {len(programs)} files data.pkl where torch writes one")
            if programs[0].file_size > PICKLE_BYTES:
                raise _Bad(f"has a pickle of {programs[0].file_size} bytes; {PICKLE_BYTES} at most")
            program = archive.read(programs[0])
            root = programs[0].filename.removesuffix("data.pkl")
            order = next(
                (archive.read(m) for m in members if m.filename == f"{root}byteorder" and m.file_size < 9), b""
            )
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        raise _Bad(f"is cut short or damaged: the zip cannot be read ({said(error)})") from error
    except Exception as error:  # zlib's own, of a compressed pickle
        if isinstance(error, _Bad):
            raise
        raise _Bad(f"is damaged: the pickle in it cannot be unpacked ({said(error)})") from error
    if order not in (b"", sys.byteorder.encode()):
        raise _Bad(f"was written in the byte order {order!r:.20}, this machine's is {sys.byteorder}: convert it there")
    where: dict[str, tuple[int, int]] = {}
    wrong = []
    for member in members:
        if not member.filename.startswith(f"{root}data/"):
            continue
        key = member.filename.removeprefix(f"{root}data/")
        head = file.bytes(member.header_offset, member.header_offset + 30)
        start = member.header_offset + 30 + sum(int.from_bytes(head[i : i + 2], "little") for i in (26, 28))
        if member.compress_type != zipfile.ZIP_STORED:
            wrong.append(f"storage {key} is compressed, which torch never does")
        elif head[:4] != b"PK\x03\x04" or start + member.file_size > ends or key in where:
            wrong.append(f"storage {key} does not lie where the zip says")
        where[key] = (start, member.file_size)
    machine = _Machine(program)
    tree = machine.run()
    return _placed(file, tree, machine, where, wrong)


def _old(file: MappedFile) -> Pickled:
    at = 0
    values = []
    machine = _Machine(b"")
    for part in range(5):
        # Only as much as a pickle may have: the numbers that follow it are not looked at.
        machine = _Machine(file.bytes(at, at + (PICKLE_BYTES if part > 2 else 4096)), machine)
        values.append(machine.run())
        if not part and values[0] != MAGIC:
            raise _Bad("is no file of torch.save: it begins with another number")
        at += machine.end
    _, version, system, tree, keys = values
    if version != 1001 or not isinstance(system, dict):
        raise _Bad(f"is of version {version!r:.20} of torch's old format; 1001 is known")
    if system.get("little_endian") is not (sys.byteorder == "little"):
        raise _Bad("was written in another byte order than this machine's: convert it there")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _Bad("has no list of its storages")
    where: dict[str, tuple[int, int]] = {}
    wrong: list[str] = []
    for number, key in enumerate(keys):
        if key not in machine.storages:
            raise _Bad(f"lists a storage {key!r:.40} that no tensor has")
        count = int.from_bytes(file.bytes(at, at + 8), "little")
        bytes_ = count * _itemsize(machine.storages[key])
        if at + 8 + bytes_ > file.size:
            wrong.append(f"is cut short: {len(keys) - number} of {len(keys)} storages do not end in it")
            refuse(file.path, wrong)
        where[key] = (at + 8, bytes_)
        at += 8 + bytes_
    return _placed(file, tree, machine, where, wrong)


def _itemsize(storage: _Storage) -> int:
    return 1 if storage.dtype is None else storage.dtype.itemsize


def _placed(
    file: MappedFile, tree: Any, machine: _Machine, where: dict[str, tuple[int, int]], wrong: list[str]
) -> Pickled:
    """Put tensors in their places in the file. Raises with all that do not lie in their storages."""
    for key, storage in machine.storages.items():
        if key not in where:
            wrong.append(f"storage {key} is missing")
        elif (needs := storage.numbers * _itemsize(storage)) > where[key][1]:
            wrong.append(f"storage {key} has {where[key][1]} bytes, and the pickle says {needs}")
    if machine.attacks:
        wrong.append(f"asks to run {some(sorted(machine.attacks))}, which no weights do: trust nothing in it")
    places: dict[int, Stored] = {}
    for number, view in enumerate(machine.views):
        numbers = math.prod(view.shape)
        last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.stride, strict=True))
        held = view.storage.numbers * _itemsize(view.storage) // view.dtype.itemsize
        if numbers and (last >= held or numbers > max(held, SPREAD)):
            wrong.append(
                f"a tensor of shape {view.shape!s:.60} reaches to number {last} of storage {view.storage.key}, which "
                f"has {held}"
            )
        if view.storage.key in where:
            start = where[view.storage.key][0] + view.offset * view.dtype.itemsize
            places[number] = Stored(view.dtype, view.shape, view.stride, start, view.storage.key)
    refuse(file.path, wrong)
    return Pickled(file, _Filled(places).of(tree), sorted(machine.skipped))


class _Filled:
    """Exchange the numbers of views for tensors, in containers. Those that contain themselves are refused."""

    def __init__(self, places: dict[int, Stored]) -> None:
        self._places, self._nodes = places, 0

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return a copy of a value with its tensors."""
        self._nodes += 1
        if depth > DEPTH or self._nodes > NODES:
            raise _Bad(f"has values nested more than {DEPTH} deep, or more than {NODES} of them")
        if isinstance(value, _Number):
            return self._places[value.number]
        if isinstance(value, dict):
            return {key: self.of(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple):
            return [self.of(item, depth + 1) for item in value]
        if isinstance(value, _Global):
            return Left(f"{value.module}.{value.name}")
        if isinstance(value, _Storage):
            return Left("storage")
        return value


class _Number(NamedTuple):
    """A tensor by its number among the views."""

    number: int


class _Machine:
    """Carry out the stack operations of one pickle. See the head of this file."""

    def __init__(self, program: bytes, before: _Machine | None = None) -> None:
        self._program = program
        self.end = 0
        self.views: list[_View] = before.views if before else []
        self.storages: dict[str, _Storage] = before.storages if before else {}
        self.skipped: set[str] = before.skipped if before else set()
        self.attacks: set[str] = before.attacks if before else set()
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self) -> Any:
        """Return the value. Raises `_Bad`."""
        source = io.BytesIO(self._program)
        try:
            for step, (code, arg, _) in enumerate(pickletools.genops(source)):
                if step > STEPS:
                    raise _Bad(f"has a pickle of more than {STEPS} operations")
                if code.name == "STOP":
                    self.end = source.tell()
                    return self._stack.pop()
                self._step(code.name, arg)
        except _Bad:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError, EOFError) as error:
            raise _Bad(f"holds no pickle that torch writes, or one cut short ({said(error)})") from error
        raise _Bad("holds a pickle without an end")

    def _step(self, name: str, arg: Any) -> None:
        stack = self._stack
        if name in _PUSHED:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._marked()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[arg])
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            items = self._marked()
            stack.append(items if name == "LIST" else tuple(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise IndexError("an empty stack")
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "DICT":
            made: dict[Any, Any] = {}
            self._set(made, self._marked())
            stack.append(made)
        elif name in ("SETITEM", "SETITEMS"):
            pairs = self._marked() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            self._set(stack[-1], pairs)
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if name == "APPEND" else self._marked()
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name == "GLOBAL":
            stack.append(self._named(*arg.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            last, first = stack.pop(), stack.pop()
            stack.append(self._named(first, last))
        elif name in ("EXT1", "EXT2", "EXT4"):
            stack.append(self._named("copyreg", f"extension {arg}"))
        elif name in ("REDUCE", "NEWOBJ"):
            args, made_by = stack.pop(), stack.pop()
            stack.append(self._call(made_by, args))
        elif name == "NEWOBJ_EX":
            _, args, made_by = stack.pop(), stack.pop(), stack.pop()
            stack.append(self._call(made_by, args))
        elif name == "OBJ":
            made_by, *rest = self._marked()
            stack.append(self._call(made_by, tuple(rest)))
        elif name == "INST":
            stack.append(self._call(self._named(*arg.split(" ", 1)), tuple(self._marked())))
        elif name == "BUILD":
            stack.pop()  # attributes of an object: nothing here has any
        elif name in ("BINPERSID", "PERSID"):
            stack.append(self._storage(stack.pop() if name == "BINPERSID" else arg))
        else:
            raise _Bad(f"holds a pickle with the operation {name}, which torch does not write")

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark, and the mark."""
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    @staticmethod
    def _set(target: Any, pairs: list[Any]) -> None:
        if not isinstance(target, dict):
            return  # of an object that was left out
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Others (enumerations, tuples) name no tensor.
            if type(key) in (str, int, float, bool, bytes):
                target[key] = value

    def _named(self, module: Any, name: Any) -> _Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Bad("names an object by something that is no string")
        found = _Global(module, name)
        if found not in _KNOWN:
            said_as = f"{module}.{name}"[:120]
            self.skipped.add(said_as)
            if module.partition(".")[0] in ATTACKS or module in ("builtins", "__builtin__") and name in _CALLS:
                self.attacks.add(said_as)
        return found

    def _call(self, made_by: Any, args: Any, within: int = 0) -> Any:
        """Return what a call makes, where it is one that builds a tensor or a container; else a mark.

        `within` is in how many other calls it stands.
        """
        if within > DEPTH:  # of its own accord, since how deep Python goes is for others to set
            raise RecursionError("calls within calls")
        if not isinstance(made_by, _Global) or made_by not in _KNOWN:
            return Left(f"{made_by.module}.{made_by.name}" if isinstance(made_by, _Global) else "an object")
        if not isinstance(args, tuple):
            raise _Bad("calls with arguments that are no tuple")
        if made_by.module == "collections":
            made: dict[Any, Any] = {}
            pairs = args[0] if args and isinstance(args[0], list) else []
            self._copied += len(pairs)
            if self._copied > NODES:
                raise _Bad(f"makes dictionaries of more than {NODES} entries")
            self._set(
                made, [item for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2 for item in pair]
            )
            return made
        if made_by.name == "Size":
            return _few(args[0]) if args and isinstance(args[0], list | tuple) else ()
        if made_by.name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return args[0]
        if made_by.name == "_rebuild_from_type_v2":
            func, _, inner, *_ = args
            return self._call(func, inner, within + 1)
        if made_by.name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return self._tensor(made_by.name, args)
        return Left(f"{made_by.module}.{made_by.name}")

    def _tensor(self, how: str, args: tuple[Any, ...]) -> Any:
        storage, offset, shape, stride, *rest = args
        if not isinstance(storage, _Storage):
            raise _Bad("builds a tensor of something that is no storage")
        dtype = storage.dtype
        if how == "_rebuild_tensor_v3":
            named = rest[2]
            dtype = DTYPES.get(named.name) if isinstance(named, _Global) else None
        if dtype is None:
            return Left("a tensor of an unknown number type")
        shape, stride = _few(shape), _few(stride)
        numbers = [offset, *shape, *stride]
        if len(shape) != len(stride) or any(type(n) is not int or not 0 <= n < 1 << 62 for n in numbers):
            raise _Bad(f"builds a tensor of shape {shape!r:.60} and strides {stride!r:.60}")
        self.views.append(_View(storage, dtype, offset, tuple(shape), tuple(stride)))
        return _Number(len(self.views) - 1)

    def _storage(self, said_as: Any) -> _Storage:
        """Return the storage that a persistent id names: ("storage", its class, its key, device, count, view)."""
        if not isinstance(said_as, tuple) or len(said_as) < 5 or said_as[0] != "storage":
            raise _Bad("names a storage in a way that torch does not")
        _, kind, key, _, count, *view = said_as
        whole = type(count) is int and 0 <= count < 1 << 62
        if not isinstance(kind, _Global) or type(key) not in (str, int) or not whole:
            raise _Bad("names a storage in a way that torch does not")
        if view and view[0] is not None:
            raise _Bad("has storages that are views of others, as torch wrote before 0.4; save it with a later torch")
        if kind.name != "UntypedStorage" and kind.name not in STORAGES:
            raise _Bad(f"has a storage of the class {kind.module}.{kind.name}, of which no number type is known")
        found = _Storage(str(key), STORAGES.get(kind.name), count)
        if (before := self.storages.setdefault(found.key, found)) != found:
            larger = max(before, found, key=lambda s: s.numbers * _itemsize(s))
            self.storages[found.key] = larger  # torch's own rule: one key, the bytes of the longest
        return found


def _few(sizes: Any) -> tuple[Any, ...]:
    """Return sizes of dimensions as a tuple: one list, called for again and again, could fill any memory."""
    if len(sizes) > DIMENSIONS:
        raise _Bad(f"has a tensor of {len(sizes)} dimensions; {DIMENSIONS} at most")
    return tuple(sizes)


_KNOWN = {
    _Global("collections", "OrderedDict"),
    _Global("collections", "defaultdict"),
    _Global("torch", "Size"),
    _Global("torch.storage", "UntypedStorage"),
    _Global("torch", "UntypedStorage"),
    *(_Global("torch", name) for name in (*STORAGES, *DTYPES)),
    *(_Global("torch._utils", f"_rebuild_{name}") for name in ("tensor", "tensor_v2", "tensor_v3")),
    *(_Global("torch._utils", f"_rebuild_{name}") for name in ("parameter", "parameter_with_state")),
    _Global("torch._tensor", "_rebuild_from_type_v2"),
}
"""Names that a pickle of weights may use: containers, number types, and what builds a tensor of a storage."""
_PUSHED = set(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE
    BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 FLOAT BINFLOAT
    """.split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": list}


def walk(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries and lists with their names, joined by dots."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif type(value) is list:
        items = enumerate(value)
    else:
        yield before, value
    for key, item in items:
        yield from walk(item, f"{before}.{key}" if before else str(key))
