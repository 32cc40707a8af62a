"""The shipped model, `stickers`, from nothing, on stickers that are drawn on the fly: runs in this order.

cm3 train recipes/stickers.py:image_tokenizer    # pictures to codes that see their own 16 x 16 pixels alone
cm3 train recipes/stickers.py:image_details      # the same trained on, with more drawings that have no name
cm3 train recipes/stickers.py:image_decoder      # a better way back, the codes kept
cm3 train recipes/stickers.py:image_steady       # codes that copies of a picture give as well, for the last run
cm3 train recipes/stickers.py:pretrain_words     # the model, of words alone: which name belongs where
cm3 train recipes/stickers.py:pretrain_drawn     # the same of pictures: what the names look like
cm3 train recipes/stickers.py:pretrain           # words to pictures, back, and holes
cm3 train recipes/stickers.py:pretrain_shown     # drawing one thing from the one document that shows it
cm3 train recipes/stickers.py:pretrain_found     # the same with two things, and what the words already tell
cm3 train recipes/stickers.py:clip               # an encoder, for the memory bank

recipes/sticker_tasks.py goes on from there, and recipes/sticker_all.py from that.
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
from cm3.stickers.shown import ShownLaw
from cm3.stickers.sticker_kinds import (
    StickerBankData,
    StickerData,
    StickerPairs,
    StickerPictures,
    StickerWordData,
)
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


def image_steady() -> ImageTokenizerRun:
    """The tokenizer of `image_decoder`, whose codes a copy of a picture gives as well: what is drawn of them, JPEG, the
    picture in another size (cm3/train/read_again.py). Its grounds keep their codes, and most of the rest.

    Price: 1,600 steps of 12 pictures, 26 minutes of one core of a processor with AVX-512 and bfloat16.
    """
    return replace(
        image_decoder(),
        out="runs/stickers/image_steady",
        init="runs/stickers/image_decoder",
        decoder_only=False,
        keep=12,
        keep_weight=0.0,
        steady_weight=1.0,
        steps=1600,
        lr=5e-4,
        muon_lr=1.5e-3,
        data=StickerPictures(seed=14, others=0.4, grounds=0.02),
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
