"""Files: read from strangers, written whole or not at all, locked, summed. One of each, for every room above.

    read_json, parse_json, build     a stranger's JSON as checked values: one error, in words, for all that can be wrong
    inside                           a file that data names, only where it lies inside its root
    replacing, write                 a file that appears whole, or not at all
    replacing_folder                 a folder likewise: exchanged for the old one in one step
    locked                           one writer at a time, until the block ends or the process is killed
    sha256, checksum, Facts          what a file or a JSON object holds, as a name

A kill leaves at most a hidden `.NAME.xxxxxxxx.part`, which the next writer of NAME sweeps away: who writes holds a lock
on it, and the system lets go of a dead process's locks.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import functools
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from cm3.errors import CheckpointError, Cm3Error, ConfigError, DataError, DiskError, did_you_mean, shown

if sys.platform != "win32":
    import fcntl

DIGITS = 300
"""Most digits of a whole number in JSON: one of 309 is more than a float holds, and ends whoever computes with it."""
JSON_BYTES = 1 << 30
"""Most bytes of a JSON file that is read at once."""

_SHA256 = re.compile("[0-9a-f]{64}")

T = TypeVar("T")


def said(error: BaseException) -> str:
    """Return the first line of an error of a library or the system, for a message of ours."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# Reading


def parse_json(data: bytes | str, what: str, error: type[Cm3Error] = DataError, *, nan: bool = False) -> Any:
    """Parse JSON that a stranger wrote. `what` names it in the message.

    Raises `error` for text that is no JSON or not UTF-8, for values nested too deep, for whole numbers of more than
    `DIGITS` digits, for numbers that no float holds (1e999), and for NaN and Infinity, which JSON does not have; with
    `nan` the last two are taken, for a caller that checks each value.
    """
    try:
        return (_NAN_DECODER if nan else _DECODER).decode(data if isinstance(data, str) else _text(data))
    except RecursionError as e:
        raise error(f"{what}: is nested too deep to be read; flatten it") from e
    except ValueError as e:  # of json and of utf-8
        raise error(f"{what}: is not readable JSON ({said(e)}); mend it or write it again") from e


def _text(data: bytes) -> str:
    return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")


def _int(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits; {DIGITS} at most")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:20]} is larger than any number of a computer")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_int=_int, parse_float=_float, parse_constant=_constant)
_NAN_DECODER = json.JSONDecoder(parse_int=_int)


def read_json(path: str | Path, what: str, error: type[Cm3Error] = CheckpointError) -> dict[str, Any]:
    """Read a JSON object from a file. `what` names whose it is in the message.

    Raises `error` for a file that is missing, that cannot be read, that is larger than `JSON_BYTES`, that `parse_json`
    refuses, and whose value is no object.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > JSON_BYTES:
            raise error(f"{what}: {path.name} has {size} bytes, more than {JSON_BYTES}; restore it")
        data = path.read_bytes()
    except OSError as e:
        raise error(f"{what}: {path.name} cannot be read ({e.strerror or said(e)}); restore it") from e
    page = parse_json(data, f"{what}: {path.name}", error)
    if not isinstance(page, dict):
        raise error(f"{what}: {path.name} holds {_kind_of(page)} and no object; restore it")
    return page


def build(kind: type[T], values: Any, where: str, error: type[Cm3Error] = CheckpointError) -> T:
    """Make a dataclass of JSON values: each name and type is checked, and lists become tuples where it has tuples.

    Raises `error`, naming the field, for a name that is unknown or missing, for a value of another type, for a number
    that is not finite, and with the reason of the dataclass where that refuses its values.
    """
    if not isinstance(values, Mapping):
        raise error(f"{where}: is {_kind_of(values)}; must be an object with the fields of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise error(f"{where}.{name}: is no field of {kind.__name__}.{did_you_mean(str(name), fields)}")
    made = {}
    for name, field in fields.items():
        if name in values:
            made[name] = _value(hints[name], values[name], f"{where}.{name}", error)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise error(f"{where}.{name}: is missing; restore the file")
    try:
        return kind(**made)
    except (Cm3Error, ValueError, TypeError, ArithmeticError) as e:
        raise error(f"{where}: {said(e)}") from e


def _value(hint: Any, value: Any, where: str, error: type[Cm3Error]) -> Any:
    """Return a JSON value as what a field's annotation says, or raise."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if origin in (Union, types.UnionType):
        for one in args:
            with contextlib.suppress(error):
                return _value(one, value, where, error)
    elif origin is Literal:
        if any(value == one and type(value) is type(one) for one in args):
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[1:] == (Ellipsis,) else list(args)
        if len(kinds) == len(value):
            return tuple(
                _value(k, v, f"{where}[{i}]", error) for i, (k, v) in enumerate(zip(kinds, value, strict=True))
            )
    elif origin is list and isinstance(value, list | tuple):
        return [_value(args[0], v, f"{where}[{i}]", error) for i, v in enumerate(value)]
    elif (origin is dict or getattr(origin, "__name__", "") == "Mapping") and isinstance(value, Mapping):
        return {k: _value(args[1], v, f"{where}.{k}", error) for k, v in value.items()}
    elif hint in (None, type(None)):
        if value is None:
            return None
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where, error)
    elif hint is float:
        if is_number(value):
            return float(value)
    elif hint is int:
        if type(value) is int:
            return value
    elif isinstance(hint, type) and isinstance(value, hint):  # bool, str, and bare dict, list, tuple
        return value
    raise error(f"{where}={shown(value)}: must be {_named(hint)}")


