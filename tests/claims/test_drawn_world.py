"""The world of the statements: cases from seed and number alone, pictures judged by what they show, runs that go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cm3.claims import drawn_world as world
from cm3.claims import measures
from cm3.claims.steps import trained
from cm3.cli.recipe import module_of
from cm3.document import Image
from cm3.scenes import Object, Scene, draw, holds, parse, split_of
from cm3.scenes.scene import PLACES
from cm3.scenes.verify import read
from cm3.sequence.mask import MaskLaw
from cm3.train.checkpoint import last

OBJECTS = (0.5, 0.5)
RED, BLUE = Object("top left", "star", "red", "large"), Object("bottom right", "circle", "blue", "small")


def test_a_case_comes_from_its_seed_and_number_alone() -> None:
    whole = world.described(3, 6, OBJECTS)
    assert world.described(3, 2, OBJECTS, first=4) == whole[4:] and world.described(4, 6, OBJECTS) != whole
    assert {len(case.scene.objects) for case in world.described(3, 40, OBJECTS)} == {1, 2}
    for case in whole:
        statement = parse(case.prompt)
        assert split_of(case.scene) == "test" and holds(statement, case.scene)
        assert all(mention.place for mention in statement.mentions) or statement.relations
    assert world.named_cases(3, 4, "test") == world.named_cases(3, 4, "test") != world.named_cases(3, 4, "train")


def test_a_described_scene_is_told_whole() -> None:
    """So that a picture of any other scene is wrong: the caption holds of one scene alone."""
    for case in world.described(5, 30, (0.0, 1.0)):
        kept, last_one = case.scene.objects
        for place in {*PLACES} - {kept.place, last_one.place}:
            moved = Scene(case.scene.background, (kept, dataclasses.replace(last_one, place=place)))
            assert not holds(parse(case.prompt), moved), (case.prompt, place)


def test_a_picture_is_judged_by_its_parts() -> None:
    truth = Scene("sky", (RED, BLUE))

    def shown(*objects: Object) -> tuple[float, bool]:
        return world.drawn_right(draw(Scene("sky", objects), 128), truth)

    def other(**change: str) -> Object:
        return dataclasses.replace(BLUE, **change)

    assert shown(RED, BLUE) == (1.0, True)
    assert shown(RED) == (0.5, False)
    assert shown(RED, other(colour="green")) == (7 / 8, False)
    assert shown(RED, other(shape="square", colour="green")) == (6 / 8, False)
    assert shown(RED, other(place="top right")) == (4 / 12, False), "one lacks, and one is too many"
    assert world.drawn_right(draw(Scene("pink", (RED, BLUE)), 128), truth) == (1.0, False), "the ground is not a part"


def test_documents_show_what_they_say() -> None:
    for document, scene in world.documents(3, 4, OBJECTS, 128):
        assert read(document.images[0].pixels).scene == scene and world.said_right(document.text, scene)
    assert not world.said_right("star star star", Scene("sky", (RED,)))


def test_questions_have_a_picture_and_an_answer() -> None:
    for case in world.questions(3, 3, OBJECTS, 128):
        assert isinstance(case.fields["image"], Image) and case.fields["question"] and case.fields["answer"]


def test_captions_are_masked_whole_as_the_law_says() -> None:
    def share(**law: object) -> float:
        return float(np.mean(measures.masked(MaskLaw(**law), 60, 1, OBJECTS)["whole"]))  # type: ignore[arg-type]

    assert share(rate=0.0) == 0
    assert share(rate=16.0, whole_text=1.0, whole_image=1.0) == 1
    assert 0 < share(rate=1.0, whole_text=1.0) < 1
    assert share(rate=1.0, law="published") < share(rate=1.0, whole_text=1.0)


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    plan = module_of(str(Path(__file__).resolve().parents[2] / "recipes/paper.py"))
    run = dataclasses.replace(plan.base((32, 1, 1), 2, 1, OBJECTS), save_every=1, log_every=1)
    folder = tmp_path / "work" / "a"
    # A try that was killed before its first checkpoint leaves settings and no model.
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    half = trained("a", dataclasses.replace(run, steps=1), 1.0).do(folder, {})
    assert last(folder) == 1 and half["tokens"] == 512
    first = (folder / "log.jsonl").read_text().splitlines()
    made = trained("a", run, 1.0).do(folder, {})
    log = (folder / "log.jsonl").read_text().splitlines()
    assert last(folder) == 2 and [json.loads(line)["step"] for line in log if "loss" in line] == [1, 2]
    assert json.loads(log[len(first) - 1]) == json.loads(first[-1]), "the first step was not made again"
    assert made["bundle"] == "a/bundle" and (folder.parent / made["bundle"] / "config.json").is_file()
    shapes = measures.losses(str(folder.parent / made["bundle"]), 3, 1, OBJECTS)
    assert len(shapes["image"]) == len(shapes["text"]) == 3 and min(shapes["image"] + shapes["text"]) > 0
