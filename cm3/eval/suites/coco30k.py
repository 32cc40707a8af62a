"""Zero-shot MS-COCO-30K, the benchmark of the paper's Table 1: a picture of one caption each of 30,000 pictures.

The paper names the number of documents read (0, 1, 2), eight candidates a caption of which a CLIP keeps the best, and
pytorch-fid. It does not say the rest, and published figures differ by all of it, so it is said here and in each result:

    captions     one of each of 30,000 pictures of the split, both drawn by the seed
    seeds        of a picture seed + its number in the split
    reference    all pictures of the split, `split` (40,504 of val2014), or those that were asked for alone, `asked`
    crop         of a reference the largest centred square, brought to the model's size by a Lanczos filter, in 8 bits
    features     those of a file or a folder, with pytorch-fid's way to its network's square
    best of k    by the likelihood of the whole document, or by a CLIP: the largest cosine of picture and caption

A CLIP that was tuned on COCO flatters the figure. Another split or number than val2014 and 30,000 is another benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from cm3.document import Image
from cm3.errors import ConfigError, DataError, whole_number
from cm3.eval.suites.suite import Encoder, Line, Suite
from cm3.files import checksum, read_json, write
from cm3.read.walk import PICTURES, ending, walk
from cm3.score.result import Result

LIKELIHOOD = "likelihood of the whole document"


class Coco30k(Suite):
    """Pictures of MS-COCO's captions, and their FID."""

    name, kinds = "coco30k", ("coco",)
    standard = 30_000
    takes = frozenset({"features", "reference", "best_of", "encoder"})

    def lines(self) -> Iterator[Line]:
        asking = self.asking
        if asking.best_of is not None:
            whole_number("best-of", asking.best_of, 2, 1024)
        elif asking.encoder is not None:
            raise ConfigError("rank-by: says how the best of several is chosen; give best-of with it")
        where = [one for one in (asking.features, asking.reference) if one not in (None, "split", "asked")]
        for path in where:  # before hours of drawing
            if not Path(path or "").exists():
                raise ConfigError(
                    f"{path!r}: no such file or folder; give weights as features, and as reference split, "
                    "asked, a folder of pictures or statistics (.npz)"
                )
        self.captions: dict[int | str, list[str]] = {}
        self.files: dict[int | str, str] = {}
        for at in range(len(self.documents)):
            if (document := self.read(self.documents[at])) is not None:
                image = document.meta["image_id"]
                if image not in self.files:
                    self.files[image] = self.pictures.name(document.images[0])
                self.captions.setdefault(image, []).append(document.text)
            self.update(at + 1, len(self.documents))
        self.check(len(self.files))
        images = list(self.files)
        self.asked: dict[int | str, str] = {}
        several: dict[str, int] = {}
        if asking.best_of is not None:
            several = {"candidates" if asking.encoder is None else "n": asking.best_of}
        for number in self.chosen(len(images)):
            some = self.captions[images[number]]
            chance = np.random.default_rng([asking.seed, number])
            self.asked[images[number]] = caption = some[int(chance.integers(len(some)))]
            yield {"id": images[number], "seed": self.seed(number), "prompt": caption, **several}

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        encoder, kept = self.asking.encoder, dict[int | str, tuple[str, float]]()
        drawn = self.out / "predictions"
        unit: list[dict[str, Any]] = []
        for record in (*self.made(records), None):
            if record is None or unit and _unit(record) != _unit(unit[0]):
                kept |= self._best(unit, encoder)
                self.update(len(kept), len(self.asked))
                unit = []
            unit += [] if record is None else [record]
        asked = list(kept)
        self.predictions["pictures"] = self.keep("predictions.json", {str(id): file for id, (file, _) in kept.items()})
        self.references["captions"] = self.keep("captions.json", {str(id): self.asked[id] for id in asked})
        figures: dict[str, float] = {}
        items: dict[str, dict[str, float]] = {}
        if encoder is not None:
            items["clip_cosine"] = {str(id): cosine for id, (_, cosine) in kept.items()}
            figures["clip_cosine"] = sum(items["clip_cosine"].values()) / len(kept)
        settings: dict[str, Any] = {"captions": "one of each picture, drawn by the seed"}
        if self.asking.best_of is not None:
            settings |= {"best_of": self.asking.best_of, "ranked_by": LIKELIHOOD if encoder is None else encoder.name}
        if self.asking.features is None:
            self.warnings.append("no features were given, so there is no FID; --features with the same command adds it")
        else:
            found = self._distance({str(id): drawn / file for id, (file, _) in kept.items()}, self.asking.features)
            figures |= found.figures
            settings |= found.settings
            self.warnings += found.warnings
        return self.result(Result(figures, len(kept), settings, items=items))

    def _distance(self, drawn: Mapping[str, Path], features: str) -> Result:
        """Return FID of pictures by their ids, against the reference that is asked for."""
        from cm3.score.features import load_features
        from cm3.score.fid import Sample, sample, score_fid

        asking, root = self.asking, self.pictures.root
        assert root is not None
        way = {"crop": "centre", "size": asking.size}
        network = load_features(features, device=asking.device, prepare=way)
        wanted = asking.reference or "split"
        ids = {"split": self.files, "asked": self.asked}.get(wanted)
        if ids is not None:
            files = {str(id): root / self.files[id] for id in ids}
            self.references["pictures"] = checksum({id: path.stat().st_size for id, path in files.items()})
        else:
            self.references["pictures"] = folder = Path(wanted)
            below = [f"{place}{name}" for place, names in walk(folder) for name in names] if folder.is_dir() else []
            files = {name: folder / name for name in sorted(below) if ending(name) in PICTURES}
        made = sample(_opened(drawn), network, "predictions", keep=False, progress=self._seen(len(drawn)))
        if wanted.endswith(".npz"):
            true = Sample.load(wanted)
        else:
            true = sample(_opened(files), network, "reference", keep=False, progress=self._seen(len(files)))
        scored = score_fid(made, true, measures=("fid",))
        # A path is no setting: the sum among the references says which pictures they are, wherever they lie.
        return scored if ids is None else replace(scored, settings={**scored.settings, "reference": wanted})

    def _seen(self, total: int) -> Callable[[int], None]:
        def seen(done: int) -> None:
            self.update(done, total)

        return seen

    def _best(self, records: Sequence[dict[str, Any]], encoder: Encoder | None) -> dict[int | str, tuple[str, float]]:
        """Return the file that is kept of each record of a unit, and its cosine with the caption; what was ranked once
        is read back."""
        if encoder is None:
            return {record["id"]: (record["files"][0], 0.0) for record in records}
        files = [[record["id"], record["files"], record["bytes"]] for record in records]
        of = checksum({"encoder": encoder.name, "files": files, "captions": [self.asked[r["id"]] for r in records]})
        path = self.out / "ranked" / f"{_unit(records[0])}.json"
        if path.exists() and (known := read_json(path, "ranked", DataError)).get("of") == of:
            return {r["id"]: (file, cosine) for r, (file, cosine) in zip(records, known["best"], strict=True)}
        words = encoder.texts([self.asked[record["id"]] for record in records])
        best: list[tuple[str, float]] = []
        for record, word in zip(records, words, strict=True):
            seen = encoder.images([Image.open(self.out / "predictions" / name).pixels for name in record["files"]])
            cosines = (seen @ word).tolist()
            at = int(np.argmax(cosines))
            best.append((record["files"][at], cosines[at]))
        write(path, json.dumps({"of": of, "best": best}) + "\n")
        return dict(zip((record["id"] for record in records), best, strict=True))


def _opened(files: Mapping[str, Path]) -> Iterator[tuple[str, PIL.Image.Image]]:
    return ((name, Image.open(path).pixels) for name, path in files.items())


def _unit(record: dict[str, Any]) -> str:
    """Return the folder of a record's unit."""
    return str(record["files"][0]).partition("/")[0]
