"""Edits of sheets: an instruction means one change, both sheets are of one split, and a named kind is one sticker."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from cm3.errors import ConfigError, DataError
from cm3.stickers.drawing import BLOCK, CORNER, draw
from cm3.stickers.sticker_edits import EDITS, WORDINGS, Change, apply, random_edit, say_change
from cm3.stickers.world import QUARTERS, SPLITS, Sheet, Split, Sticker, random_sheet, split_of

PANDA = Sticker("top left", "panda", "small")
STAR = Sticker("top right", "red star", "large")
SHEET = Sheet("sand", (PANDA, STAR))


@pytest.mark.parametrize("split", SPLITS)
def test_both_sheets_are_of_the_split_and_other(split: Split) -> None:
    rng = np.random.default_rng(0)
    for kind in EDITS * (1 if split == "val" else 3):  # two sheets of a rare split take long to find
        edit = random_edit(rng, split, kind)
        assert edit.kind == kind and edit.before != edit.after
        assert split_of(edit.before) == split_of(edit.after) == split


def test_every_kind_changes_what_it_is_named_after_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    for kind in EDITS:
        for _ in range(30):
            edit = random_edit(rng, "train", kind)
            gone = [s for s in edit.before.stickers if s not in edit.after.stickers]
            new = [s for s in edit.after.stickers if s not in edit.before.stickers]
            assert (len(gone), len(new)) == {"add": (0, 1), "remove": (1, 0), "ground": (0, 0)}.get(kind, (1, 1))
            assert (edit.before.ground != edit.after.ground) == (kind == "ground")
            if gone and new:
                changed = {
                    f.name for f in dataclasses.fields(Sticker) if getattr(gone[0], f.name) != getattr(new[0], f.name)
                }
                assert changed <= {"kind", "size"} if kind == "replace" else len(changed) == 1
                assert {"move": "place", "resize": "size"}.get(kind, "kind") in changed
                assert kind != "recolour" or gone[0].about.shape == new[0].about.shape != ""


def test_an_instruction_names_one_sticker_and_all_that_changes() -> None:
    """With the sheet before, the words alone tell the sheet after."""
    rng = np.random.default_rng(2)
    used = set()
    for _ in range(400):
        edit = random_edit(rng)
        words = edit.instruction
        gone = [s for s in edit.before.stickers if s not in edit.after.stickers]
        new = [s for s in edit.after.stickers if s not in edit.before.stickers]
        if gone:
            patterns = [re.sub(r"{(\w+)}", r"(?P<\1>.+)", wording) for wording in WORDINGS[edit.kind]]
            named = next(found["the"] for p in patterns if (found := re.fullmatch(p, words)))
            _, size, name = re.split(r"the (small |large |)", named, maxsplit=1)
            fits = [s for s in edit.before.stickers if size.strip() in ("", s.size) and name in (s.kind, s.about.shape)]
            assert fits == gone, words
        if edit.kind in ("add", "move"):
            assert words.endswith(f" the {new[0].place}")
        if edit.kind in ("add", "replace"):
            assert new[0].kind in words
            sized = f"{new[0].size} {new[0].kind}" in words
            assert sized == (edit.kind == "add" or gone[0].size != new[0].size)
        if edit.kind == "resize":
            assert words.endswith({"large": ("larger", "large"), "small": ("smaller", "small")}[new[0].size])
        if edit.kind == "recolour":
            assert words.endswith(new[0].about.colour)
        if edit.kind == "ground":
            assert words.endswith(edit.after.ground)
        used |= {w for w in WORDINGS[edit.kind] if words.startswith(w.split("{")[0])}
    assert used == {w for wordings in WORDINGS.values() for w in wordings}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change("add", None, Sticker("bottom left", "umbrella", "small")), "add a small umbrella at the bottom left"),
        (Change("remove", PANDA), "remove the panda"),
        (Change("replace", PANDA, Sticker("top left", "umbrella", "small")), "replace the panda with an umbrella"),
        (Change("replace", PANDA, Sticker("top left", "unicorn", "small")), "replace the panda with a unicorn"),
        (Change("replace", PANDA, Sticker("top left", "owl", "large")), "replace the panda with a large owl"),
        (Change("move", PANDA, dataclasses.replace(PANDA, place="bottom left")), "move the panda to the bottom left"),
        (Change("resize", PANDA, dataclasses.replace(PANDA, size="large")), "make the panda larger"),
        (Change("resize", STAR, dataclasses.replace(STAR, size="small")), "make the red star smaller"),
        (Change("ground", ground="mint"), "change the ground to mint"),
        (Change("recolour", STAR, dataclasses.replace(STAR, kind="green star")), "paint the star green"),
    ],
)
def test_a_change_is_said_and_applied(change: Change, said: str) -> None:
    assert said in words_of(SHEET, change)
    after = apply(SHEET, change)
    want = {s for s in SHEET.stickers if s != change.old} | ({change.new} if change.new else set())
    assert set(after.stickers) == want and after.ground == (change.ground or "sand")


def words_of(sheet: Sheet, change: Change) -> set[str]:
    """Every way in which a change is said."""
    rng = np.random.default_rng(0)
    return {say_change(sheet, change, rng) for _ in range(60)}


def test_one_of_several_stars_or_of_twins_is_told_from_the_others() -> None:
    change = Change("recolour", STAR, dataclasses.replace(STAR, kind="green star"))
    alone = {f"{verb} the {name} green" for verb in ("paint", "make") for name in ("star", "red star")}
    assert words_of(SHEET, change) == alone
    two = apply(SHEET, Change("add", None, Sticker("bottom left", "blue star", "large")))
    assert words_of(two, change) == {"paint the red star green", "make the red star green"}
    twins = apply(SHEET, Change("add", None, Sticker("bottom left", "panda", "large")))
    assert words_of(twins, Change("remove", PANDA)) == {"remove the small panda", "take the small panda away"}


def test_edits_follow_each_other_and_a_sheet_of_one_or_four_stickers_has_its_own() -> None:
    rng = np.random.default_rng(3)
    sheet = random_sheet(rng, "test", 1)
    for _ in range(20):
        edit = random_edit(rng, "test", None, sheet)
        assert edit.before == sheet
        sheet = edit.after
    assert {random_edit(rng, "train", None, None, 1).kind for _ in range(60)} == set(EDITS) - {"remove"}
    assert "add" not in {random_edit(rng, "train", "add", None, 4).kind for _ in range(20)}
    assert random_edit(np.random.default_rng(3), "test") == random_edit(np.random.default_rng(3), "test")


def test_the_picture_changes_in_the_blocks_of_the_change_alone() -> None:
    rng = np.random.default_rng(4)
    for kind in EDITS:
        edit = random_edit(rng, "train", kind, None, 2)
        before, after = (np.asarray(draw(s)) for s in (edit.before, edit.after))
        same = np.ones((256, 256), bool)
        for a, b in ((edit.before, edit.after), (edit.after, edit.before)):
            for s in a.stickers:
                left, top = CORNER[s.place]
                same[top : top + BLOCK, left : left + BLOCK] &= s in b.stickers
        assert edit.kind == "ground" or (before == after)[same].all()
        assert (before != after).any()


def test_what_cannot_be_done_is_refused() -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(ConfigError, match="edit kind='recolor': must be one of add, .* Did you mean 'recolour'"):
        random_edit(rng, kind="recolor")
    with pytest.raises(ConfigError, match="split='new': must be one of train"):
        random_edit(rng, "new")  # type: ignore[arg-type]
    twins = Sheet("sand", (PANDA, dataclasses.replace(PANDA, place="top right")))
    with pytest.raises(DataError, match="no words tell the panda at the top left from the others"):
        say_change(twins, Change("remove", PANDA), rng)
    with pytest.raises(DataError, match="has no large panda at the top left"):
        apply(SHEET, Change("remove", dataclasses.replace(PANDA, size="large")))
    with pytest.raises(ConfigError, match="each in its own quarter"):
        apply(SHEET, Change("add", None, Sticker("top left", "cat", "small")))
    with pytest.raises(ConfigError, match="no edit was found that leads to a sheet of split 'val'"):
        many = tuple(dataclasses.replace(PANDA, place=place) for place in QUARTERS)
        random_edit(rng, "val", None, Sheet("sand", many))
