"""Kinds of data that a recipe names: what each run is trained on, as plain settings.

SceneData, EmblemData    drawn on the fly           SceneTaskData               pictures for an image tokenizer
CocoData, StoreData      read, or prepared before   SceneLessonData, TaskData   instruction tasks; the latter in
                                                                               cm3/data/task_data.py
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cm3.data.augment import AugmentLaw
from cm3.data.task_data import TaskData
from cm3.scenes.data.emblem_source import EmblemMix
from cm3.scenes.data.lessons import LessonLaw, SceneTaskMix
from cm3.scenes.data.training_pictures import OBJECTS, TASK_PICTURES

__all__ = [
    "CocoData", "EmblemData", "SceneData", "SceneLessonData", "SceneTaskData", "StoreData", "TaskData",
]  # fmt: skip


@dataclass(frozen=True)
class SceneData:
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


@dataclass(frozen=True)
class SceneTaskData:
    """Every picture of the scenes' instruction tasks, for the image tokenizer; stream `seed` of the training split.

    The first `keep` pictures of each batch (cm3/train/image_tokenizer.py) are plain scenes; so is a half without it.
    """

    seed: int = 1
    """Stream of the training split."""
    shares: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASK_PICTURES, 1.0))
    """How often each kind comes among the others, in any unit."""


@dataclass(frozen=True)
class CocoData:
    """Captioned photographs in COCO's own layout: root/annotations/captions_SPLIT.json, root/SPLIT/*.jpg."""

    root: str
    """Folder in COCO's layout."""
    split: str = "train2017"
    """Which part of it."""
    seed: int = 1
    """Draws the order of each epoch."""


@dataclass(frozen=True)
class EmblemData:
    """Scenes, and named emblems that stand in a memory bank (cm3/scenes/emblems.py), with documents retrieved for them.

    The bank for training is built beside the run, `out/memory`, and who is a neighbour of whom worked out once,
    `out/neighbours`; the bank that goes into the bundle, with emblems that training never sees, is `out/bank`.
    """

    seed: int = 1
    """Stream of the training split; the two after it are taken too."""
    encoder: str = "runs/scenes/clip"
    """What the banks are searched with: a folder or a hub id."""
    emblems: int = 4000
    """Emblems of training, the first so many; each has one document in the bank."""
    scenes: int = 1000
    """Scenes in the bank, and as many others that documents are retrieved for."""
    mix: EmblemMix = field(default_factory=EmblemMix)
    bank: tuple[int, int, int] = (600, 200, 200)
    """Emblems that training never sees, emblems of training, and scenes, in the bank that goes into the bundle."""


@dataclass(frozen=True)
class StoreData:
    """Token stores that `cm3 prepare` wrote. They bring their text tokenizer and vocabulary.

    Resume with the same ones: which document comes when follows from them, their weights and the seed.
    """

    stores: tuple[str, ...]
    """Folders of stores."""
    weights: tuple[float, ...] = ()
    """Share of the documents that comes from each, in any unit; none means every document as often as any other."""
    seed: int = 1
    """Draws the order of each epoch."""
    neighbours: str = ""
    """Table of neighbours (cm3/data/neighbours.py) of documents to put before an example; their tokens are taken from
    the first store."""
    documents: AugmentLaw = field(default_factory=AugmentLaw)
    """How many of them."""
    validation: str = ""
    """Store of documents that are not trained on, for `validate_every`."""


@dataclass(frozen=True)
class SceneLessonData:
    """Scenes for every instruction task (cm3/scenes/data/lessons.py), drawn on the fly; stream `seed` of the training
    split, and documents of pretraining among them, so that nothing is forgotten."""

    seed: int = 1
    """Stream of the training split."""
    mix: SceneTaskMix = field(default_factory=SceneTaskMix)
    """Shares of the tasks; may be changed when a run is resumed."""
    law: LessonLaw = field(default_factory=LessonLaw)
    plain: SceneData | EmblemData = field(default_factory=SceneData)
    """The documents of pretraining."""
