"""A folder of pictures, each with its caption in a .txt of the same stem beside it.

photos/beach.jpg, photos/beach.txt    caption and picture
photos/cat.png                        a picture without words
photos/note.txt                       words without a picture
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import PIL.Image

from cm3.document import Document, Image, Part, Text, Unreadable
from cm3.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
WORDS = ".txt"


class Folder:
    """Documents of a folder and of those inside it, by name. Files are listed at once and read one after the other.

    `id` is the picture's path below the folder (the text's, where there is no picture), `source` the folder's name, and
    `meta["license"]` what was given. A picture's pixels are decoded by whoever asks for them first, so that its file's
    own bytes can be kept. In the place of a document that cannot be read stands an `Unreadable`.
    """

    def __init__(self, root: str | Path, *, license: str | None = None) -> None:
        """List the files. Raises `DataError` for a folder that is not there or has no such file."""
        self.root = Path(root)
        self.meta = {} if license is None else {"license": license}
        if not self.root.is_dir():
            raise DataError(f"{str(root)!r}: no such folder; give one that holds pictures, each with its .txt")
        self.source = self.root.resolve().name
        pictures: list[Path] = []
        words: dict[Path, Path] = {}
        for path in sorted(self.root.rglob("*")):
            if path.name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() in PICTURES:
                pictures.append(path)
            elif path.suffix.lower() == WORDS:
                words[path.with_suffix("")] = path
        captioned = {path.with_suffix("") for path in pictures}
        named: dict[Path, tuple[Path | None, Path | None]] = {}
        named |= {path: (path, words.get(path.with_suffix(""))) for path in pictures}
        named |= {path: (None, path) for stem, path in words.items() if stem not in captioned}
        self.files: list[tuple[Path, Path | None, Path | None]] = [(name, *named[name]) for name in sorted(named)]
        if not self.files:
            raise DataError(f"{str(root)!r}: holds no picture and no .txt; give pictures, each with its .txt beside it")

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Document | Unreadable]:
        return (self._read(*files) for files in self.files)

    def _read(self, named: Path, picture: Path | None, words: Path | None) -> Document | Unreadable:
        # Names that are not UTF-8 come from the system as surrogates, which no file of ours could hold.
        id = os.fsencode(named.relative_to(self.root).as_posix()).decode(errors="backslashreplace")
        parts: list[Part] = []
        try:
            if words is not None and (text := words.read_text(encoding="utf-8-sig").strip()):
                parts.append(Text(text))
            if picture is not None:
                parts.append(Image(PIL.Image.open(io.BytesIO(picture.read_bytes()))))
        except UnicodeDecodeError as error:
            return Unreadable(id, f"its caption is not UTF-8 at byte {error.start}")
        except Exception as error:  # Pillow raises many kinds for a damaged file
            reason = "not a picture" if isinstance(error, PIL.UnidentifiedImageError) else str(error)
            return Unreadable(id, " ".join(reason.split()) or type(error).__name__)
        return Document(tuple(parts), id=id, source=self.source, meta=self.meta)
