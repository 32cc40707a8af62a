"""The page that says what a memory bank is made of: manifest.json, replaced whole, and who may write it.

    {"format": 1, "kind": "cm3-memory", "encoder": ..., "width": ..., "dtype": ..., "index": ..., "about": {...},
     "segments": [{"name": "segment-0001", "rows": ..., "index": {...}, "files": {name: {"bytes", "sha256"}},
                   "gone": {"file": ..., "rows": ...}}],
     "sha256": ...}            of all the rest

Everything that it names is written before it and never changed after, so a reader that has read one manifest goes on
with what it names while another process writes the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cm3.errors import CheckpointError, DataError

FORMAT = 1
KIND = "cm3-memory"
NAME = "manifest.json"
SMALL = 1 << 20
"""Files of at most so many bytes are compared with their checksum at every opening, larger ones by size."""


def is_bank(folder: str | Path) -> bool:
    """Whether a folder is a memory bank, whole or damaged."""
    return (Path(folder) / NAME).is_file()


def read(folder: Path) -> dict[str, Any]:
    """A bank's manifest. Raises `CheckpointError` where there is none, or one that is damaged or of another format."""
    try:
        page = json.loads((folder / NAME).read_text())
    except FileNotFoundError as error:
        what = "has no manifest.json" if folder.is_dir() else "no such folder"
        raise CheckpointError(f"memory bank {str(folder)!r}: {what}; `cm3 index build` makes one") from error
    except NotADirectoryError as error:
        raise CheckpointError(f"memory bank {str(folder)!r}: is a file; give the bank's folder") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"memory bank {str(folder)!r}: manifest.json cannot be read ({error})") from error
    if not isinstance(page, dict) or page.get("kind") != KIND:
        raise CheckpointError(f"memory bank {str(folder)!r}: manifest.json is not a memory bank's; give another folder")
    if page.get("format") != FORMAT:
        raise CheckpointError(
            f"memory bank {str(folder)!r}: is of format {page.get('format')}, this version reads {FORMAT}; "
            "build it again, or use the version that wrote it"
        )
    if page.pop("sha256", None) != _sum(page):
        raise CheckpointError(
            f"memory bank {str(folder)!r}: manifest.json was altered (its checksum is another); restore it"
        )
    return page


def write(folder: Path, page: dict[str, Any]) -> None:
    """Replace a bank's manifest: a reader sees the old one or the new one."""
    replace(folder / NAME, json.dumps({**page, "sha256": _sum(page)}, indent=1) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file that survives a kill whole, or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def sync(path: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sum(page: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()


def facts(path: Path) -> dict[str, Any]:
    """What a manifest keeps of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def check(path: Path, known: dict[str, Any], *, whole: bool = False) -> None:
    """Raise `CheckpointError` for a file that is missing or is not the manifest's; `whole` reads large ones too."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"memory bank: {str(path)!r} is missing; restore it from a copy") from error
    if size != known["bytes"]:
        raise CheckpointError(
            f"memory bank: {str(path)!r} has {size} bytes, its manifest says {known['bytes']}; restore it from a copy"
        )
    if (whole or size <= SMALL) and facts(path) != known:
        raise CheckpointError(f"memory bank: {str(path)!r} was altered (its checksum is another); restore it")


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder until the end of the block, or until this process is killed.

    Raises `DataError` where another process writes. SQLite's lock, as it is let go by a kill and is on every system.
    """
    lock = sqlite3.connect(folder / ".lock", timeout=0, isolation_level=None)
    try:
        lock.execute("PRAGMA journal_mode=OFF")  # nothing is written to it, and its folder may be moved meanwhile
        lock.execute("BEGIN EXCLUSIVE")
        yield
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        raise DataError(f"memory bank {str(folder)!r}: another process is writing to it; wait until it ends") from error
    finally:
        lock.close()
