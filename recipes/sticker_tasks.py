"""The shipped model, `stickers`, from what recipes/stickers.py gave: every instruction task, runs in this order.

cm3 train recipes/sticker_tasks.py:instruct           # every instruction task, and the bank
cm3 train recipes/sticker_tasks.py:instruct_more      # the same, and words told both ways: it draws as asked
cm3 train recipes/sticker_tasks.py:instruct_last      # more of reading, holes, copying and changes
cm3 train recipes/sticker_tasks.py:instruct_whole     # the same on whole pictures: where nothing is
cm3 train recipes/sticker_tasks.py:instruct_think     # thinking in words first, and answering from the thought
cm3 train recipes/sticker_tasks.py:instruct_thought   # the same, with more thoughts of words and boxes
cm3 train recipes/sticker_tasks.py:instruct_found     # the same, and drawing from documents of the bank
cm3 train recipes/sticker_tasks.py:instruct_change    # the same, most of it changes, told in words
cm3 train recipes/sticker_tasks.py:instruct_moved     # the same, changes told in the order of what is there
cm3 train recipes/sticker_tasks.py:instruct_told      # answers, captions and holes in words, from thoughts
cm3 train recipes/sticker_tasks.py:instruct_asked     # the same at a lower rate, most of it questions and changes
cm3 train recipes/sticker_tasks.py:instruct_drawn     # all of it once more, most of it pictures from words
"""

from __future__ import annotations

from dataclasses import replace

from cm3.runs import PretrainRun
from cm3.sequence.before import AugmentLaw
from cm3.stickers.data.bank_source import BankLaw
from cm3.stickers.data.sheet_source import SheetLaw
from cm3.stickers.data.sticker_lessons import LessonWeights
from cm3.stickers.data.task_shares import TaskShares
from cm3.stickers.shown import ShownLaw
from cm3.stickers.sticker_kinds import StickerBankData, StickerLessonData, StickerWordData
from cm3.stickers.structure import STRUCTURES

from . import stickers


def instruct() -> PretrainRun:
    """The model of `pretrain_found` on every instruction task, with documents of pretraining among them, and sheets
    from words that leave some of it open, as one types them.

    At twice the rate it forgot how to copy (docs/log.md). The rate stays as it is to the end, since `instruct_more`
    goes on from it.

    Price: 3,000 steps of 1,152 tokens, 62 minutes of two cores of an AVX2 processor, with `--threads 2`.
    """
    before = stickers.pretrain_found()
    law = BankLaw(
        documents=AugmentLaw((0.45, 0.3, 0.25)),
        sheets=SheetLaw(in_order=0.5),
        shown=ShownLaw(kinds=0.45, unknown=0.3),
        two=0.8,
        same_place=0.25,
    )
    plain = StickerBankData(seed=7, law=law, encoder="runs/stickers/clip")
    mix = TaskShares(plain=50.0, loose=12.0, coco_captions=8.0)
    return replace(
        before,
        out="runs/stickers/instruct",
        init="runs/stickers/pretrain_found/bundle",
        replace_image_tokenizer="runs/stickers/image_decoder",
        mask=replace(before.mask, rate=0.6),
        optim=replace(before.optim, lr=1.2e-3, adam_lr=1.2e-3),
        steps=3000,
        sample_every=1000,
        seed=2,
        data=StickerLessonData(plain=plain, seed=5, mix=mix, law=LessonWeights(thin=0.7)),
    )


def instruct_more() -> PretrainRun:
    """The model of `instruct` on the same, with sheets told in words among them, both ways round.

    After `instruct` alone a thing is drawn twice where its place follows from another's, and the right kinds are said
    in the wrong places (docs/log.md).

    Price: 4,800 steps of 1,152 tokens, 91 minutes of two cores of an AVX2 processor, with `--threads 2`.
    """
    before = instruct()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    related = SheetLaw(number=(0.1, 0.3, 0.3, 0.3), in_order=0.3, relations=0.8)
    law = replace(data.plain.law, sheets=replace(data.plain.law.sheets, relations=0.4))
    return replace(
        before,
        out="runs/stickers/instruct_more",
        init="runs/stickers/instruct/bundle",
        mask=replace(before.mask, thin=0.6),
        optim=replace(before.optim, decay_from=0.45),
        steps=4800,
        seed=11,
        data=replace(
            data,
            plain=replace(data.plain, seed=9, law=law),
            seed=10,
            mix=replace(data.mix, words=10.0),
            law=replace(data.law, thin=0.6),
            words=StickerWordData(seed=12, law=related, told=0.5),
        ),
    )


