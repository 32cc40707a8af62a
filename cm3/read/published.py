"""Datasets as their owners publish them: files of records that have ids, in splits, and the pictures beside.

coco_karpathy           Karpathy's splits of MS-COCO's captions, of his caption_datasets.zip
              dataset_coco.json         {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg",
                                        "cocoid", "split", "sentences": [{"raw", "sentid"}]}]}
              train2014/, val2014/      COCO_val2014_000000391895.jpg

flickr30k     results_20130124.token    1000092795.jpg#0<tab>Two young guys with shaggy hair ...     the split "all"
              dataset_flickr30k.json    {"images": [{"filename", "split", "imgid", "sentences": [{"raw", "sentid"}]}]}
              flickr30k-images/         1000092795.jpg (or flickr30k_images/)

image_paragraph        Krause et al. 2017: a paragraph of each of some pictures of Visual Genome
              paragraphs_v1.json        [{"image_id": 2388350, "paragraph": "On a ...", "url": "https://..."}, ...]
              train_split.json          [2388350, ...], and so val_split.json and test_split.json
              VG_100K/, VG_100K_2/      2388350.jpg

localized_narratives   Pont-Tuset et al. 2020: spoken descriptions of four datasets' pictures
              coco_train_captions.jsonl                               image captions only, or
              coco_train_localized_narratives-00000-of-00004.jsonl    the full narratives, far larger files
                  {"dataset_id": "mscoco_train2017", "image_id": "107899", "annotator_id": 5, "caption": "...", ...}
              the pictures as each dataset's own archives unpack, beside or in a folder of the part's name:
              coco          train2017/000000107899.jpg, val2017/
              open_images   train/ID.jpg (or train_0/ to train_f/, by the first digit of ID), validation/, test/
              flickr30k     flickr30k-images/ID.jpg (or flickr30k_images/)
              ade20k        images/training/ADE_train_00000001.jpg, images/validation/ (or below ADEChallengeData2016/)

instructpix2pix        clip-filtered-dataset, random-sample-dataset: pictures before and after
              seeds.json                [["0000000", ["1234", ...]], ...]: folders, and the pairs of pictures in each
              0000000/prompt.json       {"input": caption before, "edit": instruction, "output": caption after}; of the
                                        owners' own program {"caption": ..., "edit": ..., "output": ...}
              0000000/1234_0.jpg, 1234_1.jpg    before and after; folders lie beside seeds.json or in shard-00 ...
"""

from __future__ import annotations

import json
import os
import re
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cm3.document import Document, Image, Part, Text
from cm3.errors import DataError
from cm3.files import inside, parse_json, said
from cm3.read.base import LINE, Records, content, field, first_of, folders_of, line_starts, named_picture

Pairs = list[tuple[str, Any]]
"""An object of JSON as the pairs that are written."""
Entry = tuple[str, Any]
"""Id of a record, and the record, or the `DataError` of one that cannot be read."""
Made = tuple[tuple[Part, ...], dict[str, Any]]
"""Parts and meta of a document."""


def load(
    path: Path, hook: Callable[[dict[str, Any]], Any] | None = None, pairs: Callable[[Pairs], Any] | None = None
) -> Any:
    """Return the content of a JSON file, each of its objects passed through `hook`, or as pairs through `pairs`.

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
    """Check pairs for `load` of a file whose keys are ids: a key that stands there twice would hide its first value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"{twice!r:.40} stands in it more than once")
    return content


