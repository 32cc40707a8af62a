"""Scenes: splits are disjoint by content, held-out combinations stay out, and drawings agree at every resolution."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from cm3.errors import ConfigError
from cm3.scenes.drawing import draw
from cm3.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    HELD_OUT_RELATIONS,
    INVERSE,
    PLACES,
    SHAPES,
    SIZES,
    Object,
    Scene,
    Split,
    random_scene,
    split_of,
)

SPLITS: tuple[Split, ...] = ("train", "val", "test", "held_out")


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_are_of_their_split_and_held_out_facts_nowhere_else(split: Split) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        scene = random_scene(rng, split)
        assert split_of(scene) == split == split_of(Scene(scene.background, scene.objects[::-1]))
        pairs = any((o.shape, o.colour) in HELD_OUT_PAIRS for o in scene.objects)
        facts = {(a.shape, relation, b.shape) for a, relation, b in scene.relations()}
        inverse = {(b, INVERSE[relation], a) for a, relation, b in HELD_OUT_RELATIONS}
        assert (pairs or bool(facts & (HELD_OUT_RELATIONS | inverse))) == (split == "held_out")


def test_splits_have_the_sizes_they_claim() -> None:
    # Every scene of one object: 1280 of them, and nothing here depends on a seed.
    counts = Counter(
        split_of(Scene(background, (Object(place, shape, colour, size),)))
        for background, place, shape, colour, size in itertools.product(BACKGROUNDS, PLACES, SHAPES, COLOURS, SIZES)
    )
    assert counts["held_out"] == 1280 * len(HELD_OUT_PAIRS) // 32
    seen = 1280 - counts["held_out"]
    assert 0.87 < counts["train"] / seen < 0.93
    assert 0.01 < counts["val"] / seen < 0.04
    assert 0.05 < counts["test"] / seen < 0.11


def test_the_same_generator_gives_the_same_scene_and_number_of_objects() -> None:
    a, b = (random_scene(np.random.default_rng(3), "test", 3) for _ in range(2))
    assert a == b and len(a.objects) == 3


def test_relations_come_both_ways() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        relations = random_scene(rng).relations()
        assert {(b, INVERSE[r], a) for a, r, b in relations} == set(relations)


def test_what_is_unknown_or_out_of_range_is_refused() -> None:
    rng = np.random.default_rng(0)
    thing = Object("top left", "star", "red", "small")
    with pytest.raises(ConfigError, match="Did you mean 'circle'"):
        Object("top left", "circel", "red", "small")
    with pytest.raises(ConfigError, match="Did you mean 'grey'"):
        Scene("gray", (thing,))
    with pytest.raises(ConfigError, match="each in a quarter of its own"):
        Scene("grey", (thing, thing))
    with pytest.raises(ConfigError, match="must be 1 to 4"):
        Scene("grey", ())
    with pytest.raises(ConfigError, match="must be train, val, test or held_out"):
        random_scene(rng, "dev")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="objects=5"):
        random_scene(rng, objects=5)
    with pytest.raises(ConfigError, match="size=8"):
        draw(Scene("grey", (thing,)), 8)


def test_a_scene_looks_the_same_at_every_resolution() -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        scene = random_scene(rng)
        large, small = (np.asarray(p, dtype=float) for p in (draw(scene, 128).reduce(2), draw(scene, 64)))
        assert np.abs(large - small).mean() < 1.5
        assert (
            draw(scene, 64, np.random.default_rng(1)).tobytes() == draw(scene, 64, np.random.default_rng(1)).tobytes()
        )