def instruct_last() -> PretrainRun:
    """The model of `instruct_more`, which draws well, on more of what it does not: reading, holes, copying and changes.

    Words are hidden in more documents; descriptions, edits and boxes come oftener, what it answered rightly from the
    first more seldom, and a code that an edit keeps weighs twice as much. No codes are hidden any more: where words
    leave a place open, the model has to look at what it has drawn (docs/log.md). Updates are of two windows, at a rate
    that is higher for it.

    Price: 6,400 steps of 2,304 tokens, 83 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`; in float32 on the same 1.7 times that.
    """
    before = instruct_more()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = TaskShares(plain=50.0, loose=14.0, words=4.0, coco_captions=14.0, edit=20.0, boxes=10.0)
    shown = ShownLaw(kinds=0.35, unknown=0.3, shuffled=0.35)
    law = replace(data.plain.law, documents=AugmentLaw((0.35, 0.35, 0.3)), shown=shown)
    return replace(
        before,
        out="runs/stickers/instruct_last",
        init="runs/stickers/instruct_more/bundle",
        mask=replace(before.mask, rate=1.2, text=0.6, hide=0.0),
        optim=replace(before.optim, lr=1.5e-3, adam_lr=1.5e-3, decay_from=0.5),
        windows=2,
        steps=6400,
        seed=13,
        data=replace(
            data,
            plain=replace(data.plain, seed=14, law=law),
            seed=15,
            mix=mix,
            law=replace(
                data.law,
                kept=0.6,
                edits=(0.5, 1.2, 1.2, 1.2, 1.0, 0.5, 1.0),
                questions=(0.8, 1.0, 0.5, 1.5, 1.5, 1.2, 0.5),
            ),
        ),
    )


def instruct_whole() -> PretrainRun:
    """The model of `instruct_last` on the same with all of the ground: how likely it is that nothing stands somewhere.

    Where codes of the ground are left out, what begins in their place is taken for likelier than it is, by 1 / (1 -
    thin) in odds. It changed little (docs/log.md).

    Price: 700 steps of 2,304 tokens, 10 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_last()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    return replace(
        before,
        out="runs/stickers/instruct_whole",
        init="runs/stickers/instruct_last/bundle",
        mask=replace(before.mask, thin=0.0),
        optim=replace(before.optim, lr=6e-4, adam_lr=6e-4, decay_from=0.1),
        steps=700,
        seed=16,
        data=replace(data, plain=replace(data.plain, seed=17), seed=18, law=replace(data.law, thin=0.0)),
    )


def instruct_think() -> PretrainRun:
    """The model of `instruct_whole` on thinking before it answers: what a picture will show, said in one sentence, and
    the picture drawn from that; what a picture shows, and questions answered with that before them.

    Words that do not say where each thing stands are drawn rightly half of the time and those that do nearly always, so
    the model says where first (docs/log.md). The rate stays as it is to the end, since `instruct_thought` goes on from
    it.

    Price: 1,000 steps of 2,304 tokens, 14 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_whole()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = TaskShares(
        plain=26.0,
        loose=40.0,
        coco_captions=24.0,
        image_paragraph=8.0,
        edit=40.0,
        boxes=14.0,
        canny=9.0,
        scribble=9.0,
        segmentation=8.0,
        depth=8.0,
        segment=11.0,
        vqa2=10.0,
        visdial=7.0,
        scienceqa=12.0,
    )
    return replace(
        before,
        out="runs/stickers/instruct_think",
        init="runs/stickers/instruct_whole/bundle",
        sampling={
            **before.sampling,
            "image": {**before.sampling["image"], "think": True},
            "answer": {"think": True},
            "thought": {"temperature": 0.3},
        },
        mask=replace(before.mask, thin=0.6),
        optim=replace(before.optim, lr=1.3e-3, adam_lr=1.3e-3, decay_from=1.0),
        steps=1000,
        seed=19,
        data=replace(
            data,
            plain=replace(data.plain, seed=20),
            seed=21,
            mix=mix,
            law=replace(data.law, thin=0.6, think=0.85, aloud=0.6),
        ),
    )


