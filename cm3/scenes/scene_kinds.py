"""Kinds of data of the scenes, as a recipe names them (cm3/data/kind.py): drawn on the fly, without end.

SceneData        captioned scenes                    SceneLessonData   every instruction task on scenes
EmblemData       scenes and named emblems, with      SceneTaskData     pictures of those tasks, for an image tokenizer
                 documents retrieved for them        ScenePairs        scenes and emblems said twice, for a small CLIP
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cm3.data.kind import Batches, Context, Data
from cm3.data.load import Source
from cm3.document import Document
from cm3.errors import ConfigError
from cm3.retrieval.embed import load_encoder
from cm3.retrieval.memory import Memory
from cm3.retrieval.pairs import Pair
from cm3.scenes.data.emblem_bank import build_emblem_bank
from cm3.scenes.data.emblem_source import EmblemMix, EmblemSource, bank_documents, emblem_neighbours
from cm3.scenes.data.lessons import LessonLaw, SceneTaskMix, SceneTaskSource
from cm3.scenes.data.scene_source import SceneSource, scene_document
from cm3.scenes.data.training_pictures import OBJECTS, TASK_PICTURES, Drawn, scene_pictures, task_pictures
from cm3.scenes.drawing import draw
from cm3.scenes.emblems import EMBLEMS, emblem, say
from cm3.scenes.eval.clip_scores import BANK, measure_scenes
from cm3.scenes.knows import WORLD
from cm3.scenes.scene import random_scene
from cm3.scenes.sentences import describe
from cm3.vocab import Tokens

ALIKE = 4
"""Emblems of like words that are drawn together."""


class _Scenes(Data):
    """A language model of scenes: its words, its world, scenes held out, and prompts."""

    seed: int

    def texts(self) -> Iterable[str]:
        """Return captions alone: pictures of 16 pixels cost nothing."""
        return [scene_document(self.seed + 1, i, 16, captions_only=1.0).text for i in range(20_000)]

    def held_out(self, run: Context) -> Source:
        """Return scenes of the validation split."""
        return SceneSource(run.codec, self.seed, "val")

    def prompts(self, run: Context, number: int = 8) -> list[Document]:
        """Return scenes of the validation split."""
        return [scene_document(self.seed + 2, i, run.size, "val") for i in range(number)]

    def world(self) -> Mapping[str, Any]:
        """Return what a model of scenes knows."""
        return WORLD


@dataclass(frozen=True)
class SceneData(_Scenes):
    """Scenes without end, drawn on the fly; stream `seed` of the training split."""

    seed: int = 1
    """Stream of the training split."""
    captions_only: float = 0.05
    """Share of documents that are a caption without its picture."""
    mix: tuple[float, ...] = ()
    """Shares of documents with 1, 2, 3, 4 objects, for the language model; uniform where there are none."""
    in_order: float = 0.0
    """Share of captions that name the objects in reading order."""
    objects: tuple[float, ...] = OBJECTS
    """Shares of pictures with 1, 2, 3, 4 objects, for the image tokenizer."""
    focus: tuple[str, ...] = ()
    """Words (size, colour, shape) for the image tokenizer: half of its pictures hold an object that is all of them."""

    def source(self, run: Context) -> SceneSource:
        """Return captioned scenes."""
        return SceneSource(
            run.codec, self.seed, captions_only=self.captions_only, objects=self.mix, in_order=self.in_order
        )

    def pictures(self, size: int, batch: int, keep: int = 0) -> Batches:
        """Return scenes."""
        return scene_pictures(self.seed, size, batch, self.objects, self.focus)


@dataclass(frozen=True)
class SceneTaskData(Data):
    """Every picture of the scenes' instruction tasks, for the image tokenizer; stream `seed` of the training split.

    The first `keep` pictures of each batch (cm3/train/image_tokenizer.py) are plain scenes; so is a half without it.
    """

    seed: int = 1
    """Stream of the training split."""
    shares: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASK_PICTURES, 1.0))
    """How often each kind comes among the others, in any unit."""

    def pictures(self, size: int, batch: int, keep: int = 0) -> Batches:
        """Return plain scenes first, then the other kinds."""
        return task_pictures(self.seed, size, batch, keep or batch // 2, self.shares)


@dataclass(frozen=True)
class EmblemData(_Scenes):
    """Scenes, and named emblems that stand in a memory bank (cm3/scenes/emblems.py), with documents retrieved for them.

    The bank for training is built beside the run, `out/memory`, and who is a neighbour of whom worked out once,
    `out/neighbours`; the bank that goes into the bundle, with emblems that training never sees, is `out/bank`.
    """

    seed: int = 1
    """Stream of the training split; the two after it are taken too."""
    encoder: str = "runs/scenes/clip"
    """Encoder that the banks are searched with: a folder or a hub id."""
    emblems: int = 4000
    """Emblems of training, the first so many; each has one document in the bank."""
    scenes: int = 1000
    """Scenes in the bank, and as many others that documents are retrieved for."""
    mix: EmblemMix = field(default_factory=EmblemMix)
    bank: tuple[int, int, int] = (600, 200, 200)
    """Emblems that training never sees, emblems of training, and scenes, in the bank that goes into the bundle."""

    def source(self, run: Context) -> Source:
        """Return examples with documents before them; bank and table are made once the run has begun."""
        encoder, out, size = load_encoder(self.encoder), run.out, run.size

        def make() -> Source:
            if (out / "memory").is_dir():
                memory = Memory.open(out / "memory", encoder=encoder)
            else:
                documents = bank_documents(self.emblems, self.scenes, size, self.seed)
                memory = Memory.build(out / "memory", documents, encoder)
            # Queries are of another seed than the bank, so that no scene asks for itself.
            table = emblem_neighbours(
                out / "neighbours", memory, encoder, scenes=self.scenes, size=size, seed=self.seed + 1
            )
            longest = min(run.length, run.context)
            return EmblemSource(run.codec, memory, table, self.seed + 2, self.mix, length=longest)

        return _Later(make)

    def given(self, source: Source) -> dict[str, Any]:
        """Return the encoder's name."""
        return {"encoder": load_encoder(self.encoder).name}

    def begin(self, run: Context) -> None:
        """Make the encoder and the bank that the bundle comes with, `out/encoder` and `out/bank`."""
        bank, encoder = run.out / "bank", load_encoder(self.encoder)
        if not bank.is_dir():
            test, train, scenes = self.bank
            build_emblem_bank(bank, encoder, test=test, train=train, scenes=scenes, size=run.size)
        if (folder := Path(self.encoder)).is_dir():
            # Less what training left beside it.
            less = shutil.ignore_patterns("*.pt", "*.jsonl", "run.json", "checkpoints", ".*")
            shutil.copytree(folder, run.out / "encoder", dirs_exist_ok=True, ignore=less)


