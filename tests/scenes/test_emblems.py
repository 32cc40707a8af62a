"""Emblems: a word is used once and is far from every other, and a drawing shows what its word stands for."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from cm3.errors import ConfigError, DataError
from cm3.scenes import describe, parse, random_scene, split_of
from cm3.scenes.emblems import (
    EMBLEMS,
    PHRASES,
    EmblemSplit,
    emblem,
    emblem_document,
    parse_emblem,
    place_of,
    say,
    word_of,
)
from cm3.scenes.verify import verify

SPLITS: tuple[EmblemSplit, ...] = ("train", "test")


def words(split: EmblemSplit, number: int) -> list[str]:
    return [word_of(i, split) for i in range(number)]


def test_words_are_many_and_used_once() -> None:
    assert EMBLEMS["train"] >= 20_000 and EMBLEMS["test"] >= 2_000
    found = {split: words(split, EMBLEMS[split]) for split in SPLITS}
    assert len(set(found["train"] + found["test"])) == sum(EMBLEMS.values())
    for split in SPLITS:
        assert all(place_of(word) == (split, i) for i, word in enumerate(found[split]))
        assert emblem(777, split).word == found[split][777]


def test_words_are_invented_and_can_be_said() -> None:
    rng = np.random.default_rng(0)
    grammar = {w for _ in range(500) for w in re.findall("[a-z]+", describe(random_scene(rng), rng))}
    grammar |= {w for phrase in PHRASES for w in phrase.split()}
    for word in words("train", 20_000) + words("test", 3000):
        assert re.fullmatch("[b-df-hj-np-tv-z]{1,2}[aeiou][b-df-hj-np-tv-z]{1,2}[aeiou][b-df-hj-np-tv-z]{1,2}", word)
        assert 5 <= len(word) <= 8 and word not in grammar


def test_no_word_is_one_letter_away_from_another() -> None:
    def shorter(word: str) -> set[str]:
        return {word[:i] + word[i + 1 :] for i in range(len(word))}

    def blanked(word: str) -> set[str]:
        return {word[:i] + "_" + word[i + 1 :] for i in range(len(word))}

    every = words("train", 20_000) + words("test", 3000)
    seen = Counter(itertools.chain.from_iterable(blanked(w) for w in every))
    assert max(seen.values()) == 1  # no two are the same but for one letter
    assert not set(every) & set(itertools.chain.from_iterable(shorter(w) for w in every))  # or but for one more


@pytest.mark.parametrize("split", SPLITS)
def test_an_emblem_is_fixed_and_its_scene_is_of_its_split(split: EmblemSplit) -> None:
    for i in range(100):
        this = emblem(i, split)
        assert this == emblem(i, split)
        assert split_of(this.scene) == split and len(this.scene.objects) in (2, 3)
    scenes = {emblem(i, split).scene.key for i in range(300)}
    assert len(scenes) >= 298  # two emblems may stand for one scene, but hardly ever do
    assert emblem(3, "train") != emblem(3, "test")


def test_every_phrase_is_said_and_read_back() -> None:
    rng = np.random.default_rng(1)
    said = Counter()
    for i in range(500):
        this = emblem(i, "test")
        text = say(this, rng)
        assert parse_emblem(text) == this.word == parse_emblem(f"  {text.replace(' ', '  ')} ")
        said[text.replace(this.word, "{}")] += 1
        with pytest.raises(DataError):
            parse(text)  # never a sentence of the scenes' grammar
    assert set(said) == set(PHRASES) and min(said.values()) > 60


@pytest.mark.parametrize(
    "text", ["", "a", "a red circle", "a dog", "{}", "two {}", "a {} on a mint background", "A {}"]
)
def test_other_text_names_no_emblem(text: str) -> None:
    assert parse_emblem(text.format(emblem(0, "test").word)) is None


@pytest.mark.parametrize("split", SPLITS)
def test_a_document_shows_what_its_word_stands_for(split: EmblemSplit) -> None:
    for i in range(8):
        document, this = emblem_document(i, split, 128, seed=5), emblem(i, split)
        assert parse_emblem(document.text) == this.word
        assert verify(document.images[0].pixels, this.scene).ok
        assert (document.id, document.source) == (f"emblem/{split}/{i}", f"emblems/{split}")
        assert document.meta == {"license": "MIT"}
        assert document == emblem_document(i, split, 128, seed=5)
        assert document.images != emblem_document(i, split, 128, seed=6).images


def test_what_is_no_emblem_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"emblem index={EMBLEMS['test']}: test has 0 to {EMBLEMS['test'] - 1}"):
        emblem(EMBLEMS["test"], "test")
    with pytest.raises(ConfigError, match="emblem index=-1: train has 0 to"):
        emblem_document(-1, "train", 32, 0)
    with pytest.raises(ConfigError, match="split='val': emblems have the splits train and test"):
        emblem(0, "val")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="emblem 'circle': is not the word of an emblem"):
        place_of("circle")
