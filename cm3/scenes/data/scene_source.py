"""Scenes as a source of training documents: drawn, described and tokenised on the fly, each from its number alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cm3.data.load import Source
from cm3.document import Document, Image, Text
from cm3.errors import ConfigError
from cm3.scenes.drawing import draw
from cm3.scenes.scene import Split, random_scene
from cm3.scenes.sentences import describe
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens


def scene_document(
    seed: int,
    index: int,
    size: int,
    split: Split = "train",
    captions_only: float = 0.0,
    *,
    objects: Sequence[float] = (),
    in_order: float = 0.0,
) -> Document:
    """Return document `index` of the endless stream `seed`: a caption and its picture of `size` pixels.

    With probability `captions_only` the picture is left out, with probability `in_order` the caption names the objects
    in reading order. `objects`: shares of 1, 2, 3 and 4 objects; uniform where there are none.
    """
    rng = np.random.default_rng([seed, index])
    # Settings draw from a generator of their own, so that none changes the scenes where it is not used.
    chance = np.random.default_rng([seed, index, 0x0B1])
    number = int(chance.choice(len(objects), p=np.asarray(objects) / sum(objects))) + 1 if objects else None
    scene = random_scene(rng, split, number)
    caption = Text(describe(scene, rng, in_order=bool(chance.random() < in_order)))
    if rng.random() < captions_only:
        return Document((caption,), id=str(index), source=f"scenes/{split}")
    return Document((caption, Image(draw(scene, size, rng))), id=str(index), source=f"scenes/{split}")


class SceneSource(Source):
    """`Source` (cm3/data/load.py) of tokenised scenes."""

    def __init__(
        self,
        codec: Codec,
        seed: int,
        split: Split = "train",
        captions_only: float = 0.0,
        *,
        objects: Sequence[float] = (),
        in_order: float = 0.0,
    ) -> None:
        """Take `captions_only`, `objects`, `in_order` as `scene_document` does. Raises `ConfigError` for a bad
        share."""
        for name, share in (("captions_only", captions_only), ("in_order", in_order)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name}={share}: is a share, must be in 0..1")
        if objects and (len(objects) > 4 or min(objects) < 0 or sum(objects) <= 0):
            raise ConfigError(f"objects={tuple(objects)}: must be shares of 1 to 4 objects, none negative")
        if codec.image is None:
            raise ConfigError("codec: scenes have pictures; give it an image tokenizer")
        self.codec, self.seed, self.split = codec, seed, split
        self.size = codec.image.size
        self.captions_only, self.objects, self.in_order = captions_only, tuple(objects), in_order

    def sequences(self, positions: Sequence[int]) -> list[Tokens]:
        """Return tokens of these documents."""
        return self.codec.encode_many([self.document(i) for i in positions])

    def document(self, index: int) -> Document:
        """Return document `index` of the stream."""
        return scene_document(
            self.seed,
            index,
            self.size,
            self.split,
            self.captions_only,
            objects=self.objects,
            in_order=self.in_order,
        )
