"""Instruction tuning on real data as the paper does it (Tables 4 and 5): from a bundle to a tuned bundle.

    torchrun --nnodes 16 --nproc-per-node 8 -m cm3 train recipes/instruct.py:cm3leon_7b \\
        --init runs/cm3leon-7b/bundle --data.sources edit=instructpix2pix:data/ip2p boxes=coco:data/coco@train2017
    cm3 train recipes/photos.py:instruct --data.sources coco_captions=coco:data/coco boxes=coco:data/coco

A source is TASK=[KIND:]PATH[@SPLIT] (docs/tasks.md has the tasks and the datasets that each is made of), or store=PATH
for documents that `cm3 prepare` wrote, with retrieved ones before them where --data.neighbours has a table. Datasets
are up- and down-sampled with the paper's 3 / 0.3; --data.weights, --data.caps and --data.balanced say otherwise. What
each gets is in the bundle's page, `about.mixture`.

From the paper: batch, rate, warm-up, tokens, context, the objective of pretraining with every weight 1. The rest is
chosen here: betas, decay, weight decay, clip, z-loss, precision and what is computed twice as in
recipes/pretrain.py; in half of the examples just the answer is masked, as it is asked for, in the others whatever the
law of masks draws (--data.law.answers).

Neither of the paper's two was tuned with this code. Prices are arithmetic (docs/plan.md), at 40% of an H100's peak.
"""

from __future__ import annotations

from dataclasses import replace

from cm3.runs import PretrainRun, TaskData

from . import pretrain

BATCH = 2**21
"""Tokens an update."""
TOKENS = 30e9
SOURCES = (
    "edit=instructpix2pix:data/instructpix2pix",
    "boxes=coco:data/coco@train2017",
    "canny=coco:data/coco@train2017",
    "segmentation=coco:data/coco@train2017",
    "pose=coco:data/coco@train2017",
    "scribble=coco:data/coco@train2017",
    "coco_captions=coco:data/coco@train2017",
    "flickr30k=flickr30k:data/flickr30k",
    "image_paragraph=image_paragraph:data/image_paragraph",
    "localized_narratives=localized_narratives:data/localized_narratives",
    "vqa2=vqa2:data/vqa2",
    "vizwiz=vizwiz:data/vizwiz",
    "okvqa=okvqa:data/okvqa",
    "scienceqa=scienceqa:data/scienceqa",
)
"""The rows of Table 5 that are published. Its others were made of pictures that are not, and join in the same way:
hed, depth and normal with maps of their own (docs/tasks.md), write with the texts of a detector."""


def cm3leon_760m() -> PretrainRun:
    """CM3Leon-760M, tuned on 30B tokens.

    command: torchrun --nproc-per-node 8 -m cm3 train recipes/instruct.py:cm3leon_760m
    price: 118 H100 hours. promise: none; the paper gives no figure for it.
    """
    return _tuned(pretrain.cm3leon_760m(), "760m")


def cm3leon_7b() -> PretrainRun:
    """CM3Leon-7B, tuned on 30B tokens.

    command: torchrun --nnodes 16 --nproc-per-node 8 -m cm3 train recipes/instruct.py:cm3leon_7b
    price: 916 H100 hours. promise: none; the paper's reaches a COCO CIDEr of 61.6 and 47.6 on VQA2 without a shot.
    """
    return _tuned(pretrain.cm3leon_7b(), "7b")


def _tuned(first: PretrainRun, name: str) -> PretrainRun:
    return replace(
        first,
        out=f"runs/cm3leon-{name}-tuned",
        init=f"runs/cm3leon-{name}/bundle",
        optim=replace(first.optim, lr=5e-5, warmup=150),
        windows=BATCH // first.length,
        micro=1,
        steps=round(TOKENS / BATCH),
        image_size=0,
        sample_every=0,
        data=TaskData(sources=SOURCES),
    )
