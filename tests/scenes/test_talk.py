"""Long descriptions, dialogues and reasons are exact: they read back, and each kind of error in them is found."""

from __future__ import annotations

import numpy as np
import pytest

from cm3.errors import DataError
from cm3.scenes.ask import answer_question
from cm3.scenes.reason import OPTIONS, explain, random_reasoning, verify_reasoning
from cm3.scenes.scene import PLACES, Object, Scene, random_scene
from cm3.scenes.talk import answer_dialogue, first_wrong, random_dialogue
from cm3.scenes.tell import OPENINGS, SENTENCES, describe_long, parse_long

SCENE = Scene(
    "sand",
    (
        Object("top left", "circle", "red", "small"),
        Object("top right", "star", "orange", "large"),
        Object("bottom right", "circle", "blue", "large"),
    ),
)
LONG = (
    "the picture shows three objects on a sand ground. a small red circle stands at the top left. to its right there "
    "is a large orange star. nothing stands at the bottom left. the bottom right holds a large blue circle. the star "
    "is above the blue circle. the number of circles is two."
)


def test_long_descriptions_read_back_as_their_scene() -> None:
    rng = np.random.default_rng(0)
    used = set()
    for _ in range(300):
        scene = random_scene(rng)
        text = describe_long(scene, rng)
        assert parse_long(text) == scene
        sentences = text.removesuffix(".").split(". ")
        assert len(sentences) >= 5 and text == text.lower()
        phrases = [p for table in (OPENINGS, SENTENCES) for form in table.values() for p in form]
        for sentence in sentences:
            found = [p.text for p in phrases if p.read(sentence)]
            assert len(found) == 1, sentence
            used |= set(found)
    assert used == {p.text for table in (OPENINGS, SENTENCES) for form in table.values() for p in form}
    assert parse_long(LONG) == SCENE


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("three objects", "two objects", "says two objects but tells 3"),
        ("number of circles is two", "number of circles is one", "sentence 7: contradicts the others"),
        ("star is above", "star is below", "sentence 6: contradicts the others"),
        (" nothing stands at the bottom left.", "", "says nothing of the bottom left"),
        ("at the bottom left", "at the top left", "sentence 4: the top left is told twice"),
        ("to its right", "to its left", "sentence 3: nothing can be 'to its left' at the top left"),
        ("a small red circle", "a red circle", "sentence 2: 'a red circle' must be told with size, colour and shape"),
        ("the bottom right holds", "above it there is", "sentence 5: 'above it' follows no object"),
        ("holds a large blue circle", "holds a dog", "sentence 5: 'the bottom right holds a dog': is in none of the"),
        ("is two.", "is two", "must end with a full stop"),
        ("the star is above", "the circle is above", "'the circle': 2 objects are that"),
    ],
)
def test_a_wrong_description_is_refused_at_its_sentence(old: str, new: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        parse_long(LONG.replace(old, new))
    assert message in str(error.value)


def test_a_description_of_nothing_is_refused() -> None:
    empty = " ".join(f"the {place} is empty." for place in PLACES)
    with pytest.raises(DataError, match="description: leaves every quarter empty; a scene has one object at least"):
        parse_long(f"the picture shows one object on a sand ground. {empty}")


def test_one_other_fact_is_another_scene() -> None:
    for old, new in (("sand", "mint"), ("small red circle", "small green circle"), ("large blue", "small blue")):
        assert parse_long(LONG.replace(old, new)) != SCENE


def test_dialogues_lean_on_what_was_said_before() -> None:
    rng = np.random.default_rng(1)
    lengths = set()
    for _ in range(200):
        scene = random_scene(rng)
        turns = random_dialogue(scene, rng)
        lengths.add(len(turns))
        questions = [q for q, _ in turns]
        assert len(set(questions)) == len(questions)
        assert "it" not in questions[0].split() and all(" it" in q for q in questions[1:])
        assert answer_dialogue(questions, scene) == [a for _, a in turns] and first_wrong(turns, scene) is None
        with pytest.raises(DataError, match="nothing before says what it is"):
            answer_dialogue(questions[1:], scene)
        at = int(rng.integers(len(turns)))
        spoiled = [(q, "purple haze") if i == at else (q, a) for i, (q, a) in enumerate(turns)]
        assert first_wrong(spoiled, scene) == at
    assert lengths == {3, 4, 5}


def test_it_moves_to_what_an_answer_names() -> None:
    questions = ["is there a red circle?", "where is it?", "what is to the right of it?", "how large is it?"]
    assert answer_dialogue(questions, SCENE) == ["yes", "top left", "a large orange star", "large"]


def test_reasons_explain_their_answers() -> None:
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(300):
        scene = random_scene(rng)
        this = random_reasoning(scene, rng)
        assert this.options == OPTIONS and this.answer in OPTIONS
        assert answer_question(this.question, scene) == this.answer
        assert verify_reasoning(this.question, this.explanation, this.answer, scene) == ""
        other = "no" if this.answer == "yes" else "yes"
        assert (
            verify_reasoning(this.question, this.explanation, other, scene)
            == f"the answer is {this.answer}, not {other}"
        )
        seen.add(this.answer)
    assert seen == set(OPTIONS)


QUESTION = "are there more circles than stars?"
EXPLANATION = "the number of circles is two, and the number of stars is one. two is more than one."


@pytest.mark.parametrize(
    ("explanation", "reason"),
    [
        (EXPLANATION, ""),
        (EXPLANATION.replace("stars", "squares"), "the facts are about other things than the question"),
        (EXPLANATION.replace("two", "three"), "a fact is not true: it says three for two"),
        (EXPLANATION.replace("more than", "less than"), "the link does not follow from the facts"),
        (EXPLANATION.replace("two is", "three is"), "the link does not follow from the facts"),
        ("there are two circles.", "the explanation is not a fact about each thing and what links them"),
        (EXPLANATION[:-1], "the explanation is not a fact about each thing and what links them"),
        ("", "the explanation is not a fact about each thing and what links them"),
    ],
)
def test_every_step_of_a_reason_is_checked(explanation: str, reason: str) -> None:
    assert verify_reasoning(QUESTION, explanation, "yes", SCENE) == reason


@pytest.mark.parametrize(
    ("question", "explanation"),
    [
        (
            "is the star above the blue circle?",
            "the star is at the top right, and the blue circle is at the bottom right. "
            "the top right is above the bottom right.",
        ),
        (
            "is the red circle larger than the star?",
            "the red circle is small, and the star is large. small is smaller than large.",
        ),
        (
            "are the red circle and the star of the same shape?",
            "the red circle is a circle, and the star is a star. circle is different from star.",
        ),
    ],
)
def test_what_an_explanation_says(question: str, explanation: str) -> None:
    assert explain(question, SCENE) == explanation


def test_what_compares_nothing_is_not_explained() -> None:
    with pytest.raises(DataError, match="compares nothing, so there is nothing to explain"):
        explain("what colour is the star?", SCENE)


def test_objects_that_no_words_tell_apart_are_compared() -> None:
    """They stand in a relation that no question can ask for; whatever is drawn, there is a question."""
    twins = [Object(place, "circle", "red", "small") for place in ("top left", "top right")]
    scene = Scene("mint", tuple(twins))
    assert scene.relations()
    for seed in range(20):
        made = random_reasoning(scene, np.random.default_rng(seed))
        assert not verify_reasoning(made.question, made.explanation, made.answer, scene)
