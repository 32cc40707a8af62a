"""The shipped model's last runs, after recipes/sticker_tasks.py, in this order: every task at length.

cm3 train recipes/sticker_all.py:instruct_all       # all of it with regions, each task with its share
cm3 train recipes/sticker_all.py:instruct_sure      # the same, with what is there and how many most often
cm3 train recipes/sticker_all.py:instruct_steady    # the same on codes that copies of a picture give as well
cm3 train recipes/sticker_all.py:instruct_reasoned  # the same with more of what follows from words
cm3 train recipes/sticker_all.py:instruct_wishes    # and what people type in wordings of their own
cm3 train recipes/sticker_all.py:instruct_own       # and edits and questions in more wordings
"""

from __future__ import annotations

from dataclasses import replace

from cm3.runs import PretrainRun
from cm3.sequence.before import AugmentLaw
from cm3.stickers.data.task_shares import TaskShares
from cm3.stickers.sticker_kinds import StickerBankData, StickerLessonData

from . import sticker_tasks


def instruct_all() -> PretrainRun:
    """The model of `instruct_drawn` on every task, each with the share of tokens that it needs: maps and regions as
    they are asked for, and many more answers and changes from words alone, of which a window holds thirty.

    The rate stays as it is to the end, since `instruct_sure` goes on from it.

    Price: 2,600 steps of 2,304 tokens, 40 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = sticker_tasks.instruct_drawn()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = TaskShares(
        plain=120.0,
        loose=150.0,
        regions=60.0,
        holes=50.0,
        coco_captions=22.0,
        image_paragraph=12.0,
        edit=175.0,
        boxes=20.0,
        canny=24.0,
        scribble=36.0,
        segmentation=18.0,
        depth=26.0,
        segment=40.0,
        vqa2=110.0,
        visdial=60.0,
        scienceqa=110.0,
    )
    bank = replace(data.plain.law, documents=AugmentLaw((0.6, 0.25, 0.15)))
    law = replace(
        data.law,
        aloud=0.8,
        read=0.8,
        direct=0.1,
        most_questions=16,
        edits=(0.7, 2.0, 1.5, 1.3, 2.0, 0.3, 1.0),
        questions=(0.6, 0.6, 0.8, 2.0, 2.0, 2.0, 0.2),
    )
    return replace(
        before,
        out="runs/stickers/instruct_all",
        init="runs/stickers/instruct_drawn/bundle",
        optim=replace(before.optim, lr=1.3e-3, adam_lr=1.3e-3, decay_from=1.0),
        steps=2600,
        seed=43,
        data=replace(data, plain=replace(data.plain, seed=44, law=bank), seed=45, mix=mix, law=law),
    )


def instruct_sure() -> PretrainRun:
    """The model of `instruct_all` on the same with twice the questions, most of them how many there are and whether one
    is there, which it answered by chance, also from true words.

    Price: 4,000 steps of 2,304 tokens, 61 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_all()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = replace(
        data.mix,
        plain=130.0,
        loose=190.0,
        regions=45.0,
        edit=220.0,
        canny=30.0,
        segmentation=20.0,
        depth=28.0,
        segment=26.0,
        vqa2=240.0,
        visdial=50.0,
    )
    law = replace(data.law, read=0.85, questions=(0.5, 0.6, 0.5, 2.6, 3.0, 1.6, 0.2))
    return replace(
        before,
        out="runs/stickers/instruct_sure",
        init="runs/stickers/instruct_all/bundle",
        sampling={**before.sampling, "answer": {"think": True}},
        optim=replace(before.optim, decay_from=0.3),
        steps=4000,
        seed=46,
        data=replace(data, plain=replace(data.plain, seed=47), seed=48, mix=mix, law=law),
    )


def instruct_steady() -> PretrainRun:
    """The model of `instruct_sure` on the codes of `image_steady`, which a copy of a picture gives as well: saved and
    opened again, as JPEG, in another size. A third of what is read is such a copy, and the letter of an answer with
    reasons has a weight of its own.

    Price: 4,800 steps of 2,304 tokens, 75 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_sure()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = replace(
        data.mix,
        plain=170.0,
        loose=180.0,
        regions=55.0,
        scribble=60.0,
        canny=34.0,
        depth=34.0,
        vqa2=230.0,
        visdial=70.0,
        scienceqa=190.0,
    )
    law = replace(
        data.law,
        letter=16.0,
        copies=0.33,
        edits=(0.8, 2.0, 2.0, 1.2, 2.4, 0.3, 1.0),
    )
    return replace(
        before,
        out="runs/stickers/instruct_steady",
        init="runs/stickers/instruct_sure/bundle",
        replace_image_tokenizer="runs/stickers/image_steady",
        steps=4800,
        seed=49,
        data=replace(data, plain=replace(data.plain, seed=50), seed=51, mix=mix, law=law),
    )


def instruct_reasoned() -> PretrainRun:
    """The model of `instruct_steady` with more of what follows from words alone: whole sheets from captions whose
    stickers are told one from the other, conversations, reasons, what is beside what, and edits of size.

    The rate stays as it is to the end, since `instruct_wishes` goes on from it.

    Price: 1,600 steps of 2,304 tokens, 24 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_steady()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = replace(
        data.mix,
        plain=140.0,
        loose=330.0,
        regions=75.0,
        holes=60.0,
        coco_captions=16.0,
        image_paragraph=24.0,
        edit=330.0,
        boxes=14.0,
        canny=28.0,
        scribble=72.0,
        segmentation=15.0,
        depth=28.0,
        segment=20.0,
        vqa2=260.0,
        visdial=210.0,
        scienceqa=230.0,
    )
    law = replace(
        data.law,
        read=0.92,
        aloud=0.87,
        edits=(0.5, 1.7, 2.4, 0.8, 4.0, 0.3, 0.8),
        questions=(0.4, 0.5, 1.8, 2.0, 1.0, 4.0, 0.2),
    )
    return replace(
        before,
        out="runs/stickers/instruct_reasoned",
        init="runs/stickers/instruct_steady/bundle",
        replace_image_tokenizer="",
        optim=replace(before.optim, decay_from=1.0),
        steps=1600,
        seed=52,
        data=replace(data, plain=replace(data.plain, seed=53), seed=54, mix=mix, law=law),
    )


def instruct_wishes() -> PretrainRun:
    """The model of `instruct_reasoned` on the same, with what people type in wordings of their own.

    The rate stays as it is to the end, since `instruct_own` goes on from it.

    Price: 600 steps of 2,304 tokens, 10 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_reasoned()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = replace(data.mix, loose=540.0, edit=300.0, vqa2=250.0, visdial=190.0, scienceqa=220.0)
    return replace(
        before,
        out="runs/stickers/instruct_wishes",
        init="runs/stickers/instruct_reasoned/bundle",
        optim=replace(before.optim, decay_from=1.0),
        steps=600,
        seed=55,
        data=replace(data, plain=replace(data.plain, seed=56), seed=57, mix=mix, law=replace(data.law, wishes=0.6)),
    )


def instruct_own() -> PretrainRun:
    """The model of `instruct_wishes` on the same, with edits and questions in more wordings.

    Price: 3,700 steps of 2,304 tokens, 54 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_wishes()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    return replace(
        before,
        out="runs/stickers/instruct_own",
        init="runs/stickers/instruct_wishes/bundle",
        optim=replace(before.optim, decay_from=0.3),
        steps=3700,
        seed=58,
        data=replace(data, plain=replace(data.plain, seed=59), seed=60, law=replace(data.law, own=0.5)),
    )
