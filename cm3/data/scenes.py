"""Scenes as a source of training documents: drawn, described and tokenised on the fly, each from its number alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cm3.document import Document, Image, Text
from cm3.errors import ConfigError
from cm3.scenes.describe import describe
from cm3.scenes.draw import draw
from cm3.scenes.world import Split, random_scene
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens


def scene_document(seed: int, index: int, size: int, split: Split = "train", captions_only: float = 0.0) -> Document:
    """Document `index` of the endless stream `seed`: a caption and its picture of `size` pixels.

    With probability `captions_only` the picture is left out.
    """
    rng = np.random.default_rng([seed, index])
    scene = random_scene(rng, split)
    caption = Text(describe(scene, rng))
    if rng.random() < captions_only:
        return Document((caption,), id=str(index), source=f"scenes/{split}")
    return Document((caption, Image(draw(scene, size, rng))), id=str(index), source=f"scenes/{split}")


class SceneSource:
    """`Source` (cm3/data/load.py) of tokenised scenes."""

    def __init__(self, codec: Codec, seed: int, split: Split = "train", captions_only: float = 0.0) -> None:
        """Raises `ConfigError` for a share outside 0..1."""
        if not 0 <= captions_only <= 1:
            raise ConfigError(f"captions_only={captions_only}: is a share, must be in 0..1")
        if codec.image is None:
            raise ConfigError("codec: scenes have pictures; give it an image tokenizer")
        self.codec, self.seed, self.split, self.captions_only = codec, seed, split, captions_only
        self.size = codec.image.size

    def tokens(self, indices: Sequence[int]) -> list[Tokens]:
        """Tokens of these documents."""
        return self.codec.encode_many(
            [scene_document(self.seed, i, self.size, self.split, self.captions_only) for i in indices]
        )
