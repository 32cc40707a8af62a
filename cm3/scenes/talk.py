"""Dialogue about a scene: three to five questions that lean on each other, and their answers.

    is there a red circle?            yes
    where is it?                      top left             "it" is the circle
    what is to the right of it?       a large blue star
    how large is it?                  large                "it" is the star now

The meaning of "it" follows one rule (`cm3.scenes.ask.follow`), so a dialogue has one right answer at every turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cm3.errors import DataError
from cm3.scenes.ask import WORDINGS, about_it, follow
from cm3.scenes.phrases import Which, pick, pointing
from cm3.scenes.scene import Object, Scene

TURNS = (3, 4, 5)
Turn = tuple[str, str]
"""A question and its answer."""


def random_dialogue(scene: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
    """Return a dialogue of 3 to 5 turns; every question from the second on is about "it", and none tells the next
    answer."""
    number = pick(rng, TURNS)
    while True:
        turns, it = [], pick(rng, scene.objects)
        which = pointing(scene, it, rng) or Which(place=it.place)
        opening = "is there {any}?" if which.place or rng.random() < 0.5 else "how many {many} are there?"
        question = next(p for f in ("exists", "count") for p in WORDINGS[f] if p.text == opening).say(
            {"any": which, "many": which}
        )
        known = {it: {name for name in ("shape", "colour", "size", "place") if getattr(which, name)}}
        turns.append((question, follow(question, scene, None)[0]))
        for _ in range(20 * number):
            if len(turns) == number:
                return tuple(turns)
            form, question = about_it(scene, it, rng)
            if form in known.setdefault(it, set()) or any(question == asked for asked, _ in turns):
                continue
            try:
                answer, after = follow(question, scene, it)
            except DataError:
                continue  # a side where the answer is not plain
            assert after is not None
            if after != it:
                known[after] = {"shape", "colour", "size"}
                known[it].add("neighbour")
            known[it].add(form)
            turns.append((question, answer))
            it = after


def answer_dialogue(questions: Sequence[str], scene: Scene) -> list[str]:
    """Return the answers to the questions of a dialogue, in order. Raises `DataError` as `answer_question` does."""
    it: Object | None = None
    answers = []
    for question in questions:
        answer, it = follow(question, scene, it)
        answers.append(answer)
    return answers


def first_wrong(turns: Sequence[Turn], scene: Scene) -> int | None:
    """Return the number, from 0, of the first turn whose answer is wrong, or None where all are right.

    Each answer is compared with the true one, whatever was answered before.
    """
    truth = answer_dialogue([question for question, _ in turns], scene)
    return next((i for i, (turn, true) in enumerate(zip(turns, truth, strict=True)) if turn[1] != true), None)
