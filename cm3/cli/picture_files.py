"""The pictures that a verb is given: files, folders of them, stores and datasets, with the names to call them by."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm3.errors import DataError, RequestError

if TYPE_CHECKING:
    from cm3.document import Image
    from cm3.read.base import Reader
    from cm3.read.find import Source
    from cm3.score.result import Result


class Pictures:
    """The pictures of files, folders and datasets, at most `n` of them, as many of each dataset and of all files.

    Pictures that follow each other with the same `image_id`, as COCO's captions have them, are one. `seen` and
    `skipped` count what came and the documents that cannot be read; with `whole` these raise, and a folder that is no
    store and is written without KIND: is all picture files below it, whatever else lies there. Raises `DataError` for a
    picture file that is none.
    """

    def __init__(self, sources: Sequence[str], n: int | None = None, *, whole: bool = False) -> None:
        from cm3.read.base import even
        from cm3.read.find import open_reader, parse_source
        from cm3.read.walk import PICTURES

        paths: list[str] = []
        readers: list[Reader] = []
        for source in sources:
            found = parse_source(source)
            if self._by_name(found, whole):
                paths.append(source)
            else:
                readers.append(open_reader(found))
        files = expand(paths, PICTURES) if paths or not sources else []
        share = None if n is None else max(1, n // (len(readers) + bool(files)))
        self.files = files if share is None else [files[i] for i in even(len(files), share)]
        self.readers, self.share, self.whole = readers, share, whole
        known = sum(n if share is None else min(n, share) for r in readers if (n := r.count) is not None)
        self.total, self.seen, self.skipped = len(self.files) + known, 0, 0

    @staticmethod
    def _by_name(source: Source, whole: bool) -> bool:
        """Tell whether a source is taken by the names of its files: no caption of theirs is looked at."""
        from cm3.read.find import recognise

        if source.kind is not None or "://" in source.path or source.split is not None:
            return False
        if not Path(source.path).exists():
            return True
        kinds = recognise(source.path)[:1]
        return kinds != ["store"] if whole else kinds in ([], ["folder"])

    def __iter__(self) -> Iterator[tuple[str, Image]]:
        """Yield each with its name: the path of a file, the id of a document."""
        from cm3.document import Image

        for path in self.files:
            self.seen += 1
            yield str(path), Image.open(path)
        for reader in self.readers:
            for named in itertools.islice(self._of(reader), self.share):
                self.seen += 1
                yield named

    def _of(self, reader: Reader) -> Iterator[tuple[str, Image]]:
        from cm3.document import Unreadable

        last = None
        for document in reader if self.share is None else reader.spread(self.share):
            if isinstance(document, Unreadable):
                if self.whole:
                    raise DataError(f"document {document.id!r}: {document.reason}")
                self.skipped += 1
                continue
            same = document.meta.get("image_id")
            if same is None or same != last:
                for at, image in enumerate(document.images):
                    yield document.id if len(document.images) == 1 else f"{document.id}#{at}", image
            last = same

    def told(self, result: Result) -> Result:
        """Return a result with a warning of the documents that were left out."""
        if not self.skipped:
            return result
        warning = f"{self.skipped} documents cannot be read and are left out; see `cm3 data inspect`"
        return dataclasses.replace(result, warnings=(*result.warnings, warning))


def expand(names: Sequence[str], suffixes: tuple[str, ...]) -> list[Path]:
    """Return files, with each folder replaced by the files below it that end in `suffixes`, by name.

    Raises `DataError` for a name that is neither, and for a folder with no such file; `RequestError` for no name.
    """
    from cm3.read.walk import walk

    if not names:
        raise RequestError("no file given; name at least one file or folder")
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if not path.exists():
            raise DataError(f"{name!r}: no such file or folder; check the path")
        below = (path / folder / file for folder, files in walk(path) for file in files) if path.is_dir() else ()
        inside = sorted(p for p in below if p.suffix.lower() in suffixes) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{name!r}: the folder holds no file that ends in {', '.join(suffixes)}")
        found += inside
    return found
