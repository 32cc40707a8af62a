"""The world of the statements, in one place: its model, its data for training, its cases, and what is right in them.

Today it is the scenes (cm3/scenes). Another world takes their place by the same names in this file, in the import of
recipes/paper.py and in the words of `verdicts.STATEMENTS`. Every case comes from its seed and number alone, so that
models are compared on the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import PIL.Image

from cm3.data.kind import Data
from cm3.document import Document
from cm3.errors import DataError
from cm3.model.bundle import EMBEDDED
from cm3.scenes.data.emblem_source import EmblemMix
from cm3.scenes.data.lesson_documents import SceneExample, make_example
from cm3.scenes.data.lessons import LessonLaw, SceneTaskMix
from cm3.scenes.drawing import draw
from cm3.scenes.emblems import EmblemSplit, emblem, say
from cm3.scenes.scene import Scene, random_scene
from cm3.scenes.scene_kinds import EmblemData, SceneData, SceneLessonData
from cm3.scenes.sentences import describe, holds, parse, styles_of
from cm3.scenes.verify import read
from cm3.sequence.before import AugmentLaw

NAME = "scenes"
"""The bundle in the package: its image tokenizer, text tokenizer, encoder and bank serve every model of the plan."""
BUNDLE = EMBEDDED / NAME
ENCODER, BANK = BUNDLE / "encoder", BUNDLE / "memory"
NAMED_IN_BANK: dict[EmblemSplit, int] = {"train": 200, "test": 600}
"""Names that the bank has a document of: the first so many of each split."""
ONE, MIXTURE = {"vqa2": 1.0}, {"plain": 0.2, "coco_captions": 0.2, "vqa2": 0.4, "boxes": 0.2}
"""Shares of the tasks in what is tuned on one of them, and on several."""


@dataclass(frozen=True)
class Said:
    """A prompt, the seed of its picture, and the scene that it is to show."""

    prompt: str
    seed: int
    scene: Scene


def plain(seed: int, objects: Sequence[float]) -> Data:
    """Return captioned scenes; `objects`: shares of one object, two, and so on."""
    return SceneData(seed=seed, mix=tuple(objects), in_order=0.5)


def named(seed: int, objects: Sequence[float], names: int, documents: Sequence[float]) -> Data:
    """Return captioned scenes and, in seven of ten examples, one of `names` names of scenes, after retrieved documents.

    `documents`: shares of none of them, one, and so on. What teaches copying is that of recipes/scenes.py.
    """
    law = AugmentLaw(tuple(documents))
    mix = EmblemMix(
        plain=0.3, scenes=0.0, emblems=0.7, documents=law, alike=0.5, shuffled=0.4, objects=tuple(objects), in_order=0.5
    )
    return EmblemData(seed=seed, encoder=str(ENCODER), emblems=names, scenes=1, mix=mix, bank=(1, 1, 1))


def lessons(seed: int, objects: Sequence[float], shares: dict[str, float]) -> Data:
    """Return lessons of these tasks, and captioned scenes where `plain` has a share."""
    mix = SceneTaskMix(**{f.name: shares.get(f.name, 0.0) for f in fields(SceneTaskMix)})
    shown = tuple((*objects, 0.0, 0.0, 0.0, 0.0)[:4])
    captioned = SceneData(seed=seed + 1, mix=tuple(objects), in_order=0.5)
    return SceneLessonData(seed=seed, mix=mix, law=LessonLaw(objects=shown, shuffled=0.0, unsaid=0.0), plain=captioned)


def described(seed: int, n: int, objects: Sequence[float], first: int = 0) -> list[Said]:
    """Return captions of test scenes, each with all that its picture must show: none leaves a place open."""
    return [_said(seed, i, objects)[0] for i in range(first, first + n)]


def named_cases(seed: int, n: int, split: EmblemSplit) -> list[Said]:
    """Return prompts that only name a scene: one that training saw ("train"), or never ("test")."""
    cases = []
    for i in range(n):
        rng = np.random.default_rng([seed, 0xC1A2, i])
        this = emblem(i, split)
        cases.append(Said(say(this, rng), int(rng.integers(2**31)), this.scene))
    return cases


def documents(seed: int, n: int, objects: Sequence[float], size: int) -> list[tuple[Document, Scene]]:
    """Return test scenes with their captions and true pictures, of `size` pixels."""
    made = []
    for i in range(n):
        said, rng = _said(seed, i, objects)
        made.append((Document.of(said.prompt, draw(said.scene, size, rng)), said.scene))
    return made


def questions(seed: int, n: int, objects: Sequence[float], size: int) -> list[SceneExample]:
    """Return questions about pictures of test scenes: `fields` question, image and answer."""
    made = []
    for i in range(n):
        rng = np.random.default_rng([seed, 0xC1A3, i])
        made.append(make_example("vqa2", rng, size, "test", _number(objects, rng)))
    return made


def drawn_right(picture: PIL.Image.Image, scene: Scene) -> tuple[float, bool]:
    """Measure a picture: the share of the objects' parts that are right, and whether it shows exactly the scene.

    An object has four parts: something stands in its place, of its shape, its colour and its size. Something where
    nothing should be counts as an object with none of them.
    """
    reading = read(picture)
    seen = {thing.place: thing for thing in reading.seen}
    right = 0
    for thing in scene.objects:
        found = seen.get(thing.place)
        if found is not None:
            right += 1 + sum(getattr(found, part) == getattr(thing, part) for part in ("shape", "colour", "size"))
    places = {thing.place for thing in scene.objects} | seen.keys()
    return right / (4 * len(places)), reading.scene == scene


def said_right(caption: str, scene: Scene) -> bool:
    """Tell whether a caption is exactly and completely true."""
    try:
        return holds(parse(caption), scene)
    except DataError:
        return False


def about(path: Path = BUNDLE) -> str:
    """Return the checksum of the bundle's own page, which has those of all of its files."""
    from cm3.files import sha256

    return sha256(path / "config.json")


def _said(seed: int, i: int, objects: Sequence[float]) -> tuple[Said, np.random.Generator]:
    rng = np.random.default_rng([seed, 0xC1A1, i])
    scene = random_scene(rng, "test", _number(objects, rng))
    styles = [style for style in styles_of(scene) if style != "relation"]
    caption = describe(scene, rng, styles[int(rng.integers(len(styles)))])
    return Said(caption, int(rng.integers(2**31)), scene), rng


def _number(objects: Sequence[float], rng: np.random.Generator) -> int:
    return int(rng.choice(len(objects), p=np.asarray(objects) / sum(objects))) + 1
