"""Made-up results of real layouts: captions of pictures, by COCO's files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from cm3.score.result import Result
from cm3.score.result_file import Page, check_result, manifest, write_result

COUNT = 60
SETTINGS = {"tokenizer": "ptb", "df": "references"}


def captions(folder: Path, name: str, better: float = 0.0, ids: range = range(COUNT), **more: Any) -> Path:
    """Write predictions, references, pictures and a result; return the result's file.

    CIDEr-D has items, which `better` is added to; BLEU-4 has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    values = {str(id): float(v) for id, v in enumerate(rng.gamma(2, 0.3, COUNT))}
    told = [{"image_id": id, "caption": f"{name} says <b>picture</b> {id} & more"} for id in ids]
    (folder / f"{name}.json").write_text(json.dumps(told))
    said = [{"id": 900 + id, "image_id": id, "caption": f"people see {id} caf\u00e9"} for id in range(COUNT)]
    images = [{"id": id, "file_name": f"COCO_val2014_{id:012d}.jpg"} for id in range(COUNT)]
    references = {"info": {}, "images": images, "annotations": said, "licenses": []}
    (folder / "references.json").write_text(json.dumps(references))
    items = {str(id): values[str(id)] + better for id in ids}
    result = Result(
        {"CIDEr-D": math.fsum(items.values()) / len(items), "BLEU-4": 0.2 + better},
        len(items), more.pop("settings", SETTINGS), more.pop("warnings", ()), {"CIDEr-D": items},
    )  # fmt: skip
    page = manifest(
        result, more.pop("suite", "captions"), more.pop("version", 1), {"captions": folder / "references.json"},
        {"captions": folder / f"{name}.json"}, 2.5, **more,
    )  # fmt: skip
    write_result(folder / f"{name}.result.json", page)
    return folder / f"{name}.result.json"


def pictures(folder: Path) -> Path:
    """Draw the pictures that the captions are about, by COCO's names."""
    folder.mkdir()
    for id in range(COUNT):
        PIL.Image.new("RGB", (300, 200), (id * 4, 90, 200)).save(folder / f"COCO_val2014_{id:012d}.jpg")
    return folder


def page(path: Path, **changed: Any) -> Page:
    """Read a result, with fields changed."""
    return check_result(json.loads(path.read_text()) | changed, path.name)
