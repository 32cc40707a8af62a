"""VQA accuracy and CIDEr-D against values worked out by hand from their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.errors import DataError
from cm3.eval.text_metrics import caption_words, cider, normal_answer, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Yes", "yes"),
        (" the man\n", "man"),
        ("A dog and an apple", "dog and apple"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("ten\tfeet", "10 feet"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("y'allll", "y'all'll"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),  # the owners' table has it with a capital, and compares small letters
        ("it's", "it's"),
        ("a.m.", "am"),
        ("2.5 m.", "2.5 m"),
        ("red/white", "red white"),
        ("black-and-white", "black and white"),
        ("red, white", "red white"),
        ("half-open, shut", "half open shut"),
        ("1,000 people", "1000 people"),
        ("1,000 half-open", "1000 halfopen"),
        ("10:30", "10:30"),
        ("what?", "what"),
        ("", ""),
    ],
)
def test_answers_as_they_are_compared(text: str, normal: str) -> None:
    assert normal_answer(text) == normal


@pytest.mark.parametrize(("agree", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_accuracy_by_how_many_of_ten_agree(agree: int, score: float) -> None:
    answers = ["red"] * agree + [f"other {i}" for i in range(10 - agree)]
    assert vqa_accuracy("Red.", answers) == pytest.approx(score)


def test_accuracy_of_answers_that_are_one_when_normal() -> None:
    assert vqa_accuracy("two", ["2", "two", "Two.", "the two", *["3"] * 6]) == 1.0
    assert vqa_accuracy("3", ["2", "two", "three", *["4"] * 7]) == pytest.approx(0.3)
    # With four people, each subset has three.
    assert vqa_accuracy("a", ["b", "b", "b", "c"]) == 0.0
    assert vqa_accuracy("b", ["b", "b", "b", "c"]) == pytest.approx((3 * 2 / 3 + 1) / 4)


def test_where_all_people_agree_their_very_words_count() -> None:
    assert vqa_accuracy("yes\n", ["yes"] * 10) == 1.0 and vqa_accuracy("Yes", ["yes"] * 10) == 0.0
    assert vqa_accuracy("ten", ["ten"] * 10) == 1.0 and vqa_accuracy("10", ["ten"] * 10) == 0.0


@settings(max_examples=50)
@given(st.permutations(["red", "Red", "dark red", "blue", "a red", "red", "green", "blue", "red.", "x"]))
def test_the_order_of_people_does_not_matter(answers: list[str]) -> None:
    assert vqa_accuracy("blue", answers) == pytest.approx(0.6) and vqa_accuracy("red", answers) == pytest.approx(1.0)


def test_too_few_people() -> None:
    with pytest.raises(DataError, match="answers: 3 of them, must be at least 4, for with one left out 3 must agree"):
        vqa_accuracy("a", ["a"] * 3)


def test_words_of_a_caption() -> None:
    assert caption_words("A dog's ball, black-and-white (2).") == ["a", "dog's", "ball", "black", "and", "white", "2"]


REFERENCES = [["a b c d"], ["a e f g"]]


@pytest.mark.parametrize(
    ("caption", "score"),
    [
        ("A b, c d.", 10.0),
        # Words: b of (b, x, x) with (b, c, d), for "a" is in both pictures and weighs 0; pairs: one of three; no more.
        ("a b x x", 10 / 4 * (1 / math.sqrt(15) + 1 / 3)),
        # Clipped: four times b counts once, and its norm is that of four.
        ("b b b b", 10 / 4 * 1 / (4 * math.sqrt(3))),
        # Shorter by three pairs of words.
        ("b", 10 / 4 * 1 / math.sqrt(3) * math.exp(-9 / 72)),
        ("", 0.0),
        ("x y z w", 0.0),
        ("a", 0.0),
    ],
)
def test_cider_worked_out_by_hand(caption: str, score: float) -> None:
    assert cider([caption, "a e f g"], REFERENCES) == pytest.approx([score, 10.0])


def test_cider_is_a_mean_over_references() -> None:
    two = [["a b c d", "h i j k"], ["a e f g"]]
    assert cider(["a b c d", "a e f g"], two) == pytest.approx([5.0, 10.0])


def test_what_many_pictures_have_weighs_less() -> None:
    references = [["the red dog runs"], ["the red cat runs"], ["the blue cow sits"]]
    rare, common = (cider([caption, "", ""], references)[0] for caption in ("the dog", "the red"))
    # idf: log 3 for "dog", log 3/2 for "red" and "runs", 0 for "the".
    once, twice = math.log(3), math.log(1.5)
    norm = math.sqrt(once**2 + 2 * twice**2)
    assert rare == pytest.approx(10 / 4 * once / norm * math.exp(-4 / 72))
    pairs = twice / math.sqrt(2 * once**2 + twice**2)  # "the red" is in two; "red dog" and "dog runs" in one
    assert common == pytest.approx(10 / 4 * (twice / norm + pairs) * math.exp(-4 / 72))


TEXTS = st.lists(st.sampled_from("abcdefg"), max_size=8).map(" ".join)


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=4)), min_size=2, max_size=5))
def test_cider_has_bounds_and_no_order(pictures: list[tuple[str, list[str]]]) -> None:
    captions, references = [p[0] for p in pictures], [p[1] for p in pictures]
    scores = cider(captions, references)
    assert all(-1e-9 <= score <= 10 + 1e-9 for score in scores)
    assert cider(captions, [some[::-1] for some in references]) == pytest.approx(scores)
    assert cider(captions[::-1], references[::-1])[::-1] == pytest.approx(scores)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="cider: 1 captions for 2 pictures; give one for each"):
        cider(["a"], REFERENCES)
    with pytest.raises(DataError, match="cider: there is 1 picture, must be at least 2, for words that all pictures"):
        cider(["a"], [["a"]])
    with pytest.raises(DataError, match="cider: picture 1 has no reference; leave it out"):
        cider(["a", "b"], [["a"], []])
