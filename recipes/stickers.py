"""The shipped model, from nothing, on stickers that are drawn on the fly: runs in this order.

cm3 train recipes/stickers.py:image_tokenizer    # pictures to codes that see their own 16 x 16 pixels alone
"""

from __future__ import annotations

from cm3.model.vqgan import small
from cm3.runs import ImageTokenizerRun
from cm3.stickers.sticker_kinds import StickerPictures


def image_tokenizer() -> ImageTokenizerRun:
    """256 px pictures to 16 x 16 codes of 4,096 (f16, FSQ), 1.5M parameters.

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
