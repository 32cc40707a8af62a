"""Templates against the words of the paper's Table 5, laid out, opened for a prompt, and read back."""

from __future__ import annotations

import re

import PIL.Image
import pytest

from cm3.document import Document, Gap, Image, Text
from cm3.errors import ConfigError, DataError, RequestError
from cm3.tasks import TASKS, Template, find_task
from cm3.tasks.boxes import locations, read_objects, segmentations
from cm3.tasks.template import PICTURES

DOG, CAT = ("dog", (0, 1, 20, 255)), ("cat", (7, 7, 7, 7))
# Table 5, a row a list: "|" for <break>, "/" for [newline], pictures in angle brackets, texts as in TEXTS below.
TABLE_5 = {
    "edit": ["Edit first image following the instruction | <image1> | paint it green | <image2>"],
    "write": ['draw "STOP" | <image>'],
    "boxes": [
        "Generate high quality image of a dog with segmentations dog at (0, 1) -> (20, 255), cat at (7, 7) -> (7, 7) "
        "| <image>"
    ],
    "canny": ["Make high quality image from canny edge features | <edge> | a dog | <image>"],
    "segmentation": ["Make high quality image from a segmentation map | <seg> | a dog | <image>"],
    "hed": ["Make high quality image from hed features | <hed> | a dog | <image>"],
    "pose": ["Make high quality image from openpose features | <pose> | a dog | <image>"],
    "depth": ["Make high quality image from depth features | <depth> | a dog | <image>"],
    "normal": ["Make high quality image from 3D norm features | <normal> | a dog | <image>"],
    "scribble": ["Make high quality image from children's scribbles | <scribble> | a dog | <image>"],
    "coco_captions": ["a dog | <image>", "Describe the given picture. a dog | <image>"],
    "flickr30k": ["a dog | <image>", "Describe the given picture. a dog | <image>"],
    "image_paragraph": [
        "Describe the given picture in very detail. a dog | <image>",
        "Describe all the objects in the given image in very detail. a dog | <image>",
        "Generate a long caption for the given image. a dog | <image>",
    ],
    "localized_narratives": [
        "Describe the given picture in very detail. a dog | <image>",
        "Generate a long narration of what is happening in the given image. a dog | <image>",
        "Generate a long caption for the given image. a dog | <image>",
    ],
    "scienceqa": [
        "Question: What is it? / Context: A farm. / Options: (A) dog (B) cat / Answer: (A). | <image>",
        "Question: What is it? / Context: A farm. / Options: (A) dog (B) cat / Answer: Let's think step-by-step: "
        "It barks. So the answer is (A). | <image>",
    ],
} | {
    name: [
        "Question: What is it? Answer: (A). | <image>",
        "Question: What is it? / (A) | <image>",
        "Question: What is it? The answer is (A). | <image>",
    ]
    for name in ("vqa2", "vizwiz", "okvqa")
}
OURS = {
    "segment": ["Make a segmentation map of the image | <image> | <seg>"],
    "visdial": ["a dog / Question: Is it big? Answer: no. / Question: What is it? Answer: (A). | <image>"],
}
MORE = {"edit": 1, "boxes": 1, "pose": 1, "scribble": 2, "coco_captions": 1, "flickr30k": 1}
"""Templates that the paper has outside Table 5."""
TEXTS = {
    "instruction": "paint it green",
    "ocr_content": "STOP",
    "caption": "a dog",
    "segmentations": segmentations([DOG, CAT]),
    "locations": locations([DOG, CAT]),
    "question": "What is it?",
    "answer": "(A)",
    "context": "A farm.",
    "choices_text": "(A) dog (B) cat",
    "explanation": "It barks.",
    "history": "a dog\nQuestion: Is it big? Answer: no.",
}
SHADES = {name: Image(PIL.Image.new("RGB", (4, 4), (i, 0, 0))) for i, name in enumerate(PICTURES)}
VALUES = {**TEXTS, **SHADES}
ALL = [(name, n) for name, task in TASKS.items() for n in range(len(task.templates))]


def shown(document: Document) -> str:
    """A document in the notation of TABLE_5."""
    names = {picture: f"<{name}>" for name, picture in SHADES.items()}
    parts = [p.text.strip() if isinstance(p, Text) else names[p] for p in document.parts if not isinstance(p, Gap)]
    return " | ".join(parts).replace("\n", " / ")


