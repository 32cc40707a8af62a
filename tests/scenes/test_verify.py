"""The verifier is right on true drawings, sharp or soft, and refuses every way of spoiling one."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import pytest

from cm3.errors import DataError
from cm3.scenes.drawing import CENTRES, JITTER, RADIUS, draw, outline
from cm3.scenes.phrases import in_words
from cm3.scenes.scene import BACKGROUNDS, COLOURS, SHAPES, Object, Scene, Split, random_scene
from cm3.scenes.sentences import describe, parse
from cm3.scenes.verify import attributes, read, verify

Picture = PIL.Image.Image
Spot = list[Any]  # shape, colour name or RGB, x, y, half-width (shares of the side)


@pytest.mark.parametrize("size", [64, 96, 128, 256])
@pytest.mark.parametrize("split", ["train", "val", "test", "held_out"])
def test_true_drawings_are_read_back(size: int, split: Split) -> None:
    rng = np.random.default_rng([size, len(split)])
    for _ in range(12):
        scene = random_scene(rng, split)
        reading = read(draw(scene, size, rng))
        assert reading.scene == scene, reading.reason
        assert verify(draw(scene, size), parse(describe(scene, rng))).ok


def jpeg(picture: Picture) -> Picture:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=60)
    return PIL.Image.open(file)


def noisy(picture: Picture) -> Picture:
    noise = np.random.default_rng(0).normal(0, 12, (*picture.size, 3))
    return PIL.Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


SOFTENED: dict[str, Callable[[Picture], Picture]] = {
    "jpeg": jpeg,
    "blur": lambda p: p.filter(PIL.ImageFilter.GaussianBlur(1)),
    "halved": lambda p: p.reduce(2).resize(p.size, PIL.Image.Resampling.BICUBIC),
    "noise": noisy,
    "paler": lambda p: PIL.Image.blend(p, PIL.Image.new("RGB", p.size, (150, 150, 150)), 0.1),
    "with alpha": lambda p: p.convert("RGBA"),
}


@pytest.mark.parametrize("how", SOFTENED)
def test_soft_drawings_are_read_back(how: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(25):
        scene = random_scene(rng, "test")
        verdict = verify(SOFTENED[how](draw(scene, 128, rng)), scene)
        assert verdict.ok, verdict.reason


def spots(scene: Scene, rng: np.random.Generator) -> list[Spot]:
    return [
        [o.shape, o.colour, *(v + rng.uniform(-JITTER, JITTER) for v in CENTRES[o.place]), RADIUS[o.size]]
        for o in scene.objects
    ]


def paint(background: str, things: list[Spot], size: int = 128) -> Picture:
    picture = PIL.Image.new("RGB", (4 * size, 4 * size), BACKGROUNDS[background])
    pen = PIL.ImageDraw.Draw(picture)
    for shape, colour, *place in things:
        x, y, r = (v * 4 * size for v in place)
        fill = COLOURS[colour] if isinstance(colour, str) else colour
        if shape == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        else:
            pen.polygon(outline(shape, x, y, r), fill=fill)
    return picture.reduce(4)


def pick(rng: np.random.Generator, options: list[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def changed(scene: Scene, rng: np.random.Generator, change: Callable[[Spot], None]) -> Picture:
    things = spots(scene, rng)
    change(pick(rng, things))
    return paint(scene.background, things)


def recoloured(scene: Scene, rng: np.random.Generator) -> Picture:
    return changed(scene, rng, lambda t: t.__setitem__(1, pick(rng, [c for c in COLOURS if c != t[1]])))


def foreign_colour(scene: Scene, rng: np.random.Generator) -> Picture:
    foreign = [(0, 200, 200), (255, 0, 255), (120, 70, 20), (128, 128, 0), (0, 255, 0), (130, 200, 40)]
    return changed(scene, rng, lambda t: t.__setitem__(1, pick(rng, foreign)))


def reshaped(scene: Scene, rng: np.random.Generator) -> Picture:
    return changed(scene, rng, lambda t: t.__setitem__(0, pick(rng, [s for s in SHAPES if s != t[0]])))


def between_sizes(scene: Scene, rng: np.random.Generator) -> Picture:
    return changed(scene, rng, lambda t: t.__setitem__(4, rng.uniform(0.135, 0.155)))


def other_size(scene: Scene, rng: np.random.Generator) -> Picture:
    return changed(scene, rng, lambda t: t.__setitem__(4, sum(RADIUS.values()) - t[4]))


def moved(scene: Scene, rng: np.random.Generator) -> Picture:
    axis = int(rng.integers(2, 4))
    return changed(scene, rng, lambda t: t.__setitem__(axis, 0.5 + rng.uniform(-0.6, 0.6) * t[4]))


def removed(scene: Scene, rng: np.random.Generator) -> Picture:
    things = spots(scene, rng)
    things.pop(int(rng.integers(len(things))))
    return paint(scene.background, things)


def added(scene: Scene, rng: np.random.Generator) -> Picture:
    things = spots(scene, rng)
    free = [c for p, c in CENTRES.items() if scene.at(p) is None] or [(0.5, 0.5)]
    return paint(scene.background, [*things, ["square", "red", *pick(rng, free), 0.11]])


def ghost(scene: Scene, rng: np.random.Generator) -> Picture:
    """An extra small blob of a colour that is nowhere else, on the ground, on an edge or on an object."""
    colour = pick(rng, [c for c in COLOURS if all(c != o.colour for o in scene.objects)])
    return paint(
        scene.background, [*spots(scene, rng), ["circle", colour, *rng.uniform(0.06, 0.94, 2), rng.uniform(0.03, 0.05)]]
    )


def half_erased(scene: Scene, rng: np.random.Generator) -> Picture:
    things = spots(scene, rng)
    picture = paint(scene.background, things)
    x, y, r = (128 * v for v in pick(rng, things)[2:])
    r *= 1.2
    halves = [(x - r, y - r, x, y + r), (x, y - r, x + r, y + r), (x - r, y - r, x + r, y), (x - r, y, x + r, y + r)]
    PIL.ImageDraw.Draw(picture).rectangle(pick(rng, halves), fill=BACKGROUNDS[scene.background])
    return picture


def two_coloured(scene: Scene, rng: np.random.Generator) -> Picture:
    things = spots(scene, rng)
    picture = paint(scene.background, things)
    thing = pick(rng, things)
    y = int(thing[3] * 128)
    thing[1] = pick(rng, [c for c in COLOURS if c != thing[1]])
    strip = (0, y, 128, 64 if y < 64 else 128)
    picture.paste(paint(scene.background, things).crop(strip), strip)
    return picture


def smeared(scene: Scene, rng: np.random.Generator) -> Picture:
    return draw(scene, 128, rng).filter(PIL.ImageFilter.GaussianBlur(12))


def other_ground(scene: Scene, rng: np.random.Generator) -> Picture:
    return paint(pick(rng, [b for b in BACKGROUNDS if b != scene.background]), spots(scene, rng))


def plain(scene: Scene, rng: np.random.Generator) -> Picture:
    return paint(scene.background, [])


def static(scene: Scene, rng: np.random.Generator) -> Picture:
    return PIL.Image.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))


SHOWS_ANOTHER_SCENE = (recoloured, reshaped, other_size, other_ground)
SHOWS_NO_SCENE = (
    foreign_colour,
    between_sizes,
    moved,
    ghost,
    two_coloured,
    smeared,
    plain,
    static,
)


@pytest.mark.parametrize(
    "spoil", [*SHOWS_ANOTHER_SCENE, *SHOWS_NO_SCENE, removed, added, half_erased], ids=lambda f: f.__name__
)
def test_spoiled_drawings_are_refused(spoil: Callable[[Scene, np.random.Generator], Picture]) -> None:
    rng = np.random.default_rng(11)
    accepted = shown = 0
    for _ in range(25):
        scene = random_scene(rng, "test")
        verdict = verify(spoil(scene, rng), scene)
        assert verdict.ok == (not verdict.reason)
        accepted += verdict.ok
        shown += verdict.reading.scene is not None
    assert accepted == 0
    if spoil in SHOWS_ANOTHER_SCENE:
        assert shown == 25  # not refused for a wrong reason
    if spoil in SHOWS_NO_SCENE:
        assert shown <= 1


SCENE = Scene("sand", (Object("top left", "circle", "red", "small"), Object("bottom right", "star", "blue", "large")))


DISC = ["circle", "red", 0.25, 0.25, 0.19]
SPECKS = [["circle", "red", x, y, 0.0135] for x, y in ((0.25, 0.75), (0.75, 0.25), (0.75, 0.75))]
RIM = [*(["circle", "red", 0.0, y, 0.15] for y in (0.2, 0.5, 0.8)), ["star", "red", 1.0, 0.5, 0.3]]


@pytest.mark.parametrize(
    ("things", "reason"),
    [
        ([], "nothing stands on the background"),
        ([["circle", (0, 200, 200), 0.25, 0.25, 0.19]], "top left: the colour is"),
        ([["circle", "red", 0.25, 0.25, 0.145]], "top left: half-width 0.14"),
        ([["circle", "red", x, 0.25, 0.11] for x in (0.17, 0.33)], "top left: the outline is no clear"),
        ([DISC, ["circle", "blue", 0.25, 0.25, 0.05]], "in or at the circle are not red"),
        ([DISC, *SPECKS], "belong to no object"),
        (RIM, "the border is"),
    ],
)
def test_a_refusal_says_why(things: list[Spot], reason: str) -> None:
    verdict = verify(paint("sand", things), SCENE)
    assert not verdict.ok and reason in verdict.reason


def test_another_scene_and_another_statement_are_named() -> None:
    other = Scene("sand", SCENE.objects[:1])
    assert verify(draw(other), SCENE).reason == f"the picture shows {in_words(other)}"
    assert not verify(draw(other), parse("a small red circle at the top right on a sand ground")).ok


@pytest.mark.parametrize("size", [(128, 96), (63, 63)])
def test_pictures_that_cannot_be_measured_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"picture of {size[0]} x {size[1]}"):
        read(PIL.Image.new("RGB", size))


def test_attributes_say_what_is_wrong_even_of_a_refused_picture() -> None:
    assert set(attributes(read(draw(SCENE)), SCENE).values()) == {1.0}
    things = [
        ["circle", "green", 0.25, 0.25, 0.11],
        ["square", "blue", 0.75, 0.75, 0.15],
        ["star", "red", 0.75, 0.25, 0.19],
    ]
    reading = read(paint("sky", things))
    assert reading.scene is None
    got = attributes(reading, SCENE)
    assert got == {"shape": 0.5, "colour": 0.5, "size": got["size"], "place": 1.0, "background": 0.0, "count": 0.0}
    assert attributes(read(paint("sand", [])), SCENE)["place"] == 0
