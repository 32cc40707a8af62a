"""Stanford's image paragraphs (Krause et al. 2017) as their owners publish them: a paragraph of Visual Genome pictures.

paragraphs_v1.json         [{"image_id": 2388350, "paragraph": "On a white plastic ...", "url": "https://..."}, ...]
train_split.json           [2388350, ...], and so val_split.json and test_split.json
VG_100K/, VG_100K_2/       2388350.jpg, the pictures of Visual Genome as its two archives unpack
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cm3.data.read.base import Records, field
from cm3.data.read.listed import load, picture_in
from cm3.document import Document, Text
from cm3.errors import DataError

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
        if not any((self.root / folder).is_dir() for folder in FOLDERS):
            raise DataError(
                f"Image Paragraph {str(root)!r}: has neither {' nor '.join(FOLDERS)}; put the pictures of Visual "
                "Genome there, beside the paragraphs"
            )
        self.source = f"{self.kind}/{self.split}"
        self.records: dict[int, Any] = {}
        for number, record in _numbered(self.root / PARAGRAPHS):
            self.records.setdefault(number, record)
        self.file = f"{self.split}_split.json"
        self.numbers = list(dict.fromkeys(number for number, _ in _numbered(self.root / self.file)))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the paragraphs are there."""
        return (root / PARAGRAPHS).is_file()

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those of train, val and test whose file is there."""
        return tuple(split for split in SPLITS if (root / f"{split}_split.json").is_file())

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, index: int) -> str:
        """The image's number."""
        return str(self.numbers[index])

    def document(self, index: int) -> Document:
        """A paragraph and its picture. Raises `DataError` where either is missing."""
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
        meta = {"split": self.split, "image_id": number, "url": record.get("url")}
        return Document((Text(text), image), id=str(number), source=self.source, meta=meta)


def _numbered(path: Path) -> list[tuple[int, Any]]:
    """The entries of a file with their image numbers: entries are records, or the numbers themselves.

    Raises `DataError` for a file that is damaged or no list of these.
    """
    entries = load(path)
    try:
        if not isinstance(entries, list):
            raise DataError(f"it is {entries!r:.60}")
        records = [entry if isinstance(entry, dict) else {"image_id": entry} for entry in entries]
        return [(field(record, "image_id", int, f"entry {i}"), record) for i, record in enumerate(records)]
    except DataError as error:
        raise DataError(
            f"Image Paragraph {str(path)!r}: is no list of records or image numbers ({error}); download it again"
        ) from error
