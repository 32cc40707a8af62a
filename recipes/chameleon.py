"""A small model of Chameleon's shape, from nothing, on stickers that are drawn on the fly: what goes into its layouts.

cm3 train recipes/chameleon.py:image_tokenizer    # pictures to codes and back, a small network of vqgan.ckpt's form
cm3 train recipes/chameleon.py:pretrain           # words, then a picture, in Chameleon's grammar
cm3 convert runs/chameleon/pretrain/bundle runs/chameleon/hf --to chameleon-hf
cm3 convert runs/chameleon/pretrain/bundle runs/chameleon/meta --to chameleon-meta
cm3 convert runs/chameleon/meta runs/chameleon/again --to bundle --prompts plain
cm3 generate "a large pizza on a mint ground" --model runs/chameleon/again --out drawn
"""

from __future__ import annotations

from dataclasses import replace

from cm3.model.vqgan import VQGANConfig
from cm3.runs import ImageTokenizerRun, PretrainRun
from cm3.sequence.mask import MaskLaw
from cm3.stickers.data.sheet_source import SheetLaw
from cm3.stickers.sticker_kinds import StickerData, StickerPictures

from . import stickers


def image_tokenizer() -> ImageTokenizerRun:
    """128 px pictures to 8 x 8 codes of 1,024 (f16), Chameleon's network with fewer channels and blocks.

    It has 3x3 convolutions from the first pixel on and norms of 32 groups, as the published layouts want it.

    Price: 1,200 steps of 8 pictures, 48 minutes of one core of an AVX2 processor, to 19.8 dB: soft pictures of things
    that can be told.
    """
    return replace(
        stickers.image_tokenizer(),
        vqgan=VQGANConfig(
            factor=16,
            channels=32,
            multipliers=(1, 1, 2, 2, 4),
            blocks=1,
            groups=32,
            z_channels=64,
            quantizer="ema",
            codes=1024,
            code_dim=64,
            restart_after=64,
        ),
        size=128,
        batch=8,
        steps=1200,
        out="runs/chameleon/image_tokenizer",
        save_every=100,
        data=StickerPictures(seed=21),
    )


def pretrain() -> PretrainRun:
    """A 6M decoder with RMS norms, SwiGLU, query-key norms and a head of its own, on captioned sheets of one sticker.

    A document is `<s> words <break> codes <eoss> </s>`. Every picture has words before it, so the model draws without
    guidance. Its text tokenizer names every id, as Chameleon's does.

    Price: 1,000 steps of about 4,000 tokens, 55 minutes of one core of an AVX2 processor.
    """
    first = stickers.pretrain_words()
    return replace(
        first,
        out="runs/chameleon/pretrain",
        model=replace(
            first.model,
            # From the tokenizers; a run sets it anew.
            vocab_size=2056,
            grid=None,
            hidden=688,
            context=256,
            near=0.0,
            norm="rms",
            norm_affine=True,
            activation="swiglu",
            tied=False,
        ),
        grammar="chameleon",
        cells=False,
        mask=MaskLaw(rate=0.0, hide=0.5, columns=8),
        optim=replace(first.optim, warmup=100, decay_from=0.4),
        windows=4,
        length=1024,
        steps=1000,
        log_every=20,
        save_every=50,
        sample_every=500,
        image_tokenizer="runs/chameleon/image_tokenizer",
        data=StickerData(seed=21, law=SheetLaw(number=(1.0,), places=0.7)),
        sampling={"image": {"temperature": 0.7, "guidance": 1.0}, "text": {"temperature": 0.5}},
    )
