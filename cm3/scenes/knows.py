"""The world of a model of scenes, as its bundle tells it (`about.world`, cm3/generate/known_world.py).

The words are those of captions, emblems' phrases and all instruction tasks; tests hold them against what is drawn.
"""

from __future__ import annotations

from typing import Any

from cm3.scenes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES

_OTHERS = """
    a above add all an and any are as at away background below bring can change colour delete different do does draw
    drawing empty equal erase fewer for four from give ground have here holds how in into is it its larger less
    make many more move no nothing number object objects of on one paint picture put quarter remove replace same see
    shape shows size smaller stands swap take than the there this three to turn two what where which with word yes you
    zero
"""
WORDS = tuple(
    sorted(
        {*_OTHERS.split(), *SHAPES, *(f"{shape}s" for shape in SHAPES), *SIZES, *COLOURS, *BACKGROUNDS}
        | {word for place in PLACES for word in place.split()}
    )
)
"""Every word that training showed, in small letters."""
SPELLINGS = {"gray": "grey", "color": "colour"}
"""Other spellings of these."""
PICTURE_ERROR = 0.033
"""Mean error of colour (0 to 1) of a picture after its codes, above which it is no scene. 1,290 scenes, drawn,
lettered, scaled and as JPEG of quality 30, reach 0.026 at most; of 1,159 photographs the least has 0.042."""


def _either(words: Any) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


WORLD: dict[str, Any] = {
    "says": f"scenes of one to four objects ({_either(SHAPES)}; {_either(SIZES)}; {_either(COLOURS)}) on a "
    f"{_either(BACKGROUNDS)} ground",
    "words": list(WORDS),
    "spellings": SPELLINGS,
    "picture_error": PICTURE_ERROR,
}
