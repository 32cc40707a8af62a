"""The shipped model, from nothing: `image_tokenizer`, then `pretrain`, on scenes that are drawn on the fly."""

from __future__ import annotations

from dataclasses import replace

from cm3.data.mask import MaskLaw
from cm3.model.decoder import DecoderConfig
from cm3.model.vqgan import small
from cm3.train.optim import OptimConfig
from cm3.train.runs import ImageTokenizerRun, PretrainRun, SceneData


def image_tokenizer() -> ImageTokenizerRun:
    """128 px pictures of scenes to 8 x 8 codes of 2,560 (f16, FSQ)."""
    return ImageTokenizerRun(
        vqgan=small(16, (8, 8, 8, 5), patch=8, channels=64, multipliers=(1, 2)),
        size=128,
        batch=16,
        steps=2600,
        optimizer="muon",
        lr=2e-3,
        muon_lr=5e-3,
        lr_end=0.01,
        channels_last=True,
        out="runs/scenes/image_tokenizer",
        log_every=50,
        save_every=200,
        sample_every=500,
        threads=1,
        data=SceneData(seed=11),
    )


def pretrain() -> PretrainRun:
    """A 5M decoder on captioned scenes with the CM3 objective."""
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
        mask=MaskLaw(rate=0.8, whole_text=0.6, whole_image=0.2, box=0.7, columns=8),
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
        steps=2450,
        z_loss=1e-4,
        log_every=20,
        save_every=50,
        sample_every=1000,
        seed=0,
        threads=1,
        image_tokenizer="runs/scenes/image_tokenizer",
        data=SceneData(seed=1),
        sampling={"image": {"temperature": 0.7}, "region": {"temperature": 0.7}, "text": {"temperature": 0.0}},
    )


def image_decoder() -> ImageTokenizerRun:
    """A better decoder for the codes of `image_tokenizer`, while or after a model is trained on them."""
    return replace(
        image_tokenizer(),
        out="runs/scenes/image_decoder",
        init="runs/scenes/image_tokenizer",
        decoder_only=True,
        steps=1600,
        lr=1e-3,
        muon_lr=2e-3,
        data=SceneData(seed=12),
    )
