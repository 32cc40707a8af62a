"""The first model, from nothing, on scenes that are drawn on the fly: runs in this order.

    cm3 train recipes/scenes.py:image_tokenizer      # pictures to codes
    cm3 train recipes/scenes.py:image_decoder        # a better way back, the codes kept
    cm3 train recipes/scenes.py:image_details        # and better still where it was worst
    cm3 train recipes/scenes.py:pretrain             # the model: words to pictures
    cm3 train recipes/scenes.py:pretrain_pairs       # which object stands where
    cm3 train recipes/scenes.py:pretrain_holes       # pictures to words, and holes in both
    cm3 train recipes/scenes.py:clip                 # an encoder, for the memory bank
    cm3 train recipes/scenes.py:pretrain_copying     # reading a document: the same cell of its picture
    cm3 train recipes/scenes.py:pretrain_emblems     # the same among everything else

The model was then tuned for instructions: recipes/scene_tasks.py has those runs, `instruct` and what follows
it. Prices are of two cores of an AVX2 processor without a GPU; docs/scenes.md has the figures that were reached.
"""

from __future__ import annotations

from dataclasses import replace

from cm3.model.decoder import DecoderConfig
from cm3.model.vqgan import small
from cm3.runs import ClipRun, ImageTokenizerRun, PretrainRun
from cm3.scenes.data.emblem_source import EmblemMix
from cm3.scenes.scene_kinds import EmblemData, SceneData, ScenePairs
from cm3.sequence.before import AugmentLaw
from cm3.sequence.mask import MaskLaw
from cm3.train.optim import OptimConfig


