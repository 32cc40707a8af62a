"""Edits: an instruction means one change, both scenes are of one split, and the verifier accepts just that change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cm3.errors import ConfigError, DataError
from cm3.scenes.drawing import CENTRES, draw, middles
from cm3.scenes.scene import BACKGROUNDS, COLOURS, Object, Scene, Split, split_of
from cm3.scenes.scene_edits import KINDS, WORDINGS, Edit, draw_edit, parse_edit, random_edit, verify_edit

SCENE = Scene(
    "sand",
    (
        Object("top left", "circle", "red", "small"),
        Object("top right", "star", "blue", "large"),
        Object("bottom left", "circle", "blue", "large"),
    ),
)


@pytest.mark.parametrize("split", ["train", "val", "test", "held_out"])
def test_an_instruction_makes_the_one_scene_from_the_other(split: Split) -> None:
    rng = np.random.default_rng(0)
    for i in range(18 if split == "val" else 60):  # two scenes of a rare split take long to find
        edit = random_edit(rng, split, KINDS[i % len(KINDS)])
        assert parse_edit(edit.instruction, edit.before) == edit.after != edit.before
        assert split_of(edit.before) == split_of(edit.after) == split
        read = [p.text for phrases in WORDINGS.values() for p in phrases if p.read(edit.instruction)]
        assert len(read) == 1, (edit.instruction, read)


def test_every_kind_changes_what_it_is_named_after_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    for kind in KINDS:
        for _ in range(20):
            edit = random_edit(rng, "train", kind)
            gone, new = (
                [o for o in a.objects if o not in b.objects]
                for a, b in ((edit.before, edit.after), (edit.after, edit.before))
            )
            changed = {"recolour": "colour", "replace": "shape", "move": "place"}.get(kind)
            if changed:
                assert len(gone) == len(new) == 1
                assert dataclasses.replace(gone[0], **{changed: getattr(new[0], changed)}) == new[0] != gone[0]
            assert (len(gone), len(new)) == {"add": (0, 1), "remove": (1, 0), "background": (0, 0)}.get(kind, (1, 1))
            assert (edit.before.background != edit.after.background) == (kind == "background")


def test_every_wording_is_used_and_the_same_generator_gives_the_same_edit() -> None:
    rng = np.random.default_rng(2)
    used = set()
    for _ in range(300):
        edit = random_edit(rng)
        used |= {p.text for p in WORDINGS[edit.kind] if p.read(edit.instruction)}
    assert used == {p.text for phrases in WORDINGS.values() for p in phrases}
    assert random_edit(np.random.default_rng(3), "test") == random_edit(np.random.default_rng(3), "test")


def test_a_replacement_changes_what_its_words_name() -> None:
    after = parse_edit("replace the star with a small square", SCENE)
    assert after.at("top right") == Object("top right", "square", "blue", "small")
    assert parse_edit("put  the star\n at the bottom right", SCENE).at("bottom right") is not None


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("paint the circle green", "'the circle': 2 objects are that; say colour, size or place"),
        ("remove the square", "'the square': no object is that"),
        ("move the star to the top left", "the top left is taken; name a quarter where nothing stands"),
        ("add a small red star at the top left", "the top left is taken"),
        ("add a red star at the bottom right", "say size, colour and shape"),
        ("paint the star pink", "is in none of the wordings; write it as one of 'paint {the} {colour}'"),
        ("add an small red star at the bottom right", "is in none of the wordings"),
        ("remove it", "nothing before says what it is"),
        ("", "is in none of the wordings"),
    ],
)
def test_what_cannot_be_done_is_refused(instruction: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        parse_edit(instruction, SCENE)
    assert message in str(error.value)


def test_the_last_object_stays_and_kinds_are_known() -> None:
    with pytest.raises(DataError, match="takes away the last object"):
        parse_edit("remove the star", Scene("sand", SCENE.objects[1:2]))
    with pytest.raises(ConfigError, match="Did you mean 'recolour'"):
        random_edit(np.random.default_rng(0), kind="recolor")


def test_true_edits_are_accepted_and_what_is_not_changed_is_the_same_pixels() -> None:
    rng = np.random.default_rng(4)
    for i in range(24):
        edit = random_edit(rng, "test", KINDS[i % len(KINDS)])
        before, after = draw_edit(edit, 128, rng)
        verdict = verify_edit(before, after, edit)
        assert verdict.ok, verdict.reason
        if edit.kind != "background":
            for place, (x, y) in CENTRES.items():
                box = tuple(int(128 * v) for v in (x - 0.25, y - 0.25, x + 0.25, y + 0.25))
                same = before.crop(box).tobytes() == after.crop(box).tobytes()
                assert same == (edit.before.at(place) == edit.after.at(place))


def wrong(edit: Edit, how: str, rng: np.random.Generator) -> Scene:
    """A scene that is not what the edit asks for."""
    objects = list(edit.after.objects)
    i = int(rng.integers(len(objects)))
    if how == "another object is other":
        colour = next(c for c in COLOURS if c != objects[i].colour)
        objects[i] = dataclasses.replace(objects[i], colour=colour)
    elif how == "an object more is gone":
        objects.pop(i)
    elif how == "another ground":
        taken = {edit.before.background, edit.after.background}
        return Scene(next(b for b in BACKGROUNDS if b not in taken), edit.after.objects)
    elif how == "nothing":
        return edit.before
    return Scene(edit.after.background, tuple(objects))


@pytest.mark.parametrize("how", ["nothing", "another object is other", "an object more is gone", "another ground"])
def test_wrong_edits_are_refused(how: str) -> None:
    rng = np.random.default_rng(5)
    for i in range(12):
        edit = random_edit(rng, "test", KINDS[i % len(KINDS)])
        if how == "an object more is gone" and (edit.kind == "add" or len(edit.after.objects) == 1):
            continue  # would be the scene before, or none
        at = middles(rng)
        verdict = verify_edit(draw(edit.before, at=at), draw(wrong(edit, how, rng), at=at), edit)
        assert not verdict.ok and verdict.reason
        assert (verdict.reason == "nothing was changed") == (how == "nothing")


def test_an_object_that_was_not_to_be_moved_must_stand_still() -> None:
    edit = Edit("recolour", SCENE, "paint the star green", parse_edit("paint the star green", SCENE))
    before = draw(edit.before)
    for shift, ok in ((0.01, True), (0.03, False)):
        at = CENTRES | {"top left": (0.25 + shift, 0.25)}
        verdict = verify_edit(before, draw(edit.after, at=at), edit)
        assert verdict.ok == ok
        assert ok or verdict.reason.startswith("top left: the circle has moved by 0.03")
    # The changed object itself may.
    assert verify_edit(before, draw(edit.after, at=CENTRES | {"top right": (0.78, 0.25)}), edit).ok


def test_a_picture_that_the_edit_does_not_begin_with_is_refused() -> None:
    edit = random_edit(np.random.default_rng(6), kind="add")
    with pytest.raises(DataError, match="picture before the edit: the picture shows"):
        verify_edit(draw(edit.after), draw(edit.after), edit)
