"""Documents of every reader become examples: the fields, the number, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from cm3.document import Document, Image, Unreadable
from cm3.errors import ConfigError, DataError
from cm3.read.coco import Coco
from cm3.read.find import READERS
from cm3.read.picture_folder import Folder
from cm3.tasks import TASKS, Example, annotated, find_task, from_reader

PICTURE = PIL.Image.effect_noise((48, 32), 60).convert("RGB")
VQA = {"question": "What is it?", "answers": ["cat", "dog", "dog"], "question_id": 7, "split": "train"}
SCIENCE = {"question": "Which?", "choices": ["shiny", "salty"], "answer": 1, "hint": "", "solution": "Think of salt."}
DIALOG = {"caption": "a dog", "dialog": [["is it big", "no"], ["is it red", "yes"], ["is it old", None]]}
THING = {"id": 1, "bbox": [8, 0, 32, 32], "category": "dog", "category_id": 18, "iscrowd": 0}


def document(*parts: Any, **meta: Any) -> Document:
    return Document.of(*parts, id="d1", source="here/train", **meta)


def texts(name: str, made: Document) -> list[str]:
    return [example.document.text for example in find_task(name).examples(made)]


def test_answers_are_the_most_common_or_the_owners_choice() -> None:
    made = document(PICTURE, "Question: What is it? Answer: dog", **VQA)
    for name in ("vqa2", "okvqa", "vizwiz"):
        assert texts(name, made) == [
            "Question: What is it? Answer: dog.",
            "Question: What is it?\ndog",
            "Question: What is it? The answer is dog.",
        ]
    chosen = document(PICTURE, **VQA, multiple_choice_answer="cat")
    assert texts("vqa2", chosen)[0] == "Question: What is it? Answer: cat."


def test_science_with_and_without_explanation() -> None:
    head = "Question: Which?\nContext: N/A\nOptions: (A) shiny (B) salty\nAnswer: "
    explained = head + "Let's think step-by-step: Think of salt. So the answer is (B)."
    assert texts("scienceqa", document(PICTURE, "x", **SCIENCE)) == [head + "(B).", explained]
    assert texts("scienceqa", document(PICTURE, "x", **{**SCIENCE, "solution": " ", "hint": "Look."})) == [
        head.replace("N/A", "Look.") + "(B)."
    ]
    assert texts("scienceqa", document("x", **SCIENCE)) == []  # no picture: not of Table 5
    example = find_task("scienceqa").examples(document(PICTURE, "x", **SCIENCE))[1]
    assert example.answer.text == "Think of salt. So the answer is (B)"  # type: ignore[union-attr]


def test_a_dialogue_is_an_example_a_turn_that_was_answered() -> None:
    assert texts("visdial", document(PICTURE, "x", **DIALOG)) == [
        "a dog\nQuestion: is it big Answer: no.",
        "a dog\nQuestion: is it big Answer: no.\nQuestion: is it red Answer: yes.",
    ]
    # JSON lines have the caption as the document's text.
    assert texts("visdial", document(PICTURE, "a dog", dialog=DIALOG["dialog"])) == texts(
        "visdial", document(PICTURE, "x", **DIALOG)
    )
    task = find_task("visdial")
    last = task.examples(document(PICTURE, "x", **DIALOG))[1]
    assert {k: v for k, v in task.read(last.document).items() if k in ("question", "answer")} == {
        "question": "is it red",
        "answer": "yes",
    }


def test_an_edit_and_a_written_word() -> None:
    after = PICTURE.rotate(180)
    (first, second) = find_task("edit").examples(document(PICTURE, "turn it", after, edit="turn it"))
    assert [p.pixels for p in first.document.images] == [PICTURE, after] and first.answer == Image(after)
    assert first.document.text == "Edit first image following the instruction" + "turn it"
    assert second.document.text == "Edit the image following the text instruction" + "turn it"
    assert texts("write", document(PICTURE, ocr_content=" STOP ")) == ['draw "STOP"']


def test_boxes_largest_first_without_crowds_and_what_is_cropped_away() -> None:
    things = [
        THING | {"id": 2, "bbox": [10, 0, 4, 4], "category": "bird"},
        THING,
        THING | {"id": 3, "iscrowd": 1, "category": "person"},
        THING | {"id": 4, "bbox": [0, 0, 8, 32], "category": "kite"},
    ]
    made = document("two of them", PICTURE, instances=things)
    assert texts("boxes", made)[0] == (
        "Generate high quality image of two of them with segmentations dog at (0, 0) -> (255, 255), "
        "bird at (16, 0) -> (47, 31)"
    )
    assert texts("boxes", document("none", PICTURE, instances=[])) == []
    many = [THING | {"bbox": [8, 0, n, n]} for n in range(1, 21)]
    assert texts("boxes", document("many", PICTURE, instances=many))[0].count("dog at") == 10


def test_what_an_example_carries() -> None:
    made = document("a dog", PICTURE, instances=[THING], license=3, split="train")
    (first, *_) = find_task("boxes").examples(made)
    assert first.id == "d1/boxes.0" and first.source == "here/train"
    assert first.meta == {
        "license": 3,
        "split": "train",
        "task": "boxes",
        "template": find_task("boxes").templates[0].text,
    }
    names = {e.id for task in TASKS.values() for e in examples_of(task.name)}
    assert len(names) == sum(len(examples_of(name)) for name in TASKS)


def examples_of(name: str) -> list[Example]:
    """Examples of a task from a document with everything that needs no optional library."""
    if name in ("canny", "scribble", "segmentation", "pose", "segment", "hed", "depth", "normal"):
        return []
    made = document("a dog", PICTURE, instances=[THING], ocr_content="A", **(SCIENCE if name == "scienceqa" else VQA))
    made = document(PICTURE, "turn it", PICTURE) if name == "edit" else made
    made = document(PICTURE, "x", **DIALOG) if name == "visdial" else made
    found = find_task(name).examples(made)
    assert found
    return found


def test_one_template_is_drawn_and_all_come() -> None:
    task, made = find_task("vqa2"), document(PICTURE, **VQA)
    rng = np.random.default_rng(3)
    drawn = [task.examples(made, rng=rng) for _ in range(60)]
    assert all(len(some) == 1 for some in drawn)
    counts = {template.text: 0 for template in task.templates}
    for (one,) in drawn:
        counts[one.meta["template"]] += 1
    assert min(counts.values()) >= 10
    again = np.random.default_rng(3)
    assert [task.examples(made, rng=again)[0].id for _ in range(60)] == [one.id for (one,) in drawn]
    short = document(PICTURE, "x", **{**SCIENCE, "solution": ""})
    assert {find_task("scienceqa").examples(short, rng=rng)[0].id for _ in range(9)} == {"d1/scienceqa.0"}


@pytest.mark.parametrize(
    ("name", "made", "message"),
    [
        ("vqa2", document("x", **VQA), "document 'd1': has no image, which task 'vqa2' is about"),
        ("coco_captions", document("x"), "has no image, which task 'coco_captions' is about"),
        ("coco_captions", document(PICTURE), "has no text, which task 'coco_captions' is made of"),
        ("vqa2", document(PICTURE, question="What?"), "'answers' is None, but task 'vqa2' needs a list there"),
        ("vqa2", document(PICTURE, question="What?", answers=[]), "'answers' must be at least one text"),
        ("vqa2", document(PICTURE, answers=["a"]), "'question' is None, but task 'vqa2' needs a str"),
        ("edit", document(PICTURE, "turn it"), "has 1 images; task 'edit' needs one before and one after"),
        ("edit", document(PICTURE, "x", PICTURE.resize((9, 9))), "before is (48, 32) pixels, after (9, 9); must be of"),
        ("write", document(PICTURE), "'ocr_content' is None"),
        ("boxes", document("a", PICTURE), "'instances' is None, but task 'boxes' needs a list there"),
        ("boxes", document("a", PICTURE, instances=[THING | {"bbox": [1]}]), "annotation 1: bbox [1]: must be x, y"),
        ("scienceqa", document(PICTURE, "x", **{**SCIENCE, "answer": 2}), "answer 2 is none of its 2 choices"),
        ("hed", document("a", PICTURE, control_files={}), "'control_files' names no hed image; docs/tasks.md"),
        ("boxes", document("a", PICTURE, instances=[17]), "'instances' has 17 at place 0, must have objects with the"),
        ("segmentation", document("a", PICTURE, instances=[17]), "'instances' has 17 at place 0, must have objects"),
        ("segment", document("a", PICTURE, instances=[[]]), "'instances' has [] at place 0, must have objects with"),
        ("pose", document("a", PICTURE, keypoints=["x"]), "'keypoints' has 'x' at place 0, must have objects with"),
        ("boxes", document("a", PICTURE, instances=[THING | {"category": None}]), "annotation 1: 'category' is None, "),
        ("boxes", document("a", PICTURE, instances=[THING | {"category": " "}]), "annotation 1: 'category' is ' ', mu"),
        ("visdial", document(PICTURE, caption="a", dialog=[{"q": "x", "a": "y"}]), "turn 0 of 'dialog' is {'q': 'x'"),
        ("visdial", document(PICTURE, caption="a", dialog=[["x", "y"], ["x"]]), "turn 1 of 'dialog' is ['x'], must be"),
        ("visdial", document(PICTURE, caption="a", dialog=[["x", " "]]), "must be a question and its answer, two text"),
        ("visdial", document(PICTURE, caption="a", dialog=["xy"]), "turn 0 of 'dialog' is 'xy', must be a question"),
        ("scienceqa", document(PICTURE, **{**SCIENCE, "choices": [1, 2]}), "'choices' is [1, 2], must be 1 to 26"),
        ("scienceqa", document(PICTURE, **{**SCIENCE, "choices": ["a"] * 27}), "must be 1 to 26 texts that are not"),
        ("scienceqa", document(PICTURE, **{**SCIENCE, "choices": ["a", " "]}), "must be 1 to 26 texts that are not"),
        ("scienceqa", document(PICTURE, **{**SCIENCE, "answer": True}), "'answer' is True, but task 'scienceqa' needs"),
        ("scienceqa", document(PICTURE, **{**SCIENCE, "hint": {}}), "'hint' is {}, must be a text or left out; mend"),
        ("scienceqa", document(PICTURE, **{**SCIENCE, "solution": 5}), "'solution' is 5, must be a text or left out"),
        ("edit", document(PICTURE, PICTURE, edit=["x"]), "has ['x'] where task 'edit' needs a text; mend it"),
    ],
)  # fmt: skip
def test_documents_that_are_refused(name: str, made: Document, message: str) -> None:
    with pytest.raises(DataError) as caught:
        find_task(name).examples(made)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["hed", "depth", "normal"])
def test_controls_beside_the_pictures_of_a_folder(tmp_path: Path, kind: str) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a", "b", "c"):
        PICTURE.save(pictures / f"{name}.jpg")
        (pictures / f"{name}.txt").write_text(name)
    guides = tmp_path / "guides"
    guides.mkdir()
    PICTURE.convert("L").save(guides / f"a.{kind}.png")
    PICTURE.resize((48, 31)).save(guides / f"b.{kind}.png")
    made = list(from_reader(find_task(kind), Folder(pictures), controls=guides))
    assert [type(one) for one in made] == [Example, Unreadable, Unreadable]
    assert isinstance(made[0], Example) and made[0].document.images[0].pixels.mode == "L"
    assert isinstance(made[1], Unreadable) and isinstance(made[2], Unreadable)
    assert f"b.{kind}.png: is 48 x 31 pixels, its picture 48 x 32; make it at" in made[1].reason
    assert f"document 'c.jpg': has no {kind} image at " in made[2].reason and "docs/tasks.md" in made[2].reason
    PICTURE.save(pictures / f"a.{kind}.png")
    first = next(d for d in Folder(pictures) if isinstance(d, Document) and d.id == "a.jpg")
    beside = annotated(first, Folder(pictures), find_task(kind))
    assert beside.meta["control_files"][kind] == pictures / f"a.{kind}.png"


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    """A picture with a caption, an outline, and a person's joints; another with only a caption."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    (tmp_path / "train2017").mkdir()
    PICTURE.save(tmp_path / "train2017" / "000000000007.jpg")
    PICTURE.save(tmp_path / "train2017" / "000000000008.jpg")

    def write(name: str, what: Any) -> None:
        (folder / f"{name}_train2017.json").write_text(json.dumps(what))

    images = [{"id": n, "file_name": f"{n:012d}.jpg", "license": 1} for n in (7, 8)]
    captions = [{"id": n, "image_id": n, "caption": "a dog"} for n in (7, 8)]
    outline = THING | {"image_id": 7, "segmentation": [[8, 0, 40, 0, 40, 32]], "area": 512}
    person = outline | {"id": 2, "category_id": 1, "keypoints": [20, 9, 2, 22, 8, 2] + [0] * 45, "num_keypoints": 2}
    write("captions", {"images": images, "annotations": captions})
    write("instances", {"annotations": [outline], "categories": [{"id": 18, "name": "dog"}]})
    write("person_keypoints", {"annotations": [person], "categories": [{"id": 1, "name": "person"}]})
    PICTURE.save(tmp_path / "train2017" / "000000000007.hed.png")
    return Coco(tmp_path)


def test_coco_gives_what_a_task_needs(coco: Coco) -> None:
    (with_box, *_) = from_reader(find_task("boxes"), coco)
    assert isinstance(with_box, Example) and "dog at (0, 0) -> (255, 255)" in with_box.document.text
    assert [e.id for e in from_reader(find_task("hed"), coco)] == ["7/hed.0", "8"]
    document = coco[0]
    assert isinstance(document, Document)
    assert annotated(document, coco, find_task("canny")) is document
    assert len(annotated(document, coco, find_task("pose")).meta["keypoints"]) == 1
    assert "bbox" in annotated(document, coco, find_task("segment")).meta["instances"][0]


def test_a_task_is_fed_by_the_readers_it_names(coco: Coco) -> None:
    assert all(kind in READERS for task in TASKS.values() for kind in task.feeds)
    with pytest.raises(ConfigError, match="task 'vqa2': is made of vqa2, jsonl, .*, not of coco"):
        from_reader(find_task("vqa2"), coco)