def file_name(record: Any, name: str, where: str) -> str:
    """Return `record[name]`, a file's name. Raises `DataError` for one that is no text or leads to another folder."""
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
    """Records that are known when the reader is made: `entries`, which `_list` keeps.

    Only the first record of an id is a document; each further one cannot be told from it, so it is unreadable.
    """

    entries: list[Entry]

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.entries[index][0]

    def document(self, index: int) -> Document:
        """Return a record. Raises `DataError` for one that cannot be read or has the id of an earlier one."""
        id, record = self.entries[index]
        if index in self._again:
            raise DataError(f"record {index}: has the id {id!r} of an earlier one; ids must be unique")
        if isinstance(record, DataError):
            raise DataError(str(record))
        parts, meta = self._made(id, record)
        return Document(parts, id=id, source=self.source, meta=meta)

    def _list(self, entries: Iterable[Entry]) -> None:
        """Keep the entries, and which of them have the id of one before."""
        seen: set[str] = set()
        self.entries, self._again = list(entries), set[int]()
        for index, (id, _) in enumerate(self.entries):
            if id in seen:
                self._again.add(index)
            seen.add(id)

    @abstractmethod
    def _made(self, id: str, record: Any) -> Made:
        """Return parts and meta of a record. Raises `DataError` for one that cannot be read."""


