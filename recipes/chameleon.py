"""A small model of Chameleon's shape, from nothing, on stickers that are drawn on the fly: what goes into its layouts.

cm3 train recipes/chameleon.py:image_tokenizer    # pictures to codes and back, the network of Meta's vqgan.ckpt
cm3 train recipes/chameleon.py:pretrain           # words, then a picture, in Chameleon's grammar
cm3 convert runs/chameleon/pretrain/bundle runs/chameleon/hf --to chameleon-hf
cm3 convert runs/chameleon/pretrain/bundle runs/chameleon/meta --to chameleon-meta
cm3 convert runs/chameleon/meta runs/chameleon/again --to bundle
cm3 generate "a large panda on a mint ground" --model runs/chameleon/again --out panda.png
"""

from __future__ import annotations

from cm3.model.decoder import DecoderConfig
from cm3.model.vqgan import VQGANConfig
from cm3.runs import ImageTokenizerRun, PretrainRun
from cm3.sequence.mask import MaskLaw
from cm3.stickers.data.sheet_source import SheetLaw
from cm3.stickers.sticker_kinds import StickerData, StickerPictures
from cm3.train.optim import OptimConfig


def image_tokenizer() -> ImageTokenizerRun:
    """128 px pictures to 8 x 8 codes of 1,024 (f16), Chameleon's network with a quarter of its channels.

    It has 3x3 convolutions from the first pixel on and norms of 32 groups, as the published layouts want it.

    Price: 1,200 steps of 8 pictures; by their 12 billion operations a picture about an hour of one core of an AVX2
    processor. Not timed.
    """
    return ImageTokenizerRun(
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
        optimizer="muon",
        lr=2e-3,
        muon_lr=5e-3,
        lr_end=0.01,
        channels_last=True,
        out="runs/chameleon/image_tokenizer",
        log_every=50,
        save_every=100,
        sample_every=300,
        threads=1,
        data=StickerPictures(seed=21),
    )


def pretrain() -> PretrainRun:
    """A 6M decoder with RMS norms, SwiGLU, query-key norms and a head of its own, on captioned sheets of one sticker.

    A document is `<s> words <break> codes <eoss> </s>`. Every picture has words before it, so the model draws without
    guidance. Its text tokenizer names every id, as Chameleon's does.

    Price: 1,000 steps of about 4,000 tokens; by the rate of stickers.py's model, of the same size, an hour of one core
    of an AVX2 processor. Not timed.
    """
    return PretrainRun(
        out="runs/chameleon/pretrain",
        model=DecoderConfig(
            # From the tokenizers; a run sets it anew.
            vocab_size=2056,
            d_model=256,
            layers=6,
            heads=4,
            hidden=688,
            context=256,
            norm="rms",
            norm_affine=True,
            activation="swiglu",
            positions="rope",
            qk_norm=True,
            tied=False,
            init_std=0.02,
        ),
        grammar="chameleon",
        cells=False,
        text_entries=1024,
        mask=MaskLaw(rate=0.0, hide=0.5, columns=8),
        optim=OptimConfig(
            name="muon",
            lr=3e-3,
            adam_lr=3e-3,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            warmup=100,
            decay_from=0.4,
            final=0.02,
        ),
        windows=4,
        length=1024,
        steps=1000,
        z_loss=1e-4,
        log_every=20,
        save_every=50,
        sample_every=500,
        seed=0,
        threads=1,
        image_tokenizer="runs/chameleon/image_tokenizer",
        data=StickerData(seed=21, law=SheetLaw(number=(1.0,), places=0.7)),
        sampling={"image": {"temperature": 0.7, "guidance": 1.0}, "text": {"temperature": 0.5}},
    )
