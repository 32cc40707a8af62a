"""Scene tasks: a function of seed and number, of the split asked for, and right by their own verifiers."""

from __future__ import annotations

import PIL.Image
import pytest

from cm3.document import Image
from cm3.errors import ConfigError
from cm3.scenes.ask import answer_question
from cm3.scenes.data.lesson_documents import TASKS, SceneExample, scene_example
from cm3.scenes.letters import split_of_word, verify_lettered
from cm3.scenes.reason import verify_reasoning
from cm3.scenes.scene import Scene, split_of
from cm3.scenes.scene_boxes import verify_boxed
from cm3.scenes.scene_edits import parse_edit, verify_edit
from cm3.scenes.sentences import holds, parse
from cm3.scenes.structure import iou, verify_guided
from cm3.scenes.talk import first_wrong
from cm3.scenes.tell import parse_long
from cm3.tasks import find_task
from cm3.tasks.boxes import read_objects


def same(a: SceneExample, b: SceneExample) -> bool:
    return a.kind == b.kind and all(
        x == b.fields[name] if isinstance(x, str) else pixels(a, name).tobytes() == pixels(b, name).tobytes()
        for name, x in a.fields.items()
    )


def pixels(example: SceneExample, name: str) -> PIL.Image.Image:
    image = example.fields[name]
    assert isinstance(image, Image)
    return image.pixels


def text(example: SceneExample, name: str) -> str:
    said = example.fields[name]
    assert isinstance(said, str)
    return said


def scenes(example: SceneExample) -> list[Scene]:
    truth = example.truth
    return [truth.before, truth.after] if example.task == "edit" else [truth.scene]


@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_a_function_of_its_number(task: str) -> None:
    one = scene_example(task, 3, 5, 32)
    assert same(one, scene_example(task, 3, 5, 32))
    assert not any(same(one, other) for other in (scene_example(task, 3, 6, 32), scene_example(task, 4, 5, 32)))
    assert one.fields.keys() >= set(find_task(task).template(one.template).fields)


@pytest.mark.parametrize("split", ["train", "val", "test", "held_out"])
@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_of_the_split_asked_for(task: str, split: str) -> None:
    for i in range(2):
        example = scene_example(task, 1, i, 16, split)  # type: ignore[arg-type]
        assert {split_of(scene) for scene in scenes(example)} == {split}
        if task == "write":
            assert split_of_word(example.truth.sign.word) == ("test" if split == "held_out" else split)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("task", [t for t in TASKS if find_task(t).output == "image"])
def test_a_picture_is_right_by_its_verifier(task: str, index: int) -> None:
    one, other = scene_example(task, 2, index), scene_example(task, 2, index + 10)
    (name,) = find_task(task).gives

    def right(picture: PIL.Image.Image) -> bool:
        if task == "edit":
            return verify_edit(pixels(one, "image1"), picture, one.truth).ok
        if task == "write":
            return verify_lettered(picture, one.truth).ok
        if task == "boxes":
            return verify_boxed(picture, one.truth).ok
        if task == "segment":
            return iou(picture, one.truth.scene, at=one.truth.at) > 0.85
        return verify_guided(picture, one.truth).ok

    assert right(pixels(one, name)) and not right(pixels(other, name))
    if task == "edit":
        assert not right(pixels(one, "image1"))
        assert parse_edit(text(one, "instruction"), one.truth.before) == one.truth.after


@pytest.mark.parametrize("index", range(6))
def test_a_text_is_true(index: int) -> None:
    caption, long, asked, talk, reason = (
        scene_example(task, 2, index, 16)
        for task in ("coco_captions", "image_paragraph", "vqa2", "visdial", "scienceqa")
    )
    assert holds(parse(text(caption, "caption")), caption.truth.scene)
    assert parse_long(text(long, "caption")) == long.truth.scene
    assert answer_question(text(asked, "question"), asked.truth.scene) == text(asked, "answer")
    assert first_wrong(talk.truth.said, talk.truth.scene) is None
    assert talk.truth.said[-1] == (talk.fields["question"], talk.fields["answer"])
    assert text(talk, "history").count("Question: ") == len(talk.truth.said) - 1
    options = dict(zip(("(A)", "(B)"), reason.truth.said.options, strict=True))
    answer = options[text(reason, "answer")]
    assert not verify_reasoning(text(reason, "question"), text(reason, "explanation"), answer, reason.truth.scene)
    assert text(reason, "choices_text") == "(A) yes (B) no"


def test_boxes_in_words_are_those_of_the_truth() -> None:
    for i in range(5):
        example = scene_example("boxes", 1, i, 16)
        for name in ("segmentations", "locations"):
            assert read_objects(text(example, name)) == list(example.truth.boxes)


def test_pictures_are_of_the_size_asked_for() -> None:
    for task in TASKS:
        fields = scene_example(task, 0, 0, 48).fields.values()
        assert {v.pixels.size for v in fields if isinstance(v, Image)} == {(48, 48)}


def test_kinds_are_those_that_figures_are_told_apart_by() -> None:
    kinds = {task: {scene_example(task, 0, i, 16).kind for i in range(60)} for task in ("edit", "vqa2", "visdial")}
    assert kinds["edit"] == {"recolour", "move", "add", "remove", "replace", "background"}
    assert kinds["vqa2"] == {"count", "colour", "shape", "size", "place", "exists", "relation", "compare"}
    assert kinds["visdial"] == {f"turn {n}" for n in range(1, 6)}


def test_a_task_without_scenes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scene task 'box': must be one of edit, .* Did you mean 'boxes'\?"):
        scene_example("box", 0, 0)
    with pytest.raises(ConfigError, match="split='new': must be train, val, test or held_out"):
        scene_example("vqa2", 0, 0, split="new")  # type: ignore[arg-type]