@dataclass(frozen=True)
class SceneLessonData(_Scenes):
    """Scenes for every instruction task (cm3/scenes/data/lessons.py), drawn on the fly; stream `seed` of the training
    split, and documents of pretraining among them, so that nothing is forgotten."""

    seed: int = 1
    """Stream of the training split."""
    mix: SceneTaskMix = field(default_factory=SceneTaskMix)
    """Shares of the tasks; may be changed when a run is resumed."""
    law: LessonLaw = field(default_factory=LessonLaw)
    plain: SceneData | EmblemData = field(default_factory=SceneData)
    """The documents of pretraining."""

    def source(self, run: Context) -> SceneTaskSource:
        """Return lessons, and plain documents among them."""
        return SceneTaskSource(run.codec, self.seed, self.mix, self.law, plain=self.plain.source(run))

    def held_out(self, run: Context) -> SceneTaskSource:
        """Return lessons and scenes of the validation split."""
        plain = SceneSource(run.codec, self.seed, "val")
        return SceneTaskSource(run.codec, self.seed, self.mix, self.law, plain=plain, split="val")

    def given(self, source: Source) -> dict[str, Any]:
        """Return those of the plain documents."""
        return self.plain.given(source)

    def begin(self, run: Context) -> None:
        """Make what the plain documents need."""
        self.plain.begin(run)


@dataclass(frozen=True)
class ScenePairs(Data):
    """Scenes and named emblems of the training split without end, each said twice."""

    seed: int = 3
    """Stream of the training split."""
    emblems: float = 0.5
    """Share of emblems."""
    words: int = 20_000
    """Emblems are the first so many: too many to learn by heart."""

    def pairs(self, size: int, batch: int) -> Batches:
        """Return batches of pairs: emblems first, then scenes. Raises `ConfigError` for a value out of range."""
        if not 0 <= self.emblems <= 1:
            raise ConfigError(f"data.emblems={self.emblems}: is a share, must be in 0..1")
        if not 1 <= self.words <= EMBLEMS["train"]:
            raise ConfigError(
                f"data.words={self.words}: must be 1 to {EMBLEMS['train']}, as many as emblems are for training"
            )
        named = round(batch * self.emblems)
        # A retriever confuses words that look alike, and a batch drawn at random has hardly any.
        words = [emblem(i, "train").word for i in range(self.words)]
        orders = [sorted(range(self.words), key=lambda i: words[i][::way]) for way in (1, -1)]

        @functools.lru_cache(maxsize=2)
        def emblems(step: int) -> list[int]:
            rng = np.random.default_rng([self.seed, 0xC11B, step])
            found: list[int] = []
            while len(found) < named:
                start = int(rng.integers(max(1, self.words - ALIKE + 1)))
                found += orders[int(rng.integers(2))][start : start + ALIKE]
            return found[:named]

        def pair(step: int, i: int) -> Pair:
            rng = np.random.default_rng([self.seed, 0xC11B, step, i])
            if i < named:
                this = emblem(emblems(step)[i], "train")
                scene, texts = this.scene, (say(this, rng), say(this, rng))
            else:
                scene = random_scene(rng)
                texts = describe(scene, rng), describe(scene, rng)
            return Pair(texts[0], draw(scene, size, rng), texts[1], tells=i >= named)

        return Drawn(pair, batch, list)

    def measure(self, encoder: Any, pairs: Batches, seed: int) -> dict[str, float]:
        """Return what an encoder finds in a bank of emblems and scenes that it never saw (`measure_scenes`)."""
        return measure_scenes(encoder, seed=seed, bank=BANK)


class _Later(Source):
    """A source that is made when it is first asked, of what only a run that has begun may write."""

    def __init__(self, make: Any) -> None:
        self._make = make

    @functools.cached_property
    def made(self) -> Source:
        """Return the source itself."""
        made: Source = self._make()
        return made

    def make(self) -> None:
        """Make it."""
        self.made  # noqa: B018

    def sequences(self, positions: Sequence[int]) -> Sequence[Tokens | Any]:
        """Return tokens of these documents."""
        return self.made.sequences(positions)
