"""Editing by words: a scene, an instruction, the scene that it asks for, and whether a picture shows just that.

    +-------+                                   +-------+
    | o   * |   "paint the circle green"   ->   | o   * |      the circle is green, and nothing else is other
    +-------+                                   +-------+

Six kinds of change, each one object or the ground. Both scenes are of one split, so a picture to be edited or to be
reached in testing is never seen in training.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from cm3.errors import ConfigError, DataError, did_you_mean
from cm3.scenes.drawing import draw, middles
from cm3.scenes.phrases import Which, pick, pointing, read, the_one, wordings
from cm3.scenes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Object, Scene, Split, random_scene, split_of
from cm3.scenes.verify import Verdict, verify

WORDINGS = wordings(
    recolour=("paint {the} {colour}", "make {the} {colour}", "turn {the} {colour}", "give {the} the colour {colour}"),
    move=("move {the} to the {place}", "put {the} at the {place}", "bring {the} to the {place}"),
    add=("add {a} at the {place}", "draw {a} at the {place}", "put {a} at the {place}"),
    remove=("remove {the}", "delete {the}", "erase {the}", "take {the} away"),
    replace=("replace {the} with {a}", "turn {the} into {a}", "swap {the} for {a}"),
    background=(
        "make the background {background}",
        "change the background to {background}",
        "put it all on a {background} ground",
    ),
)
"""Every wording of each kind of edit. A replacement changes what its words name and keeps the rest of the object."""
KINDS = tuple(WORDINGS)
STILL = 0.02
"""Largest shift, as a share of the side, of an object that was not to be moved."""


@dataclass(frozen=True)
class Edit:
    """A scene, an instruction, and the scene that it asks for."""

    kind: str
    before: Scene
    instruction: str
    after: Scene


def random_edit(
    rng: np.random.Generator,
    split: Split = "train",
    kind: str | None = None,
    before: Scene | None = None,
    objects: int | None = None,
) -> Edit:
    """Return an edit of a kind (else any, uniformly) whose two scenes are of a split, the first with so many objects
    where that is given; or it is `before`, what another edit of that split led to, so that there is a way on from it.

    With either, a kind that there is no change of is drawn again. Raises `ConfigError` for an unknown kind or split.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"edit kind={kind!r}: must be one of {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    kind = kind or pick(rng, KINDS)
    while True:
        scene = before or random_scene(rng, split, objects)
        changes = [c for c in _changes(scene, kind) if split_of(c[2]) == split]
        if changes:
            thing, values, after = pick(rng, changes)
            if thing is not None:
                values = values | {"the": pointing(scene, thing, rng)}
            return Edit(kind, scene, pick(rng, WORDINGS[kind]).say(values), after)
        if before is not None or objects is not None:
            kind = pick(rng, KINDS)


def draw_edit(edit: Edit, size: int, rng: np.random.Generator) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """Return the pictures before and after, of `size` pixels, in which whatever is not changed stands in the same
    pixels."""
    at = middles(rng)
    return draw(edit.before, size, at=at), draw(edit.after, size, at=at)


def parse_edit(instruction: str, scene: Scene) -> Scene:
    """Return the scene that an instruction makes of another one.

    Raises `DataError` for words in no known wording, an object that is not there or not one, a place that is taken,
    an object not told in full, and the removal of the last object.
    """
    kind, values = read(instruction, WORDINGS, "instruction")
    if kind == "background":
        return Scene(values["background"], scene.objects)
    if kind == "add":
        new: Which = values["a"]
        if not (new.shape and new.colour and new.size):
            raise DataError(f"instruction {instruction!r}: say size, colour and shape of what is to be added")
        return _with(scene, None, Object(_free(scene, values["place"]), new.shape, new.colour, new.size))
    thing = the_one(values["the"], scene)
    if kind == "remove":
        if len(scene.objects) == 1:
            raise DataError(f"instruction {instruction!r}: takes away the last object; a scene has one at least")
        return _with(scene, thing, None)
    if kind == "move":
        place = values["place"]
        return scene if place == thing.place else _with(scene, thing, _other(thing, place=_free(scene, place)))
    if kind == "recolour":
        return _with(scene, thing, _other(thing, colour=values["colour"]))
    told = {name: value for name, value in dataclasses.asdict(values["a"]).items() if value}
    return _with(scene, thing, _other(thing, **told))


def verify_edit(before: PIL.Image.Image, after: PIL.Image.Image, edit: Edit) -> Verdict:
    """Tell whether the picture `after` is the picture `before` with the named change made and nothing else changed.

    `after` must show `edit.after`, and each object that is the same in both scenes must stand where it stood, within
    `STILL`. Raises `DataError` where `before` does not show what the edit begins with.
    """
    was = verify(before, edit.before)
    if not was.ok:
        raise DataError(f"picture before the edit: {was.reason}; give a picture of {edit.before.key}")
    verdict = verify(after, edit.after)
    if not verdict.ok:
        unchanged = verdict.reading.scene == edit.before
        return dataclasses.replace(verdict, reason="nothing was changed" if unchanged else verdict.reason)
    now = {seen.place: seen for seen in verdict.reading.seen}
    for seen in was.reading.seen:
        if edit.before.at(seen.place) == edit.after.at(seen.place):
            shift = max(abs(now[seen.place].x - seen.x), abs(now[seen.place].y - seen.y))
            if shift > STILL:
                return Verdict(False, f"{seen.place}: the {seen.shape} has moved by {shift:.3f}", verdict.reading)
    return verdict


def _changes(scene: Scene, kind: str) -> list[tuple[Object | None, dict[str, Any], Scene]]:
    """Return every change of a kind: the object that it names, the values of the wording's slots, and the scene after
    it."""
    free = [place for place in PLACES if scene.at(place) is None]
    if kind == "background":
        return [(None, {kind: b}, Scene(b, scene.objects)) for b in BACKGROUNDS if b != scene.background]
    if kind == "add":
        return [
            (None, {"a": Which(shape, colour, size), "place": p}, _with(scene, None, Object(p, shape, colour, size)))
            for p in free
            for shape in SHAPES
            for colour in COLOURS
            for size in SIZES
        ]
    found: list[tuple[Object | None, dict[str, Any], Scene]] = []
    for o in scene.objects:
        if kind == "remove" and len(scene.objects) > 1:
            found.append((o, {}, _with(scene, o, None)))
        elif kind == "move":
            found += [(o, {"place": p}, _with(scene, o, _other(o, place=p))) for p in free]
        elif kind == "recolour":
            others = [c for c in COLOURS if c != o.colour]
            found += [(o, {"colour": c}, _with(scene, o, _other(o, colour=c))) for c in others]
        elif kind == "replace":
            shapes = [s for s in SHAPES if s != o.shape]
            found += [(o, {"a": Which(shape=s)}, _with(scene, o, _other(o, shape=s))) for s in shapes]
    return found


def _with(scene: Scene, old: Object | None, new: Object | None) -> Scene:
    return Scene(scene.background, (*(o for o in scene.objects if o is not old), *([new] if new else [])))


def _other(thing: Object, **changes: str) -> Object:
    return dataclasses.replace(thing, **changes)


def _free(scene: Scene, place: str) -> str:
    if scene.at(place) is not None:
        raise DataError(f"instruction: the {place} is taken; name a quarter where nothing stands")
    return place
