"""Writing in pictures: a word in capitals over or under the objects of a scene, and reading it back from pixels.

    +-----------+
    |  C A T    |    a small red star at the bottom left on a mint ground, with the word "CAT" in blue at the top
    |           |
    |  *        |
    +-----------+

The word stands in the middle of one half, the objects in the other. The letters are bitmaps of 5 x 7, so 25 x 28 pixels
each in a picture of 128, in a square of 32 of their own that begins at a multiple of 16: where codes stand for 16 x 16
pixels, a letter is four whole codes wherever it stands. Words are invented (consonants and vowels in turn, 3 or 4
letters), so there are enough that testing uses none from training: a word has to be spelt, not learnt by heart.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass

import numpy as np
import PIL.Image

from cm3.errors import ConfigError, DataError
from cm3.scenes.drawing import OVERSAMPLE, draw
from cm3.scenes.phrases import pick
from cm3.scenes.scene import BACKGROUNDS, COLOURS, Scene, Split, random_scene
from cm3.scenes.sentences import Statement, describe, holds, parse
from cm3.scenes.verify import WORKING, Reading, read

HALVES = ("top", "bottom")
LENGTHS = (3, 4)
"""How many letters a word has."""
INKS = ("black", "white")
"""Colours that words are written in; others are read as well."""
SQUARE = 0.25
"""Side of the square of a letter, as a share of the picture's."""
DOT = (5 / 128, 4 / 128)
"""Width and height of a dot of the bitmap, as shares of the picture's side; a letter is 5 x 7, amid its square."""
LEGIBLE = 0.6
"""Least intersection over union of a letter and its bitmap."""
CLEAR = 0.03
"""Least lead of a letter over the next one."""

_ROWS = (
    "A 0e11111f111111 B 1e11111e11111e C 0e11101010110e D 1e11111111111e E 1f10101e10101f F 1f10101e101010 "
    "G 0e11101711110f H 1111111f111111 I 0e04040404040e J 0702020202120c K 11121418141211 L 1010101010101f "
    "M 111b1b15151111 N 11191915131311 O 0e11111111110e P 1e11111e101010 Q 0e1111110e0403 R 1e11111e141211 "
    "S 0f10100e01011e T 1f040404040404 U 1111111111110e V 1111110a0a0404 W 111111151b1b11 X 11110a040a1111 "
    "Y 1111110a040404 Z 1f01020408101f"
).split()
"""Each letter, then its seven rows from the top, two hexadecimal digits each: five dots, the left one highest."""
_FONT = {
    letter: np.array([[int(rows[i : i + 2], 16) >> (4 - k) & 1 for k in range(5)] for i in range(0, 14, 2)], dtype=bool)
    for letter, rows in zip(_ROWS[::2], _ROWS[1::2], strict=True)
}
_CONSONANTS, _VOWELS = "BCDFGHJKLMNPQRSTVWXYZ", "AEIOU"
_UNFIT = re.compile("FAG|FUC|FUK|CUM|CUN|KUN|COC|COK|KOK|DIC|DIK|TIT|SEX|NIG|GAY|JEW|JAP|NAZ|RAP|SUC|HOM|PUS|ANAL|ANUS")
_SAID = re.compile(r'with the word "([A-Z]+)" in (\w+) at the (top|bottom)')
_REACH = 3
"""How far from its place a word is looked for, in pixels of 128."""


@dataclass(frozen=True)
class Sign:
    """A word in a colour, in the top or the bottom half."""

    word: str
    colour: str
    half: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Z]+", self.word) or len(self.word) not in LENGTHS:
            raise ConfigError(f"sign.word={self.word!r}: must be {LENGTHS[0]} or {LENGTHS[-1]} letters A to Z")
        if self.colour not in COLOURS or self.half not in HALVES:
            raise ConfigError(f"sign in {self.colour!r} at the {self.half!r}: must be in one of {', '.join(COLOURS)}, "
                              "at the top or the bottom")  # fmt: skip


@dataclass(frozen=True)
class Lettered:
    """A scene with a word, and a caption of both."""

    scene: Scene
    sign: Sign
    caption: str


@dataclass(frozen=True)
class WordReading:
    """The writing in one half: the likeliest word and its colour, and why it cannot be read, or an empty reason.

    `overlap` is the intersection over union of all letters with their bitmaps.
    """

    word: str
    colour: str
    overlap: float
    reason: str


@dataclass(frozen=True)
class Written:
    """A verdict on a word (`word_ok`) and on the scene with it (`scene_ok`), with reasons."""

    word_ok: bool
    scene_ok: bool
    reason: str
    word: str

    @property
    def ok(self) -> bool:
        """Tell whether both are right."""
        return self.word_ok and self.scene_ok


