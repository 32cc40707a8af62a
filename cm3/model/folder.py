"""The folder of a bundle as it lies on a disk: one whole bundle, checked before a number of it is believed.

Whoever made the folder may be a stranger, its disk may be failing, and it may be replaced while it is read. So all
files are opened at once, from one folder; the bytes that are parsed are those whose checksum was compared; and what
config.json says of a network is compared with what the file of its weights holds before memory is taken for either.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from cm3.errors import CheckpointError, Cm3Error
from cm3.files import inside, parse_json, said
from cm3.vocab import ADDED, Vocab
from cm3.weights import Cut, load_into

FORMAT = 1
FILES = ("decoder.safetensors", "image_tokenizer.safetensors", "tokenizer.json")
FOLDERS = ("encoder", "memory")
SUFFIXES = ("json", "safetensors", "txt", "md", "sqlite", "f32", "f16", "faiss", "pictures")
"""Files that may lie in the folders: data and words, nothing that is run when it is read."""
OPTIONAL = ("sampling", "about", "checksum", "decoder_weights")
FIELDS = ("format", "vocab", "decoder", "image_tokenizer", "image_size", "files", *OPTIONAL)

_NAME = re.compile(rf"(?:{'|'.join(FOLDERS)})(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{{0,99}}){{1,4}}\.(?:{'|'.join(SUFFIXES)})")
_SHA256 = re.compile("[0-9a-f]{64}")
_CONFIG_BYTES = 1 << 26
_TRIES = 50

M = TypeVar("M", bound=nn.Module)


class Opened:
    """The files of one bundle, held open: what becomes of the folder meanwhile changes nothing. See `opened`."""

    def __init__(self, folder: Path, config: dict[str, Any], held: dict[str, int]) -> None:
        self.folder, self.config, self._held = folder, config, held
        self.what = f"bundle {str(folder)!r}"

    def check(self, name: str) -> None:
        """Raise `CheckpointError` where the checksum of a file is not the one in config.json."""
        with self._file(name) as file:  # a memory bank may be larger than memory
            self._compare(name, hashlib.file_digest(file, "sha256").hexdigest())

    def read(self, name: str) -> bytes:
        """Return the bytes of a file, checked."""
        with self._file(name) as file:
            data = file.read()
        self._compare(name, hashlib.sha256(data).hexdigest())
        return data

    def fill(self, name: str, make: Callable[[], M], cut: Cut | None = None, dtype: torch.dtype = torch.float32) -> M:
        """Return a network with the weights of a file, checked, or a `cut` of them; see `load_into`."""
        self.check(name)
        # The very file that was checked, whatever has its name by now.
        place = f"/dev/fd/{self._held[name]}" if sys.platform != "win32" else self.folder / name
        return load_into(make, place, f"{self.what}: {name}", cut, dtype)

    def _file(self, name: str) -> Any:
        file = os.fdopen(os.dup(self._held[name]), "rb")
        file.seek(0)
        return file

    def _compare(self, name: str, found: str) -> None:
        if found != self.config["files"].get(name):
            raise CheckpointError(
                f"{self.what}: {name} was altered (its checksum is not the one in config.json); restore it"
            )


@contextlib.contextmanager
def opened(folder: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Opened]:
    """Open the files of a bundle whose names are `wanted`, all of one bundle, also while the folder is replaced.

    Raises `CheckpointError` for a config.json that is none, for names that are not a bundle's, for links that lead
    out of it, and for a file that is missing. A folder of the hub's cache links to the cache's blobs, and may.
    """
    folder = Path(folder)
    for _ in range(_TRIES):
        held: dict[str, int] = {}
        top = -1
        try:
            if sys.platform != "win32":
                top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            config = read_config(folder, top)
            for name in dict.fromkeys([*FILES, *config["files"]]):
                if wanted(name):
                    held[name] = _open(folder, name, top)
        except (CheckpointError, OSError) as error:
            _close(*held.values())
            if _replaced(folder, top):
                _close(top)
                continue  # what is missing is the old bundle's, on its way out
            _close(top)
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"bundle {str(folder)!r}: cannot be read ({said(error)}); restore it") from error
        try:
            _close(top)
            yield Opened(folder, config, held)
        finally:
            _close(*held.values())
        return
    raise CheckpointError(f"bundle {str(folder)!r}: is replaced again and again; load it when that has ended")


def read_config(folder: Path, top: int = -1) -> dict[str, Any]:
    """Return the config.json of a bundle: its fields are there, its names are of known form, and it was not altered.

    `top` is the folder, opened, or -1. Raises `CheckpointError`.
    """
    what = f"bundle {str(folder)!r}"
    handle = _open(folder, "config.json", top)
    with os.fdopen(handle, "rb") as file:
        if os.fstat(handle).st_size > _CONFIG_BYTES:
            raise CheckpointError(f"{what}: config.json has more than {_CONFIG_BYTES} bytes; restore it")
        data = file.read()
    try:
        config = parse_json(data, "config.json", CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{what}: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or not _listing(config.get("files")):
        raise CheckpointError(f"{what}: config.json is not a bundle of format {FORMAT}; restore it")
    for name, digest in config["files"].items():
        if name not in FILES and not is_name(name):
            raise CheckpointError(
                f"{what}: config.json lists {name!r:.200}; a bundle holds {', '.join(FILES)} and "
                f"{', '.join('.' + s for s in SUFFIXES)} files in {' and '.join(FOLDERS)}; restore it"
            )
        if not _SHA256.fullmatch(digest):
            raise CheckpointError(f"{what}: config.json has no sha256 of {name!r}; restore it")
    if unknown := sorted(set(config) - set(FIELDS)):
        raise CheckpointError(f"{what}: config.json has a field {unknown[0]!r:.200} that no bundle has; restore it")
    if missing := [f for f in FIELDS if f not in config and f not in OPTIONAL]:
        raise CheckpointError(f"{what}: config.json does not describe a model (it lacks {missing[0]!r}); restore it")
    return config


def check_config(folder: Path, config: dict[str, Any]) -> None:
    """Raise `CheckpointError` where config.json was altered: its own checksum is another. Old bundles have none."""
    if "checksum" in config and config["checksum"] != checksum(config):
        raise CheckpointError(
            f"bundle {str(folder)!r}: config.json was altered (its own checksum is another); restore it, or take the "
            "line of its checksum out if the change is yours"
        )


def checksum(config: dict[str, Any]) -> str:
    """Return the sha256 of what config.json says, but for its `checksum`, in hexadecimal."""
    rest = {name: value for name, value in config.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_text(vocab: Vocab, data: bytes, where: str, error: type[Cm3Error] = CheckpointError) -> None:
    """Raise `error` where a tokenizer.json has more or fewer entries than the vocabulary has text ids.

    A vocabulary of the grammar "chameleon" has a file that names all its ids, and may have `ADDED` behind them.
    """
    page = parse_json(data, f"{where}: {FILES[2]}", error)
    try:
        found = dict(page["model"]["vocab"])
        if vocab.grammar == "chameleon":
            found |= {token["content"]: token["id"] for token in page.get("added_tokens") or []}
            if found.get(ADDED) == vocab.size:
                del found[ADDED]
        entries = len(found)
    except (TypeError, ValueError, KeyError, AttributeError) as e:
        raise error(f"{where}: {FILES[2]} is no text tokenizer; restore it") from e
    name, wanted = ("size", vocab.size) if vocab.grammar == "chameleon" else ("text", vocab.text)
    if entries != wanted:
        raise error(
            f"{where}: vocab.{name}={wanted}, and {FILES[2]} has {entries} entries: ids without an entry could be "
            "written and never read; give the tokenizer that the model was trained with"
        )


def is_name(name: str) -> bool:
    """Tell whether a file of this name may lie in the folders of a bundle."""
    return _NAME.fullmatch(name) is not None


def _listing(files: Any) -> bool:
    return isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())


def _open(folder: Path, name: str, top: int) -> int:
    """Return a file of a bundle, opened for reading: a plain one, that lies in the bundle."""
    what = f"bundle {str(folder)!r}"
    inside(folder, name, what, CheckpointError)
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(name, flags, dir_fd=top) if top >= 0 else os.open(folder / name, flags)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{what}: {name} is missing; restore it or install the bundle again") from error
    except OSError as error:
        raise CheckpointError(f"{what}: {name} cannot be read ({error.strerror}); restore it") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CheckpointError(f"{what}: {name} is missing: what has its name is no file; restore it")
    return handle


def _replaced(folder: Path, top: int) -> bool:
    """Tell whether another folder has the name of the one that was opened."""
    if top < 0:
        return False
    try:
        return not os.path.samestat(os.stat(folder), os.fstat(top))
    except OSError:
        return False


def _close(*handles: int) -> None:
    for handle in handles:
        if handle >= 0:
            os.close(handle)