def is_number(value: Any) -> bool:
    """Tell whether a value of JSON is a finite number that a float holds."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _named(hint: Any) -> str:
    """Return an annotation in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(a) for a in args)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (tuple, list) and args:
        many = args[1:] == (Ellipsis,) or origin is list
        return f"a list of {_named(args[0])}" if many else f"a list of {len(args)} values"
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a string"}
    none = hint in (None, type(None))
    return "null" if none else words.get(hint, getattr(origin or hint, "__name__", str(hint)))


def _kind_of(value: Any) -> str:
    named = {list: "a list", dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return named.get(type(value), "a number")


def inside(root: str | Path, name: object, what: str, error: type[Cm3Error] = DataError) -> Path:
    """Return the path of a file that data names, below `root`. It need not be there.

    Raises `error` for a name that is no string, is empty, is absolute, goes up (`..`), or leads outside `root` by a
    link: what lies outside is nobody's to read or write by a row's word. Files of a snapshot in the hub's cache are
    links to its blobs, and are read.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise error(f"{what}: the file name {shown(name)} is no name; give one relative to {str(root)!r}")
    path = Path(name)
    if path.is_absolute() or path.drive or ".." in path.parts or ".." in re.split(r"[\\/]", name):
        raise error(f"{what}: the file name {shown(name)} leads outside {str(root)!r}; give one that lies in it")
    found = Path(root, path)
    try:
        real, top = os.path.realpath(found), os.path.realpath(root)
    except (OSError, ValueError) as e:
        raise error(f"{what}: the file name {shown(name)} cannot be followed ({said(e)})") from e
    if os.path.commonpath([real, top]) != top and os.path.dirname(real) != _blobs(top):
        raise error(
            f"{what}: {shown(name)} is a link that leads outside {str(root)!r}; copy the file there, or give the "
            "folder that holds the file itself"
        )
    return found


def is_blob(path: Path) -> bool:
    """Tell whether a path in a snapshot of the hub's cache is a link to a blob of the same cache."""
    return os.path.dirname(os.path.realpath(path)) == _blobs(os.path.realpath(path.parent))


def _blobs(real: str) -> str | None:
    """Find where the hub's cache keeps the files of a snapshot, REPO/snapshots/REVISION or below; None for other
    folders."""
    repo = next((place.parent for place in Path(real, "file").parents if place.name == "snapshots"), None)
    blobs = None if repo is None else repo / "blobs"
    return str(blobs) if blobs is not None and blobs.is_dir() and not blobs.is_symlink() else None


def check_folder(folder: str | Path, what: str, error: type[Cm3Error] = ConfigError) -> list[Path]:
    """Return the folders that have to be made for `folder`, the innermost first; none is made here.

    Raises `error`, beginning with `what`, where a file is in the way or the user may not write there.
    """
    folder = Path(folder).absolute()
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    place = missing[-1].parent if missing else folder
    if not place.is_dir():
        raise error(f"{what}: {str(place)!r} is a file; give a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise error(f"{what}: no permission to write in {str(place)!r}; give another folder")
    return missing


def sha256(path: str | Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(page: Mapping[str, Any], own: str = "sha256") -> str:
    """Return the sha256 of all of a JSON object but the field `own`, where it keeps this sum.

    It is empty, and so no object's, for one that is nested too deep to be written.
    """
    rest = {name: value for name, value in page.items() if name != own}
    try:
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        return ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """Size and sha256 of a file, as a manifest has them."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if self.bytes < 0 or not _SHA256.fullmatch(self.sha256):
            raise ValueError("takes a number of bytes from 0 and a sha256 in hexadecimal")


# Writing

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the system's errors for want of room."""
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The same for want of a right."""
_PLACE = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENOENT, errno.EEXIST)
_OS_ERROR = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")


def disk_error(error: BaseException, path: str | Path = "") -> DiskError | None:
    """Return what went wrong on a disk as our own error; None for an error that is no disk's.

    Libraries pass the system's errors on in their own kinds (safetensors, SQLite), with its number or its words.
    """
    if isinstance(error, DiskError):
        return error
    text, number = said(error), getattr(error, "errno", None)
    if number is None and (found := _OS_ERROR.search(text)):
        number = int(found[1] or found[2])
    if number is None and ("No space left on device" in text or "database or disk is full" in text):
        number = errno.ENOSPC
    if number is None and "readonly database" in text:
        number = errno.EROFS
    place = str(path or getattr(error, "filename", None) or "")
    where = f"{place!r}: " if place else ""
    if number in FULL:
        return DiskError(f"{where}no space is left on the disk; make room, or choose another place")
    if number in DENIED:
        return DiskError(f"{where}may not be written to ({os.strerror(number)}); choose another place")
    if number in _PLACE and isinstance(error, OSError):
        return DiskError(f"{where}cannot be written ({os.strerror(number)}); choose another place")
    return None


@contextlib.contextmanager
def on_disk(path: str | Path) -> Iterator[None]:
    """Raise what goes wrong on the disk in the block as `DiskError` of `path`; other errors pass."""
    try:
        yield
    except Cm3Error:
        raise
    except Exception as e:
        if isinstance(e, OSError) and e.errno not in FULL and not _concerns(e, Path(path)):
            raise  # of another file, which the block reads
        if (told := disk_error(e, path)) is None:
            raise
        raise told from e


def _concerns(error: OSError, path: Path) -> bool:
    """Tell whether an error is of a path, its parts, or a folder above it, as far as it says."""
    if not isinstance(error.filename, str | bytes):
        return True
    found = Path(os.path.abspath(os.fsdecode(error.filename)))
    path = Path(os.path.abspath(path))
    return found in (path, *path.parents) or found.is_relative_to(path) or f".{path.name}." in str(found)


GONE = 8
"""How often a folder that was there may be gone before a write into it fails."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; at the end of the block it becomes `path`, synced to the disk. Makes its folder.

    A reader sees the old file or the new one. Where the block raises, nothing is left. Raises `DiskError` for a disk
    that is full, and for a place that may not be written to.
    """
    path, part, held = Path(path), None, -1
    try:
        with on_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path)
            part, held = _claim(path, folder=False)
            yield part
            sync(part)
            os.replace(part, path)
            sync(path.parent)
    finally:
        _release(held)
        if part is not None:
            part.unlink(missing_ok=True)


def write(path: str | Path, data: bytes | str) -> None:
    """Write a file whole or not at all; see `replacing`. Text is stored as UTF-8."""
    with replacing(path) as part:
        part.write_bytes(data if isinstance(data, bytes) else data.encode())


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder to fill; at the end of the block it becomes `path`, synced, and what was there is gone.

    There is no moment without one: both are exchanged in one step where the system can (Linux, macOS). Where the block
    raises, nothing is left. A `path` that is a link stays one, and what it leads to is replaced. Raises as `replacing`.
    """
    path, part, held = Path(os.path.realpath(path)), None, -1
    try:
        with on_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path)
            part, held = _claim(path, folder=True)
            yield part
            for found in part.rglob("*"):
                if not found.is_symlink():
                    sync(found)
            sync(part)
            if path.exists():
                _exchange(part, path)
            else:
                os.rename(part, path)
            sync(path.parent)
    finally:
        _release(held)
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def sweep(path: str | Path) -> None:
    """Take away the hidden parts of `path` that killed writers left. Those of writers at work stay."""
    path = Path(path)
    for left in path.parent.glob(f".{_escaped(path.name)}.{'[0-9a-f]' * 8}.part"):
        held = _hold(left)
        if held is None:
            continue
        try:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        finally:
            _release(held)


def _claim(path: Path, *, folder: bool) -> tuple[Path, int]:
    """Make a hidden part beside `path` that nobody had before, and hold it."""
    gone = 0
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            if folder:
                part.mkdir()
            else:
                os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            held = _hold(part)
        except FileExistsError:
            continue
        except FileNotFoundError:
            # Another process, which tried whether it can make the folder, took it away again.
            gone += 1
            if gone > GONE:
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        except BaseException:  # a signal's: it may have come while the system made the part
            with contextlib.suppress(OSError):
                part.rmdir() if folder else part.unlink()
            raise
        if held is not None:
            return part, held
        # A sweeper took it away before it was held.


def _hold(part: Path) -> int | None:
    """Lock a part by its own descriptor; None where another process holds it, or it is gone."""
    if sys.platform == "win32":
        return None if not part.exists() else -1
    try:
        held = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(held), os.stat(part, follow_symlinks=False)):
            return held
    except OSError:
        pass
    os.close(held)
    return None


def _release(held: int) -> None:
    if held >= 0:
        os.close(held)


def sync(path: Path) -> None:
    """Wait until what was written to a file, or the names in a folder, are on the disk."""
    if sys.platform == "win32" and path.is_dir():
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _exchange(new: Path, old: Path) -> None:
    """Exchange two folders in one step; by way of a third name where the system has no such step."""
    if not _swap(os.fsencode(new), os.fsencode(old)):
        aside = old.with_name(f".{old.name}.{secrets.token_hex(4)}.part")
        os.rename(old, aside)
        os.rename(new, old)
        os.rename(aside, new)


def _swap(a: bytes, b: bytes) -> bool:
    call = _swap_call()
    if call is None:
        return False
    if call(a, b) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False  # of this kernel or this file system
    raise OSError(number, os.strerror(number), os.fsdecode(b))


@functools.cache
def _swap_call() -> Any:
    """Return the system's call that exchanges two names, or None."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):
        return None
    if hasattr(library, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return lambda a, b: library.renameat2(here, a, here, b, ctypes.c_uint(exchange))
    if hasattr(library, "renamex_np"):
        return lambda a, b: library.renamex_np(a, b, ctypes.c_uint(2))  # RENAME_SWAP
    return None


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


@contextlib.contextmanager
def locked(path: str | Path, what: str, error: type[Cm3Error] = ConfigError) -> Iterator[None]:
    """Hold the lock file `path` until the block ends, or this process is killed. `what` names whose it is.

    Then the file is gone, and so are the folders that were made for it and hold nothing. Raises `error` where another
    process, or another block of this one, holds it; `DiskError` where it cannot be made.
    """
    import filelock  # here, as importing `cm3` should cost nothing

    path = Path(path)
    lock, made = filelock.FileLock(path, timeout=0), [folder for folder in path.parents if not folder.exists()]
    try:
        with on_disk(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except filelock.Timeout as e:
        raise error(f"{what}: another process is writing to it; wait until it ends, or choose another place") from e
    try:
        yield
    finally:
        # While it is held: who waits for this very file sees that it is gone.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
        for folder in made:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()
