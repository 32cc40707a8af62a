"""Questions, dialogues and reasons have one right answer each, from the text alone; errors in them are found."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cm3.errors import ConfigError, DataError
from cm3.stickers.artwork import KINDS
from cm3.stickers.ask import FORMS, QUESTIONS, WORDINGS, follow, random_question
from cm3.stickers.phrases import IT, NUMBERS, SPELLINGS, Phrase, Which, pointing, the_one, tidy
from cm3.stickers.reason import NEITHER, answer_reasoning, random_reasoning, verify_reasoning
from cm3.stickers.talk import random_dialogue
from cm3.stickers.world import GROUNDS, PLACES, SIZES, Sheet, Sticker, random_sheet

SHEET = Sheet(
    "sand",
    (
        Sticker("top left", "panda", "large"),
        Sticker("top right", "red star", "small"),
        Sticker("bottom right", "palm tree", "large"),
    ),
)
TWINS = Sheet("sky", (Sticker("top left", "owl", "small"), Sticker("top right", "owl", "small")))


def test_questions_are_answered_from_their_text_alone() -> None:
    rng = np.random.default_rng(0)
    answers = {
        "kind": {*KINDS, "nothing"},
        "place": set(PLACES),
        "size": set(SIZES),
        "count": set(NUMBERS),
        "exists": {"yes", "no"},
        "relation": {*KINDS, "nothing"},
        "colour": {*GROUNDS, "red", "orange", "yellow", "green", "blue", "purple"},
    }
    used, asked_of = set(), Counter[str]()
    for i in range(1400):
        sheet = random_sheet(rng, shapes=0.4)
        kind = QUESTIONS[i % len(QUESTIONS)]
        try:
            asked = random_question(sheet, rng, kind)
        except ConfigError:
            assert pointing(sheet, sheet.stickers[0], rng, hide=kind) is None
            continue
        asked_of[kind] += 1
        assert asked.kind == kind and follow(asked.question, sheet)[0] == asked.answer
        assert asked.answer in answers[kind] and len(asked.answer.split()) <= 3
        read = [p.text for form in WORDINGS for p in WORDINGS[form] if p.read(asked.question) is not None]
        assert len(read) == 1, asked
        used |= set(read)
    assert used == {p.text for phrases in WORDINGS.values() for p in phrases} and min(asked_of.values()) > 170
    assert {form for forms in FORMS.values() for form in forms} == set(WORDINGS)


def test_yes_and_no_are_as_many_and_few_sides_are_empty() -> None:
    rng = np.random.default_rng(1)
    said = Counter(random_question(random_sheet(rng), rng, "exists").answer for _ in range(400))
    assert 160 < said["yes"] < 240 and said["yes"] + said["no"] == 400
    sides = [random_question(random_sheet(rng, number=4, twice=0), rng, "relation").answer for _ in range(200)]
    assert 10 < sides.count("nothing") < 70


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what is at the top left?", "panda"),
        ("what is at the bottom left?", "nothing"),
        ("which sticker is at the bottom right?", "palm tree"),
        ("which animal is there?", "panda"),
        ("where is the star?", "top right"),
        ("how large is the red star?", "small"),
        ("how many stickers are there?", "three"),
        ("how many large stickers do you see?", "two"),
        ("how many pandas are there?", "one"),
        ("how many pieces of food are there?", "zero"),
        ("is there a palm tree?", "yes"),
        ("is there a small panda?", "no"),
        ("do you see an animal?", "yes"),
        ("What is LEFT of the star?", "panda"),
        ("what is below the red star?", "palm tree"),
        ("what is above the panda?", "nothing"),
        ("what color is the background?", "sand"),
        ("what colour is the star?", "red"),
    ],
)
def test_what_questions_mean(question: str, answer: str) -> None:
    assert follow(question, SHEET)[0] == answer


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("how large is the large sticker?", "'the large sticker': 2 stickers are that; name one that is there once"),
        ("where is the taxi?", "'the taxi': no sticker is that"),
        ("which vehicle is there?", "'the vehicle': no sticker is that"),
        ("where is it?", "'it': nothing before says what it is; name the sticker"),
        ("what is below the panda?", "below the top left stands something in another row or column; ask by place"),
        ("what colour is the panda?", "a panda has more than one colour; ask for that of a shape or of the ground"),
        ("how many wombats are there?", "is in none of the wordings; write it as one of 'what is {where}?'"),
        ("is there a owl?", "is in none of the wordings"),
    ],
)
def test_what_has_no_plain_answer_is_refused(question: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        follow(question, SHEET)
    assert message in str(error.value)


def test_what_cannot_be_asked_is_refused() -> None:
    rng = np.random.default_rng(2)
    with pytest.raises(ConfigError, match="Did you mean 'place'"):
        random_question(SHEET, rng, "plaice")
    with pytest.raises(ConfigError, match="question kind='place': cannot be asked of this sheet; take another kind"):
        random_question(TWINS, rng, "place")


def test_nobody_is_asked_for_what_another_sticker_could_be_called() -> None:
    """A palm tree is a tree to people, so beside one no question is about trees."""
    rng = np.random.default_rng(3)
    sheet = Sheet("mint", (Sticker("top left", "tree", "small"), Sticker("top right", "palm tree", "small")))
    assert pointing(sheet, sheet.stickers[0], rng) is None and pointing(sheet, sheet.stickers[1], rng) is not None
    asked = [random_question(sheet, rng).question for _ in range(300)]
    asked += [question for _ in range(100) for question, _ in random_dialogue(sheet, rng)]
    asked += [random_reasoning(sheet, rng).question for _ in range(100)]
    assert not [q for q in asked if "tree" in q.replace("palm tree", "").replace("christmas tree", "")]


def test_pointing_words_fit_one_sticker_and_hide_what_they_should() -> None:
    rng = np.random.default_rng(4)
    for _ in range(500):
        sheet = random_sheet(rng, shapes=0.5, twice=0.5)
        for thing in sheet.stickers:
            for hide in ("", "size", "colour"):
                which = pointing(sheet, thing, rng, hide)
                if which is not None:
                    assert the_one(which, sheet) == thing and (hide != "size" or which.size is None)
                    assert hide != "colour" or not thing.about.shape or which.name == thing.about.shape


def test_wordings_are_read_as_they_are_said() -> None:
    phrase = Phrase("put {the} above {a}, not {many}")
    values = {"the": IT, "a": Which("owl", "small"), "many": Which("bunch of grapes", "large")}
    assert phrase.say(values) == "put it above a small owl, not large bunches of grapes"
    assert phrase.read(phrase.say(values)) == values
    assert phrase.read("put it above a owl, not owls") is None


def test_spellings_are_tidied_once_and_lead_to_what_is_said() -> None:
    for other, word in SPELLINGS.items():
        assert tidy(f"The {other.upper()}  ?") == f"the {word}?" and word not in SPELLINGS
        assert not any(other in f"{k.name} {k.plural}".split() for k in KINDS.values())
    assert tidy("left of a taxi, to the right of b") == "to the left of a taxi, to the right of b"


def answer_dialogue(questions: list[str], sheet: Sheet) -> list[str]:
    it, answers = None, []
    for question in questions:
        answer, it = follow(question, sheet, it)
        answers.append(answer)
    return answers


def test_dialogues_lean_on_what_was_said_before() -> None:
    rng = np.random.default_rng(5)
    lengths = Counter[int]()
    for _ in range(400):
        sheet = random_sheet(rng, twice=0.3)
        turns = random_dialogue(sheet, rng)
        lengths[len(turns)] += 1
        questions = [q for q, _ in turns]
        assert "it" not in questions[0].split() and all(" it?" in q or " is it?" in q for q in questions[1:])
        assert answer_dialogue(questions, sheet) == [a for _, a in turns]
        with pytest.raises(DataError, match="nothing before says what it is"):
            answer_dialogue(questions[1:], sheet)
    assert set(lengths) == {2, 3, 4, 5} and min(lengths.values()) > 60


def test_it_moves_to_what_an_answer_names() -> None:
    panda, star, _ = SHEET.stickers
    questions = ["is there a panda?", "where is it?", "what is to the right of it?", "how large is it?"]
    assert answer_dialogue(questions, SHEET) == ["yes", "top left", "red star", "small"]
    assert follow("what is above it?", SHEET, star) == ("nothing", star)
    assert follow("what is at the top left?", SHEET, star) == ("panda", panda)
    assert follow("how many large stickers are there?", SHEET, star) == ("two", None)
    assert follow("what colour is the ground?", SHEET, star) == ("sand", None)


def test_reasons_explain_their_answers_in_reading_order() -> None:
    rng = np.random.default_rng(6)
    right = Counter[int]()
    for i in range(600):
        sheet = random_sheet(rng, twice=0.3)
        this = random_reasoning(sheet, rng)
        assert verify_reasoning(this.question, this.explanation, this.answer, sheet) == ""
        assert answer_reasoning(this.question, sheet) == this and len(set(this.options)) == 3
        right[this.options.index(this.answer)] += 1
        places = [PLACES.index(p) for step in this.explanation.split(". ") for p in PLACES if f"{p} is a" in step]
        assert places == sorted(places) and places
        other = this.options[i % 3]
        if other != this.answer:
            why = verify_reasoning(this.question, this.explanation, other, sheet)
            assert why == f"the answer is {this.answer}, not {other}"
    assert min(right.values()) > 90


@pytest.mark.parametrize(
    ("question", "options", "explanation", "answer"),
    [
        (
            "which is larger, the star or the panda?",
            ("the star", "the panda", NEITHER),
            "at the top left is a large panda. at the top right is a small red star. large is larger than small.",
            "the panda",
        ),
        (
            "which is higher, the panda or the star?",
            ("the panda", "the star", NEITHER),
            "at the top left is a panda. at the top right is a red star. both are at the top.",
            NEITHER,
        ),
        (
            "which is further left, the palm tree or the panda?",
            ("the palm tree", "the panda", NEITHER),
            "at the top left is a panda. at the bottom right is a palm tree. left is further left than right.",
            "the panda",
        ),
        (
            "are there more pieces of food or more plants?",
            ("pieces of food", "plants", NEITHER),
            "at the bottom right is a palm tree, a plant. pieces of food: zero. plants: one. zero is fewer than one.",
            "plants",
        ),
        (
            "are there fewer large stickers or fewer small stickers?",
            ("large stickers", "small stickers", NEITHER),
            "at the top left is a large panda. at the top right is a small red star. at the bottom right is a large "
            "palm tree. large stickers: two. small stickers: one. two is more than one.",
            "small stickers",
        ),
    ],
)
def test_what_an_explanation_says(question: str, options: tuple[str, ...], explanation: str, answer: str) -> None:
    made = answer_reasoning(question, SHEET)
    assert (made.options, made.explanation, made.answer) == (options, explanation, answer)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            "a large panda",
            "a small panda",
            "step 1 is 'at the top left is a small panda', not 'at the top left is a large",
        ),
        ("larger than small", "larger than large", "step 3 is 'large is larger than large.', not"),
        (" large is larger than small.", "", "step 2 is 'at the top right is a small red star.', not"),
        ("small.", "small. so.", "step 3 is 'large is larger than small', not 'large is larger than small.'"),
    ],
)
def test_every_step_of_a_reason_is_checked(old: str, new: str, why: str) -> None:
    question = "which is larger, the star or the panda?"
    right = answer_reasoning(question, SHEET)
    assert why in verify_reasoning(question, right.explanation.replace(old, new), right.answer, SHEET)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("which is larger, the star or the red star?", "'the star' and 'the red star' are one sticker; name two"),
        ("which is larger, the star or the taxi?", "'the taxi': no sticker is that"),
        ("are there more owls or more owls?", "'owls' are compared with themselves; name two groups"),
        ("what colour is the ground?", "is in none of the wordings; write it as one of 'which is {order}"),
    ],
)
def test_what_compares_nothing_is_refused(question: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        answer_reasoning(question, SHEET)
    assert message in str(error.value)


def test_stickers_that_no_words_tell_apart_are_reasoned_about() -> None:
    for seed in range(20):
        made = random_reasoning(TWINS, np.random.default_rng(seed))
        assert not verify_reasoning(made.question, made.explanation, made.answer, TWINS)
