"""MS-COCO captions as their owners publish them: annotations/captions_SPLIT.json beside SPLIT/*.jpg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cm3.document import Document, Image, Text
from cm3.errors import DataError


def coco_captions(root: str | Path, split: str = "train2017") -> list[Document]:
    """One document a caption, `caption, picture`, in the order of image ids and then of annotation ids.

    Documents of one image share its `Image`. `meta` has `image_id` and `license`. Raises `DataError` for a file that is
    missing or not of COCO's layout.
    """
    root = Path(root)
    path = root / "annotations" / f"captions_{split}.json"
    try:
        content: Any = json.loads(path.read_text())
        images = {int(i["id"]): (str(i["file_name"]), i.get("license")) for i in content["images"]}
        captions = sorted((int(a["image_id"]), int(a["id"]), str(a["caption"])) for a in content["annotations"])
    except FileNotFoundError as error:
        raise DataError(
            f"COCO {str(root)!r}: {path.name} is missing in annotations/; give the folder that holds it"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"COCO {str(path)!r}: is not COCO's caption layout ({error}); download it again") from error
    opened: dict[int, Image] = {}
    documents = []
    for image_id, annotation_id, caption in captions:
        if image_id not in images:
            raise DataError(f"COCO {str(path)!r}: caption {annotation_id} is of image {image_id}, which is not listed")
        if image_id not in opened:
            opened[image_id] = Image.open(root / split / images[image_id][0])
        documents.append(
            Document(
                (Text(caption.strip()), opened[image_id]),
                id=str(annotation_id),
                source=f"coco/{split}",
                meta={"image_id": image_id, "license": images[image_id][1]},
            )
        )
    return documents