def test_eighteen_rows_and_every_template_of_the_table() -> None:
    assert len(TABLE_5) == 18 and set(TASKS) == {*TABLE_5, *OURS}
    for name, rows in (TABLE_5 | OURS).items():
        task = find_task(name)
        laid = [t.lay_out(VALUES, task.gives) for t in task.templates]
        assert [shown(Document(whole.whole)) for whole in laid[: len(rows)]] == rows, name
        where = [t.where for t in task.templates]
        table = "ours" if name in OURS else "Table 5"
        assert where[: len(rows)] == [table] * len(rows) and "Table 5" not in where[len(rows) :]
        assert len(where) == len(rows) + MORE.get(name, 0)
        assert (task.examples_in_paper > 0) == (name in TABLE_5)


def test_figure_15_as_it_is_printed() -> None:
    things = [("bottle", (199, 130, 204, 150)), ("sink", (149, 133, 190, 154)), ("bed", (0, 169, 67, 255))]
    made = find_task("boxes").prompt(1, caption="a room that has a sink and a mirror in it", objects=things)
    assert made.text == (
        'Generate high quality image of "a room that has a sink and a mirror in it" with bottle at location '
        "(199, 130) -> (204, 150) and with sink at location (149, 133) -> (190, 154) and with bed at location "
        "(0, 169) -> (67, 255)"
    )
    assert made.parts[-1] == Gap("image")


@pytest.mark.parametrize(("name", "n"), ALL)
@pytest.mark.parametrize("plain", [False, True])
def test_what_is_laid_out_is_read_back(name: str, n: int, plain: bool) -> None:
    task = find_task(name)
    template = task.templates[n]
    laid = template.lay_out(VALUES, task.gives, plain=plain)
    assert task.read(Document(laid.whole), n) == {field: VALUES[field] for field in template.fields}
    assert sum(isinstance(part, Gap) for part in laid.open) == 1
    assert isinstance(laid.answer, Image if task.output == "image" else Text)
    if plain and task.output == "text":
        assert isinstance(laid.whole[0], Image) and isinstance(laid.open[-1], Gap) and len(laid.whole) == 2


@pytest.mark.parametrize(("name", "n"), ALL)
def test_a_users_prompt_is_the_training_example_with_a_hole(name: str, n: int) -> None:
    task = find_task(name)
    template = task.templates[n]
    request = {field: VALUES[field] for field in template.fields if field not in task.gives}
    assert task.prompt(n, **request).parts == template.lay_out(VALUES, task.gives).open
    assert task.prompt(template.text, **request).parts == task.prompt(n, **request).parts


def test_requests_in_a_users_own_terms() -> None:
    boxes, science, dialogue = (find_task(name) for name in ("boxes", "scienceqa", "visdial"))
    written = segmentations([DOG, CAT])
    assert boxes.prompt(caption="a dog", objects=[DOG, CAT]) == boxes.prompt(caption="a dog", segmentations=written)
    assert boxes.prompt(1, caption="a dog", objects=written).text.endswith(locations([DOG, CAT]))
    asked = science.prompt(image=SHADES["image"].pixels, question="What is it?", choices=["dog", "cat"])
    assert asked.text == "Question: What is it?\nContext: N/A\nOptions: (A) dog (B) cat\nAnswer: ."
    talked = dialogue.prompt(
        image=SHADES["image"], caption="a dog", turns=[("Is it big?", "no")], question="Is it red?"
    )
    assert talked.text == "a dog\nQuestion: Is it big? Answer: no.\nQuestion: Is it red? Answer: ."
    assert find_task("canny").control == "edge" and find_task("edit").control is None
    assert boxes.control is None and find_task("segment").control is None


