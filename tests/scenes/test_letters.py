"""Writing: what is drawn is read back, sharp or soft, and every way of misspelling is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

from cm3.errors import ConfigError, DataError
from cm3.scenes.letters import (
    LENGTHS,
    Lettered,
    Sign,
    draw_lettered,
    parse_lettered,
    random_lettered,
    random_word,
    read_word,
    say_lettered,
    split_of_word,
    verify_lettered,
)
from cm3.scenes.scene import Object, Scene, Split, split_of
from cm3.scenes.sentences import holds

SCENE = Scene("mint", (Object("bottom left", "star", "red", "small"),))
SIGN = Sign("CAT", "blue", "top")
TRUTH = Lettered(
    SCENE, SIGN, 'a small red star at the bottom left on a mint ground, with the word "CAT" in blue at the top'
)


@pytest.mark.parametrize("split", ["train", "val", "test", "held_out"])
def test_captions_say_the_scene_and_the_word(split: Split) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        this = random_lettered(rng, split)
        statement, sign = parse_lettered(this.caption)
        assert sign == this.sign and holds(statement, this.scene)
        assert split_of(this.scene) == split and split_of_word(sign.word) == ("test" if split == "held_out" else split)
        assert not any(o.place.startswith(sign.half) for o in this.scene.objects)


def test_words_are_many_of_all_letters_and_lengths() -> None:
    rng = np.random.default_rng(1)
    words = [random_word(rng, "test") for _ in range(500)]
    assert len(set(words)) > 300 and {len(w) for w in words} == set(LENGTHS) and len(set("".join(words))) == 26
    vowel = [[letter in "AEIOU" for letter in word] for word in words]
    assert all(a != b for flags in vowel for a, b in zip(flags, flags[1:], strict=False))


def test_true_drawings_are_read_back_sharp_and_soft() -> None:
    rng = np.random.default_rng(2)
    right = soft = 0
    for i in range(24):
        this = random_lettered(rng, "test")
        picture = draw_lettered(this.scene, this.sign, (128, 256)[i % 2], rng)
        right += verify_lettered(picture, this).ok
        soft += verify_lettered(picture.filter(PIL.ImageFilter.GaussianBlur(0.6 * (1 + i % 2))), this).word_ok
    assert right == 24 and soft >= 22


def test_every_letter_is_told_from_every_other() -> None:
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        found = read_word(draw_lettered(SCENE, Sign(f"A{letter}E", "black", "top")), "top")
        assert (found.word, found.colour, found.reason) == (f"A{letter}E", "black", "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"word": "CAR"}, "it reads 'CAR' in blue"),
        ({"word": "CUT"}, "it reads 'CUT' in blue"),
        ({"word": "CATS"}, "it reads 'CATS' in blue"),
        ({"colour": "red"}, "it reads 'CAT' in red"),
    ],
)
def test_another_word_or_colour_is_refused(change: dict[str, str], reason: str) -> None:
    found = verify_lettered(draw_lettered(SCENE, dataclasses.replace(SIGN, **change)), TRUTH)
    assert (found.word_ok, found.scene_ok, found.ok, found.reason) == (False, True, False, reason)


def test_another_scene_is_told_from_another_word() -> None:
    other = Scene("mint", (dataclasses.replace(SCENE.objects[0], colour="green"),))
    found = verify_lettered(draw_lettered(other, SIGN), TRUTH)
    assert found.word_ok and not found.scene_ok and found.reason.startswith("the picture shows mint;bottom left")


def test_no_word_and_a_word_that_cannot_be_read_are_refused() -> None:
    blank = draw_lettered(SCENE, SIGN)
    blank.paste(blank.getpixel((0, 0)), (0, 0, 128, 64))
    assert verify_lettered(blank, TRUTH).reason == "nothing is written at the top"
    smeared = draw_lettered(SCENE, SIGN)
    smeared.paste(smeared.crop((0, 0, 128, 64)).filter(PIL.ImageFilter.GaussianBlur(6)), (0, 0))
    assert not verify_lettered(smeared, TRUTH).word_ok
    struck = draw_lettered(SCENE, SIGN)
    struck.paste((40, 80, 200), (30, 18, 98, 30))
    assert not verify_lettered(struck, TRUTH).word_ok


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a small red star at the bottom left on a mint ground", "names no word"),
        ('a red star on a mint ground, with the word "CAT" in pink at the top', "a colour of the scenes"),
        ('a red star on a mint ground with the word "CAT" in red at the top', "at the end after a comma"),
        ('with the word "ABCDEF" in red at the top: a red star on a mint ground', "must have 3 or 4 letters"),
        ('with the word "CAT" in red at the top: a red dog on a mint ground', "word 3 is 'dog'"),
    ],
)
def test_other_captions_are_refused(caption: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_lettered(caption)


def test_signs_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ConfigError, match="sign.word='cat': must be 3 or 4 letters A to Z"):
        Sign("cat", "red", "top")
    with pytest.raises(ConfigError, match="at the 'left': must be in one of"):
        Sign("CAT", "red", "left")
    with pytest.raises(ConfigError, match="sign at the bottom: an object stands there"):
        draw_lettered(SCENE, dataclasses.replace(SIGN, half="bottom"))


def test_both_orders_of_a_caption_are_used() -> None:
    rng = np.random.default_rng(3)
    first = [say_lettered(SCENE, SIGN, rng).startswith("with") for _ in range(200)]
    assert 70 < sum(first) < 130
    assert isinstance(draw_lettered(SCENE, SIGN, 64), PIL.Image.Image)
