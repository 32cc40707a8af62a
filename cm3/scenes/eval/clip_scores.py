"""A measure of how well a small CLIP finds emblems and scenes that it never saw."""

from __future__ import annotations

import numpy as np

from cm3.document import Document
from cm3.retrieval.accuracy import among_hundred, retrieval_accuracy
from cm3.retrieval.embed import Encoder, embed
from cm3.scenes.drawing import draw
from cm3.scenes.emblems import Emblem, EmblemSplit, emblem, emblem_document, say
from cm3.scenes.scene import random_scene
from cm3.scenes.sentences import describe

BANK = 500
"""Emblems of each split, and scenes, in the bank that a run measures itself on."""
SPLITS: tuple[EmblemSplit, ...] = ("test", "train")


def measure_scenes(encoder: Encoder, *, seed: int = 0, bank: int = 500, size: int = 128) -> dict[str, float]:
    """Return what an encoder finds in a bank of `bank` unseen emblems, as many of training, and as many unseen scenes.

    `emblems_first`: an unseen emblem, asked for in other words than its document's; its document is first of all.
    `emblems_seen_first`: the same for those of training. `scenes_recall_1`, `scenes_recall_5`: a scene, described once
    more; its picture is first, or among the first five, of at most 100, by pictures alone.
    """
    rng = np.random.default_rng([seed, 0xE7A1])
    documents = [emblem_document(i, split, size, seed) for split in SPLITS for i in range(bank)]
    scenes = [random_scene(rng, "test") for _ in range(bank)]
    documents += [Document.of(describe(scene, rng), draw(scene, size, rng)) for scene in scenes]
    found = embed(encoder, documents)
    result = {}
    for at, split in enumerate(SPLITS):
        right = range(at * bank, (at + 1) * bank)
        asked = encoder.texts([_again(emblem(i, split), documents[at * bank + i].text, rng) for i in range(bank)])
        name = "emblems_first" if split == "test" else "emblems_seen_first"
        result[name] = retrieval_accuracy(asked, found.vectors, right)["recall_1"]
    asked = encoder.texts([describe(scene, rng) for scene in scenes])
    return result | among_hundred("scenes", asked, found.images[2 * bank :])


def _again(this: Emblem, said: str, rng: np.random.Generator) -> str:
    """Return another phrase for an emblem than `said`."""
    while (phrase := say(this, rng)) == said:
        pass
    return phrase
