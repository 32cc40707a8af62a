"""VQA v2 as its owners publish it (visualqa.org): open-ended questions about pictures of COCO, ten answers each.

v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json
v2_mscoco_{train2014,val2014}_annotations.json       answers to the test questions are not published
{train2014,val2014,test2015}/COCO_train2014_000000000009.jpg

The text of a document has the answer that the owners call `multiple_choice_answer`, the one that most people gave.
"""

from __future__ import annotations

from cm3.read.vqa import CocoQuestions


class Vqa2(CocoQuestions):
    """Documents of VQA v2, as `CocoQuestions` says."""

    kind = "vqa2"
    QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
    ANNOTATIONS = "v2_mscoco_{}_annotations.json"
    PICTURES = {"train2014": "train2014", "val2014": "val2014", "test2015": "test2015", "test-dev2015": "test2015"}
