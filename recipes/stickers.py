"""The shipped model, `stickers`, from nothing, on stickers that are drawn on the fly: runs in this order.

cm3 train recipes/stickers.py:image_tokenizer    # pictures to codes that see their own 16 x 16 pixels alone
cm3 train recipes/stickers.py:image_details      # the same trained on, with more drawings that have no name
cm3 train recipes/stickers.py:image_decoder      # a better way back, the codes kept
cm3 train recipes/stickers.py:pretrain_words     # the model, of words alone: which name belongs where
cm3 train recipes/stickers.py:pretrain_drawn     # the same of pictures: what the names look like
cm3 train recipes/stickers.py:pretrain           # words to pictures, back, and holes
cm3 train recipes/stickers.py:pretrain_shown     # drawing one thing from the one document that shows it
cm3 train recipes/stickers.py:pretrain_found     # the same with two things, and what the words already tell
cm3 train recipes/stickers.py:clip               # an encoder, for the memory bank
cm3 train recipes/stickers.py:instruct           # every instruction task, and the bank
cm3 train recipes/stickers.py:instruct_more      # the same, and words told both ways: it draws as asked
cm3 train recipes/stickers.py:instruct_last      # more of reading, holes, copying and changes
cm3 train recipes/stickers.py:instruct_whole     # the same on whole pictures: where nothing is
cm3 train recipes/stickers.py:instruct_think     # thinking in words first, and answering from the thought
cm3 train recipes/stickers.py:instruct_thought   # the same, with more thoughts of words and boxes
cm3 train recipes/stickers.py:instruct_found     # the same, and drawing from documents of the bank
cm3 train recipes/stickers.py:instruct_change    # the same, most of it changes, told in words
cm3 train recipes/stickers.py:instruct_moved     # the same, changes told in the order of what is there
cm3 train recipes/stickers.py:instruct_told      # answers, captions and holes in words, from thoughts
cm3 train recipes/stickers.py:instruct_asked     # the same at a lower rate, most of it questions and changes
cm3 train recipes/stickers.py:instruct_drawn     # all of it once more, most of it pictures from words
"""

from __future__ import annotations

from dataclasses import replace

from cm3.model.decoder import DecoderConfig
from cm3.model.vqgan import small
from cm3.runs import ClipRun, ImageTokenizerRun, PretrainRun
from cm3.sequence.before import AugmentLaw
from cm3.sequence.mask import MaskLaw
from cm3.stickers.data.bank_source import BankLaw
from cm3.stickers.data.sheet_source import SheetLaw
from cm3.stickers.data.sticker_lessons import LessonWeights, TaskShares
from cm3.stickers.shown import ShownLaw
from cm3.stickers.sticker_kinds import (
    StickerBankData,
    StickerData,
    StickerLessonData,
    StickerPairs,
    StickerPictures,
    StickerWordData,
)
from cm3.stickers.structure import STRUCTURES
from cm3.train.optim import OptimConfig


def image_tokenizer() -> ImageTokenizerRun:
    """256 px pictures to 16 x 16 codes of 4,096 (f16, FSQ), 1.7M parameters.

    Price: 1,600 steps of 12 pictures, 25 processor minutes of an AVX2 processor.
    """
    return ImageTokenizerRun(
        vqgan=small(16, (8, 8, 8, 8), patch=8, channels=96, multipliers=(1, 2), blocks=3),
        size=256,
        batch=12,
        steps=1600,
        optimizer="muon",
        lr=2e-3,
        muon_lr=5e-3,
        lr_end=0.01,
        channels_last=True,
        out="runs/stickers/image_tokenizer",
        log_every=50,
        save_every=200,
        sample_every=300,
        threads=1,
        data=StickerPictures(seed=11),
    )


def image_details() -> ImageTokenizerRun:
    """The tokenizer of `image_tokenizer` trained on, with more drawings that have no name, from a lower rate.

    Price: 1,600 steps of 12 pictures, 25 processor minutes of an AVX2 processor.
    """
    return replace(
        image_tokenizer(),
        out="runs/stickers/image_details",
        init="runs/stickers/image_tokenizer",
        lr=1.5e-3,
        muon_lr=3e-3,
        data=StickerPictures(seed=12, others=0.5),
    )


def image_decoder() -> ImageTokenizerRun:
    """A better decoder for the codes of `image_details`, which stay as they are.

    Price: 2,000 steps of 12 pictures, 25 processor minutes of an AVX2 processor.
    """
    return replace(
        image_tokenizer(),
        out="runs/stickers/image_decoder",
        init="runs/stickers/image_details",
        decoder_only=True,
        steps=2000,
        lr=1e-3,
        muon_lr=3e-3,
        data=StickerPictures(seed=13, others=0.4, grounds=0.02),
    )