def random_lettered(rng: np.random.Generator, split: Split = "train") -> Lettered:
    """Return one or two objects of a split in one half and a word of that split in the other."""
    half = pick(rng, HALVES)
    while True:
        scene = random_scene(rng, split, objects=int(rng.integers(1, 3)))
        if not any(o.place.startswith(half) for o in scene.objects):
            break
    sign = Sign(random_word(rng, split), pick(rng, INKS), half)
    return Lettered(scene, sign, say_lettered(scene, sign, rng))


def random_word(rng: np.random.Generator, split: Split = "train") -> str:
    """Return an invented word of a split, 3 or 4 letters. Held-out scenes take the words of the test split."""
    wanted = "test" if split == "held_out" else split
    while True:
        length = pick(rng, LENGTHS)
        start = int(rng.integers(2))
        word = "".join(pick(rng, (_CONSONANTS, _VOWELS)[(start + i) % 2]) for i in range(length))
        if split_of_word(word) == wanted and not _UNFIT.search(word):
            return word


def split_of_word(word: str) -> Split:
    """Return the split of a word, by its letters alone: 90% train, 2% val, 8% test."""
    bucket = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") % 100
    return "train" if bucket < 90 else "val" if bucket < 92 else "test"


def say_lettered(scene: Scene, sign: Sign, rng: np.random.Generator) -> str:
    """Return a caption of a scene and a sign, the sign first or last."""
    words = f'with the word "{sign.word}" in {sign.colour} at the {sign.half}'
    text = describe(scene, rng, "places")
    return f"{words}: {text}" if rng.random() < 0.5 else f"{text}, {words}"


def parse_lettered(caption: str) -> tuple[Statement, Sign]:
    """Read what a caption of `say_lettered` says of the scene, and the sign. Raises `DataError` where it says none."""
    plain = " ".join(caption.split())
    found = _SAID.search(plain)
    if found is None:
        raise DataError(f'caption {plain!r}: names no word; write it as with the word "CAT" in red at the top')
    before, after = plain[: found.start()], plain[found.end() :]
    if before.endswith(", ") and not after:
        text = before[:-2]
    elif not before and after.startswith(": "):
        text = after[2:]
    else:
        raise DataError(
            f"caption {plain!r}: the word stands at the end after a comma or at the beginning before a colon"
        )
    word, colour, half = found.groups()
    if len(word) not in LENGTHS or colour not in COLOURS:
        raise DataError(
            f"caption {plain!r}: the word must have {LENGTHS[0]} or {LENGTHS[-1]} letters and a colour of the scenes"
        )
    return parse(text), Sign(word, colour, half)


def draw_lettered(scene: Scene, sign: Sign, size: int = 128, rng: np.random.Generator | None = None) -> PIL.Image.Image:
    """Return a scene and its sign as a picture of `size` pixels; `rng` shifts the objects as `draw` does, and never the
    word.

    Raises `ConfigError` where an object stands in the word's half.
    """
    if any(o.place.startswith(sign.half) for o in scene.objects):
        raise ConfigError(f"sign at the {sign.half}: an object stands there; write in the other half")
    picture = draw(scene, size, rng)
    mask = _mask(sign.word, sign.half, size * OVERSAMPLE).reduce(OVERSAMPLE)
    picture.paste(COLOURS[sign.colour], mask=mask)
    return picture


def read_word(picture: PIL.Image.Image, half: str) -> WordReading:
    """Read the word in one half of a square picture by comparing what stands there with every letter's bitmap.

    It knows the lengths, and looks up to 3 pixels of 128 around the place where a word stands.
    """
    small = picture.convert("RGB").resize((WORKING, WORKING), PIL.Image.Resampling.BICUBIC)
    pixels = np.asarray(small, dtype=np.float32)
    ground = _ground(pixels)
    rows = _rows(half)
    apart = np.linalg.norm(pixels[rows] - ground, axis=-1)
    if (apart > 45).sum() < 40:
        return WordReading("", "", 0.0, f"nothing is written at the {half}")
    core = pixels[rows][apart >= np.quantile(apart[apart > 45], 0.6)]
    values = np.array(list(COLOURS.values()), dtype=np.float32)
    votes = np.bincount(np.linalg.norm(core[:, None] - values, axis=-1).argmin(axis=1), minlength=len(values))
    colour = list(COLOURS)[int(votes.argmax())]
    axis = values[votes.argmax()] - ground
    cover = np.zeros((WORKING, WORKING), dtype=np.float32)
    cover[rows] = np.clip((pixels[rows] - ground) @ axis / float(axis @ axis), 0, 1)

    best = WordReading("", colour, 0.0, "")
    for length in LENGTHS:
        for dy in range(-_REACH, _REACH + 1):
            for dx in range(-_REACH, _REACH + 1):
                # The cover is moved the other way, which leaves the letters' places where they are.
                moved = np.roll(cover, (-dy, -dx), axis=(0, 1))
                word, overlaps, leads = _spell(moved, half, length)
                extent = _extent(half, length)
                total = float(moved.sum())
                within = float(moved[extent].sum()) / total
                score = float(np.mean(overlaps)) * within
                if score > best.overlap:
                    at = int(np.argmin(overlaps))
                    reason = ""
                    if min(overlaps) < LEGIBLE:
                        reason = f"letter {at + 1} is not legible (overlap {overlaps[at]:.2f} with {word[at]})"
                    elif min(leads) < CLEAR:
                        reason = f"letter {int(np.argmin(leads)) + 1} could be another one"
                    best = WordReading(word, colour, score, reason)
    return best


