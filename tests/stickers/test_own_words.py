"""Edits and questions in more wordings mean what they meant, and are of known words."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from lesson_codec import codec

from cm3.document import Text
from cm3.errors import ConfigError, DataError
from cm3.stickers.ask import FORMS, Question, random_question
from cm3.stickers.data.sticker_examples import TASKS, example_in_own_words, sticker_example
from cm3.stickers.data.sticker_lessons import LessonWeights, StickerLessons, make_lesson
from cm3.stickers.data.task_shares import TaskShares
from cm3.stickers.knows import WORDS
from cm3.stickers.own_words import EDITS, QUESTIONS, edit_in_own_words, question_in_own_words
from cm3.stickers.sticker_edits import WORDINGS, random_edit
from cm3.stickers.world import GROUNDS, random_sheet


def test_an_edit_asks_for_the_same_in_other_words() -> None:
    rng, said = np.random.default_rng(0), set()
    assert set(EDITS) == set(WORDINGS)
    for i in range(700):
        edit = random_edit(rng, kind=tuple(EDITS)[i % len(EDITS)])
        other = edit_in_own_words(edit, rng)
        assert (other.kind, other.before, other.after) == (edit.kind, edit.before, edit.after)
        assert "{" not in other.instruction and set(re.findall("[a-z]+", other.instruction)) <= set(WORDS)
        gone = [s for s in edit.before.stickers if s not in edit.after.stickers]
        come = [s for s in edit.after.stickers if s not in edit.before.stickers]
        named = other.instruction
        if edit.kind in ("add", "replace"):
            sized = not gone or gone[0].size != come[0].size
            assert f"{come[0].size} {come[0].kind}" in named if sized else come[0].kind in named
        if gone:
            assert gone[0].kind in named or gone[0].about.shape in named.split()
        if edit.kind == "move":
            row, column = come[0].place.split() if come[0].place != "middle" else ("middle", "middle")
            ways = {"right": "right", "left": "left", "down": "bottom", "up": "top"}
            way = re.search(r" (?:to the )?(right|left|up|down)$", named)
            assert (row in named and column in named) or (way and ways[way[1]] in (row, column)), named
        if edit.kind == "ground":
            colours = {"sky": "light blue", "mint": "green", "lilac": "purple|violet"}
            colours |= {"sand": "yellow", "navy": "dark blue"}
            assert re.search(rf"\b({edit.after.ground}|{colours.get(edit.after.ground, '-')})\b", named), named
            assert not set(GROUNDS) & set(named.split()) - {edit.after.ground}
        if edit.kind in ("resize", "recolour"):
            grown = "large|larger|enlarge" if come[0].size == "large" else "small|smaller|shrink"
            assert re.search(rf"\b({grown if edit.kind == 'resize' else come[0].about.colour})\b", named), named
        said.add(re.sub(r"\bthe .*", "", named))
    assert len(said) > 40


def test_a_step_is_said_of_neighbours_alone() -> None:
    rng, steps = np.random.default_rng(1), set()
    for _ in range(400):
        edit = random_edit(rng, kind="move")
        words = edit_in_own_words(edit, rng).instruction
        old = next(s.place for s in edit.before.stickers if s not in edit.after.stickers)
        new = next(s.place for s in edit.after.stickers if s not in edit.before.stickers)
        if found := re.search(r" (?:to the )?(left|right|up|down)$", words):
            if not re.search(r"(top|bottom) (left|right)$", words):
                assert sum(a != b for a, b in zip(old.split(), new.split(), strict=True)) == 1
                steps.add(found[1])
    assert steps == {"left", "right", "up", "down"}


def test_a_question_has_the_same_answer_in_other_words() -> None:
    rng, forms = np.random.default_rng(2), set()
    assert {form for several in FORMS.values() for form in several} == set(QUESTIONS)
    for _ in range(600):
        asked = random_question(random_sheet(rng), rng)
        other = question_in_own_words(asked, rng)
        assert (other.kind, other.answer) == (asked.kind, asked.answer)
        assert "{" not in other.question and set(re.findall("[a-z]+", other.question)) <= set(WORDS)
        forms.add(other.question.split()[0] + " " + other.question.split()[1])
    assert len(forms) > 12
    with pytest.raises(DataError, match="question 'what now\\?': is in none of the wordings"):
        question_in_own_words(Question("kind", "what now?", "no"), rng)


def test_only_edits_and_questions_are_said_in_other_words() -> None:
    changed = set()
    for task in TASKS:
        for i in range(6):
            example = sticker_example(task, 1, i, 16)
            other = example_in_own_words(example, np.random.default_rng(i))
            assert (other.truth, other.kind) == (example.truth, example.kind)
            differ = {name for name in example.fields if example.fields[name] is not other.fields[name]}
            assert differ <= {"edit": {"instruction"}, "vqa2": {"question"}}.get(task, set())
            changed |= {task for name in differ if example.fields[name] != other.fields[name]}
    assert changed == {"edit", "vqa2"}


def test_lessons_have_them_by_their_share() -> None:
    own = {"delete", "erase", "shrink", "enlarge", "instead", "should", "corner", "count", "stands", "does", "can"}
    for task in ("edit", "vqa2"):
        found = []
        for law in (LessonWeights(), LessonWeights(own=1.0)):
            texts: list[str] = []
            for i in range(30):
                lesson: Any = make_lesson(task, np.random.default_rng([4, i]), 16, "train", law)
                texts += [part.text for part in lesson if isinstance(part, Text)]
            found.append(len(own & set(re.findall("[a-z]+", " ".join(texts)))))
        assert found[0] == 0 and found[1] >= 3
    with pytest.raises(ConfigError, match=r"law.own=-1: is a share, must be in 0\.\.1"):
        LessonWeights(own=-1)
    mix = TaskShares(**{task: float(task == "edit") for task in TaskShares().shares})
    assert StickerLessons(codec(), 1, mix, LessonWeights(own=0.5)).sequences([0])[0].tokens.length > 1