def pretrain_words() -> PretrainRun:
    """A 6M decoder on sheets of one to four stickers, told in words alone: which name belongs where.

    Each word takes in those near it before the first layer (`DecoderConfig.near`), and where a name belongs is learnt
    before what it looks like: a model that learns both at once deals the names out by chance (docs/log.md). Updates are
    small, and the rate stays as it is to the end, since `pretrain_drawn` goes on from it.

    Price: 500 steps of 1,152 tokens, 13 minutes of one core of an AVX2 processor.
    """
    return PretrainRun(
        out="runs/stickers/pretrain_words",
        model=DecoderConfig(
            # From the tokenizers; a run sets them anew.
            vocab_size=5158,
            grid=(16, 16),
            d_model=256,
            layers=6,
            heads=4,
            context=1152,
            positions="rope",
            qk_norm=True,
            near=4.0,
            init_std=0.02,
            activation="relu",
        ),
        text_entries=1024,
        mask=MaskLaw(
            rate=0.0,
            whole_text=0.5,
            pieces=3,
            whole_image=0.1,
            box=0.9,
            columns=16,
            tail_weight=2.0,
        ),
        optim=OptimConfig(
            name="muon",
            lr=3e-3,
            adam_lr=3e-3,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            warmup=50,
            decay_from=1.0,
            final=0.02,
        ),
        windows=1,
        length=1152,
        steps=500,
        z_loss=1e-4,
        log_every=20,
        save_every=100,
        sample_every=0,
        seed=0,
        threads=1,
        image_tokenizer="runs/stickers/image_details",
        data=StickerWordData(seed=1, law=SheetLaw(number=(0.35, 0.35, 0.15, 0.15), in_order=0.0, places=0.8)),
        sampling={
            "image": {"temperature": 0.3, "guidance": 1.0},
            "region": {"temperature": 0.3, "guidance": 1.0},
            "text": {"temperature": 0.7, "candidates": 8},
            "edit": {"temperature": 0.3, "guidance": 1.5, "image_guidance": 1.0},
            "control": {"temperature": 0.2, "guidance": 1.0},
            "segment": {"temperature": 0.1},
        },
    )


def pretrain_drawn() -> PretrainRun:
    """The model of `pretrain_words` on pictures, little of their ground, codes hidden in most: what names look like.

    Price: 1,600 steps of 1,152 tokens, 45 minutes of one core of an AVX2 processor.
    """
    first = pretrain_words()
    return replace(
        first,
        out="runs/stickers/pretrain_drawn",
        init="runs/stickers/pretrain_words/bundle",
        mask=replace(first.mask, rate=0.1, hide=0.8, thin=0.9),
        optim=replace(first.optim, warmup=20),
        steps=1600,
        save_every=150,
        sample_every=800,
        seed=3,
        data=StickerData(seed=2, law=SheetLaw(number=(0.35, 0.3, 0.2, 0.15), in_order=0.1, places=0.7)),
    )


def pretrain() -> PretrainRun:
    """The model of `pretrain_drawn` with the CM3 objective, more of the ground and fuller sheets: back, and holes.

    Price: 1,600 steps of 1,152 tokens, by the rate of `pretrain_drawn` 45 minutes. Not timed to its end.
    """
    before = pretrain_drawn()
    return replace(
        before,
        out="runs/stickers/pretrain",
        init="runs/stickers/pretrain_drawn/bundle",
        mask=replace(before.mask, rate=0.6, hide=0.6, thin=0.7),
        steps=1600,
        seed=4,
        data=StickerData(seed=3, law=SheetLaw(number=(0.25, 0.25, 0.25, 0.25), in_order=0.3, places=0.5)),
    )


def pretrain_shown() -> PretrainRun:
    """The model of `pretrain` on sheets of one thing with the document that shows it, half of them in its place.

    Copying begins there after 250 to 400 of these small steps (docs/log.md). Its rate stays as it is to the end, since
    `pretrain_found` goes on from it.

    Price: 750 steps of 1,152 tokens; by the rate of `pretrain_drawn` 21 minutes. Not timed to its end.
    """
    before = pretrain()
    one = BankLaw(documents=AugmentLaw((0.0, 1.0)), sheets=SheetLaw(number=(1.0,)), same_ground=0.7, same_place=0.5)
    return replace(
        before,
        out="runs/stickers/pretrain_shown",
        init="runs/stickers/pretrain/bundle",
        mask=replace(before.mask, rate=0.0, thin=0.9),
        optim=replace(before.optim, lr=2.5e-3, adam_lr=2.5e-3),
        steps=750,
        sample_every=0,
        seed=9,
        data=StickerBankData(seed=6, law=one),
    )


def pretrain_found() -> PretrainRun:
    """The model of `pretrain_shown` on one to four stickers with documents of one or two, known kinds among them.

    Price: 1,200 steps of 1,152 tokens, 28 minutes of two cores of an AVX2 processor, with `--threads 2`.
    """
    before = pretrain_shown()
    law = BankLaw(
        documents=AugmentLaw((0.15, 0.4, 0.45)),
        sheets=SheetLaw(number=(0.4, 0.3, 0.2, 0.1), in_order=0.5),
        shown=ShownLaw(kinds=0.45, unknown=0.3),
        two=0.8,
        same_ground=0.6,
        same_place=0.3,
    )
    return replace(
        before,
        out="runs/stickers/pretrain_found",
        init="runs/stickers/pretrain_shown/bundle",
        mask=replace(before.mask, rate=0.2, thin=0.7),
        optim=replace(before.optim, lr=2e-3, adam_lr=2e-3),
        steps=1200,
        seed=10,
        data=StickerBankData(seed=8, law=law),
    )


def clip() -> ClipRun:
    """A small CLIP on documents and sheets, each said twice: what the bank is searched with.

    Price: 960 steps of 128 pairs, by the time of half of them 12 processor minutes of an AVX2 processor.
    """
    return ClipRun(
        out="runs/stickers/clip",
        steps=960,
        batch=128,
        lr=2e-3,
        document_weight=3.0,
        save_every=20,
        threads=1,
        data=StickerPairs(),
    )


def instruct() -> PretrainRun:
    """The model of `pretrain_found` on every instruction task, with documents of pretraining among them, and sheets
    from words that leave some of it open, as one types them.

    At twice the rate it forgot how to copy (docs/log.md). The rate stays as it is to the end, since `instruct_more`
    goes on from it.

    Price: 3,000 steps of 1,152 tokens, 62 minutes of two cores of an AVX2 processor, with `--threads 2`.
    """
    before = pretrain_found()
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
