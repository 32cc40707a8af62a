"""The world of a model of stickers, as its bundle tells it (`about.world`, cm3/generate/known_world.py).

The words are those of captions, wishes and all instruction tasks; tests hold them against what is said. Words of kinds
that are held out of training are none of them: a model learns of those from documents alone.
"""

from __future__ import annotations

from typing import Any

from cm3.stickers.artwork import COLOURS, KINDS, SHAPES
from cm3.stickers.ask import GROUPS_ASKED
from cm3.stickers.phrases import GROUP_WORDS, SPELLINGS
from cm3.stickers.world import GROUNDS, PLACES, SIZES, TRAINED

_OTHERS = """
    a above add an and another are at away be below beneath beside both bring by can change colour corner count
    create dark delete do does down draw drawing each enlarge erase every exchange fewer for four further get give
    go ground have higher how i in instead into is it large larger left light lower make many me more move neither
    next no not nothing number of on one or other over paint picture place please put remove replace rid right see
    set shift should show shown shows shrink side size small smaller somewhere stand stands sticker stickers swap
    take than the there three to top turn two under underneath up use violet want what where which with yes you zero
"""
_PHRASES = [
    *SIZES,
    *COLOURS,
    *SHAPES,
    *GROUNDS,
    *PLACES,
    *(words for one, many in GROUP_WORDS.values() for words in ((one, many) if one in GROUPS_ASKED else (one,))),
    *(f"{name} {KINDS[name].plural}" for name in TRAINED),
]
WORDS = tuple(sorted({*_OTHERS.split(), *(word for phrase in _PHRASES for word in phrase.split())}))
"""Every word that training showed, in small letters."""
KIND_WORDS = frozenset(word for name in TRAINED for word in name.split())
"""The words of the kinds: a model that knows them knows stickers, whatever other words its training had."""
PICTURE_ERROR = 0.032
"""Mean error of colour (0 to 1) of a picture after its codes, above which it is no sheet.

Measured with the image tokenizer of `image_decoder`: 300 sheets, as they are and as JPEG of quality 40 and 30, are off
by 0.0303 at most (0.011 to 0.016 in the mean), 100 photographs by 0.033 at least (0.078 in the median)."""

WORLD: dict[str, Any] = {
    "says": f"one to four stickers of {len(TRAINED)} kinds (dog, pizza, rocket, red star, ...: docs/stickers.md lists "
    f"them), {' or '.join(SIZES)}, on a {', '.join(tuple(GROUNDS)[:-1])} or {tuple(GROUNDS)[-1]} ground",
    "words": list(WORDS),
    "spellings": SPELLINGS,
    "picture_error": PICTURE_ERROR,
}
