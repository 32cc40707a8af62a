"""OK-VQA as its owners publish it (okvqa.allenai.org): questions about pictures of COCO that need outside knowledge.

OpenEnded_mscoco_{train2014,val2014}_questions.json
mscoco_{train2014,val2014}_annotations.json
{train2014,val2014}/COCO_train2014_000000000009.jpg

The layout is that of VQA v2 without `multiple_choice_answer`: the text of a document has the most common answer. VQA v1
names its files alike; its annotations have that field, and are refused.
"""

from __future__ import annotations

from pathlib import Path

from cm3.errors import DataError
from cm3.read.vqa import CocoQuestions


class OkVqa(CocoQuestions):
    """Documents of OK-VQA, as `CocoQuestions` says. Answers are in the stemmed form that the owners score."""

    kind = "okvqa"
    QUESTIONS = "OpenEnded_mscoco_{}_questions.json"
    ANNOTATIONS = "mscoco_{}_annotations.json"
    PICTURES = {"train2014": "train2014", "val2014": "val2014"}

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        """Read a split. Raises `DataError` as `CocoQuestions` does, and for the files of VQA v1."""
        super().__init__(root, split)
        if any(
            annotation and "multiple_choice_answer" in annotation for annotation in (self.annotated or {}).values()
        ):
            raise DataError(
                f"{str(root)!r}: {self.files[1]} is of VQA v1, not of OK-VQA; download OK-VQA's, or VQA v2's"
            )
