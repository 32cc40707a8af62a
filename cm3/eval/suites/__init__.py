"""Suites: what published benchmarks ask of a model. Each reaches it through files of prompts (docs/batch.md) alone.

suite.py         what a suite is
captioning.py    COCO captions, Flickr30k, Image Paragraph
asking.py        VQA v2, OK-VQA, VizWiz        science.py   ScienceQA        dialog.py   Visual Dialog
coco30k.py       zero-shot MS-COCO-30K, as the paper has it
perplexity.py    nats of words and of codes
judged.py        prompts of GenEval 2 and DPG-Bench, and pictures as their judges want them
"""

from __future__ import annotations

import importlib
from typing import cast

from cm3.errors import RequestError, did_you_mean
from cm3.eval.suites.suite import Suite

SUITES = {
    "coco30k": ("cm3.eval.suites.coco30k:Coco30k", "zero-shot pictures of MS-COCO's captions: FID"),
    "coco_captions": ("cm3.eval.suites.captioning:CocoCaptions", "captions of MS-COCO's pictures: CIDEr-D and others"),
    "flickr30k": ("cm3.eval.suites.captioning:Flickr", "captions of Flickr30k's pictures"),
    "image_paragraph": ("cm3.eval.suites.captioning:Paragraphs", "paragraphs on pictures of Visual Genome"),
    "vqa2": ("cm3.eval.suites.asking:VqaTwo", "questions about pictures: VQA accuracy"),
    "okvqa": ("cm3.eval.suites.asking:OutsideKnowledge", "questions that need outside knowledge"),
    "vizwiz": ("cm3.eval.suites.asking:Blind", "questions that blind people asked"),
    "scienceqa": ("cm3.eval.suites.science:Science", "questions of school science that have a picture: accuracy"),
    "visdial": ("cm3.eval.suites.dialog:Dialog", "the 100 answers of each turn of Visual Dialog ranked: NDCG, MRR"),
    "perplexity": ("cm3.eval.suites.perplexity:Perplexity", "nats a token of words and of codes, bits per byte"),
    "geneval2": ("cm3.eval.suites.judged:GenEval2", "pictures of GenEval 2's prompts, for its judge"),
    "dpg": ("cm3.eval.suites.judged:Dpg", "pictures of DPG-Bench's prompts, four in a grid, for its judge"),
    "scenes": ("cm3.scenes.eval.scene_suite:Scenes", "the drawn world that ships: drawn, described, filled in exactly"),
    "scene_tasks": ("cm3.scenes.eval.scene_suite:SceneTasks", "instruction tasks of the drawn world: done exactly"),
}
"""Name -> module and class, and what it measures. Modules are named here, not imported."""


def find_suite(name: str) -> type[Suite]:
    """Return the suite of a name. Raises `RequestError` for one that is not known."""
    if name not in SUITES:
        raise RequestError(f"suite {name!r}: is not known; known: {', '.join(SUITES)}.{did_you_mean(name, SUITES)}")
    module, _, made = SUITES[name][0].partition(":")
    return cast("type[Suite]", getattr(importlib.import_module(module), made))