def verify_lettered(picture: PIL.Image.Image, truth: Lettered) -> Written:
    """Tell whether a picture shows the word in its colour and place, and in the other half exactly the scene."""
    found = read_word(picture, truth.sign.half)
    wrong = found.reason
    if not wrong and (found.word, found.colour) != (truth.sign.word, truth.sign.colour):
        wrong = f"it reads {found.word!r} in {found.colour}"
    reading = read_under(picture, truth.sign.half)
    statement, _ = parse_lettered(truth.caption)
    scene_ok = reading.scene is not None and holds(statement, reading.scene)
    scene_wrong = "" if scene_ok else reading.reason or f"the picture shows {reading.scene and reading.scene.key}"
    return Written(not wrong, scene_ok, "; ".join(r for r in (wrong, scene_wrong) if r), found.word)


def read_under(picture: PIL.Image.Image, half: str) -> Reading:
    """Read the scene of a picture with the half where a word stands painted over with the ground."""
    clean = picture.convert("RGB")
    ground = _ground(np.asarray(clean, dtype=np.float32))
    middle = clean.height // 2
    box = (0, 0, clean.width, middle) if half == "top" else (0, middle, clean.width, clean.height)
    clean.paste(tuple(int(v) for v in ground), box)
    return read(clean)


def _ground(pixels: np.ndarray) -> np.ndarray:
    """Return the background of the border that is nearest to a named one."""
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    values = np.array(list(BACKGROUNDS.values()), dtype=np.float32)
    nearest = np.linalg.norm(rim[:, None] - values, axis=-1).argmin(axis=1)
    return np.median(rim[nearest == np.bincount(nearest).argmax()], axis=0)


def _rows(half: str) -> slice:
    return np.s_[: WORKING // 2] if half == "top" else np.s_[WORKING // 2 :]


def _corner(half: str, length: int) -> tuple[float, float]:
    """Return the left and top of a word, as shares of the side."""
    return 0.5 - SQUARE * length / 2 + (SQUARE - 5 * DOT[0]) / 2, (0.25 if half == "top" else 0.75) - 3.5 * DOT[1]


def _mask(word: str, half: str, side: int) -> PIL.Image.Image:
    """Draw where a word covers a picture of `side` pixels: black and white, mode L."""
    left, top = _corner(half, len(word))
    mask = np.zeros((side, side), dtype=np.uint8)
    rows = [round(v) for v in (np.arange(8) * DOT[1] + top) * side]
    for i, letter in enumerate(word):
        edges = [round(v) for v in (np.arange(6) * DOT[0] + left + SQUARE * i) * side]
        for y, x in zip(*np.nonzero(_FONT[letter]), strict=True):
            mask[rows[y] : rows[y + 1], edges[x] : edges[x + 1]] = 255
    return PIL.Image.fromarray(mask)


def _extent(half: str, length: int) -> tuple[slice, slice]:
    left, top = _corner(half, length)
    right, bottom = left + SQUARE * (length - 1) + 5 * DOT[0], top + 7 * DOT[1]
    x, y, x1, y1 = (round(v * WORKING) for v in (left, top, right, bottom))
    return np.s_[y - 2 : y1 + 2, x - 2 : x1 + 2]


@functools.cache
def _cells(half: str, length: int) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """Return for each letter of a word its window, and the cover of all 26 letters there, float (26, height, width)."""
    left, top = (v * WORKING for v in _corner(half, length))
    covers = np.stack([np.asarray(_mask(letter * length, half, WORKING * 4).reduce(4)) for letter in _FONT])
    width, height, found = 5 * DOT[0] * WORKING, 7 * DOT[1] * WORKING, []
    for i in range(length):
        x, y = left + SQUARE * WORKING * i, top
        window = np.s_[int(y) - 1 : int(y + height) + 2, int(x) - 1 : int(x + width) + 2]
        found.append((window, covers[:, *window].astype(np.float32) / 255))
    return found


def _spell(cover: np.ndarray, half: str, length: int) -> tuple[str, list[float], list[float]]:
    """Return the best letters of a word of a length, with the overlap of each and its lead over the next best."""
    word, overlaps, leads = "", [], []
    for window, letters in _cells(half, length):
        there = cover[window]
        fits = np.minimum(there, letters).sum(axis=(1, 2)) / np.maximum(there, letters).sum(axis=(1, 2))
        first, second = np.argsort(-fits)[:2]
        word += list(_FONT)[int(first)]
        overlaps.append(float(fits[first]))
        leads.append(float(fits[first] - fits[second]))
    return word, overlaps, leads