@pytest.mark.parametrize(
    ("name", "template", "request_", "message"),
    [
        ("vqa2", 3, {}, "task 'vqa2': has no template 3; its templates are 0 'Question: {question} Answer"),
        ("vqa2", "Q: {question}", {}, "has no template 'Q: {question}'"),
        ("vqa2", 0, {"question": "What?"}, "'image' is missing; it asks for question, image"),
        ("vqa2", 0, {"question": " ", "image": SHADES["image"]}, "'question' must be a text that is not empty"),
        ("vqa2", 0, {"question": "What?", "image": "x.png"}, "'image' must be a picture, got str"),
        ("vqa2", 0, {"question": "What?", "answer": "x"}, "has no field 'answer'; it asks for question, image"),
        ("boxes", 0, {"caption": "a", "objects": [("dog", (0, 0, 256, 9))]}, "'dog' (0, 0) -> (256, 9): lies outside"),
        ("boxes", 0, {"caption": "a", "objects": [("dog", (9, 0, 8, 9))]}, "'dog' (9, 0) -> (8, 9): is inverted"),
        ("boxes", 0, {"caption": "a", "objects": "dog at (9, 0) -> (8, 9)"}, "is inverted"),
        ("boxes", 0, {"caption": "a", "objects": [("dog",)]}, "'objects' must be pairs of a name and a box"),
        ("boxes", 0, {"caption": "a", "segmentations": "dog at (0, 0) -> (256, 9)"}, "lies outside the picture"),
        ("boxes", 0, {"caption": "a", "objects": "dog (9, 0)"}, "must read 'NAME at"),
        ("boxes", 0, {"caption": "a", "objects": [("dog", (0.5, 0, 8, 9))]}, "must be four whole numbers"),
        ("boxes", 0, {"caption": "a", "objects": [5]}, "'objects' must be pairs of a name and a box x1, y1, x2, y2"),
        ("boxes", 0, {"caption": "a", "objects": 5}, "'objects' must be pairs of a name and a box x1, y1, x2, y2"),
        ("boxes", 0, {"caption": "a", "locations": ["ab"]}, "'locations' must be pairs of a name and a box x1, y1, x2"),
        ("boxes", 0, {"caption": "a", "objects": [("dog", 5)]}, "x1, y1, x2, y2, got ('dog', 5) among them"),
        ("boxes", 0, {"caption": "a", "objects": [(7, (0, 0, 8, 9))]}, "got (7, (0, 0, 8, 9)) among them"),
        ("boxes", 0, {"caption": "a", "objects": [(" ", (0, 0, 8, 9))]}, "got (' ', (0, 0, 8, 9)) among them"),
        ("scienceqa", 0, {"question": "What?", "choices": ["one"]}, "'choices' must be at least two texts"),
        ("scienceqa", 0, {"question": "What?", "choices": 5}, "at least two texts, 26 at most, got 5"),
        ("scienceqa", 0, {"question": "What?", "choices": ["one", 5]}, "at least two texts, 26 at most, got"),
        ("scienceqa", 0, {"question": "What?", "choices": ["a"] * 27}, "at least two texts, 26 at most, got"),
        ("visdial", 0, {"question": "What?", "caption": 5}, "'caption' must be a text that is not empty, got 5"),
        ("visdial", 0, {"question": "What?", "caption": "a", "turns": 5}, "'turns' must be pairs of a question and"),
        ("visdial", 0, {"question": "What?", "caption": "a", "turns": [{}]}, "'turns' must be pairs of a question and"),
    ],
)  # fmt: skip
def test_requests_that_are_refused(name: str, template: int | str, request_: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        find_task(name).prompt(template, **request_)


def test_names_and_documents_that_are_refused() -> None:
    with pytest.raises(ConfigError, match="task 'vqa': is not known; .* Did you mean 'vqa2'?"):
        find_task("vqa")
    template = Template("Question: {question} Answer: {answer}. <break> {image}")
    with pytest.raises(DataError, match="document 'd': is not of the template 'Question: "):
        template.read(Document.of("Question: one", SHADES["image"], id="d"))
    with pytest.raises(DataError, match="is not of the template"):
        template.read(Document.of("Question: one Answer: two."))
    with pytest.raises(DataError, match="has more parts than the template"):
        template.read(Document.of("Question: one Answer: two.", SHADES["image"], SHADES["edge"]))


def test_words_of_a_template_inside_a_field() -> None:
    template = find_task("scienceqa").templates[1]
    values = VALUES | {"explanation": "So the answer is near. It barks."}
    assert template.read(Document(template.lay_out(values, ("answer",)).whole))["explanation"] == values["explanation"]
    assert read_objects(locations([DOG, CAT])) == read_objects(segmentations([DOG, CAT])) == [DOG, CAT]
