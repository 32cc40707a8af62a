"""Real photographs and captions learnt by heart: `image_tokenizer`, then `pretrain`, on a folder in COCO's layout."""

from __future__ import annotations

from cm3.data.mask import MaskLaw
from cm3.model.decoder import DecoderConfig
from cm3.model.vqgan import small
from cm3.train.optim import OptimConfig
from cm3.train.runs import CocoData, ImageTokenizerRun, PretrainRun


def image_tokenizer() -> ImageTokenizerRun:
    """128 px photographs to 8 x 8 codes of 2,560 (f16, FSQ).

    command: OMP_NUM_THREADS=1 cm3 train recipes/coco.py:image_tokenizer --data.root ROOT
    data: ROOT/annotations/captions_train2017.json and ROOT/train2017/*.jpg, 80 photographs of COCO 2017
    price: 3 minutes of one x86 core, 500 steps, 100 passes over 80 photographs
    promise: 23 dB PSNR on photographs that it was trained on. That is blurred, and enough to tell them apart.
    """
    return ImageTokenizerRun(
        vqgan=small(16, (8, 8, 8, 5), patch=8, channels=64, multipliers=(1, 2)),
        size=128,
        batch=16,
        steps=500,
        optimizer="muon",
        lr=2e-3,
        muon_lr=5e-3,
        lr_end=0.01,
        channels_last=True,
        out="runs/coco/image_tokenizer",
        log_every=25,
        save_every=100,
        sample_every=250,
        data=CocoData(root="data/coco"),
    )


def pretrain() -> PretrainRun:
    """A 4M decoder that knows the captions of 80 photographs by heart, five of each. Needs `image_tokenizer` first.

    command: OMP_NUM_THREADS=1 cm3 train recipes/coco.py:pretrain --data.root ROOT
    measure: cm3 eval captions --model runs/coco/pretrain/bundle --root ROOT
    data: that of `image_tokenizer`
    price: 8 minutes of one x86 core, 350 steps, 17 passes over 400 captions
    promise: `own_caption` at least 0.9, and 1.0 when last checked: the greedy description of each of the 80 photographs
    is, word for word, one of its own five captions.
    """
    return PretrainRun(
        out="runs/coco/pretrain",
        model=DecoderConfig(
            # What tokenizers come to, and a run sets anew: 512 entries, 2,560 codes, 32 masks and 6 specials; 8 x 8.
            vocab_size=3110,
            grid=(8, 8),
            d_model=256,
            layers=4,
            heads=4,
            context=512,
            positions="rope",
            qk_norm=True,
            init_std=0.02,
            activation="relu",
        ),
        # Two spans on average, so that most documents hide their caption, and hide it whole: what describing asks for.
        mask=MaskLaw(rate=2.0, whole_text=0.9, whole_image=0.1, box=0.5, columns=8),
        optim=OptimConfig(
            name="muon",
            lr=3e-3,
            adam_lr=3e-3,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            warmup=30,
            decay_from=0.4,
            final=0.02,
        ),
        windows=4,
        length=512,
        steps=350,
        # Four fifths of a document are codes, and they are not what is asked for here.
        text_weight=4.0,
        z_loss=1e-4,
        log_every=10,
        save_every=50,
        sample_every=350,
        image_tokenizer="runs/coco/image_tokenizer",
        data=CocoData(root="data/coco"),
        sampling={"image": {"temperature": 0.7}, "region": {"temperature": 0.7}, "text": {"temperature": 0.0}},
    )
