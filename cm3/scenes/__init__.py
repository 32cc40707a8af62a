"""A procedural world with exact ground truth: scenes that can be drawn, said, and read back from pixels.

scene.py     what a scene is, random scenes, splits disjoint by content
drawing.py   Scene -> picture, at any resolution
sentences.py Scene -> sentence -> Statement, and whether a statement holds of a scene
verify.py    picture -> Scene, by measuring pixels, or the reason why it is none
emblems.py   invented words that stand for fixed scenes: what only a memory bank can tell

For the instruction tasks, each with its truth and its verifier:

scene_edits.py  an instruction, and the scene that it makes of another
structure.py outlines, scribbles, segments and depth of a scene; segmentation maps measured
scene_boxes.py  where each object stands       letters.py  a word written in a scene
ask.py       questions and answers             talk.py     dialogues, in which "it" goes back to what was said
reason.py    comparisons and why               tell.py     long descriptions
phrases.py   the wordings that they share
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cm3.scenes.drawing import draw
    from cm3.scenes.scene import Object, Scene, Split, random_scene, split_of
    from cm3.scenes.sentences import STYLES, Mention, Statement, describe, holds, parse, styles_of

__all__ = [
    "STYLES",
    "Mention",
    "Object",
    "Scene",
    "Split",
    "Statement",
    "describe",
    "draw",
    "holds",
    "parse",
    "random_scene",
    "split_of",
    "styles_of",
]
_HOMES = {
    **dict.fromkeys(("STYLES", "Mention", "Statement", "describe", "holds", "parse", "styles_of"), "sentences"),
    **dict.fromkeys(("Object", "Scene", "Split", "random_scene", "split_of"), "scene"),
    "draw": "drawing",
}


def __getattr__(name: str) -> Any:
    # Loaded when they are used: the command's verbs stand below this package, and their help must load nothing.
    if name in _HOMES:
        return getattr(importlib.import_module(f"cm3.scenes.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'cm3.scenes' has no attribute {name!r}")