def instruct_thought() -> PretrainRun:
    """The model of `instruct_think` on the same, with many more thoughts of words and boxes, which are short.

    The rate stays as it is to the end, since `instruct_found` goes on from it.

    Price: 1,200 steps of 2,304 tokens, 18 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_think()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = replace(
        data.mix,
        plain=22.0,
        loose=130.0,
        coco_captions=28.0,
        image_paragraph=6.0,
        edit=44.0,
        boxes=70.0,
        segmentation=9.0,
        depth=9.0,
        segment=8.0,
        visdial=8.0,
        scienceqa=14.0,
    )
    return replace(
        before,
        out="runs/stickers/instruct_thought",
        init="runs/stickers/instruct_think/bundle",
        steps=1200,
        seed=22,
        data=replace(data, plain=replace(data.plain, seed=23), seed=24, mix=mix, law=replace(data.law, aloud=0.7)),
    )


def instruct_found() -> PretrainRun:
    """The model of `instruct_thought` on documents of the bank again, most on the ground that is asked for; what
    an edit will show follows from words that say what is there, and structures are drawn without a thought.

    Price: 5,600 steps of 2,304 tokens, 77 minutes of two cores of a processor with
    AVX-512 and bfloat16, with `--threads 2`.
    """
    before = instruct_thought()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = replace(
        data.mix,
        plain=70.0,
        loose=95.0,
        coco_captions=55.0,
        edit=93.0,
        boxes=41.0,
        canny=12.0,
        scribble=12.0,
        segmentation=12.0,
        depth=12.0,
        segment=13.0,
        scienceqa=10.0,
    )
    bank = replace(
        data.plain.law,
        documents=AugmentLaw((0.2, 0.45, 0.35)),
        shown=ShownLaw(kinds=0.25, unknown=0.3, shuffled=0.25),
        same_ground=0.75,
        same_place=0.15,
    )
    law = replace(data.law, think=0.9, aloud=0.6, shown=True, renamed=0.5, both=0.4, plain=("segment", *STRUCTURES))
    return replace(
        before,
        out="runs/stickers/instruct_found",
        init="runs/stickers/instruct_thought/bundle",
        sampling={
            **before.sampling,
            "region": {**before.sampling["region"], "think": True},
            "control": {**before.sampling["control"], "think": False},
        },
        optim=replace(before.optim, decay_from=0.4),
        steps=5600,
        seed=25,
        data=replace(data, plain=replace(data.plain, seed=26, law=bank), seed=27, mix=mix, law=law),
    )


def instruct_change() -> PretrainRun:
    """The model of `instruct_found` on the same with many more changes that are told in words, its weakest thoughts.

    Price: 640 steps of 2,304 tokens, 8 minutes of two cores of a processor with
    AVX-512 and bfloat16, with `--threads 2`.
    """
    before = instruct_found()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = TaskShares(
        plain=45.0,
        loose=70.0,
        coco_captions=25.0,
        image_paragraph=4.0,
        edit=330.0,
        boxes=15.0,
        canny=6.0,
        scribble=6.0,
        segmentation=6.0,
        depth=6.0,
        segment=6.0,
        vqa2=8.0,
        visdial=6.0,
        scienceqa=24.0,
    )
    law = replace(data.law, think=0.95, aloud=0.9, edits=(0.7, 1.6, 1.2, 1.0, 1.2, 0.4, 1.2), renamed=0.6)
    return replace(
        before,
        out="runs/stickers/instruct_change",
        init="runs/stickers/instruct_found/bundle",
        # An edit is drawn from all of its words, and an answer gains nothing by a thought (docs/log.md).
        sampling={
            **before.sampling,
            "edit": {"temperature": 0.3, "guidance": 1.0, "image_guidance": 1.0},
            "answer": {"think": False},
        },
        optim=replace(before.optim, lr=7e-4, adam_lr=7e-4, decay_from=0.2),
        steps=640,
        seed=28,
        data=replace(data, plain=replace(data.plain, seed=29), seed=30, mix=mix, law=law),
    )


def instruct_moved() -> PretrainRun:
    """The model of `instruct_change` on thoughts of changes that keep the order of what is said of the picture: words
    that are copied but for the change, where all were told in reading order before.

    The rate stays as it is to the end, since `instruct_told` goes on from it.

    Price: 1,000 steps of 2,304 tokens, 14 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_change()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = replace(data.mix, plain=60.0, loose=60.0, coco_captions=20.0, edit=300.0, boxes=12.0)
    law = replace(data.law, aloud=0.85, kept_order=True, edits=(1.3, 1.5, 1.0, 1.7, 1.0, 0.3, 1.0))
    return replace(
        before,
        out="runs/stickers/instruct_moved",
        init="runs/stickers/instruct_change/bundle",
        optim=replace(before.optim, lr=1.2e-3, adam_lr=1.2e-3, decay_from=1.0),
        steps=1000,
        seed=31,
        data=replace(data, plain=replace(data.plain, seed=32), seed=33, mix=mix, law=law),
    )


