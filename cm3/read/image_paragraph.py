"""Stanford's image paragraphs (Krause et al. 2017) as their owners publish them: a paragraph of Visual Genome pictures.

paragraphs_v1.json         [{"image_id": 2388350, "paragraph": "On a white plastic ...", "url": "https://..."}, ...]
train_split.json           [2388350, ...], and so val_split.json and test_split.json
VG_100K/, VG_100K_2/       2388350.jpg, the pictures of Visual Genome as its two archives unpack
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cm3.document import Document, Text
from cm3.errors import DataError
from cm3.read.base import Records, field, folders_of
from cm3.read.listed import load, picture_in

PARAGRAPHS = "paragraphs_v1.json"
SPLITS = ("train", "val", "test")
FOLDERS = ("VG_100K", "VG_100K_2")


class ImageParagraph(Records):
    """One document an image, `paragraph, picture`, in the order of the split's file.

    The published file repeats a few images; the first paragraph of an image is its paragraph. `id` is the image's
    number, and `meta` has `split`, `image_id` and `url`.
    """

    kind = "image_paragraph"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read the paragraphs and the split; without `split`, the first of train, val and test that is there.

        Raises `DataError` where a file or both folders of pictures are missing, for an unknown split, and for a file
        of another layout.
        """
        self.root = Path(root)
        splits = self.splits(self.root)
        if not self.recognises(self.root) or not splits:
            raise DataError(
                f"Image Paragraph {str(root)!r}: has no {PARAGRAPHS} with train_split.json beside it; give the folder "
                "that holds them"
            )
        self.split = splits[0] if split is None else split
        if self.split not in splits:
            raise DataError(f"Image Paragraph {str(root)!r}: has no split {split!r}; it has {', '.join(splits)}")
        folders_of(self.root, FOLDERS)
        self.source = f"{self.kind}/{self.split}"
        self.file = f"{self.split}_split.json"
        self.records: dict[int, Any] = {}
        self._lost: list[tuple[str, str]] = []  # entries of no image: id, and why
        for number, record in self._numbered(PARAGRAPHS):
            self.records.setdefault(number, record)
        self.numbers = list(dict.fromkeys(number for number, _ in self._numbered(self.file)))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the paragraphs are there."""
        return (root / PARAGRAPHS).is_file()

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those of train, val and test whose file is there."""
        return tuple(split for split in SPLITS if (root / f"{split}_split.json").is_file())

    def _numbered(self, name: str) -> list[tuple[int, Any]]:
        """Return the entries of a file with their image numbers: entries are records, or the numbers themselves.

        Raises `DataError` for a file that is damaged or no list with any of these.
        """
        entries = load(self.root / name)
        found: list[tuple[int, Any]] = []
        lost: list[tuple[str, str]] = []
        for i, entry in enumerate(entries if isinstance(entries, list) else ()):
            record = entry if isinstance(entry, dict) else {"image_id": entry}
            try:
                found.append((field(record, "image_id", int, f"{name}, entry {i}"), record))
            except DataError as error:
                lost.append((f"{name}/{i}", str(error)))
        if not isinstance(entries, list) or lost and not found:
            reason = lost[0][1] if lost else f"it is {entries!r:.60}"
            path = str(self.root / name)
            raise DataError(
                f"Image Paragraph {path!r}: is no list of records or image numbers ({reason}); download it again"
            )
        self._lost += lost
        return found

    def __len__(self) -> int:
        return len(self.numbers) + len(self._lost)

    def name(self, index: int) -> str:
        """Return the image's number; file and entry of one that has none. Those come last."""
        return str(self.numbers[index]) if index < len(self.numbers) else self._lost[index - len(self.numbers)][0]

    def document(self, index: int) -> Document:
        """A paragraph and its picture. Raises `DataError` where either is missing."""
        if index >= len(self.numbers):
            raise DataError(self._lost[index - len(self.numbers)][1])
        number = self.numbers[index]
        if number not in self.records:
            raise DataError(f"image {number} of {self.file} has no paragraph in {PARAGRAPHS}")
        if not 0 <= number < 10**12:
            raise DataError(f"image {number!r:.40} of {self.file}: must have at most 12 digits")
        record = self.records[number]
        text = field(record, "paragraph", str, f"{PARAGRAPHS}: image {number}").strip()
        if not text:
            raise DataError(f"{PARAGRAPHS}: image {number} has an empty paragraph")
        image = picture_in([self.root / folder for folder in FOLDERS], f"{number}.jpg")
        url = record.get("url") and field(record, "url", str, f"{PARAGRAPHS}: image {number}")
        meta = {"split": self.split, "image_id": number, "url": url}
        return Document((Text(text), image), id=str(number), source=self.source, meta=meta)
