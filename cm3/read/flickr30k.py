"""Flickr30k as its owners publish it, or with the splits of Karpathy and Fei-Fei: five captions a picture.

results_20130124.token    1000092795.jpg#0<tab>Two young guys with shaggy hair ...
dataset_flickr30k.json    {"images": [{"filename", "split", "imgid", "sentences": [{"raw", "sentid", ...}]}]}
flickr30k-images/         1000092795.jpg (or flickr30k_images/)

The first file has the split "all". The second, Karpathy's, has train, val and test; it leaves some pictures out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from cm3.document import Document, Text
from cm3.errors import DataError
from cm3.read.base import content, field, folders_of, named_picture
from cm3.read.listed import Listed, load

TOKEN = "results_20130124.token"
KARPATHY = "dataset_flickr30k.json"
FOLDERS = ("flickr30k-images", "flickr30k_images")
"""Where the pictures are: the archive's own folder, and the name that copies of it have."""
_KEY = re.compile(r"([\w-]+\.jpg)#(\d+)")


class _Caption(NamedTuple):
    """A caption, and `wrong` where it cannot be read."""

    id: str
    file: str = ""
    text: str = ""
    sentid: Any = None
    wrong: str = ""


class Flickr30k(Listed):
    """One document a caption, `caption, picture`, in the order of the file.

    `id` is what the token file calls it ("1000092795.jpg#0": picture and number of the caption) whichever file is read,
    or file and number of a line that does not say so.
    `meta` has `split`, `image_id` (the file's stem) and, from Karpathy's file, `sentid`.
    """

    kind = "flickr30k"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read the captions; without `split`, train where Karpathy's file is there and else all.

        Raises `DataError` where neither file or no folder of pictures is there, for an unknown split, and for a file
        of another layout.
        """
        self.root = Path(root)
        splits = self.splits(self.root)
        if not splits:
            raise DataError(
                f"Flickr30k {str(root)!r}: has neither {TOKEN} nor {KARPATHY}; give the folder that holds one of them"
            )
        self.split = splits[0] if split is None else split
        if self.split not in splits:
            raise DataError(f"Flickr30k {str(root)!r}: has no split {split!r}; it has {', '.join(splits)}")
        self.folder = folders_of(self.root, FOLDERS)[0]
        self.source = f"{self.kind}/{self.split}"
        if self.split == "all":
            self.captions = _token(self.root / TOKEN)
        else:
            self.captions = _karpathy(self.root / KARPATHY, self.split)
        self._list([caption.id for caption in self.captions])

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether either file of captions is there."""
        return bool(cls.splits(root))

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """train, val, test where Karpathy's file is there; all where the owners' is."""
        named = ("train", "val", "test") if (root / KARPATHY).is_file() else ()
        return (*named, *(("all",) if (root / TOKEN).is_file() else ()))

    def picture_paths(self, document: Document) -> list[Path]:
        """Return its file, which is called as its `image_id`."""
        return [self.folder / f"{document.meta['image_id']}.jpg"]

    def _document(self, index: int) -> Document:
        caption = self.captions[index]
        if caption.wrong:
            raise DataError(caption.wrong)
        meta = {"split": self.split, "image_id": Path(caption.file).stem}
        if caption.sentid is not None:
            meta["sentid"] = caption.sentid
        parts = (Text(caption.text), named_picture(self.folder, caption.file))
        return Document(parts, id=caption.id, source=self.source, meta=meta)


def _token(path: Path) -> list[_Caption]:
    """The lines of the owners' file. Raises `DataError` when not one is of its layout."""
    captions = []
    for number, line in enumerate(content(path).splitlines(), 1):
        where = f"{path.name}:{number}"
        try:
            key, _, text = line.decode().partition("\t")
        except UnicodeDecodeError as error:
            captions.append(_Caption(where, wrong=f"{where}: is not UTF-8 at byte {error.start}"))
            continue
        named = _KEY.fullmatch(key)
        if named is None or not text.strip():
            captions.append(_Caption(where, wrong=f"{where}: is not 'NAME.jpg#NUMBER<tab>caption': {line[:60]!r}"))
        else:
            captions.append(_Caption(key, named[1], text.strip()))
    if all(caption.wrong for caption in captions):
        raise DataError(
            f"Flickr30k {str(path)!r}: no line is 'NAME.jpg#NUMBER<tab>caption'; download flickr30k.tar.gz again"
        )
    return captions


def _karpathy(path: Path, split: str) -> list[_Caption]:
    """Return the captions of a split of Karpathy's file; a record that does not say its split is told in each.

    Raises `DataError` for a file of another layout.
    """
    try:
        images = field(load(path), "images", list, path.name)
    except DataError as error:
        raise DataError(
            f"Flickr30k {str(path)!r}: is not of Karpathy's layout ({error}); download caption_datasets.zip again"
        ) from error
    captions = []
    for i, image in enumerate(images):
        where = f"{path.name}: image {i}"
        try:
            if field(image, "split", str, where) != split:
                continue
            file, sentences = field(image, "filename", str, where), field(image, "sentences", list, where)
        except DataError as error:
            captions.append(_Caption(where, wrong=str(error)))
            continue
        captions += [_sentence(f"{file}#{k}", file, sentence) for k, sentence in enumerate(sentences)]
    if captions and all(caption.wrong for caption in captions):
        raise DataError(
            f"Flickr30k {str(path)!r}: is not of Karpathy's layout ({captions[0].wrong}); download "
            "caption_datasets.zip again"
        )
    return captions


def _sentence(id: str, file: str, sentence: Any) -> _Caption:
    try:
        text = field(sentence, "raw", str, id).strip()
    except DataError as error:
        return _Caption(id, wrong=str(error))
    if not text or not _KEY.fullmatch(id):
        return _Caption(id, wrong=f"{id}: {'has no caption' if not text else 'is not the name of a picture'}")
    return _Caption(id, file, text, sentence.get("sentid"))