def instruct_told() -> PretrainRun:
    """The model of `instruct_moved` on answering from thoughts: questions, dialogues, reasons, captions, descriptions
    and holes in words, from what was said of a picture first; on saying what edges and maps show; and on regions.

    Half of such answers have the words in their picture's place: what follows from words is soonest learnt from them.

    Price: 5,600 steps of 2,304 tokens, 72 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_moved()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = TaskShares(
        plain=26.0,
        loose=70.0,
        holes=80.0,
        coco_captions=40.0,
        image_paragraph=18.0,
        edit=145.0,
        boxes=17.0,
        canny=28.0,
        scribble=28.0,
        segmentation=18.0,
        depth=18.0,
        segment=5.0,
        vqa2=80.0,
        visdial=50.0,
        scienceqa=56.0,
    )
    bank = replace(data.plain.law, documents=AugmentLaw((0.4, 0.35, 0.25)))
    return replace(
        before,
        out="runs/stickers/instruct_told",
        init="runs/stickers/instruct_moved/bundle",
        sampling={
            **before.sampling,
            "text": {"temperature": 0.7, "candidates": 8, "think": True},
            "control": {**before.sampling["control"], "think": True},
        },
        mask=replace(before.mask, text=0.15),
        optim=replace(before.optim, lr=1.3e-3, adam_lr=1.3e-3, decay_from=0.4),
        steps=5600,
        seed=34,
        data=replace(
            data,
            plain=replace(data.plain, seed=35, law=bank),
            seed=36,
            mix=mix,
            law=replace(
                data.law,
                aloud=0.85,
                read=0.5,
                direct=0.3,
                plain=("segment",),
                edits=(0.8, 1.6, 1.5, 1.3, 1.8, 0.3, 1.2),
            ),
        ),
    )


def instruct_asked() -> PretrainRun:
    """The model of `instruct_told` on the same at a lower rate, with many more questions, dialogues and reasons, mostly
    from words alone, and more of the changes that are said wrongly: what goes, and what changes its size.

    Price: 900 steps of 2,304 tokens, 11 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_told()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = TaskShares(
        plain=40.0,
        loose=30.0,
        holes=60.0,
        coco_captions=25.0,
        image_paragraph=40.0,
        edit=200.0,
        boxes=8.0,
        canny=15.0,
        scribble=30.0,
        segmentation=12.0,
        depth=15.0,
        segment=3.0,
        vqa2=150.0,
        visdial=90.0,
        scienceqa=110.0,
    )
    law = replace(
        data.law,
        read=0.7,
        direct=0.1,
        edits=(0.5, 2.5, 1.2, 0.8, 2.5, 0.3, 1.2),
        questions=(0.4, 0.5, 1.5, 1.6, 1.4, 2.0, 0.2),
    )
    return replace(
        before,
        out="runs/stickers/instruct_asked",
        init="runs/stickers/instruct_told/bundle",
        optim=replace(before.optim, lr=7e-4, adam_lr=7e-4, decay_from=0.15),
        steps=900,
        seed=37,
        data=replace(data, plain=replace(data.plain, seed=38), seed=39, mix=mix, law=law),
    )


def instruct_drawn() -> PretrainRun:
    """The model of `instruct_asked` on all tasks once more, most of it pictures from words: what was lost of drawing.

    Price: 900 steps of 2,304 tokens, 12 minutes of two cores of a processor with AVX-512 and bfloat16, with
    `--threads 2`.
    """
    before = instruct_asked()
    data = before.data
    assert isinstance(data, StickerLessonData) and isinstance(data.plain, StickerBankData)
    mix = TaskShares(
        plain=125.0,
        loose=115.0,
        holes=25.0,
        coco_captions=25.0,
        image_paragraph=10.0,
        edit=120.0,
        boxes=25.0,
        canny=14.0,
        scribble=14.0,
        segmentation=12.0,
        depth=14.0,
        segment=4.0,
        vqa2=45.0,
        visdial=30.0,
        scienceqa=35.0,
    )
    law = replace(data.law, aloud=0.65, direct=0.0, edits=(0.8, 1.8, 1.2, 1.0, 1.8, 0.4, 1.0))
    return replace(
        before,
        out="runs/stickers/instruct_drawn",
        init="runs/stickers/instruct_asked/bundle",
        optim=replace(before.optim, lr=8e-4, adam_lr=8e-4, decay_from=0.1),
        steps=900,
        seed=40,
        data=replace(data, plain=replace(data.plain, seed=41), seed=42, mix=mix, law=law),
    )
