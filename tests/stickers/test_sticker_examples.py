"""Sticker tasks: a function of seed and number, of the split asked for, and true to what they show."""

from __future__ import annotations

import numpy as np
import pytest

from cm3.document import Image
from cm3.errors import ConfigError
from cm3.stickers.data.sticker_examples import TASKS, StickerExample, sticker_example
from cm3.stickers.drawing import BLOCK, CORNER, draw
from cm3.stickers.sentences import holds, parse
from cm3.stickers.sticker_boxes import matched
from cm3.stickers.sticker_edits import EDITS
from cm3.stickers.structure import PALETTE, STRUCTURES, groups, structure
from cm3.stickers.world import SPLITS, Split, split_of
from cm3.tasks import find_task
from cm3.tasks.boxes import read_objects


def pixels(example: StickerExample, name: str) -> np.ndarray:
    """A picture among the fields."""
    image = example.fields[name]
    assert isinstance(image, Image)
    return np.asarray(image.pixels)


def text(example: StickerExample, name: str) -> str:
    """A text among the fields."""
    said = example.fields[name]
    assert isinstance(said, str)
    return said


def same(a: StickerExample, b: StickerExample) -> bool:
    return a.kind == b.kind and all(
        x == b.fields[name] if isinstance(x, str) else (pixels(a, name) == pixels(b, name)).all()
        for name, x in a.fields.items()
    )


@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_a_function_of_its_number(task: str) -> None:
    one = sticker_example(task, 3, 5, 32)
    assert same(one, sticker_example(task, 3, 5, 32))
    assert not any(same(one, other) for other in (sticker_example(task, 3, 6, 32), sticker_example(task, 4, 5, 32)))
    assert one.fields.keys() >= set(find_task(task).template(one.template).fields)
    assert {v.pixels.size for v in one.fields.values() if isinstance(v, Image)} == {(32, 32)}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_of_the_split_asked_for(task: str, split: Split) -> None:
    truth = sticker_example(task, 1, 0, 16, split).truth
    assert {split_of(sheet) for sheet in ([truth.said.before] if task == "edit" else []) + [truth.sheet]} == {split}


@pytest.mark.parametrize("task", [t for t in TASKS if t not in ("edit", "segment")])
def test_the_picture_is_of_the_sheet_of_the_truth(task: str) -> None:
    for i in range(3):
        example = sticker_example(task, 2, i)
        assert (pixels(example, "image") == np.asarray(draw(example.truth.sheet))).all()
        if find_task(task).output == "image":
            caption = parse(text(example, "caption"))
            assert holds(caption, example.truth.sheet)
            assert not any(m.size for m in caption.mentions), "sizes are told by map or boxes"


def test_edits_lead_from_one_picture_to_the_other() -> None:
    kinds = set()
    for i in range(40):
        example = sticker_example("edit", 2, i)
        edit = example.truth.said
        kinds.add(example.kind)
        assert edit.after == example.truth.sheet and edit.kind == example.kind
        assert edit.instruction == example.fields["instruction"]
        for name, sheet in (("image1", edit.before), ("image2", edit.after)):
            assert (pixels(example, name) == np.asarray(draw(sheet))).all()
    assert kinds == set(EDITS)


def test_boxes_in_words_are_those_of_the_sheet() -> None:
    orders = set()
    for i in range(12):
        example = sticker_example("boxes", 1, i, 16)
        for name in ("segmentations", "locations"):
            assert read_objects(text(example, name)) == list(example.truth.said)
        sheet = example.truth.sheet
        assert matched(sheet.stickers, example.truth.said) == 1 and len(example.truth.said) == len(sheet.stickers)
        orders.add([name for name, _ in example.truth.said] == [s.kind for s in sheet.stickers])
    assert orders == {True, False}, "in any order"


@pytest.mark.parametrize("task", STRUCTURES)
def test_a_map_is_of_the_sheet(task: str) -> None:
    for i in range(3):
        example = sticker_example(task, 2, i)
        field = find_task(task).control
        assert field is not None
        if task == "scribble":  # its strokes are unsteady; each goes around a sticker
            strokes, free = pixels(example, field).max(-1) > 128, np.ones((256, 256), bool)
            for sticker in example.truth.sheet.stickers:
                left, top = CORNER[sticker.place]
                block = np.s_[top : top + BLOCK, left : left + BLOCK]
                assert strokes[block].any()
                free[block] = False
            assert not strokes[free].any()
        else:
            want = structure(example.truth.sheet, task, np.random.default_rng(0))
            assert (pixels(example, field) == np.asarray(want)).all()


def test_a_segmentation_shows_each_group_in_its_colour() -> None:
    for i in range(4):
        example = sticker_example("segment", 2, i)
        assert (pixels(example, "image") == np.asarray(draw(example.truth.sheet))).all()
        for group, mask in groups(example.truth.sheet).items():
            assert ((pixels(example, "seg") == PALETTE[group]).all(-1) == mask).all()


def test_kinds_are_those_that_figures_are_told_apart_by() -> None:
    kinds = {task: {sticker_example(task, 0, i, 16).kind for i in range(60)} for task in ("vqa2", "visdial", "depth")}
    assert len(kinds["vqa2"]) > 4
    assert {f"turn {n}" for n in (1, 2, 3)} <= kinds["visdial"]
    assert kinds["depth"] == {"1 sticker", "2 stickers", "3 stickers", "4 stickers"}


def test_a_task_without_stickers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task 'box': must be one of edit, .* Did you mean 'boxes'\?"):
        sticker_example("box", 0, 0)
    with pytest.raises(ConfigError, match="split='new': must be one of train, val, test, held_out"):
        sticker_example("vqa2", 0, 0, split="new")  # type: ignore[arg-type]
