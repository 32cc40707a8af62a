"""The shipped model, from nothing, on scenes that are drawn on the fly: four runs, in this order.

    cm3 train recipes/scenes.py:image_tokenizer      pictures to codes
    cm3 train recipes/scenes.py:image_decoder        a better way back, the codes kept
    cm3 train recipes/scenes.py:image_details        and better still where it was worst
    cm3 train recipes/scenes.py:pretrain             the model

Prices are of two cores of an AVX2 processor without a GPU; docs/scenes.md has the figures that each run reached.
"""

from __future__ import annotations

from dataclasses import replace

from cm3.data.mask import MaskLaw
from cm3.model.decoder import DecoderConfig
from cm3.model.vqgan import small
from cm3.train.optim import OptimConfig
from cm3.train.runs import ImageTokenizerRun, PretrainRun, SceneData


def image_tokenizer() -> ImageTokenizerRun:
    """128 px pictures of scenes to 8 x 8 codes of 2,560 (f16, FSQ), 1.1M parameters.

    Price: 2,600 steps of 16 pictures, 11 minutes on two cores. Promise: about 32 dB PSNR on test scenes, 70% of the
    codes used on 256 of them.
    """
    return ImageTokenizerRun(
        vqgan=small(16, (8, 8, 8, 5), patch=8, channels=64, multipliers=(1, 2)),
        size=128,
        batch=16,
        steps=2400,
        optimizer="muon",
        lr=2e-3,
        muon_lr=5e-3,
        lr_end=0.01,
        channels_last=True,
        out="runs/scenes/image_tokenizer",
        log_every=50,
        save_every=200,
        sample_every=500,
        threads=2,
        data=SceneData(seed=11),
    )


def image_decoder() -> ImageTokenizerRun:
    """A better decoder for the codes of `image_tokenizer`, which stay as they are.

    Price: 1,600 steps of 16, 7 processor minutes on one core. Promise: about 0.4 dB.
    """
    return replace(
        image_tokenizer(),
        out="runs/scenes/image_decoder",
        init="runs/scenes/image_tokenizer",
        decoder_only=True,
        steps=1600,
        lr=1e-3,
        muon_lr=2e-3,
        threads=1,
        data=SceneData(seed=12),
    )


def image_details() -> ImageTokenizerRun:
    """The decoder once more, on small white objects: small white stars were all that reconstructions still lost.

    Price: 800 steps of 16, 4 processor minutes on one core. Promise: 99% of reconstructions still show their scene.
    """
    return replace(
        image_decoder(),
        out="runs/scenes/image_details",
        init="runs/scenes/image_decoder",
        steps=800,
        data=SceneData(seed=13, focus=("small", "white")),
    )


def pretrain() -> PretrainRun:
    """A 5.5M decoder on captioned scenes with the CM3 objective; its bundle is what ships in the package.

    Price: 3,040 steps of about 2,400 tokens at 1,500 to 1,700 a second, so 75 minutes or more on two cores. Promise:
    docs/scenes.md; there too what was changed while the shipped run went on.
    """
    return PretrainRun(
        out="runs/scenes/pretrain",
        model=DecoderConfig(
            d_model=256,
            layers=6,
            heads=4,
            context=512,
            positions="rope",
            qk_norm=True,
            init_std=0.02,
            activation="relu",
        ),
        mask=MaskLaw(rate=1.0, whole_text=0.5, whole_image=0.2, box=0.8, columns=8, tail_weight=4.0),
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
        windows=5,
        length=512,
        steps=3040,
        z_loss=1e-4,
        log_every=20,
        save_every=50,
        sample_every=1000,
        seed=0,
        threads=2,
        image_tokenizer="runs/scenes/image_details",
        data=SceneData(seed=1),
        sampling={
            "image": {"temperature": 0.7, "guidance": 2.0},
            "region": {"temperature": 0.7, "guidance": 2.0},
            "text": {"temperature": 0.0},
        },
    )


def pretrain_holes() -> PretrainRun:
    """The model of `pretrain` once more, on documents with one hole each: most are captions, so that it learns to read.

    Price: 2,600 steps of about 3,900 tokens at 1,500 to 1,900 a second, 105 minutes on two cores.
    """
    first = pretrain()
    return replace(
        first,
        out="runs/scenes/pretrain_holes",
        init="runs/scenes/pretrain/bundle",
        mask=replace(first.mask, rate=2.0, most=1, text=0.68, whole_text=0.55, pieces=4, whole_image=0.05, box=0.9),
        windows=8,
        steps=2400,
        seed=1,
        data=SceneData(seed=2),
    )
