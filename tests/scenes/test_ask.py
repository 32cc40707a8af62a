"""Questions: each has one answer, the same from the text alone, and what has no plain answer is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cm3.errors import ConfigError, DataError
from cm3.scenes.ask import FORMS, KINDS, WORDINGS, answer_question, follow, random_question
from cm3.scenes.phrases import IT, Phrase, Which, pointing, the_one
from cm3.scenes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Object, Scene, random_scene

SCENE = Scene(
    "sand",
    (
        Object("top left", "circle", "red", "small"),
        Object("top right", "star", "orange", "large"),
        Object("bottom right", "circle", "blue", "large"),
    ),
)


def test_questions_are_answered_from_their_text_alone() -> None:
    rng = np.random.default_rng(0)
    answers = {
        "count": {"zero", "one", "two", "three", "four"},
        "colour": {*COLOURS, *BACKGROUNDS},
        "shape": set(SHAPES),
        "size": set(SIZES),
        "place": set(PLACES),
        "exists": {"yes", "no"},
        "compare": {"yes", "no"},
    }
    used = set()
    for i in range(600):
        scene = random_scene(rng)
        kind = KINDS[i % len(KINDS)]
        try:
            asked = random_question(scene, rng, kind)
        except ConfigError:
            assert kind == "place" or len(scene.objects) > 1  # twins
            continue
        assert asked.kind == kind and answer_question(asked.question, scene) == asked.answer
        assert kind == "relation" or asked.answer in answers[kind]
        read = [p.text for form in WORDINGS for p in WORDINGS[form] if p.read(asked.question) is not None]
        assert len(read) == 1, asked
        used |= set(read)
    assert used == {p.text for phrases in WORDINGS.values() for p in phrases}
    assert {form for forms in FORMS.values() for form in forms} == set(WORDINGS)


def test_yes_and_no_are_as_many() -> None:
    rng = np.random.default_rng(1)
    for kind in ("exists", "compare"):
        said = Counter(random_question(random_scene(rng), rng, kind).answer for _ in range(200))
        assert 75 < said["yes"] < 125 and said["yes"] + said["no"] == 200


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("how many objects are there?", "three"),
        ("how many large objects can you see?", "two"),
        ("what is the number of squares?", "zero"),
        ("what colour is the star?", "orange"),
        ("what colour is the background?", "sand"),
        ("what shape is the object at the top left?", "circle"),
        ("how large is the blue circle?", "large"),
        ("where is the small circle?", "top left"),
        ("is there an orange star?", "yes"),
        ("is there an object at the bottom left?", "no"),
        ("are there any small circles?", "yes"),
        ("what is to the left of the star?", "a small red circle"),
        ("what is below the star?", "a large blue circle"),
        ("what is above the star?", "nothing"),
        ("is the star above the blue circle?", "yes"),
        ("is the star to the left of the red circle?", "no"),
        ("are there more circles than stars?", "yes"),
        ("are there fewer circles than stars?", "no"),
        ("are there as many large circles as stars?", "yes"),
        ("is the red circle smaller than the star?", "yes"),
        ("is the blue circle larger than the star?", "no"),
        ("are the red circle and the blue circle of the same shape?", "yes"),
        ("do the red circle and the star have the same colour?", "no"),
    ],
)
def test_what_questions_mean(question: str, answer: str) -> None:
    assert answer_question(question, SCENE) == answer


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("what colour is the circle?", "'the circle': 2 objects are that"),
        ("what colour is the square?", "'the square': no object is that"),
        ("what colour is it?", "nothing before says what it is"),
        ("is the red circle above the blue circle?", "not in one row or column"),
        ("is the star above the red circle?", "not in one row or column for that"),
        ("what is to the left of the blue circle?", "stands in another row or column"),
        ("is the star larger than the orange object?", "are one object; name two"),
        ("how many dogs are there?", "is in none of the wordings"),
        ("is there a orange star?", "is in none of the wordings"),
    ],
)
def test_what_has_no_plain_answer_is_refused(question: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        answer_question(question, SCENE)
    assert message in str(error.value)


def test_what_cannot_be_asked_is_refused() -> None:
    rng = np.random.default_rng(2)
    with pytest.raises(ConfigError, match="Did you mean 'compare'"):
        random_question(SCENE, rng, "compares")
    twins = Scene("sand", tuple(Object(p, "star", "red", "small") for p in PLACES[:2]))
    with pytest.raises(ConfigError, match="question kind='place': cannot be asked of this scene"):
        random_question(twins, rng, "place")


def test_it_is_what_the_last_question_was_about() -> None:
    red, star, blue = SCENE.objects
    assert follow("what colour is the star?", SCENE, None) == ("orange", star)
    assert follow("what is below it?", SCENE, star) == ("a large blue circle", blue)
    assert follow("what is above it?", SCENE, star) == ("nothing", star)
    assert follow("is there a small circle?", SCENE, star) == ("yes", red)
    assert follow("how many circles are there?", SCENE, star) == ("two", None)
    assert follow("what colour is the background?", SCENE, star) == ("sand", None)
    assert follow("is it smaller than the star?", SCENE, red) == ("yes", red)


def test_pointing_words_fit_one_object_and_hide_what_they_should() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        scene = random_scene(rng)
        for thing in scene.objects:
            which = pointing(scene, thing, rng)
            assert which is not None and the_one(which, scene) == thing
            hidden = pointing(scene, thing, rng, hide=("colour", "place"))
            assert hidden is None or (hidden.colour is hidden.place is None and the_one(hidden, scene) == thing)


def test_wordings_are_read_as_they_are_said() -> None:
    phrase = Phrase("put {the} at the {place}")
    values = {"the": Which("star", place="top left"), "place": "top right"}
    assert phrase.say(values) == "put the star at the top left at the top right"
    assert phrase.read(phrase.say(values)) == values
    assert phrase.read("put it at the top left") == {"the": IT, "place": "top left"}
    assert phrase.read("put a star at the top left") is None
    assert Which("star", "orange").a() == "an orange star" and Which(size="small").many() == "small objects"
