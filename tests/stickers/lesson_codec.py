"""The smallest tokenizers of stickers: 256 px to 16 x 16 strictly local codes, untrained, and words of the lessons."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from cm3.model.vqgan import VQGAN, small
from cm3.stickers.data.sticker_lessons import lesson_texts
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Vocab


@functools.cache
def codec() -> Codec:
    """Both tokenizers and their vocabulary."""
    torch.manual_seed(0)
    vqgan = VQGAN(small(16, (4, 4, 4), patch=8, channels=8, multipliers=(1, 1), blocks=0)).eval()
    with torch.no_grad():  # untrained, it would give everything the same few codes
        for layer in (vqgan.encoder.conv_out, vqgan.quant_conv):
            layer.weight *= 4
    path = Path(tempfile.mkdtemp(prefix="cm3-test-")) / "tokenizer.json"
    TextTokenizer.train(list(lesson_texts(1, 240)), 512).save(path)
    text = TextTokenizer.load(path)
    return Codec(Vocab(text=text.size, image=64, masks=16, reserved=0), text, ImageTokenizer(vqgan, 256))
