"""Pretraining on token stores, whatever they hold: `cm3 prepare` writes one, `pretrain` reads it."""

from __future__ import annotations

from cm3.data.mask import MaskLaw
from cm3.model.decoder import DecoderConfig
from cm3.train.optim import OptimConfig
from cm3.train.runs import PretrainRun, StoreData


def pretrain() -> PretrainRun:
    """A 5.5M decoder on documents that are tokens already: 128 px pictures of 8 x 8 codes, and their words.

    first: cm3 prepare SOURCES --out runs/store --model scenes
    command: cm3 train recipes/store.py:pretrain --data.stores runs/store
    data: any; several stores are mixed with --data.stores A B --data.weights 3 1. A store that another image tokenizer
    made needs --image-tokenizer, --image-size and --init '' (or a bundle of its own) to match.
    price: 1,000 steps of about 4,000 tokens, two thirds of an hour on two cores of an AVX2 processor
    promise: none but that of the data; it begins with the weights of the `scenes` model, whose tokenizers it takes.
    """
    return PretrainRun(
        out="runs/store/pretrain",
        init="scenes",
        model=DecoderConfig(
            # The `scenes` model's; a run sets both anew, as its stores and its tokenizers have them.
            vocab_size=2987,
            grid=(8, 8),
            d_model=256,
            layers=6,
            heads=4,
            context=512,
            positions="rope",
            qk_norm=True,
            init_std=0.02,
            activation="relu",
        ),
        mask=MaskLaw(rate=1.0, whole_text=0.5, whole_image=0.2, box=0.8, columns=8),
        optim=OptimConfig(
            name="muon",
            lr=2e-3,
            adam_lr=2e-3,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            warmup=50,
            decay_from=0.4,
            final=0.02,
        ),
        # Windows may be longer than the context: one of 2,048 is as full as the lengths of documents allow.
        windows=2,
        length=2048,
        steps=1000,
        z_loss=1e-4,
        log_every=20,
        save_every=50,
        sample_every=500,
        data=StoreData(stores=("runs/store",)),
    )
