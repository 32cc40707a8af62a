"""Structures and boxes agree with the drawing they stand for, and pictures that are not true to them are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

import cm3
from cm3.errors import ConfigError, DataError
from cm3.scenes.drawing import CENTRES, draw, middles
from cm3.scenes.scene import BACKGROUNDS, COLOURS, SHAPES, Object, Scene, split_of
from cm3.scenes.scene_boxes import Boxed, matched, overlap, random_boxed, verify_boxed
from cm3.scenes.sentences import holds, parse
from cm3.scenes.structure import (
    STRUCTURES,
    Guided,
    classes,
    draw_structure,
    iou,
    random_guided,
    read_structure,
    segments_of,
    verify_guided,
)
from cm3.scenes.verify import read

PAIR = Scene("sand", (Object("top left", "circle", "red", "small"), Object("bottom right", "star", "blue", "large")))


def form(scene: Scene | None) -> list[tuple[str, str, str]] | None:
    """What a structure tells of a scene."""
    return scene and [(o.place, o.shape, o.size) for o in scene.objects]


def ink(picture: PIL.Image.Image, level: int = 100) -> np.ndarray:
    return np.asarray(picture.convert("L")) > level


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(mask).convert("L").filter(PIL.ImageFilter.MaxFilter(2 * by + 1))) > 0


def shapes(picture: PIL.Image.Image, scene: Scene) -> np.ndarray:
    """Where a drawing differs from its ground."""
    return np.abs(np.asarray(picture, dtype=int) - BACKGROUNDS[scene.background]).sum(axis=2) > 60


def test_edges_are_the_borders_of_the_drawing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        guided = random_guided(rng, "train", "edges")
        inside = shapes(guided.picture, guided.scene)
        border = grown(inside, 1) & grown(~inside, 1)
        edges = ink(guided.structure)
        assert (edges <= grown(border, 2)).all() and (border <= grown(edges, 1)).all()


def test_strokes_keep_near_the_borders_and_follow_the_generator() -> None:
    rng = np.random.default_rng(1)
    for _ in range(15):
        guided = random_guided(rng, "train", "scribble")
        inside = shapes(guided.picture, guided.scene)
        border = grown(inside, 1) & grown(~inside, 1)
        strokes = ink(guided.structure)
        assert (strokes <= grown(border, 5)).all() and (border <= grown(strokes, 6)).all()
        first, again, other = (
            draw_structure("scribble", guided.scene, rng=np.random.default_rng(seed)).tobytes() for seed in (1, 1, 2)
        )
        assert first == again != other


def test_a_segmentation_map_names_the_pixels_of_each_shape() -> None:
    rng = np.random.default_rng(2)
    for _ in range(15):
        guided = random_guided(rng, "train", "segments")
        found = classes(guided.structure)
        inside = shapes(guided.picture, guided.scene)
        assert ((found > 0) != inside).sum() <= 0.08 * inside.sum()  # the soft edge only
        present = {SHAPES[k - 1] for k in np.unique(found) if k}
        assert present == {o.shape for o in guided.scene.objects}
        assert iou(guided.structure, guided.scene, at=guided.at) == 1
        assert iou(guided.structure.resize((256, 256)), guided.scene, at=guided.at) > 0.9


def test_near_is_light_in_a_depth_map() -> None:
    grey = np.asarray(draw_structure("depth", PAIR).convert("L"))
    ground, small, large = (
        int(grey[int(y * 128), int(x * 128)]) for x, y in ((0.75, 0.25), (0.25, 0.25), (0.75, 0.75))
    )
    assert ground < small < large


@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_structure_with_its_caption_tells_the_scene(kind: str) -> None:
    rng = np.random.default_rng(3)
    told = 0
    for _ in range(12):
        guided = random_guided(rng, "test", kind)
        assert split_of(guided.scene) == "test"
        assert holds(parse(guided.caption), guided.scene)
        assert all(m.place is None and m.size is None for m in parse(guided.caption).mentions)
        verdict = verify_guided(guided.picture, guided)
        assert verdict.ok, verdict.reason
        told += form(read_structure(kind, guided.structure).scene) == form(guided.scene)
    assert told >= (11 if kind == "scribble" else 12)


def guided_by(scene: Scene, caption: str = "a red circle and a blue star on a sand ground") -> Guided:
    return Guided("edges", draw_structure("edges", scene), caption, scene, CENTRES, draw(scene))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"colour": "green"}, "not true to the caption: the picture shows"),
        ({"shape": "square"}, "not true to the caption"),
        ({"size": "large"}, "not true to the structure: shows top left circle large"),
        ({"place": "top right"}, "not true to the structure: shows top right circle small"),
    ],
)
def test_a_picture_must_be_true_to_caption_and_structure(change: dict[str, str], reason: str) -> None:
    other = Scene("sand", (dataclasses.replace(PAIR.objects[0], **change), PAIR.objects[1]))
    verdict = verify_guided(draw(other), guided_by(PAIR))
    assert not verdict.ok and verdict.reason.startswith(reason)


def test_shapes_must_stand_where_the_structure_has_them() -> None:
    twins = Scene("sand", tuple(Object(o.place, "circle", o.colour, o.size) for o in PAIR.objects))
    guided = guided_by(twins, "a red circle and a blue circle on a sand ground")
    a, b = twins.objects
    swapped = Scene("sand", (dataclasses.replace(a, colour=b.colour), dataclasses.replace(b, colour=a.colour)))
    assert verify_guided(draw(swapped), guided).ok  # neither caption nor structure says which circle is red
    away = CENTRES | {"top left": (0.29, 0.25), "bottom right": (0.71, 0.75)}
    verdict = verify_guided(draw(twins, at=away), guided)
    assert not verdict.ok and verdict.reason.startswith("not in line with the structure: overlap 0.7")


def test_maps_overlap_less_the_more_is_wrong() -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        scene, at = PAIR, middles(rng)
        true = draw_structure("segments", scene, at=at)
        measured = segments_of(read(draw(scene, at=at)))
        assert iou(true, scene, at=at) == 1 and iou(measured, scene, at=at) > 0.9
    one_missing = draw_structure("segments", Scene("sand", PAIR.objects[:1]))
    one_more = draw_structure("segments", Scene("sand", (*PAIR.objects, Object("top right", "square", "red", "small"))))
    square = dataclasses.replace(PAIR.objects[1], shape="square")
    other_class = draw_structure("segments", Scene("sand", (PAIR.objects[0], square)))
    assert iou(one_missing, PAIR) == 0.5 and iou(one_more, PAIR) == pytest.approx(2 / 3)
    assert iou(other_class, PAIR) == pytest.approx(1 / 3)
    assert iou(PIL.Image.new("RGB", (128, 128)), PAIR) == 0
    with pytest.raises(DataError, match="segmentation map of 128 x 96: must be square"):
        iou(PIL.Image.new("RGB", (128, 96)), PAIR)
    with pytest.raises(ConfigError, match="Did you mean 'edges'"):
        draw_structure("edge", PAIR)


def test_a_box_encloses_the_pixels_of_its_object() -> None:
    rng = np.random.default_rng(5)
    for _ in range(25):
        boxed = random_boxed(rng, "train", 256)
        mentions = parse(boxed.caption).mentions
        assert [name for name, _ in boxed.boxes] == [f"{m.colour} {m.shape}" for m in mentions]
        inside = shapes(boxed.picture, boxed.scene)
        for _, (x1, y1, x2, y2) in boxed.boxes:
            half = np.zeros_like(inside)
            half[128 * ((y1 + y2) > 256) :, 128 * ((x1 + x2) > 256) :][:128, :128] = True
            rows, columns = np.nonzero(inside & half)
            measured = (columns.min(), rows.min(), columns.max(), rows.max())
            assert max(abs(a - b) for a, b in zip((x1, y1, x2, y2), measured, strict=True)) <= 2
        verdict = verify_boxed(boxed.picture, boxed)
        assert verdict.ok, verdict.reason


def test_boxes_must_hold_their_objects() -> None:
    rng = np.random.default_rng(6)
    caption = "a red circle and a blue star on a sand ground"
    boxed = next(b for b in (random_boxed(rng) for _ in iter(int, 1)) if len(b.boxes) == 2)
    names = [name for name, _ in boxed.boxes]
    swapped = [(names[1], boxed.boxes[0][1]), (names[0], boxed.boxes[1][1])]
    assert matched(boxed.picture, boxed.boxes) == 1
    assert names[0] == names[1] or matched(boxed.picture, swapped) == 0
    truth = Boxed(caption, (("red circle", (36, 36, 91, 91)), ("blue star", (140, 139, 243, 234))), PAIR, draw(PAIR))
    assert verify_boxed(truth.picture, truth).ok
    larger = Scene("sand", (dataclasses.replace(PAIR.objects[0], size="large"), PAIR.objects[1]))
    verdict = verify_boxed(draw(larger), truth)
    assert not verdict.ok and verdict.reason == "only 50% of the boxes hold their object"
    green = Scene("sand", (dataclasses.replace(PAIR.objects[0], colour="green"), PAIR.objects[1]))
    assert verify_boxed(draw(green), truth).reason.startswith("not true to the caption")
    assert matched(draw(Scene("sand", PAIR.objects[:1])), truth.boxes) == 0.5
    # Two boxes of one name are not both held by one object.
    assert matched(draw(Scene("sand", PAIR.objects[:1])), [truth.boxes[0], truth.boxes[0]]) == 0.5
    with pytest.raises(DataError, match="box of 'red dog': must be a colour and a shape"):
        matched(truth.picture, [("red dog", (0, 0, 9, 9))])


def test_overlap_counts_pixels() -> None:
    assert overlap((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert overlap((0, 0, 9, 9), (0, 0, 9, 4)) == 0.5
    assert overlap((0, 0, 9, 9), (9, 9, 18, 18)) == pytest.approx(1 / 199)
    assert overlap((0, 0, 9, 9), (10, 0, 19, 9)) == 0


def test_colours_of_a_drawing_do_not_change_its_structure() -> None:
    for colour in COLOURS:
        recoloured = Scene("mint", tuple(dataclasses.replace(o, colour=colour) for o in PAIR.objects))
        for kind in STRUCTURES:
            assert draw_structure(kind, recoloured).tobytes() == draw_structure(kind, PAIR).tobytes()


def test_true_pictures_are_accepted_after_the_shipped_image_tokenizer() -> None:
    rng = np.random.default_rng(7)
    guided = [random_guided(rng, "test", "edges") for _ in range(6)]
    boxed = [random_boxed(rng, "test") for _ in range(6)]
    pictures, _ = cm3.load("scenes").reconstruct([case.picture for case in (*guided, *boxed)])
    right = [verify_guided(picture, case).ok for picture, case in zip(pictures[:6], guided, strict=True)]
    right += [verify_boxed(picture, case).ok for picture, case in zip(pictures[6:], boxed, strict=True)]
    assert sum(right) >= 11
