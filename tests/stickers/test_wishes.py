"""Wishes: what is asked for in many wordings is granted by its own sheet, and by none in which a part is another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from lesson_codec import codec

from cm3.document import Document, Gap, Image, Text
from cm3.errors import ConfigError
from cm3.stickers.data.sticker_lessons import LessonWeights, StickerLessons, encode_lessons
from cm3.stickers.data.task_shares import TaskShares
from cm3.stickers.drawing import draw
from cm3.stickers.eval.sticker_cases import cases
from cm3.stickers.eval.sticker_judges import judge_wish
from cm3.stickers.wishes import Want, Wish, random_wish
from cm3.stickers.world import GROUNDS, PLACES, QUARTERS, SIZES, TRAINED, Sheet, Sticker, split_of
from cm3.tasks.thought import END, ORDER

CATS = Wish("two cats", tuple(GROUNDS), (Want("cat"), Want("cat")))
LION, OWL = Sticker("top left", "lion", "large"), Sticker("top right", "owl", "small")
BESIDE = Wish(
    "a large lion next to an owl on mint",
    ("mint",),
    (Want("lion", "large"), Want("owl")),
    ((0, ("left of", "right of"), 1),),
)


def some(number: int = 400) -> list[tuple[Wish, Sheet, tuple[int, ...]]]:
    rng = np.random.default_rng(3)
    return [random_wish(rng, "train", i % 4 + 1) for i in range(number)]


def test_a_wish_is_granted_by_its_sheet_whose_stickers_it_names_in_order() -> None:
    for i, (wish, sheet, order) in enumerate(some()):
        assert wish.why_not(sheet) == "" and split_of(sheet) == "train"
        assert len(wish.wants) == len(sheet.stickers) == i % 4 + 1
        assert [sheet.stickers[k].kind for k in order] == [want.kind for want in wish.wants]
        assert sorted(order) == list(range(len(order)))


def test_a_sheet_with_another_part_does_not_grant_it() -> None:
    told = {"ground": 0, "size": 0, "place": 0}
    for wish, sheet, _ in some():
        first, *others = sheet.stickers
        assert "there is" in wish.why_not(Sheet(sheet.ground, (replace(first, kind="panda"), *others)))
        if others:
            number = len(others)
            assert wish.why_not(Sheet(sheet.ground, tuple(others))) == f"there are {number} stickers, not {number + 1}"
        if len(wish.grounds) < len(GROUNDS):
            other = next(ground for ground in GROUNDS if ground not in wish.grounds)
            assert wish.why_not(Sheet(other, sheet.stickers)).startswith(f"the ground is {other}, not ")
            told["ground"] += 1
        if all(want.size for want in wish.wants):
            turned = tuple(replace(s, size=SIZES[1 - SIZES.index(s.size)]) for s in sheet.stickers)
            if {(s.kind, s.size) for s in turned} != {(s.kind, s.size) for s in sheet.stickers}:
                assert wish.why_not(Sheet(sheet.ground, turned))
                told["size"] += 1
        free = [place for place in QUARTERS if sheet.at(place) is None]
        if free and all(len(want.places) == 1 for want in wish.wants) and len({s.kind for s in sheet.stickers}) > 1:
            assert "not at the" in wish.why_not(Sheet(sheet.ground, (replace(first, place=free[0]), *others)))
            told["place"] += 1
    assert min(told.values()) > 20


def test_what_is_left_open_may_be_anything() -> None:
    for places in (("top left", "top right"), ("bottom left", "top right")):
        for ground in GROUNDS:
            cats = tuple(Sticker(place, "cat", size) for place, size in zip(places, SIZES, strict=True))
            assert CATS.why_not(Sheet(ground, cats)) == ""
    dog = Sticker("bottom right", "dog", "small")
    assert CATS.why_not(Sheet("sky", (cats[0], dog))) in ("there is a dog and no cat", "there is a cat and no dog")
    assert BESIDE.why_not(Sheet("mint", (LION, OWL))) == ""
    turned = replace(LION, place="top right"), replace(OWL, place="top left")
    assert BESIDE.why_not(Sheet("mint", turned)) == ""
    apart = Sheet("mint", (LION, replace(OWL, place="bottom right")))
    assert BESIDE.why_not(apart) == "the lion is not left of or right of the owl"
    assert BESIDE.why_not(Sheet("mint", (replace(LION, size="small"), OWL))) == "the lion is small, not large"


def test_words_are_of_many_kinds() -> None:
    texts = [wish.text for wish, _, _ in some(2000)]
    for words in ("two ", "four ", "next to", "side by side", "on the left", " over ", " under", "in each corner",
                  "draw me", "a picture of", "on a blue ground", "light blue", ": "):  # fmt: skip
        assert any(words in text for text in texts), words
    assert set(texts) & set(TRAINED) and len(set(texts)) > 1900
    for number in (0, 5):
        with pytest.raises(ConfigError, match=f"number={number}: must be 1 to 4 stickers"):
            random_wish(np.random.default_rng(0), "train", number)


def test_lessons_are_wishes_by_their_share_and_asked_as_a_user_asks() -> None:
    mix = TaskShares(**{task: float(task == "loose") for task in TaskShares().shares})
    for think in (0.0, 1.0):
        law = LessonWeights(think=think, wishes=1.0)
        for i in range(12):
            lesson: Any = StickerLessons(codec(), 1, mix, law).lesson(i)
            if think:
                asked, answer, end = lesson
                assert asked.text.endswith(f" {ORDER}") and end == Text(END) and isinstance(answer.part, Text)
            else:
                asked, answer = lesson
                assert isinstance(answer.part, Image)
                (made,) = encode_lessons([lesson], codec(), law)
                (prompt,) = codec().encode_prompts([Document.of(asked, Gap("image"))])
                begun = prompt.tokens.ids.tolist()[:-2]  # without the picture's mask, and the end
                assert made.tokens.ids[: len(begun)].tolist() == begun
    with pytest.raises(ConfigError, match=r"law.wishes=2: is a share, must be in 0\.\.1"):
        LessonWeights(wishes=2)


def test_a_picture_is_judged_by_what_was_wished_for() -> None:
    found = list(cases("wishes", 0, 80, "test", 256))
    assert {split_of(case.sheet) for case in found} == {"test"}
    for case in found[:8]:
        assert case.wish is not None and case.prompt == Document.of(case.wish.text, Gap("image"))
        right = judge_wish(draw(case.sheet, 256), case.wish)
        assert (right.asked, right.why, right.kind) == (case.wish.text, "", "wish")
        assert right.shares == {"readable": 1, "count": 1}
        wrong = judge_wish(draw(Sheet("sky", (Sticker("middle", "drum", "small"),)), 256), case.wish)
        assert wrong.why and wrong.shares["readable"] == 1
        assert judge_wish(None, case.wish).why == "no picture was made"
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    told = judge_wish(noise, CATS)
    assert told.why and told.shares["readable"] == 0
    assert all(place in PLACES for case in found if case.wish for want in case.wish.wants for place in want.places)


def test_thoughts_of_wishes_have_their_order() -> None:
    mix = TaskShares(**{task: float(task == "loose") for task in TaskShares().shares})
    source, reversed_ones = StickerLessons(codec(), 5, mix, LessonWeights(think=1.0, wishes=1.0)), 0
    for i in range(40):
        lesson: Any = source.lesson(i)
        thought = lesson[1].part.text
        places = [
            place for _, place in sorted((thought.find(f"the {p}"), p) for p in QUARTERS if f"the {p}" in thought)
        ]
        reversed_ones += places != sorted(places, key=PLACES.index)
    assert reversed_ones > 10
