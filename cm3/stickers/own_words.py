"""Edits and questions in the words of people: the same that `say_change` and `random_question` say, in more wordings.

    remove the panda                get rid of the panda
    move the panda to the top left  move the panda up
    what is above the panda?        what do you see on top of the panda?

They are only said, and what they mean is known from what they were; nothing reads them back.
"""

from __future__ import annotations

import dataclasses
from string import Formatter

import numpy as np

from cm3.stickers.ask import WORDINGS, Question
from cm3.stickers.phrases import RELATION_WORDS, Wordings, at, read, wordings
from cm3.stickers.sticker_edits import Change, Edit, slots_of
from cm3.stickers.wishes import COLOURED, RELATED
from cm3.stickers.world import PLACES, pick

EDITS: dict[str, tuple[str, ...]] = {
    "add": (
        "place {a} {at}",
        "draw {a} {at}",
        "add {a} to the {place}",
        "add {a} in the {corner} corner",
        "put {a} in the {corner} corner",
        "i want {a} {at}",
        "there should be {a} {at}",
        "please add {a} {at}",
    ),
    "remove": (
        "delete {the}",
        "erase {the}",
        "get rid of {the}",
        "i do not want {the}",
        "please remove {the}",
        "{the} should go",
    ),
    "replace": (
        "turn {the} into {a}",
        "change {the} to {a}",
        "change {the} into {a}",
        "put {a} in place of {the}",
        "{a} instead of {the}",
        "i want {a} instead of {the}",
        "exchange {the} for {a}",
    ),
    "move": (
        "put {the} {at}",
        "put {the} in the {corner} corner",
        "move {the} to the {corner} corner",
        "shift {the} to the {place}",
        "{the} should be {at}",
        "move {the} {way}",
        "move {the} {way}",
        "please move {the} {way}",
    ),
    "resize": (
        "{grow} {the}",
        "{grow} {the}",
        "{the} should be {size}",
        "i want {the} {change}",
        "please make {the} {size}",
        "make {the} {change}",
    ),
    "ground": (
        "paint the ground {ground}",
        "turn the ground {ground}",
        "set the ground to {ground}",
        "use a {ground} ground",
        "i want a {ground} ground",
        "put it on a {ground} ground",
        "make the ground {ground}",
        "change the ground to {ground}",
    ),
    "recolour": (
        "colour {the} {colour}",
        "turn {the} {colour}",
        "change {the} to {colour}",
        "change the colour of {the} to {colour}",
        "{the} should be {colour}",
        "i want {the} {colour}",
    ),
}
"""More wordings of each kind of edit; one is used where there is all that it tells."""
QUESTIONS: Wordings = wordings(
    kind=("what can you see {where}?", "what do you see {where}?", "what stands {where}?", "what is shown {where}?"),
    member=("which {group} can you see?", "which {group} is in the picture?", "what {group} is shown?"),
    place=("where can you see {the}?", "where does {the} stand?", "where in the picture is {the}?"),
    size=("is {the} large or small?", "what is the size of {the}?", "which size is {the}?"),
    count=(
        "what is the number of {many}?",
        "how many {many} can you see?",
        "how many {many} are in the picture?",
        "count the {many}",
    ),
    exists=("is there {a} in the picture?", "can you see {a}?", "does the picture show {a}?"),
    neighbour=(
        "what is {relation} {the}?",
        "what do you see {relation} {the}?",
        "what stands {relation} {the}?",
        "which sticker stands {relation} {the}?",
    ),
    ground=("what is the colour of the ground?", "which colour is the ground?", "which colour does the ground have?"),
    colour=("which colour is {the}?", "what is the colour of {the}?", "which colour does {the} have?"),
)
"""More wordings of each form of question; relations and places are said in more words too."""
_WAYS = {(0, 1): "to the right", (0, -1): "to the left", (1, 0): "down", (-1, 0): "up"}
"""A step of rows and columns -> how it is said."""


def edit_in_own_words(edit: Edit, rng: np.random.Generator) -> Edit:
    """Return an edit with another instruction that asks for the same."""
    old = next((s for s in edit.before.stickers if s not in edit.after.stickers), None)
    new = next((s for s in edit.after.stickers if s not in edit.before.stickers), None)
    ground = edit.after.ground if edit.after.ground != edit.before.ground else None
    said = slots_of(edit.before, Change(edit.kind, old, new, ground), rng)
    if new:
        said["grow"] = "enlarge" if new.size == "large" else "shrink"
        if new.place != "middle":
            said["corner"] = new.place
        if old and (way := _way(old.place, new.place)):
            said["way"] = way
    if ground:
        said["ground"] = pick(rng, (ground, ground, *(name for name, of in COLOURED.items() if of == (ground,))))
    ways = [text for text in EDITS[edit.kind] if all(slot in said for _, slot, _, _ in Formatter().parse(text) if slot)]
    return dataclasses.replace(edit, instruction=pick(rng, ways).format(**said))


def question_in_own_words(question: Question, rng: np.random.Generator) -> Question:
    """Return a question in another wording. Raises `DataError` for one that is in no wording of `ask`."""
    form, values = read(question.question, WORDINGS, "question")
    if "relation" in values:
        relation = next(name for name, words in RELATION_WORDS.items() if words == values["relation"])
        values = {**values, "relation": pick(rng, RELATED[relation])}
    if form == "kind" and rng.random() < 0.5:
        place = next(place for place in PLACES if at(place) == values["where"])
        values = {**values, "where": values["where"] if place == "middle" else f"in the {place} corner"}
    phrases = QUESTIONS[form]
    return dataclasses.replace(question, question=phrases[int(rng.integers(len(phrases)))].say(values))


def _way(old: str, new: str) -> str:
    """Return the way from one place to its neighbour in words, "" where they are none."""
    if "middle" in (old, new):
        return ""
    rows, columns = ("top", "bottom"), ("left", "right")
    (row, column), (other_row, other_column) = old.split(), new.split()
    step = rows.index(other_row) - rows.index(row), columns.index(other_column) - columns.index(column)
    return _WAYS.get(step, "")