def image_tokenizer() -> ImageTokenizerRun:
    """128 px pictures of scenes to 8 x 8 codes of 2,560 (f16, FSQ), 1.1M parameters.

    Price: 2,600 steps of 16 pictures, 11 minutes on two cores. Promise: about 32 dB PSNR on test scenes, 70% of the
    codes used on 256 of them.
    """
    return ImageTokenizerRun(
        vqgan=small(16, (8, 8, 8, 5), patch=8, channels=64, multipliers=(1, 2), norm="group", reach="wide"),
        size=128,
        batch=16,
        steps=2000,
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
    """A 5.5M decoder on captioned scenes with the CM3 objective: it draws what words say.

    Price: 3,040 steps of about 2,400 tokens at 1,500 to 1,700 a second, so 75 minutes or more on two cores. Promise:
    docs/scenes.md; there too what was changed while the shipped run went on.
    """
    return PretrainRun(
        out="runs/scenes/pretrain",
        model=DecoderConfig(
            # From the tokenizers; a run sets them anew: 389 entries, 2,560 codes, 32 masks and 6 specials; 8 x 8.
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
            "region": {"temperature": 0.7, "guidance": 2.0, "candidates": 8},
            "text": {"temperature": 0.7, "candidates": 8},
        },
    )


def pretrain_pairs() -> PretrainRun:
    """The model of `pretrain` once more, mostly on two objects and with one hole a document: which is where?

    After `pretrain` it names all objects and all places and mixes up which stands where (docs/log.md). Two objects, the
    smallest such question, teach that in some hundred steps; more objects follow in `pretrain_holes`.

    Price: 500 steps of about 3,900 tokens at 1,800 a second, 20 minutes on two cores. Promise: the caption's colour
    stands in the right place for 95% of the objects of test scenes with two.
    """
    first = pretrain()
    return replace(
        first,
        out="runs/scenes/pretrain_pairs",
        init="runs/scenes/pretrain/bundle",
        mask=replace(first.mask, rate=2.0, most=1, text=0.68, whole_text=0.55, pieces=4, whole_image=0.05, box=0.9),
        optim=replace(first.optim, decay_from=1.0),
        windows=8,
        steps=500,
        seed=1,
        data=SceneData(seed=2, mix=(0.15, 0.55, 0.15, 0.15), in_order=0.5),
    )


def pretrain_holes() -> PretrainRun:
    """The model of `pretrain_pairs` on one to four objects, most documents with a hole.

    Price: 1,300 steps of about 3,900 tokens at 1,800 a second, 50 minutes on two cores. Promise: docs/scenes.md; there
    too what was changed while the shipped run went on.
    """
    before = pretrain_pairs()
    return replace(
        before,
        out="runs/scenes/pretrain_holes",
        init="runs/scenes/pretrain_pairs/bundle",
        mask=replace(before.mask, text=0.72, whole_text=0.45),
        optim=pretrain().optim,
        steps=1300,
        seed=2,
        data=SceneData(seed=3, mix=(0.1, 0.3, 0.3, 0.3), in_order=0.5),
    )


def clip() -> ClipRun:
    """A small CLIP of 0.7M parameters on scenes and named emblems; its folder, 1.4 MB, is what a bank is built with.

    Price: 320 steps of 128 pairs, 3 to 4 processor minutes on one core. Promise: an emblem never trained on, asked for
    in other words than its document's, finds that document first among 1,500 in 99%; a described test scene its picture
    among 100 in 90%, and among the first five in 99%.
    """
    return ClipRun(out="runs/scenes/clip", steps=320, batch=128, lr=2e-3, save_every=20, threads=1, data=ScenePairs())


def pretrain_copying() -> PretrainRun:
    """The model of `pretrain_holes` with one retrieved document before most examples: it learns to read a picture.

    Nobody can draw a named emblem without its document, so the loss falls when the same cell of the document's picture
    is looked up. Pictures that are the document's own, and some whose codes stand in an order by chance, make that the
    only way: one head had 1% of its attention there at first, 8% after 250 steps without the shuffled ones, and 81%
    after 100 steps with them (docs/log.md).

    Price: 600 steps of about 3,900 tokens at 1,000 a second, 40 minutes on one core. Promise: an emblem never trained
    on is drawn rightly after its document in 9 of 10 cases; what the model could do before suffers meanwhile.
    """
    first = pretrain_holes()
    return replace(
        first,
        out="runs/scenes/pretrain_copying",
        init="runs/scenes/pretrain_holes/bundle",
        mask=replace(first.mask, rate=0.3),
        optim=replace(first.optim, lr=2e-3, adam_lr=2e-3, warmup=50, decay_from=1.0),
        steps=600,
        seed=3,
        threads=1,
        data=EmblemData(
            mix=EmblemMix(
                plain=0.3,
                scenes=0.0,
                emblems=0.7,
                documents=AugmentLaw(shares=(0.0, 1.0)),
                alike=0.5,
                shuffled=0.4,
                captions_only=0.05,
            )
        ),
    )


def pretrain_emblems() -> PretrainRun:
    """The model of `pretrain_copying` on everything, scenes with holes most of all.

    Price: 900 steps of about 3,900 tokens at 1,500 a second, 40 minutes on two cores. Promise: docs/scenes.md; what was
    changed while the shipped run went on is in docs/log.md.
    """
    before = pretrain_copying()
    image = before.sampling["image"] | {"unconditional": "dropped"}
    return replace(
        before,
        sampling=before.sampling | {"image": image},
        out="runs/scenes/pretrain_emblems",
        init="runs/scenes/pretrain_copying/bundle",
        mask=pretrain_holes().mask,
        optim=replace(before.optim, lr=1e-3, adam_lr=1e-3, warmup=0, decay_from=0.0),
        steps=900,
        threads=2,
        data=EmblemData(
            mix=EmblemMix(
                plain=0.76,
                scenes=0.03,
                emblems=0.21,
                documents=AugmentLaw(shares=(0.12, 0.88)),
                alike=0.5,
                captions_only=0.05,
                objects=(0.1, 0.2, 0.3, 0.4),
                in_order=0.5,
            )
        ),
    )
