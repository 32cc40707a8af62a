"""Paragraphs read back as exactly their sheet; the words of the world are those that are said, and no others."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from cm3.errors import DataError
from cm3.generate.known_world import World
from cm3.model import bundle as bundles
from cm3.scenes.knows import WORDS as SCENE_WORDS
from cm3.stickers.artwork import KINDS
from cm3.stickers.ask import random_question
from cm3.stickers.data.sticker_examples import TASKS
from cm3.stickers.knows import KIND_WORDS, WORDS, WORLD
from cm3.stickers.own_words import edit_in_own_words, question_in_own_words
from cm3.stickers.reason import random_reasoning
from cm3.stickers.sentences import brief, describe
from cm3.stickers.sticker_edits import random_edit
from cm3.stickers.talk import random_dialogue
from cm3.stickers.tell import describe_long, parse_long
from cm3.stickers.wishes import random_wish
from cm3.stickers.world import HELD_OUT, TRAINED, Sheet, Sticker, any_sheet, pick, random_sheet
from cm3.tokens.text import TextTokenizer

SHEET = Sheet(
    "sand",
    (
        Sticker("top left", "panda", "large"),
        Sticker("top right", "red star", "small"),
        Sticker("bottom right", "palm tree", "large"),
    ),
)
LONG = (
    "the picture shows three stickers on a sand ground. at the top left there is a large panda. it is an animal. at "
    "the top right there is a small red star. it is a shape. nothing is at the bottom left. at the bottom right there "
    "is a large palm tree. it is a plant. the star is above the palm tree. the number of large stickers is two."
)


def test_paragraphs_read_back_as_their_sheet() -> None:
    rng = np.random.default_rng(0)
    assert parse_long(LONG) == SHEET
    for i in range(600):
        sheet = (
            random_sheet(rng)
            if i % 2
            else any_sheet(rng, [pick(rng, tuple(KINDS)) for _ in range(i % 4 + 1)], twice=0.3)
        )
        text = describe_long(sheet, rng)
        assert parse_long(text) == sheet and text == text.lower() and 50 <= len(text.split()) <= 160


def test_paragraphs_have_a_length_in_tokens_that_a_model_can_learn() -> None:
    rng = np.random.default_rng(1)
    texts = [describe_long(random_sheet(rng), rng) for _ in range(2000)]
    tokenizer = TextTokenizer.train([describe(random_sheet(rng), rng) for _ in range(2000)] + texts, 4096)
    lengths = [len(tokenizer.encode(text)) for text in texts]
    assert min(lengths) >= 60 and max(lengths) <= 170


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("three stickers", "two stickers", "says two stickers but tells 3; make the two agree"),
        ("stickers is two", "stickers is one", "sentence 10: contradicts the others"),
        ("star is above", "star is below", "sentence 9: contradicts the others"),
        ("the star is above", "the owl is above", "'the owl': no sticker is that"),
        ("is an animal", "is a plant", "sentence 3: contradicts the one before"),
        (
            " nothing is at the bottom left.",
            " it is a shape.",
            "sentence 6: 'it' follows no sticker; tell the group right",
        ),
        (" nothing is at the bottom left.", "", "says nothing of the bottom left; tell all four quarters"),
        ("at the bottom left", "at the top left", "sentence 6: the top left is told twice; tell each place once"),
        ("a large panda", "a panda", "sentence 2: 'a panda' must be told with its size and kind"),
        ("a small red star", "a small star", "sentence 4: 'a small star' must be told with its size and kind"),
        ("a large panda", "a dog house", "is in none of the wordings"),
        ("nothing is at the bottom left", "nothing is in the middle", "says nothing of the bottom left"),
        ("is two.", "is two", "must end with a full stop; it may be cut off"),
    ],
)
def test_a_wrong_description_is_refused_at_its_sentence(old: str, new: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        parse_long(LONG.replace(old, new))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_description_of_no_sheet_is_refused() -> None:
    with_middle = LONG.replace("it is a plant.", "it is a plant. in the middle there is a small owl.")
    five = with_middle.replace("nothing is at the bottom left", "at the bottom left there is a small owl")
    with pytest.raises(DataError, match="description: says three stickers but tells 5"):
        parse_long(five)
    with pytest.raises(DataError, match="description: tells what is no sheet: .*or one in the middle"):
        parse_long(with_middle.replace("three", "four"))
    empty = " ".join(f"nothing is at the {row} {side}." for row in ("top", "bottom") for side in ("left", "right"))
    with pytest.raises(DataError, match="description: says one sticker but tells 0; make"):
        parse_long(f"the picture shows one sticker on a sand ground. {empty}")


def test_one_other_fact_is_another_sheet() -> None:
    for old, new in (("sand", "mint"), ("a large palm", "a small palm"), ("a small red star", "a small blue star")):
        text = LONG.replace(old, new).replace(" the number of large stickers is two.", "")
        assert parse_long(text) != SHEET


def test_the_words_are_those_of_all_that_is_said_and_no_others() -> None:
    rng, found = np.random.default_rng(2), set[str]()
    world = World.of({"world": json.loads(json.dumps(WORLD))}, "stickers")
    assert world is not None
    for i in range(2500):
        sheet = random_sheet(rng, ("train", "held_out")[i % 2])
        reasoning, asked, edit = random_reasoning(sheet, rng), random_question(sheet, rng), random_edit(rng)
        texts = [describe(sheet, rng), brief(sheet, rng), describe_long(sheet, rng), edit.instruction]
        texts += [text for turn in random_dialogue(sheet, rng) for text in turn]
        texts += [random_wish(rng, "train", i % 4 + 1)[0].text, edit_in_own_words(edit, rng).instruction]
        texts += [asked.question, asked.answer, question_in_own_words(asked, rng).question]
        texts += [reasoning.question, reasoning.explanation, *reasoning.options]
        text = " ".join(texts)
        assert world.unknown(text) == [] and world.take(text) == text
        found.update(re.findall(r"\w+", text))
    # the plural of a kind is said only where it is counted, so one may not have come up
    plurals = {word for name in TRAINED for word in KINDS[name].plural.split()}
    assert set(WORDS) - found <= plurals and len(set(WORDS) - found) < 20


def test_models_are_known_by_the_names_of_kinds() -> None:
    """A bundle of an earlier training has fewer words beside; the demo is of stickers all the same."""
    assert KIND_WORDS <= set(WORDS) and not KIND_WORDS <= set(SCENE_WORDS)
    assert {"lion", "palm", "tree", "circle"} <= KIND_WORDS and not {"a", "draw", "lilac"} & KIND_WORDS


def test_held_out_kinds_are_not_known_and_other_spellings_are_taken() -> None:
    world = World(**WORLD)
    for name in HELD_OUT:
        assert world.unknown(f"a large {name} on a mint ground") == [name]
    assert world.take("A Puppy left of 2 bikes") == "a dog left of 2 bicycles"
    assert all(word in WORDS and other not in WORDS for other, word in world.spellings.items())
    assert "180 kinds" in world.says and "\n" not in world.says


def test_the_model_that_ships_says_what_its_world_holds() -> None:
    about = bundles.load(bundles.find("stickers"), weights=False).about
    assert about["world"] == json.loads(json.dumps(WORLD)) and set(about["tasks"]) == set(TASKS)
    assert sum(path.stat().st_size for path in bundles.find("stickers").rglob("*")) < 32e6
