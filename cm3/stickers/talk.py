"""Dialogue about a sheet: two to five questions that lean on each other, and their answers.

    is there a panda?                 yes
    where is it?                      top left             "it" is the panda
    what is to the right of it?       taxi
    how large is it?                  large                "it" is the taxi now

The meaning of "it" follows one rule (`cm3.stickers.ask.follow`), so a dialogue has one right answer at every turn.
"""

from __future__ import annotations

import numpy as np

from cm3.stickers.ask import NOTHING, WORDINGS, about_it, follow
from cm3.stickers.phrases import at, pointing, say
from cm3.stickers.world import INVERSE, Sheet, Sticker

TURNS = (2, 3, 4, 5)
Turn = tuple[str, str]
"""A question and its answer."""
_BORING = 0.3
"""How often a side is asked about where nothing stands, for once that something stands there."""


def random_dialogue(sheet: Sheet, rng: np.random.Generator) -> tuple[Turn, ...]:
    """Return a dialogue of 2 to 5 turns; every question from the second on is about "it", and none tells the next
    answer."""
    number = TURNS[int(rng.integers(len(TURNS)))]
    it: Sticker | None = sheet.stickers[int(rng.integers(len(sheet.stickers)))]
    assert it is not None
    which = pointing(sheet, it, rng)
    if which is None or rng.random() < 0.4:
        question, known = say(WORDINGS, "kind", rng, where=at(it.place)), {it: {"place", "colour"}}
    else:
        form = "exists" if rng.random() < 0.7 else "count"
        question = say(WORDINGS, form, rng, a=which, many=which)
        known = {it: {"size"} if which.size else set()}
        if which.name == it.kind:
            known[it].add("colour")
    turns = [(question, follow(question, sheet)[0])]
    while len(turns) < number:
        told = known.setdefault(it, set())
        options = []
        for form, question in about_it(sheet, it):
            if form not in told:
                answer, after = follow(question, sheet, it)
                options.append((form, question, answer, after))
        if not options:
            break
        weights = np.array([_BORING if answer == NOTHING else 1.0 for _, _, answer, _ in options])
        form, question, answer, after = options[int(rng.choice(len(options), p=weights / weights.sum()))]
        turns.append((question, answer))
        told.add(form)
        if after is not None and after != it:
            # where the two stand is told now, and the colour of a shape is in its name
            known.setdefault(after, set()).update(("colour", INVERSE[form]))
            it = after
    return tuple(turns)