class Published(Records):
    """A dataset of one folder, in splits."""

    called: ClassVar[str] = ""
    """Its name in messages, where the path alone does not tell."""
    missing: ClassVar[str]
    """The fault of a folder that has no split, and the remedy."""

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read the records of a split; without one, of the first that is there.

        Raises `DataError` where files of records or folders of pictures are missing, for an unknown split, and for a
        file of another layout.
        """
        self.root = Path(root)
        splits = self.splits(self.root)
        if not splits or split is not None and split not in splits:
            raise DataError(f"{self._where(root)}: {self._lacks(split, splits)}")
        self.split = split or splits[0]
        self.source = f"{self.kind}/{self.split}"
        self._open()

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return bool(cls.splits(root))

    @abstractmethod
    def _open(self) -> None:
        """Find the records of the split."""

    def _lacks(self, split: str | None, splits: Sequence[str]) -> str:
        return f"has no split {split!r}; it has {', '.join(splits)}" if splits else self.missing

    def _where(self, path: Path | str) -> str:
        return f"{self.called} {str(path)!r}".strip()


TOKEN = "results_20130124.token"
FLICKR_FOLDERS = ("flickr30k-images", "flickr30k_images")
"""Where Flickr30k's pictures are: the archive's own folder, and the name that copies of it have."""
_KEY = re.compile(r"([\w-]+\.jpg)#(\d+)")


class Flickr30k(Listed, Published):
    """One document a caption, `caption, picture`, in the order of the file: Karpathy's splits, else the owners' "all".

    `id` is what the token file calls it ("1000092795.jpg#0": picture and number of the caption) whichever file is read,
    or file and number of a line that does not say so.
    `meta` has `split`, `image_id` (the file's stem) and, from Karpathy's file, `sentid`.
    """

    kind = "flickr30k"
    called = "Flickr30k"
    KARPATHY: ClassVar[str] = "dataset_flickr30k.json"
    missing = f"has neither {TOKEN} nor {KARPATHY}; give the folder that holds one of them"

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        named = ("train", "val", "test") if (root / cls.KARPATHY).is_file() else ()
        return (*named, *(("all",) if (root / TOKEN).is_file() else ()))

    def _open(self) -> None:
        self.folder = folders_of(self.root, FLICKR_FOLDERS)[0]
        path = self.root / (TOKEN if self.split == "all" else self.KARPATHY)
        self._list(self._token(path) if self.split == "all" else self._karpathy(path))

    def picture_paths(self, document: Document) -> list[Path]:
        return [self.folder / f"{document.meta['image_id']}.jpg"]

    def _made(self, id: str, record: Any) -> Made:
        file, image_id, text, sentid = record
        meta = {"split": self.split, "image_id": image_id} | ({} if "/" not in file else {"file": file})
        if sentid is not None:
            meta["sentid"] = sentid
        return (Text(text), named_picture(self.folder, file)), meta

    def _token(self, path: Path) -> list[Entry]:
        """Return the lines of the owners' file. Raises `DataError` when not one is of its layout."""
        entries: list[Entry] = []
        for number, line in enumerate(content(path).splitlines(), 1):
            where = f"{path.name}:{number}"
            try:
                key, _, text = line.decode().partition("\t")
            except UnicodeDecodeError as error:
                entries.append((where, DataError(f"{where}: is not UTF-8 at byte {error.start}")))
                continue
            named = _KEY.fullmatch(key)
            if named is None or not text.strip():
                entries.append((where, DataError(f"{where}: is not 'NAME.jpg#NUMBER<tab>caption': {line[:60]!r}")))
            else:
                entries.append((key, (named[1], Path(named[1]).stem, text.strip(), None)))
        if all(isinstance(record, DataError) for _, record in entries):
            raise DataError(
                f"{self._where(path)}: no line is 'NAME.jpg#NUMBER<tab>caption'; download flickr30k.tar.gz again"
            )
        return entries

    def _karpathy(self, path: Path) -> list[Entry]:
        """Return the captions of the split of Karpathy's file; a record that does not say its split is told in each."""
        entries: list[Entry] = []
        try:
            images = field(load(path), "images", list, path.name)
            for i, image in enumerate(images):
                entries += self._sentences(image, f"{path.name}: image {i}")
            if entries and all(isinstance(record, DataError) for _, record in entries):
                raise entries[0][1]
        except DataError as error:
            raise DataError(
                f"{self._where(path)}: is not of Karpathy's layout ({error}); download caption_datasets.zip again"
            ) from error
        return entries

    def _sentences(self, image: Any, where: str) -> list[Entry]:
        entries: list[Entry] = []
        try:
            if field(image, "split", str, where) != self.split:
                return []
            file, sentences = field(image, "filename", str, where), field(image, "sentences", list, where)
            picture = self._picture(image, file, where)
        except DataError as error:
            return [(where, error)]
        for k, sentence in enumerate(sentences):
            id = f"{file}#{k}"
            try:
                text = field(sentence, "raw", str, id).strip()
                if not text or not _KEY.fullmatch(id):
                    raise DataError(f"{id}: {'has no caption' if not text else 'is not the name of a picture'}")
                entries.append((id, (*picture, text, sentence.get("sentid"))))
            except DataError as error:
                entries.append((id, error))
        return entries

    def _picture(self, image: dict[str, Any], file: str, where: str) -> tuple[str, int | str]:
        """Return the file of an image of Karpathy's, below the folder of pictures, and its `image_id`."""
        return file, Path(file).stem


class CocoKarpathy(Flickr30k):
    """MS-COCO's captions in Karpathy's splits, whose 5,000 test pictures the field reports captioning on.

    One document a caption, in the order of the file; `id` as of Flickr30k, and `image_id` COCO's number. `restval` are
    the pictures of val2014 that are in neither val nor test, and are trained on.
    """

    kind = "coco_karpathy"
    called = "COCO"
    KARPATHY = "dataset_coco.json"
    missing = f"has no {KARPATHY}; give the folder that holds it"

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        return ("train", "restval", "val", "test") if (root / cls.KARPATHY).is_file() else ()

    def _open(self) -> None:
        folders_of(self.root, ("val2014", "train2014"))
        self.folder = self.root
        self._list(self._karpathy(self.root / self.KARPATHY))

    def picture_paths(self, document: Document) -> list[Path]:
        return [self.root / document.meta["file"]]

    def _picture(self, image: dict[str, Any], file: str, where: str) -> tuple[str, int | str]:
        return f"{file_name(image, 'filepath', where)}/{file}", field(image, "cocoid", int, where)


PARAGRAPHS = "paragraphs_v1.json"
GENOME = ("VG_100K", "VG_100K_2")
"""Where Visual Genome's pictures are."""


class ImageParagraph(Listed, Published):
    """One document an image, `paragraph, picture`, in the order of the split's file; entries of no image come last.

    The published file repeats a few images; the first paragraph of an image is its paragraph. `id` is the image's
    number, and `meta` has `split`, `image_id` and `url`.
    """

    kind = "image_paragraph"
    called = "Image Paragraph"
    missing = f"has no {PARAGRAPHS} with train_split.json beside it; give the folder that holds them"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (root / PARAGRAPHS).is_file()

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        found = tuple(split for split in ("train", "val", "test") if (root / f"{split}_split.json").is_file())
        return found if cls.recognises(root) else ()

    def _open(self) -> None:
        folders_of(self.root, GENOME)
        self.file = f"{self.split}_split.json"
        known, lost = self._numbered(PARAGRAPHS)
        self.records: dict[int, Any] = {}
        for number, record in known:
            self.records.setdefault(number, record)
        numbers, more = self._numbered(self.file)
        self._list([*((str(n), n) for n in dict.fromkeys(n for n, _ in numbers)), *lost, *more])

    def _numbered(self, name: str) -> tuple[list[tuple[int, Any]], list[Entry]]:
        """Return the entries of a file with their image numbers, and those without one.

        Entries are records, or the numbers themselves. Raises `DataError` for a file without any of these.
        """
        entries = load(self.root / name)
        found: list[tuple[int, Any]] = []
        lost: list[Entry] = []
        for i, entry in enumerate(entries if isinstance(entries, list) else ()):
            record = entry if isinstance(entry, dict) else {"image_id": entry}
            try:
                found.append((field(record, "image_id", int, f"{name}, entry {i}"), record))
            except DataError as error:
                lost.append((f"{name}/{i}", error))
        if not isinstance(entries, list) or lost and not found:
            reason = lost[0][1] if lost else f"it is {entries!r:.60}"
            where = self._where(self.root / name)
            raise DataError(f"{where}: is no list of records or image numbers ({reason}); download it again")
        return found, lost

    def _made(self, id: str, record: Any) -> Made:
        if record not in self.records:
            raise DataError(f"image {id} of {self.file} has no paragraph in {PARAGRAPHS}")
        if not 0 <= record < 10**12:
            raise DataError(f"image {id:.40} of {self.file}: must have at most 12 digits")
        where, found = f"{PARAGRAPHS}: image {id}", self.records[record]
        text = field(found, "paragraph", str, where).strip()
        if not text:
            raise DataError(f"{where} has an empty paragraph")
        image = picture_in([self.root / folder for folder in GENOME], f"{id}.jpg")
        url = found.get("url") and field(found, "url", str, where)
        return (Text(text), image), {"split": self.split, "image_id": record, "url": url}


_FLICKR = tuple(f"{folder}/{{0}}.jpg" for folder in FLICKR_FOLDERS)
_ADE = ("images/{1}/{0}.jpg", "ADEChallengeData2016/images/{1}/{0}.jpg")
PLACES = {
    "open_images_train": ("train/{0}.jpg", "train_{0[0]}/{0}.jpg"),
    "open_images_val": ("validation/{0}.jpg",),
    "open_images_test": ("test/{0}.jpg",),
    "coco_train": ("train2017/{0:0>12}.jpg",),
    "coco_val": ("val2017/{0:0>12}.jpg",),
    "flickr30k_train": _FLICKR,
    "flickr30k_val": _FLICKR,
    "flickr30k_test": _FLICKR,
    "ade20k_train": tuple(place.replace("{1}", "training") for place in _ADE),
    "ade20k_val": tuple(place.replace("{1}", "validation") for place in _ADE),
}
"""Split of the narratives, by the name that the owners' loader gives it -> where the picture of an image id may be."""
_FILE = re.compile(
    r"(open_images|coco|flickr30k|ade20k)_(train|val|test)(?:idation)?(?:_v6)?"
    r"_(captions|localized_narratives)(?:-\d{5}-of-\d{5})?\.jsonl"
)


class LocalizedNarratives(Published):
    """One document a narrative, `caption, picture`, in the order of the files and their lines.

    Lines are found once and read when they are asked for. Of a split that is there both ways the captions are read,
    and of shards those that are there. `id` is image and annotator ("107899_5"), and `meta` has `split`, `dataset_id`,
    `image_id` and `annotator_id`. `timed_caption`, `traces` and `voice_recording` are left in the files.
    """

    kind = "localized_narratives"
    called = "Localized Narratives"
    missing = (
        "has no file like coco_train_captions.jsonl; give the folder that holds them, under the names that they are "
        "published by"
    )

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        return tuple(_narratives(root))

    def _open(self) -> None:
        self.files = _narratives(self.root)[self.split]
        part = self.split.rpartition("_")[0]
        self.places = [base + place for base in ("", f"{part}/") for place in PLACES[self.split]]
        folders = [place.rpartition("/")[0].replace("{0[0]}", "[0-9a-f]") for place in self.places]
        if not any(path.is_dir() for folder in folders for path in self.root.glob(folder)):
            raise DataError(
                f"{self._where(self.root)}: has no folder {' or '.join(folders)}; put the pictures of {self.split} "
                "there"
            )
        self.starts = array("Q")  # byte at which a line starts, in its file
        self.first: list[int] = []  # number of the first line of a file
        for path in self.files:
            self.first.append(len(self.starts))
            try:
                with path.open("rb") as file:
                    self.starts += line_starts(file)[:-1]
            except OSError as error:
                raise DataError(f"{self._where(path)}: cannot be read ({error.strerror})") from error

    def __len__(self) -> int:
        return len(self.starts)

    def name(self, index: int) -> str:
        """Return image and annotator; file and line, where the line does not say them."""
        try:
            return self._record(index)[0]
        except DataError:
            return self._line(index)[1]

    def document(self, index: int) -> Document:
        id, record, where = self._record(index)
        image_id, text = record["image_id"], field(record, "caption", str, where).strip()
        if not text:
            raise DataError(f"{where}: has an empty caption")
        files = self._files(image_id)
        image = picture_in([path.parent for path in files], files[0].name)
        dataset = record.get("dataset_id") and field(record, "dataset_id", str, where)
        meta = {"split": self.split, "dataset_id": dataset, "image_id": image_id}
        meta["annotator_id"] = record["annotator_id"]
        return Document((Text(text), image), id=id, source=self.source, meta=meta)

    def picture_paths(self, document: Document) -> list[Path]:
        files = self._files(document.meta["image_id"])
        return [next((path for path in files if first_of(path.parent, [path.name])), files[0])]

    def _files(self, image_id: str) -> list[Path]:
        return [self.root / place.format(image_id) for place in self.places]

    def _line(self, index: int) -> tuple[Path, str]:
        """Return the file of a line, and "FILE:NUMBER" of the line."""
        at = bisect_right(self.first, index) - 1
        return self.files[at], f"{self.files[at].name}:{index - self.first[at] + 1}"

    def _record(self, index: int) -> tuple[str, Any, str]:
        """Return id, record and place of a line. Raises `DataError` for one that is not JSON or names no picture."""
        path, where = self._line(index)
        try:
            with path.open("rb") as file:
                file.seek(self.starts[index])
                line = file.readline(LINE + 1)
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({said(error)})") from error
        if len(line) > LINE:
            raise DataError(f"{where}: has more than {LINE} bytes; download the file again")
        record = parse_json(line, where)
        image_id = field(record, "image_id", str, where)
        if not re.fullmatch(r"\w{1,200}", image_id):
            raise DataError(f"{where}: image_id {image_id!r:.60} is not the name of a picture")
        return f"{image_id}_{field(record, 'annotator_id', int, where)}", record, where


def _narratives(root: Path) -> dict[str, list[Path]]:
    """Map split -> its files, in the order of `PLACES` and of the shards; captions alone where there are both."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.glob("*.jsonl")):
        if named := _FILE.fullmatch(path.name):
            found.setdefault(f"{named[1]}_{named[2]}", {}).setdefault(named[3], []).append(path)
    there = [split for split in PLACES if split in found]
    return {split: found[split].get("captions") or found[split]["localized_narratives"] for split in there}


CAPTIONS = ("input", "caption", "output")
"""Fields of prompt.json that need not be there."""
HEAD = 256
"""Bytes that hold the first folder's name in seeds.json."""
PAIR = re.compile(r"(?:[\w-]{1,100}/){1,3}[\w-]{1,100}", re.ASCII)
"""Folder and seed as they may be: nothing that leads out of the dataset."""


class InstructPix2Pix(Listed):
    """One document a pair: the picture before, the instruction, the picture after. Folders may be missing.

    `id` is folder and seed ("0000000/1234"). `meta` has edit, seed, and those of input, caption and output that there
    are. The owners' own loader makes splits of fractions of seeds.json; there are none in the files, so there are none
    here. How a pair was made, as metadata.jsonl says, is not read.
    """

    kind = source = "instructpix2pix"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read seeds.json. Raises `DataError` for one that is missing or of another layout, and for any split."""
        self.root = Path(root)
        if split is not None:
            raise DataError(f"{str(root)!r}: has no split {split!r}; InstructPix2Pix has no splits, leave @{split} out")
        path = self.root / "seeds.json"
        listed = load(path)
        if not isinstance(listed, list):
            raise DataError(f"{str(path)!r}: is no list of [folder, [seed, ...]]; download it again")
        pairs: list[Any] = []
        for number, record in enumerate(listed):
            where = f"seeds.json, record {number}"
            if not (isinstance(record, list) and len(record) == 2 and isinstance(record[1], list)):
                pairs.append(DataError(f"{where}: is {record!r:.60}, must be [folder, [seed, ...]]"))
                continue
            folder, seeds = record
            for seed in seeds:
                sound = type(folder) is str and type(seed) in (str, int)
                wrong = f"{where}: has {folder!r:.40} and {seed!r:.40}, must be the names of a folder and of a seed"
                pairs.append((folder, str(seed)) if sound else DataError(wrong))
        if pairs and all(isinstance(pair, DataError) for pair in pairs):
            raise DataError(f"{str(path)!r}: is no list of [folder, [seed, ...]] ({pairs[0]}); download it again")
        self.homes = [self.root, *sorted(home for home in self.root.glob("shard-*") if home.is_dir())]
        self._list((f"pair {i}" if isinstance(p, DataError) else "/".join(p), p) for i, p in enumerate(pairs))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Tell whether seeds.json is there and begins as theirs does."""
        path = root / "seeds.json"
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return re.match(rb'\s*\[\s*\[\s*"[^"]+"\s*,\s*\[', file.read(HEAD)) is not None

    def _made(self, id: str, record: Any) -> Made:
        name, seed = record
        if not PAIR.fullmatch(id):
            raise DataError(f"seeds.json: {id!r:.80}: must be a folder beside it, and a seed")
        home = next((home for home in self.homes if (home / name).is_dir()), None)
        if home is None:
            raise DataError(f"{name}: no such folder beside seeds.json, which names it")
        where = f"{name}/prompt.json"
        prompt = load(inside(home, where, "instruction"))
        edit = field(prompt, "edit", str, where)
        if not edit.strip():
            raise DataError(f"{where}: 'edit' is empty, must be an instruction")
        # The captions are of how the pictures were made; nothing is made of them.
        meta = {"edit": edit} | {key: field(prompt, key, str, where) for key in CAPTIONS if prompt.get(key) is not None}
        before, after = (named_picture(home, f"{name}/{seed}_{which}.jpg") for which in (0, 1))
        return (before, Text(edit.strip()), after), {**meta, "seed": seed}
