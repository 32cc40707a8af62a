"""What readers share whose records have ids in an annotations file: the file, the ids, names and pictures."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cm3.document import Document, Image
from cm3.errors import DataError
from cm3.files import inside
from cm3.read.base import Records, field, first_of, named_picture

Pairs = list[tuple[str, Any]]
"""An object of JSON as the pairs that are written."""


def load(
    path: Path, hook: Callable[[dict[str, Any]], Any] | None = None, pairs: Callable[[Pairs], Any] | None = None
) -> Any:
    """The content of a JSON file, each of its objects passed through `hook`, or as a list of pairs through `pairs`.

    Raises `DataError` for a file that cannot be read, is not JSON, or that a hook refuses with `ValueError`.
    """
    try:
        return json.loads(path.read_bytes(), object_hook=hook, object_pairs_hook=pairs)
    except FileNotFoundError as error:
        raise DataError(f"{str(path)!r}: no such file; download it, or give the folder that holds it") from error
    except OSError as error:
        raise DataError(f"{str(path)!r}: cannot be read ({os.strerror(error.errno or 0)}); check the file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r}: is not UTF-8 at byte {error.start}; download it again") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(path)!r}: is damaged ({error}); download it again") from error


def unique(pairs: Pairs) -> dict[str, Any]:
    """Pairs for `load` of a file whose keys are ids: a key that stands there twice would hide what it had first."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"{twice!r:.40} stands in it more than once")
    return content


def file_name(record: Any, name: str, where: str) -> str:
    """`record[name]`, a file's name. Raises `DataError` for one that is no text or leads to another folder."""
    value: str = field(record, name, str, where)
    # Names that are not printable have no bytes on a disk, and longer ones no file system keeps.
    if value in ("", ".", "..") or "/" in value or not value.isprintable() or len(value.encode()) > 255:
        raise DataError(f"{where}: {name!r} is {value!r:.60}, which must be the name of a file")
    return value


def picture_in(folders: Sequence[Path], name: str) -> Image:
    """Return the picture `name` in the first of these folders that has it.

    Raises `DataError` where none has, naming them, and for a name that leads out of them.
    """
    for folder in folders:
        if first_of(folder, [name]):
            return named_picture(folder, name)
    inside(folders[0], name, "picture")
    top = os.path.commonpath([folder.parent for folder in folders])
    looked = " or ".join(folder.relative_to(top).as_posix() for folder in folders)
    raise DataError(f"{name}: no such file beside the annotations that name it; looked in {looked}")


class Listed(Records):
    """Records whose ids are known when the reader is made: `ids`, which `__init__` fills.

    Only the first record of an id is a document; each further one cannot be told from it, so it is unreadable.
    """

    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, index: int) -> str:
        """Id of a record."""
        return self.ids[index]

    def document(self, index: int) -> Document:
        """A record. Raises `DataError` for one that cannot be read or has the id of an earlier one."""
        if index in self._again:
            raise DataError(f"record {index}: has the id {self.ids[index]!r} of an earlier one; ids must be unique")
        return self._document(index)

    def _list(self, ids: list[str]) -> None:
        """Keep the ids, and which of them came before."""
        seen: set[str] = set()
        self.ids, self._again = ids, set[int]()
        for index, id in enumerate(ids):
            if id in seen:
                self._again.add(index)
            seen.add(id)

    @abstractmethod
    def _document(self, index: int) -> Document:
        """`document`, of an id that comes first."""
