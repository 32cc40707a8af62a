"""Every sentence is true of its scene, means one thing, and what is not a sentence is refused with its reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.errors import ConfigError, DataError
from cm3.scenes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Object, Scene, random_scene
from cm3.scenes.sentences import STYLES, Mention, Statement, describe, holds, parse, styles_of

OBJECTS = st.builds(
    Object, st.sampled_from(PLACES), st.sampled_from(SHAPES), st.sampled_from(list(COLOURS)), st.sampled_from(SIZES)
)
SCENES = st.builds(
    Scene,
    st.sampled_from(list(BACKGROUNDS)),
    st.lists(OBJECTS, min_size=1, max_size=4, unique_by=lambda o: o.place).map(tuple),
)
PAIR = Scene("sand", (Object("top left", "circle", "red", "small"), Object("top right", "star", "orange", "large")))
DIAGONAL = Scene(
    "sand", (Object("top left", "circle", "red", "small"), Object("bottom right", "star", "blue", "large"))
)


@given(SCENES, st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_every_sentence_parses_and_holds_for_its_scene(scene: Scene, seed: int) -> None:
    for style in styles_of(scene):
        caption = describe(scene, np.random.default_rng(seed), style)
        assert caption == describe(scene, np.random.default_rng(seed), style)
        assert holds(parse(caption), scene), caption
        assert caption == caption.lower() and not caption.endswith(".") and len(caption.split()) <= 39


@given(SCENES, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_in_order_the_objects_come_as_one_reads(scene: Scene, seed: int) -> None:
    for style in ("places", "count"):
        caption = describe(scene, np.random.default_rng(seed), style, in_order=True)
        places = [m.place for m in parse(caption).mentions]
        assert places == [o.place for o in scene.objects] and holds(parse(caption), scene)
    for style in styles_of(scene):
        rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
        assert holds(parse(describe(scene, rng, style, in_order=True)), scene)
        describe(scene, other, style)
        assert rng.random() == other.random() or style == "chain", "the order takes nothing from the generator"


@given(SCENES, SCENES, st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_a_full_sentence_holds_for_no_other_scene(scene: Scene, other: Scene, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for style in styles_of(scene):
        if style != "relation":
            assert holds(parse(describe(scene, rng, style)), other) == (scene == other)


@given(
    SCENES, st.integers(0, 2**32 - 1), st.sampled_from(["shape", "colour", "size", "place", "background", "missing"])
)
@settings(max_examples=200, deadline=None)
def test_one_wrong_fact_makes_a_full_sentence_false(scene: Scene, seed: int, fact: str) -> None:
    rng = np.random.default_rng(seed)
    statement = parse(describe(scene, rng, ("places", "count")[int(rng.integers(2))]))
    background, objects = scene.background, list(scene.objects)
    i = int(rng.integers(len(objects)))
    old = objects.pop(i)
    if fact == "background":
        background = next(b for b in BACKGROUNDS if b != background)
        objects.append(old)
    elif fact != "missing":
        known = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES, "place": PLACES}[fact]
        taken = {o.place for o in objects} if fact == "place" else set()
        free = [v for v in known if v != getattr(old, fact) and v not in taken]
        if not free:
            return
        values = {name: getattr(old, name) for name in ("place", "shape", "colour", "size")} | {fact: free[0]}
        objects.append(Object(**values))
    if objects:
        assert not holds(statement, Scene(background, tuple(objects)))


def test_styles_apply_where_their_words_make_sense() -> None:
    assert styles_of(PAIR) == STYLES
    assert styles_of(DIAGONAL) == ("places", "count")
    with pytest.raises(ConfigError, match="style='relation': does not apply to this scene"):
        describe(DIAGONAL, np.random.default_rng(0), "relation")
    with pytest.raises(ConfigError, match="Did you mean 'places'"):
        describe(PAIR, np.random.default_rng(0), "place")


def test_styles_and_wordings_are_all_used() -> None:
    rng = np.random.default_rng(0)
    captions = [describe(PAIR, rng) for _ in range(400)]
    kinds = ["two objects" in c for c in captions], [", with" in c for c in captions]
    related = [c for c in captions if "to the" in c]
    assert all(70 <= sum(kind) <= 130 for kind in kinds) and 70 <= len(related) <= 130
    assert 0.3 < np.mean([c.startswith("on a ") for c in captions]) < 0.7
    assert 0.3 < np.mean(["background" in c for c in captions]) < 0.7
    assert 0.3 < np.mean(["an orange star" in c or "a red circle" in c for c in related]) < 0.7


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        (
            "a small red star to the left of an orange square on a grey ground",
            Statement("grey", (Mention("star", "red", "small"), Mention("square", "orange")), ((0, "left of", 1),)),
        ),
        (
            "  on a mint background, a small red star at the top left,\n with a large blue square to its right "
            "and a small green circle below it ",
            Statement(
                "mint",
                (
                    Mention("star", "red", "small", "top left"),
                    Mention("square", "blue", "large"),
                    Mention("circle", "green", "small"),
                ),
                ((1, "right of", 0), (2, "below", 0)),
            ),
        ),
        (
            "one object on a sky ground: a white circle",
            Statement("sky", (Mention("circle", "white"),)),
        ),
    ],
)
def test_sentences_mean_what_they_say(text: str, statement: Statement) -> None:
    assert parse(text) == statement


def test_relations_hold_within_a_row_or_column_only() -> None:
    left = Statement("sand", (Mention("circle", "red"), Mention("star", "orange")), ((0, "left of", 1),))
    assert holds(left, PAIR)
    assert not holds(Statement("sand", left.mentions, ((1, "left of", 0),)), PAIR)
    assert holds(Statement("sand", left.mentions[::-1], ((0, "right of", 1),)), PAIR)
    diagonal = Statement("sand", (Mention("circle", "red"), Mention("star", "blue")), ((0, "left of", 1),))
    assert not holds(diagonal, DIAGONAL) and holds(Statement("sand", diagonal.mentions), DIAGONAL)


def test_mentions_are_matched_one_to_one() -> None:
    twins = Scene("sand", tuple(Object(p, "circle", "red", s) for p, s in zip(PLACES, SIZES, strict=False)))
    vague = Mention("circle", "red")
    assert holds(Statement("sand", (vague, Mention("circle", "red", "small"))), twins)
    assert not holds(Statement("sand", (Mention("circle", "red", "small"),) * 2), twins)
    assert not holds(Statement("sand", (vague,)), twins)
    assert not holds(Statement("sand", (vague,) * 3), twins)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "word 1 is the end, expected 'a' or 'an'"),
        ("a red circle", "word 4 is the end, expected 'on'"),
        ("an red circle on a sand ground", "word 1 is 'an', expected 'a'"),
        ("a orange circle on a sand ground", "word 1 is 'a', expected 'an'"),
        ("a small circle on a sand ground", "word 3 is 'circle', expected 'red'"),
        ("a red small circle on a sand ground", "word 3 is 'small', expected 'circle'"),
        ("a circle on a sand ground", "word 2 is 'circle', expected 'small' or 'large' or 'red'"),
        ("a red circle, a blue star on a sand ground", "word 8 is 'on', expected 'and' or ', a'"),
        ("a red circle at the left on a sand ground", "word 6 is 'left', expected 'top' or 'bottom'"),
        ("a red circle on a sand ground on a sand ground", "word 8 is 'on', expected the end"),
        ("a red circle on a beach ground", "word 6 is 'beach', expected 'grey'"),
        ("on a sand ground a red circle", "word 5 is 'a', expected ','"),
        ("two objects on a sand ground: a red star", "says two but mentions 1"),
        ("one objects on a sand ground: a red star", "word 2 is 'objects', expected 'object'"),
        ("a red star at the top left, with a blue star to its on a sky ground", "word 13 is 'to', expected"),
        ("a red circle , a blue star on a sand ground", "wrong space"),
        ("A red circle on a sand ground", "word 1 is 'A'"),
        ("a red circle on a sand ground.", "word 7 is 'ground.'"),
    ],
)
def test_what_is_no_sentence_is_refused_at_the_word_where_it_stops(text: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        parse(text)
    assert message in str(error.value)


def test_any_words_are_parsed_or_refused() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        words = describe(random_scene(rng), rng).split()
        i, j = sorted(rng.integers(0, len(words), 2))
        text = " ".join(words[:i] + words[j:] + words[i : int(rng.integers(i, j + 1))])
        try:
            statement = parse(text)
        except DataError:
            continue
        assert statement.mentions and statement.background in BACKGROUNDS
