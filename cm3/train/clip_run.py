"""The run that trains a small CLIP (cm3/retrieval/train.py), on scenes and named emblems or on photographs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cm3.document import Document, left_out
from cm3.errors import ConfigError
from cm3.read.coco import Coco
from cm3.retrieval.embed import Encoder, embed
from cm3.retrieval.pairs import PairEncoder
from cm3.retrieval.picture import square
from cm3.retrieval.train import Pair, PairSource, PairTrainConfig, retrieval_accuracy, train_pairs
from cm3.scenes.describe import describe
from cm3.scenes.draw import draw
from cm3.scenes.emblems import EMBLEMS, Emblem, EmblemSplit, emblem, emblem_document, say
from cm3.scenes.world import random_scene
from cm3.train.checkpoint import check_new
from cm3.train.config import finite_settings
from cm3.train.signals import Signals

BANK = 500
"""Emblems of each split, and scenes, in the bank that a run measures itself on."""
ALIKE = 4
"""Emblems of like words that are drawn together."""
SPLITS: tuple[EmblemSplit, ...] = ("test", "train")


@dataclass(frozen=True)
class ScenePairs:
    """Scenes and named emblems of the training split without end, each said twice."""

    seed: int = 3
    """Stream of the training split."""
    emblems: float = 0.5
    """Share of emblems."""
    words: int = 20_000
    """Emblems are the first so many: too many to learn by heart."""


@dataclass(frozen=True)
class CocoPairs:
    """Captioned photographs in COCO's own layout; each picture with two of its captions, at random."""

    root: str
    """Folder in COCO's layout."""
    split: str = "train2017"
    """Which part of it."""
    seed: int = 3
    """Draws pictures and captions."""


@dataclass(frozen=True)
class ClipRun(PairTrainConfig):
    """Train a small CLIP on pairs of `data`, and measure what it finds."""

    data: ScenePairs | CocoPairs = field(default_factory=ScenePairs)

    def __post_init__(self) -> None:
        """Check every field, and those of `data`."""
        super().__post_init__()
        if wrong := finite_settings(self, "clip."):
            raise ConfigError("; ".join(wrong))

    def run(self, *, progress: bool = True, resume: bool = False) -> dict[str, Any]:
        """Train; returns the encoder's folder and name, and shares found first and among the first five.

        Scenes are measured as `measure_scenes` says, photographs as `measure_pictures`, on the very ones of training.
        Stopped by a signal, returns with "stopped" and a checkpoint in its place.
        """
        check_new(Path(self.out), resume)
        base = PairTrainConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(PairTrainConfig)})
        about = {"kind": type(self.data).__name__, **dataclasses.asdict(self.data)}
        documents = None if isinstance(self.data, ScenePairs) else Coco(self.data.root, self.data.split).documents()
        pairs = scene_pairs(self) if documents is None else _coco_pairs(self, documents)
        left = {"left_out": left_out(documents.left_out)} if documents is not None and documents.left_out else {}
        with Signals() as signals:
            folder = train_pairs(
                base, pairs, progress=progress, about=about, stopping=signals.stopping, notes=[left][: len(left)]
            )
        if signals.stopped or signals.stopping(self.steps):
            return {"out": self.out} | signals.stopped
        encoder = PairEncoder.load(folder)
        if documents is None:
            measured = measure_scenes(encoder, seed=self.seed, bank=BANK)
        else:
            measured = measure_pictures(encoder, documents)
        return {"out": self.out, "encoder": encoder.name, **measured, **left}


def scene_pairs(run: ClipRun) -> PairSource:
    """Batches of `run`: emblems first, then scenes, at the size that the network reads."""
    data, size = run.data, run.model.image_size
    assert isinstance(data, ScenePairs)
    if not 0 <= data.emblems <= 1:
        raise ConfigError(f"data.emblems={data.emblems}: is a share, must be in 0..1")
    if not 1 <= data.words <= EMBLEMS["train"]:
        raise ConfigError(
            f"data.words={data.words}: must be 1 to {EMBLEMS['train']}, as many as emblems are for training"
        )
    named = round(run.batch * data.emblems)
    # What a retriever confuses is words that look alike, and a batch drawn at random has hardly any.
    words = [emblem(i, "train").word for i in range(data.words)]
    orders = [sorted(range(data.words), key=lambda i: words[i][::way]) for way in (1, -1)]

    def emblems(step: int) -> list[int]:
        rng = np.random.default_rng([data.seed, 0xC11B, step])
        found: list[int] = []
        while len(found) < named:
            start = int(rng.integers(max(1, data.words - ALIKE + 1)))
            found += orders[int(rng.integers(2))][start : start + ALIKE]
        return found[:named]

    def pairs(step: int) -> list[Pair]:
        made = []
        for i, index in enumerate([*emblems(step), *[None] * (run.batch - named)]):
            rng = np.random.default_rng([data.seed, 0xC11B, step, i])
            if index is not None:
                this = emblem(index, "train")
                scene, texts = this.scene, (say(this, rng), say(this, rng))
            else:
                scene = random_scene(rng)
                texts = describe(scene, rng), describe(scene, rng)
            made.append(Pair(texts[0], draw(scene, size, rng), texts[1], tells=index is None))
        return made

    return pairs


def measure_scenes(encoder: Encoder, *, seed: int = 0, bank: int = 500, size: int = 128) -> dict[str, float]:
    """What an encoder finds in a bank of `bank` unseen emblems, as many of training, and as many unseen scenes.

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
    return result | _among_hundred("scenes", asked, found.images[2 * bank :])


def measure_pictures(encoder: Encoder, documents: Sequence[Document]) -> dict[str, float]:
    """`pictures_recall_1`, `pictures_recall_5`: a caption of each picture finds it so among at most 100.

    By pictures alone; where the pictures are those of training, it says what was learnt by heart.
    """
    first = {d.meta["image_id"]: d for d in documents}
    found = embed(encoder, list(first.values()))
    return _among_hundred("pictures", found.texts, found.images)


def _among_hundred(name: str, queries: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """Shares over queries (n, w), each against the hundred images (n, w) that it stands among."""
    groups = [slice(at, at + 100) for at in range(0, len(queries), 100)]
    found = [retrieval_accuracy(queries[g], images[g], range(len(queries[g]))) for g in groups]
    sizes = [len(queries[g]) for g in groups]
    return {f"{name}_{key}": float(np.average([f[key] for f in found], weights=sizes)) for key in found[0]}


def _again(this: Emblem, said: str, rng: np.random.Generator) -> str:
    """Another phrase for an emblem than `said`."""
    while (phrase := say(this, rng)) == said:
        pass
    return phrase


def _coco_pairs(run: ClipRun, documents: Sequence[Document]) -> PairSource:
    captions: dict[int | str, list[str]] = {}
    pictures = {}
    for document in documents:
        captions.setdefault(document.meta["image_id"], []).append(document.text)
        # Scaled once: a photograph is some hundred times what the network reads.
        if document.meta["image_id"] not in pictures:
            pictures[document.meta["image_id"]] = square(document.images[0].pixels, run.model.image_size)
    known = list(pictures)  # in the order of their ids, of which some may be texts

    def pairs(step: int) -> list[Pair]:
        rng = np.random.default_rng([run.data.seed, 0xC11B, step])
        made = []
        for i in rng.choice(len(known), min(run.batch, len(known)), replace=False):
            texts = [captions[known[i]][j] for j in rng.permutation(len(captions[known[i]]))[:2]]
            made.append(Pair(texts[0], pictures[known[i]], texts[1] if len(texts) > 1 else ""))
        return made

    return pairs
