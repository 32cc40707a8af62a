"""Asking for instruction tasks: the prompt is the task's own, and the answer is read by the name of its field."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
from tiny_model import SIZE

from cm3.document import Document, Gap, Image, Text
from cm3.errors import ConfigError, RequestError
from cm3.generate import CM3Leon, Generation
from cm3.generate.tasks import kind_of_task, read_reply
from cm3.tasks import TASKS, find_task


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return CM3Leon(tiny_model.bundle(context=500))


def noise(seed: int = 0, size: tuple[int, int] = (SIZE, SIZE)) -> PIL.Image.Image:
    """A picture of random colours."""
    rng = np.random.default_rng(seed)
    return PIL.Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


PICTURE = noise()
REQUESTS: dict[str, dict[str, Any]] = {
    "edit": {"image1": noise(1, (50, 40)), "instruction": "paint it red"},
    "write": {"ocr_content": "HI"},
    "boxes": {"caption": "a red circle", "objects": [("circle", (0, 1, 99, 255))]},
    **{t: {"caption": "a red circle", str(TASKS[t].control): PICTURE} for t in TASKS if TASKS[t].control},
    "segment": {"image": noise(2, (60, 33))},
    **{t: {"image": PICTURE} for t in ("coco_captions", "flickr30k", "image_paragraph", "localized_narratives")},
    **{t: {"image": PICTURE, "question": "what is it?"} for t in ("vqa2", "vizwiz", "okvqa")},
    "scienceqa": {"image": PICTURE, "question": "which?", "choices": ["one", "two"]},
    "visdial": {"image": PICTURE, "caption": "a dog", "turns": [("old?", "yes")], "question": "big?"},
}


def test_every_task_has_a_request() -> None:
    assert REQUESTS.keys() == TASKS.keys()


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_fills_the_hole_of_the_tasks_own_prompt(model: CM3Leon, name: str) -> None:
    task = find_task(name)
    reply = model.ask(name, REQUESTS[name], seed=3, max_tokens=6)
    assert list(reply.fields) == [g for g in task.gives if g in task.templates[0].fields]
    assert reply.generation.prompt == task.prompt(**REQUESTS[name])
    by_hand = model.generate(task.prompt(**REQUESTS[name]), seed=3, max_tokens=6, kind=kind_of_task(task))
    assert by_hand.document == reply.generation.document
    answer = reply.fields[next(iter(reply.fields))]
    if task.output == "image":
        assert isinstance(answer, PIL.Image.Image) and answer.size == (SIZE, SIZE)
        assert answer is reply.generation.image is reply.image
    else:
        assert answer and isinstance(answer, str) and answer in by_hand.text and answer == answer.strip() == reply.text


def test_many_are_one_by_one(model: CM3Leon) -> None:
    requests = [{"image": noise(i), "question": f"what is {i}?"} for i in range(3)]
    many = model.ask_many("vqa2", requests, seeds=[4, 5, 6], template=2, plain=True, max_tokens=8)
    for request, seed, reply in zip(requests, [4, 5, 6], many, strict=True):
        (alone,) = model.ask_many("vqa2", [request], seeds=[seed], template=2, plain=True, max_tokens=8)
        assert alone.fields == reply.fields
        assert reply.generation.prompt == find_task("vqa2").prompt(2, plain=True, **request)
    assert len({reply.text for reply in many}) > 1


def test_several_answers_to_one_request(model: CM3Leon) -> None:
    reply = model.ask("vqa2", REQUESTS["vqa2"], 3, seed=1, max_tokens=8, temperature=1.0)
    assert len(reply.answers) == 3 == len({a["answer"] for a in reply.answers})
    alone = model.ask("vqa2", REQUESTS["vqa2"], seed=1, max_tokens=8, temperature=1.0)
    assert alone.fields == reply.fields


def written(task: str, text: str, template: int = 0, plain: bool = False) -> dict[str, Any]:
    """The fields of an answer that reads `text`."""
    made = Generation((Document.of(text),), (0.0,), Document((Gap(),)), ((Text(text),),))
    return dict(read_reply(find_task(task), made, template, plain).fields)


@pytest.mark.parametrize(
    ("text", "template", "plain", "fields"),
    [
        (" a dog", 0, False, {"answer": "a dog"}),
        (" a dog.", 0, True, {"answer": "a dog"}),
        (" a dog", 0, True, {"answer": "a dog"}),
        (" e.g. a dog.", 2, True, {"answer": "e.g. a dog"}),
        ("yes ", 1, True, {"answer": "yes"}),
        ("", 0, False, {"answer": ""}),
    ],
)
def test_an_answer_without_the_words_around_it(text: str, template: int, plain: bool, fields: dict[str, str]) -> None:
    assert written("vqa2", text, template, plain) == fields


def test_an_explanation_and_its_answer() -> None:
    reasoned = " It is salty. So the answer is what is salty. So the answer is (B)"
    want = {"explanation": "It is salty. So the answer is what is salty.", "answer": "(B)"}
    assert written("scienceqa", reasoned, 1) == want
    assert written("scienceqa", reasoned + ".", 1, plain=True) == want
    assert written("scienceqa", " It is salty", 1) == {"explanation": "It is salty", "answer": ""}
    assert written("scienceqa", "(A)") == {"answer": "(A)"}


@pytest.mark.parametrize("name", ["canny", "scribble", "segmentation", "pose"])
def test_a_drawn_control_of_another_size_is_refused(model: CM3Leon, name: str) -> None:
    request = {"caption": "a dog", str(TASKS[name].control): Image(noise(0, (SIZE, 40)))}
    want = rf"task '{name}': '{TASKS[name].control}' is 32 x 40 pixels; .* drawn at the model's 32 x 32"
    with pytest.raises(RequestError, match=want):
        model.ask_many(name, [request], seeds=[0])


def test_a_control_that_is_read_is_fitted_as_its_picture(model: CM3Leon) -> None:
    wide = noise(0, (SIZE + 10, SIZE))
    cut = wide.crop((5, 0, SIZE + 5, SIZE))
    made = [model.ask("depth", {"caption": "a dog", "depth": picture}).generation.image for picture in (wide, cut)]
    assert made[0].tobytes() == made[1].tobytes()


def test_what_is_asked_wrongly(model: CM3Leon) -> None:
    with pytest.raises(ConfigError, match="task 'edits': is not known; .* Did you mean 'edit'"):
        model.ask("edits", {})
    with pytest.raises(RequestError, match="task 'vqa2': 'question' is missing"):
        model.ask("vqa2", {"image": PICTURE})
    with pytest.raises(RequestError, match="task 'vqa2': has no template 3"):
        model.ask_many("vqa2", [REQUESTS["vqa2"]], seeds=[0], template=3)
    with pytest.raises(RequestError, match="box of 'cat' .*outside the picture"):
        model.ask("boxes", {"caption": "a cat", "objects": [("cat", (0, 0, 256, 9))]})


def test_what_filled_the_gaps_of_any_prompt(model: CM3Leon) -> None:
    boxed = Image(PICTURE).with_gap((0, 0, 9, 9))
    made = model.generate(["a ", Gap(), boxed, "then", Gap("image")], n=2, max_tokens=5)
    for document, (words, picture) in zip(made.documents, made.filled, strict=True):
        assert isinstance(words, Text) and words.text.strip() in document.text
        assert picture is document.images[1]


def test_the_methods_ask_for_their_tasks(model: CM3Leon) -> None:
    asked = {
        "edit": (model.edit(PICTURE, "paint it red", 2, seed=3), REQUESTS["edit"] | {"image1": PICTURE}),
        "vqa2": (model.answer(PICTURE, "what is it?", 2, seed=3, max_tokens=6), REQUESTS["vqa2"]),
        "image_paragraph": (model.describe(PICTURE, 2, detail=True, seed=3, max_tokens=6), {"image": PICTURE}),
        "coco_captions": (model.describe(Image(PICTURE), 2, seed=3, max_tokens=6), {"image": PICTURE}),
        "segment": (model.segment(PICTURE, 2, seed=3), {"image": PICTURE}),
    }
    for name, (reply, request) in asked.items():
        by_name = model.ask(name, request, 2, seed=3, max_tokens=6)
        assert reply.generation.documents == by_name.generation.documents and len(reply.answers) == 2
    assert len(asked["segment"][0].images) == 2 == len(asked["vqa2"][0].texts)
    with pytest.raises(RequestError, match="this reply is a picture; take .image"):
        _ = asked["edit"][0].text
    with pytest.raises(RequestError, match="this reply is a text; take .text"):
        _ = asked["vqa2"][0].image


def test_a_reply_reads_as_its_last_text() -> None:
    made = Generation((Document.of(""),), (0.0,), Document((Gap(),)), ((Text("It is. So the answer is (A)"),),))
    assert read_reply(find_task("scienceqa"), made, 1, False).text == "(A)"
