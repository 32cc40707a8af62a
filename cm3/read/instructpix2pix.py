"""InstructPix2Pix as its owners publish it (clip-filtered-dataset, random-sample-dataset): pictures before and after.

seeds.json                             [["0000000", ["1234", ...]], ...]: folders, and the pairs of pictures in each
0000000/prompt.json                    {"input": caption before, "edit": instruction, "output": caption after}; of the
                                       owners' own program {"caption": ..., "edit": ..., "output": ...}
0000000/1234_0.jpg, 1234_1.jpg         the pictures before and after

Folders lie beside seeds.json, or in the shard-00 ... shard-29 that their archives are named. The owners' own loader
makes splits of fractions of seeds.json; there are none in the files, so there are none here. What metadata.jsonl says
of how a pair was made is not read.
"""

from __future__ import annotations

import re
from pathlib import Path

from cm3.document import Document, Text
from cm3.errors import DataError
from cm3.files import inside
from cm3.read.base import field, named_picture
from cm3.read.listed import Listed, load

CAPTIONS = ("input", "caption", "output")
"""Fields of prompt.json that need not be there."""
HEAD = 256
"""Bytes that hold the first folder's name in seeds.json."""
PAIR = re.compile(r"(?:[\w-]{1,100}/){1,3}[\w-]{1,100}", re.ASCII)
"""Folder and seed as they may be: nothing that leads out of the dataset."""


class InstructPix2Pix(Listed):
    """One document a pair: the picture before, the instruction, the picture after. Folders may be missing.

    `id` is folder and seed ("0000000/1234"). `meta` has edit, seed, and those of input, caption and output that there
    are.
    """

    kind = "instructpix2pix"

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read seeds.json. Raises `DataError` for one that is missing or of another layout, and for any split."""
        self.root = Path(root)
        self.source = self.kind
        if split is not None:
            raise DataError(f"{str(root)!r}: has no split {split!r}; InstructPix2Pix has no splits, leave @{split} out")
        path = self.root / "seeds.json"
        listed = load(path)
        if not isinstance(listed, list):
            raise DataError(f"{str(path)!r}: is no list of [folder, [seed, ...]]; download it again")
        # Folder and seed, or in the place of both what stands there instead.
        self.pairs: list[tuple[str, str] | str] = []
        for number, record in enumerate(listed):
            where = f"seeds.json, record {number}"
            if not (isinstance(record, list) and len(record) == 2 and isinstance(record[1], list)):
                self.pairs.append(f"{where}: is {record!r:.60}, must be [folder, [seed, ...]]")
                continue
            folder, seeds = record
            for seed in seeds:
                sound = type(folder) is str and type(seed) in (str, int)
                wrong = f"{where}: has {folder!r:.40} and {seed!r:.40}, must be the names of a folder and of a seed"
                self.pairs.append((folder, str(seed)) if sound else wrong)
        if self.pairs and isinstance(self.pairs[0], str) and all(isinstance(pair, str) for pair in self.pairs):
            raise DataError(f"{str(path)!r}: is no list of [folder, [seed, ...]] ({self.pairs[0]}); download it again")
        self.homes = [self.root, *sorted(home for home in self.root.glob("shard-*") if home.is_dir())]
        self._list([f"pair {i}" if isinstance(pair, str) else "/".join(pair) for i, pair in enumerate(self.pairs)])

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether seeds.json is there and begins as theirs does."""
        path = root / "seeds.json"
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return re.match(rb'\s*\[\s*\[\s*"[^"]+"\s*,\s*\[', file.read(HEAD)) is not None

    def _document(self, index: int) -> Document:
        pair = self.pairs[index]
        if isinstance(pair, str):
            raise DataError(pair)
        name, seed = pair
        if not PAIR.fullmatch(self.ids[index]):
            raise DataError(f"seeds.json: {self.ids[index]!r:.80}: must be a folder beside it, and a seed")
        home = next((home for home in self.homes if (home / name).is_dir()), None)
        if home is None:
            raise DataError(f"{name}: no such folder beside seeds.json, which names it")
        prompt = load(inside(home, f"{name}/prompt.json", "instruction"))
        where = f"{name}/prompt.json"
        edit = field(prompt, "edit", str, where)
        if not edit.strip():
            raise DataError(f"{where}: 'edit' is empty, must be an instruction")
        # The captions are of how the pictures were made; nothing is made of them.
        meta = {"edit": edit} | {key: field(prompt, key, str, where) for key in CAPTIONS if prompt.get(key) is not None}
        before, after = (named_picture(home, f"{name}/{seed}_{which}.jpg") for which in (0, 1))
        return Document(
            (before, Text(edit.strip()), after),
            id=self.ids[index],
            source=self.source,
            meta={**meta, "seed": seed},
        )
