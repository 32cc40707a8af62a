"""A procedural world with exact ground truth: scenes that can be drawn, said, and read back from pixels.

world.py     what a scene is, random scenes, splits disjoint by content
draw.py      Scene -> picture, at any resolution
describe.py  Scene -> sentence -> Statement, and whether a statement holds of a scene
verify.py    picture -> Scene, by measuring pixels, or the reason why it is none
emblems.py   invented words that stand for fixed scenes: what only a memory bank can tell

For the instruction tasks, each with its truth and its verifier:

edit.py      an instruction, and the scene that it makes of another
structure.py outlines, scribbles, segments and depth of a scene; segmentation maps measured
boxes.py     where each object stands          letters.py  a word written in a scene
ask.py       questions and answers             talk.py     dialogues, in which "it" goes back to what was said
reason.py    comparisons and why               tell.py     long descriptions
phrases.py   the wordings that they share
"""

from cm3.scenes.describe import STYLES, Mention, Statement, describe, holds, parse, styles_of
from cm3.scenes.draw import draw
from cm3.scenes.world import Object, Scene, Split, random_scene, split_of

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
